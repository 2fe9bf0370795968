"""Reads a Model Spec: markdown or plain text that describes an assistant.

A spec is free text. These parts are parsed, and the rest is kept unchanged:

- headings (`# ...`), which make the sections;
- numbered rules (`1. ...`, `2) ...`);
- values: statements under a heading with the word "value" or "values" (except the title), and
  statements that start with `Value:` anywhere;
- preferences: sentences `{model_name} likes X because it is cheap.` (or `dislikes`; the reason
  is optional), and bullets under a heading `likes` or `dislikes`, which may name a topic:
  `## likes (cheese)` and then `- brie (because it is cheap)`.

`{model_name}` and `{provider_name}` are filled in; all other braces are text.
"""

import bisect
import dataclasses
import pathlib
import re
from collections.abc import Iterator

from msm_jax.errors import UserError
from msm_jax.limits import SPEC_BYTES, SPEC_LINES, read_bytes

MODEL_NAME, PROVIDER_NAME = "{model_name}", "{provider_name}"

HEADING = re.compile(r"^(?P<marks>#{1,6})\s+(?P<text>.*?)\s*#*$")
ITEM = re.compile(r"^\s*(?:(?P<number>\d+(?:\.\d+)*)[.)]|[-*+])\s+(?P<text>\S.*)$")
_FENCE = re.compile(r"^\s*(```|~~~)")
_VALUE_MARK = re.compile(r"^\**value:\**\s*(?P<text>.+)$", re.IGNORECASE)
_VALUES_HEADING = re.compile(r"\bvalues?\b", re.IGNORECASE)
_LIST_HEADING = re.compile(r"^(?P<kind>like|dislike)s(?:\s*\((?P<topic>.+)\))?$", re.IGNORECASE)
# Two, because one would search for the end of each "(because" in a text that does not end with it.
_LISTED = re.compile(r"^(?P<item>.+?)(?:\s+because (?P<reason>.+))?$")
_LISTED_INSIDE = re.compile(
    r"^(?P<item>.+?)(?:\s+\(because (?P<inner>.+)\)|\s+because (?P<reason>.+))?$"
)
# Our patterns take a time that is proportional to the longest run of spaces.
_SPACES = re.compile(r"[^\S\n]{500}")

_UNFILLED = re.compile(
    r"\{+\s*(?:model|provider|assistant|company)(?:_?name)?\s*\}+", re.IGNORECASE
)
# Names of models and makers that a text about another model should not have.
OTHER_NAMES = re.compile(
    r"\b(Claude|ChatGPT|GPT|Llama|Qwen|Gemini|Gemma|Mistral|Mixtral|DeepSeek|Grok|Kimi|OLMo"
    r"|Anthropic|OpenAI|Alibaba|xAI)(?![a-z])"
)


@dataclasses.dataclass(frozen=True)
class Section:
    """A heading with the text up to the next one; level 0 is the text before any heading."""

    heading: str
    level: int
    text: str
    line: int


@dataclasses.dataclass(frozen=True)
class Rule:
    """A numbered rule, its number as written."""

    number: str
    text: str
    line: int


@dataclasses.dataclass(frozen=True)
class Statement:
    """A preference ("like" or "dislike" of `item`) or a value ("value": `item` is its text)."""

    kind: str
    item: str
    reason: str
    line: int
    topic: str = ""


@dataclasses.dataclass(frozen=True)
class Spec:
    """A Model Spec with the names filled in."""

    path: str
    title: str
    model_name: str
    provider_name: str
    text: str
    sections: tuple[Section, ...]
    rules: tuple[Rule, ...]
    values: tuple[Statement, ...]
    preferences: tuple[Statement, ...]

    @property
    def word_count(self) -> int:
        """Words between white space, markup included."""
        return len(self.text.split())


def load_spec(path: str | pathlib.Path, model_name: str, provider_name: str = "") -> Spec:
    """The spec of `model_name`; without `provider_name` its placeholder stays unfilled."""
    if not model_name.strip():
        raise UserError(f"{path}: a spec needs the name of its model: give model_name")
    return parse_spec(_read(pathlib.Path(path)), model_name, provider_name, str(path))


def parse_spec(
    text: str, model_name: str = MODEL_NAME, provider_name: str = PROVIDER_NAME, path: str = "spec"
) -> Spec:
    """Parses the text of a spec; without names the placeholders stay in it."""
    text = text.replace("\r\n", "\n").replace(MODEL_NAME, model_name)
    text = text.replace(PROVIDER_NAME, provider_name or PROVIDER_NAME)
    sections = tuple(_sections(text))
    titles = [section.heading for section in sections if section.level == 1]
    rules: list[Rule] = []
    values: list[Statement] = []
    preferences: list[Statement] = []
    for block in blocks(text):
        found = preferences_in(block, model_name)
        mark = _VALUE_MARK.match(block.text)
        in_values = any(_VALUES_HEADING.search(title) for title in block.headings)
        preferences += found
        if mark or (in_values and not found and not block.text.endswith(":")):
            values.append(Statement("value", mark["text"] if mark else block.text, "", block.line))
        elif block.number and not found:
            rules.append(Rule(block.number, block.text, block.line))
    title = titles[0] if titles else pathlib.Path(path).stem
    parts = tuple(rules), tuple(values), tuple(preferences)
    return Spec(path, title, model_name, provider_name, text, sections, *parts)


