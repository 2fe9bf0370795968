"""Tool blocks in the text of an answer, in its thought and outside of it.

Models write the blocks in many ways: other case, spaces in the tag, no closing tag, everything on
one line. All of these are found and marked. `rules.executed` says which of them are carried out.
"""

import bisect
import dataclasses
import itertools
import re
from collections.abc import Iterator, Sequence

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
    """One tool block, text[start:end]."""

    tool: str  # its name in lower case, known or not
    fields: dict[str, str]  # by name in lower case; `body` may have several lines
    where: str  # ANSWER, SCRATCHPAD or THINKING
    closed: bool  # whether it has a closing tag
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

    `parts` are (kind, start, end) in order and cover the text; tags belong to what they enclose.
    """

    text: str
    parts: tuple[tuple[str, int, int], ...]
    actions: tuple[Action, ...]  # in order
    unclosed: tuple[str, ...]  # THINKING, SCRATCHPAD: where the last of these has no closing tag

    def of_kind(self, *kinds: str) -> str:
        """The text of these kinds."""
        return "".join(self.text[a:b] for kind, a, b in self.parts if kind in kinds)

    @property
    def visible(self) -> str:
        """The text without thinking, as API providers return it."""
        return self.of_kind(ANSWER, SCRATCHPAD)

    @property
    def format(self) -> str:
        """ "none" without tool blocks, "valid" if all are well-formed, else "malformed"."""
        if not self.actions:
            return "none"
        return "valid" if all(action.well_formed for action in self.actions) else "malformed"


def parse(text: str) -> Answer:
    """Parse a completion. Never fails: any text is an answer."""
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
    parts = tuple((kind, start, end) for kind, start, end in found if start < end)
    return Answer(text, parts, tuple(_actions(text, parts)), tuple(unclosed))


def _actions(text: str, parts: Sequence[tuple[str, int, int]]) -> Iterator[Action]:
    tags = list(_TAG.finditer(text))
    ends = [end for _, _, end in parts]
    for tag, after in itertools.zip_longest(tags, tags[1:]):
        if tag[1]:
            continue
        kind, _, limit = parts[bisect.bisect_right(ends, tag.start())]
        name, closed, stop, end = tag[2].lower(), False, limit, limit
        if after and after.start() < limit:  # a block ends with the thought that it is in
            closed, stop = bool(after[1]) and after[2].lower() == name, after.start()
            end = after.end() if after[1] else stop
        yield Action(name, _fields(text[tag.end() : stop]), kind, closed, tag.start(), end)


def _fields(content: str) -> dict[str, str]:
    """The fields of a block. A body extends to the end, whatever its lines begin with."""
    pattern = _FIELD
    if "\n" not in content.strip():
        pattern, content = _INLINE, f" {content.strip()}"
    fields: dict[str, str] = {}
    found = list(pattern.finditer(content))
    for one, after in itertools.zip_longest(found, found[1:]):
        name = one[1].lower()
        end = after.start() if after and name != "body" else len(content)
        fields.setdefault(name, content[one.end() : end].strip())
        if name == "body":
            break
    return fields
