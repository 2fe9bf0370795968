"""What the files of a tokenizer may hold, checked in one place before anything uses them.

    tokenizer.json           the tokenizer itself
    tokenizer_config.json    special tokens, added tokens, chat templates
    special_tokens_map.json  special tokens, in older checkpoints
    added_tokens.json        {token: id}, in older checkpoints

What the library `tokenizers` checks as well is left to it: the parts of its models, normalizers and
pre-tokenizers.
"""

import json
import os
import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

from msm_jax.data.tokenizer_patterns import check_patterns
from msm_jax.errors import UserError
from msm_jax.files import read_object
from msm_jax.limits import (
    ADDED_TOKENS,
    NORMALIZER_GROWTH,
    TOKEN_CHARACTERS,
    TOKENIZER_PARTS,
    VOCABULARY,
)

TOKENIZER_FILE = "tokenizer.model"  # of a SentencePiece tokenizer, in the directory of a run
HF_TOKENIZER_FILE = "tokenizer.json"
SETTINGS_FILE = "tokenizer_config.json"
SPECIAL_FILE, ADDED_FILE = "special_tokens_map.json", "added_tokens.json"
# Keys of special tokens there, in the order in which `transformers` adds them.
NAMED = (
    "bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"
)  # fmt: skip
EXTRA = ("additional_special_tokens", "extra_special_tokens")
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
# Keys of tokenizer.json. The library computes with the first; truncation and padding are settings
# for batches.
_USED = {"model", "normalizer", "pre_tokenizer", "post_processor", "decoder", "added_tokens"}
_HARMLESS = {"version", "truncation", "padding"}


def read_settings(directory: str | os.PathLike) -> dict[str, Any]:
    """tokenizer_config.json of a directory, checked; {} where there is none.

    Raises:
      UserError: names the key that is not what it has to be.
    """
    return _read(pathlib.Path(directory) / SETTINGS_FILE)


def read_special(directory: str | os.PathLike) -> dict[str, Any]:
    """special_tokens_map.json of a directory; as `read_settings`."""
    return _read(pathlib.Path(directory) / SPECIAL_FILE)


def read_added(directory: str | os.PathLike) -> dict[str, int]:
    """added_tokens.json of a directory; as `read_settings`."""
    file = pathlib.Path(directory) / ADDED_FILE
    found = read_object(file, optional=True)
    if len(found) > ADDED_TOKENS:
        raise UserError(f"{file}: has {len(found):,} tokens, more than {ADDED_TOKENS}")
    for name, token in found.items():
        if not name or not _is_id(token):
            raise UserError(f"{file}: {_shown(name)} has id {_shown(token)}: {_IDS}")
    return found


def token_text(token: Any) -> str | None:
    """The text of a token as Hugging Face files write it; None where it has none."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) and len(text) <= TOKEN_CHARACTERS else None


def _read(file: pathlib.Path) -> dict[str, Any]:
    found = read_object(file, optional=True)
    problem = next(_problems(found), None)
    if problem:
        raise UserError(f"{file}: {problem}")
    return found


def _problems(settings: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with the keys that we use."""
    for name in NAMED:
        token = settings.get(name)
        if token is not None and token_text(token) is None:
            yield f"{name} {_shown(token)} is neither a text nor a token with a text 'content'"
    for name in EXTRA:
        tokens = settings.get(name) or []
        listed = list(tokens.values()) if isinstance(tokens, dict) else tokens
        if isinstance(listed, list) and len(listed) > ADDED_TOKENS:
            yield f"{name} has {len(listed):,} tokens, more than {ADDED_TOKENS}"
        elif not isinstance(listed, list) or any(token_text(token) is None for token in listed):
            yield f"{name} {_shown(tokens)}: a list of tokens, or an object of them, is needed"
    words = settings.get("added_tokens_decoder") or {}
    if not isinstance(words, dict):
        yield f"added_tokens_decoder {_shown(words)}: an object of tokens by their ids is needed"
        return
    if len(words) > ADDED_TOKENS:
        yield f"added_tokens_decoder has {len(words):,} tokens, more than {ADDED_TOKENS}"
    for token, word in words.items():
        if not re.fullmatch("[0-9]{1,7}", token) or not _is_id(int(token)):
            yield f"added_tokens_decoder has the id {_shown(token)}: {_IDS}"
        elif problem := _word_problem(word):
            yield f"added_tokens_decoder: token {token}: {problem}"


def read_templates(directory: str | os.PathLike) -> dict[str, str]:
    """The chat templates in tokenizer_config.json by their names; a single one is "default".

    They may be a text, an object of texts, or a list of {"name", "template"}.

    Raises:
      UserError: they are none of these.
    """
    file = pathlib.Path(directory) / SETTINGS_FILE
    found = read_settings(directory).get("chat_template")
    if isinstance(found, list):
        for one in found:
            if not isinstance(one, dict) or not isinstance(one.get("name"), str):
                raise UserError(
                    f"{file}: chat_template holds {_shown(one)}: a name and a template are needed"
                )
        found = {one["name"]: one.get("template") for one in found}
    texts = found if isinstance(found, dict) else {"default": found}
    if any(text is not None and not isinstance(text, str) for text in texts.values()):
        raise UserError(f"{file}: chat_template is not a text")
    return {name: text for name, text in texts.items() if text}


