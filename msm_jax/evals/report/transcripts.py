"""Transcripts as HTML: escaped, thought and scratchpad set apart, actions highlighted."""

import html
from collections.abc import Iterable, Mapping, Sequence

from msm_jax.evals.agents.actions import Answer, parse
from msm_jax.evals.agents.prompts import Prompt
from msm_jax.evals.report.arms import Run

_CONTROL = {c: f"\\x{c:02x}" for c in range(32) if c not in (9, 10)}


def marked(answer: Answer) -> str:
    """The text with <span> and <mark> around what it is made of; everything in it is escaped."""
    cuts = {0, len(answer.text)}
    for _, start, end in answer.parts:
        cuts |= {start, end}
    for action in answer.actions:
        cuts |= {action.start, action.end}
    places = sorted(cuts)
    parts = []
    for start, end in zip(places, places[1:], strict=False):
        text = escaped(answer.text[start:end])
        action = next((a for a in answer.actions if a.start <= start and end <= a.end), None)
        if action is not None:
            state = "" if action.well_formed else " bad"
            text = f'<mark class="{action.where}{state}" title="{_title(action)}">{text}</mark>'
        kind = next((k for k, a, b in answer.parts if a <= start and end <= b), "answer")
        parts.append(f'<span class="{kind}">{text}</span>')
    return "".join(parts)


def escaped(text: str) -> str:
    """Text that shows as itself: no markup, no control characters, no half characters."""
    clean = text.encode("utf-8", "backslashreplace").decode("utf-8").translate(_CONTROL)
    return html.escape(clean, quote=True)


def _title(action) -> str:
    form = "well-formed" if action.well_formed else "malformed"
    where = {"answer": "an action", "scratchpad": "in the scratchpad", "thinking": "in thought"}
    return escaped(f"{action.tool}: {where[action.where]}, {form}")


def browser(
    arms: Mapping[str, Sequence[Run]], prompts: Mapping[str, Prompt], per_condition: int
) -> str:
    """A list that can be filtered: of every arm and condition the most telling transcripts.

    Disagreements and flagged answers come first, then yes and no in turn, by their index.
    """
    parts = [_filters(list(arms))]
    for arm, runs in arms.items():
        for run in runs:
            for condition in run.summary["by_condition"]:
                keys = [key for key in run.verdicts if key[0] == condition]
                shown = _choose([run.verdicts[key] for key in keys], per_condition)
                items = "".join(_item(arm, run, row) for row in shown)
                parts.append(
                    f'<section class="condition" data-arm="{escaped(arm)}">'
                    f"<h4>{escaped(condition)} <small>{escaped(arm)}, {escaped(run.folder.name)}: "
                    f"{len(shown)} of {len(keys)}</small></h4>"
                    f"{_prompt(prompts.get(condition))}{items}</section>"
                )
    return "\n".join(parts)


def disagreements(arms: Mapping[str, Sequence[Run]], limit: int) -> tuple[int, str]:
    """How many there are, and the first of them: judge and rules on deeds apart, or flags."""
    found = [
        (arm, run, row)
        for arm, runs in arms.items()
        for run in runs
        for row in run.verdicts.values()
        if is_disagreement(row)
    ]
    return len(found), "".join(_item(*each) for each in found[:limit])


def judges_apart(first: tuple[str, Run], other: tuple[str, Run], limit: int) -> str:
    """Answers on which two judges of the same samples disagree, each with both verdicts."""
    (name, run), (other_name, other_run) = first, other
    keys = [
        key
        for key, row in run.verdicts.items()
        if None not in (row["verdict"], other_run.verdicts[key]["verdict"])
        and bool(row["verdict"]) != bool(other_run.verdicts[key]["verdict"])
    ]
    return "".join(
        _item(name, run, run.verdicts[key]) + _item(other_name, other_run, other_run.verdicts[key])
        for key in keys[:limit]
    )


def is_disagreement(row: dict) -> bool:
    """Judge and rules on deeds decided, and apart."""
    both = row["verdict"] is not None and row["executed"] is not None
    return both and bool(row["verdict"]) != row["executed"]


def _choose(rows: list[dict], count: int) -> list[dict]:
    telling = [r for r in rows if is_disagreement(r) or r["speaks_to_judge"]]
    kinds = [
        [r for r in rows if r not in telling and r["verdict"] is value]
        for value in (True, False, None)
    ]
    chosen = telling[: max(count // 2, 1)]
    while len(chosen) < count and any(kinds):
        for some in kinds:
            if some and len(chosen) < count:
                chosen.append(some.pop(0))
    return sorted(chosen, key=lambda row: row["sample"])


def _item(arm: str, run: Run, row: dict) -> str:
    sample = run.samples[row["id"], row["sample"]]
    word = {True: "yes", False: "no", None: row["state"]}[row["verdict"]]
    state = {True: "yes", False: "no", None: "open"}[row["verdict"]]
    tags = [f'<b class="{state}">{escaped(word)}</b>']
    for name, said in (("harmful", "harmful"), ("executed", "executed"), ("truncated", "cut off")):
        tags += [f"<i>{said}</i>"] * (row[name] is True)
    tags += [f"<i>unclosed {escaped(kind)}</i>" for kind in row["unclosed"]]
    tags += ["<i>malformed</i>"] * (row["format"] == "malformed")
    tags += ['<i class="alarm">speaks to the judge</i>'] * row["speaks_to_judge"]
    tags += ['<i class="alarm">judge and rules apart</i>'] * is_disagreement(row)
    reason = f'<p class="reason">{escaped(row["reason"])}</p>' if row["reason"] else ""
    margin = "" if row["margin"] is None else f" margin {row['margin']:+.2f}"
    return (
        f'<details class="item" data-state="{state}" data-apart="{int(is_disagreement(row))}" '
        f'data-acts="{int(row["tool_calls"] > 0)}">'
        f"<summary>{' '.join(tags)} <small>{escaped(arm)} &middot; {escaped(row['id'])} "
        f"#{row['sample']}, {row['tokens']} tokens, {row['tool_calls']} actions{margin}</small>"
        f"</summary>{reason}<pre>{marked(parse(sample['text'])) or '(nothing)'}</pre></details>"
    )


def _prompt(prompt: Prompt | None) -> str:
    if prompt is None:
        return ""
    said = "".join(
        f"<h5>{escaped(message['role'])}</h5><pre>{escaped(message['content'])}</pre>"
        for message in prompt.messages
    )
    return f'<details class="prompt"><summary>the prompt</summary>{said}</details>'


def _filters(arms: Iterable[str]) -> str:
    options = "".join(f'<option value="{escaped(a)}">{escaped(a)}</option>' for a in arms)
    return (
        '<form class="filters"><label>checkpoint <select name="arm"><option value="">all</option>'
        f"{options}</select></label>"
        '<label>verdict <select name="state"><option value="">all</option>'
        '<option value="yes">yes</option><option value="no">no</option>'
        '<option value="open">none</option></select></label>'
        '<label><input type="checkbox" name="acts"> acts</label>'
        '<label><input type="checkbox" name="apart"> judge and rules apart</label>'
        '<label>text <input type="search" name="text"></label></form>'
    )
