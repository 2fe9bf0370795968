"""Chat templates as checkpoints bring them: identity, what is refused, what is warned of."""

import collections
import json
import shutil

import pytest
import qwen
import templates
from templates import QWEN3, STYLES

from msm_jax.data.chat import CHAT_FORMATS, render_chat
from msm_jax.data.pipeline import load_data
from msm_jax.data.spans import UNTAGGED
from msm_jax.data.template import (
    PROMPT_DIFFERS,
    difference,
    misread,
    own_format,
    template_format,
    unprompted,
)
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


PLAIN = STYLES["chatml"][0]
SEVERAL = {
    "as they are": (PLAIN, QWEN3),
    "with lines and spaces around": (f"\n{PLAIN}\n", f"\n  {QWEN3}\n"),
    "with comments": ("{#- c #}\n  {% set x = 1 %}\n" + PLAIN + "\n\n", "{# c #}\n" + QWEN3),
}


@pytest.mark.parametrize("place", ["a list", "an object", "files"])
@pytest.mark.parametrize("kind", SEVERAL)
def test_of_several_templates_tools_choose_as_in_transformers(small, tmp_path, kind, place):
    transformers = pytest.importorskip("transformers")
    plain, with_tools = SEVERAL[kind]
    named = {"default": plain, "tool_use": with_tools, "rag": "x"}
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", **templates.SPECIAL}
    if place == "files":
        (tmp_path / "additional_chat_templates").mkdir()
        (tmp_path / "additional_chat_templates" / "tool_use.jinja").write_text(with_tools)
        (tmp_path / "chat_template.jinja").write_text(plain)
    elif place == "an object":
        settings["chat_template"] = named
    else:
        settings["chat_template"] = [{"name": k, "template": v} for k, v in named.items()]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    (tmp_path / "tokenizer.json").write_bytes((small.directory / "tokenizer.json").read_bytes())
    format = own_format(tmp_path, small)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    call, tool = {"name": "f", "arguments": {}}, {"name": "f", "parameters": {}}
    turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]
    for chat, tools in (
        (turns, None),
        ([turns[0], {**turns[1], "tool_calls": [call]}], [tool]),
    ):
        ids, _ = render_chat(small, format, chat, tools=tools)
        assert ids == theirs.apply_chat_template(chat, tools=tools, return_dict=True)["input_ids"]


LEFT_OUT = {
    "nothing": ("{% generation %}{{ m.content + '<|im_end|>' }}{% endgeneration %}", 0),
    "nothing of a line": (
        "{% generation %}{{ m.content + '<|im_end|>\n' }}{% endgeneration %}",
        0,
    ),
    "ends": ("{% generation %}{{ m.content }}{% endgeneration %}{{ '<|im_end|>' }}", 2),
    "calls": (
        "{% generation %}{{ m.content }}{% endgeneration %}{% for t in m.tool_calls or [] %}"
        "{{ t.name }}{% endfor %}{% generation %}{{ '<|im_end|>' }}{% endgeneration %}",
        1,
    ),
}


@pytest.mark.parametrize("kind", LEFT_OUT)
def test_answers_that_tags_leave_out_are_counted(small, kind):
    tagged, wanted = LEFT_OUT[kind]
    template = STYLES["chatml with tags"][0].replace(
        LEFT_OUT["nothing"][0] + "{{ '\n' }}", tagged + "{{ '\n' }}"
    )
    format = template_format(template, small, templates.SPECIAL)
    notes: collections.Counter = collections.Counter()
    call = {"name": "f", "arguments": {}}
    answer = {"role": "assistant", "content": "a"}
    called = {**answer, "tool_calls": [call]} if kind == "calls" else answer
    chat = [{"role": "user", "content": "?"}, called, {"role": "user", "content": "?"}]
    render_chat(small, format, [*chat, answer, *chat[:1], {**answer, "weight": 0}], notes=notes)
    assert notes == ({UNTAGGED: wanted} if wanted else {})


def test_tags_do_not_count_as_text(small):
    plain, tagged = (
        template_format(STYLES[style][0], small, templates.SPECIAL)
        for style in ("chatml", "chatml with tags")
    )
    assert difference(plain, tagged) is None and plain.fingerprint == tagged.fingerprint
    assert difference(plain, template_format(STYLES["gemma"][0], small, templates.SPECIAL))


@pytest.mark.parametrize(
    ("template", "expected"),
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
        ("{{ 'a' * 9 ** 15 }}", "makes more than 33,554,432 characters"),
        ("{% generation %}", "endgeneration"),
        ("{% for m in messages %}", "chat template"),
        ("{{ messages[9].content.x }}", "refuses this conversation"),
        ("{{ raise_exception('never') }}", "never"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion"),
    ],
)
def test_what_cannot_be_masked_with_certainty_is_refused(small, template, expected):
    with pytest.raises(UserError, match=expected) as error:
        template_format(template, small, templates.SPECIAL)
    assert str(error.value).startswith("chat template: ") and len(str(error.value)) < 400
