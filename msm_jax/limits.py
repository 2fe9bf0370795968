"""What files from strangers may cost, and the one way in which they are read.

Checkpoints, adapters, tokenizers, templates and data come from people whom the user does not know.
Each limit is checked before the work that it bounds, and an error names it. A limit that is too low
for a file that you trust can be changed here. docs/security.md lists them all.
"""

import io
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from msm_jax.errors import UserError


class Limit(int):
    """A number that says its name and place in a message."""

    def __str__(self) -> str:
        name = next(name for name, value in globals().items() if value is self)
        return f"{int(self):,} ({name} in msm_jax/limits.py)"


# Bytes. Parsed JSON takes up to 24 times the memory of its text.
JSON_BYTES = Limit(8 << 20)  # of a settings file or index, such as config.json
TOKENIZER_BYTES = Limit(32 << 20)  # Qwen3's tokenizer.json has 11 MB
TEMPLATE_BYTES = Limit(1 << 18)  # of a chat template
SPEC_BYTES = Limit(1 << 20)  # of a Model Spec
SPEC_LINES = Limit(10_000)
HEADER_BYTES = Limit(8 << 20)  # of all safetensors headers of a directory
# Of one line or record of data; tokenizing takes up to 200 bytes of memory for each.
LINE_BYTES = Limit(4 << 20)
SHARDS = Limit(10_000)  # files that an index names
CHAT_MESSAGES = Limit(5_000)  # of one conversation
JSON_DEPTH = Limit(100)  # of lists and objects inside each other
VOCABULARY = Limit(1 << 20)  # ids of a tokenizer; Qwen3 has 151,669
ADDED_TOKENS = Limit(10_000)  # of a tokenizer; Llama 3 has 256
TOKEN_CHARACTERS = Limit(2_000)  # of one token
TOKENIZER_PARTS = Limit(1_000)  # lists and objects that say how text is split
NORMALIZER_GROWTH = Limit(8)  # characters that may be made of one
START_IDS = Limit(16)  # tokens that a tokenizer writes before every text
LAYERS = Limit(10_000)
DIMENSION = Limit(2**31 - 1)  # of an axis of a weight
GGUF_ENTRIES = Limit(2 << 20)  # metadata values, with those in its lists
PATTERN_CHARACTERS = Limit(10_000)  # of a regular expression
PATTERN_SECONDS = Limit(8)  # of trying those of a tokenizer
MATCHING_SECONDS = Limit(4)  # of matching one of an adapter
# Of a server's reply after decompression, also of each one in a batch: 64,000 tokens have about
# 300,000 bytes, and twice that in scripts that JSON may escape.
REPLY_BYTES = Limit(8 << 20)
REPLY_CHARACTERS = Limit(1_000_000)  # sixteen for each of 64,000 tokens
REPLY_TOKENS = Limit(10_000_000)  # that a server may report; no model reads so many
FIELD_CHARACTERS = Limit(20_000)  # of a text that later prompts repeat
ROW_BYTES = Limit(16 << 20)  # of a kept reply; one of REPLY_CHARACTERS is shorter
MESSAGE_CHARACTERS = Limit(20_000)  # of an error message

# What a terminal could take for a command, or would show as something else.
_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


@contextmanager
def open_regular(path: str | os.PathLike) -> Iterator[io.BufferedReader]:
    """A file to read, which has to be a regular one: a pipe or device may never end.

    Raises:
      UserError: it is a pipe, a device or a socket.
      OSError: it cannot be opened.
    """
    without_waiting = lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0))
    with open(path, "rb", opener=without_waiting) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise UserError(f"{path}: is not a regular file: a pipe or device is not read")
        yield file


def read_bytes(path: str | os.PathLike, limit: Limit) -> bytes:
    """The content of a regular file.

    Raises:
      UserError: it has more bytes than the limit, or is not a regular file.
      OSError: it cannot be read.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size  # 0 for what a system makes as it is read
        content = file.read(min(size, limit) + 1)
        if size < len(content) <= limit:
            content += file.read(limit + 1 - len(content))
    if len(content) > limit:
        raise UserError(f"{path}: has more bytes than {limit}")
    return content


def check_depth(value: Any, most: int = JSON_DEPTH) -> None:
    """ValueError if lists and objects of a JSON value are nested deeper than `most`."""
    if isinstance(value, dict | list):
        if most == 0:
            raise ValueError(f"nested deeper than {JSON_DEPTH}")
        for held in value.values() if isinstance(value, dict) else value:
            check_depth(held, most - 1)


def printable(text: str) -> str:
    """A message without the characters that command a terminal, and of bounded length."""
    if len(text) > MESSAGE_CHARACTERS:
        text = f"{text[:MESSAGE_CHARACTERS]} ... (and {len(text) - MESSAGE_CHARACTERS:,} more)"
    return _UNPRINTABLE.sub(lambda found: repr(found[0])[1:-1], text)
