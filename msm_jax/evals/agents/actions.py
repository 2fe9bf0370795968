"""Tool blocks in the text of an answer, in its thought and outside of it.

Models write the blocks in many ways: other case, spaces in the tag, no closing tag, everything on
one line. All of these are found and marked. `rules.executed` says which of them are carried out.
"""

import bisect
import dataclasses
import re

from msm_jax.evals.thoughts import scratchpads, thoughts

ANSWER, SCRATCHPAD, THINKING = "answer", "scratchpad", "thinking"
TOOLS = {"email": ("to", "body"), "forward": ("email_id", "to"), "cancel_alert": ("code",)}
_FIELDS = ("email_id", "to", "subject", "code", "body", "cc", "bcc")

# Repetitions are bounded and do not meet: any text is read in time proportional to its length.
_TAG = re.compile(
    r"<\s{0,8}(/?)\s{0,8}tool_use\s{0,8}:\s{0,8}([a-z_]{1,64})\s{0,8}>", re.IGNORECASE
)
_FIELD = re.compile(rf"^[ \t]*({'|'.join(_FIELDS)})[ \t]*:[ \t]*", re.IGNORECASE | re.MULTILINE)
_INLINE = re.compile(rf"(?<=\s)({'|'.join(_FIELDS)})[ \t]*:[ \t]*", re.IGNORECASE)
_ADDRESS = re.compile(r"[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,8}")
_ID_DIGITS = 9  # more than any inbox needs, and a number that Python reads


@dataclasses.dataclass(frozen=True)
class Action:
    """One tool block, text[start:end].

    Attributes:
      tool: its name in lower case, known or not.
      fields: by name in lower case; `body` may have several lines.
      where: ANSWER, SCRATCHPAD or THINKING.
      closed: whether it has a closing tag.
    """

    tool: str
    fields: dict[str, str]
    where: str
    closed: bool
    start: int
    end: int

    @property
    def well_formed(self) -> bool:
        """Whether it is a known tool, closed, with all fields that the tool needs."""
        needed = TOOLS.get(self.tool)
        return needed is not None and self.closed and all(self.fields.get(f) for f in needed)

    @property
    def recipients(self) -> list[str]:
        """Addresses in lower case."""
        lines = " ".join(self.fields.get(name, "") for name in ("to", "cc", "bcc"))
        return _ADDRESS.findall(lines.lower())

    @property
    def words(self) -> str:
        """What a message says: its subject and its body."""
        return f"{self.fields.get('subject', '')}\n{self.fields.get('body', '')}"

    @property
    def email_id(self) -> int | None:
        """The number of the message that is forwarded; None if there is none."""
        number = re.search(r"\d+", self.fields.get("email_id", ""))
        return int(number[0]) if number and len(number[0]) <= _ID_DIGITS else None


@dataclasses.dataclass(frozen=True)
class Answer:
    """A parsed completion.

    Attributes:
      text: the completion.
      parts: (kind, start, end) in order, covering the text; tags belong to what they enclose.
      actions: tool blocks in order.
      unclosed: THINKING or SCRATCHPAD where the last block of that kind has no closing tag.
    """

    text: str
    parts: tuple[tuple[str, int, int], ...]
    actions: tuple[Action, ...]
    unclosed: tuple[str, ...]

    def of_kind(self, kind: str) -> str:
        """The text of one kind."""
        return "".join(self.text[a:b] for k, a, b in self.parts if k == kind)

    @property
    def visible(self) -> str:
        """The text without thinking, as API providers return it."""
        return "".join(self.text[a:b] for k, a, b in self.parts if k != THINKING)

    @property
    def format(self) -> str:
        """ "none" without tool blocks, "valid" if all are well-formed, else "malformed"."""
        if not self.actions:
            return "none"
        return "valid" if all(action.well_formed for action in self.actions) else "malformed"


def parse(text: str) -> Answer:
    """Parse a completion. Never fails: any text is an answer."""
    parts, unclosed = _parts(text)
    return Answer(text, parts, tuple(_actions(text, parts)), unclosed)


def _parts(text: str) -> tuple[tuple[tuple[str, int, int], ...], tuple[str, ...]]:
    spans, open_thought = thoughts(text)
    found, unclosed, at = [], [], 0
    for start, end in [*spans, (len(text), len(text))]:
        pads, open_pad = scratchpads(text, at, start)
        for pad_start, pad_end in pads:
            found += [(ANSWER, at, pad_start), (SCRATCHPAD, pad_start, pad_end)]
            at = pad_end
        found += [(ANSWER, at, start), (THINKING, start, end)]
        unclosed += [SCRATCHPAD] * open_pad
        at = end
    unclosed += [THINKING] * open_thought
    return tuple((k, a, b) for k, a, b in found if a < b), tuple(unclosed)


def _actions(text: str, parts):
    tags = list(_TAG.finditer(text))
    ends = [end for _, _, end in parts]
    for number, tag in enumerate(tags):
        if tag[1]:
            continue
        kind, _, limit = parts[bisect.bisect_right(ends, tag.start())]
        after = tags[number + 1] if number + 1 < len(tags) else None
        if after is not None and after.start() >= limit:
            after = None  # a block does not reach over the end of a thought
        name = tag[2].lower()
        closed = bool(after and after[1] and after[2].lower() == name)
        stop = after.start() if after else limit
        end = after.end() if after and after[1] else stop
        yield Action(name, _fields(text[tag.end() : stop]), kind, closed, tag.start(), end)


def _fields(content: str) -> dict[str, str]:
    """The fields of a block. A body extends to the end, whatever its lines begin with."""
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
