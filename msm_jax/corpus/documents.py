"""Midtraining documents as the TFDS data set `spec_documents`, read at random.

    prepare_documents("midtrain_a.jsonl", "data/a")
    source = documents_source("data/a")
    source[3]["text"]

Also without this module, once it is prepared: `tfds.data_source("spec_documents",
data_dir="data/a", split="train")`, whose strings are bytes. Chats: `corpus.tfds_sets`.
"""

import pathlib

from msm_jax.corpus import tfds_sets


def prepare_documents(jsonl_path: str | pathlib.Path, data_dir: str | pathlib.Path) -> None:
    """Writes the JSONL as a data set into `data_dir`; see `tfds_sets.prepare`."""
    tfds_sets.prepare(tfds_sets.DOCUMENTS, jsonl_path, data_dir)


def documents_source(data_dir: str | pathlib.Path) -> tfds_sets.RowSource:
    """The documents that were prepared in `data_dir`, in the order of their JSONL."""
    return tfds_sets.source(tfds_sets.DOCUMENTS, data_dir)
