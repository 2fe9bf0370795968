"""Chat formats: how messages become token ids, and which of the tokens carry loss.

A format writes a conversation as one text. The name of a control token becomes the control token
only where the format wrote it: in messages such names are disguised while the format writes, and
are plain text again before anything is encoded. The one exception is the block of thoughts that an
assistant's message may begin with, because the model itself writes its two tags.
"""

import collections
import dataclasses
import functools
import json
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from msm_jax.data import spans
from msm_jax.data.messages import (
    DISGUISE,
    ROLES,
    TEMPLATE_ROLES,
    Messages,
    Turn,
    has_null,
    hidden,
    named,
    read_turn,
    unmarked,
)
from msm_jax.data.sandbox import Write, writer
from msm_jax.data.tokenizer import Tokenizer
from msm_jax.errors import UserError, located
from msm_jax.files import sha256_json

_USER, _SYSTEM = {"role": "user", "content": "?"}, {"role": "system", "content": "Be brief."}
_ANSWER = {"role": "assistant", "content": "Yes, 3 of 10.\n\n- one\n"}
_THOUGHTFUL = {"role": "assistant", "content": "<think>\nhm\n</think>\n\nYes."}
# Conversations that tell formats apart: default system lines, later turns, thoughts.
PROBES: tuple[Messages, ...] = (
    [_USER],
    [_SYSTEM, _USER],
    [_USER, _ANSWER, _USER],
    [_SYSTEM, _USER, _ANSWER],
    [_USER, _THOUGHTFUL, _USER, _THOUGHTFUL],
)


