"""Tokens on disk: a corpus is tokenized once, and read by memory map ever after.

A store is a directory named by a hash of all that decides its content: the files, the tokenizer,
the chat format, what is learned. It is written aside and renamed, and checked when it is opened.

    tokens.bin   uint32, all documents one after another
    kinds.bin    uint8, what each token is: TAG, OTHER or SAID
    offsets.npy  int64[documents + 1], where each document begins
    facts.json   counts
"""

import dataclasses
import functools
import hashlib
import json
import os
import pathlib
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping

import numpy as np

from msm_jax.corpus.records import HALF_CHARACTER
from msm_jax.data.chat import render_chat
from msm_jax.data.sources import read_source, source_hash
from msm_jax.data.template import FORMATS, OWN, find_format
from msm_jax.data.tokenizer import Tokenizer
from msm_jax.errors import UserError

FORMAT = 1
LOSS_ON = ("all", "assistant")
# A document's tag, never learned; what stands around what an assistant says; what it says, and
# every token of a document.
TAG, OTHER, SAID = 0, 1, 2
SHOWN = 10  # bad rows that are told one by one


@dataclasses.dataclass(frozen=True)
class Store:
    """A tokenized corpus.

    Attributes:
      tokens, kinds: uint32 and uint8 [tokens]; `kinds` as above.
      offsets: int64[documents + 1].
      least: the kind from which on a token is learned.
      facts: {"documents", "tokens", "said", "skipped", "bad": [messages]}; "said" are the tokens
        that assistants say, and of documents all: what the paper counts.
    """

    tokens: np.ndarray
    kinds: np.ndarray
    offsets: np.ndarray
    least: int
    facts: dict

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.offsets)

    def document(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """(token ids, loss mask) of a document."""
        here = slice(self.offsets[number], self.offsets[number + 1])
        return self.tokens[here], self.kinds[here] >= self.least

    def learned(self, numbers: np.ndarray) -> int:
        """Learned tokens of some documents."""
        if len(numbers) == len(self.lengths):
            return int(np.count_nonzero(self.kinds >= self.least))
        return sum(int(np.count_nonzero(self.document(n)[1])) for n in numbers)


def cache_directory(named: str = "") -> pathlib.Path:
    """Where stores lie: as named, or $MSM_JAX_CACHE, or ~/.cache/msm_jax/tokens."""
    found = named or os.environ.get("MSM_JAX_CACHE") or "~/.cache/msm_jax/tokens"
    return pathlib.Path(found).expanduser()


def load_store(
    source: Mapping, tokenizer: Tokenizer, chat_format: str, cache: str = ""
) -> tuple[Store, str]:
    """The store of a source, and its key; tokenizes what is not in the cache.

    Args:
      source: {"path", "loss_on", "tag", "bad_rows", "encoding_errors"} as in train/config.py.
      chat_format: a name that `find_format` knows; "own" is the template beside the tokenizer.
      cache: a directory, see `cache_directory`.

    Raises:
      UserError: with file:line, for rows that cannot be used, if there are more than allowed.
    """
    source = {"tag": "", "bad_rows": 0.0, "encoding_errors": "strict", **source}
    if source["loss_on"] not in LOSS_ON:
        raise UserError(f"loss_on={source['loss_on']!r}: one of {LOSS_ON}")
    if source["encoding_errors"] not in ("strict", "replace"):
        raise UserError(f"encoding_errors={source['encoding_errors']!r}: strict or replace")
    if chat_format not in FORMATS:
        raise UserError(f"chat_format={chat_format!r}: one of {sorted(FORMATS)}")
    # Looked up where there are chats: a tokenizer for documents needs no control tokens for them.
    format = functools.cache(
        lambda: find_format(chat_format, tokenizer.directory or ".", tokenizer)
    )
    path = os.fspath(source["path"])
    asked = {
        "format": FORMAT,
        "content": source_hash(path),
        "tokenizer": tokenizer.fingerprint,
        "chat_format": [chat_format, format().source] if chat_format in OWN else chat_format,
        **{key: source[key] for key in ("loss_on", "tag", "bad_rows", "encoding_errors")},
    }
    key = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
    folder = cache_directory(cache) / key[:32]
    least = SAID if source["loss_on"] == "assistant" else OTHER
    store = _open(folder, least)
    if store is None:
        _write(folder, _tokenized(path, source, tokenizer, format, least), asked)
        store = _open(folder, least)
        assert store is not None
    return store, key


def _open(folder: pathlib.Path, least: int) -> Store | None:
    """The store of a folder; None where there is none, or not all of it."""
    try:
        facts = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
        offsets = np.load(folder / "offsets.npy")
        sizes = [(folder / name).stat().st_size for name in ("tokens.bin", "kinds.bin")]
    except (OSError, ValueError):
        return None
    if sizes != [4 * facts["tokens"], facts["tokens"]] or offsets[-1] != facts["tokens"]:
        return None
    read = lambda name, dtype: np.memmap(folder / name, dtype, "r")
    return Store(read("tokens.bin", np.uint32), read("kinds.bin", np.uint8), offsets, least, facts)


def _write(folder: pathlib.Path, documents: Iterable, asked: dict) -> None:
    """Aside and renamed; of two processes that write the same store, one wins."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        aside = pathlib.Path(tempfile.mkdtemp(prefix=f"{folder.name}.", dir=folder.parent))
    except OSError as error:
        raise UserError(
            f"{folder.parent}: tokens cannot be kept there: {error.strerror}: set token_cache"
        ) from error
    try:
        offsets, bad, said = [0], [], 0
        with open(aside / "tokens.bin", "wb") as tokens, open(aside / "kinds.bin", "wb") as kinds:
            for document in documents:
                if isinstance(document, str):
                    bad.append(document)
                    continue
                ids, kind = document
                tokens.write(np.asarray(ids, np.uint32).tobytes())
                kinds.write(bytes(kind))
                offsets.append(offsets[-1] + len(ids))
                said += bytes(kind).count(SAID)
        np.save(aside / "offsets.npy", np.asarray(offsets, np.int64))
        facts = {
            "documents": len(offsets) - 1,
            "tokens": offsets[-1],
            "said": said,
            "skipped": len(bad),
            "bad": bad[:SHOWN],
            "asked": asked,
        }
        (aside / "facts.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
        if folder.exists() and _open(folder, OTHER) is None:
            shutil.rmtree(folder)  # a store that is not whole
        if not folder.exists():
            try:
                os.rename(aside, folder)
            except OSError:
                if not folder.exists():
                    raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _tokenized(path: str, source: Mapping, tokenizer: Tokenizer, format: Callable, least: int):
    """(ids, kinds) of each document, or why there is none.

    Raises:
      UserError: there are more bad rows than source["bad_rows"], a share of all, allows.
    """
    from tqdm import tqdm

    found, bad = 0, []
    rows = read_source(path, source["encoding_errors"])
    for where, row in tqdm(
        rows, f"tokens of {path}", unit=" rows", disable=not sys.stderr.isatty()
    ):
        try:
            if isinstance(row, UserError):
                raise row
            document = _document(row, where, source["tag"], tokenizer, format, least)
        except UserError as error:
            if not source["bad_rows"]:
                raise
            bad.append(str(error))
            yield str(error)
            continue
        found += 1
        yield document
    if len(bad) > source["bad_rows"] * (found + len(bad)):
        raise UserError(
            f"{path}: {len(bad)} of {found + len(bad)} rows cannot be used, "
            f"bad_rows={source['bad_rows']} allows fewer; the first: " + "; ".join(bad[:3])
        )
    if not found:
        raise UserError(f"{path}: holds no records")


def _document(row, where: str, tag: str, tokenizer, format: Callable, least: int):
    text, messages = row.get("text"), row.get("messages")
    if isinstance(messages, list) and messages:
        if HALF_CHARACTER.search(_all_text(messages)):
            raise UserError(f"{where}: half a character (\\ud...) in it: mend the line")
        try:
            ids, said = render_chat(tokenizer, format(), messages)
        except (UserError, AttributeError) as error:
            raise UserError(f"{where}: {error}") from error
        kinds = np.asarray(said, np.uint8) * (SAID - OTHER) + OTHER
    elif isinstance(text, str) and text.strip():
        if HALF_CHARACTER.search(text):
            raise UserError(f"{where}: half a character (\\ud...) in it: mend the line")
        before = tokenizer.encode(tag) if tag else []
        end = tokenizer.control(tokenizer.end_of_document)
        ids = [*before, *tokenizer.encode(text), end]
        kinds = np.full(len(ids), SAID, np.uint8)
        kinds[: len(before)] = TAG
    else:
        raise UserError(f"{where}: needs a non-empty 'text' or 'messages'")
    if not np.any(kinds[1:] >= least):
        raise UserError(f"{where}: nothing in this row is learned (no assistant)")
    return ids, kinds


def _all_text(messages: list) -> str:
    """All the text of a conversation, to search in."""
    return "".join(str(m.get("content")) for m in messages if isinstance(m, dict))
