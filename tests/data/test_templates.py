"""Chat templates as checkpoints bring them: identity, what is refused, what is warned of."""

import json
import shutil

import pytest
import qwen
import templates
from templates import STYLES

from msm_jax.data.chat import CHAT_FORMATS
from msm_jax.data.pipeline import load_data
from msm_jax.data.template import PROMPT_DIFFERS, difference, misread, template_format, unprompted
from msm_jax.data.tokenizer import load_tokenizer
from msm_jax.errors import UserError
from msm_jax.train.config import source


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


ASKED_OTHERWISE = {
    "chatml that is never asked": "is not written to ask for one",
    "vicuna that is never asked": "is not written to ask for one",
    "a prompt that is not what is written": "it asks with",
    "a header that is written otherwise than asked with": "it asks with",
    "an end token after the last answer only": "written after an answer before others",
    "deepseek-r1": "it asks with",
    "chatml with tags": None,
    "an end token between turns only": "no '</s>' is written after a last answer",
}


@pytest.mark.parametrize("style", STYLES)
def test_a_prompt_that_training_never_shows_is_found(small, style):
    format = template_format(STYLES[style][0], small, templates.SPECIAL)
    expected, found = ASKED_OTHERWISE.get(style), unprompted(format)
    assert (found is None) if expected is None else (expected in found)


def test_so_are_those_of_earlier_turns():
    assert unprompted(CHAT_FORMATS["qwen3"]) is None
    found = unprompted(CHAT_FORMATS["qwen3-no-thinking"])
    assert "it asks with" in found and "</think>" in found
    others = [n for n, format in CHAT_FORMATS.items() if unprompted(format)]
    assert others == ["qwen3-no-thinking"]


@pytest.mark.parametrize("style", STYLES)
def test_a_tokenizer_reads_what_is_written_as_we_do(small, style):
    """Also where the template refuses some of the conversations, or has tags."""
    format = template_format(STYLES[style][0], small, templates.SPECIAL)
    assert misread(small, format) is None
    assert difference(format, format) is None


@pytest.mark.parametrize("style", ["deepseek-r1", "qwen3"])
def test_the_log_of_a_stage_says_so(small, tmp_path, style):
    folder = tmp_path / "tokenizer"
    shutil.copytree(small.directory, folder)
    (folder / "tokenizer_config.json").write_text(templates.settings(STYLES[style][0]))
    chat = [{"role": "user", "content": "May I?"}, {"role": "assistant", "content": "No."}]
    (tmp_path / "c.jsonl").write_text(json.dumps({"messages": chat}) + "\n")
    sources = {"chats": source(str(tmp_path / "c.jsonl"), loss_on="assistant").to_dict()}
    data = load_data(
        sources, load_tokenizer(folder), "own", 64, 1, 0, cache=str(tmp_path / "cache")
    )
    assert any(PROMPT_DIFFERS in note for note in data.notes) == (style == "deepseek-r1")


def test_tags_do_not_count_as_text(small):
    plain, tagged = (
        template_format(STYLES[style][0], small, templates.SPECIAL)
        for style in ("chatml", "chatml with tags")
    )
    assert difference(plain, tagged) is None and plain.fingerprint == tagged.fingerprint
    assert difference(plain, template_format(STYLES["gemma"][0], small, templates.SPECIAL))


@pytest.mark.parametrize(
    ("template", "told"),
    [
        ("{% generation %}" + STYLES["chatml"][0] + "{% endgeneration %}", "no assistant said"),
        ("{% for m in messages %}{{ m.content[:1] }}{% endfor %}</s>", "cuts a message apart"),
        ("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}", "no control token"),
        ("{% for m in messages %}{{ m.content | length }}</s>{% endfor %}", "depends on what"),
        ("{{ 1 }}", "writes nothing of a message"),
        (
            "{% for m in messages if m.role == 'user' %}{{ m.content }}</s>{% endfor %}",
            "nothing of",
        ),
        ("{{ 'a' * 9 ** 15 }}", "refuses this conversation: MemoryError"),
        ("{% generation %}", "endgeneration"),
        ("{% for m in messages %}", "chat template"),
        ("{{ messages[9].content.x }}", "refuses this conversation"),
        ("{{ raise_exception('never') }}", "never"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion"),
    ],
)
def test_what_cannot_be_masked_with_certainty_is_refused(small, template, told):
    with pytest.raises(UserError, match=told) as error:
        template_format(template, small, templates.SPECIAL)
    assert str(error.value).startswith("chat template: ") and len(str(error.value)) < 400
