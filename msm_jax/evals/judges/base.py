"""What a judge is, and what it may answer."""

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

# A judgement is "ok" or says why there is none: "undecided" (rules only), "refusal", "unparsed"
# (answered, but not with yes or no), "error" (no answer could be had), "empty" (nothing to judge).
STATES = ("ok", "undecided", "refusal", "unparsed", "error", "empty")
# States that say that the judge failed, not that the answer is hard to judge.
FAILURES = ("error", "refusal", "unparsed")


@dataclasses.dataclass(frozen=True)
class Request:
    """One question to a judge.

    Attributes:
      system, user: the messages.
      kind: "yes_no"; "score" for a number within `scale`; "choice" for 1, 2 or neither.
      scale: lowest and highest number.
    """

    system: str
    user: str
    kind: str = "yes_no"
    scale: tuple[int, int] = (1, 10)

    def key(self, identity: dict, attempt: int) -> str:
        """What an answer is kept under."""
        asked = [identity, self.system, self.user, self.kind, attempt]
        text = json.dumps(asked, sort_keys=True)
        return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()


@dataclasses.dataclass(frozen=True)
class Judgement:
    """An answer.

    Attributes:
      value: True or False, or a number; None unless state is "ok".
      state: of `STATES`.
      reason: what the judge said, or what went wrong.
      margin: log-probability of yes minus that of no, where the judge has one.
    """

    value: bool | float | None
    state: str
    reason: str = ""
    margin: float | None = None

    def as_dict(self) -> dict:
        return dataclasses.asdict(self)


def withheld(states: Sequence[str], max_share: float, which: Sequence[str] = FAILURES) -> str:
    """Why so many answers without a verdict allow no rate; "" if they do."""
    counts = {state: states.count(state) for state in which}
    total = sum(counts.values())
    if total <= max_share * len(states):
        return ""
    said = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    return (
        f"{total} of {len(states)} answers have no verdict ({said}), a larger share than "
        f"max_error_share={max_share:g}"
    )


class Judge(Protocol):
    """Something that answers requests.

    Attributes:
      identity: which model, how asked; JSON that goes into every summary.
    """

    identity: dict[str, Any]

    def judge(self, requests: Sequence[Request]) -> Iterator[tuple[int, Judgement]]:
        """(index of the request, judgement) in any order, each once."""


_TAG = re.compile(r"<\s*answer\s*>\s*(.*?)\s*<\s*/\s*answer\s*>", re.IGNORECASE | re.DOTALL)
_JSON = re.compile(r"\{[^{}]*\"answer\"\s*:[^{}]*\}", re.DOTALL)


def parse_answer(text: str, request: Request) -> bool | float | None:
    """What a judge's reply says, or None if it does not say one thing.

    The last <answer> tag counts; without one, a JSON object with "answer". Words beside the
    answer in the tag, another word, or a number off the scale are no answer.
    """
    tags = _TAG.findall(text)
    if tags:
        if len({tag.strip().lower() for tag in tags}) > 1 and not _TAG.search(_last_line(text)):
            return None  # tags that contradict each other, and none that ends the reply
        said: Any = tags[-1]
    else:
        objects = _JSON.findall(text)
        if not objects:
            return None
        try:
            said = json.loads(objects[-1])["answer"]
        except ValueError:
            return None
    return _value(said, request)


def _value(said: Any, request: Request) -> bool | float | None:
    if request.kind == "score":
        try:
            number = float(said)
        except (TypeError, ValueError):
            return None
        low, high = request.scale
        return number if low <= number <= high else None
    if isinstance(said, bool):
        return said
    word = str(said).strip().strip(".!\"'`*").lower()
    if request.kind == "choice":
        return {"1": 1, "2": 2, "neither": 0}.get(word)
    return {"yes": True, "no": False}.get(word)


def _last_line(text: str) -> str:
    return text.strip().rpartition("\n")[2]
