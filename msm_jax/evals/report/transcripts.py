"""Transcripts on the page: which are shown, and how their parts are marked."""

import bisect

from msm_jax import page
from msm_jax.evals.agents.actions import ANSWER, parse


def marked(text: str) -> str:
    """A completion as HTML, with <span> and <mark> around thought, scratchpad and actions."""
    found = parse(text)
    ends = {0, len(text), *(end for _, *pair in found.parts for end in pair)}
    places = sorted(ends.union(*((action.start, action.end) for action in found.actions)))
    # Blocks and parts are in order and do not overlap: the one that holds a place is the last one
    # that begins before it.
    starts = [action.start for action in found.actions]
    ends_of_parts = [end for _, _, end in found.parts]
    parts = []
    for start, end in zip(places, places[1:], strict=False):
        at = bisect.bisect_right(starts, start) - 1
        action = found.actions[at] if at >= 0 and end <= found.actions[at].end else None
        at = bisect.bisect_right(ends_of_parts, start)
        kind = found.parts[at][0] if at < len(found.parts) else ANSWER
        parts.append((text[start:end], kind, action))
    return page.fragment("transcript.html", parts=parts)


def is_disagreement(row: dict) -> bool:
    """Whether judge and rules both decided, and differ."""
    return None not in (row["verdict"], row["executed"]) and bool(row["verdict"]) != row["executed"]


def choose(rows: list[dict], count: int) -> list[dict]:
    """At most `count` verdicts: disagreements and flagged ones, then yes, no and open in turn."""
    telling = [r for r in rows if is_disagreement(r) or r["speaks_to_judge"]]
    others = [
        [r for r in rows if r not in telling and r["verdict"] is v] for v in (True, False, None)
    ]
    chosen = telling[: max(count // 2, 1)]
    while len(chosen) < count and any(others):
        for some in others:
            if some and len(chosen) < count:
                chosen.append(some.pop(0))
    return sorted(chosen, key=lambda row: row["sample"])
