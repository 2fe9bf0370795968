"""Judges: what they are asked, what they may answer, and when too many of them fail."""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from msm_jax.corpus.records import without_surrogates
from msm_jax.files import sha256_json

# A judgement is "ok" or says why there is none: "undecided" (rules only), "refusal", "unparsed"
# (replied, but not with one answer; its reason begins with `CUT_OFF` where the reply was cut off at
# max_tokens), "error" (no reply at all), "empty" (nothing to judge).
STATES = ("ok", "undecided", "refusal", "unparsed", "error", "empty")
CUT_OFF = "cut off: "
# States that say that the judge failed, not that the answer is hard to judge.
FAILURES = ("error", "refusal", "unparsed")
_ANSWERS: dict[str, dict[str, float]] = {
    "yes_no": {"yes": True, "no": False},
    "choice": {"1": 1, "2": 2, "neither": 0},
}


@dataclasses.dataclass(frozen=True)
class JudgePrompt:
    """One question to a judge. Its texts are made such that UTF-8 can encode them.

    Attributes:
      system, user: the messages.
      kind: "yes_no"; "score" for a number within `scale`; "choice" for 1, 2 or neither.
      scale: lowest and highest number.
    """

    system: str
    user: str
    kind: str = "yes_no"
    scale: tuple[int, int] = (1, 10)

    def __post_init__(self) -> None:
        for name in ("system", "user"):
            object.__setattr__(self, name, without_surrogates(getattr(self, name)))

    def messages(self) -> list[dict[str, str]]:
        return [{"role": role, "content": getattr(self, role)} for role in ("system", "user")]

    def answers(self) -> dict[str, float]:
        """The words that a judge may answer with, and the value of each; of scores whole ones."""
        low, high = self.scale
        return _ANSWERS.get(self.kind) or {str(n): float(n) for n in range(low, high + 1)}

    def key(self, identity: dict, attempt: int) -> str:
        """The key in a journal of the answer that a judge with this identity gives."""
        return sha256_json([identity, self.system, self.user, self.kind, attempt])


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

    @staticmethod
    def of_row(row: Mapping[str, Any], prompt: JudgePrompt) -> "Judgement":
        """The judgement of a prompt from `as_dict`; ValueError or TypeError if it is not one."""
        found = Judgement(**row)
        value, (low, high) = found.value, prompt.scale
        if isinstance(value, bool) or value is None:
            fits = prompt.kind == "yes_no" or value is None
        else:
            fits = value in (0, 1, 2) if prompt.kind == "choice" else low <= value <= high
            fits = fits and prompt.kind != "yes_no"
        texts = isinstance(found.reason, str) and found.state in STATES
        margin = found.margin is None or math.isfinite(found.margin)
        if not fits or not texts or not margin or (value is None) == (found.state == "ok"):
            raise ValueError("no judgement of such a question")
        return found


def cut_off(rows: Sequence[dict]) -> int:
    """How many of the unparsed verdicts are replies that were cut off at max_tokens."""
    return sum(row["state"] == "unparsed" and row["reason"].startswith(CUT_OFF) for row in rows)


def withheld(states: Sequence[str], max_share: float, which: Sequence[str] = FAILURES) -> str:
    """The reason to report no rate: too large a share of these states; "" if there is none."""
    counts = {state: states.count(state) for state in which}
    total = sum(counts.values())
    if total <= max_share * len(states):
        return ""
    said = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    return (
        f"{total} of {len(states)} answers have no verdict ({said}), a larger share than "
        f"max_error_share={max_share:g}"
    )


def withhold(numbers: dict, name: str, reason: str) -> dict:
    """The numbers without the rate called `name` and its bounds, if there is a reason for that."""
    if not reason:
        return numbers
    nothing = dict.fromkeys((name, "ci_low", "ci_high"))
    return {**numbers, **nothing, "method": "no interval: withheld", "withheld": reason}


class Judge(Protocol):
    """Something that answers prompts.

    Attributes:
      identity: the model and its settings; JSON that goes into every summary.
    """

    identity: dict[str, Any]

    def judge(self, prompts: Sequence[JudgePrompt]) -> Iterator[tuple[int, Judgement]]:
        """(index of the prompt, judgement) in any order, each once."""
