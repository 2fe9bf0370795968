"""What the files of a tokenizer may hold, checked in one place before anything uses them.

    tokenizer.json           the tokenizer itself
    tokenizer_config.json    special tokens, added tokens, chat templates
    special_tokens_map.json  special tokens, in older checkpoints (see `read_special`)
    added_tokens.json        {token: id}, in older checkpoints

What the library `tokenizers` checks as well is left to it: the parts of its models, normalizers and
pre-tokenizers.
"""

import json
import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any

from msm_jax import schema
from msm_jax.data.tokenizer_patterns import check_patterns
from msm_jax.errors import UserError, located
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
FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
_WORD = {"content": str, **{f"{flag}?": bool for flag in FLAGS}}
_TOKEN = (str, {"content": str})
_SETTINGS = {
    **{f"{name}?": (*_TOKEN, None) for name in NAMED},
    **{f"{name}?": ([_TOKEN], {str: _TOKEN}, None) for name in EXTRA},
    "added_tokens_decoder?": ({str: _WORD}, None),
}
# A chat template, or templates by name, as an object or as a list.
_TEMPLATES = (str, {str: (str, None)}, None)
_LISTED = [{"name": str, "template?": (str, None)}]
# Keys of tokenizer.json. The library computes with the first; truncation and padding are settings
# for batches.
_USED = {"model", "normalizer", "pre_tokenizer", "post_processor", "decoder", "added_tokens"}
_HARMLESS = {"version", "truncation", "padding"}


def read_settings(directory: str | os.PathLike) -> dict[str, Any]:
    """tokenizer_config.json of a directory, {} where there is none; UserError names the key that is
    not what it has to be."""
    return _read(pathlib.Path(directory) / SETTINGS_FILE)


def read_special(directory: str | os.PathLike) -> dict[str, Any]:
    """What a directory has under the keys `NAMED` and `EXTRA`, as `transformers` reads it.

    special_tokens_map.json counts only where tokenizer_config.json has no added_tokens_decoder,
    but then its tokens and nulls replace those of tokenizer_config.json, and its list of extra
    tokens is added. Errors as for `read_settings`.
    """
    settings = read_settings(directory)
    if settings.get("added_tokens_decoder") is not None:
        return settings
    special = _read(pathlib.Path(directory) / SPECIAL_FILE)
    before, after = (found.get("extra_special_tokens") for found in (settings, special))
    if isinstance(before, list) and isinstance(after, list):
        special["extra_special_tokens"] = before + after
    return {**settings, **special}


def read_added(directory: str | os.PathLike) -> dict[str, int]:
    """added_tokens.json of a directory; as `read_settings`."""
    file = pathlib.Path(directory) / ADDED_FILE
    found = schema.check(read_object(file, optional=True), {str: int}, str(file))
    with located(str(file)):
        check_words([{"content": name, "id": token} for name, token in found.items()])
    return found


def token_text(token: Any) -> str | None:
    """The text of a token as Hugging Face files write it; None where there is no token."""
    return token["content"] if isinstance(token, dict) else token


def extra_tokens(settings: Mapping[str, Any]) -> list[Any]:
    """The tokens under the keys of `EXTRA`: lists, or objects of tokens by name."""
    held = [settings.get(key) or [] for key in EXTRA]
    return [token for some in held for token in (some.values() if isinstance(some, dict) else some)]


def _read(file: pathlib.Path) -> dict[str, Any]:
    found = schema.check(read_object(file, optional=True), _SETTINGS, str(file))
    words, extra = found.get("added_tokens_decoder") or {}, extra_tokens(found)
    with located(str(file)):
        _check_count(max(len(words), len(extra)))
        for token in filter(None, (*map(found.get, NAMED), *extra)):
            if len(str(token_text(token))) > TOKEN_CHARACTERS:
                raise UserError(f"has a token of more characters than {TOKEN_CHARACTERS}")
        for token, word in words.items():
            if not re.fullmatch("[0-9]{1,7}", token):
                raise UserError(f"added_tokens_decoder has the id {_shown(token)}: {_IDS}")
            _check_word({**word, "id": int(token)})
    return found


def read_templates(directory: str | os.PathLike) -> dict[str, str]:
    """The chat templates in tokenizer_config.json by their names; a single one is "default"."""
    found = read_settings(directory).get("chat_template")
    form = _LISTED if isinstance(found, list) else _TEMPLATES
    if problem := schema.mismatch(found, form, "chat_template"):
        raise UserError(f"{pathlib.Path(directory) / SETTINGS_FILE}: {problem}")
    if isinstance(found, list):
        found = {one["name"]: one.get("template") for one in found}
    texts = found if isinstance(found, dict) else {"default": found}
    return {name: text for name, text in texts.items() if text}


def parse_tokenizer(content: bytes) -> dict[str, Any]:
    """The content of a tokenizer.json; UserError for a key that is not known or not what it has to
    be, or for more than a limit allows."""
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
    check_words(added)
    _check_vocabulary(model.get("vocab"), len(added))
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


def check_words(added: Any) -> None:
    """UserError unless these are added words, each with a content and an id that no other has."""
    if problem := schema.mismatch(added, [{**_WORD, "id": int}], "added_tokens"):
        raise UserError(problem)
    _check_count(len(added))
    seen: set = set()
    for word in added:
        _check_word(word)
        content, token = word["content"], word["id"]
        if seen & {content, token}:
            raise UserError(f"added token {content!r} (id {token}) is there twice")
        seen |= {content, token}


def _check_count(count: int) -> None:
    if count > ADDED_TOKENS:
        raise UserError(f"has {count:,} added tokens, more than {ADDED_TOKENS}")


def _check_word(word: Mapping[str, Any]) -> None:
    what = f"added token {_shown(word['content'])}"
    if not 0 < len(word["content"]) <= TOKEN_CHARACTERS:
        raise UserError(f"{what}: a text of 1 to {TOKEN_CHARACTERS} characters is needed")
    if not 0 <= word["id"] <= VOCABULARY:
        raise UserError(f"{what} has the id {word['id']}: {_IDS}")


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


def _shown(value: Any) -> str:
    text = json.dumps(value) if not isinstance(value, str) else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
