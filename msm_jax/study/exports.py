"""tables/NAME.csv and tables/NAME.tex: a report's numbers for other programs and for papers.

CSV has every digit, and the interval's ends in columns of their own. LaTeX needs the package
booktabs.
"""

import csv
import io
import pathlib
from collections.abc import Mapping, Sequence

from msm_jax.files import delete, write_text
from msm_jax.links import below
from msm_jax.study.tables import shown

FOLDER = "tables"
_SPECIAL = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"\textquotedbl{}",
    **{char: f"\\{char}" for char in "&%$#_{}"},
}  # fmt: skip


def write(
    workdir: pathlib.Path, tables: Mapping[str, Sequence[dict]], config: dict, made: str
) -> list[str]:
    """Both files of every table that has records; returns their paths within the directory.

    Files of a table that has none are deleted: another config wrote them.

    Args:
      tables: name -> records, see `tables`.
      config: the study's.
      made: what the numbers are of, for a comment.
    """
    folder, found = below(workdir, FOLDER), []
    for name, records in tables.items():
        if not records:
            for end in ("csv", "tex"):
                delete(folder / f"{name}.{end}", inside=workdir)
            continue
        write_text(below(folder, f"{name}.csv"), csv_text(records))
        write_text(below(folder, f"{name}.tex"), latex(*shown(config, records), made))
        found += [f"{FOLDER}/{name}.csv", f"{FOLDER}/{name}.tex"]
    return found


def csv_text(records: Sequence[Mapping]) -> str:
    """Records with a head; nothing where there is no value."""
    columns = dict.fromkeys(key for record in records for key in record)
    out = io.StringIO()
    writer = csv.DictWriter(out, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return out.getvalue()


def latex(head: Sequence[str], rows: Sequence[Sequence[str]], comment: str = "") -> str:
    """A tabular of booktabs; the text of cells is escaped, the comment is one line."""
    line = lambda cells: " & ".join(map(escaped, cells)) + r" \\"
    return "\n".join([
        f"% {' '.join(comment.split())}",
        rf"\begin{{tabular}}{{{'l' * len(head)}}}",
        r"\toprule",
        line(head),
        r"\midrule",
        *map(line, rows),
        r"\bottomrule",
        r"\end{tabular}",
        "",
    ])  # fmt: skip


def escaped(text: str) -> str:
    """Text as LaTeX shows it."""
    return "".join(_SPECIAL.get(char, char if char.isprintable() else " ") for char in text)
