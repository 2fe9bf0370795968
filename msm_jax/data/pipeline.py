"""From token stores to batches: choose, pack, shuffle, mix.

A batch is a function of (seed, step), and so is each of its rows: `Data.rows(step, start, stop)`
makes any of them without the others, whoever asks. Packing is an index computed once, and what
follows is a Grain `MapDataset` over row numbers, so that the position of a run in its data is one
integer, on any number of hosts.
"""

import contextlib
import dataclasses
import functools
import math
import sys
import zlib
from collections.abc import Iterator, Mapping, Sequence

import grain
import numpy as np

from msm_jax.data.packing import pack, split_lengths
from msm_jax.data.store import CHAT, DOCUMENT, Store, load_store
from msm_jax.data.template import PROMPT_DIFFERS, find_format, unprompted
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


@dataclasses.dataclass(frozen=True)
class Pieces:
    """What of a store's documents is to lie in rows.

    Attributes:
      store: that they are of.
      starts, sizes: int64[pieces], the first token of each in the store, and how many they are.
      trained: int64[pieces], how many of them a loss is on.
      account: of the documents that they are of; see `Data`.
    """

    store: Store
    starts: np.ndarray
    sizes: np.ndarray
    trained: np.ndarray
    account: dict


def cut_pieces(
    store: Store,
    numbers: np.ndarray,
    row_length: int,
    too_long: str = "split",
    long_chats: str = "error",
) -> Pieces:
    """The pieces of some documents of a store, as `split_lengths` makes them.

    Raises:
      UserError: a document that is longer than a row, and packing says that this is an error.
    """
    lengths, shapes, begins = store.lengths[numbers], store.shapes[numbers], store.offsets[numbers]
    chats = shapes != DOCUMENT
    pieces = split_lengths(lengths, row_length, too_long, chats, long_chats)
    starts, sizes = begins[pieces[:, 0]] + pieces[:, 1], pieces[:, 2] - pieces[:, 1]
    trained = store.trained(starts, starts + sizes)
    longer = lengths > row_length
    account: dict = {
        "documents": len(numbers),
        "chats": int((shapes == CHAT).sum()),
        "tokens": int(lengths.sum()),
        "loss_tokens": int(trained.sum()),
        "said_tokens": store.said(numbers),
    }
    for policy, those in ((too_long, longer & ~chats), (long_chats, longer & chats)):
        if those.any():
            account[_FATE[policy]] = account.get(_FATE[policy], 0) + int(those.sum())
    if longer.any():
        cost = store.trained(begins, begins + lengths).sum() - trained.sum()
        account["lost_loss_tokens"] = int(cost)
    return Pieces(store, starts, sizes, trained, account)


_FATE = {"split": "split", "cut": "cut", "drop": "dropped"}


