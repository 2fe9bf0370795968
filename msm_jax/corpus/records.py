"""Reads records of a corpus (JSONL, Parquet) and writes them in other formats than JSONL."""

import contextlib
import gzip
import io
import json
import os
import pathlib
import re
import zlib
from collections.abc import Iterator
from typing import Any

from msm_jax.errors import UserError
from msm_jax.files import new_file, parse_json
from msm_jax.limits import LINE_BYTES, open_regular

TOO_LONG = f"has more bytes than {LINE_BYTES}: split it into rows"
# TFDS data sets.
DOCUMENTS, CHATS = "spec_documents", "spec_chats"
_BATCH = 128  # rows of Parquet that are in memory at once
CONTENT = {DOCUMENTS: "text", CHATS: "messages"}  # the column beside "id" and "provenance"
HALF_CHARACTER = re.compile("[\ud800-\udfff]")  # JSON can spell what UTF-8 cannot hold


def without_surrogates(text: str) -> str:
    """The text with U+FFFD for each half of a surrogate pair, which UTF-8 cannot encode."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return HALF_CHARACTER.sub("\ufffd", text)
    return text


def read_rows(path: str | os.PathLike) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number and object of each row of a JSONL file, also of NAME.gz and NAME.zst.

    Blank lines are skipped.
    """
    for number, at, line in read_lines(path):
        yield number, parse_row(line, f"{path}:{number}", at)


def read_lines(path: str | os.PathLike) -> Iterator[tuple[int, int, bytes]]:
    """(number, first byte, content) of the lines of a file that are not blank.

    A file that is called .gz or .zst is decompressed.

    Raises:
      UserError: it cannot be read, ends in the middle of its compressed data, or has a line of
        more than `LINE_BYTES`, which is refused before it has been read.
    """
    at = 0
    try:
        with _opened(os.fspath(path)) as file:
            some = iter(lambda: file.readline(LINE_BYTES + 1), b"")
            for number, line in enumerate(some, start=1):
                if len(line) > LINE_BYTES:
                    raise UserError(f"{path}:{number}: {TOO_LONG}")
                if line.strip():
                    yield number, at, line
                at += len(line)
    except (EOFError, zlib.error, gzip.BadGzipFile, ValueError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # pyarrow's have none
            raise UserError(f"{path}: cannot be read: {error.strerror}: check the path") from error
        raise UserError(f"{path}: compressed data is truncated or damaged: {error}") from error


@contextlib.contextmanager
def _opened(path: str) -> Iterator[Any]:
    # A shell passes <(command) as a pipe with such a name.
    meant = path.startswith(("/dev/fd/", "/dev/stdin"))
    with open(path, "rb") if meant else open_regular(path) as raw:
        if path.endswith(".gz"):
            with gzip.open(raw, "rb") as file:
                yield file
        elif path.endswith(".zst"):
            import pyarrow

            stream = pyarrow.CompressedInputStream(pyarrow.PythonFile(raw, "r"), "zstd")
            yield io.BufferedReader(stream)
        else:
            yield raw


def read_parquet(path: str | os.PathLike) -> Iterator[tuple[int, dict[str, Any]]]:
    """Number and content of each row, without nulls.

    A Parquet file has every column in every row, and every key in every struct, so that null means
    a missing key. Only a "content" of null stays, of a message that does nothing but call tools.

    Raises:
      UserError: it cannot be read, is a pipe or device, or has a row of more than `LINE_BYTES`.
    """
    import pyarrow
    import pyarrow.parquet

    try:
        first = 1
        with open_regular(path) as file:
            for batch in pyarrow.parquet.ParquetFile(file).iter_batches(_BATCH):
                for number in range(len(batch)) if batch.nbytes > LINE_BYTES else ():
                    if batch.slice(number, 1).nbytes > LINE_BYTES:
                        raise UserError(f"{path}:{first + number}: {TOO_LONG}")
                for number, row in enumerate(batch.to_pylist(), start=first):
                    yield number, _without_nulls(row)
                first += len(batch)
    except (OSError, ValueError, OverflowError, pyarrow.ArrowException) as error:
        raise UserError(f"{path}: not a complete Parquet file: {error}") from error


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        kept = {key: each for key, each in value.items() if each is not None or key == "content"}
        return {key: _without_nulls(each) for key, each in kept.items()}
    return [_without_nulls(each) for each in value] if isinstance(value, list) else value


def parse_row(
    line: bytes, where: str, offset: int = 0, encoding_errors: str = "strict"
) -> dict[str, Any]:
    """The JSON object of a line at `where` (file:line), whose first byte is at `offset`.

    With `encoding_errors` "replace", bytes that are not UTF-8 are read as U+FFFD.

    Raises:
      UserError: it is none, has more than `LINE_BYTES`, or is nested deeper than `JSON_DEPTH`.
    """
    if len(line) > LINE_BYTES + 1:  # with its newline
        raise UserError(f"{where}: {TOO_LONG}")
    try:
        # utf-8-sig because some editors start a file with a byte order mark.
        row = parse_json(line.decode("utf-8-sig", encoding_errors))
    except UnicodeDecodeError as error:
        raise UserError(
            f"{where}: not UTF-8 text (byte {offset + error.start}): save the file as UTF-8"
        ) from error
    except ValueError as error:
        raise UserError(
            f"{where}: not JSON ({error}; the line begins at byte {offset}): fix or delete it"
        ) from error
    if not isinstance(row, dict):
        raise UserError(f"{where}: a row must be a JSON object, not {type(row).__name__}")
    return row


def checked_rows(name: str, path: str | os.PathLike) -> Iterator[dict[str, str]]:
    """The rows of a JSONL file as texts: `text` or `messages` (a JSON list), `id`, `provenance`.

    `provenance` is a JSON object of all other keys.

    Raises:
      UserError: a row is no document (or chat), with file:line.
    """
    key = CONTENT[name]
    for number, row in read_rows(path):
        content, row_id = row.pop(key, None), str(row.pop("id", f"line-{number:06d}"))
        problem = _chat_problem(content) if name == CHATS else ""
        if name == DOCUMENTS and (not isinstance(content, str) or not content.strip()):
            problem = "a document needs a non-empty 'text'"
        text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
        if not problem and HALF_CHARACTER.search(f"{text}{row_id}"):
            problem = "half a character (\\ud...) in it: correct the line"
        if problem:
            raise UserError(f"{path}:{number}: {problem}")
        yield {key: text, "id": row_id, "provenance": json.dumps(row, sort_keys=True)}


def _chat_problem(messages: Any) -> str:
    if not isinstance(messages, list) or not messages:
        return "a chat needs a non-empty list 'messages'"
    texts = [m.get(key) for m in messages if isinstance(m, dict) for key in ("role", "content")]
    if len(texts) < 2 * len(messages) or not all(isinstance(text, str) for text in texts):
        return "a message needs texts as 'role' and 'content'"
    return ""


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
