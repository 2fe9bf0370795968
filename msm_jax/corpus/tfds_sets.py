"""Documents and chats as the TFDS data sets `spec_documents` and `spec_chats`, read at random.

    prepare("spec_documents", "documents.jsonl", "data/a")
    rows = source("spec_documents", "data/a")
    rows[3]["text"]

A prepared data set can also be read without this package: `tfds.data_source("spec_documents",
data_dir="data/a", split="train")`, whose strings are bytes.
"""

import contextlib
import io
import json
import pathlib
from collections.abc import Sequence
from typing import Any

from msm_jax.corpus.records import CONTENT, checked_rows
from msm_jax.errors import UserError
from msm_jax.files import sha256_file


class RowSource(Sequence):
    """Random access to rows: `{"text" or "messages", "id", ...}` as in the JSONL they came from."""

    def __init__(self, source: Sequence, content: str):
        self._source, self._content = source, content

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        record = self._source[index % len(self)]
        texts = {k: v if isinstance(v, str) else v.decode("utf-8") for k, v in record.items()}
        content = texts[self._content]
        content = json.loads(content) if self._content == "messages" else content
        return {self._content: content, "id": texts["id"], **json.loads(texts["provenance"])}


def prepare(name: str, jsonl_path: str | pathlib.Path, data_dir: str | pathlib.Path) -> None:
    """Writes the JSONL as a data set into `data_dir`, unless it is there already.

    Raises:
      UserError: a row is wrong; `data_dir` has another corpus, which TFDS would go on using.
    """
    wanted, what = sha256_file(jsonl_path), name.removeprefix("spec_")
    if not sum(1 for _ in checked_rows(name, jsonl_path)):  # every row is checked
        raise UserError(f"{jsonl_path}: there is no {what[:-1]} in it")
    builder = _builder(name, data_dir, jsonl=jsonl_path)
    if builder.data_path.exists():
        found = (builder.info.metadata or {}).get("sha256")
        if found != wanted:
            raise UserError(
                f"{builder.data_path}: holds other {what} (sha256 {found}) than {jsonl_path} "
                f"(sha256 {wanted}): delete that folder or give another data_dir"
            )
        return
    import tensorflow_datasets as tfds

    config = tfds.download.DownloadConfig(try_download_gcs=False, num_shards=1)
    with contextlib.redirect_stdout(io.StringIO()):  # it prints that it downloads, and does not
        builder.download_and_prepare(download_config=config)


def source(name: str, data_dir: str | pathlib.Path) -> RowSource:
    """The rows that were prepared in `data_dir`, in the order of their JSONL."""
    builder = _builder(name, data_dir)
    if not builder.data_path.exists():
        raise UserError(
            f"{data_dir}: no {name} was prepared here: write it with "
            f'msm_jax.corpus.tfds_sets.prepare("{name}", JSONL, {str(data_dir)!r})'
        )
    return RowSource(builder.as_data_source(split="train"), CONTENT[name])


def _builder(name: str, data_dir: str | pathlib.Path, **kwargs: Any):
    import tensorflow_datasets as tfds  # takes a while

    from msm_jax.corpus.dataset_builders import BUILDERS

    tfds.disable_progress_bar()
    return BUILDERS[name](data_dir=str(data_dir), **kwargs)
