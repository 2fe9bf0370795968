"""The corpus in other formats beside its JSONL, each written aside and renamed."""

import os
import pathlib
import shutil
from collections.abc import Sequence

from msm_jax.corpus import records, tfds_sets
from msm_jax.errors import UserError


def export(
    workdir: pathlib.Path, name: str, formats: Sequence[str], data_set: str = ""
) -> list[str]:
    """Writes the other formats of `workdir/name`; returns the files that there are now.

    Args:
      workdir: of the corpus.
      name: "documents.jsonl" or "chats.jsonl".
      formats: of "jsonl" (is there already), "parquet", "array_record", "tfds".
      data_set: folder of the TFDS data set; "" is "tfds".
    """
    path, stem, written = workdir / name, name.removesuffix(".jsonl"), []
    if "parquet" in formats:
        write_parquet(path, workdir / f"{stem}.parquet")
        written.append(f"{stem}.parquet")
    if "array_record" in formats:
        write_array_record(path, workdir / f"{stem}.array_record")
        written.append(f"{stem}.array_record")
    if "tfds" in formats:
        kind = tfds_sets.CHATS if stem == "chats" else tfds_sets.DOCUMENTS
        folder = workdir / (data_set or "tfds")
        if folder.exists():
            shutil.rmtree(folder)  # TFDS would go on with an older corpus
        tfds_sets.prepare(kind, path, folder)
    return written


def write_parquet(jsonl: pathlib.Path, path: pathlib.Path) -> None:
    """All keys as columns; columns whose values differ in type are refused by name."""
    import pyarrow
    import pyarrow.parquet

    rows = [row for _, row in records.read_rows(jsonl)]
    try:
        table = pyarrow.Table.from_pylist(rows)
    except pyarrow.ArrowException as error:
        raise UserError(f"{jsonl}: its rows do not make one table: {error}") from error
    aside = path.with_name(f"{path.name}.partial")
    pyarrow.parquet.write_table(table, aside, compression="zstd")
    os.replace(aside, path)


def write_array_record(jsonl: pathlib.Path, path: pathlib.Path) -> None:
    """One record per row: its JSON text. Groups of one, so that any row can be read alone."""
    from array_record.python.array_record_module import ArrayRecordWriter

    aside = path.with_name(f"{path.name}.partial")
    writer = ArrayRecordWriter(str(aside), "group_size:1")
    with open(jsonl, "rb") as file:
        for line in file:
            if line.strip():
                writer.write(line.rstrip(b"\n"))
    writer.close()
    os.replace(aside, path)
