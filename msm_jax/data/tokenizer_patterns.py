"""The regular expressions of a tokenizer.json: known ones, and a trial for all others.

The library matches by backtracking, cannot be interrupted, and panics on some patterns. A pattern
that we do not know is therefore tried first, on hard texts, in a process that can be ended.
"""

import functools
import json
import re
import subprocess
import sys
from typing import Any

from msm_jax.errors import UserError
from msm_jax.limits import PATTERN_CHARACTERS, PATTERN_SECONDS, Limit

LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2_SPLIT = LLAMA3_SPLIT.replace("{1,3}", "")
GPT2_SPLIT = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
# They take time in proportion to the text.
_KNOWN = {LLAMA3_SPLIT, QWEN2_SPLIT, GPT2_SPLIT}
_LENGTH = 100_000  # characters of a text of the trial
_UNITS = ("a", "A", "1", " ", "\n", "!", "'", "é", "中", " a")
_TRIAL = """
import json, sys
from tokenizers import Tokenizer
try:
    import resource
    resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
except ImportError:
    pass
given = json.load(sys.stdin)
model = {"type": "BPE", "vocab": {}, "merges": []}
made = Tokenizer.from_str(json.dumps({"version": "1.0", "model": model, **given["parts"]}))
for text in given["texts"]:
    if made.normalizer:
        made.normalizer.normalize_str(text)
    if made.pre_tokenizer:
        made.pre_tokenizer.pre_tokenize_str(text)
    if made.decoder:
        made.decoder.decode([text])
"""


def check_patterns(normalizer: Any, pre_tokenizer: Any, decoder: Any) -> None:
    """UserError if a regular expression in these parts of a tokenizer.json takes too long."""
    parts = {"normalizer": normalizer, "pre_tokenizer": pre_tokenizer, "decoder": decoder}
    patterns = [*_patterns(parts)]
    if unknown := [pattern for pattern in patterns if pattern not in _KNOWN]:
        if max(map(len, unknown)) > PATTERN_CHARACTERS:
            raise UserError(f"has a pattern of more characters than {PATTERN_CHARACTERS}")
        _try(json.dumps(parts), tuple(dict.fromkeys(unknown)))


def _patterns(value: Any) -> list[str]:
    """The texts under "Regex" anywhere in a JSON value."""
    found, rest = [], [value]
    while rest:
        held = rest.pop()
        if isinstance(held, dict):
            found += [held["Regex"]] if isinstance(held.get("Regex"), str) else []
            rest += held.values()
        elif isinstance(held, list):
            rest += held
    return found


@functools.lru_cache(64)
def _try(parts: str, patterns: tuple[str, ...]) -> None:
    """Split hard texts in another process; UserError if it fails or takes `PATTERN_SECONDS`."""
    letters = ["".join(re.findall("[A-Za-z0-9 ]", pattern))[:20] for pattern in patterns[:10]]
    units = dict.fromkeys([*_UNITS, *filter(None, letters)])
    # Texts end with what a pattern asks for: the library first looks for that.
    texts = [unit * (_LENGTH // len(unit)) + "\x01" + "".join(letters) for unit in units]
    shown = ", ".join(repr(pattern[:80]) for pattern in patterns[:3])
    try:
        run_apart(_TRIAL, {"parts": json.loads(parts), "texts": texts}, PATTERN_SECONDS)
    except ValueError as error:
        raise UserError(
            f"its patterns {shown} do not work on {_LENGTH:,} characters: {error}"
        ) from error


def run_apart(program: str, given: Any, limit: Limit) -> str:
    """What a Python program prints that is given JSON, in another process, which can be ended.

    ValueError if it fails, or takes more seconds than the limit.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-c", program],
            input=json.dumps(given),
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=limit,
        )
    except subprocess.TimeoutExpired as error:
        raise ValueError(f"takes more seconds than {limit}") from error
    if done.returncode:
        raise ValueError(done.stderr.strip().rpartition("\n")[2][:300])
    return done.stdout
