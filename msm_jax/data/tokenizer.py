"""Tokenizers behind one face. Text is data: encoding it can never produce a control token."""

import hashlib
import os
import pathlib
from collections.abc import Sequence

import sentencepiece

from msm_jax.errors import UserError

END_OF_DOCUMENT = "<|endoftext|>"
TOKENIZER_FILE = "tokenizer.model"  # in the directory of a run


class Tokenizer:
    """A SentencePiece model.

    Attributes:
      vocab_size: number of ids.
      fingerprint: SHA-256 of the model file, to tell one tokenizer from another.
    """

    def __init__(self, model: bytes):
        self._pieces = sentencepiece.SentencePieceProcessor(model_proto=model)
        self.vocab_size = self._pieces.vocab_size()
        self.fingerprint = hashlib.sha256(model).hexdigest()

    def encode(self, text: str) -> list[int]:
        """Ids of the text; names of control tokens in it are ordinary text."""
        return self._pieces.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of the ids; control tokens leave no trace in it."""
        return self._pieces.decode([int(token) for token in ids])

    def control(self, name: str) -> int:
        """The id of a control token, e.g. "<|end|>"; UserError if there is none."""
        token = self._pieces.piece_to_id(name)
        if not self._pieces.is_control(token):
            raise UserError(f"the tokenizer has no control token {name!r}: train or choose another")
        return token


def load_tokenizer(path: str | os.PathLike) -> Tokenizer:
    """Reads a SentencePiece model file; UserError if it is not there or not one."""
    file = pathlib.Path(path)
    try:
        return Tokenizer(file.read_bytes())
    except OSError as error:
        raise UserError(f"tokenizer {file}: cannot be read: {error.strerror}") from error
    except RuntimeError as error:
        raise UserError(f"tokenizer {file}: not a SentencePiece model ({error})") from error


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