class Packing:
    """Which pieces of which documents lie in which row: an index over stores.

    Attributes:
      count, tokens: rows, and tokens in all of them.
      taught: bool[rows], which of them have a token that is learned.
    """

    def __init__(self, parts: Sequence[Pieces], row_length: int, seed: int, rows: str = "packed"):
        """`parts` are the pieces of each store, one as often as it is to be there.

        Raises:
          UserError: an unknown `rows`, or nothing that is learned in any row.
        """
        if rows not in ROWS:
            raise UserError(f"packing.rows={rows!r}: one of {ROWS}")
        self._stores, self._row_length = [part.store for part in parts], row_length
        sizes = np.concatenate([part.sizes for part in parts])
        trained = np.concatenate([part.trained for part in parts])
        if rows == "packed":
            found = pack(sizes, row_length, seed)
        else:
            found = [[number] for number in range(len(sizes))]
        if not trained.any():
            raise UserError(
                f"no row of {row_length} tokens has a token that is learned: raise sequence_length"
            )
        order = np.concatenate([np.asarray(row, np.int64) for row in found])
        self._bounds = np.concatenate([[0], np.cumsum([len(row) for row in found])])
        self.count, self.tokens = len(found), int(sizes.sum())
        self.taught = np.add.reduceat(trained[order], self._bounds[:-1]) > 0
        # Of each piece, in the order of the rows: its store, and its tokens there.
        whose = np.repeat(np.arange(len(parts)), [len(part.sizes) for part in parts])
        self._store = whose[order]
        self._start = np.concatenate([part.starts for part in parts])[order]
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
    shapes, facts = np.zeros(len(ids), np.uint8), {"said": 0}
    store = Store(np.concatenate(ids), np.concatenate(kinds), offsets, shapes, 1, facts)
    packing = Packing([cut_pieces(store, np.arange(len(ids)), row_length)], row_length, seed)
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
      accounts: for config.json: name -> counts of one pass over a source ("repeat" in
        mixture="epochs" is not in them): "documents", of them "chats"; "tokens"; "loss_tokens", on
        which there is a loss; "said_tokens", see `store.Store`; how many documents were "split",
        "cut" or "dropped" because they are longer than a row, and the "lost_loss_tokens" that this
        cost; "refused" rows; "unused_keys", name -> rows; "notes", sentence -> how often; and of a
        packing "rows", "fill", and
        "empty_rows" in which nothing is learned.
      notes: the same in sentences, where there is something to know, for log.txt.
      examples: source -> (token ids, loss mask) of its first document or chat.
      contents: name -> {"content": SHA-256 of the files, "format": of the tokens' making}: with the
        stage's keys all that a batch depends on; kept in checkpoints.
    """

    def __init__(self, packings: Mapping[str, Packing], weights, rows, row_length, seed, epochs):
        self.packings, self._rows = dict(packings), rows
        self.accounts: dict[str, dict] = {}
        self.notes: list[str] = []
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
                self.steps = -(-length // rows)
                if not length:
                    raise UserError(
                        f"epochs={epochs} of {packings[name].count} rows make not one row: raise "
                        "epochs"
                    )
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

    def stage_steps(self, asked: int) -> int:
        """The optimizer steps of a stage: as many as asked for, or, for 0, all that there are.

        Raises:
          UserError: there are fewer, or, for 0, there is no end; a step that would learn nothing.
        """
        if self.steps is None and asked < 1:
            raise UserError(f'steps={asked}: mixture="weights" has no end: set steps')
        if self.steps is not None and asked > self.steps:
            raise UserError(
                f'steps={asked}: mixture="epochs" has data for {self.steps} steps only: set '
                'steps=0 for all of them, raise epochs, or set mixture="weights"'
            )
        steps = asked or self.steps or 0
        if not all(packing.taught.all() for packing in self.packings.values()):
            for step in range(steps):
                if not any(map(self._is_taught, range(step * self._rows, (step + 1) * self._rows))):
                    raise UserError(
                        f"step {step}: none of its {self._rows} rows has a token that is learned: "
                        'raise rows or sequence_length, or set packing.too_long="cut"'
                    )
        return steps

    def _is_taught(self, row: int) -> bool:
        number, at = self._mixed[row]
        taught = list(self.packings.values())[number].taught
        return at < len(taught) and bool(taught[at])

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
    where: str = "data",
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
      packing: {"rows": "packed" or "documents", one to a row; "too_long", "long_chats": see
        `split_lengths`}.
      cache: see `cache_directory`.
      where: the config's key, for messages.

    Raises:
      UserError: no source, a weight below 0, an unreadable file or row, too few documents, a chat
        longer than a row, nothing that is learned.
    """
    if mixture not in MIXTURES:
        raise UserError(f"mixture={mixture!r}: one of {MIXTURES}")
    used = {name: dict(source) for name, source in config.items() if source["weight"] != 0}
    if not used:
        raise UserError(
            f"{where}: no source with a weight above 0; set {where}.NAME.path and .weight"
        )
    if not 0 < epochs < math.inf:
        raise UserError(f"epochs={epochs}: must be above 0, and finite")
    packing = {"rows": "packed", "too_long": "split", "long_chats": "error", **(packing or {})}
    policy = {key: packing[key] for key in ("too_long", "long_chats")}
    parts: dict[str, Pieces] = {}
    weights, accounts, notes, examples, contents = {}, {}, [], {}, {}
    for name, source in sorted(used.items()):
        here = f"{where}.{name}"
        if source["weight"] < 0:
            raise UserError(f"{here}.weight={source['weight']}: must not be negative")
        if source.get("repeat", 1) < 1:
            raise UserError(f"{here}.repeat={source['repeat']}: must be at least 1")
        store, _ = load_store(source, tokenizer, chat_format, cache)
        numbers = _chosen(here, source, store)
        with _at(here):
            pieces = cut_pieces(store, numbers, row_length, **policy)
        parts[name] = _repeated(pieces, source.get("repeat", 1))
        weights[name] = float(source["weight"])
        accounts[name] = {**parts[name].account, **_rows_account(store)}
        notes += _in_words(here, accounts[name], store)
        examples[name] = store.document(int(numbers[0]))
        contents[name] = {key: store.facts["asked"][key] for key in ("content", "format")}
    if any(account["chats"] for account in accounts.values()):
        format = find_format(chat_format, tokenizer.directory or ".", tokenizer)
        if differs := unprompted(format):
            notes.append(f"chat_format={chat_format}: {PROMPT_DIFFERS}: {differs}")
    if mixture == "epochs":
        with _at(where):
            together = Packing(list(parts.values()), row_length, seed, packing["rows"])
        data = Data({"": together}, {"": 1.0}, rows, row_length, seed, epochs)
    else:
        packings = {}
        for name, part in parts.items():
            with _at(f"{where}.{name}"):
                packings[name] = Packing([part], row_length, seed, packing["rows"])
        data = Data(packings, weights, rows, row_length, seed, None)
    for name, found in data.packings.items():
        facts = {"rows": found.count, "fill": round(found.fill, 4)}
        if count := int(np.count_nonzero(~found.taught)):
            facts["empty_rows"] = count
            notes.append(f"{where}: in {count} of {found.count} rows nothing is learned")
        accounts.setdefault(name or "all", {}).update(facts)
    data.accounts, data.notes = accounts, notes
    data.examples, data.contents = examples, contents
    return data


@contextlib.contextmanager
def _at(where: str) -> Iterator[None]:
    """Errors that do not know which source they are about, with its name."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{where}: {error}") from error


def _repeated(pieces: Pieces, times: int) -> Pieces:
    changes = {key: np.tile(getattr(pieces, key), times) for key in ("starts", "sizes", "trained")}
    return dataclasses.replace(pieces, **changes)


def _chosen(where: str, source: Mapping, store: Store) -> np.ndarray:
    """The documents of a source, by `take` or `take_tokens`; a smaller choice lies in a larger."""
    count, tokens = source.get("take", 0), source.get("take_tokens", 0)
    everything = np.arange(len(store.lengths))
    if not count and not tokens:
        return everything
    if count and tokens:
        raise UserError(f"{where}: take={count} and take_tokens={tokens}: give one of them")
    if count < 0 or tokens < 0:
        raise UserError(f"{where}: take={count}, take_tokens={tokens}: must not be negative")
    order = np.random.default_rng(source.get("take_seed", 0)).permutation(everything)
    if count:
        have = len(everything)
    else:
        sums = np.cumsum(store.lengths[order])
        have, count = int(sums[-1]), int(np.searchsorted(sums, tokens, side="right"))
    asked = tokens or count
    if asked > have:
        what = "take_tokens" if tokens else "take"
        raise UserError(f"{where}.{what}={asked}: {source['path']} has only {have}")
    if not count:
        raise UserError(
            f"{where}.take_tokens={tokens}: the first document drawn has {sums[0]} tokens: raise it"
        )
    return np.sort(order[:count])


def _rows_account(store: Store) -> dict:
    """What the store counted of the rows of its file, where there is something."""
    counts = {
        "refused": store.facts["skipped"],
        "unused_keys": store.facts["unused"],
        "notes": store.facts["notes"],
    }
    return {name: value for name, value in counts.items() if value}


def _in_words(where: str, account: Mapping, store: Store) -> list[str]:
    """What a user has to know of a source, for log.txt."""
    listed = lambda counts: ", ".join(f"{name!r} ({count})" for name, count in counts.items())
    found = []
    if count := account.get("refused"):
        found.append(f"{where}: {count} rows skipped: {'; '.join(store.facts['bad'][:3])}")
    if counts := account.get("unused_keys"):
        found.append(f"{where}: keys not used (rows): {listed(counts)}")
    found += [f"{where}: {note}: {count}" for note, count in account.get("notes", {}).items()]
    fates = [f"{account[fate]} {fate}" for fate in _FATE.values() if fate in account]
    if fates:
        what = "chats" if account["chats"] == account["documents"] else "documents"
        found.append(
            f"{where}: {', '.join(fates)} of {account['documents']} {what}, longer than a row: "
            f"{account['lost_loss_tokens']} learned tokens lost, "
            f"{account['loss_tokens']} are trained"
        )
    return found
