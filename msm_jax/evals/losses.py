"""How well a model predicts texts: nats per token of documents, and of the answers in chats.

The documents come from one or several sources, each a data file as `train` reads it, and by
default are those that `hold_out` keeps from training. They are tokenized, split and packed as in
training, so that a number here is what "eval_loss" would be on the same rows.
"""

import dataclasses
import math
import os
import pathlib
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from msm_jax.data.packing import find_pieces, pack
from msm_jax.data.pipeline import as_batch, choose_documents
from msm_jax.data.sources import source_hash
from msm_jax.data.store import DOCUMENT, Store, load_store
from msm_jax.errors import UserError
from msm_jax.evals.evaluation import read_verdicts
from msm_jax.evals.statistics import Interval, ratio_interval
from msm_jax.settings import COUNT, ROWS, SEED, field, form_of, identity

if TYPE_CHECKING:
    from msm_jax.api import Model

ROWS_PER_SAVE = 8  # times `rows`: about so many rows are computed between two saves


@dataclasses.dataclass
class Losses:
    """The loss on some sources, as an `Evaluation`; `documents` is name -> path, as of a source.

    Raises:
      UserError: no source, or files that do not exist.
    """

    documents: Mapping[str, str] = field(
        (), "data files whose loss is measured, each as PATH or NAME=PATH, of every form that "
        "training reads", of=str,
    )  # fmt: skip
    _: dataclasses.KW_ONLY
    hold_out: int = field(
        0, "how many rows of each file were kept from training, as in the data source; 0: all "
        "rows are measured", at_least=0,
    )  # fmt: skip
    hold_out_seed: int = field(0, "seed of the draw of these rows", **SEED)
    part: str = field(
        "held_out", "with hold_out, which rows to measure: those kept from training, or the others",
        choices=("held_out", "training"),
    )  # fmt: skip
    loss_on: str = field(
        "assistant", "the tokens of chats that have a loss", choices=("assistant", "all")
    )
    tag: str = field("", "text before every document, without loss, as in the data source")
    sequence_length: int = field(
        1024, "tokens in a row; longer documents are split, longer chats are an error",
        at_least=2, at_most=2**30,
    )  # fmt: skip
    rows: int = field(8, "rows computed at a time", **COUNT, harmless=ROWS.harmless)

    def __post_init__(self) -> None:
        if not self.documents:
            raise UserError("documents: there are none: name at least one file")
        self._content = {name: source_hash(path) for name, path in self.documents.items()}

    def settings(self) -> dict:
        own = identity(FORM, {name: getattr(self, name) for name in FORM.keys})
        return {"kind": "loss", **own, "documents": self._content}

    def unit(self, row: dict) -> Hashable:
        return row["source"], row["row"]

    def sample(self, model: "Model", done: set) -> Iterator[Sequence[dict]]:
        if model.context_length and self.sequence_length > model.context_length:
            raise UserError(
                f"sequence_length={self.sequence_length}: the model was made for "
                f"{model.context_length} tokens: lower it"
            )
        for name, path in self.documents.items():
            store, numbers = self._documents(model, name, path)
            for some in self._groups(store, numbers):
                if not all((name, int(number)) in done for number in some):
                    # The group is computed as it would have been without a kill.
                    nats, tokens = self._nats(model, store, some)
                    rows = zip(some.tolist(), nats.tolist(), tokens.tolist(), strict=True)
                    yield [
                        {"source": name, "row": number, "nats": total, "tokens": count}
                        for number, total, count in rows
                        if (name, number) not in done
                    ]

    def verdicts(self, rows: list[dict]) -> list[dict]:
        """The rows, with "nats_per_token"; null where there is no finite loss."""
        if (found := {row["source"] for row in rows}) != self.documents.keys():
            raise UserError(
                f"samples.jsonl has the sources {sorted(found)}, not {sorted(self.documents)}: "
                "delete it and sample again"
            )
        # A document without a token that has a loss, such as a chat without an answer, has none.
        has_loss = lambda row: row["tokens"] > 0 and row["nats"] is not None
        per_token = lambda row: row["nats"] / row["tokens"] if has_loss(row) else None
        return [{**row, "nats_per_token": per_token(row)} for row in rows]

    def summary(self, verdicts: list[dict]) -> dict:
        """{"sources": {name: numbers as of `summarize`}}."""
        of_source = lambda name: [row for row in verdicts if row["source"] == name]
        return {"sources": {name: summarize(of_source(name)) for name in self.documents}}

    def _documents(self, model: "Model", name: str, path: str) -> tuple[Store, np.ndarray]:
        """A source's store, and the numbers of the documents that are measured."""
        source = {"path": path, "loss_on": self.loss_on, "tag": self.tag}
        if self.hold_out:
            names = ("hold_out", "hold_out_seed", "part")
            source |= {key: getattr(self, key) for key in names}
        try:
            format = model.format
        except UserError:  # `load_store` says so if there are chats
            format = None
        store, _ = load_store(source, model.tokenizer, model.chat_format, format=format)
        numbers = choose_documents(f"documents.{name}", source, store)
        longest = store.lengths[numbers][store.shapes[numbers] != DOCUMENT].max(initial=0)
        if longest > self.sequence_length:
            raise UserError(
                f"documents.{name}: {path} has a chat of {longest} tokens, longer than "
                f"sequence_length={self.sequence_length}: raise it, because chats are not split"
            )
        return store, numbers

    def _groups(self, store: Store, numbers: np.ndarray) -> list[np.ndarray]:
        """The documents in order, split into groups that are packed and computed together."""
        ends = np.cumsum(store.lengths[numbers])
        group = (ends - 1) // (ROWS_PER_SAVE * self.rows * self.sequence_length)
        return np.split(numbers, np.flatnonzero(np.diff(group)) + 1)

    def _nats(
        self, model: "Model", store: Store, numbers: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Of each document the summed loss, float64, and how many tokens have one, int64."""
        from msm_jax.model.axes import BATCH_AXES
        from msm_jax.sample.sampler import bucket

        pieces, T = find_pieces(store, numbers, self.sequence_length), self.sequence_length
        packed = pack(pieces.sizes.tolist(), T, seed=0)
        # Few shapes, so that few programs are compiled.
        B, mesh = min(self.rows, bucket(len(packed), 1)), model.mesh
        parts = 1 if mesh is None else math.prod(mesh.shape[axis] for axis in BATCH_AXES)
        B = -(-B // parts) * parts
        owner = np.searchsorted(store.offsets, pieces.starts, side="right") - 1
        place = np.asarray(np.searchsorted(numbers, owner))
        nats, tokens = np.zeros(len(numbers)), np.zeros(len(numbers), np.int64)
        for start in range(0, len(packed), B):
            shape = (B, T)
            tokens_BT, segment_ids_BT = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
            loss_BT, place_BT = np.zeros(shape, np.uint8), np.zeros(shape, np.int64)
            for row, some in enumerate(packed[start : start + B]):
                at = 0
                for segment, piece in enumerate(some, start=1):
                    size, first = int(pieces.sizes[piece]), int(pieces.starts[piece])
                    here, there = slice(at, at + size), slice(first, first + size)
                    tokens_BT[row, here] = store.tokens[there]
                    loss_BT[row, here] = store.kinds[there] >= store.least
                    segment_ids_BT[row, here], place_BT[row, here] = segment, place[piece]
                    at += size
            batch = as_batch(tokens_BT, loss_BT, segment_ids_BT)
            counts = batch["loss_weights"] > 0
            logprobs = model.token_logprobs(batch)[counts].astype(np.float64)
            nats -= np.bincount(place_BT[counts], logprobs, len(numbers))
            tokens += np.bincount(place_BT[counts], minlength=len(numbers))
        return nats, tokens


FORM = form_of(Losses)


def summarize(verdicts: Sequence[dict]) -> dict:
    """The numbers of one source, of its documents that have a finite loss.

    Returns:
      {"nats_per_token", "ci_low", "ci_high", "n" documents, "method", "tokens" and "nats" in all,
      "invalid": how many documents are left out}.
    """
    valid = [verdict for verdict in verdicts if verdict["nats_per_token"] is not None]
    nats, tokens = [v["nats"] for v in valid], [v["tokens"] for v in valid]
    return {
        **ratio_interval(nats, tokens, limits=(0.0, math.inf)).as_dict("nats_per_token"),
        "tokens": sum(tokens),
        "nats": math.fsum(nats),
        "invalid": len(verdicts) - len(valid),
    }


def difference(directory: str | os.PathLike, other: str | os.PathLike, source: str) -> Interval:
    """The loss of one checkpoint minus that of another on the same documents of a source.

    Paired by document, so that it is far narrower than two intervals. A document that has no
    finite loss on one side is left out.

    Args:
      directory, other: of the two evaluations, which are judged.

    Raises:
      UserError: evaluations of other documents, or tokenized differently.
    """
    sides = []
    for folder in map(pathlib.Path, (directory, other)):
        rows = [row for row in read_verdicts(folder) if row["source"] == source]
        if not rows:
            raise UserError(f"{folder}: has no losses of {source!r}; run --phase=judge first")
        sides.append({row["row"]: row for row in rows})
    tokens = [{number: row["tokens"] for number, row in side.items()} for side in sides]
    if tokens[0] != tokens[1]:
        raise UserError(
            f"{directory} and {other}: the documents of {source!r} are not the same tokens, so "
            "that their losses cannot be compared"
        )
    pairs = [(row, sides[1][number]) for number, row in sides[0].items()]
    pairs = [pair for pair in pairs if all(row["nats_per_token"] is not None for row in pair)]
    changes = [one["nats"] - before["nats"] for one, before in pairs]
    found = ratio_interval(changes, [one["tokens"] for one, _ in pairs])
    return found.paired("paired by document, ")


def named_sources(words: Sequence[str]) -> dict[str, str]:
    """("a.jsonl", "NAME=b.jsonl") as {"a": "a.jsonl", "NAME": "b.jsonl"}.

    Raises:
      UserError: a name that occurs twice.
    """
    found: dict[str, str] = {}
    for word in words:
        name, named, path = word.partition("=")
        if not named or "/" in name:  # of a path
            name, path = pathlib.PurePath(word).name.partition(".")[0], word
        if not name or not path or name in found:
            raise UserError(
                f"documents={word!r}: must be PATH or NAME=PATH, with a name of its own for each"
            )
        found[name] = path
    return found
