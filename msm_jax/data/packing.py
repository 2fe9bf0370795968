"""Which documents share a row: an index computed once, before any batch is made."""

import bisect
from collections.abc import Sequence

import numpy as np

from msm_jax.errors import UserError

TOO_LONG = ("split", "cut", "error")


def split_lengths(
    lengths: Sequence[int], row_length: int, too_long: str = "split"
) -> list[tuple[int, int, int]]:
    """(document, start, stop) pieces of at most `row_length` tokens.

    A longer document is split, each part a piece of its own and no token lost; or cut, its rest
    lost; or an error.
    """
    if too_long not in TOO_LONG:
        raise UserError(f"packing.too_long={too_long!r}: one of {TOO_LONG}")
    if too_long == "error":
        for document, length in enumerate(lengths):
            if length > row_length:
                raise UserError(
                    f"document {document} has {length} tokens, sequence_length={row_length}, and "
                    'packing.too_long="error"'
                )
    return [
        (document, start, min(start + row_length, length))
        for document, length in enumerate(lengths)
        for start in range(0, length if too_long == "split" else 1, row_length)
    ]


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
