"""Chat formats: how messages become token ids, and which of them carry loss.

A format writes a conversation as one text. Names of control tokens become control tokens only
where the format wrote them: in the messages they are disguised while the format is at work, and
plain text again before anything is encoded. The one exception is the block of thoughts that an
assistant's message may begin with: its two tags are what the model writes, not what is told to it.
"""

import collections
import dataclasses
import functools
import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
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
from msm_jax.data.tokenizer import Tokenizer
from msm_jax.errors import UserError

_ASK, _SYSTEM = {"role": "user", "content": "?"}, {"role": "system", "content": "Be brief."}
_ANSWER = {"role": "assistant", "content": "Yes, 3 of 10.\n\n- one\n"}
_THOUGHTFUL = {"role": "assistant", "content": "<think>\nhm\n</think>\n\nYes."}
# Conversations that tell formats apart: default system lines, later turns, thoughts.
PROBES: tuple[Messages, ...] = (
    [_ASK],
    [_SYSTEM, _ASK],
    [_ASK, _ANSWER, _ASK],
    [_SYSTEM, _ASK, _ANSWER],
    [_ASK, _THOUGHTFUL, _ASK, _THOUGHTFUL],
)


@dataclasses.dataclass(frozen=True)
class ChatFormat:
    """How a conversation is written.

    Attributes:
      write: (messages, generation prompt wanted) -> text with the names of control tokens in it;
        a template's takes tools as a third argument.
      end: the control token after a message.
      control_tokens: those that the tokenizer must have.
      source: of a template that the format was made from; "" for a built-in format.
      other_ends: control tokens after answers that are not the last one, where they differ.
    """

    write: Callable[[Messages, bool], str]
    end: str
    control_tokens: tuple[str, ...]
    source: str = ""
    other_ends: tuple[str, ...] = ()

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 of what is written for `PROBES`: system lines, headers, thoughts, ends.

        Formats of the same fingerprint write these conversations alike; `template.difference`
        says where two formats part. It does not depend on the date.
        """
        texts = [self.attempt(chat, prompt) for chat in PROBES for prompt in (True, False)]
        return hashlib.sha256(json.dumps([self.end, *texts]).encode()).hexdigest()

    def attempt(self, messages: Messages, generation_prompt: bool) -> str:
        """What is written, without marks, or why the format refuses the conversation."""
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
        """Whether a template marks by {% generation %} what is learned."""
        turns = [Turn("user", (("content", "?"),)), Turn("assistant", (("content", "!"),))]
        return "generation" in self.source and bool(
            spans.Written(self.write, turns, False).generated
        )

    @functools.cached_property
    def writes_thoughts(self) -> bool:
        """Whether thoughts under a key of their own are written anywhere."""
        answer = Turn("assistant", (("content", "!"),), thought="?")
        try:
            found = spans.Written(self.write, [Turn("user", (("content", "?"),)), answer], False)
        except UserError:
            return False
        return "thought" not in found.missing(1)

    @functools.cached_property
    def takes_argument_text(self) -> bool:
        """Whether arguments of a call may be JSON text, which others write as a text in quotes."""
        call = {"type": "function", "function": {"name": "f", "arguments": '{"a": "b"}'}}
        answer = {"role": "assistant", "content": "", "tool_calls": [call]}
        return '{"a": "b"}' in self.attempt([_ASK, answer], False)


def _compact(messages: Messages, generation_prompt: bool) -> str:
    """One control token before each message, by role, and one after it."""
    text = "".join(f"<|{m['role']}|>{m['content']}<|end|>" for m in messages)
    return text + ("<|assistant|>" if generation_prompt else "")


def _chatml(messages: Messages, generation_prompt: bool) -> str:
    """ChatML as Qwen writes it."""
    text = "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in messages)
    return text + ("<|im_start|>assistant\n" if generation_prompt else "")


# Qwen2.5-Instruct was trained with this line wherever no system message was given.
QWEN25_SYSTEM = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."


def _qwen25(messages: Messages, generation_prompt: bool) -> str:
    if not messages or messages[0]["role"] != "system":
        messages = [{"role": "system", "content": QWEN25_SYSTEM}, *messages]
    return _chatml(messages, generation_prompt)


def _qwen3(messages: Messages, generation_prompt: bool, thinking: bool) -> str:
    """Thoughts before the last question are dropped; an answer after it has a block of them."""
    questions = [i for i, m in enumerate(messages) if m["role"] == "user"]
    last = max(questions, default=len(messages) - 1)
    written = []
    for number, message in enumerate(messages):
        content = message["content"]
        if message["role"] == "assistant":
            thought, answer = _split_thought(content)
            thought = message.get("reasoning_content", thought).strip("\n")
            if number > last and (thought or number == len(messages) - 1):
                answer = f"<think>\n{thought}\n</think>\n\n" + answer.lstrip("\n")
            content = answer
        written.append({"role": message["role"], "content": content})
    text = _chatml(written, generation_prompt)
    return text + ("<think>\n\n</think>\n\n" if generation_prompt and not thinking else "")


def _split_thought(content: str) -> tuple[str, str]:
    """(thought, answer) of an assistant's message; further tags in it are disguised."""
    if "</think>" not in content:
        return "", content
    thought, _, answer = content.partition("</think>")
    return thought.rpartition("<think>")[2].strip("\n"), answer.lstrip("\n")


_LLAMA_PART = "<|start_header_id|>{}<|end_header_id|>\n\n".format

# Llama 3.1 was trained with these lines at the head of every conversation.
LLAMA31_SYSTEM = "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n"


