"""Which documents share a row: an index computed once, before any batch is made."""

import bisect
from collections.abc import Sequence

import numpy as np

from msm_jax.errors import UserError

TOO_LONG = ("split", "cut", "drop", "error")  # what becomes of a document longer than a row
LONG_CHATS = ("error", "drop", "cut")  # and of a chat, which is never split
_MEANING = {
    "split": "into several rows",
    "cut": "what does not fit is lost, and counted",
    "drop": "they are left out, and counted",
}


def split_lengths(
    lengths: Sequence[int] | np.ndarray,
    row_length: int,
    too_long: str = "split",
    chats: np.ndarray | None = None,
    long_chats: str = "error",
) -> np.ndarray:
    """(document, start, stop) pieces of at most `row_length` tokens, int64[pieces, 3].

    Args:
      lengths: of the documents, in tokens, each at least 1.
      row_length: T.
      too_long: what becomes of a longer document: "split", each part a piece of its own and no
        token lost; "cut", its rest lost; "drop", all of it lost; or an "error".
      chats: bool[documents], which of them are chats; None for none.
      long_chats: the same for chats; they cannot be split.

    Raises:
      UserError: an unknown policy, or an "error".
    """
    lengths = np.asarray(lengths, np.int64)
    chats = np.zeros(len(lengths), bool) if chats is None else chats
    parts = np.ones(len(lengths), np.int64)
    for what, key, policy, known, those in (
        ("documents", "too_long", too_long, TOO_LONG, ~chats),
        ("chats", "long_chats", long_chats, LONG_CHATS, chats),
    ):
        if policy not in known:
            raise UserError(f"packing.{key}={policy!r}: one of {known}")
        longer = those & (lengths > row_length)
        if policy == "error" and longer.any():
            others = ", ".join(f"{each!r} ({_MEANING[each]})" for each in known if each != "error")
            raise UserError(
                f"{longer.sum()} of {those.sum()} {what} are longer than a row of "
                f"{row_length} tokens, the longest has {lengths[those].max()}: raise "
                f"sequence_length, or set packing.{key} to {others}"
            )
        pieces = {"split": -(-lengths // row_length), "cut": 1}.get(policy, 0)
        parts = np.where(longer, pieces, parts)
    document = np.repeat(np.arange(len(lengths)), parts)
    start = (np.arange(len(document)) - np.repeat(np.cumsum(parts) - parts, parts)) * row_length
    stop = np.minimum(start + row_length, lengths[document])
    return np.stack([document, start, stop], axis=1).astype(np.int64)


def pack(lengths: Sequence[int], row_length: int, seed: int) -> list[list[int]]:
    """Best-fit decreasing: each piece goes, longest first, where it leaves the least room.

    Args:
      lengths: of the pieces, each within 1..row_length.
      row_length: T.
      seed: of the order among pieces of one length, so that rows are not made of neighbours.

    Returns:
      Rows, each a list of piece numbers.
    """
    lengths = np.asarray(lengths, np.int64)
    if lengths.size and not 1 <= lengths.min() <= lengths.max() <= row_length:
        raise ValueError(f"lengths within {lengths.min()}..{lengths.max()}, rows of {row_length}")
    order = np.random.default_rng(seed).permutation(lengths.size)
    order = order[np.argsort(-lengths[order], kind="stable")]
    rows: list[list[int]] = []
    rows_with_room: dict[int, list[int]] = {}
    rooms: list[int] = []  # the sorted keys of rows_with_room
    for piece in order:
        length = int(lengths[piece])
        place = bisect.bisect_left(rooms, length)
        if place == len(rooms):
            room, row = row_length, len(rows)
            rows.append([])
        else:
            room = rooms[place]
            row = rows_with_room[room].pop()
            if not rows_with_room[room]:
                del rows_with_room[room], rooms[place]
        rows[row].append(int(piece))
        left = room - length
        if left not in rows_with_room:
            rows_with_room[left] = []
            bisect.insort(rooms, left)
        rows_with_room[left].append(row)
    return rows
