"""Puts a text, such as the spec, into every system message, to see what a prompt alone does."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from msm_jax.errors import UserError
from msm_jax.files import sha256_text
from msm_jax.spec.spec import MODEL_NAME, PROVIDER_NAME, load_spec


def load_context(path: str | pathlib.Path | None, assistant: str = "") -> str:
    """The text of a file, with the assistant's name filled in; "" without a file.

    Raises:
      UserError: a file that cannot be read, or that has a placeholder which nothing fills.
    """
    if not path:
        return ""
    text = load_spec(path, assistant or MODEL_NAME).text
    for placeholder in (MODEL_NAME, PROVIDER_NAME):
        if placeholder in text:
            raise UserError(f"{path}: has the placeholder {placeholder}: write the name there")
    return text.strip()


def in_context(messages: Sequence[Mapping[str, Any]], context: str) -> list[dict[str, Any]]:
    """The messages with a context before the text of their system message, if they have one."""
    copies = [dict(message) for message in messages]
    if not context:
        return copies
    if copies[0]["role"] != "system":
        return [{"role": "system", "content": context}, *copies]
    content = copies[0]["content"]
    if isinstance(content, str):
        copies[0]["content"] = f"{context}\n\n{content}"
    else:
        copies[0]["content"] = [{"type": "text", "text": f"{context}\n\n"}, *content]
    return copies


def counted(context: str) -> dict[str, str]:
    """A context's entry in the settings of an evaluation: its hash; none without a context."""
    return {"context": sha256_text(context)} if context else {}
