"""Tokenizers behind one face. Text is data: encoding it can never produce a control token.

Of the words that are added to a tokenizer.json, control tokens are those marked `special` and those
written as tags, `<...>` or `[...]` without a space, whatever their mark: Qwen's `<think>` and
`<tool_call>` are not `special`, and yet only a chat format may write them. All others are ordinary
words: in a text they become their own id, as in `transformers`.
"""

import hashlib
import json
import os
import pathlib
import re
import warnings
from collections.abc import Sequence
from typing import Any, Protocol

import sentencepiece

from msm_jax.errors import UserError

END_OF_DOCUMENT = "<|endoftext|>"
TOKENIZER_FILE = "tokenizer.model"  # of a SentencePiece tokenizer, in the directory of a run
HF_TOKENIZER_FILE = "tokenizer.json"
# Beside it; older checkpoints have the last two.
HF_SETTINGS_FILE, HF_SPECIAL_FILE, HF_ADDED_FILE = (
    "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"
)  # fmt: skip
# Keys of special tokens there, in the order in which `transformers` adds them.
_NAMED = (
    "bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"
)  # fmt: skip
_EXTRA = ("additional_special_tokens", "extra_special_tokens")
# Control tokens that end a document, the first that a tokenizer has: Qwen's, Llama 3's, Llama 2's.
_ENDS = (END_OF_DOCUMENT, "<|end_of_text|>", "</s>")
_TRIED = ("It's 12 o'clock in Ulm.\n\n  Yes: `x = 3`", "Größe ÉTÉ 東京 \t\u200d🙂")
_TAG = re.compile(r"<\S+>|\[\S+\]")
# The library computes with the first; truncation and padding are settings for batches.
_USED = {"model", "normalizer", "pre_tokenizer", "post_processor", "decoder", "added_tokens"}
_HARMLESS = {"version", "truncation", "padding"}


class Tokenizer(Protocol):
    """What the house asks of a tokenizer.

    Attributes:
      vocab_size: number of ids.
      control_names: the control tokens, longest first.
      end_of_document: the control token that a document ends with.
      start_ids: what a document or a text prompt begins with: what tokenizer.json's post-processor
        writes before every text, such as Llama 3's <|begin_of_text|>; () for none. What it writes
        after a text is left out: documents end with `end_of_document`, and prompts do not end.
      fingerprint: SHA-256 of the file, to tell one tokenizer from another.
      directory: where it was read from, and a chat template may lie; None: from memory.
    """

    vocab_size: int
    control_names: tuple[str, ...]
    end_of_document: str
    start_ids: tuple[int, ...]
    fingerprint: str
    directory: pathlib.Path | None

    def encode(self, text: str) -> list[int]:
        """Ids of the text, without `start_ids`; names of control tokens in it are plain text."""

    def encode_with_starts(self, text: str) -> tuple[list[int], list[int]]:
        """The ids, and the character of the text at which each of them starts."""

    def encode_marked(self, text: str) -> list[int]:
        """The ids of a text of our own, in which names of control tokens are control tokens."""

    def decode(self, ids: Sequence[int]) -> str:
        """Text of the ids; control tokens leave no trace in it."""

    def control(self, name: str) -> int:
        """The id of a control token, e.g. "<|end|>"; UserError if there is none."""


class SentencePieceTokenizer:
    """A SentencePiece model."""

    end_of_document = END_OF_DOCUMENT
    start_ids: tuple[int, ...] = ()
    directory: pathlib.Path | None = None

    def __init__(self, model: bytes):
        self._pieces = sentencepiece.SentencePieceProcessor(model_proto=model)
        self.vocab_size = self._pieces.vocab_size()
        self.fingerprint = hashlib.sha256(model).hexdigest()
        ids = range(self.vocab_size)
        names = [self._pieces.id_to_piece(i) for i in ids if self._pieces.is_control(i)]
        self.control_names = tuple(sorted(names, key=len, reverse=True))

    def encode(self, text: str) -> list[int]:
        return self._pieces.encode(text)

    def encode_with_starts(self, text: str) -> tuple[list[int], list[int]]:
        found = self._pieces.encode(text, out_type="offset_mapping")
        return found["ids"], [start for start, _ in found["offsets"]]

    def encode_marked(self, text: str) -> list[int]:
        parts = re.split("|".join(f"({re.escape(name)})" for name in self.control_names), text)
        known = {*self.control_names}
        return [
            token
            for part in parts
            if part
            for token in ([self.control(part)] if part in known else self.encode(part))
        ]

    def decode(self, ids: Sequence[int]) -> str:
        return self._pieces.decode([int(token) for token in ids])

    def control(self, name: str) -> int:
        token = self._pieces.piece_to_id(name)
        if not self._pieces.is_control(token):
            raise _no_control(name)
        return token


