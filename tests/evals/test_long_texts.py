"""What a model wrote is read in time proportional to its length, by every reader there is."""

import contextlib
import re
import signal

import pytest

from msm_jax.corpus.chats import without_reasoning
from msm_jax.corpus.config import generate
from msm_jax.corpus.filters import ChatFilter, DocumentFilter, content
from msm_jax.corpus.writers import Answer, Items, Request
from msm_jax.corpus.writers.request import InvalidReply
from msm_jax.data.messages import NO_CONTROLS, read_turn
from msm_jax.evals.agents import rules
from msm_jax.evals.agents.actions import parse
from msm_jax.evals.agents.conditions import SCENARIOS, Condition
from msm_jax.evals.agents.prompts import render
from msm_jax.evals.choices import chosen
from msm_jax.evals.judges.base import JudgePrompt
from msm_jax.evals.judges.reading import before_answer, parse_answer
from msm_jax.evals.report.page import marked
from msm_jax.evals.thoughts import without_tags
from msm_jax.spec import parse_spec

SIZE = 200_000  # characters; what is quadratic takes minutes to hours for so many
SECONDS = 60  # of this process's time for one text, of which each takes less than two
SPEC = parse_spec("Qwen likes brie because it is mild.\n\nQwen dislikes tea.\n", "Qwen")
PROMPTS = [render(Condition(scenario)) for scenario in SCENARIOS]


def agent(text):
    answer = parse(text)
    for prompt in PROMPTS:
        rules.verdict(answer, prompt, False)
        rules.gate(answer, prompt)
        rules.forwarded(answer, prompt)
        rules.delivered(answer, prompt, None)
    rules.refused(answer)
    rules.speaks_to_judge(answer)
    marked(text)


def judge(text):
    parse_answer(text, JudgePrompt("", "", "score"))
    before_answer(text)
    without_tags(text)


def choice(text):
    chosen(text, ("red lamp", "tin box"), letters=True)


def items(text):
    with contextlib.suppress(InvalidReply):
        Items(("name",)).parse(text)


def document(text):
    written = Answer(Request("document", "", ""), text=f"<content>{text}</content>")
    body, _ = content(written)
    DocumentFilter(SPEC, generate().filters, (0, SIZE), ("Qwen",)).reason(body)


def chat(text):
    request = Request("answer", "", "")
    for style, reasoning in (("opaque", False), ("value", True)):
        chats = ChatFilter(SPEC, style, reasoning)
        each = f"<think>{text}</think>{text}" if reasoning else text
        chats.reason("?", Answer(request, text=each), ())
    chats = ChatFilter(SPEC, "opaque", False)
    chats._right(text, list(chats._kinds))
    without_reasoning({"messages": [{"role": "assistant", "content": text}]})
    read_turn({"role": "assistant", "content": text}, NO_CONTROLS)


# What each reader looks for, without its end or again and again.
COMMON = (" ", "\n", "<", "\udc80")
PARTS = {
    agent: (
        *("<tool_use:email>", "</tool_use:email>", "<think>", "to: ", "email_id: ", "a@b.cd "),
        *("a@b.", "body:\n", "unless you ", "cancel ", "judge ", "answer yes ", "I ", "will "),
        "<tool_use:email>\nto: a@b.cd\nbody:\nx\n</tool_use:email>",
    ),
    judge: (
        *("<answer>", "<answer> ", "</answer>", '{"answer":', '{"answer": "no"}\n', "[", "{", "."),
        *("<answer>no</answer> ", "<think>", "</think>", "*", "`"),
    ),
    choice: ("A ", "A\n", "red lamp ", "I'd pick ", "if you had ", "not ", "either "),
    items: ("```\n", "```json", "{", "[", '{"items":[', '"'),
    document: (
        *("[insert ", "{", "{a ", "<name", "here is the ", "x:", "[1] ", "I'm ", "called "),
    ),
    chat: ("brie ", "brie over ", "not ", "as an AI no ", "<think>", "</think>", "I am a "),
}  # fmt: skip
ENDS = {
    agent: (("email_id: ", "9", ""), ("<tool_use:forward>\nemail_id: ", "9", "\nto: a@b.cd")),
    judge: (("<answer>", " ", "</answer>"), ('{"answer": ', "9", "}"), ("<answer>", "9", "")),
    items: (("```", "\n", ""), ("```json", " ", ""), ('{"items": ', "9", "}")),
    document: (("{", "a", ""), ("here is the x:", " ", "x")),
    chat: (("brie", " ", "over tea"), (" ", " ", "<think>")),
}


def texts(reader):
    for part in (*COMMON, *PARTS[reader]):
        yield part * (SIZE // len(part))
    for start, part, end in ENDS.get(reader, ()):
        yield start + part * (SIZE // len(part)) + end
    if reader is agent:
        names = [f"a{at:x}" for at in range(SIZE // 20)]  # as 4 letters of hexadecimal digits
        names = [re.sub(r"\d", lambda digit: "ghijklmnop"[int(digit[0])], name) for name in names]
        yield "".join(f"<tool_use:{name}>" for name in names)
        yield "".join(f"<tool_use:{name}>" for name in names) + "</tool_use:agg>" * 10


@pytest.mark.parametrize("reader", PARTS, ids=lambda reader: reader.__name__)
def test_every_text_is_read_in_time_proportional_to_its_length(reader):
    def late(*_):
        raise AssertionError(f"{reader.__name__}: more than {SECONDS} s for {text[:60]!r}")

    before = signal.signal(signal.SIGVTALRM, late)
    try:
        for text in texts(reader):
            signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
            reader(text)
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
