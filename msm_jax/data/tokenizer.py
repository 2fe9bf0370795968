"""Tokenizers behind one interface. Encoding a text can never produce a control token.

Of the words added to a tokenizer.json, control tokens are those marked `special` and those written
as tags, `<...>` or `[...]` without a space, whatever their mark: Qwen's `<think>` and `<tool_call>`
are not `special`, and yet only a chat format may write them. All others are ordinary words: in a
text they become their own id, as in `transformers`.
"""

import hashlib
import json
import os
import pathlib
import re
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import sentencepiece

from msm_jax.data.tokenizer_files import (
    FLAGS,
    HF_TOKENIZER_FILE,
    NAMED,
    SETTINGS_FILE,
    TOKENIZER_FILE,
    check_words,
    extra_tokens,
    parse_tokenizer,
    read_added,
    read_special,
    token_text,
)
from msm_jax.errors import UserError
from msm_jax.files import new_file
from msm_jax.limits import START_IDS, TOKENIZER_BYTES, VOCABULARY, read_bytes

END_OF_DOCUMENT = "<|endoftext|>"
# Control tokens that end a document, the first that a tokenizer has: Qwen's, Llama 3's, Llama 2's.
_ENDS = (END_OF_DOCUMENT, "<|end_of_text|>", "</s>")
_TRIED = ("It's 12 o'clock in Ulm.\n\n  Yes: `x = 3`", "Größe ÉTÉ 東京 \t\u200d🙂")
_TAG = re.compile(r"<\S+>|\[\S+\]")


class Tokenizer:
    """What the package needs of a tokenizer.

    Attributes:
      vocab_size: number of ids.
      control_names: the control tokens, longest first.
      end_of_document: the control token that ends a document.
      start_ids: what a document or a text prompt begins with: what tokenizer.json's post-processor
        writes before every text, such as Llama 3's <|begin_of_text|>; () for none. What it writes
        after a text is left out: documents end with `end_of_document`, and prompts do not end.
      fingerprint: SHA-256 of the file, to tell one tokenizer from another.
      directory: where it was read from, which may also hold a chat template; None: from memory.
    """

    end_of_document = END_OF_DOCUMENT
    start_ids: tuple[int, ...] = ()
    directory: pathlib.Path | None = None

    def __init__(self, content: bytes, vocab_size: int, controls: dict[str, int]):
        if not 0 < vocab_size <= VOCABULARY:
            raise UserError(f"has {vocab_size:,} ids: at least one, at most {VOCABULARY}")
        self.vocab_size, self._controls = vocab_size, controls
        self.control_names = tuple(sorted(controls, key=len, reverse=True))
        self.fingerprint = hashlib.sha256(content).hexdigest()

    def encode(self, text: str) -> list[int]:
        """Ids of the text, without `start_ids`; names of control tokens in it are plain text."""
        raise NotImplementedError

    def encode_with_starts(self, text: str) -> tuple[list[int], list[int]]:
        """The ids, and the character of the text at which each of them starts."""
        raise NotImplementedError

    def encode_marked(self, text: str) -> list[int]:
        """The ids of a text in which names of control tokens are control tokens."""
        raise NotImplementedError

    def decode(self, ids: Sequence[int]) -> str:
        """Text of the ids, without control tokens."""
        raise NotImplementedError

    def control(self, name: str) -> int:
        """The id of a control token, e.g. "<|end|>"; UserError if there is none."""
        if name not in self._controls:
            raise UserError(f"the tokenizer has no control token {name!r}: train or choose another")
        return self._controls[name]


class SentencePieceTokenizer(Tokenizer):
    """A SentencePiece model."""

    def __init__(self, model: bytes):
        self._pieces = sentencepiece.SentencePieceProcessor(model_proto=model)
        size = self._pieces.vocab_size()
        controls = filter(self._pieces.is_control, range(min(size, VOCABULARY)))
        super().__init__(model, size, {self._pieces.id_to_piece(i): i for i in controls})

    def encode(self, text: str) -> list[int]:
        return self._pieces.encode(text)

    def encode_with_starts(self, text: str) -> tuple[list[int], list[int]]:
        found = self._pieces.encode(text, out_type="offset_mapping")
        return found["ids"], [start for start, _ in found["offsets"]]

    def encode_marked(self, text: str) -> list[int]:
        ids = []
        for part in re.split("|".join(f"({re.escape(name)})" for name in self.control_names), text):
            ids += [self.control(part)] if part in self.control_names else self.encode(part or "")
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        return self._pieces.decode([int(token) for token in ids])


