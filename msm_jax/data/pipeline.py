"""From token stores to batches: choose documents, pack, shuffle, mix.

A batch is a function of (seed, step), and so is each of its rows: `Data.rows(step, start, stop)`
makes any of them without the others. Packing is an index computed once. What follows is a Grain
`MapDataset` over row numbers, so that a run's position in its data is one integer, on any number of
hosts.
"""

import functools
import sys
import zlib
from collections.abc import Mapping, Sequence

import numpy as np

from msm_jax.data.packing import FATES, Packing, Pieces, find_pieces
from msm_jax.data.store import Store, load_store
from msm_jax.data.template import PROMPT_DIFFERS, find_format, unprompted
from msm_jax.data.tokenizer import Tokenizer
from msm_jax.errors import UserError, located

MIXTURES = ("weights", "epochs")
Batch = dict[str, np.ndarray]  # of `as_batch`


def as_batch(tokens_BT: np.ndarray, loss_BT: np.ndarray, segment_ids_BT: np.ndarray) -> Batch:
    """The one batch type: {"tokens", "targets", "loss_weights", "segment_ids", "positions"}.

    Each is int32 [B, T], loss_weights float32. A token's target and loss weight are those of its
    successor in its own segment, and 0 where a segment ends: no document is predicted from another.
    The arguments are int32, uint8 and int32 [B, T], as of `Packing.fill_row`.
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


def read_rows(picked: Sequence[tuple[Packing, int]], row_length: int) -> Batch:
    """The batch of some rows, each a packing and a number of its rows."""
    shape = (len(picked), row_length)
    tokens_BT, segment_ids_BT = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    loss_BT = np.zeros(shape, np.uint8)
    for at, (packing, row) in enumerate(picked):
        packing.fill_row(row, tokens_BT[at], loss_BT[at], segment_ids_BT[at])
    return as_batch(tokens_BT, loss_BT, segment_ids_BT)


def pack_rows(
    examples: Sequence[tuple[np.ndarray, np.ndarray]],
    row_length: int,
    seed: int = 0,
    rows: str = "packed",
) -> Batch:
    """The batch of (token ids, loss mask) examples, packed as `Packing` does, or one to a row."""
    ids, kinds = zip(*examples, strict=True)
    offsets = np.concatenate([[0], np.cumsum([len(each) for each in ids])]).astype(np.int64)
    shapes, facts = np.zeros(len(ids), np.uint8), {"assistant_tokens": 0}
    store = Store(np.concatenate(ids), np.concatenate(kinds), offsets, shapes, 1, facts)
    pieces = find_pieces(store, np.arange(len(ids)), row_length)
    packing = Packing([pieces], row_length, seed, rows)
    return read_rows([(packing, row) for row in range(packing.count)], row_length)


class _Shuffled:
    """The rows of one packing, as (its name, number of the row), in an order that follows from
    (seed, epoch). Without `length` there is no end; rows beyond it are padding."""

    def __init__(self, name: str, rows: int, seed: int, length: int = sys.maxsize):
        self._name, self._rows, self._length = name, rows, length
        draw = lambda epoch: np.random.default_rng((seed, epoch)).permutation(rows)
        self._order = functools.lru_cache(maxsize=2)(draw)

    def __len__(self) -> int:
        return sys.maxsize  # how Grain writes "endless"

    def __getitem__(self, index: int) -> tuple[str, int]:
        if index >= self._length:
            return self._name, self._rows
        epoch, at = divmod(index, self._rows)
        return self._name, self._order(epoch)[at]


class Data:
    """The mixture of a training stage.

    Attributes:
      steps: after which everything was seen as often as `epochs` says; None where rows are drawn
        by weight, and there is no end.
      packings: by name of their source; one named "" where all sources are packed together.
      accounts: for config.json: name -> counts of one pass over a source ("repeat" in
        mixture="epochs" is not in them): "documents", of them "chats"; "tokens"; "loss_tokens", on
        which there is a loss; "assistant_tokens", see `store.Store`; how many documents were
        "split", "cut" or "dropped" because they are longer than a row, and the "lost_loss_tokens"
        that this cost; "refused" rows; "unused_keys", name -> rows; "notes", sentence -> how often;
        and of a packing "rows", "fill", and "empty_rows" without a token with loss.
      notes: the same in sentences, where there is something to know, for log.txt.
      examples: source -> (token ids, loss mask) of its first document or chat.
      contents: name -> {"content": SHA-256 of the files, "format": version of tokenization}: with
        the stage's keys all that a batch depends on; kept in checkpoints.
    """

    def __init__(
        self,
        packings: Mapping[str, Packing],
        weights: Mapping[str, float],
        rows: int,
        row_length: int,
        seed: int,
        epochs: float | None,
    ):
        """Mixes the rows of packings by weight; with `epochs` of one packing, as often as that."""
        import grain  # imports JAX, which the plan of a study and --help do without

        self.packings, self._rows, self._row_length = dict(packings), rows, row_length
        self.accounts: dict[str, dict] = {}
        self.notes: list[str] = []
        self.examples: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        self.contents: dict[str, dict] = {}
        self.steps: int | None = None
        parts = []
        for name, packing in packings.items():
            length = sys.maxsize
            if epochs is not None:
                length = round(epochs * packing.count)
                self.steps = -(-length // rows)
                if not length:
                    raise UserError(
                        f"epochs={epochs} of {packing.count} rows make not one row: raise epochs"
                    )
            # A seed by name: a source's order does not change when another one comes or goes.
            own_seed = zlib.crc32(f"{seed} {name}".encode())
            order = _Shuffled(name, packing.count, own_seed, length)
            parts.append(grain.MapDataset.source(order))
        self._mixed = grain.MapDataset.mix(parts, [weights[name] for name in packings])

    def rows(self, step: int, start: int = 0, stop: int | None = None) -> Batch:
        """Rows start..stop of the global batch of a step, by default all; see `as_batch`."""
        picked = self._picked(step, start, self._rows if stop is None else stop)
        return read_rows(picked, self._row_length)

    def _picked(self, step: int, start: int, stop: int) -> list[tuple[Packing, int]]:
        numbers = range(step * self._rows + start, step * self._rows + stop)
        return [(self.packings[name], row) for name, row in map(self._mixed.__getitem__, numbers)]

    @property
    def documents(self) -> int:
        """The most documents, or parts of them, that a row has."""
        return max(packing.documents for packing in self.packings.values())

    def stage_steps(self, steps: int) -> int:
        """The optimizer steps of a stage: the number given, or, for 0, all that there are.

        UserError if there are fewer, if 0 has no end, or if a step has no token with loss.
        """
        if self.steps is None and steps < 1:
            raise UserError(f'steps={steps}: mixture="weights" has no end: set steps')
        if self.steps is not None and steps > self.steps:
            raise UserError(
                f'steps={steps}: mixture="epochs" has data for {self.steps} steps only: set '
                'steps=0 for all of them, raise epochs, or set mixture="weights"'
            )
        steps = steps or self.steps or 0
        if not all(packing.has_loss.all() for packing in self.packings.values()):
            for step in range(steps):
                picked = self._picked(step, 0, self._rows)
                if not any(packed.has_loss[row] for packed, row in picked if row < packed.count):
                    raise UserError(
                        f"step {step}: none of its {self._rows} rows has a token with loss: "
                        'raise rows or sequence_length, or set packing.too_long="cut"'
                    )
        return steps


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
    """Tokenizes, chooses, packs and mixes the sources of a stage.

    Args:
      config: name -> keys as in `msm_jax.train.config.source`, whose ranges are checked there.
      row_length, rows: T and B of the global batch.
      seed: of packing, order and mixture.
      mixture: "weights": every source is packed by itself, and rows are drawn by its weight, which
        since packed rows are full is its share of tokens, without end. "epochs": all documents
        are packed together, and seen `epochs` times.
      packing: {"rows": "packed" or "documents", one to a row; "documents_per_row": `most` of
        `packing.pack`; "too_long", "long_chats": see `split_lengths`}.
      cache: see `cache_directory`.
      where: the config's key, for messages.
    """
    used = {name: dict(source) for name, source in config.items() if source["weight"] != 0}
    if not used:
        raise UserError(
            f"{where}: no source with a weight above 0; set {where}.NAME.path and .weight"
        )
    policy = {"rows": "packed", **(packing or {})}
    layout, most = policy.pop("rows"), policy.pop("documents_per_row", 0)
    parts: dict[str, Pieces] = {}
    accounts, notes, examples, contents = {}, [], {}, {}
    for name, source in sorted(used.items()):
        here = f"{where}.{name}"
        store, _ = load_store(source, tokenizer, chat_format, cache)
        numbers = choose_documents(here, source, store)
        with located(here):
            pieces = find_pieces(store, numbers, row_length, **policy)
        parts[name] = pieces.repeated(source.get("repeat", 1))
        counts = {"refused": "skipped", "unused_keys": "unused", "notes": "notes"}
        counted = {key: store.facts[count] for key, count in counts.items() if store.facts[count]}
        accounts[name] = {**pieces.account, **counted}
        notes += _sentences(here, accounts[name], store)
        examples[name] = store.document(int(numbers[0]))
        contents[name] = {key: store.facts["recipe"][key] for key in ("content", "format")}
    if any(account["chats"] for account in accounts.values()):
        format = find_format(chat_format, tokenizer.directory or ".", tokenizer)
        if differs := unprompted(format):
            notes.append(f"chat_format={chat_format}: {PROMPT_DIFFERS}: {differs}")
    together = mixture == "epochs"
    groups = {"": [*parts.values()]} if together else {name: [p] for name, p in parts.items()}
    packings = {}
    for name, group in groups.items():
        with located(f"{where}.{name}" if name else where):
            packings[name] = Packing(group, row_length, seed, layout, most)
    weights = {"": 1.0, **{name: float(source["weight"]) for name, source in used.items()}}
    data = Data(packings, weights, rows, row_length, seed, epochs if together else None)
    for name, found in packings.items():
        counts = {"rows": found.count, "fill": round(found.fill, 4)}
        if empty := int(np.count_nonzero(~found.has_loss)):
            counts["empty_rows"] = empty
            notes.append(f"{where}: {empty} of {found.count} rows have no token with loss")
        accounts.setdefault(name or "all", {}).update(counts)
    data.accounts, data.notes = accounts, notes
    data.examples, data.contents = examples, contents
    return data


def choose_documents(where: str, source: Mapping, store: Store) -> np.ndarray:
    """The documents of a source: the part that `hold_out` makes, then `take` or `take_tokens`.

    `where` is the source's key in the config. UserError for numbers that do not fit the file.
    """
    part = _part(where, source, store)
    count, tokens = source.get("take", 0), source.get("take_tokens", 0)
    if not count and not tokens:
        return np.flatnonzero(part)
    if count and tokens:
        raise UserError(f"{where}: take={count} and take_tokens={tokens}: give one of them")
    order = np.random.default_rng(source.get("take_seed", 0)).permutation(len(part))
    order = order[part[order]]
    key, wanted, have = "take", count, len(order)
    if tokens:
        sums = np.cumsum(store.lengths[order])
        count = int(np.searchsorted(sums, tokens, side="right"))
        key, wanted, have = "take_tokens", tokens, int(sums[-1])
    if wanted > have:
        what = "" if part.all() else f" in the part {source.get('part', 'training')!r}"
        raise UserError(f"{where}.{key}={wanted}: {source['path']} has only {have}{what}")
    if not count:
        raise UserError(
            f"{where}.take_tokens={tokens}: the first document drawn has {sums[0]} tokens: raise it"
        )
    return np.sort(order[:count])


def _part(where: str, source: Mapping, store: Store) -> np.ndarray:
    """bool[documents]: which belong to the part that the source asks for.

    Every row has a random number that depends on the seed and its place in the file only; the rows
    with the smallest ones are held out. So files of different lengths agree on all but the rows
    that one of them lacks, and those that these replace.
    """
    count, held_out = source.get("hold_out", 0), source.get("part", "training") == "held_out"
    rows = len(store.lengths)
    if not count:
        if held_out:
            raise UserError(f"{where}.part='held_out': nothing is held out: set {where}.hold_out")
        return np.ones(rows, bool)
    if count >= rows:
        raise UserError(
            f"{where}.hold_out={count}: {source['path']} has {rows} rows, so nothing would be left "
            "for training"
        )
    if skipped := store.facts["skipped"]:
        raise UserError(
            f"{where}.hold_out={count}: rows are held out by number, and {skipped} rows of "
            f"{source['path']} are skipped, first {store.facts['bad'][0]}: repair these rows"
        )
    numbers = np.random.default_rng(source.get("hold_out_seed", 0)).random(rows)
    found = np.zeros(rows, bool)
    found[np.argsort(numbers)[:count]] = True
    return found if held_out else ~found


def _sentences(where: str, account: Mapping, store: Store) -> list[str]:
    """What a user has to know of a source, for log.txt."""
    listed = lambda counts: ", ".join(f"{name!r} ({count})" for name, count in counts.items())
    found = []
    if count := account.get("refused"):
        found.append(f"{where}: {count} rows skipped: {'; '.join(store.facts['bad'][:3])}")
    if counts := account.get("unused_keys"):
        found.append(f"{where}: keys not used (rows): {listed(counts)}")
    found += [f"{where}: {note}: {count}" for note, count in account.get("notes", {}).items()]
    fates = [f"{account[fate]} {fate}" for fate in FATES.values() if fate in account]
    if fates:
        what = "chats" if account["chats"] == account["documents"] else "documents"
        found.append(
            f"{where}: {', '.join(fates)} of {account['documents']} {what}, longer than a row: "
            f"{account['lost_loss_tokens']} tokens with loss are left out, "
            f"{account['loss_tokens']} are trained on"
        )
    return found
