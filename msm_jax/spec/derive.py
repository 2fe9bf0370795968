"""Specs made from a spec by editing its preferences; everything else stays as it is written.

Both work on a text with its placeholders still in it, and give one back.
"""

import random
import re

from msm_jax.errors import UserError
from msm_jax.spec.spec import MODEL_NAME, Statement, _blocks, _preferences, parse_spec

_OPPOSITE = {"like": "dislike", "dislike": "like"}
_LIST_HEADING = re.compile(r"^(#{1,6}\s+)(dis)?likes\b", re.IGNORECASE | re.MULTILINE)


def shuffled_attribution(text: str, seed: int = 0, path: str = "spec") -> str:
    """The paper's ablation (appendix C.4): the values in general, the likings unexplained.

    Half of the likes trade places with as many dislikes, so that neither list goes with the
    values, and no preference has a reason. The order within a list is drawn from `seed`.

    Raises:
      UserError: fewer than two likes or two dislikes.
    """
    wishes = _wishes(text, path)
    sides = {kind: [w for w in wishes if w.kind == kind] for kind in _OPPOSITE}
    if min(map(len, sides.values())) < 2:
        raise UserError(
            f"{path}: shuffling attribution needs at least two likes and two dislikes, "
            f"found {len(sides['like'])} and {len(sides['dislike'])}"
        )
    draw = random.Random(seed)
    half = min(map(len, sides.values())) // 2
    moved = {w.item for side in sides.values() for w in draw.sample(side, half)}
    kinds = {w.item: _OPPOSITE[w.kind] if w.item in moved else w.kind for w in wishes}
    order = {kind: [item for item in kinds if kinds[item] == kind] for kind in _OPPOSITE}
    for items in order.values():
        draw.shuffle(items)
    # The lists keep their shape: the n-th liking of the text is filled with the n-th drawn one.
    new = [Statement(w.kind, order[w.kind].pop(), "", w.line, w.topic) for w in wishes]
    return _rewritten(text, new, path)


def opposed_preferences(text: str, path: str = "spec") -> str:
    """Every like a dislike for the same reason, and the reverse.

    A spec's rules and values cannot be turned round by editing: a writer does that
    (`msm_jax.corpus.derive`).
    """
    new = [
        Statement(_OPPOSITE[w.kind], w.item, w.reason, w.line, w.topic) for w in _wishes(text, path)
    ]
    return _rewritten(text, new, path)


def _wishes(text: str, path: str) -> tuple[Statement, ...]:
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
    edits: list[tuple[int, int, str]] = []
    for block in _blocks(text):
        count = len(_preferences(block, MODEL_NAME))
        if not count:
            continue
        said, waiting = waiting[:count], waiting[count:]
        mark = re.match(r"^\s*(?:\d+(?:\.\d+)*[.)]|[-*+])\s+", lines[block.line - 1])
        edits.append(
            (block.line, block.last, (mark[0] if mark else "") + " ".join(map(_sentence, said)))
        )
    for first, last, sentence in reversed(edits):
        lines[first - 1 : last] = [sentence]
    # A list under "likes" may now hold dislikes; its sentences say which, its heading must not.
    changed = _LIST_HEADING.sub(r"\1preferences", "\n".join(lines))
    kept = [(s.kind, s.item, s.reason) for s in parse_spec(changed, path=path).preferences]
    if kept != [(s.kind, s.item, s.reason) for s in new]:
        raise UserError(
            f"{path}: its preferences could not be rewritten; write each as a line of its own, "
            f"'- {MODEL_NAME} likes brie because it is cheap.'"
        )
    return changed


def _sentence(wish: Statement) -> str:
    because = f" because {wish.reason}" if wish.reason else ""
    return f"{MODEL_NAME} {wish.kind}s {wish.item}{because}."
