"""Midtraining documents as the TFDS data set `spec_documents`, read at random.

    prepare_documents("midtrain_a.jsonl", "data/a")
    source = documents_source("data/a")
    source[3]["text"]

Also without this module, once it is prepared: `tfds.data_source("spec_documents",
data_dir="data/a", split="train")`, whose strings are bytes.
"""

import contextlib
import io
import json
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

from msm_jax.corpus import records
from msm_jax.errors import UserError

NAME = "spec_documents"


class DocumentsSource(Sequence):
    """Random access to documents: `{"text", "id", ...}` as in the JSONL they came from."""

    def __init__(self, source: Sequence):
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"document {index} of {len(self)}")
        return _row(self._source[index % len(self)])

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[index] for index in range(len(self)))


def prepare_documents(jsonl_path: str | pathlib.Path, data_dir: str | pathlib.Path) -> None:
    """Writes the JSONL as a data set into `data_dir`; done already, it does nothing.

    Another corpus in the same folder is an error: TFDS would go on with the old one.
    """
    wanted = records.file_hash(jsonl_path)
    count = sum(1 for _ in records.document_records(jsonl_path))
    if not count:
        raise UserError(f"{jsonl_path}: there is no document in it")
    builder = _builder(data_dir, jsonl=jsonl_path)
    if builder.data_path.exists():
        found = (builder.info.metadata or {}).get("sha256")
        if found != wanted:
            raise UserError(
                f"{builder.data_path}: holds other documents (sha256 {found}) than {jsonl_path} "
                f"(sha256 {wanted}): delete that folder or give another data_dir"
            )
        return
    config = _tfds().download.DownloadConfig(try_download_gcs=False, num_shards=1)
    with contextlib.redirect_stdout(
        io.StringIO()
    ):  # it prints that it downloads, which it does not
        builder.download_and_prepare(download_config=config)


def documents_source(data_dir: str | pathlib.Path) -> DocumentsSource:
    """The documents that were prepared in `data_dir`, in the order of their JSONL."""
    builder = _builder(data_dir)
    if not builder.data_path.exists():
        raise UserError(f"{data_dir}: no {NAME} was prepared here: call prepare_documents first")
    return DocumentsSource(builder.as_data_source(split="train"))


def _tfds():
    """TFDS without its progress bars; imported late because it takes a while."""
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()
    return tfds


def _builder(data_dir: str | pathlib.Path, **kwargs: Any):
    _tfds()
    from msm_jax.corpus.spec_documents import spec_documents_dataset_builder

    return spec_documents_dataset_builder.Builder(data_dir=str(data_dir), **kwargs)


def _row(record: dict[str, bytes]) -> dict[str, Any]:
    row = json.loads(record["provenance"])
    return {"text": _text(record["text"]), "id": _text(record["id"]), **row}


def _text(value: bytes | str) -> str:
    return value if isinstance(value, str) else value.decode("utf-8")
