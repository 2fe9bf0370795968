"""From token stores to batches: choose, pack, shuffle, mix.

A batch is a function of (seed, step), and so is each of its rows: `Data.rows(step, start, stop)`
makes any of them without the others, whoever asks. Packing is an index computed once, and what
follows is a Grain `MapDataset` over row numbers, so that the position of a run in its data is one
integer, on any number of hosts.
"""

import dataclasses
import functools
import sys
import zlib
from collections.abc import Mapping, Sequence

import grain
import numpy as np

from msm_jax.data.packing import pack, split_lengths
from msm_jax.data.store import SAID, Store, load_store
from msm_jax.data.tokenizer import Tokenizer
from msm_jax.errors import UserError

MIXTURES = ("weights", "epochs")
ROWS = ("packed", "documents")


@dataclasses.dataclass(frozen=True)
class PackedRows:
    """Rows of isolated documents.

    Attributes:
      tokens_NT: int32; padding is 0.
      loss_NT: uint8, 1 where a token is to be learned.
      segment_ids_NT: int32, 1, 2, ... within a row; 0 is padding.
    """

    tokens_NT: np.ndarray
    loss_NT: np.ndarray
    segment_ids_NT: np.ndarray

    @property
    def fill(self) -> float:
        """Share of token slots that are not padding."""
        return float(np.count_nonzero(self.segment_ids_NT) / self.segment_ids_NT.size)


class Packing:
    """Which pieces of which documents lie in which row: an index over stores.

    Attributes:
      count: rows.
      tokens: in all of them.
    """

    def __init__(
        self,
        stores: Sequence[Store],
        chosen: Sequence[np.ndarray],
        row_length: int,
        seed: int,
        rows: str = "packed",
        too_long: str = "split",
    ):
        """`chosen` are the documents of each store, one as often as it is to be there."""
        if rows not in ROWS:
            raise UserError(f"packing.rows={rows!r}: one of {ROWS}")
        self._stores, self._row_length = stores, row_length
        lengths = [store.lengths[numbers] for store, numbers in zip(stores, chosen, strict=True)]
        pieces = np.array(
            split_lengths(np.concatenate(lengths).tolist(), row_length, too_long), np.int64
        ).reshape(-1, 3)
        sizes = pieces[:, 2] - pieces[:, 1]
        if rows == "packed":
            found = pack(sizes, row_length, seed)
        else:
            found = [[number] for number in range(len(sizes))]
        order = np.concatenate([np.asarray(row, np.int64) for row in found])
        self._bounds = np.concatenate([[0], np.cumsum([len(row) for row in found])])
        self.count, self.tokens = len(found), int(sizes.sum())
        # Of each piece, in the order of the rows: its store, and its tokens there.
        whose = np.repeat(np.arange(len(stores)), [len(numbers) for numbers in chosen])
        begins = np.concatenate(
            [store.offsets[numbers] for store, numbers in zip(stores, chosen, strict=True)]
        )
        self._store = whose[pieces[order, 0]]
        self._start = begins[pieces[order, 0]] + pieces[order, 1]
        self._size = sizes[order]

    @property
    def fill(self) -> float:
        """Share of token slots that are not padding."""
        return self.tokens / (self.count * self._row_length)

    def read(self, rows: Sequence[int]) -> PackedRows:
        """Some rows; a number beyond the last is a row of padding."""
        shape = (len(rows), self._row_length)
        tokens_NT, segment_ids_NT = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
        loss_NT = np.zeros(shape, np.uint8)
        for row, number in enumerate(rows):
            if number < self.count:
                self._fill(number, tokens_NT[row], loss_NT[row], segment_ids_NT[row])
        return PackedRows(tokens_NT, loss_NT, segment_ids_NT)

    def _fill(self, number: int, tokens_T, loss_T, segment_ids_T) -> None:
        at = 0
        first, last = self._bounds[number], self._bounds[number + 1]
        for segment, piece in enumerate(range(first, last), start=1):
            store, start, size = self._stores[self._store[piece]], *self._span(piece)
            here, there = slice(at, at + size), slice(start, start + size)
            tokens_T[here] = store.tokens[there]
            loss_T[here] = store.kinds[there] >= store.least
            segment_ids_T[here] = segment
            at += size

    def _span(self, piece: int) -> tuple[int, int]:
        return self._start[piece], self._size[piece]


def pack_rows(examples, row_length: int, seed: int) -> PackedRows:
    """Lay (ids, loss mask) examples into rows, as `Packing` does with those of a store."""
    ids, kinds = zip(*examples, strict=True)
    offsets = np.concatenate([[0], np.cumsum([len(each) for each in ids])]).astype(np.int64)
    store = Store(np.concatenate(ids), np.concatenate(kinds), offsets, 1, {})
    packing = Packing([store], [np.arange(len(ids))], row_length, seed)
    return packing.read(range(packing.count))


