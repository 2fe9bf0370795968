"""From JSONL files to batches: tokenize, pack, shuffle, mix.

A batch is a function of (seed, step): `batches(...)[step]`. Packing is an index computed once,
and everything after it is a Grain `MapDataset` over row numbers, so that the position of a run
in its data is one integer.
"""

import dataclasses
import functools
import hashlib
import os
import sys
import zlib
from collections.abc import Mapping

import grain
import numpy as np

from msm_jax.corpus.records import file_hash, read_rows
from msm_jax.data.chat import CHAT_FORMATS, render_chat
from msm_jax.data.packing import pack, split_lengths
from msm_jax.data.tokenizer import Tokenizer
from msm_jax.errors import UserError

LOSS_ON = ("all", "assistant")


@dataclasses.dataclass(frozen=True)
class PackedRows:
    """A corpus as rows of isolated documents.

    Attributes:
      tokens_NT: int32; padding is 0.
      loss_NT: uint8, 1 where a token is to be learned.
      segment_ids_NT: int32, 1, 2, ... within a row; 0 is padding.
      documents, tokens, loss_tokens: counts over the whole corpus.
    """

    tokens_NT: np.ndarray
    loss_NT: np.ndarray
    segment_ids_NT: np.ndarray
    documents: int
    tokens: int
    loss_tokens: int

    @property
    def fill(self) -> float:
        """Share of token slots that are not padding."""
        return self.tokens / self.tokens_NT.size


def tokenize(path, tokenizer: Tokenizer, chat_format: str, loss_on: str):
    """Token ids and loss mask of each record of a JSONL file of documents or chats.

    A document ends with the end-of-document token. `loss_on` decides what chats teach: "all"
    tokens or what the "assistant" says; of documents every token is learned.

    Raises:
      UserError: with file:line, for a row that has neither text nor messages, or an empty one.
    """
    if loss_on not in LOSS_ON:
        raise UserError(f"loss_on={loss_on!r}: one of {LOSS_ON}")
    end = tokenizer.control(tokenizer.end_of_document)
    found = []
    for number, row in read_rows(path):
        text, messages = row.get("text"), row.get("messages")
        if isinstance(messages, list) and messages:
            try:
                ids, loss = render_chat(tokenizer, CHAT_FORMATS[chat_format], messages)
            except (UserError, AttributeError) as error:
                raise UserError(f"{path}:{number}: {error}") from error
            if loss_on == "all":
                loss = [1] * len(ids)
        elif isinstance(text, str) and text.strip():
            ids = [*tokenizer.encode(text), end]
            loss = [1] * len(ids)
        else:
            raise UserError(f"{path}:{number}: needs a non-empty 'text' or 'messages'")
        if not any(loss[1:]):
            raise UserError(f"{path}:{number}: nothing in this row is learned (no assistant)")
        found.append((np.array(ids, np.int32), np.array(loss, np.uint8)))
    if not found:
        raise UserError(f"{path}: holds no records")
    return found


def pack_rows(examples, row_length: int, seed: int) -> PackedRows:
    """Lay examples into rows; one longer than a row is split, each part a segment of its own."""
    pieces = split_lengths([len(ids) for ids, _ in examples], row_length)
    rows = pack([stop - start for _, start, stop in pieces], row_length, seed)
    shape = (len(rows), row_length)
    packed = PackedRows(
        tokens_NT=np.zeros(shape, np.int32),
        loss_NT=np.zeros(shape, np.uint8),
        segment_ids_NT=np.zeros(shape, np.int32),
        documents=len(examples),
        tokens=sum(len(ids) for ids, _ in examples),
        loss_tokens=sum(int(loss.sum()) for _, loss in examples),
    )
    for row, numbers in enumerate(rows):
        at = 0
        for segment, number in enumerate(numbers, start=1):
            document, start, stop = pieces[number]
            ids, loss = examples[document]
            here = slice(at, at + stop - start)
            packed.tokens_NT[row, here] = ids[start:stop]
            packed.loss_NT[row, here] = loss[start:stop]
            packed.segment_ids_NT[row, here] = segment
            at += stop - start
    return packed


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
    """The rows of one source without end, as (number of the source, number of the row).

    Every epoch has an order of its own, a function of (seed, epoch).
    """

    def __init__(self, number: int, rows: int, seed: int):
        self._number, self._rows = number, rows
        draw = lambda epoch: np.random.default_rng((seed, epoch)).permutation(rows)
        self._order = functools.lru_cache(maxsize=2)(draw)

    def __len__(self):
        return sys.maxsize  # how Grain writes "endless"

    def __getitem__(self, index):
        epoch, at = divmod(index, self._rows)
        return self._number, self._order(epoch)[at]