class HFTokenizer(Tokenizer):
    """A Hugging Face tokenizer.json (Qwen, Llama). Text is encoded by a copy that does not know the
    control tokens, so that no text can become one."""

    def __init__(self, content: bytes, more: Sequence[dict] = (), named: Sequence[str] = ()):
        """Adds tokens of other files: `more` with their ids, and `named`, which are special, with
        the ids after all others."""
        import tokenizers

        settings = parse_tokenizer(content)
        added = settings.get("added_tokens") or []
        known = {word["content"]: word["id"] for word in added}
        for word in more:
            if known.get(word["content"], word["id"]) != word["id"]:
                warnings.warn(
                    f"{SETTINGS_FILE} gives {word['content']!r} the id {word['id']}; its id in "
                    f"{HF_TOKENIZER_FILE}, {known[word['content']]}, is used, as in transformers",
                    stacklevel=3,
                )
        if more := [word for word in more if word["content"] not in known]:
            added = settings["added_tokens"] = [*added, *more]
            check_words(added)
            content = json.dumps(settings).encode()
        self._full = tokenizers.Tokenizer.from_str(content.decode("utf-8"))
        self._full.no_truncation()
        self._full.no_padding()
        for word in added:
            name, token = word["content"], word["id"]
            if (own := self._full.token_to_id(name)) != token:
                raise UserError(
                    f"added token {name!r} has id {token}, but the ids of all others make it "
                    f"{own}: give it that id, or fill the gap before it"
                )
        if fresh := [name for name in named if name not in {word["content"] for word in added}]:
            self._full.add_special_tokens(fresh)
            content = self._full.to_str().encode()
            settings = json.loads(content)
            added = settings["added_tokens"]
        controls = {
            word["content"]: word["id"]
            for word in added
            if word.get("special") or _TAG.fullmatch(word["content"])
        }
        # Ids are given out by position, so the copy has either all added words or none; those that
        # are marked special it leaves alone.
        words = [{**word, "special": word["content"] in controls} for word in added]
        some = len(controls) < len(added)
        self._plain = tokenizers.Tokenizer.from_str(
            json.dumps({**settings, "added_tokens": words if some else [], "post_processor": None})
        )
        self._plain.encode_special_tokens = True
        self._plain.no_truncation()
        self._plain.no_padding()
        super().__init__(content, 1 + max(self.words().values(), default=-1), controls)
        self.end_of_document = next((name for name in _ENDS if name in controls), _ENDS[0])
        found = self._full.encode("a")
        written = found.special_tokens_mask
        self.start_ids = tuple(found.ids[: written.index(0)]) if 0 in written else ()
        if len(self.start_ids) > START_IDS:
            raise UserError(f"begins every text with more tokens than {START_IDS}")

    def encode(self, text: str) -> list[int]:
        return self._encoded(text).ids

    def encode_with_starts(self, text: str) -> tuple[list[int], list[int]]:
        found = self._encoded(text)
        return found.ids, [start for start, _ in found.offsets]

    def _encoded(self, text: str) -> Any:
        return self._called(self._plain.encode, text, add_special_tokens=False)

    def _called(self, function: Callable, given: str | list[int], **options: Any) -> Any:
        """What the library answers; UserError where it fails or panics, which is no Exception."""
        try:
            return function(given, **options)
        except BaseException as error:  # TypeError: half a surrogate pair is no text to Rust
            if type(error) not in (Exception, TypeError) and not is_panic(error):
                raise
            what = "encode a text" if isinstance(given, str) else "decode ids"
            raise UserError(
                f"tokenizer {self.directory}: cannot {what} of length {len(given)} ({error}): its "
                "patterns or tables do not work on it"
            ) from error

    def encode_marked(self, text: str) -> list[int]:
        return self._called(self._full.encode, text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int]) -> str:
        known = [int(token) for token in ids if int(token) < self.vocab_size]
        return self._called(self._full.decode, known, skip_special_tokens=True)

    def words(self) -> dict[str, int]:
        """Every token and its id."""
        return self._full.get_vocab(with_added_tokens=True)


def is_panic(error: BaseException) -> bool:
    """Whether a library written in Rust panicked, which pyo3 raises as a BaseException."""
    return type(error).__name__ == "PanicException"