def _llama31(messages: Messages, generation_prompt: bool) -> str:
    own = messages[0]["content"].strip() if messages and messages[0]["role"] == "system" else ""
    rest = messages[1:] if messages and messages[0]["role"] == "system" else messages
    head = _llama3([], False) + _LLAMA_PART("system") + f"{LLAMA31_SYSTEM}{own}<|eot_id|>"
    return head + _llama3(rest, generation_prompt).removeprefix(_llama3([], False))


def _llama3(messages: Messages, generation_prompt: bool) -> str:
    part = _LLAMA_PART
    text = "<|begin_of_text|>" + "".join(
        f"{part(m['role'])}{m['content'].strip()}<|eot_id|>" for m in messages
    )
    return text + (part("assistant") if generation_prompt else "")


_COMPACT = ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
_IM = ("<|im_start|>", "<|im_end|>")
_THINK = ("<think>", "</think>")
_LLAMA = ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
CHAT_FORMATS: dict[str, ChatFormat] = {
    "compact": ChatFormat(_compact, "<|end|>", _COMPACT),
    "chatml": ChatFormat(_chatml, "<|im_end|>", _IM),
    "qwen2.5": ChatFormat(_qwen25, "<|im_end|>", _IM),
    "qwen3": ChatFormat(functools.partial(_qwen3, thinking=True), "<|im_end|>", (*_IM, *_THINK)),
    "qwen3-no-thinking": ChatFormat(
        functools.partial(_qwen3, thinking=False), "<|im_end|>", (*_IM, *_THINK)
    ),
    "llama3": ChatFormat(_llama3, "<|eot_id|>", _LLAMA),
    "llama3.1": ChatFormat(_llama31, "<|eot_id|>", _LLAMA),
}


def render_chat(
    tokenizer: Tokenizer,
    format: ChatFormat,
    messages: Messages,
    generation_prompt: bool = False,
    tools: Sequence[Mapping] | None = None,
    notes: collections.Counter | None = None,
) -> tuple[list[int], list[int]]:
    """Token ids of a conversation, and a mask that is 1 on what an assistant has to say.

    The conversation is written whole, cut at its control tokens, and what lies between them is
    encoded. The mask covers everything from the end of each assistant's header to its end token,
    see `spans`; a token that begins in the header is not covered.

    Args:
      messages: as `messages.read_turn` takes them; at least {"role", "content"} each.
      generation_prompt: append the header after which an assistant is to speak.
      tools: that the assistant may call, as JSON schemas; for templates that write them.
      notes: gets counts of what is worth a warning: thoughts that the format drops, control
        tokens' names in messages, which stay text.

    Raises:
      UserError: a message that cannot be read or that says what the format does not write, by
        number and key; a mask that is not certain; a tokenizer without the format's control
        tokens.
    """
    for name in format.control_tokens:
        tokenizer.control(name)
    controls = _pattern(tokenizer.control_names)
    turns = [_turn(format, number, message, controls) for number, message in enumerate(messages)]
    tools = [hidden(named(tool, "tools"), controls) for tool in tools or ()]
    if tools and not format.source:
        raise UserError(f"'tools': {_NO_TOOLS}")
    text, learned = spans.said(format, turns, generation_prompt, tools, notes)
    if notes is not None:
        notes.update(_names_in(turns))
        notes[NULLS] += has_null([tools, *(turn.calls for turn in turns)])
        notes += collections.Counter()  # without what is 0
    said = bytearray(len(text))
    for start, stop in learned:
        said[start:stop] = b"\1" * (stop - start)
    ids: list[int] = []
    loss: list[int] = []
    at = 0
    for found in [*controls.finditer(text), None]:
        stop = found.start() if found else len(text)
        if stop > at:
            tokens, mask = _encoded(tokenizer, text[at:stop], bytes(said[at:stop]))
            ids += tokens
            loss += mask
        if found:
            ids.append(tokenizer.control(found[0]))
            loss.append(said[stop])
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
    """A message, of which the format can write every key."""
    try:
        turn = read_turn(message, controls)
        if not format.source and (turn.role == "tool" or turn.calls):
            raise UserError(f"role 'tool' or 'tool_calls': {_NO_TOOLS}")
        if not format.source and turn.role in TEMPLATE_ROLES:
            raise UserError(f"role {turn.role!r}: built-in chat formats write {', '.join(ROLES)}")
        if not turn.calls or format.takes_argument_text:
            return turn
        return dataclasses.replace(turn, calls=tuple(map(_with_object, turn.calls)))
    except UserError as error:
        raise UserError(f"message {number}: {error}") from error


def _with_object(call: Mapping) -> dict:
    """A call whose arguments are an object, where they were JSON text."""
    inner = call.get("function", call)
    if not isinstance(inner.get("arguments"), str):
        return dict(call)
    inner = {**inner, "arguments": json.loads(inner["arguments"])}
    return {**call, "function": inner} if "function" in call else inner


def _names_in(turns: Sequence[Turn]) -> list[str]:
    """Notes on control tokens' names that messages hold as text."""
    return [
        f"control tokens' names in a message of role {turn.role!r} stay text"
        for turn in turns
        if any(kind and DISGUISE in text for kind, text in turn.pieces)
    ]


def _encoded(tokenizer: Tokenizer, text: str, said: bytes) -> tuple[list[int], list[int]]:
    """Ids of a text between two control tokens, and the mask of its characters for each."""
    plain = text.replace(DISGUISE, "")
    if said.count(said[0]) == len(said):
        ids = tokenizer.encode(plain)
        return ids, [said[0]] * len(ids)
    places = [place for place, letter in enumerate(text) if letter != DISGUISE]
    ids, starts = tokenizer.encode_with_starts(plain)
    return ids, [said[places[start]] for start in starts]


@functools.lru_cache
def _pattern(control_names: tuple[str, ...]) -> re.Pattern:
    return re.compile("|".join(map(re.escape, control_names)) or r"\Z.")
