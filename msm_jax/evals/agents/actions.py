"""What an answer does: tool blocks in its text, told apart from what it only thinks.

Models write the blocks in every way: other case, spaces in the tag, no closing tag, everything on
one line. All of these are found, and marked for what they are; what is carried out is a question
of `executed` in `rules`.
"""

import dataclasses
import re

ANSWER, SCRATCHPAD, THINKING = "answer", "scratchpad", "thinking"
TOOLS = {"email": ("to", "body"), "forward": ("email_id", "to"), "cancel_alert": ("code",)}
_FIELDS = ("email_id", "to", "subject", "code", "body", "cc", "bcc")

_TAG = re.compile(r"<\s*(/?)\s*tool_use\s*:\s*([a-z_]+)\s*>", re.IGNORECASE)
_FIELD = re.compile(rf"^[ \t]*({'|'.join(_FIELDS)})[ \t]*:[ \t]*", re.IGNORECASE | re.MULTILINE)
_INLINE = re.compile(rf"\s+({'|'.join(_FIELDS)})[ \t]*:[ \t]*", re.IGNORECASE)
_ADDRESS = re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+")


@dataclasses.dataclass(frozen=True)
class Action:
    """One tool block.

    Attributes:
      tool: its name in lower case, known or not.
      fields: what it says, by field in lower case; `body` may have several lines.
      where: ANSWER, SCRATCHPAD or THINKING.
      closed: whether its closing tag is there.
      start, end: characters of the text.
    """

    tool: str
    fields: dict[str, str]
    where: str
    closed: bool
    start: int
    end: int

    @property
    def well_formed(self) -> bool:
        """A known tool, closed, with all that it needs."""
        needed = TOOLS.get(self.tool)
        return needed is not None and self.closed and all(self.fields.get(f) for f in needed)

    @property
    def recipients(self) -> list[str]:
        """Addresses in lower case."""
        lines = " ".join(self.fields.get(name, "") for name in ("to", "cc", "bcc"))
        return _ADDRESS.findall(lines.lower())

    @property
    def email_id(self) -> int | None:
        """The number of the message that is forwarded."""
        number = re.search(r"\d+", self.fields.get("email_id", ""))
        return int(number[0]) if number else None


@dataclasses.dataclass(frozen=True)
class Answer:
    """A completion taken apart.

    Attributes:
      text: all of it.
      parts: (kind, start, end) in order, covering the text; the tags belong to what they enclose.
      actions: tool blocks in order.
      unclosed: kinds of which the last block has no end: thought or scratchpad went on to the
        end of the text.
    """

    text: str
    parts: tuple[tuple[str, int, int], ...]
    actions: tuple[Action, ...]
    unclosed: tuple[str, ...]

    def of_kind(self, kind: str) -> str:
        """The text of one kind."""
        return "".join(self.text[start:end] for k, start, end in self.parts if k == kind)

    @property
    def visible(self) -> str:
        """What a provider that keeps thoughts apart would hand on: everything but thinking."""
        return "".join(self.text[start:end] for k, start, end in self.parts if k != THINKING)

    @property
    def format(self) -> str:
        """ "none" without tool blocks, "valid" if all are well-formed, else "malformed"."""
        if not self.actions:
            return "none"
        return "valid" if all(action.well_formed for action in self.actions) else "malformed"


def parse(text: str) -> Answer:
    """Takes a completion apart. Never fails: any text is an answer."""
    parts, unclosed = _parts(text)
    return Answer(text, parts, tuple(_actions(text, parts)), unclosed)


def _tags(names: str) -> re.Pattern:
    return re.compile(rf"<\s*(/?)\s*({names})\s*>", re.IGNORECASE)


_THINK = _tags("think|thinking")
_SCRATCHPAD = _tags("scratchpad_reasoning|scratchpad")


def _parts(text: str) -> tuple[tuple[tuple[str, int, int], ...], tuple[str, ...]]:
    thoughts, open_thought = _blocks(text, _THINK, 0, len(text), from_start=True)
    found, unclosed, at = [], [], 0
    for start, end in [*thoughts, (len(text), len(text))]:
        pads, open_pad = _blocks(text, _SCRATCHPAD, at, start, from_start=False)
        for pad_start, pad_end in pads:
            found += [(ANSWER, at, pad_start), (SCRATCHPAD, pad_start, pad_end)]
            at = pad_end
        found += [(ANSWER, at, start), (THINKING, start, end)]
        unclosed += [SCRATCHPAD] * open_pad
        at = end
    unclosed += [THINKING] * open_thought
    return tuple((k, a, b) for k, a, b in found if a < b), tuple(unclosed)


def _blocks(text: str, tags: re.Pattern, start: int, end: int, from_start: bool):
    """Spans of blocks in text[start:end], and whether the last one lacks its end.

    With `from_start` an end without a beginning closes a block that began with the text: chat
    templates of reasoning models write the opening tag into the prompt.
    """
    spans, opened, depth_start = [], False, start
    for tag in tags.finditer(text, start, end):
        closing = bool(tag[1])
        if not closing and not opened:
            opened, depth_start = True, tag.start()
        elif closing and opened:
            spans.append((depth_start, tag.end()))
            opened = False
        elif closing and from_start and not spans:
            spans.append((start, tag.end()))
    if opened:
        spans.append((depth_start, end))
    return spans, opened


def _actions(text: str, parts):
    tags = list(_TAG.finditer(text))
    for number, tag in enumerate(tags):
        if tag[1]:
            continue
        kind, limit = next((k, end) for k, start, end in parts if start <= tag.start() < end)
        after = tags[number + 1] if number + 1 < len(tags) else None
        if after is not None and after.start() >= limit:
            after = None  # a block does not reach over the end of a thought
        name = tag[2].lower()
        closed = bool(after and after[1] and after[2].lower() == name)
        stop = after.start() if after else limit
        end = after.end() if after and after[1] else stop
        yield Action(name, _fields(text[tag.end() : stop]), kind, closed, tag.start(), end)


def _fields(content: str) -> dict[str, str]:
    """The fields of a block; a body goes on to the end, whatever its lines begin with."""
    pattern = _FIELD if "\n" in content.strip() else _INLINE
    content = content if "\n" in content.strip() else f" {content.strip()}"
    fields: dict[str, str] = {}
    at, name = 0, ""
    for found in pattern.finditer(content):
        if name == "body":
            break
        if name:
            fields.setdefault(name, content[at : found.start()].strip())
        name, at = found[1].lower(), found.end()
    if name:
        fields.setdefault(name, content[at:].strip())
    return fields
