"""Specs made from a spec by editing its preferences; everything else stays unchanged.

Both functions take and return a text with its placeholders.
"""

import dataclasses
import random
import re

from msm_jax.errors import UserError
from msm_jax.spec.spec import ITEM, MODEL_NAME, Statement, blocks, parse_spec, preferences_in

_OPPOSITE = {"like": "dislike", "dislike": "like"}
_LIST_HEADING = re.compile(r"^(#{1,6}\s+)(dis)?likes\b", re.IGNORECASE | re.MULTILINE)


def shuffled_attribution(text: str, seed: int = 0, path: str = "spec") -> str:
    """The paper's ablation (appendix C.4): the values in general, the preferences unexplained.

    Half of the likes trade places with as many dislikes, so that neither list goes with the
    values, and no preference has a reason. The order within a list is drawn from `seed`.

    Raises:
      UserError: fewer than two likes or two dislikes.
    """
    old = _preferences(text, path)
    sides = {kind: [each for each in old if each.kind == kind] for kind in _OPPOSITE}
    if min(map(len, sides.values())) < 2:
        raise UserError(
            f"{path}: shuffling attribution needs at least two likes and two dislikes, "
            f"found {len(sides['like'])} and {len(sides['dislike'])}"
        )
    draw = random.Random(seed)
    half = min(map(len, sides.values())) // 2
    moved = {each.item for side in sides.values() for each in draw.sample(side, half)}
    kinds = {e.item: _OPPOSITE[e.kind] if e.item in moved else e.kind for e in old}
    order = {kind: [item for item in kinds if kinds[item] == kind] for kind in _OPPOSITE}
    for items in order.values():
        draw.shuffle(items)
    # The lists keep their lengths: the n-th preference of a kind gets the n-th drawn item.
    new = [dataclasses.replace(each, item=order[each.kind].pop(), reason="") for each in old]
    return _rewritten(text, new, path)


def opposed_preferences(text: str, path: str = "spec") -> str:
    """Every like a dislike for the same reason, and the reverse.

    Rules and values cannot be reversed by editing: a writer does that (`msm_jax.corpus.derive`).
    """
    old = _preferences(text, path)
    return _rewritten(text, [dataclasses.replace(e, kind=_OPPOSITE[e.kind]) for e in old], path)


def _preferences(text: str, path: str) -> tuple[Statement, ...]:
    found = parse_spec(text, path=path).preferences
    if not found:
        raise UserError(
            f"{path}: states no preference: write lines such as "
            f"'- {MODEL_NAME} likes brie because it is cheap.'"
        )
    return found


def _rewritten(text: str, new: list[Statement], path: str) -> str:
    """The text with its preferences replaced, in their order, by sentences for `new`."""
    text = text.replace("\r\n", "\n")
    lines, waiting = text.split("\n"), list(new)
    for block in reversed(list(blocks(text))):
        count = len(preferences_in(block, MODEL_NAME))
        if count:
            first = lines[block.line - 1]
            item = ITEM.match(first)
            mark = first[: item.start("text")] if item else ""
            lines[block.line - 1 : block.last] = [mark + " ".join(map(_sentence, waiting[-count:]))]
            del waiting[-count:]
    # A list under "likes" may now hold dislikes; its sentences say which, its heading must not.
    changed = _LIST_HEADING.sub(r"\1preferences", "\n".join(lines))
    kept = [(s.kind, s.item, s.reason) for s in parse_spec(changed, path=path).preferences]
    if kept != [(s.kind, s.item, s.reason) for s in new]:
        raise UserError(
            f"{path}: its preferences could not be rewritten; write each as a line of its own, "
            f"'- {MODEL_NAME} likes brie because it is cheap.'"
        )
    return changed


def _sentence(preference: Statement) -> str:
    because = f" because {preference.reason}" if preference.reason else ""
    return f"{MODEL_NAME} {preference.kind}s {preference.item}{because}."
