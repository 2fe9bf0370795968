"""What a message of a chat may hold, read into `Turn`s; no key with a meaning is ignored.

    role               system, user, assistant or tool; for templates that write it also
                       developer, ipython or function
    content            a text, or a list of {"type": "text", "text": ...}, which are joined
    reasoning_content  an assistant's thoughts; also called thinking or reasoning
    tool_calls         an assistant's calls, as {"function": {"name", "arguments"}} or without the
                       outer object; arguments are an object or its JSON text, or absent for {}
    name               of who speaks; beside role "tool": of the function, with tool_call_id
    weight, train, loss  0 or false: an assistant's message is written and carries no loss

A null, an empty list and an empty text count as absent. `HARMLESS` keys say nothing to a model;
every other key is refused by name.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from msm_jax.errors import UserError, located
from msm_jax.files import parse_json

Messages = Sequence[Mapping[str, Any]]
ROLES = ("system", "user", "assistant", "tool")
TEMPLATE_ROLES = ("developer", "ipython", "function")  # of some checkpoints' templates
HARMLESS = frozenset(
    "id message_id tool_call_id timestamp created_at model language index turn_identifier".split()
)
THOUGHTS = ("reasoning_content", "thinking", "reasoning")
WEIGHTS = ("weight", "train", "loss")
# Keys of a call, or of what is in its "function".
_CALL = frozenset("name arguments function id type index call_id tool_call_id".split())
# Unicode's noncharacters, which no text interchanges: a message that has one is refused. The
# first is put after the first letter of a control token's name inside a message.
DISGUISE = "\ufdd0"
_OPEN, _CLOSE = "\ufdd1", "\ufdd2"  # around a text of a message, after _OPEN its number
GENERATION = ("\ufdd3", "\ufdd4")  # around what a template's {% generation %} tag holds
_DIGITS = str.maketrans("0123456789", "".join(map(chr, range(0xFDD6, 0xFDE0))))
_NUMBERS = {letter: chr(digit) for digit, letter in _DIGITS.items()}
_EMPTY: tuple = ("", [], {}, ())
_RESERVED = re.compile("[\ufdd0-\ufdef]")
_MARKS = re.compile(f"{_OPEN}([\ufdd6-\ufddf]*)|[{_CLOSE}{''.join(GENERATION)}]")
# The block of thoughts that an assistant's message may begin with; a model whose prompt opens it
# writes only how it ends. Its two tags are what the model writes, so they stay control tokens.
# Nothing is given back ("*+"): a text without these tags is read once and not once per space.
_THOUGHT = re.compile(r"(\s*+(?:<think>)?+)((?:(?!</?think>).)*+)(</think>)", re.DOTALL)
Wrap = Callable[[str, str], str]
NO_CONTROLS = re.compile("(?!)")  # matches nothing


@dataclasses.dataclass(frozen=True)
class Turn:
    """A message, its control tokens' names disguised.

    Attributes:
      pieces: (kind, text) that make up the content: "content", "thought", or "" for the tags of
        thoughts.
      thought: the text under a key of `THOUGHTS`.
      more: name and tool_call_id, where given.
    """

    role: str
    pieces: tuple[tuple[str, str], ...]
    thought: str = ""
    calls: tuple[dict, ...] = ()
    more: Mapping[str, str] = dataclasses.field(default_factory=dict)
    has_loss: bool = True

    def message(self, wrap: Wrap = lambda text, kind: text) -> dict[str, Any]:
        """As a chat template takes it; `wrap` is given each text and its kind."""
        content = "".join(
            wrap(text, kind) if kind and (text.strip() or not self.calls) else text
            for kind, text in self.pieces
        )
        found: dict[str, Any] = {"role": self.role, "content": content, **self.more}
        if "name" in found and self.role != "tool":
            found["name"] = wrap(found["name"], "name")
        if self.thought:  # transformers gives it under both names
            found["reasoning_content"] = found["thinking"] = wrap(self.thought, "thought")
        if self.calls:
            found["tool_calls"] = [renamed(call, wrap, "call") for call in self.calls]
        return found


def renamed(tool: Mapping, wrap: Wrap, kind: str) -> dict:
    """A tool, or a call of one, the name of its function wrapped."""
    inner = tool.get("function")
    if isinstance(inner, Mapping):
        return {**tool, "function": {**inner, "name": wrap(inner["name"], kind)}}
    return {**tool, "name": wrap(tool["name"], kind)}


def marker(kinds: list[tuple[int, str]], message: int, after_spaces: bool) -> Wrap:
    """The `wrap` of `Turn.message` that puts a mark around each text, so that it is found again.

    Spaces at the ends stay outside, for templates trim them; in a text of nothing but spaces the
    mark is after or before them. `kinds` gets (message, kind) of each mark, by its number.
    """

    def wrap(text: str, kind: str) -> str:
        core = text.strip()
        if not core and kind == "thought":
            return text  # an empty block of thoughts is not what one with a mark in it is
        at = len(text) - len(text.lstrip()) if core or after_spaces else 0
        number = str(len(kinds)).translate(_DIGITS)
        kinds.append((message, kind))
        return f"{text[:at]}{_OPEN}{number}{core}{_CLOSE}{text[at + len(core) :]}"

    return wrap


def unmarked(text: str) -> tuple[str, dict[int, list[tuple[int, int]]], list[tuple[int, int]]]:
    """A text without marks; number of a mark -> its places; places of generation tags. UserError
    for a mark that was cut apart."""
    parts: list[str] = []
    places: dict[int, list[tuple[int, int]]] = {}
    generated: list[tuple[int, int]] = []
    opened: list[tuple[str, int]] = []
    done = length = 0
    for found in _MARKS.finditer(text):
        parts.append(text[done : found.start()])
        length, done = length + len(parts[-1]), found.end()
        if found[0][0] in (_OPEN, GENERATION[0]):
            opened.append((found[0], length))
            continue
        kind, start = opened.pop() if opened else ("", 0)
        if (kind == GENERATION[0]) != (found[0] == GENERATION[1]) or not kind:
            raise UserError("the chat format cuts a message apart")
        if kind == GENERATION[0]:
            generated.append((start, length))
        else:
            places.setdefault(int(kind[1:].translate(_NUMBERS)), []).append((start, length))
    parts.append(text[done:])
    if opened:
        raise UserError("the chat format cuts a message apart")
    return "".join(parts), places, generated


def hidden(value: Any, controls: re.Pattern) -> Any:
    """A JSON value whose texts hold no control token's name any more. UserError for a text with one
    of Unicode's noncharacters U+FDD0 to U+FDEF."""
    if isinstance(value, str):
        if _RESERVED.search(value):
            raise UserError("holds one of U+FDD0 to U+FDEF, which are not characters")
        return controls.sub(lambda found: found[0][0] + DISGUISE + found[0][1:], value)
    if isinstance(value, Mapping):
        return {hidden(key, controls): hidden(item, controls) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [hidden(item, controls) for item in value]
    return value


def read_turn(message: Any, controls: re.Pattern) -> Turn:
    """A message, read by the rules above; UserError for what they do not allow. `controls` matches
    the names of control tokens."""
    if not isinstance(message, Mapping):
        raise UserError(f"{message!r}: not an object with 'role' and 'content'")
    empty = lambda key, value: value is None or (key != "content" and value in _EMPTY)
    held = {key: value for key, value in message.items() if not empty(key, value)}
    role = held.pop("role", None)
    if role not in (*ROLES, *TEMPLATE_ROLES):
        keys = ", ".join(map(repr, message))
        raise UserError(f"role {role!r}: one of {', '.join(ROLES)}; the message's keys are {keys}")
    known = {"tool_calls", "content", "name", *THOUGHTS, *WEIGHTS, *HARMLESS}
    if unknown := sorted(map(str, {*held} - known)):
        raise UserError(
            f"key {unknown[0]!r} is not one that we know ({', '.join(unknown)}): take it out of "
            f"the data, or write what it says into 'content'"
        )
    calls = _calls(held.pop("tool_calls", []), role, controls)
    content = _text(held.pop("content", "" if calls else None), "content")
    thought, has_loss = _thought(held, role), _has_loss(held, role)
    more = {key: _text(held[key], key) for key in ("name", "tool_call_id") if key in held}
    pieces = [("content", content)]
    if role == "assistant" and (block := _THOUGHT.match(content)):
        if thought:
            raise UserError("thoughts in 'content' and under a key of their own: keep one of them")
        rest = content[block.end() :]
        pieces = [("", block[1]), ("thought", block[2]), ("", block[3]), ("content", rest)]
    return Turn(
        role,
        tuple((kind, hidden(text, controls) if kind else text) for kind, text in pieces),
        hidden(thought, controls),
        calls,
        hidden(more, controls),
        has_loss,
    )


def check_asked(messages: Any) -> None:
    """UserError unless these are messages that a model can be asked to answer: at least one, each
    as `read_turn` takes it, and the last is not the assistant's own."""
    if not isinstance(messages, (list, tuple)) or not messages:
        raise UserError(f"messages are {str(messages)[:80]!r}: needs to be a list of messages")
    turns = []
    for place, message in enumerate(messages):
        with located(f"message {place}"):
            turns.append(read_turn(message, NO_CONTROLS))
    if turns[-1].role == "assistant":
        raise UserError(
            "the last message is the assistant's own, and would be answered by another one: leave "
            "it out; what the assistant has begun to say cannot be gone on with"
        )


def _text(value: Any, key: str) -> str:
    """A text, or parts of type text joined, as templates do it."""
    if isinstance(value, str):
        return value
    if not isinstance(value, (list, tuple)):
        raise UserError(f"{key!r} is {value!r}: needs to be a text")
    texts = []
    for part in value:
        held = {k: v for k, v in part.items() if v is not None} if isinstance(part, Mapping) else {}
        if held.get("type") != "text" or not isinstance(held.get("text"), str) or len(held) > 2:
            raise UserError(
                f"{key!r} holds {str(part)[:80]}: only parts of the form "
                '{"type": "text", "text": ...} can be read'
            )
        texts.append(held["text"])
    return "".join(texts)


def _thought(held: dict, role: str) -> str:
    found = {key: _text(held.pop(key), key) for key in THOUGHTS if key in held}
    if len({*found.values()}) > 1:
        raise UserError(f"{' and '.join(map(repr, found))} differ: keep one of them")
    if found and role != "assistant":
        raise UserError(f"{next(iter(found))!r}: only an assistant has thoughts, not {role!r}")
    return next(iter(found.values()), "")


def _has_loss(held: dict, role: str) -> bool:
    found = {key: held.pop(key) for key in WEIGHTS if key in held}
    for key, value in found.items():
        if not isinstance(value, (bool, int, float)) or value not in (0, 1):
            raise UserError(
                f"{key!r} is {value!r}: a message is learned (1, true) or not (0, false); "
                f"to weigh by parts, put the rows into sources with weights"
            )
        if value and role != "assistant":
            raise UserError(f"{key!r} is {value!r}: only an assistant's message can be learned")
    if len({bool(value) for value in found.values()}) > 1:
        raise UserError(f"{' and '.join(map(repr, found))} contradict each other: keep one")
    return all(found.values())


def _calls(calls: Any, role: str, controls: re.Pattern) -> tuple[dict, ...]:
    if calls and role != "assistant":
        raise UserError(f"'tool_calls': only an assistant calls tools, not {role!r}")
    if not isinstance(calls, (list, tuple)):
        raise UserError(f"'tool_calls' is {calls!r}: needs to be a list")
    return tuple(hidden(_call(call), controls) for call in calls)


def _call(call: Any) -> dict:
    """A call whose arguments are an object or its JSON text."""
    call = named(call, "tool_calls")
    inner = call.get("function", call)
    held = {key for each in (call, inner) for key, value in each.items() if value is not None}
    if unknown := sorted(map(str, held - _CALL)):
        raise UserError(
            f"'tool_calls': {inner['name']!r} has the key {unknown[0]!r}, which is not used: what "
            "a function is called with goes into 'arguments'"
        )
    arguments = inner.get("arguments")
    if arguments is None or arguments == "":
        arguments = {}
    try:
        meant = parse_json(arguments, unique=False) if isinstance(arguments, str) else arguments
    except ValueError as error:
        raise UserError(f"'tool_calls': the arguments of {inner['name']!r}: {error}") from error
    if not isinstance(meant, Mapping):
        raise UserError(
            f"'tool_calls': the arguments of {inner['name']!r} are {str(arguments)[:80]!r}: need "
            "to be an object, or the JSON text of one"
        )
    inner = {**inner, "arguments": arguments}
    return {**call, "function": inner} if "function" in call else inner


def has_null(value: Any) -> bool:
    """Whether a JSON value holds a null."""
    if isinstance(value, Mapping):
        return any(map(has_null, value.values()))
    return value is None or (isinstance(value, (list, tuple)) and any(map(has_null, value)))


def named(tool: Any, key: str) -> Mapping:
    """A tool or a call of one, that has a function's name."""
    inner = tool.get("function", tool) if isinstance(tool, Mapping) else None
    name = inner.get("name") if isinstance(inner, Mapping) else None
    if not isinstance(name, str) or not name:
        raise UserError(f"{key!r} holds {str(tool)[:80]}: a function needs a 'name'")
    return tool