class Data:
    """The mixture of a training stage.

    Attributes:
      batches: `grain.MapDataset`; `batches[step]` is the global batch of that step.
      sources: name -> `PackedRows`.
      fingerprint: changes with anything that changes a batch; kept in checkpoints.
    """

    def __init__(self, sources, weights, rows, row_length, seed, fingerprint):
        self.sources, self.fingerprint = sources, fingerprint
        names = list(sources)

        def source(number, name):
            # A seed by name: a source's order does not change when another one comes or goes.
            own_seed = zlib.crc32(f"{seed} {name}".encode())
            rows_of_source = len(sources[name].tokens_NT)
            return grain.MapDataset.source(_Shuffled(number, rows_of_source, own_seed))

        def assemble(picked):
            shape = (len(picked), row_length)
            tokens_BT, segment_ids_BT = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
            loss_BT = np.zeros(shape, np.uint8)
            for at, (number, row) in enumerate(picked):
                packed = sources[names[number]]
                tokens_BT[at] = packed.tokens_NT[row]
                loss_BT[at] = packed.loss_NT[row]
                segment_ids_BT[at] = packed.segment_ids_NT[row]
            return as_batch(tokens_BT, loss_BT, segment_ids_BT)

        parts = [source(number, name) for number, name in enumerate(names)]
        mixed = grain.MapDataset.mix(parts, [weights[name] for name in names])
        self.batches = mixed.batch(rows, drop_remainder=True, batch_fn=assemble)


def load_data(
    config: Mapping, tokenizer: Tokenizer, chat_format: str, row_length: int, rows: int, seed: int
) -> Data:
    """Tokenize, pack and mix the sources of a stage.

    Args:
      config: name -> {"path", "weight", "loss_on"}; weights are shares of rows, and since packed
        rows are full, of tokens.
      chat_format: a name in `CHAT_FORMATS`.
      row_length, rows: T and B of the global batch.
      seed: of packing, order and mixture.

    Raises:
      UserError: no source, a weight below 0, an unreadable file or row.
    """
    if chat_format not in CHAT_FORMATS:
        raise UserError(f"chat_format={chat_format!r}: one of {sorted(CHAT_FORMATS)}")
    used = {name: dict(source) for name, source in config.items() if source["weight"] != 0}
    if not used:
        raise UserError("data: no source with a weight above 0; set data.NAME.path and .weight")
    digest = hashlib.sha256(
        f"{tokenizer.fingerprint} {chat_format} {row_length} {rows} {seed}".encode()
    )
    sources, weights = {}, {}
    for name, source in sorted(used.items()):
        if source["weight"] < 0:
            raise UserError(f"data.{name}.weight={source['weight']}: must not be negative")
        path = os.fspath(source["path"])
        examples = tokenize(path, tokenizer, chat_format, source["loss_on"])
        sources[name] = pack_rows(examples, row_length, seed)
        weights[name] = float(source["weight"])
        digest.update(f"{name} {file_hash(path)} {weights[name]} {source['loss_on']}".encode())
    return Data(sources, weights, rows, row_length, seed, digest.hexdigest())
