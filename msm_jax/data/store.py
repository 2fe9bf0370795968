"""Tokens on disk: a corpus is tokenized once, and read by memory map ever after.

A store is a directory named by a hash of all that decides its content: the files, the tokenizer,
the chat format, what is learned. It is written aside and renamed, and checked when it is opened.

    tokens.bin   uint32, all documents one after another
    kinds.bin    uint8, what each token is: TAG, OTHER or SAID
    offsets.npy  int64[documents + 1], where each document begins
    shapes.npy   uint8[documents], which of them are a DOCUMENT, a COMPLETION or a CHAT
    facts.json   counts
"""

import collections
import dataclasses
import hashlib
import json
import os
import pathlib
import re
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from msm_jax.corpus.records import HALF_CHARACTER
from msm_jax.corpus.rows import VERSION, Example, read_row
from msm_jax.corpus.writers.stub import WARNING, written_by_stub
from msm_jax.data.chat import ChatFormat, render_chat
from msm_jax.data.messages import WEIGHTS
from msm_jax.data.sources import read_source, source_hash
from msm_jax.data.template import FORMATS, find_format
from msm_jax.data.tokenizer import Tokenizer
from msm_jax.errors import UserError

FORMAT = 2
LOSS_ON = ("all", "assistant")
# What is never learned: a document's begin-of-text token, its tag, prompts; what stands around what
# an assistant says; what it says, and every other token of a document.
TAG, OTHER, SAID = 0, 1, 2
# A text; a text of whose beginning, the prompt, nothing is learned; a conversation. Of these only
# the first may be split.
DOCUMENT, COMPLETION, CHAT = 0, 1, 2
SHOWN = 10  # bad rows that are reported one by one