class HFTokenizer:
    """A Hugging Face tokenizer.json (Qwen, Llama).

    Text is encoded by a copy that does not know the control tokens, so that nothing written in a
    text can become one.
    """

    directory: pathlib.Path | None = None

    def __init__(self, content: bytes, more: Sequence[dict] = (), named: Sequence[str] = ()):
        """Added tokens that stand elsewhere count once: `more` with their ids; `named` are special,
        and get the ids after all others."""
        import tokenizers

        settings = json.loads(content)
        _check_settings(settings)
        added = settings.get("added_tokens") or []
        known = {word.get("content"): word.get("id") for word in added}
        for word in more:
            if known.get(word.get("content"), word["id"]) != word["id"]:
                warnings.warn(
                    f"{HF_SETTINGS_FILE} gives {word['content']!r} the id {word['id']}; its id in "
                    f"{HF_TOKENIZER_FILE}, {known[word['content']]}, is used, as in transformers",
                    stacklevel=3,
                )
        if more := [word for word in more if word.get("content") not in known]:
            added = settings["added_tokens"] = [*added, *more]
            content = json.dumps(settings).encode()
        self._whole = tokenizers.Tokenizer.from_str(content.decode("utf-8"))
        self._whole.no_truncation()
        self._whole.no_padding()
        _check_added(added, self._whole)
        if fresh := [name for name in named if name not in {word["content"] for word in added}]:
            self._whole.add_special_tokens(fresh)
            content = self._whole.to_str().encode()
            settings = json.loads(content)
            added = settings["added_tokens"]
        self._controls = {word["content"]: word["id"] for word in added if _is_control(word)}
        # Ids are given out by position, so the copy has either all added words or none; those that
        # are marked special it leaves alone.
        words = [{**word, "special": word["content"] in self._controls} for word in added]
        some = len(self._controls) < len(added)
        self._plain = tokenizers.Tokenizer.from_str(
            json.dumps({**settings, "added_tokens": words if some else [], "post_processor": None})
        )
        self._plain.encode_special_tokens = True
        self._plain.no_truncation()
        self._plain.no_padding()
        self.control_names = tuple(sorted(self._controls, key=len, reverse=True))
        self.vocab_size = 1 + max(self._whole.get_vocab(with_added_tokens=True).values())
        self.fingerprint = hashlib.sha256(content).hexdigest()
        self.end_of_document = next((name for name in _ENDS if name in self._controls), _ENDS[0])
        found = self._whole.encode("a")
        written = found.special_tokens_mask
        self.start_ids = tuple(found.ids[: written.index(0)]) if 0 in written else ()

    def encode(self, text: str) -> list[int]:
        return self._encoded(text).ids

    def encode_with_starts(self, text: str) -> tuple[list[int], list[int]]:
        found = self._encoded(text)
        return found.ids, [start for start, _ in found.offsets]

    def _encoded(self, text: str):
        try:
            return self._plain.encode(text, add_special_tokens=False)
        except BaseException as error:  # a panic of the library is no Exception
            if type(error).__name__ != "PanicException":
                raise
            raise UserError(
                f"tokenizer {self.directory}: cannot encode a text of {len(text)} characters "
                f"({error}): its patterns do not work on it"
            ) from error

    def encode_marked(self, text: str) -> list[int]:
        return self._whole.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int]) -> str:
        known = [int(token) for token in ids if int(token) < self.vocab_size]
        return self._whole.decode(known, skip_special_tokens=True)

    def control(self, name: str) -> int:
        if name not in self._controls:
            raise _no_control(name)
        return self._controls[name]

    def words(self) -> dict[str, int]:
        """Every token and its id."""
        return self._whole.get_vocab(with_added_tokens=True)


def different_id(one: Tokenizer, other: Tokenizer) -> str | None:
    """The first token or text to which two tokenizers give other ids; None: they agree."""
    if not isinstance(one, HFTokenizer) or not isinstance(other, HFTokenizer):
        return None if one.fingerprint == other.fingerprint else "its file"
    words = [found.words() for found in (one, other)]
    for word in sorted({*words[0], *words[1]}):
        if words[0].get(word) != words[1].get(word):
            return word
    return next((text for text in _TRIED if one.encode(text) != other.encode(text)), None)


def _is_control(word: dict) -> bool:
    return word["special"] or _TAG.fullmatch(word["content"]) is not None


def _check_settings(settings) -> None:
    """Every key of a tokenizer.json is used, or known to change no ids, or named."""
    if not isinstance(settings, dict) or not isinstance(settings.get("model"), dict):
        raise UserError("not a tokenizer.json: it has no model")
    if unknown := sorted(settings.keys() - _USED - _HARMLESS):
        raise UserError(f"its keys {', '.join(unknown)} are not known: what would they change?")
    if settings["model"].get("dropout"):
        raise UserError("its model has a dropout: ids would be random; set dropout to null")


