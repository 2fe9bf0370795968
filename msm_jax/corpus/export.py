"""The corpus in other formats beside its JSONL."""

import pathlib
from collections.abc import Sequence

from msm_jax.corpus import tfds_sets
from msm_jax.corpus.records import read_lines, read_rows
from msm_jax.errors import UserError
from msm_jax.files import delete, new_file


def export(
    workdir: pathlib.Path, name: str, formats: Sequence[str], data_set: str = ""
) -> list[str]:
    """Writes the other formats of `workdir/name`; returns the names of the new files.

    Args:
      name: "documents.jsonl" or "chats.jsonl".
      formats: of "jsonl" (which exists), "parquet", "array_record", "tfds".
      data_set: folder of the TFDS data set; "" is "tfds".
    """
    path, stem, written = workdir / name, name.removesuffix(".jsonl"), []
    for kind, write in (("parquet", write_parquet), ("array_record", write_array_record)):
        if kind in formats:
            written.append(f"{stem}.{kind}")
            write(path, workdir / written[-1])
    if "tfds" in formats:
        folder = workdir / (data_set or "tfds")
        delete(folder, workdir)  # TFDS would go on using an older corpus
        tfds_sets.prepare(f"spec_{stem}", path, folder)
    return written


def write_parquet(jsonl: pathlib.Path, path: pathlib.Path) -> None:
    """All keys as columns; columns whose values differ in type are refused by name."""
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.Table.from_pylist([row for _, row in read_rows(jsonl)])
    except pyarrow.ArrowException as error:
        raise UserError(f"{jsonl}: its rows do not make one table: {error}") from error
    with new_file(path) as temporary:
        pyarrow.parquet.write_table(table, temporary, compression="zstd")


def write_array_record(jsonl: pathlib.Path, path: pathlib.Path) -> None:
    """One record per row: its JSON text. Groups of one, so that any row can be read alone."""
    from array_record.python.array_record_module import ArrayRecordWriter

    with new_file(path) as temporary:
        writer = ArrayRecordWriter(str(temporary), "group_size:1")
        for _, _, line in read_lines(jsonl):
            writer.write(line.rstrip(b"\n"))
        writer.close()
