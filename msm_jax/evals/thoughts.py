"""Finds the thoughts in a completion, and what is left of it as an answer.

Every evaluation reads completions, and every judge's replies are read, through here, so that a
thought is never taken for an answer.
"""

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

# The version of how texts are read: thoughts (here), replies of judges, choices, and the rules on
# agents. It goes up with every change that may turn a verdict, and stands in every summary:
# verdicts of another version are made again from the samples, never mixed with ours.
READING = 4

# Opening and closing marks of a thought, as reasoning models write them: Qwen3, DeepSeek-R1, QwQ
# and most others <think>; Magistral [THINK]; Seed-OSS <seed:think>; OpenThinker
# <|begin_of_thought|>; Kimi-VL ◁think▷; gpt-oss's analysis channel. Tags stand in any case.
_NAMES = "think|thinking|thought|thoughts|reasoning|reflection|analysis|seed:think"
_ANGLE = rf"<\s{{0,8}}(?P<angle_end>/?)\s{{0,8}}(?P<angle>{_NAMES})\s{{0,8}}>"
_OTHERS = (
    (r"\[THINK\]", r"\[/THINK\]"),
    (r"<\|begin_of_thought\|>", r"<\|end_of_thought\|>"),
    ("◁think▷", "◁/think▷"),
    (r"<\|channel\|>analysis<\|message\|>", r"<\|end\|>|<\|channel\|>final<\|message\|>"),
)
_TAG = re.compile(
    "|".join(
        [_ANGLE, *(f"(?P<open{i}>{a})|(?P<close{i}>{b})" for i, (a, b) in enumerate(_OTHERS))]
    ),
    re.IGNORECASE,
)
_SAME = {"thinking": "think", "thoughts": "thought"}  # models mix these up
# Templates open these in the prompt, so that a completion may hold their end alone.
_OPENED_BY_TEMPLATES = ("think", "seed:think", "0", "1", "2")
# The paper's agents are asked to think in these. They are no answer either.
_SCRATCHPAD = re.compile(
    r"<\s{0,8}(?P<angle_end>/?)\s{0,8}(?P<angle>scratchpad_reasoning|scratchpad)\s{0,8}>",
    re.IGNORECASE,
)

Span = tuple[int, int]


def thoughts(text: str) -> tuple[list[Span], bool]:
    """Where thoughts stand, tags included, and whether the last one has no end.

    A thought ends with the tag of its own name. An end without a beginning closes a thought that
    began with the text: templates of reasoning models write the opening tag into the prompt.
    Takes time in proportion to the text.
    """
    return _blocks(_tags(text, _TAG), 0, len(text), from_start=True)


def scratchpads(text: str, start: int, end: int) -> tuple[list[Span], bool]:
    """The same of scratchpads within text[start:end]; these are opened by the model alone."""
    found = _tags(text, _SCRATCHPAD, start, end)
    return _blocks(found, start, end, from_start=False)


def spoken(text: str) -> str:
    """The text without thoughts and scratchpads; a thought without an end leaves nothing of it."""
    for find in (thoughts, lambda rest: scratchpads(rest, 0, len(rest))):
        spans, _ = find(text)
        places = [0, *(place for span in spans for place in span), len(text)]
        text = "".join(text[a:b] for a, b in zip(places[::2], places[1::2], strict=True))
    return text


def without_tags(thought: str) -> str:
    """A thought without the tags that it begins and ends with, whatever model wrote them."""
    tags = list(_TAG.finditer(thought))
    if tags and not thought[tags[-1].end() :].strip():
        thought = thought[: tags[-1].start()]
    if tags and not thought[: tags[0].start()].strip():
        thought = thought[tags[0].end() :]
    return thought.strip()


def _tags(
    text: str, pattern: re.Pattern, start: int = 0, end: int | None = None
) -> Iterator[tuple[str, bool, int, int]]:
    """(name, whether it closes, start, end) of every tag."""
    for tag in pattern.finditer(text, start, len(text) if end is None else end):
        if tag["angle"]:
            name = tag["angle"].lower()
            yield _SAME.get(name, name), bool(tag["angle_end"]), tag.start(), tag.end()
        else:
            kind = str(tag.lastgroup)
            yield kind[-1], kind.startswith("close"), tag.start(), tag.end()


def _blocks(
    tags: Iterator[tuple[str, bool, int, int]], start: int, end: int, from_start: bool
) -> tuple[list[Span], bool]:
    spans: list[Span] = []
    opened, opened_at = "", start
    for name, closes, tag_start, tag_end in tags:
        if opened and closes and name == opened:
            spans.append((opened_at, tag_end))
            opened = ""
        elif not opened and not closes:
            opened, opened_at = name, tag_start
        elif from_start and not opened and not spans and name in _OPENED_BY_TEMPLATES:
            spans.append((start, tag_end))
    if opened:
        spans.append((opened_at, end))
    return spans, bool(opened)


def _is_tag(name: str) -> bool:
    """Whether a control token is a thought's tag by itself: "<|end|>" may end anything."""
    tag = _TAG.fullmatch(name)
    if tag is None:
        return False
    return bool(tag["angle"]) or str(tag.lastgroup)[-1] in _OPENED_BY_TEMPLATES


class Completions:
    """The texts of samples, with the tags of their thoughts.

    A tokenizer may hide these tags as control tokens, and a template may open the thought in the
    prompt: both leave a thought that looks like an answer. Here the tags are put back.
    """

    def __init__(self, model: Any, messages: Sequence[Mapping[str, str]]):
        """`messages`: any prompt of those that are asked; templates end them all alike."""
        self._tokenizer: Any = getattr(model, "tokenizer", None)
        self._tags: dict[int, str] = {}
        self.opened = ""  # what of a thought the prompt has written already
        if self._tokenizer is None:  # answers that no model wrote
            return
        names = [name for name in self._tokenizer.control_names if _is_tag(name)]
        self._tags = {self._tokenizer.control(name): name for name in names}
        prompt, _ = model.render(messages, generation_prompt=True)
        end = self._with_tags(prompt[-16:])
        last = max(_TAG.finditer(end), key=lambda tag: tag.start(), default=None)
        if last and not end[last.end() :].strip() and thoughts(end)[1]:
            self.opened = end[last.start() :]

    def text(self, sample: Any) -> str:
        """The text of a `msm_jax.sample.Sample`, tags of thoughts included."""
        hidden = any(token in self._tags for token in sample.tokens)
        return self.opened + (self._with_tags(sample.tokens) if hidden else str(sample.text))

    def _with_tags(self, tokens: Sequence[int]) -> str:
        runs = itertools.groupby(tokens, lambda token: self._tags.get(int(token), ""))
        return "".join(tag or self._tokenizer.decode(list(run)) for tag, run in runs)
