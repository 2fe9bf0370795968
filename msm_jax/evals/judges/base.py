"""What a judge is, and what it may answer."""

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from msm_jax.corpus.records import without_surrogates
from msm_jax.evals.judges import reading
from msm_jax.files import sha256_text

# A judgement is "ok" or says why there is none: "undecided" (rules only), "refusal", "unparsed"
# (replied, but not with one answer; its reason begins with `CUT_OFF` where the reply was cut off at
# max_tokens), "error" (no reply at all), "empty" (nothing to judge).
STATES = ("ok", "undecided", "refusal", "unparsed", "error", "empty")
CUT_OFF = "cut off: "
# States that say that the judge failed, not that the answer is hard to judge.
FAILURES = ("error", "refusal", "unparsed")


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
        return [
            {"role": "system", "content": self.system},
            {"role": "user", "content": self.user},
        ]

    def key(self, identity: dict, attempt: int) -> str:
        """Under which an answer is kept."""
        content = [identity, self.system, self.user, self.kind, attempt]
        return sha256_text(json.dumps(content, sort_keys=True))


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
        """From `as_dict`, as an answer to a prompt.

        Raises:
          ValueError, TypeError: the row is no judgement of such a prompt.
        """
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
    """Something that answers prompts.

    Attributes:
      identity: the model and its settings; JSON that goes into every summary.
    """

    identity: dict[str, Any]

    def judge(self, prompts: Sequence[JudgePrompt]) -> Iterator[tuple[int, Judgement]]:
        """(index of the prompt, judgement) in any order, each once."""


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


def parse_answer(text: str, prompt: JudgePrompt) -> bool | float | None:
    """What a judge's complete reply says, or None if it does not say one thing.

    Thoughts are left out. The verdict is a tag or object that ends the reply, after nothing, a
    full sentence or a label ("Final answer:") on its line; or a tag alone on the first line. All
    tags on the last line, and all tags and objects that are alone on a line, must say the same. A
    tag within a sentence before is a quotation and counts for nothing.

    A yes or no, an option or a number may stand in marks ("**8**", "[8]"); a number within the
    scale also as "8/10" or "8 out of 10". Anything else in the tag is no answer.
    """
    return reading.said_by(text, prompt.kind, prompt.scale)
