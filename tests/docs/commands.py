"""The commands that the documentation shows, and what each of them needs.

A command is a line of a fenced or indented block, or a code span in a text, that begins with a
program we know. It is marked where it stands if no test can run it:

    # needs a pod                                 a line above it in its block,
    python -m msm_jax.train ... --distributed
    python -m msm_jax.compile ...  # takes minutes                  behind it,
    | `benchmarks/x.py` <!-- takes minutes --> |    or beside a code span, in the same paragraph
"""

import ast
import dataclasses
import pathlib
import re
import shlex

ROOT = pathlib.Path(__file__).resolve().parents[2]
# What is run in a cloud or on another machine (gcloud, ssh) says by its name what it needs.
PROGRAMS = (
    "python python3 .venv/bin/python make pip .venv/bin/pip inspect bash launch/ ./launch/ jupyter "
    "jupytext pytest tensorboard"
).split()
NEEDS = re.compile(r"\b(?:needs|takes) (?:an?|minutes|hours|half|two|four|libtpu|the)\b[^>]*")
FENCE = re.compile(r"^(```|~~~)(\w*)")
SPAN = re.compile(r"`([^`\n]+(?:\n[^`\n]+)?)`")


@dataclasses.dataclass(frozen=True)
class Command:
    """One command of one place.

    Attributes:
      where: file:line.
      text: as one line, without comment, environment and the path of the interpreter.
      needs: what the page says that it needs or takes; "" if nothing.
      whole: False for a code span that only names a program, such as `make`.
    """

    where: str
    text: str
    needs: str
    whole: bool = True

    @property
    def module(self) -> str:
        """`msm_jax.train` of a `python -m` command of ours, else ""."""
        found = re.match(r"python -m (msm_jax[\w.]*)", self.text)
        return found[1] if found else ""

    @property
    def arguments(self) -> list[str]:
        """What stands behind the program's name."""
        words = shlex.split(self.text)
        return words[3:] if words[:2] == ["python", "-m"] else words[2:]


def pages() -> list[pathlib.Path]:
    """Where commands are documented in markdown."""
    found = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    found += [ROOT / folder / "README.md" for folder in ("launch", "notebooks", "benchmarks")]
    return sorted(path for path in found if path.exists())


def documented() -> list[Command]:
    """All commands of all pages, and of the docstrings of configs and commands."""
    found = []
    for path in pages():
        text = path.read_text(encoding="utf-8")
        found += commands_of(text, path.relative_to(ROOT).as_posix())
    sources = [*(ROOT / "configs").rglob("*.py"), *(ROOT / "msm_jax").rglob("*.py")]
    for path in sorted(sources):
        source = path.read_text(encoding="utf-8")
        text = ast.get_docstring(ast.parse(source)) or ""
        if path.is_relative_to(ROOT / "msm_jax") and '\nif __name__ == "__main__":' not in source:
            continue
        # A lab record's labels are no part of its commands.
        text = re.sub(r"^( {4})(?:command|hardware|time|result) {2,}", r"\1", text, flags=re.M)
        found += commands_of(text, path.relative_to(ROOT).as_posix())
    return found


def commands_of(text: str, where: str) -> list[Command]:
    """The commands of a markdown text."""
    found: list[Command] = []
    block, prose = "", []
    lines = text.splitlines()
    needs, number = "", 0
    while number < len(lines):
        line = lines[number]
        first = number + 1
        fence = FENCE.match(line.strip())
        if fence:
            block = "" if block else fence[2] or "text"
        elif block or line.startswith("    "):
            shown = line.strip()
            while shown.endswith("\\") and number + 1 < len(lines):
                number += 1
                shown = f"{shown.rstrip(chr(92)).rstrip()} {lines[number].strip()}"
            if block in ("", "sh", "bash", "console", "text"):
                needs = _block_line(shown, f"{where}:{first}", needs, found)
        else:
            needs = ""
            prose.append((first, line))
        number += 1
    return found + _spans(prose, where)


def _block_line(shown: str, where: str, needs: str, found: list[Command]) -> str:
    """Adds the command of a line; returns what the lines after it need."""
    if shown.startswith("#"):
        said = NEEDS.search(shown)
        return said[0] if said else needs
    command, _, comment = shown.partition("  #")
    if not (name := _cleaned(command)):
        return needs if shown else ""
    said = NEEDS.search(comment)
    found.append(Command(where, name, said[0] if said else needs))
    return ""


def _spans(prose: list[tuple[int, str]], where: str) -> list[Command]:
    """Commands in code spans; `<!-- takes ... -->` counts for its table row or paragraph."""
    found: list[Command] = []
    paragraphs: list[list[tuple[int, str]]] = [[]]
    for place, (number, line) in enumerate(prose):
        apart = not line.strip() or line.startswith("|")
        if apart or (place and number != prose[place - 1][0] + 1):
            paragraphs.append([])
        paragraphs[-1].append((number, line))
    for paragraph in paragraphs:
        text = "\n".join(line for _, line in paragraph)
        remark = re.search(r"<!-- ([^>]*) -->", text)
        said = NEEDS.search(remark[1]) if remark else None
        for span in SPAN.finditer(text):
            name = _cleaned(re.sub(r"\s+", " ", span[1]))
            if name:
                line = paragraph[0][0] + text[: span.start()].count("\n")
                whole = bool(re.search(r"(?: --|=|/|\.py| \w+$)", name)) and not re.fullmatch(
                    r"(?:python|pip|inspect)(?: -m msm_jax[\w.]*)?|python -m .*(?:NAME|\.X|<.*)",
                    name,
                )
                found.append(Command(f"{where}:{line}", name, said[0] if said else "", whole))
    return found


def _cleaned(text: str) -> str:
    """A command without environment and interpreter's path; "" if it is none."""
    text = re.sub(r"^(?:[A-Z_]+=\S+ +)+", "", text.strip())
    word = text.split(" ")[0]
    known = lambda name: word.startswith(name) and word != name if name[-1] == "/" else word == name
    if not any(map(known, PROGRAMS)):
        return ""
    return text.removeprefix(".venv/bin/").rstrip(" .;")
