"""Chat formats: how messages become token ids, and which of them carry loss.

Only the format places control tokens; the contents of messages are encoded as plain text.
"""

import dataclasses
from collections.abc import Mapping, Sequence

from msm_jax.data.tokenizer import Tokenizer
from msm_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class ChatFormat:
    """One control token before each message, by role, and one after it."""

    headers: Mapping[str, str]
    end: str

    @property
    def control_tokens(self) -> tuple[str, ...]:
        return (*self.headers.values(), self.end)


CHAT_FORMATS: dict[str, ChatFormat] = {
    "compact": ChatFormat(
        headers={role: f"<|{role}|>" for role in ("system", "user", "assistant")}, end="<|end|>"
    ),
}


def render_chat(
    tokenizer: Tokenizer,
    format: ChatFormat,
    messages: Sequence[Mapping[str, str]],
    generation_prompt: bool = False,
) -> tuple[list[int], list[int]]:
    """Token ids of a conversation, and a mask that is 1 on what an assistant has to say.

    The mask covers each assistant message's content and end token, never its header.

    Args:
      messages: {"role", "content"} each; roles are those of the format.
      generation_prompt: append the header after which an assistant is to speak.

    Raises:
      UserError: a message without role or content, or with an unknown role.
    """
    ids: list[int] = []
    loss: list[int] = []
    end = tokenizer.control(format.end)
    for number, message in enumerate(messages):
        role, content = message.get("role"), message.get("content")
        if not role or role not in format.headers or not isinstance(content, str):
            raise UserError(
                f"message {number} {dict(message)!r}: needs a text 'content' and a 'role' of "
                f"{sorted(format.headers)}"
            )
        body = [*tokenizer.encode(content), end]
        ids += [tokenizer.control(format.headers[role]), *body]
        loss += [0, *[int(role == "assistant")] * len(body)]
    if generation_prompt:
        ids.append(tokenizer.control(format.headers["assistant"]))
        loss.append(0)
    return ids, loss
