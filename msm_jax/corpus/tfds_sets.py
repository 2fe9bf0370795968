"""Documents and chats as the TFDS data sets `spec_documents` and `spec_chats`, read at random.

    prepare("spec_documents", "documents.jsonl", "data/a")
    rows = source("spec_documents", "data/a")
    rows[3]["text"]

Also without this module, once it is prepared: `tfds.data_source("spec_documents",
data_dir="data/a", split="train")`, whose strings are bytes.
"""

import contextlib
import importlib
import io
import json
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

from msm_jax.corpus import records
from msm_jax.corpus.chat_records import chat_records
from msm_jax.errors import UserError

DOCUMENTS, CHATS = "spec_documents", "spec_chats"
_READERS = {DOCUMENTS: records.document_records, CHATS: chat_records}
_WHAT = {DOCUMENTS: "documents", CHATS: "chats"}


class RowSource(Sequence):
    """Random access to rows: `{"text" or "messages", "id", ...}` as in the JSONL they came from."""

    def __init__(self, source: Sequence):
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        return _row(self._source[index % len(self)])

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[index] for index in range(len(self)))


def prepare(name: str, jsonl_path: str | pathlib.Path, data_dir: str | pathlib.Path) -> None:
    """Writes the JSONL as a data set into `data_dir`; done already, it does nothing.

    Another corpus in the same folder is an error: TFDS would go on with the old one.
    """
    wanted = records.file_hash(jsonl_path)
    count = sum(1 for _ in _READERS[name](jsonl_path))
    if not count:
        raise UserError(f"{jsonl_path}: there is no {_WHAT[name][:-1]} in it")
    builder = _builder(name, data_dir, jsonl=jsonl_path)
    if builder.data_path.exists():
        found = (builder.info.metadata or {}).get("sha256")
        if found != wanted:
            raise UserError(
                f"{builder.data_path}: holds other {_WHAT[name]} (sha256 {found}) than "
                f"{jsonl_path} (sha256 {wanted}): delete that folder or give another data_dir"
            )
        return
    config = _tfds().download.DownloadConfig(try_download_gcs=False, num_shards=1)
    with contextlib.redirect_stdout(
        io.StringIO()
    ):  # it prints that it downloads, which it does not
        builder.download_and_prepare(download_config=config)


def source(name: str, data_dir: str | pathlib.Path) -> RowSource:
    """The rows that were prepared in `data_dir`, in the order of their JSONL."""
    builder = _builder(name, data_dir)
    if not builder.data_path.exists():
        raise UserError(
            f"{data_dir}: no {name} was prepared here: call prepare_{_WHAT[name]} first"
        )
    return RowSource(builder.as_data_source(split="train"))


def _tfds():
    """TFDS without its progress bars; imported late because it takes a while."""
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()
    return tfds


def _builder(name: str, data_dir: str | pathlib.Path, **kwargs: Any):
    _tfds()
    module = importlib.import_module(f"msm_jax.corpus.{name}.{name}_dataset_builder")
    return module.Builder(data_dir=str(data_dir), **kwargs)


def _row(record: dict[str, bytes]) -> dict[str, Any]:
    row = json.loads(record["provenance"])
    if "messages" in record:
        return {"messages": json.loads(record["messages"]), "id": _text(record["id"]), **row}
    return {"text": _text(record["text"]), "id": _text(record["id"]), **row}


def _text(value: bytes | str) -> str:
    return value if isinstance(value, str) else value.decode("utf-8")
