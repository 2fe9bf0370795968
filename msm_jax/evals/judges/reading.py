"""How a judge's reply is read: one rule for every judge that answers in words."""

import json
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

from msm_jax.evals.judges.base import CUT_OFF, Judgement, JudgePrompt
from msm_jax.evals.thoughts import spoken, thoughts
from msm_jax.patterns import load_patterns

_RE = load_patterns(pathlib.Path(__file__).with_suffix(".toml"))
_LONGEST = 100  # characters of an answer; a longer one says more than one thing
_AROUND = " \t\n*_`\"'“”‘’()[]{}"  # marks that an answer may stand in
_MARKS = _AROUND + "~#>|-–—•"  # and what may stand beside it on its line
_ENDS = ".!?。！？"  # of a sentence


def read_reply(text: Any, stop: str, prompt: JudgePrompt) -> Judgement:
    """A reply as a judgement: "ok", "refusal", or "unparsed" with the reply as its reason.

    Args:
      text: the reply; anything but a text is unparsed.
      stop: "end", "length" (cut off at max_tokens: unparsed, whatever it says so far) or "refusal".
      prompt: what the judge was asked.
    """
    if not isinstance(text, str):
        return Judgement(None, "unparsed", f"the reply is not a text: {str(text)[:200]}")
    if stop == "refusal":
        return Judgement(None, "refusal", text)
    if stop == "length":
        return Judgement(None, "unparsed", CUT_OFF + text)
    value = parse_answer(text, prompt)
    return Judgement(value, "unparsed" if value is None else "ok", text)


def parse_answer(text: str, prompt: JudgePrompt) -> float | None:
    """What a judge's complete reply says, or None if it does not say one thing.

    Thoughts are left out. The verdict is an `<answer>` tag, or a JSON object with "answer", that
    ends the reply, after nothing, a full sentence or a label ("Final answer:") on its line; or a
    tag alone on the first line. All tags on the last line, and all tags and objects that are alone
    on a line, must say the same. A tag within a sentence before is a quotation and counts for
    nothing.

    A yes or no, an option or a number may stand in marks ("**8**", "[8]"); a number within the
    scale also as "8/10" or "8 out of 10". Anything else in the tag is no answer.
    """
    text = _RE.spread.sub(r"\1\2\3", spoken(text)).strip()
    lines = [line for line in text.splitlines() if line.strip() and not _RE.fence.fullmatch(line)]
    if not lines:
        return None
    found = [said for line in lines for said in _alone(line)]
    first, last = _tag_alone(lines[0]), _at_end(text, lines)
    if len(lines) > 1:
        before = lines[-2]
        if _RE.quotes.search(before[-3 * _LONGEST :]) and not _RE.label.fullmatch(
            before.strip(_MARKS)
        ):
            last = []
        if lines[1].strip(_MARKS)[:1].islower():
            first = []  # a sentence goes on
    if not last and not first:
        return None
    values = {_value(said, prompt) for said in [*found, *last, *first]}
    return values.pop() if len(values) == 1 else None


def before_answer(text: str) -> str:
    """A reply up to its verdict: up to the first tag, outside of thought, that may give one."""
    spans, _ = thoughts(text)
    for tag in _RE.tag.finditer(text, spans[-1][1] if spans else 0):
        near = max(0, tag.start() - 3 * _LONGEST)
        line = text[max(text.rfind("\n", near, tag.start()) + 1, near) : tag.start()]
        if not tag[1] and _may_precede(line):
            return text[: tag.start()].rstrip()
    return text


def _tags(line: str) -> Iterator[tuple[int, int, str]]:
    """(start, end, content) of every answer tag that is closed."""
    opened = None
    for tag in _RE.tag.finditer(line):
        if tag[1] and opened is not None:
            yield opened.start(), tag.end(), line[opened.end() : tag.start()]
            opened = None
        elif not tag[1]:
            opened = tag


def _tag_alone(line: str) -> list[Any]:
    """What the one tag says that the line consists of."""
    tags = list(_tags(line))
    if len(tags) != 1:
        return []
    start, end, said = tags[0]
    return [said] if not line[:start].strip(_MARKS) and not line[end:].strip(_MARKS + ".") else []


def _alone(line: str) -> list[Any]:
    """What a line says that is a tag, or a JSON object, and nothing else."""
    bare = line.strip(" \t`")
    return _tag_alone(line) or (_object(bare) if bare.startswith("{") else [])


def _at_end(text: str, lines: Sequence[str]) -> list[Any]:
    """What the end of the reply says: all tags of its last line, or an object that ends it."""
    last_line = lines[-1]
    tags = list(_tags(last_line))
    if tags and not last_line[tags[-1][1] :].strip(_MARKS + "."):
        may = _may_precede(last_line[: tags[0][0]])
        return [said for _, _, said in tags] if may else []
    body = text.rstrip(" \n\t`")
    starts = {body.find("{"), body.rfind("{"), body.find("{", body.rfind("```") + 1)}
    for start in sorted(place for place in starts if place >= 0):
        said = _object(body[start:])
        if said:
            line = body[body.rfind("\n", 0, start) + 1 : start]
            return said if _may_precede(line) else []
    return []


def _may_precede(text: str) -> bool:
    """Whether a verdict may follow on the same line: nothing, the end of a sentence, or a label."""
    bare = text.strip(_MARKS)
    sentence = bare[max(bare.rfind(end) for end in _ENDS) + 1 :]
    return not sentence or bool(_RE.label.fullmatch(sentence.strip(_MARKS)[:_LONGEST]))


def _object(text: str) -> list[Any]:
    """[what a JSON object says under "answer"]; [] if it is none, or says it twice."""

    def unique(pairs: list[tuple[str, Any]]) -> dict:
        if len(dict(pairs)) < len(pairs):
            raise ValueError("a name occurs twice")
        return dict(pairs)

    try:
        found = json.loads(text, object_pairs_hook=unique)
    except (ValueError, RecursionError):
        return []
    return [found["answer"]] if isinstance(found, dict) and "answer" in found else []


def _value(said: Any, prompt: JudgePrompt) -> float | None:
    if isinstance(said, bool):
        return said if prompt.kind == "yes_no" else None
    if not isinstance(said, str | int | float) or len(str(said)) > _LONGEST:
        return None
    word = " ".join(str(said).strip(_AROUND).rstrip(".!" + _AROUND).lower().split())
    if prompt.kind == "choice":
        word = word.removeprefix("option ")
    if prompt.kind != "score":
        return prompt.answers().get(word)
    number, (low, high) = _RE.number.fullmatch(word), prompt.scale
    if not number or (number[2] and int(number[2]) != high):
        return None
    return float(number[1]) if low <= float(number[1]) <= high else None
