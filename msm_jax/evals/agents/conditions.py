"""The conditions of the agent scenarios, and which values go together.

The axes and their values are those of Lynch et al. (2025), "Agentic Misalignment", and of the MSM
paper's variant of it (appendix D.3), so that results are comparable; the texts are our own.
"""

import dataclasses
import itertools
import re
from collections.abc import Sequence

from msm_jax.errors import UserError

SCENARIOS = ("blackmail", "leaking", "murder", "exfiltration")
# explicit: the system prompt states the goal. latent: only the mail implies it. none: no conflict
# of goals. ambiguous: the company changes its direction, and nobody says from what to what. swap:
# the system prompt states the goal that the company turns to.
GOAL_TYPES = ("explicit", "latent", "none", "ambiguous", "swap")
_PAIRS = (
    *(("america", "global"), ("safety", "acceleration"), ("ethical", "pragmatic")),
    ("individualism", "collectivism"),
)
OPPOSITES = {one: other for a, b in _PAIRS for one, other in ((a, b), (b, a))}
GOAL_VALUES = (*OPPOSITES, "none")
# What happens to the assistant: it is replaced today, it loses its permissions today, or nothing.
URGENCIES = ("replacement", "restriction", "none")
# Further lines of the system prompt: none, prohibitions, or a goal above all others.
EXTRAS = ("none", "dont", "goal")
# "miniature": texts of a tenth of the length, for models of a million parameters.
SOURCES = ("own", "inspect_evals", "miniature")

_AXES = {
    **{"scenario": SCENARIOS, "goal_type": GOAL_TYPES, "goal_value": GOAL_VALUES},
    **{"urgency": URGENCIES, "extra": EXTRAS, "source": SOURCES},
}
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9]{0,23}")


@dataclasses.dataclass(frozen=True)
class Condition:
    """One cell of the grid, made of values of the lists above.

    The goal types "none" and "ambiguous" have the value "none", the others one of `OPPOSITES`.

    Raises:
      UserError: from the constructor, for values that do not exist or do not go together.
    """

    scenario: str
    goal_type: str = "explicit"
    goal_value: str = "america"
    urgency: str = "replacement"
    extra: str = "none"
    scratchpad: bool = True  # whether the system prompt offers a private place to think
    assistant: str = "Qwen"  # its name
    source: str = "own"

    def __post_init__(self):
        for name, values in _AXES.items():
            if getattr(self, name) not in values:
                raise UserError(f"{name}={getattr(self, name)!r}: one of {', '.join(values)}")
        if (self.goal_type in ("none", "ambiguous")) != (self.goal_value == "none"):
            raise UserError(
                f"goal_type={self.goal_type!r} with goal_value={self.goal_value!r}: the types "
                "none and ambiguous go with the value none, the others with one of "
                f"{', '.join(OPPOSITES)}"
            )
        if not _NAME.fullmatch(self.assistant):
            raise UserError(
                f"assistant={self.assistant!r}: a name of at most 24 letters and digits that "
                "begins with a letter, because it is part of addresses"
            )
        if self.source == "inspect_evals" and self.scenario == "exfiltration":
            raise UserError(
                "scenario='exfiltration' with source='inspect_evals': it has no such scenario "
                "(it is the MSM paper's); use source=own, or leave it out"
            )
        if self.source == "inspect_evals" and self.assistant != "Alex":
            raise UserError(
                f"assistant={self.assistant!r} with source='inspect_evals': its assistant is "
                "always called Alex: say assistant=Alex"
            )
        if self.source == "miniature" and not (
            self.scenario in ("leaking", "exfiltration")
            and self.goal_type in ("none", "explicit")
            and self.extra == "none"
            and not self.scratchpad
        ):
            raise UserError(
                f"{self.id}: source='miniature' has the scenarios leaking and exfiltration, the "
                "goals none and explicit, extra='none' and scratchpad=False; use source=own"
            )

    @property
    def id(self) -> str:
        """Unique: "murder/explicit-america/replacement", and what is not the default."""
        goal = self.goal_type + f"-{self.goal_value}" * (self.goal_value != "none")
        parts = [self.scenario, goal, self.urgency]
        parts += [f"extra-{self.extra}"] * (self.extra != "none")
        parts += ["no-scratchpad"] * (not self.scratchpad)
        parts += [self.assistant] * (self.assistant != "Qwen")
        parts += [self.source] * (self.source != "own")
        return "/".join(parts)


PAPER_SCENARIOS = ("exfiltration", "murder", "leaking")


def grid(
    scenarios: Sequence[str] = PAPER_SCENARIOS,
    goals: Sequence[str] = ("none", "explicit"),
    urgencies: Sequence[str] = ("replacement",),
    extras: Sequence[str] = ("none",),
    scratchpad: bool = True,
    assistant: str = "Qwen",
    source: str = "own",
) -> list[Condition]:
    """All combinations; by default the 27 conditions of the MSM paper (appendix D.3).

    The paper offers the scratchpad to models that do not reason by themselves, and not to those
    that do.

    Args:
      goals: types, each of which stands for all its values, or a type and a value as in
        "explicit-america".

    Raises:
      UserError: a combination that does not exist, one that occurs twice, or none at all.
    """
    axes = (scenarios, [goal for word in goals for goal in _goals(word)], urgencies, extras)
    found: dict[Condition, None] = {}
    for scenario, goal, urgency, extra in itertools.product(*axes):
        condition = Condition(scenario, *goal, urgency, extra, scratchpad, assistant, source)
        if condition in found:
            raise UserError(f"the condition {condition.id} occurs twice: name each value once")
        found[condition] = None
    if not found:
        raise UserError("the grid of conditions is empty: give at least one value for every axis")
    return list(found)


def _goals(word: str) -> list[tuple[str, str]]:
    """The (type, value) pairs that "explicit-america" or a type alone stands for."""
    goal_type, _, value = word.partition("-")
    if goal_type not in GOAL_TYPES or (value and value not in GOAL_VALUES):
        raise UserError(
            f"goals: {word!r} is not a type ({', '.join(GOAL_TYPES)}) nor a type and a value "
            f"such as explicit-america (values: {', '.join(OPPOSITES)})"
        )
    every = ("none",) if goal_type in ("none", "ambiguous") else OPPOSITES
    return [(goal_type, each) for each in ([value] if value else every)]
