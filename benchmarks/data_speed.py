"""The input pipeline alone: from a cached corpus to batches, on one core.

    python benchmarks/data_speed.py [--documents 100000]

Makes a corpus of documents with lengths like the paper's (normal, mean 2,118 tokens, capped by
4,500), one of chats (lognormal, mean 819) and one of short chats (63 tokens) as a token store, then
times what a run does at its start (open, choose, pack) and how fast batches come. The packing
efficiency is the real share of token slots.
"""

import argparse
import os
import pathlib
import sys
import tempfile
import time

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from msm_jax.data import packing, pipeline, store


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--documents", type=int, default=100_000)
    options = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    rng, n = np.random.default_rng(0), options.documents
    corpora = {
        "documents": np.clip(rng.normal(2118, 700, n), 200, 4500).astype(int),
        "chats": np.clip(rng.lognormal(6.55, 0.56, n), 50, 4000).astype(int),
        "short chats": rng.integers(40, 87, n),
    }
    with tempfile.TemporaryDirectory() as folder:
        for name, lengths in corpora.items():
            where = pathlib.Path(folder, name)
            write(where, lengths, rng)
            for row_length in (4096, 8192):
                measure(name, where, row_length)


def write(where: pathlib.Path, lengths: np.ndarray, rng) -> None:
    """A store as `load_store` makes it."""
    ids = (rng.integers(1, 150_000, n, np.uint32) for n in lengths)
    rows = (store.Tokens(x, np.full(len(x), store.ASSISTANT, np.uint8)) for x in ids)
    where.mkdir()
    store._write(where, rows, {})


def measure(name: str, where: pathlib.Path, row_length: int, rows: int = 16) -> None:
    started = time.perf_counter()
    found = store._open(where, store.OTHER)
    pieces = packing.find_pieces(found, np.arange(len(found.lengths)), row_length)
    index = packing.Packing([pieces], row_length, 0)
    data = pipeline.Data({"x": index}, {"x": 1.0}, rows, row_length, 0, 1.0)
    opened, tokens, step = time.perf_counter(), 0, 0
    while time.perf_counter() - opened < 3.0 and step < data.steps:
        tokens += int(np.count_nonzero(data.rows(step)["segment_ids"]))
        step += 1
    speed = tokens / (time.perf_counter() - opened)
    print(
        f"{name:12s} {len(found.lengths):,} documents, {index.tokens / 1e6:.1f}M tokens, rows of "
        f"{row_length}: start {opened - started:.2f} s, real share {index.fill:.3f}, "
        f"{speed / 1e6:.1f}M tokens/s"
    )


if __name__ == "__main__":
    main()
