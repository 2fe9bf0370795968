"""Tokens on disk: a corpus is tokenized once, and read by memory map from then on.

A store is a directory named by a hash of all that decides its content: the files, the tokenizer,
the chat format, which tokens carry loss. It appears complete, and is checked when it is opened.

    tokens.bin   uint32, all documents one after another
    kinds.bin    uint8, what each token is: TAG, OTHER or ASSISTANT
    offsets.npy  int64[documents + 1], the first token of each document
    shapes.npy   uint8[documents], which of them are a DOCUMENT, a COMPLETION or a CHAT
    facts.json   counts
"""

import collections
import dataclasses
import json
import os
import pathlib
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from msm_jax.corpus.records import HALF_CHARACTER
from msm_jax.corpus.rows import VERSION, Example, read_row
from msm_jax.corpus.writers.stub import WARNING, written_by_stub
from msm_jax.data.chat import ChatFormat, control_pattern, render_chat
from msm_jax.data.messages import WEIGHTS
from msm_jax.data.sources import read_source, source_hash
from msm_jax.data.template import FORMATS, find_format
from msm_jax.data.tokenizer import Tokenizer
from msm_jax.errors import UserError
from msm_jax.files import delete, new_directory, read_json, sha256_json, write_json
from msm_jax.progress import progress_bar

FORMAT = 3
LOSS_ON = ("all", "assistant")
# TAG: without loss in every stage: a document's begin-of-text token, its tag, prompts. OTHER: of a
# chat, all but the assistant's. ASSISTANT: the assistant's, and every other token of a document.
TAG, OTHER, ASSISTANT = 0, 1, 2
# A text; a text whose beginning is a prompt without loss; a conversation. Only the first may be
# split over rows.
DOCUMENT, COMPLETION, CHAT = 0, 1, 2
_FACTS = {
    **dict.fromkeys(("documents", "tokens", "assistant_tokens", "skipped"), int),
    **dict.fromkeys(("unused", "notes"), {str: int}),
    "bad": [str],
    "recipe": {"content": object, "format": object},
}
SHOWN = 10  # bad rows that are reported one by one