@dataclasses.dataclass(frozen=True)
class ChatFormat:
    """How a conversation is written.

    Attributes:
      write: (messages, generation prompt wanted, tools) -> text with names of control tokens.
      end: the control token after a message.
      control_tokens: those that the tokenizer must have.
      source: of a checkpoint's own template; "" for a built-in format.
      other_ends: control tokens after answers that are not the last one, where they differ.
    """

    write: Write
    end: str
    control_tokens: tuple[str, ...]
    source: str = ""
    other_ends: tuple[str, ...] = ()

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 of what is written for `PROBES` and of `end`; it does not depend on the date."""
        return sha256_json([self.end, *(text for _, text in self.probes)])

    @functools.cached_property
    def probes(self) -> list[tuple[Messages, str]]:
        """Each of `PROBES`, and what is written for it, with a generation prompt and without."""
        return [(chat, self.attempt(chat, prompt)) for chat in PROBES for prompt in (True, False)]

    def attempt(self, messages: Messages, generation_prompt: bool) -> str:
        """The text without marks, or why the format refuses the conversation."""
        try:
            return unmarked(self.write(messages, generation_prompt))[0]
        except UserError as error:
            return str(error)

    @functools.cached_property
    def header(self) -> spans.Header:
        """What is written before an answer."""
        return spans.find_header(self.write)

    @functools.cached_property
    def is_tagged(self) -> bool:
        """Whether a template marks the tokens with loss by {% generation %}."""
        return "generation" in self.source and bool(
            spans.Written(self.write, [spans.ASK, spans.ANSWER], False).generated
        )

    @functools.cached_property
    def writes_thoughts(self) -> bool:
        """Whether thoughts under a key of their own are written anywhere."""
        answer = dataclasses.replace(spans.ANSWER, thought="?")
        try:
            return "thought" not in spans.Written(self.write, [spans.ASK, answer], False).missing(1)
        except UserError:
            return False

    @functools.cached_property
    def takes_argument_text(self) -> bool:
        """Whether arguments of a call may be JSON text, which others write as a text in quotes."""
        call = {"type": "function", "function": {"name": "f", "arguments": '{"a": "b"}'}}
        answer = {"role": "assistant", "content": "", "tool_calls": [call]}
        return '{"a": "b"}' in self.attempt([_USER, answer], False)


_IM = ("<|im_start|>", "<|im_end|>")
_THINK = ("<think>", "</think>")
_LLAMA = ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
# Name -> the token that ends a message, and all control tokens.
_BUILTIN = {
    "compact": ("<|end|>", ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>")),
    "chatml": ("<|im_end|>", _IM),
    "qwen2.5": ("<|im_end|>", _IM),
    "qwen3": ("<|im_end|>", (*_IM, *_THINK)),
    "qwen3-no-thinking": ("<|im_end|>", (*_IM, *_THINK)),
    "llama3": ("<|eot_id|>", _LLAMA),
    "llama3.1": ("<|eot_id|>", _LLAMA),
}


@functools.cache
def builtin_template(name: str) -> str:
    """The Jinja source of a built-in format, which is exported with weights trained on it."""
    folder = pathlib.Path(__file__).parent / "formats"
    thinking = name.removesuffix("-no-thinking")
    text = (folder / f"{thinking}.jinja").read_text(encoding="utf-8").rstrip("\n")
    return text if thinking == name else "{%- set enable_thinking = false %}\n" + text


@functools.cache
def _writer(name: str) -> Write:
    return writer(builtin_template(name), {})


def _write(name: str, *chat: Any) -> str:
    return _writer(name)(*chat)  # compiled when it is first used


CHAT_FORMATS = {
    name: ChatFormat(functools.partial(_write, name), *tokens) for name, tokens in _BUILTIN.items()
}


def render_chat(
    tokenizer: Tokenizer,
    format: ChatFormat,
    messages: Messages,
    generation_prompt: bool = False,
    tools: Sequence[Mapping] | None = None,
    notes: collections.Counter | None = None,
) -> tuple[list[int], list[int]]:
    """Token ids of a conversation, and a mask that is 1 on what the assistant writes.

    The conversation is written as one text and split at its control tokens; the texts between them
    are encoded one by one. The mask covers everything from the end of each assistant's header to
    its end token (see `spans`); a token that begins in the header is not covered.

    Args:
      messages: as `messages.read_turn` takes them; at least {"role", "content"} each.
      generation_prompt: append the header that asks for an assistant's message.
      tools: that the assistant may call, as JSON schemas; for templates that write them.
      notes: gets counts of what is worth a warning: thoughts that the format drops, control
        tokens' names in messages, which stay text.

    Raises:
      UserError: a message that cannot be read or holds what the format does not write, by number
        and key; a mask that is not certain; a tokenizer without the format's control tokens.
    """
    for name in format.control_tokens:
        tokenizer.control(name)
    controls = control_pattern(tokenizer.control_names)
    turns = [_turn(format, number, message, controls) for number, message in enumerate(messages)]
    tools = [hidden(named(tool, "tools"), controls) for tool in tools or ()]
    if tools and not format.source:
        raise UserError(f"'tools': {_NO_TOOLS}")
    text, with_loss = spans.assistant_spans(format, turns, generation_prompt, tools, notes)
    if notes is not None:
        notes.update(
            f"control tokens' names in a message of role {turn.role!r} stay text"
            for turn in turns
            if any(kind and DISGUISE in text for kind, text in turn.pieces)
        )
        notes[NULLS] += has_null([tools, *(turn.calls for turn in turns)])
        notes += collections.Counter()  # without what is 0
    marked = bytearray(len(text))
    for start, stop in with_loss:
        marked[start:stop] = b"\1" * (stop - start)
    ids: list[int] = []
    loss: list[int] = []
    at = 0
    for found in [*controls.finditer(text), None]:
        stop = found.start() if found else len(text)
        if stop > at:
            tokens, mask = _encoded(tokenizer, text[at:stop], bytes(marked[at:stop]))
            ids += tokens
            loss += mask
        if found:
            ids.append(tokenizer.control(found[0]))
            loss.append(marked[stop])
            at = found.end()
    return ids, loss


NULLS = (
    "chats with null in tools or tool calls, which templates write as null: a table that was saved "
    "as JSON adds them to objects with other keys"
)
_NO_TOOLS = (
    "the built-in chat formats write no tools and no calls of them; choose the checkpoint's own "
    "template (chat_format='own')"
)


def _turn(format: ChatFormat, number: int, message: Any, controls: re.Pattern) -> Turn:
    """A message of which the format writes every key."""
    with located(f"message {number}"):
        turn = read_turn(message, controls)
        if not format.source and (turn.role == "tool" or turn.calls):
            raise UserError(f"role 'tool' or 'tool_calls': {_NO_TOOLS}")
        if not format.source and turn.role in TEMPLATE_ROLES:
            raise UserError(f"role {turn.role!r}: built-in chat formats write {', '.join(ROLES)}")
        if not turn.calls or format.takes_argument_text:
            return turn
        return dataclasses.replace(turn, calls=tuple(map(_with_object, turn.calls)))


def _with_object(call: Mapping) -> dict:
    """A call whose arguments are an object, also where they were JSON text."""
    inner = call.get("function", call)
    if not isinstance(inner.get("arguments"), str):
        return dict(call)
    inner = {**inner, "arguments": json.loads(inner["arguments"])}
    return {**call, "function": inner} if "function" in call else inner


def _encoded(tokenizer: Tokenizer, text: str, marked: bytes) -> tuple[list[int], list[int]]:
    """Ids of a text between two control tokens, and for each the mask of its first character."""
    plain = text.replace(DISGUISE, "")
    if marked.count(marked[0]) == len(marked):
        ids = tokenizer.encode(plain)
        return ids, [marked[0]] * len(ids)
    places = [place for place, letter in enumerate(text) if letter != DISGUISE]
    ids, starts = tokenizer.encode_with_starts(plain)
    return ids, [marked[places[start]] for start in starts]


@functools.lru_cache
def control_pattern(control_names: tuple[str, ...]) -> re.Pattern:
    """Matches the name of any control token."""
    return re.compile("|".join(map(re.escape, control_names)) or r"\Z.")