def as_batch(tokens_BT, loss_BT, segment_ids_BT) -> dict[str, np.ndarray]:
    """The one batch type of the house, each int32 or float32 [B, T].

    A token's target is its successor in its own segment; its loss weight is the successor's, and
    0 where a segment ends: documents are never predicted from each other.
    """
    same_Bt = (segment_ids_BT[:, 1:] == segment_ids_BT[:, :-1]) & (segment_ids_BT[:, 1:] > 0)
    targets_BT = np.zeros(tokens_BT.shape, np.int32)
    targets_BT[:, :-1] = tokens_BT[:, 1:] * same_Bt
    loss_weights_BT = np.zeros(tokens_BT.shape, np.float32)
    loss_weights_BT[:, :-1] = loss_BT[:, 1:] * same_Bt
    index_T = np.arange(tokens_BT.shape[1], dtype=np.int32)
    starts_BT = np.zeros(tokens_BT.shape, np.int32)
    starts_BT[:, 1:] = np.where(segment_ids_BT[:, 1:] == segment_ids_BT[:, :-1], 0, index_T[1:])
    return {
        "tokens": tokens_BT,
        "targets": targets_BT,
        "loss_weights": loss_weights_BT,
        "segment_ids": segment_ids_BT,
        "positions": index_T - np.maximum.accumulate(starts_BT, axis=1),
    }


class _Shuffled:
    """The rows of one packing, as (its number, number of the row), every epoch in another order.

    The order is a function of (seed, epoch). Without `length` there is no end; beyond a length
    rows are padding.
    """

    def __init__(self, number: int, rows: int, seed: int, length: int = sys.maxsize):
        self._number, self._rows, self._length = number, rows, length
        draw = lambda epoch: np.random.default_rng((seed, epoch)).permutation(rows)
        self._order = functools.lru_cache(maxsize=2)(draw)

    def __len__(self):
        return sys.maxsize  # how Grain writes "endless"

    def __getitem__(self, index):
        if index >= self._length:
            return self._number, self._rows
        epoch, at = divmod(index, self._rows)
        return self._number, self._order(epoch)[at]


