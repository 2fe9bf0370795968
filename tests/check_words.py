"""Refuses the words of docs/style.md in names, docstrings, comments, messages and pages.

Run by `make lint`; prints file:line, the words, and what to write instead.
"""

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
STYLE = ROOT / "docs" / "style.md"
LOOKED_AT = (
    "*.md", "docs/**/*.md", "docs/hooks/*.py", "msm_jax/**/*.py", "configs/**/*.py",
    "benchmarks/*.py", "benchmarks/*.md", "launch/*", "corpora/*.md", "corpora/*.py",
    "notebooks/*.py", "notebooks/*.md", "tests/**/*.py", "Makefile", "setup.py",
)  # fmt: skip
# Texts that speak in other voices, and the page and test that name the words.
EXEMPT = ("docs/style.md", "tests/check_words.py", "msm_jax/miniature/", "docs/miniature_search.md")
MARK = "words: ok"  # on a line that quotes such a word


def table() -> list[tuple[str, re.Pattern]]:
    """(what to write, pattern) of every pattern in the third column of the page's last table."""
    rows = STYLE.read_text(encoding="utf-8").rpartition("| refused |")[2].splitlines()[2:]
    found = []
    for row in filter(str.strip, rows):
        write = row.strip("| ").split(" | ")[0]
        found += [(write, re.compile(each)) for each in re.findall(r"`([^`]+)`", row)]
    return found


def violations(text: str, patterns: list[tuple[str, re.Pattern]]) -> list[tuple[int, str, str]]:
    """(line number, words, what to write) of a text."""
    return [
        (number, found[0], write)
        for number, line in enumerate(text.splitlines(), start=1)
        if MARK not in line
        for write, pattern in patterns
        for found in pattern.finditer(line)
    ]


def main() -> int:
    patterns, bad = table(), 0
    files = {path for glob in LOOKED_AT for path in ROOT.glob(glob) if path.is_file()}
    for path in sorted(files):
        name = path.relative_to(ROOT).as_posix()
        if name.startswith(EXEMPT):
            continue
        for number, words, write in violations(path.read_text(encoding="utf-8"), patterns):
            print(f"{name}:{number}: {words!r}: write {write!r} (docs/style.md)")
            bad += 1
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
