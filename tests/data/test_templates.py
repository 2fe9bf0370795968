"""Chat templates as checkpoints bring them: identity, what is refused, what is warned of."""

import qwen

from msm_jax.data.chat import CHAT_FORMATS
from msm_jax.data.template import difference, template_format


def test_a_fingerprint_tells_what_is_written_and_not_how(small):
    own = template_format(qwen.QWEN25_TEMPLATE, small)
    spaced = template_format("{# the same #}" + qwen.QWEN25_TEMPLATE, small)
    other = template_format(qwen.QWEN25_TEMPLATE.replace("You are a helpful", "You are no"), small)
    assert own.fingerprint == spaced.fingerprint == CHAT_FORMATS["qwen2.5"].fingerprint
    assert difference(own, spaced) is None
    assert own.fingerprint != other.fingerprint and "You are no" in difference(own, other)
    assert len({format.fingerprint for format in CHAT_FORMATS.values()}) == len(CHAT_FORMATS)
    for a in CHAT_FORMATS.values():
        for b in CHAT_FORMATS.values():
            assert (difference(a, b) is None) == (a.fingerprint == b.fingerprint)


def test_the_date_of_a_template_is_fixed(small):
    dated = "{{ strftime_now('%d %b %Y') }}" + qwen.QWEN25_TEMPLATE
    text = template_format(dated, small).write([{"role": "user", "content": "?"}], True)
    assert text.startswith("26 Jul 2024")