@dataclasses.dataclass(frozen=True)
class Tokens:
    """A row as tokens.

    Attributes:
      ids, kinds: token ids, and what each of them is.
      shape: DOCUMENT, COMPLETION or CHAT.
      unused: keys of the row that were not used, see `rows.Example`.
      notes: counts of what is worth a warning, as of `render_chat`.
    """

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
      least: the kind from which on a token is learned.
      facts: {"documents", "tokens", "said", "skipped", "bad": [messages], "unused", "notes"};
        "said" are the tokens that assistants say, and of documents all: what the paper counts.
        "unused" counts rows by unused key, "notes" what is worth a warning by its sentence.
    """

    tokens: np.ndarray
    kinds: np.ndarray
    offsets: np.ndarray
    shapes: np.ndarray
    least: int
    facts: dict

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.offsets)

    def document(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """(token ids, loss mask) of a document."""
        here = slice(self.offsets[number], self.offsets[number + 1])
        return self.tokens[here], self.kinds[here] >= self.least

    def trained(self, starts: np.ndarray, stops: np.ndarray) -> np.ndarray:
        """Learned tokens of each piece starts..stops but its first, which nothing predicts."""
        learned = np.append(self.kinds >= self.least, False)
        edges = np.stack([starts, stops], axis=1).reshape(-1)
        return np.add.reduceat(learned, edges, dtype=np.int64)[::2] - learned[starts]

    def said(self, numbers: np.ndarray) -> int:
        """SAID tokens of some documents."""
        if len(numbers) == len(self.lengths):
            return self.facts["said"]
        spans = zip(self.offsets[numbers], self.offsets[numbers + 1], strict=True)
        return sum(int(np.count_nonzero(self.kinds[a:b] == SAID)) for a, b in spans)


def cache_directory(named: str = "") -> pathlib.Path:
    """Where stores are kept: as named, or $MSM_JAX_CACHE, or ~/.cache/msm_jax/tokens."""
    chosen = os.environ.get("MSM_JAX_CACHE", "")
    found = named or (chosen if chosen != "off" else "") or "~/.cache/msm_jax/tokens"
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
    path = os.fspath(source["path"])
    format = _format(chat_format, tokenizer)
    written = [format.source, format.fingerprint] if isinstance(format, ChatFormat) else None
    asked = {
        "format": [FORMAT, VERSION],
        "content": source_hash(path),
        "tokenizer": tokenizer.fingerprint,
        "chat_format": [chat_format, written],
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


def _format(name: str, tokenizer: Tokenizer) -> ChatFormat | UserError:
    """The chat format, or why there is none: documents need no one."""
    try:
        return find_format(name, tokenizer.directory or ".", tokenizer)
    except UserError as error:
        return error


def _open(folder: pathlib.Path, least: int) -> Store | None:
    """The store of a folder; None where there is none, or not all of it."""
    try:
        facts = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
        offsets = np.load(folder / "offsets.npy")
        shapes = np.load(folder / "shapes.npy")
        sizes = [(folder / name).stat().st_size for name in ("tokens.bin", "kinds.bin")]
    except (OSError, ValueError):
        return None
    if sizes != [4 * facts["tokens"], facts["tokens"]] or offsets[-1] != facts["tokens"]:
        return None
    if len(shapes) != facts["documents"]:
        return None
    read = lambda name, dtype: np.memmap(folder / name, dtype, "r")
    tokens, kinds = read("tokens.bin", np.uint32), read("kinds.bin", np.uint8)
    return Store(tokens, kinds, offsets, shapes, least, facts)


def _write(folder: pathlib.Path, rows: Iterable[Tokens | str], asked: dict) -> None:
    """Rows, or why one cannot be used, into a store.

    Aside and renamed; of two processes that write the same store, one wins.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        aside = pathlib.Path(tempfile.mkdtemp(prefix=f"{folder.name}.", dir=folder.parent))
    except OSError as error:
        raise UserError(
            f"{folder.parent}: tokens cannot be kept there: {error.strerror}: set token_cache"
        ) from error
    try:
        offsets, shapes, bad, said = [0], [], [], 0
        unused: collections.Counter = collections.Counter()
        notes: collections.Counter = collections.Counter()
        with open(aside / "tokens.bin", "wb") as tokens, open(aside / "kinds.bin", "wb") as kinds:
            for row in rows:
                if isinstance(row, str):
                    bad.append(row)
                    continue
                tokens.write(np.asarray(row.ids, np.uint32).tobytes())
                kinds.write(bytes(row.kinds))
                offsets.append(offsets[-1] + len(row.ids))
                shapes.append(row.shape)
                said += bytes(row.kinds).count(SAID)
                unused.update(row.unused)
                notes.update(row.notes)
        np.save(aside / "offsets.npy", np.asarray(offsets, np.int64))
        np.save(aside / "shapes.npy", np.asarray(shapes, np.uint8))
        facts = {
            "documents": len(offsets) - 1,
            "tokens": offsets[-1],
            "said": said,
            "skipped": len(bad),
            "bad": bad[:SHOWN],
            "unused": dict(sorted(unused.items())),
            "notes": dict(sorted(notes.items())),
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


def _tokenized(
    path: str, source: Mapping, tokenizer: Tokenizer, format: ChatFormat | UserError, least: int
) -> Iterator[Tokens | str]:
    """Each row as tokens, or why it cannot be used.

    Raises:
      UserError: there are more bad rows than source["bad_rows"], a share of all, allows; or a chat
        where there is no chat format.
    """
    from tqdm import tqdm

    found, bad = 0, []
    names = re.compile("|".join(map(re.escape, tokenizer.control_names)) or r"\Z.")
    rows = read_source(path, source["encoding_errors"])
    for where, row in tqdm(
        rows, f"tokens of {path}", unit=" rows", disable=not sys.stderr.isatty()
    ):
        try:
            if isinstance(row, UserError):
                raise row
            tokens = _tokens(row, where, source["tag"], tokenizer, format, names, least)
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


class _NoFormat(UserError):
    """A chat where there is no chat format: no fault of the row."""


def _tokens(row: Mapping, where: str, tag, tokenizer, format, names: re.Pattern, least) -> Tokens:
    try:
        example = read_row(row)
        if least == OTHER:
            _refuse_weights(example.messages)
        if example.messages:
            found = _chat(example, tokenizer, format)
        else:
            found = _document(example, tag, tokenizer, names)
    except _NoFormat:
        raise
    except (UserError, AttributeError) as error:
        raise UserError(f"{where}: {error}") from error
    except RecursionError as error:
        raise UserError(f"{where}: nested too deep to be read: delete the row") from error
    if written_by_stub(row):
        found = dataclasses.replace(found, notes={**found.notes, WARNING: 1})
    if not np.any(found.kinds[1:] >= least):
        raise UserError(
            f"{where}: nothing in this row is learned: no assistant speaks, or only with weight 0"
        )
    return found


def _refuse_weights(messages: Sequence[Mapping]) -> None:
    """Of a chat of which everything is learned, also what others than the assistant say."""
    for number, message in enumerate(messages):
        for key in WEIGHTS:
            if message.get(key) not in (None, 1):
                raise UserError(
                    f"message {number}: {key!r} is {message[key]!r}, but loss_on='all' learns "
                    "every message: set loss_on='assistant', or delete the key"
                )


def _chat(example: Example, tokenizer: Tokenizer, format: ChatFormat | UserError) -> Tokens:
    if isinstance(format, UserError):
        raise _NoFormat(str(format)) from format
    messages = list(example.messages)
    _refuse_half_characters(json.dumps([messages, example.tools], ensure_ascii=False, default=str))
    notes: collections.Counter = collections.Counter()
    ids, said = render_chat(tokenizer, format, messages, tools=example.tools, notes=notes)
    kinds = np.asarray(said, np.uint8) * (SAID - OTHER) + OTHER
    if example.given:
        prompt = messages[: example.given]
        asks = prompt[-1].get("role") != "assistant"
        before, _ = render_chat(tokenizer, format, prompt, asks, example.tools)
        if before != ids[: len(before)]:
            raise UserError(
                "the chat format writes this prompt in another way when its completion follows, so "
                "that what is the completion's cannot be told: give 'messages' instead"
            )
        kinds[: len(before)] = TAG
    return Tokens(ids, kinds, CHAT, example.unused, notes)


def _document(example: Example, tag: str, tokenizer: Tokenizer, names: re.Pattern) -> Tokens:
    text = example.prompt + example.text
    _refuse_half_characters(text)
    before = [*tokenizer.start_ids, *(tokenizer.encode(tag) if tag else [])]
    kinds = np.full(len(before), TAG, np.uint8)
    if example.prompt:
        ids, starts = tokenizer.encode_with_starts(text)
        # A token that begins in the prompt is the prompt's.
        learned = np.asarray(starts, np.int64) >= len(example.prompt)
    else:
        ids = tokenizer.encode(text)
        learned = np.ones(len(ids), bool)
    ids = [*before, *ids, tokenizer.control(tokenizer.end_of_document)]
    kinds = np.concatenate([kinds, np.where(learned, SAID, TAG), [SAID]]).astype(np.uint8)
    notes = {f"{name!r} in a text stays text: documents": 1 for name in {*names.findall(text)}}
    return Tokens(ids, kinds, COMPLETION if example.prompt else DOCUMENT, example.unused, notes)


def _refuse_half_characters(text: str) -> None:
    if HALF_CHARACTER.search(text):
        raise UserError("half a character (\\ud...) in it: mend the line")
