"""Chat formats: how messages become token ids, and which of them carry loss.

A format writes a conversation as one text. Names of control tokens become control tokens only
where the format wrote them: in the messages they are disguised while the format is at work, and
plain text again before anything is encoded. The one exception is the block of thoughts that an
assistant's message may begin with: its two tags are what the model writes, not what is told to it.
"""

import dataclasses
import functools
import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence

from msm_jax.data.tokenizer import Tokenizer
from msm_jax.errors import UserError

Messages = Sequence[Mapping[str, str]]
ROLES = ("system", "user", "assistant")
# The first is put after the first letter of a control token's name inside a message. Two of
# Unicode's noncharacters, which no text interchanges; a message that has them is refused.
_DISGUISE, _PROBE = "\ufdd0", "\ufdd1"
# The block of thoughts that an assistant's message may begin with; a model whose prompt opens it
# says only how it ends.
_THOUGHT = re.compile(r"(\s*(?:<think>)?)((?:(?!</?think>).)*)(</think>)", re.DOTALL)


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
      write: (messages, generation prompt wanted) -> text with the names of control tokens in it.
      end: the control token after a message.
      control_tokens: those that the tokenizer must have.
      source: of a template that the format was made from; "" for a built-in format.
    """

    write: Callable[[Messages, bool], str]
    end: str
    control_tokens: tuple[str, ...]
    source: str = ""

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 of what is written for `PROBES`: system lines, headers, thoughts, ends.

        Formats of the same fingerprint write these conversations alike; `template.difference`
        says where two formats part. It does not depend on the date.
        """
        texts = [self.attempt(chat, prompt) for chat in PROBES for prompt in (True, False)]
        return hashlib.sha256(json.dumps([self.end, *texts]).encode()).hexdigest()

    def attempt(self, messages: Messages, generation_prompt: bool) -> str:
        """What is written, or why the format refuses the conversation."""
        try:
            return self.write(messages, generation_prompt)
        except UserError as error:
            return str(error)

    @functools.cached_property
    def headers(self) -> tuple[str, str]:
        """What stands before every answer, and what is written where one is asked for.

        The second begins with the first; it may go on with an empty block of thoughts.
        """
        question, answer = (
            {"role": "user", "content": "?"},
            {"role": "assistant", "content": _PROBE},
        )
        asked = self.write([question], False)
        wanted = self.write([question], True).removeprefix(asked)
        answered = self.write([question, answer, question], False).removeprefix(asked)
        return os.path.commonprefix([wanted, answered.partition(_PROBE)[0]]), wanted


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


_IM = ("<|im_start|>", "<|im_end|>")
_THINK = ("<think>", "</think>")
_LLAMA = ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
CHAT_FORMATS: dict[str, ChatFormat] = {
    "compact": ChatFormat(_compact, "<|end|>", (*(f"<|{role}|>" for role in ROLES), "<|end|>")),
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
) -> tuple[list[int], list[int]]:
    """Token ids of a conversation, and a mask that is 1 on what an assistant has to say.

    The conversation is written whole, cut at its control tokens, and what lies between them is
    encoded. The mask covers everything from the end of each assistant's header to its end token;
    a token that begins in the header is not covered.

    Args:
      messages: {"role", "content"} each; roles are `ROLES`.
      generation_prompt: append the header after which an assistant is to speak.

    Raises:
      UserError: a message without role or content, or with an unknown role; a tokenizer without
        the format's control tokens.
    """
    for name in format.control_tokens:
        tokenizer.control(name)
    controls = _pattern(tokenizer.control_names)
    disguised = [_disguised(number, message, controls) for number, message in enumerate(messages)]
    text = format.write(disguised, generation_prompt)
    said = _said(text, format)
    ids: list[int] = []
    loss: list[int] = []
    at = 0
    for found in [*controls.finditer(text), None]:
        stop = found.start() if found else len(text)
        if stop > at:
            tokens, learned = _encoded(tokenizer, text[at:stop], said[at:stop])
            ids += tokens
            loss += learned
        if found:
            ids.append(tokenizer.control(found[0]))
            loss.append(said[stop])
            at = found.end()
    return ids, loss


def _encoded(tokenizer: Tokenizer, text: str, said: bytes) -> tuple[list[int], list[int]]:
    """Ids of a text between two control tokens, and the mask of its characters for each."""
    plain = text.replace(_DISGUISE, "")
    if said.count(said[0]) == len(said):
        ids = tokenizer.encode(plain)
        return ids, [said[0]] * len(ids)
    places = [place for place, letter in enumerate(text) if letter != _DISGUISE]
    ids, starts = tokenizer.encode_with_starts(plain)
    return ids, [said[places[start]] for start in starts]


def _said(text: str, format: ChatFormat) -> bytes:
    """For every character 1 where it is an assistant's: after the header, up to the end token."""
    said = bytearray(len(text))
    header, wanted = format.headers
    for found in re.finditer(re.escape(header), text):
        whole = text.startswith(wanted, found.start())
        start = found.start() + len(wanted) if whole else found.end()
        stop = text.find(format.end, start)
        if stop >= 0:
            said[start : stop + 1] = b"\1" * (stop + 1 - start)
    return bytes(said)


@functools.lru_cache
def _pattern(control_names: tuple[str, ...]) -> re.Pattern:
    return re.compile("|".join(re.escape(name) for name in control_names))


def _disguised(number: int, message: Mapping[str, str], controls: re.Pattern) -> dict[str, str]:
    role, content = message.get("role"), message.get("content")
    if role not in ROLES or not isinstance(content, str):
        raise UserError(
            f"message {number} {dict(message)!r}: needs a text 'content' and a 'role' of "
            f"{sorted(ROLES)}"
        )
    if _DISGUISE in content or _PROBE in content:
        raise UserError(f"message {number}: holds U+FDD0 or U+FDD1, which are not characters")
    hide = lambda text: controls.sub(lambda found: _hide(found[0]), text)
    if role == "assistant" and (thought := _THOUGHT.match(content)):
        before, body, after = thought.groups()
        return {
            "role": role,
            "content": before + hide(body) + after + hide(content[thought.end() :]),
        }
    return {"role": role, "content": hide(content)}


def _hide(name: str) -> str:
    return name[0] + _DISGUISE + name[1:]