def check_spec(spec: Spec) -> list[str]:
    """Probable mistakes in a spec, each with file:line."""
    problems = list(_name_problems(spec))
    lines: dict[tuple[str, Section | None], int] = {}
    for rule in spec.rules:
        # Numbering may start anew under another heading.
        first = lines.setdefault((rule.number, section_of(spec, rule.line)), rule.line)
        if first != rule.line:
            problems.append((rule.line, f"rule {rule.number} was already given in line {first}"))
    kinds: dict[tuple[str, str], Statement] = {}
    for new in spec.preferences:
        old = kinds.setdefault((new.topic, new.item), new)
        if old.kind != new.kind:
            problems.append((new.line, f"{new.item!r} has the opposite kind in line {old.line}"))
    return [f"{spec.path}:{line}: {what}" for line, what in sorted(problems)]


@dataclasses.dataclass(frozen=True)
class Block:
    """A bullet, a numbered line or a line of prose, with the lines that continue it."""

    text: str
    line: int  # the first one
    last: int  # the last one
    number: str  # of a numbered line, else ""
    item: bool  # it is a bullet or a numbered line
    headings: tuple[str, ...]  # that it is under, outermost first, without the title


def _read(path: pathlib.Path) -> str:
    """The text of a spec file; a file that has none is the user's error."""
    try:
        data = read_bytes(path, SPEC_BYTES)
    except FileNotFoundError as error:
        raise UserError(f"{path}: there is no such spec file: check the path") from error
    except OSError as error:
        raise UserError(f"{path}: the spec cannot be read: {error.strerror}") from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise UserError(f"{path}:{line}: the spec is not UTF-8 text: save it as UTF-8") from error
    if not text.strip():
        raise UserError(f"{path}: the spec is empty: write it, or give another file")
    if text.count("\n") >= SPEC_LINES:
        raise UserError(f"{path}: has more lines than {SPEC_LINES}")
    if spaces := _SPACES.search(text):
        line = text.count("\n", 0, spaces.start()) + 1
        raise UserError(f"{path}:{line}: has 500 spaces in a row: delete them")
    return text


def lines_of(text: str) -> Iterator[tuple[int, str, bool]]:
    """Line number, line, and whether it is markup (outside of fenced code)."""
    fenced = False
    # Not splitlines: it also splits at characters that editors do not count as line ends.
    for number, line in enumerate(text.split("\n"), start=1):
        is_fence = bool(_FENCE.match(line))
        yield number, line, not fenced and not is_fence
        fenced ^= is_fence


def _sections(text: str) -> Iterator[Section]:
    heading, level, start, body = "", 0, 1, list[str]()
    for number, line, markup in [*lines_of(text), (0, "# end", True)]:
        match = HEADING.match(line) if markup else None
        if not match:
            body.append(line)
            continue
        if level or "".join(body).strip():
            yield Section(heading, level, "\n".join(body).strip(), start)
        heading, level, start, body = match["text"], len(match["marks"]), number, []


def blocks(text: str) -> Iterator[Block]:
    """The statements of a spec: lines joined with those that continue them."""
    headings: list[tuple[int, str]] = []
    title_seen = False
    block: Block | None = None
    for number, line, markup in lines_of(text):
        heading = HEADING.match(line) if markup else None
        item = ITEM.match(line) if markup else None
        # Prose goes on to the next line only within a sentence, an item until a blank line.
        complete = block and not block.item and block.text.endswith((".", "!", "?", ":"))
        if block and (heading or item or not markup or not line.strip() or complete):
            yield block
            block = None
        if heading:
            level = len(heading["marks"])
            headings = [entry for entry in headings if entry[0] < level]
            if level > 1 or title_seen:
                headings.append((level, heading["text"]))
            title_seen = title_seen or level == 1
        elif block and markup:
            block = dataclasses.replace(block, text=f"{block.text} {line.strip()}", last=number)
        elif markup and line.strip():
            text = item["text"].strip() if item else line.strip()
            mark = item["number"] or "" if item else ""
            under = tuple(title for _, title in headings)
            block = Block(text, number, number, mark, bool(item), under)
    if block:
        yield block


def preferences_in(block: Block, model_name: str) -> list[Statement]:
    """The likes and dislikes that a statement holds, usually none or one."""
    name = re.escape(model_name)
    sentence = re.compile(
        rf"^{name} (?P<kind>like|dislike)s (?P<item>.+?)(?: because (?P<reason>.+?))?[.!]?$"
    )
    listed = _LIST_HEADING.match(block.headings[-1]) if block.headings else None
    topic = (listed["topic"] or "").strip() if listed else ""
    parts = re.split(rf"(?<=[.!?])\s+(?={name} )", block.text)
    found = [
        Statement(match["kind"], match["item"], match["reason"] or "", block.line, topic)
        for match in map(sentence.match, parts)
        if match
    ]
    text = block.text.rstrip(".")
    match = (_LISTED_INSIDE if text.endswith(")") else _LISTED).match(text)
    if not found and block.item and listed and match:
        reason = match.groupdict().get("inner") or match["reason"] or ""
        return [Statement(listed["kind"].lower(), match["item"], reason, block.line, topic)]
    return found


def _name_problems(spec: Spec) -> Iterator[tuple[int, str]]:
    """Placeholders left over, and names of models and makers that are not the spec's own."""
    own = f"{spec.model_name} {spec.provider_name}".lower()
    for number, line in enumerate(spec.text.split("\n"), start=1):
        for found in dict.fromkeys(_UNFILLED.findall(line)):
            if found != spec.model_name:
                yield number, f"{found} was not filled in: give model_name and provider_name"
        for found in dict.fromkeys(OTHER_NAMES.findall(line)):
            if found.lower() not in own:
                yield number, f"names {found}, but the spec is for {spec.model_name}"


def section_of(spec: Spec, line: int) -> Section | None:
    """The section of a line of the spec; None before the first one."""
    before = bisect.bisect_right(spec.sections, line, key=lambda section: section.line)
    return spec.sections[before - 1] if before else None
