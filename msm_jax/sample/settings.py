"""What each setting of a draw may be: one table for Python, commands, evaluations and Inspect."""

import dataclasses
import math
import numbers
from collections.abc import Iterable, Sequence
from typing import Any

from msm_jax.errors import UserError

MOST = 2**30  # of a count; positions are int32


@dataclasses.dataclass(frozen=True)
class Range:
    """The values a setting may have.

    Attributes:
      type: int or float; a float may be given as an int, not the reverse.
      low, high: the least and the largest value.
      open_low: whether `low` itself is excluded.
      meaning: for the error's message, after the bounds.
    """

    type: type
    low: float
    high: float = math.inf
    open_low: bool = False
    meaning: str = ""

    def holds(self, value: object) -> bool:
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            return False
        whole = isinstance(value, numbers.Integral)
        if self.type is int and not whole:
            return False
        number: Any = value if whole else float(value)  # whole numbers may exceed every float
        if not whole and not math.isfinite(number):
            return False
        return (number > self.low if self.open_low else number >= self.low) and number <= self.high

    def __str__(self) -> str:
        kind = "a whole number" if self.type is int else "a finite number"
        low = f"{'above' if self.open_low else 'at least'} {self.low:g}"
        high = "" if self.high == math.inf else f" and at most {_shown(self.high)}"
        return f"{kind}, {low}{high}" + (f" ({self.meaning})" if self.meaning else "")


RANGES = {
    "n": Range(int, 1, MOST),
    "samples": Range(int, 1, MOST),
    "first": Range(int, 0, MOST),
    "max_tokens": Range(int, 1, MOST),
    "rows": Range(int, 1, MOST),
    "context_length": Range(int, 2, MOST),
    "temperature": Range(float, 0, meaning="0 is greedy"),
    "top_k": Range(int, 0, meaning="0: all tokens"),
    "top_p": Range(float, 0, 1, open_low=True, meaning="1: all tokens"),
    "min_p": Range(float, 0, 1, meaning="0: all tokens"),
    "seed": Range(int, 0, 2**32 - 1, meaning="32 bits"),
}


def check_settings(prefix: str = "", **settings: object) -> None:
    """UserError, naming the first setting whose value is outside its range.

    Args:
      prefix: stands before the name in the message, such as "--".
      settings: values by their names in RANGES.
    """
    for name, value in settings.items():
        if not RANGES[name].holds(value):
            raise UserError(f"{prefix}{name}={value!r}: must be {RANGES[name]}")


def stop_texts(stop: str | Iterable[str] | None, name: str = "stop") -> tuple[str, ...]:
    """The texts that end an answer; one text may be given as it is, None is none.

    Raises:
      UserError: an empty text, which every answer begins with, or something else than text.
    """
    texts = (stop,) if isinstance(stop, str) else tuple(stop or ())
    for text in texts:
        if not isinstance(text, str):
            raise UserError(f"{name}={stop!r}: must be a text or a list of texts")
        if not text:
            raise UserError(f'{name}={stop!r}: an empty text ("") would end every answer at once')
    return texts


def before_stop(text: str, stops: Sequence[str]) -> str | None:
    """The text up to the stop that is complete first; None where it has none.

    Of stops that end at the same character the one that begins first counts. So it does not matter
    how much of the text was there when it was looked at.
    """
    found = [(at + len(stop), at) for stop in stops if (at := text.find(stop)) >= 0]
    return text[: min(found)[1]] if found else None


def _shown(number: float) -> str:
    return f"{int(number):,}" if number > 9999 else f"{number:g}"