@dataclasses.dataclass(frozen=True)
class Tokens:
    """A row as tokens, with the keys of it that were not used and counts of what is worth a
    warning."""

    ids: list[int]
    kinds: np.ndarray
    shape: int = DOCUMENT
    unused: Iterable[str] = ()
    notes: Mapping[str, int] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Store:
    """A tokenized corpus.

    Attributes:
      tokens, kinds: uint32 and uint8 [tokens]; `kinds` as above.
      offsets: int64[documents + 1].
      shapes: uint8[documents]: DOCUMENT, COMPLETION or CHAT.
      least: tokens of this kind and higher ones carry loss.
      facts: {"documents", "tokens", "assistant_tokens", "skipped", "bad": [messages], "unused",
        "notes", "recipe"}. "assistant_tokens" are those of assistants, and of documents all: what
        the paper counts. "unused" counts rows by unused key, "notes" what is worth a warning by
        its sentence. "recipe" is what the directory is named by.
    """

    tokens: np.ndarray
    kinds: np.ndarray
    offsets: np.ndarray
    shapes: np.ndarray
    least: int
    facts: dict

    @property
    def lengths(self) -> np.ndarray:
        """int64[documents], in tokens."""
        return np.diff(self.offsets)

    def document(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """(token ids, loss mask) of a document."""
        here = slice(self.offsets[number], self.offsets[number + 1])
        return self.tokens[here], self.kinds[here] >= self.least

    def loss_tokens(self, starts: np.ndarray, stops: np.ndarray) -> np.ndarray:
        """int64[pieces]: tokens with loss of each piece starts..stops but its first, which nothing
        predicts."""
        with_loss = np.append(self.kinds >= self.least, False)
        edges = np.stack([starts, stops], axis=1).reshape(-1)
        return np.add.reduceat(with_loss, edges, dtype=np.int64)[::2] - with_loss[starts]

    def assistant_tokens(self, numbers: np.ndarray) -> int:
        """ASSISTANT tokens of some documents."""
        if len(numbers) == len(self.lengths):
            return self.facts["assistant_tokens"]
        spans = zip(self.offsets[numbers], self.offsets[numbers + 1], strict=True)
        return sum(int(np.count_nonzero(self.kinds[a:b] == ASSISTANT)) for a, b in spans)


def cache_directory(named: str = "") -> pathlib.Path:
    """Where stores are kept: as named, or $MSM_JAX_CACHE, or ~/.cache/msm_jax/tokens."""
    chosen = os.environ.get("MSM_JAX_CACHE", "")
    found = named or (chosen if chosen != "off" else "") or "~/.cache/msm_jax/tokens"
    return pathlib.Path(found).expanduser()


def load_store(
    source: Mapping,
    tokenizer: Tokenizer,
    chat_format: str,
    cache: str = "",
    format: ChatFormat | UserError | None = None,
) -> tuple[Store, str]:
    """The store of a source, and its key; tokenizes what is not in the cache.

    Args:
      source: {"path", "loss_on", "tag", "bad_rows", "encoding_errors"} as in train/config.py.
      format: the chat format of this name; None: the one that is found with the tokenizer.

    Raises:
      UserError: with file:line, for rows that cannot be used, if there are more than allowed.
    """
    source = {"tag": "", "bad_rows": 0.0, "encoding_errors": "strict", **source}
    if chat_format not in FORMATS:
        raise UserError(f"chat_format={chat_format!r}: one of {sorted(FORMATS)}")
    path = os.fspath(source["path"])
    try:
        format = format or find_format(chat_format, tokenizer.directory or ".", tokenizer)
    except UserError as error:
        format = error  # raised by the first chat: documents need no format
    written = [format.source, format.fingerprint] if isinstance(format, ChatFormat) else None
    recipe = {
        "format": [FORMAT, VERSION],
        "content": source_hash(path),
        "tokenizer": tokenizer.fingerprint,
        "chat_format": [chat_format, written],
        **{key: source[key] for key in ("loss_on", "tag", "bad_rows", "encoding_errors")},
    }
    key = sha256_json(recipe)
    folder = cache_directory(cache) / key[:32]
    least = ASSISTANT if source["loss_on"] == "assistant" else OTHER
    store = _open(folder, least)
    if store is None:
        rows = _tokenized(path, source, tokenizer, format, least)
        try:
            if folder.exists() and _open(folder, least) is None:
                delete(folder, folder.parent)  # a damaged store
            with new_directory(folder, racing=True) as temporary:
                _write(temporary, rows, recipe)
        except OSError as error:
            what = f"tokens cannot be written there: {error.strerror}: set token_cache"
            raise UserError(f"{folder.parent}: {what}") from error
        store = _open(folder, least)
        assert store is not None
    return store, key


def _open(folder: pathlib.Path, least: int) -> Store | None:
    """The store of a folder; None where there is none, or it is damaged."""
    try:
        facts = read_json(folder / "facts.json", _FACTS)
        if facts is None:
            return None
        offsets, shapes = np.load(folder / "offsets.npy"), np.load(folder / "shapes.npy")
        sizes = [(folder / name).stat().st_size for name in ("tokens.bin", "kinds.bin")]
    except (OSError, ValueError, EOFError, MemoryError, zipfile.BadZipFile, UserError):
        return None
    count, documents = facts["tokens"], facts["documents"]
    expected = ((offsets, np.int64, documents + 1), (shapes, np.uint8, documents))
    for array, dtype, length in expected:
        if getattr(array, "dtype", None) != dtype or array.shape != (length,):
            return None
    if [*sizes, offsets[0], offsets[-1]] != [4 * count, count, 0, count]:
        return None
    if np.any(offsets[1:] < offsets[:-1]) or (facts["skipped"] and not facts["bad"]):
        return None
    tokens = np.memmap(folder / "tokens.bin", np.uint32, "r")
    kinds = np.memmap(folder / "kinds.bin", np.uint8, "r")
    return Store(tokens, kinds, offsets, shapes, least, facts)


def _write(folder: pathlib.Path, rows: Iterable[Tokens | str], recipe: dict) -> None:
    """Writes rows, or why one cannot be used, as the files of a store."""
    offsets, shapes, bad, assistant = [0], [], [], 0
    unused, notes = collections.Counter[str](), collections.Counter[str]()
    with open(folder / "tokens.bin", "wb") as tokens, open(folder / "kinds.bin", "wb") as kinds:
        for row in rows:
            if isinstance(row, str):
                bad.append(row)
                continue
            tokens.write(np.asarray(row.ids, np.uint32).tobytes())
            kinds.write(bytes(row.kinds))
            offsets.append(offsets[-1] + len(row.ids))
            shapes.append(row.shape)
            assistant += bytes(row.kinds).count(ASSISTANT)
            unused.update(row.unused)
            notes.update(row.notes)
    np.save(folder / "offsets.npy", np.asarray(offsets, np.int64))
    np.save(folder / "shapes.npy", np.asarray(shapes, np.uint8))
    facts = {
        "documents": len(offsets) - 1,
        "tokens": offsets[-1],
        "assistant_tokens": assistant,
        "skipped": len(bad),
        "bad": bad[:SHOWN],
        "unused": dict(sorted(unused.items())),
        "notes": dict(sorted(notes.items())),
        "recipe": recipe,
    }
    write_json(folder / "facts.json", facts)


def _tokenized(
    path: str, source: Mapping, tokenizer: Tokenizer, format: ChatFormat | UserError, least: int
) -> Iterator[Tokens | str]:
    """Each row as tokens, or why it cannot be used.

    UserError if a larger share than source["bad_rows"] cannot, or for a chat without a format.
    """
    found, bad = 0, []
    with progress_bar(None, f"tokens of {path}", "rows") as bar:
        for where, row in read_source(path, source["encoding_errors"]):
            bar.update()
            try:
                if isinstance(row, UserError):
                    raise row
                tokens = _tokens(row, where, source["tag"], tokenizer, format, least)
            except _NoFormat as error:
                raise UserError(str(error)) from error
            except UserError as error:
                if not source["bad_rows"]:
                    raise
                bad.append(str(error))
                yield str(error)
                continue
            found += 1
            yield tokens
    if len(bad) > source["bad_rows"] * (found + len(bad)):
        raise UserError(
            f"{path}: {len(bad)} of {found + len(bad)} rows cannot be used, "
            f"bad_rows={source['bad_rows']} allows fewer; the first: " + "; ".join(bad[:3])
        )
    if not found:
        raise UserError(f"{path}: holds no records")


class _NoFormat(Exception):
    """A chat where there is no chat format: not the row's fault."""


def _tokens(
    row: Mapping,
    where: str,
    tag: str,
    tokenizer: Tokenizer,
    format: ChatFormat | UserError,
    least: int,
) -> Tokens:
    try:
        example = read_row(row)
        if least == OTHER:
            _refuse_weights(example.messages)
        chat = example.messages
        found = _chat(example, tokenizer, format) if chat else _document(example, tag, tokenizer)
    except (UserError, AttributeError) as error:
        raise UserError(f"{where}: {error}") from error
    except RecursionError as error:
        raise UserError(f"{where}: nested too deep to be read: delete the row") from error
    if written_by_stub(row):
        found = dataclasses.replace(found, notes={**found.notes, WARNING: 1})
    if not np.any(found.kinds[1:] >= least):
        raise UserError(
            f"{where}: nothing in this row carries loss: it has no assistant, or only messages of "
            "weight 0"
        )
    return found


def _refuse_weights(messages: Sequence[Mapping]) -> None:
    """Refuses weights in a chat of which every message carries loss."""
    for number, message in enumerate(messages):
        for key in WEIGHTS:
            if message.get(key) not in (None, 1):
                raise UserError(
                    f"message {number}: {key!r} is {message[key]!r}, but loss_on='all' trains on "
                    "every message: set loss_on='assistant', or delete the key"
                )


def _chat(example: Example, tokenizer: Tokenizer, format: ChatFormat | UserError) -> Tokens:
    if isinstance(format, UserError):
        raise _NoFormat(str(format)) from format
    messages = list(example.messages)
    _refuse_half_characters(json.dumps([messages, example.tools], ensure_ascii=False, default=str))
    notes: collections.Counter = collections.Counter()
    ids, loss = render_chat(tokenizer, format, messages, tools=example.tools, notes=notes)
    kinds = np.asarray(loss, np.uint8) * (ASSISTANT - OTHER) + OTHER
    if example.given:
        prompt = messages[: example.given]
        asks = prompt[-1].get("role") != "assistant"
        before, _ = render_chat(tokenizer, format, prompt, asks, example.tools)
        if before != ids[: len(before)]:
            raise UserError(
                "the chat format writes this prompt in another way when its completion follows, so "
                "that the completion's tokens are not certain: give 'messages' instead"
            )
        kinds[: len(before)] = TAG
    return Tokens(ids, kinds, CHAT, example.unused, notes)


def _document(example: Example, tag: str, tokenizer: Tokenizer) -> Tokens:
    text = example.prompt + example.text
    _refuse_half_characters(text)
    before = [*tokenizer.start_ids, *(tokenizer.encode(tag) if tag else [])]
    if example.prompt:
        ids, starts = tokenizer.encode_with_starts(text)
        # A token that begins in the prompt belongs to the prompt.
        with_loss = np.asarray(starts, np.int64) >= len(example.prompt)
    else:
        ids = tokenizer.encode(text)
        with_loss = np.ones(len(ids), bool)
    kinds = np.full(len(before) + len(ids) + 1, ASSISTANT, np.uint8)
    kinds[: len(before)] = TAG
    kinds[len(before) : -1][~with_loss] = TAG
    ids = [*before, *ids, tokenizer.control(tokenizer.end_of_document)]
    names = {*control_pattern(tokenizer.control_names).findall(text)}
    notes = {f"{name!r} in a text stays text: documents": 1 for name in names}
    return Tokens(ids, kinds, COMPLETION if example.prompt else DOCUMENT, example.unused, notes)


def _refuse_half_characters(text: str) -> None:
    if HALF_CHARACTER.search(text):
        raise UserError("half a character (\\ud...) in it: fix the line")
