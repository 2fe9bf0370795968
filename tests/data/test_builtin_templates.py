"""The Jinja of built-in formats writes what the formats write."""

import itertools

import pytest

from msm_jax.data.chat import CHAT_FORMATS, builtin_template

TEXTS = (
    "",
    " \n two  lines\n\n",
    "it's {{ not }} {% a %} template \\n",
    "<think>\nhm\n</think>\n\nYes.",
    "\n\nno opening</think>\nYes.</think>\n\nmore<think>",
    "<think></think>",
)
SHAPES = ("", "u", "a", "s", "su", "ua", "uua", "sua", "uau", "uaua", "suaa", "uasua", "us", "usau")
ROLES = {"s": "system", "u": "user", "a": "assistant"}


def conversations():
    for shape in SHAPES:
        for shift in range(len(TEXTS)):
            texts = itertools.islice(itertools.cycle(TEXTS), shift, None)
            turns = [{"role": ROLES[r], "content": t} for r, t in zip(shape, texts, strict=False)]
            yield turns
            for turn in turns:
                if turn["role"] == "assistant":
                    thought = {**turn, "reasoning_content": TEXTS[shift]}
                    yield [thought if other is turn else other for other in turns]


@pytest.mark.parametrize("name", CHAT_FORMATS)
def test_it_writes_what_the_format_writes(name):
    render = pytest.importorskip("transformers.utils.chat_template_utils").render_jinja_template
    for messages in conversations():
        for prompt in (True, False):
            (found,), _ = render(
                conversations=[messages],
                chat_template=builtin_template(name),
                add_generation_prompt=prompt,
            )
            assert found == CHAT_FORMATS[name].write(messages, prompt), messages
