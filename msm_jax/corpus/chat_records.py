"""Chats as records of the TFDS data set `spec_chats`."""

import json
import os
from collections.abc import Iterator
from typing import Any

from msm_jax.corpus.records import read_rows
from msm_jax.errors import UserError


def chat_records(path: str | os.PathLike) -> Iterator[dict[str, str]]:
    """The rows as `messages` (a JSON list), `id` and `provenance` (all other keys, as JSON)."""
    for number, row in read_rows(path):
        messages, name = row.pop("messages", None), str(row.pop("id", f"line-{number:06d}"))
        problem = _problem(messages, name)
        if problem:
            raise UserError(f"{path}:{number}: {problem}")
        yield {
            "messages": json.dumps(messages, ensure_ascii=False),
            "id": name,
            "provenance": json.dumps(row, sort_keys=True),
        }


def _problem(messages: Any, name: str) -> str:
    if not isinstance(messages, list) or not messages:
        return "a chat needs a non-empty list 'messages'"
    for message in messages:
        parts = (
            [message.get(key) for key in ("role", "content")] if isinstance(message, dict) else []
        )
        if not parts or not all(isinstance(part, str) for part in parts):
            return "a message needs texts as 'role' and 'content'"
        try:
            f"{parts}{name}{message['content']}".encode()
        except UnicodeEncodeError:
            return "half a character (\\ud...) in it: mend the line"
    return ""