def different_id(one: Tokenizer, other: Tokenizer) -> str | None:
    """The first token or text to which two tokenizers give other ids; None: they agree."""
    if not isinstance(one, HFTokenizer) or not isinstance(other, HFTokenizer):
        return None if one.fingerprint == other.fingerprint else "its file"
    words = [found.words() for found in (one, other)]
    for word in sorted({*words[0], *words[1]}):
        if words[0].get(word) != words[1].get(word):
            return word
    return next((text for text in _TRIED if one.encode(text) != other.encode(text)), None)


def tokenizer_file(path: str | os.PathLike) -> pathlib.Path:
    """The tokenizer's file: the path itself, or the one in that directory, which has to be one."""
    file, names = pathlib.Path(path), (HF_TOKENIZER_FILE, TOKENIZER_FILE)
    if not file.is_dir():
        return file
    for name in names:
        if (file / name).exists():
            return file / name
    raise UserError(f"{file}: has no tokenizer; {' or '.join(names)} is needed")


def load_tokenizer(path: str | os.PathLike) -> Tokenizer:
    """Reads a SentencePiece model, a tokenizer.json, or the one in a directory; UserError if there
    is none, or it is neither of the two."""
    file = tokenizer_file(path)
    kind = "tokenizer.json" if file.suffix == ".json" else "SentencePiece model"
    try:
        content = read_bytes(file, TOKENIZER_BYTES)
        found: Tokenizer
        if file.suffix == ".json":
            found = HFTokenizer(content, *_added_beside(file.parent))
        else:
            found = SentencePieceTokenizer(content)
    except UserError as error:
        raise UserError(f"tokenizer {file}: {error}") from error
    except OSError as error:
        raise UserError(f"tokenizer {file}: cannot be read: {error.strerror}") from error
    except BaseException as error:  # the libraries raise bare Exception, or panic
        if not isinstance(error, Exception) and not is_panic(error):
            raise
        raise UserError(f"tokenizer {file}: not a {kind} ({error})") from error
    found.directory = file.parent
    return found


def _added_beside(folder: pathlib.Path) -> tuple[list[dict], list[str]]:
    """Added tokens of the files beside a tokenizer.json: with an id, and by a special token's name.

    `transformers` adds those that tokenizer.json lacks, in this order. Tokens that have names only
    and that neither text nor templates have, such as one for padding, are left out at the end:
    published models often have no row for them.
    """
    names = read_special(folder)
    decoder = names.get("added_tokens_decoder")
    flags = dict.fromkeys(FLAGS, False)
    words = [{**flags, **word, "id": int(token)} for token, word in (decoder or {}).items()]
    extra = [token_text(token) for token in extra_tokens(names)]
    named = {key: text for key in NAMED if (text := token_text(names.get(key)))}
    order = [*named.values(), *(text for text in extra if text)]
    if decoder is None:
        words += [
            {**flags, "content": content, "id": token, "special": content in order}
            for content, token in read_added(folder).items()
        ]
    written = {*extra, *(named.get(key, "") for key in NAMED[:3])}
    while order and order[-1] not in written:
        order.pop()
    return sorted(words, key=lambda word: word["id"]), list(dict.fromkeys(order))


def train_sentencepiece(
    corpus_path: str | os.PathLike,
    model_path: str | os.PathLike,
    vocab_size: int,
    control_tokens: Sequence[str],
    symbols: Sequence[str] = (),
) -> None:
    """Trains a unigram SentencePiece model on a text file; the same bytes for the same input.

    Args:
      corpus_path: one sentence a line.
      vocab_size: an upper bound: a small corpus yields fewer pieces.
      control_tokens: `END_OF_DOCUMENT` is always added to these.
      symbols: texts that are one token each wherever they occur, such as a line break.
    """
    with new_file(model_path) as temporary, open(temporary, "wb") as writer:
        sentencepiece.SentencePieceTrainer.train(
            input=str(corpus_path),
            model_writer=writer,
            model_type="unigram",
            vocab_size=vocab_size,
            hard_vocab_limit=False,
            control_symbols=[END_OF_DOCUMENT, *control_tokens],
            user_defined_symbols=[text.replace(" ", "\u2581") for text in symbols],
            normalization_rule_name="identity",
            bos_id=-1,
            eos_id=-1,
            num_threads=1,
            minloglevel=2,
        )