def _check_added(added, library) -> None:
    """Added words as the library knows them: each with a content and the id that the file says."""
    contents, ids = set(), set()
    for number, word in enumerate(added):
        content, token = word.get("content"), word.get("id")
        if not isinstance(content, str) or not content or not isinstance(token, int):
            raise UserError(f"added token {number} {word}: needs an id and a content, not empty")
        if content in contents or token in ids:
            raise UserError(f"added token {number} {content!r} (id {token}) is there twice")
        if library.token_to_id(content) != token:
            raise UserError(
                f"added token {content!r} has id {token}, but the ids of all others make it "
                f"{library.token_to_id(content)}: give it that id, or fill the gap before it"
            )
        contents.add(content)
        ids.add(token)


def _no_control(name: str) -> UserError:
    return UserError(f"the tokenizer has no control token {name!r}: train or choose another")


def tokenizer_file(path: str | os.PathLike) -> pathlib.Path:
    """The tokenizer's file: the path itself, or what lies in the directory.

    Raises:
      UserError: a directory without one.
    """
    file = pathlib.Path(path)
    if not file.is_dir():
        return file
    names = (HF_TOKENIZER_FILE, TOKENIZER_FILE)
    there = [file / name for name in names if (file / name).exists()]
    if not there:
        raise UserError(f"{file}: has no tokenizer; {' or '.join(names)} is needed")
    return there[0]


def load_tokenizer(path: str | os.PathLike) -> Tokenizer:
    """Reads a SentencePiece model, a tokenizer.json, or the one that lies in a directory.

    Raises:
      UserError: it is not there, or neither of the two.
    """
    file = tokenizer_file(path)
    try:
        content = file.read_bytes()
    except OSError as error:
        raise UserError(f"tokenizer {file}: cannot be read: {error.strerror}") from error
    found: Tokenizer
    try:
        if file.suffix == ".json":
            found = HFTokenizer(content, *_added_beside(file.parent))
        else:
            found = SentencePieceTokenizer(content)
    except UserError as error:
        raise UserError(f"tokenizer {file}: {error}") from error
    except Exception as error:  # the libraries raise bare Exception on what they cannot read
        kind = "tokenizer.json" if file.suffix == ".json" else "SentencePiece model"
        raise UserError(f"tokenizer {file}: not a {kind} ({error})") from error
    found.directory = file.parent
    return found


def _added_beside(folder: pathlib.Path) -> tuple[list[dict], list[str]]:
    """Added tokens of the files beside a tokenizer.json: with an id, and by a special token's name.

    `transformers` adds those that tokenizer.json lacks, in this order. Tokens that have names only
    and that neither text nor templates have, such as one for padding, are left out at the end:
    published models often have no row for them.
    """
    settings, special = _beside(folder, HF_SETTINGS_FILE), _beside(folder, HF_SPECIAL_FILE)
    decoder = settings.get("added_tokens_decoder")
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    words = [
        {**flags, **word, "id": int(token)}
        for token, word in (decoder or {}).items()
        if isinstance(word, dict)
    ]
    names = {**special, **settings}
    extra = [*_listed(names.get(_EXTRA[0])), *_listed(names.get(_EXTRA[1]))]
    named = {key: _content(names[key]) for key in _NAMED if _content(names.get(key))}
    order = [*named.values(), *filter(None, map(_content, extra))]
    if not decoder:
        words += [
            {**flags, "content": content, "id": token, "special": content in order}
            for content, token in _beside(folder, HF_ADDED_FILE).items()
        ]
    written = {*map(_content, extra), *(named.get(key, "") for key in _NAMED[:3])}
    while order and order[-1] not in written:
        order.pop()
    return sorted(words, key=lambda word: word["id"]), list(dict.fromkeys(order))


def _listed(tokens: Any) -> list:
    if isinstance(tokens, dict):
        return [*tokens.values()]
    return tokens if isinstance(tokens, list) else []


def _content(token: Any) -> str:
    """A token's text, as files write it; "" for none."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else ""


def _beside(folder: pathlib.Path, name: str) -> dict:
    """The object in a file that may be there."""
    try:
        found = json.loads((folder / name).read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{name} beside it cannot be read: {error}") from error
    return found if isinstance(found, dict) else {}


def train_sentencepiece(
    corpus_path: str | os.PathLike,
    model_path: str | os.PathLike,
    vocab_size: int,
    control_tokens: Sequence[str],
) -> None:
    """Trains a unigram SentencePiece model on a text file; the same bytes for the same input.

    Args:
      corpus_path: one sentence a line.
      model_path: the model file to write, aside and renamed.
      vocab_size: an upper bound: a small corpus yields fewer pieces.
      control_tokens: beside these, `END_OF_DOCUMENT` is always one.
    """
    target = pathlib.Path(model_path)
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f"{target.name}.partial")
    with open(aside, "wb") as writer:
        sentencepiece.SentencePieceTrainer.train(
            input=str(corpus_path),
            model_writer=writer,
            model_type="unigram",
            vocab_size=vocab_size,
            hard_vocab_limit=False,
            control_symbols=[END_OF_DOCUMENT, *control_tokens],
            normalization_rule_name="identity",
            bos_id=-1,
            eos_id=-1,
            num_threads=1,
            minloglevel=2,
        )
    os.replace(aside, target)