class Data:
    """The mixture of a training stage.

    Attributes:
      batches: `grain.MapDataset`; `batches[step]` is the global batch of that step.
      steps: after which everything was seen as often as `epochs` says; None where rows are drawn
        by weight, and there is no end.
      accounts: name -> counts of its documents and tokens, and rows; for config.json.
      skipped: sentences about rows that could not be used.
      examples: source -> (token ids, loss mask) of its first document or chat.
      contents: name -> {"content": SHA-256 of the files, "format": of the tokens' making}: with the
        stage's keys all that a batch depends on; kept in checkpoints.
    """

    def __init__(self, packings: Mapping[str, Packing], weights, rows, row_length, seed, epochs):
        self.packings, self._rows = dict(packings), rows
        self.accounts: dict[str, dict] = {}
        self.skipped: list[str] = []
        self.examples: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        self.contents: dict[str, dict] = {}
        self.steps: int | None = None
        names = list(packings)

        def source(number, name):
            # A seed by name: a source's order does not change when another one comes or goes.
            own_seed = zlib.crc32(f"{seed} {name}".encode())
            length = sys.maxsize
            if epochs is not None:
                length = round(epochs * packings[name].count)
                self.steps = max(1, -(-length // rows))
            order = _Shuffled(number, packings[name].count, own_seed, length)
            return grain.MapDataset.source(order)

        def assemble(picked):
            shape = (len(picked), row_length)
            tokens_BT, segment_ids_BT = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
            loss_BT = np.zeros(shape, np.uint8)
            for at, (number, row) in enumerate(picked):
                packing = packings[names[number]]
                if row < packing.count:
                    packing._fill(row, tokens_BT[at], loss_BT[at], segment_ids_BT[at])
            return as_batch(tokens_BT, loss_BT, segment_ids_BT)

        parts = [source(number, name) for number, name in enumerate(names)]
        self._mixed = grain.MapDataset.mix(parts, [weights[name] for name in names])
        self._assemble = assemble
        self.batches = self._mixed.batch(rows, drop_remainder=True, batch_fn=assemble)

    def rows(self, step: int, start: int, stop: int) -> dict[str, np.ndarray]:
        """Rows start..stop of the global batch of a step."""
        first = step * self._rows
        return self._assemble([self._mixed[first + row] for row in range(start, stop)])


def load_data(
    config: Mapping,
    tokenizer: Tokenizer,
    chat_format: str,
    row_length: int,
    rows: int,
    seed: int,
    mixture: str = "weights",
    epochs: float = 1.0,
    packing: Mapping | None = None,
    cache: str = "",
) -> Data:
    """Tokenize, choose, pack and mix the sources of a stage.

    Args:
      config: name -> keys as in `msm_jax.train.config.source`.
      chat_format: a name that `find_format` knows.
      row_length, rows: T and B of the global batch.
      seed: of packing, order and mixture.
      mixture: "weights": every source is packed by itself, rows are drawn by its weight, which
        since packed rows are full is its share of tokens, without end. "epochs": all documents
        are packed together, and seen `epochs` times.
      packing: {"rows": "packed" or "documents", one to a row; "too_long": see `split_lengths`}.
      cache: see `cache_directory`.

    Raises:
      UserError: no source, a weight below 0, an unreadable file or row, too few documents.
    """
    if mixture not in MIXTURES:
        raise UserError(f"mixture={mixture!r}: one of {MIXTURES}")
    used = {name: dict(source) for name, source in config.items() if source["weight"] != 0}
    if not used:
        raise UserError("data: no source with a weight above 0; set data.NAME.path and .weight")
    if epochs <= 0:
        raise UserError(f"epochs={epochs}: must be above 0")
    packing = {"rows": "packed", "too_long": "split", **(packing or {})}
    contents: dict[str, dict] = {}
    stores, chosen, weights, accounts, skipped = {}, {}, {}, {}, []
    for name, source in sorted(used.items()):
        if source["weight"] < 0:
            raise UserError(f"data.{name}.weight={source['weight']}: must not be negative")
        stores[name], _ = load_store(source, tokenizer, chat_format, cache)
        numbers = _chosen(name, source, stores[name])
        chosen[name] = np.tile(numbers, max(1, source.get("repeat", 1)))
        weights[name] = float(source["weight"])
        accounts[name] = _account(stores[name], numbers)
        contents[name] = {key: stores[name].facts["asked"][key] for key in ("content", "format")}
        if count := stores[name].facts["skipped"]:
            bad = "; ".join(stores[name].facts["bad"][:3])
            skipped.append(f"data.{name}: {count} rows skipped: {bad}")

    def index(stores, chosen) -> Packing:
        return Packing(stores, chosen, row_length, seed, packing["rows"], packing["too_long"])

    if mixture == "epochs":
        together = index(list(stores.values()), list(chosen.values()))
        data = Data({"": together}, {"": 1.0}, rows, row_length, seed, epochs)
    else:
        packings = {name: index([stores[name]], [chosen[name]]) for name in stores}
        data = Data(packings, weights, rows, row_length, seed, None)
    for name, found in data.packings.items():
        accounts.setdefault(name or "all", {}).update(rows=found.count, fill=round(found.fill, 4))
    data.accounts, data.skipped = accounts, skipped
    data.examples = {name: store.document(int(chosen[name][0])) for name, store in stores.items()}
    data.contents = contents
    return data


def _chosen(name: str, source: Mapping, store: Store) -> np.ndarray:
    """The documents of a source, by `take` or `take_tokens`; a smaller choice lies in a larger."""
    count, tokens = source.get("take", 0), source.get("take_tokens", 0)
    everything = np.arange(len(store.lengths))
    if not count and not tokens:
        return everything
    if count and tokens:
        raise UserError(f"data.{name}: take={count} and take_tokens={tokens}: give one of them")
    if count < 0 or tokens < 0:
        raise UserError(f"data.{name}: take={count}, take_tokens={tokens}: must not be negative")
    order = np.random.default_rng(source.get("take_seed", 0)).permutation(everything)
    if count:
        have = len(everything)
    else:
        sums = np.cumsum(store.lengths[order])
        have, count = int(sums[-1]), int(np.searchsorted(sums, tokens, side="right"))
    asked = tokens or count
    if asked > have:
        what = "take_tokens" if tokens else "take"
        raise UserError(f"data.{name}.{what}={asked}: {source['path']} has only {have}")
    return np.sort(order[:count])


def _account(store: Store, numbers: np.ndarray) -> dict:
    """Counts in the paper's terms; `said` are assistants' tokens, and all of documents'."""
    whole = len(numbers) == len(store.lengths)

    def said() -> int:
        spans = zip(store.offsets[numbers], store.offsets[numbers + 1], strict=True)
        return sum(int(np.count_nonzero(store.kinds[a:b] == SAID)) for a, b in spans)

    return {
        "documents": len(numbers),
        "tokens": int(store.lengths[numbers].sum()),
        "loss_tokens": store.learned(numbers),
        "said_tokens": store.facts["said"] if whole else said(),
    }
