"""Reads a row of a data set, in the shapes in which data sets are published.

    {"text": str}                                 a document
    {"messages": [{"role", "content", ...}]}      a chat; also as "conversations", "conversation"
    {"conversations": [{"from", "value"}]}        a chat as ShareGPT writes it
    {"prompt": str, "completion": str}            a document whose prompt has no loss
    {"prompt": [messages], "completion": [...]}   a chat whose prompt has no loss

Chats may be JSON in a string, and have `tools` (a list, or JSON in a string) and `system` (also
`system_prompt`, `system_message`) beside them. A key whose value is null or empty counts as
missing. Keys that would change what is trained on, and that are not used here, are refused by name.
Of the other keys, those that are not known as provenance are counted by the token store.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from msm_jax.errors import UserError
from msm_jax.files import parse_json
from msm_jax.limits import CHAT_MESSAGES

VERSION = 2  # of these rules; token stores are named by it

CHATS = ("messages", "conversations", "conversation")
SYSTEM = ("system", "system_prompt", "system_message")
# ShareGPT's names of roles, by those of chat formats.
FROM = {
    "system": "system",
    **dict.fromkeys(("human", "user"), "user"),
    **dict.fromkeys(("gpt", "assistant", "chatgpt", "bot", "model"), "assistant"),
    **dict.fromkeys(("tool", "observation", "function_response"), "tool"),
}
CALL = "function_call"  # ShareGPT's role of a message that is a call, as JSON
_WEIGHTS = (
    "weight", "weights", "loss_weight", "sample_weight", "train", "loss", "mask", "loss_mask",
    "completion_mask", "assistant_masks",
)  # fmt: skip
# Keys of a row that would change what is trained on, and what to do instead.
REFUSED = {
    **dict.fromkeys(
        _WEIGHTS, "loss_on decides which tokens have loss, or each message by its own weight"
    ),
    **dict.fromkeys(("input_ids", "labels", "token_ids"), "rows are texts, not token ids"),
    **dict.fromkeys(
        ("tool_calls", "reasoning_content", "reasoning", "thinking"),
        "put it into the message that it belongs to",
    ),
    **dict.fromkeys(("functions", "function_call"), "tools go into 'tools'"),
    **dict.fromkeys(
        ("chat_template", "chat_template_kwargs", "enable_thinking", "documents"),
        "a template gets messages and tools only, and is chosen by chat_format",
    ),
    **dict.fromkeys(
        ("image", "images", "audio", "audios", "video", "videos"), "only text can be trained on"
    ),
}
# Keys that say where a row came from, in corpora of `generate` and in published data sets.
PROVENANCE = frozenset(
    "id uuid prompt_id conversation_id idx index hash spec model_name domain subdomain points "
    "doc_type doc_idea assertions rewrite writer prompt_hash response parents kind style source "
    "dataset category subset url license timestamp date created title topic language model "
    "generator token_length num_tokens".split()
)


@dataclasses.dataclass(frozen=True)
class Example:
    """A document or a chat."""

    text: str = ""  # of a document; "" for a chat
    prompt: str = ""  # text before the text of a document, without loss
    messages: tuple[dict[str, Any], ...] = ()  # of a chat, each with "role" and what else it had
    given: int = 0  # number of first messages that are a prompt, without loss
    tools: list | None = None  # of a chat, as its template gets them
    unused: tuple[str, ...] = ()  # keys that are neither used nor known as provenance


def read_row(row: Mapping[str, Any]) -> Example:
    """The example that a row is.

    Raises:
      UserError: an unknown shape, or two shapes; a key that has a meaning and is not used.
    """
    row = {key: value for key, value in row.items() if not _is_empty(value)}
    for key, instead in REFUSED.items():
        if key in row and not (key in _WEIGHTS and row[key] == 1):
            raise UserError(f"the row's key {key!r} is not used: {instead}, or delete the key")
    found = [key for key in ("text", *CHATS) if key in row]
    found += ["prompt' and 'completion"] * (row.keys() >= {"prompt", "completion"})
    if len(found) > 1:
        raise UserError(f"has '{found[0]}' and also '{found[1]}': delete one of them")
    if not found:
        raise UserError(
            "needs a non-empty 'text' or 'messages' (or 'conversations'), or 'prompt' and "
            f"'completion'; its keys are {', '.join(map(repr, row)) or 'none, or empty'}"
        )
    used = {found[0], "tools", *SYSTEM, *_WEIGHTS}
    if "completion" in found[0]:
        used |= {"prompt", "completion"}
        if row.get("label") is False:
            raise UserError("the row's label is false: a completion that is not to be trained on")
        example = _pair(row)
    elif found[0] == "text":
        example = _document(row, row["text"])
    else:
        example = _chat(row, _messages(row[found[0]], found[0]))
    return dataclasses.replace(example, unused=tuple(row.keys() - used - PROVENANCE))


def _is_empty(value) -> bool:
    return value is None or (isinstance(value, str | list | dict) and not value)


def _pair(row: Mapping[str, Any]) -> Example:
    prompt, completion = row["prompt"], row["completion"]
    if isinstance(prompt, list) and isinstance(completion, list):
        before = _messages(prompt, "prompt")
        example = _chat(row, [*before, *_messages(completion, "completion")])
        # A system message that the row had beside them is one more that is given.
        given = len(example.messages) - len(completion)
        return dataclasses.replace(example, given=given)
    if not isinstance(prompt, str):
        raise UserError("'prompt' and 'completion' must be both texts or both lists of messages")
    return _document(row, completion, prompt)


def _document(row: Mapping[str, Any], text: Any, prompt: str = "") -> Example:
    if not isinstance(text, str) or not text.strip():
        raise UserError(f"needs a non-empty 'text' or 'messages', not {text!r:.50}")
    if beside := sorted(row.keys() & {"tools", *SYSTEM}):
        raise UserError(f"has {beside[0]!r} beside a text: that is for chats; delete the key")
    return Example(text, prompt)


def _chat(row: Mapping[str, Any], messages: list[dict[str, Any]]) -> Example:
    for key in SYSTEM:
        if key in row:
            messages = _with_system(messages, key, row[key])
    tools = row.get("tools")
    if tools is not None:
        tools = _from_json(tools, "tools")
        tools = [_from_json(t, "tools") for t in tools] if isinstance(tools, list) else tools
        if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
            raise UserError("'tools' must be a list of objects, or such a list as JSON")
    return Example(messages=tuple(messages), tools=tools or None)


def _with_system(messages: list[dict[str, Any]], key: str, system: Any) -> list[dict[str, Any]]:
    if not isinstance(system, str):
        raise UserError(f"{key!r} must be a text, not {type(system).__name__}")
    first = messages[0]
    if first.get("role") != "system":
        return [{"role": "system", "content": system}, *messages]
    if first.get("content") != system:
        raise UserError(f"{key!r} and the system message of the chat differ: delete one of them")
    return messages


def _messages(found: Any, key: str) -> list[dict[str, Any]]:
    found = _from_json(found, key)
    if not isinstance(found, list) or not found:
        raise UserError(f"{key!r} is {found!r:.50}, not a list of messages")
    if len(found) > CHAT_MESSAGES:
        raise UserError(f"{key!r} has {len(found):,} messages, more than {CHAT_MESSAGES}")
    return [_message(number, message) for number, message in enumerate(found)]


def _message(number: int, message: Any) -> dict[str, Any]:
    if not isinstance(message, dict):
        raise UserError(f"message {number} is {message!r:.50}, not an object")
    kept = {key: v for key, v in message.items() if v is not None or key == "content"}
    if "from" not in kept:
        return kept
    who, value = kept.pop("from"), kept.pop("value", None)
    if "role" in kept or "content" in kept:
        raise UserError(f"message {number} has 'from' and also 'role' or 'content'")
    if who == CALL:
        call = _from_json(value, f"message {number}")
        calls = call if isinstance(call, list) else [call]
        wrapped = [{"type": "function", "function": one} for one in calls]
        return {"role": "assistant", "content": "", "tool_calls": wrapped, **kept}
    if not isinstance(who, str) or who not in FROM:
        raise UserError(f"message {number} is from {who!r}: one of {[*FROM, CALL]}")
    return {"role": FROM[who], "content": value, **kept}


def _from_json(value: Any, what: str) -> Any:
    """A value; the JSON value of a text."""
    if not isinstance(value, str):
        return value
    try:
        return parse_json(value)
    except ValueError as error:
        raise UserError(f"{what}: a text that is not JSON: {error}") from error