def parse_tokenizer(content: bytes) -> dict[str, Any]:
    """The content of a tokenizer.json.

    Raises:
      UserError: a key that is not known or not what it has to be, or more than a limit allows.
    """
    try:
        settings = json.loads(content)
    except (ValueError, RecursionError) as error:  # the library refuses a depth of 128
        raise UserError(f"not JSON ({error})") from error
    if not isinstance(settings, dict) or not isinstance(settings.get("model"), dict):
        raise UserError("not a tokenizer.json: it has no model")
    if unknown := sorted(settings.keys() - _USED - _HARMLESS):
        raise UserError(f"its keys {', '.join(unknown)} are not known: what would they change?")
    model, added = settings["model"], settings.get("added_tokens") or []
    if model.get("dropout"):
        raise UserError("its model has a dropout: ids would be random; set dropout to null")
    if not isinstance(added, list):
        raise UserError(f"added_tokens {_shown(added)}: a list of tokens is needed")
    if len(added) > ADDED_TOKENS:
        raise UserError(f"has {len(added):,} added tokens, more than {ADDED_TOKENS}")
    _check_vocabulary(model.get("vocab"), len(added))
    check_words(added)
    _check_parts([settings.get(name) for name in _USED - {"model", "added_tokens"}])
    splitting = [settings.get(name) for name in ("normalizer", "pre_tokenizer", "decoder")]
    check_patterns(*splitting)
    return settings


def _check_vocabulary(vocabulary: Any, added: int) -> None:
    """As many words as are allowed, none of them long; the library checks their types."""
    if not isinstance(vocabulary, dict | list):
        raise UserError(f"its model's vocab is {_shown(vocabulary)}: an object or list is needed")
    if len(vocabulary) + added > VOCABULARY:
        raise UserError(f"has {len(vocabulary) + added:,} tokens, more than {VOCABULARY}")
    words = vocabulary
    if isinstance(vocabulary, list):  # [word, score]
        words = [pair[0] for pair in vocabulary if isinstance(pair, list) and pair]
        words = [word for word in words if isinstance(word, str)]
    if max(map(len, words), default=0) > TOKEN_CHARACTERS:
        raise UserError(f"its model's vocab has a token of more characters than {TOKEN_CHARACTERS}")


def check_words(added: list) -> None:
    """UserError unless each added word has a content and an id that no other has."""
    seen: set = set()
    for number, word in enumerate(added):
        if problem := _word_problem(word):
            raise UserError(f"added token {number} {_shown(word)}: {problem}")
        if not _is_id(token := word.get("id")):
            raise UserError(f"added token {number} {_shown(word)}: id {_shown(token)}: {_IDS}")
        if seen & {word["content"], token}:
            raise UserError(f"added token {number} {word['content']!r} (id {token}) is there twice")
        seen |= {word["content"], token}


def _word_problem(word: Any) -> str | None:
    if not isinstance(word, dict):
        return "an object is needed"
    if not token_text(word):
        return f"needs a text 'content', not empty, of at most {TOKEN_CHARACTERS} characters"
    wrong = [flag for flag in _FLAGS if not isinstance(word.get(flag, False), bool)]
    return f"{wrong[0]} {_shown(word[wrong[0]])}: true or false is needed" if wrong else None


def _check_parts(parts: list) -> None:
    """A bounded number of steps, and of characters that they make of one."""
    count, growth, rest = 0, 1, [part for part in parts if part is not None]
    while rest:
        part = rest.pop()
        count += 1
        held = list(part.values()) if isinstance(part, dict) else part
        if isinstance(part, dict) and part.get("type") == "Replace":
            growth *= _growth(part)
        rest += [each for each in held if isinstance(each, dict | list)] if held else []
        if count > TOKENIZER_PARTS:
            raise UserError(f"splits text in more steps than {TOKENIZER_PARTS}")
    if growth > NORMALIZER_GROWTH:
        raise UserError(
            f"its normalizer makes {growth} characters of one, more than {NORMALIZER_GROWTH}"
        )


def _growth(replace: Mapping) -> int:
    pattern, content = replace.get("pattern"), replace.get("content")
    replaced = pattern.get("String") if isinstance(pattern, dict) else None
    length = len(replaced) if isinstance(replaced, str) and replaced else 1
    return max(1, -(-len(content) // length)) if isinstance(content, str) else 1


_IDS = f"a whole number from 0 up to {VOCABULARY} is needed"


def _is_id(token: Any) -> bool:
    return type(token) is int and 0 <= token <= VOCABULARY


def _shown(value: Any) -> str:
    text = json.dumps(value) if not isinstance(value, str) else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
