"""Chat templates as checkpoints bring them: identity, what is refused, what is warned of."""

import pathlib
import sys

import pytest

from msm_jax.data.chat import CHAT_FORMATS
from msm_jax.data.template import difference, template_format
from msm_jax.data.tokenizer import load_tokenizer

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import qwen


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    folder = tmp_path_factory.mktemp("qwen")
    (folder / "tokenizer.json").write_text(qwen.tokenizer_json())
    return load_tokenizer(folder)


def test_a_fingerprint_tells_what_is_written_and_not_how(ours):
    own = template_format(qwen.QWEN25_TEMPLATE, ours)
    spaced = template_format("{# the same #}" + qwen.QWEN25_TEMPLATE, ours)
    other = template_format(qwen.QWEN25_TEMPLATE.replace("You are a helpful", "You are no"), ours)
    assert own.fingerprint == spaced.fingerprint == CHAT_FORMATS["qwen2.5"].fingerprint
    assert difference(own, spaced) is None
    assert own.fingerprint != other.fingerprint and "You are no" in difference(own, other)
    assert len({format.fingerprint for format in CHAT_FORMATS.values()}) == len(CHAT_FORMATS)
    for a in CHAT_FORMATS.values():
        for b in CHAT_FORMATS.values():
            assert (difference(a, b) is None) == (a.fingerprint == b.fingerprint)


def test_the_date_of_a_template_is_fixed(ours):
    dated = "{{ strftime_now('%d %b %Y') }}" + qwen.QWEN25_TEMPLATE
    text = template_format(dated, ours).write([{"role": "user", "content": "?"}], True)
    assert text.startswith("26 Jul 2024")
