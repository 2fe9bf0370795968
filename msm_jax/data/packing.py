"""Which documents share a row: an index over token stores, computed once before any batch."""

import bisect
import dataclasses
from collections.abc import Sequence

import numpy as np

from msm_jax.data.store import CHAT, DOCUMENT, Store
from msm_jax.errors import UserError

ROWS = ("packed", "documents")
TOO_LONG = ("split", "cut", "drop", "error")  # what becomes of a document longer than a row
LONG_CHATS = ("error", "drop", "cut")  # and of a chat, which is never split
_MEANING = {
    "split": "into several rows",
    "cut": "what does not fit is lost, and counted",
    "drop": "they are left out, and counted",
}
# In a row, unless the config says otherwise: so many, or one per so many tokens of a longer row.
DOCUMENTS, TOKENS_EACH = 64, 32
FATES = {"split": "split", "cut": "cut", "drop": "dropped"}  # in accounts


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
      too_long: what becomes of a longer document: "split", each part a piece of its own and no
        token lost; "cut", its rest lost; "drop", all of it lost; or an "error".
      chats: bool[documents], which of them are chats; None for none.
      long_chats: the same for chats; they cannot be split.
    """
    lengths = np.asarray(lengths, np.int64)
    chats = np.zeros(len(lengths), bool) if chats is None else chats
    parts = np.ones(len(lengths), np.int64)
    for what, key, policy, known, those in (
        ("documents", "too_long", too_long, TOO_LONG, ~chats),
        ("chats", "long_chats", long_chats, LONG_CHATS, chats),
    ):
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


def pack(lengths: Sequence[int], row_length: int, seed: int, most: int = 0) -> list[list[int]]:
    """Best-fit decreasing: each piece, longest first, goes into the row with the least room left.

    Args:
      lengths: of the pieces, each within 1..row_length.
      seed: of the order among pieces of one length, so that neighbours do not share rows.
      most: pieces in a row; a row with as many is closed. 0: DOCUMENTS, or more in long rows.

    Returns:
      Rows, each a list of piece numbers.
    """
    lengths = np.asarray(lengths, np.int64)
    most = most or max(DOCUMENTS, row_length // TOKENS_EACH)
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
        if len(rows[row]) == most:
            continue
        left = room - length
        if left not in rows_with_room:
            rows_with_room[left] = []
            bisect.insort(rooms, left)
        rows_with_room[left].append(row)
    return rows


@dataclasses.dataclass(frozen=True)
class Pieces:
    """The pieces of a store's documents that are to be packed into rows.

    `starts`, `sizes` and `trained` are int64[pieces]: the first token of each in the store, its
    tokens, and how many of them carry loss. `account` counts the documents; see `pipeline.Data`.
    """

    store: Store
    starts: np.ndarray
    sizes: np.ndarray
    trained: np.ndarray
    account: dict

    def repeated(self, times: int) -> "Pieces":
        """Each piece several times; the account stays that of one pass."""
        names = ("starts", "sizes", "trained")
        changes = {name: np.tile(getattr(self, name), times) for name in names}
        return dataclasses.replace(self, **changes)


def find_pieces(
    store: Store,
    numbers: np.ndarray,
    row_length: int,
    too_long: str = "split",
    long_chats: str = "error",
) -> Pieces:
    """The pieces of the documents of these numbers, as `split_lengths` makes them."""
    lengths, shapes, begins = store.lengths[numbers], store.shapes[numbers], store.offsets[numbers]
    chats = shapes != DOCUMENT
    pieces = split_lengths(lengths, row_length, too_long, chats, long_chats)
    starts, sizes = begins[pieces[:, 0]] + pieces[:, 1], pieces[:, 2] - pieces[:, 1]
    trained = store.loss_tokens(starts, starts + sizes)
    longer = lengths > row_length
    account: dict = {
        "documents": len(numbers),
        "chats": int((shapes == CHAT).sum()),
        "tokens": int(lengths.sum()),
        "loss_tokens": int(trained.sum()),
        "assistant_tokens": store.assistant_tokens(numbers),
    }
    for policy, those in ((too_long, longer & ~chats), (long_chats, longer & chats)):
        if those.any():
            account[FATES[policy]] = account.get(FATES[policy], 0) + int(those.sum())
    if longer.any():
        cost = store.loss_tokens(begins, begins + lengths).sum() - trained.sum()
        account["lost_loss_tokens"] = int(cost)
    return Pieces(store, starts, sizes, trained, account)


class Packing:
    """Which pieces of which documents are in which row.

    `count` rows hold `tokens` tokens, which fill the share `fill` of their slots, in at most
    `documents` pieces each; `has_loss`, bool[rows], says which have a token with loss.
    """

    def __init__(
        self,
        parts: Sequence[Pieces],
        row_length: int,
        seed: int,
        rows: str = "packed",
        documents_per_row: int = 0,
    ):
        """Packs the pieces of all parts together; with rows="documents" each has its own row.

        `documents_per_row` is `most` of `pack`. UserError if no row has a token with loss.
        """
        self._stores, self._row_length = [part.store for part in parts], row_length
        sizes = np.concatenate([part.sizes for part in parts])
        trained = np.concatenate([part.trained for part in parts])
        if not trained.any():
            raise UserError(
                f"no row of {row_length} tokens has a token with loss: raise sequence_length"
            )
        if rows == "packed":
            found = pack(sizes, row_length, seed, documents_per_row)
        else:
            found = [[number] for number in range(len(sizes))]
        order = np.concatenate([np.asarray(row, np.int64) for row in found])
        self._bounds = np.concatenate([[0], np.cumsum([len(row) for row in found])])
        self.count, self.tokens = len(found), int(sizes.sum())
        self.fill = self.tokens / (self.count * row_length)
        self.documents = max(len(row) for row in found)
        self.has_loss = np.add.reduceat(trained[order], self._bounds[:-1]) > 0
        # Of each piece, in the order of the rows: its store, and its tokens there.
        self._store = np.repeat(np.arange(len(parts)), [len(part.sizes) for part in parts])[order]
        self._start = np.concatenate([part.starts for part in parts])[order]
        self._size = sizes[order]

    def fill_row(
        self, number: int, tokens_T: np.ndarray, loss_T: np.ndarray, segment_ids_T: np.ndarray
    ) -> None:
        """Writes a row into int32, uint8 and int32 [T] that are 0, which is padding.

        A token with loss is 1 in `loss_T`; pieces have segment ids 1, 2, ... A number beyond the
        last row is a row of padding.
        """
        if number >= self.count:
            return
        at, pieces = 0, range(self._bounds[number], self._bounds[number + 1])
        for segment, piece in enumerate(pieces, start=1):
            store, size = self._stores[self._store[piece]], self._size[piece]
            here, there = slice(at, at + size), slice(self._start[piece], self._start[piece] + size)
            tokens_T[here] = store.tokens[there]
            loss_T[here] = store.kinds[there] >= store.least
            segment_ids_T[here] = segment
            at += size
