"""The results on the terminal, the tables of the report, and both as files.

tables/NAME.csv and tables/NAME.tex are the report's numbers for other programs and for papers. CSV
has every digit, and the interval's ends in columns of their own. LaTeX needs the package booktabs.
"""

import csv
import functools
import io
import itertools
import pathlib
from collections.abc import Mapping, Sequence

from msm_jax.files import delete, write_text
from msm_jax.links import below
from msm_jax.study import design
from msm_jax.study.display import aligned, counted
from msm_jax.study.evaluations import arms_of, measure_of, shown_by
from msm_jax.study.numbers import bounded, by_seed, interval_text
from msm_jax.study.results import mean_of
from msm_jax.study.targets import targets_of

NO_RETENTION = (
    "retention was not measured: no evaluation shows what the training took from the model "
    "(config.retention)"
)
FOLDER = "tables"
_SPECIAL = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"\textquotedbl{}",
    **{char: f"\\{char}" for char in "&%$#_{}"},
}  # fmt: skip


def digits_of(config: dict, eval: str) -> int:
    """How many decimals of an evaluation's values are shown."""
    return 3 if config["evals"][eval].get("kind") == "loss" else 2


def table(results: dict) -> str:
    """Absorption, the figure's values, contrasts, retention and checks, for the terminal."""
    config, contrasts = results["config"], results["contrasts"]
    rows = [[c["label"], difference_text(config, c), c["verdict"]] for c in contrasts]
    blocks = [
        design.sentences(config, brief=True),
        [f"warning: {w['text']}" for w in results["warnings"] if w["rule"] != "controls"],
        [entry["sentence"] for entry in results["absorption"]],
        _figure(results) if config["figure"]["groups"] else [],
        ["contrasts", *aligned(rows)] if rows else [],
        [*_retention(results), *_checks(results)],
        waiting_lines(results),
    ]
    return "\n" + "\n\n".join("\n".join(block) for block in blocks if block) + "\n"


def axis_of(config: dict) -> str:
    """What the figure shows, in words."""
    figure = config["figure"]
    if figure["axis"] or not figure["eval"]:
        return figure["axis"] or "value"
    return measure_of(config, figure["eval"], figure["measure"])


def _figure(results: dict) -> list[str]:
    hidden = ("arm", "interval", "seeds", "invalid")
    head, rows = shown(results["config"], figure_records(results), hidden)
    seeds = counted(len(results["config"]["seeds"]), "seed")
    title = f"{axis_of(results['config'])} (mean over {seeds}, 95 % interval)"
    return [title, *aligned([head, *rows])]


def difference_text(config: dict, entry: dict) -> str:
    """A contrast's difference with its interval, and the standard deviation over seeds."""
    digits = digits_of(config, entry["eval"])
    text = interval_text(entry, "difference", signed=True, digits=digits)
    return text if entry["sd"] is None else f"{text}, SD {entry['sd']:.{digits}f}"


def last_line(results: dict, report: str) -> str:
    """Where the report is, and what the contrasts of `figure.summary` show."""
    config, found = results["config"], []
    for entry in results["contrasts"]:
        if entry["name"] in config["figure"]["summary"]:
            low, word = entry["ci_low"], "no interval over seeds"
            if low is not None:
                word = "the interval holds 0" if low <= 0 <= entry["ci_high"] else "excludes 0"
            found.append(f"{entry['name']} {difference_text(config, entry)}, {word}")
    return "; ".join([f"report:  {report}", *found])


def _retention(results: dict) -> list[str]:
    if not results["retention"]:
        return [NO_RETENTION]
    rows = [
        [entry["eval"], entry["arm"], *changes(results["config"], entry, entry["eval"])]
        for entry in results["retention"]
    ]
    return ["retention", *aligned([["", "", "before", "after", "change"], *rows])]


def changes(config: dict, entry: dict, eval: str) -> list[str]:
    """What changed, as text: before, after, change."""
    text = functools.partial(interval_text, digits=digits_of(config, eval), brief=True)
    change = text(entry["change"], "difference", signed=True)
    return [text(entry["before"]), text(entry["after"]), change]


def _checks(results: dict) -> list[str]:
    lines = []
    for name in dict.fromkeys(gate["name"] for gate in results["gates"]):
        gates = [gate for gate in results["gates"] if gate["name"] == name]
        passed = sum(gate["passed"] for gate in gates)
        shown = " ".join("-" if g["value"] is None else f"{g['value']:.2f}" for g in gates)
        lines.append(f"gate {name} {bound_text(gates[0])}: {passed} of {len(gates)} ({shown})")
    for arm in results["controls"]:
        word = "near" if arm["near"] else "NOT near"
        lines.append(f"control {arm['arm']}: {interval_text(arm)}, {word} {arm['expected']:g}")
    if results["agreement"]:
        apart = ", ".join(entry["arm"] for entry in results["agreement"] if not entry["agree"])
        found = f"disagree in sign in: {apart}" if apart else "agree in sign in every arm"
        lines.append(f"log-probability and generated answers {found}")
    return lines


def bound_text(gate: dict) -> str:
    """ ">= 0.9"."""
    bounds = (("at_least", ">="), ("at_most", "<="))
    return " and ".join(f"{sign} {gate[k]:g}" for k, sign in bounds if gate[k] is not None)


def waiting_lines(results: dict) -> list[str]:
    """What could not be done yet, by what it waits for; [] if everything is done."""
    reasons: dict[str, list[str]] = {}
    for entry in results["waiting"]:
        reasons.setdefault(entry["for"], []).append(entry["what"])
    lines = [f"waiting: {reason}: {'; '.join(what)}" for reason, what in reasons.items()]
    return lines and [*lines, "what is done is kept; the same command goes on once it is there"]


# ------------------------------------------------------------------ records
#
# A record is a row of a table with all its digits, as tables/NAME.csv has it. Of a number it has
# "ci_low" and "ci_high" behind the value.


def measured(results: dict, eval: str, measure: str = "", arms: Sequence[str] = ()) -> list[dict]:
    """A measure of arms (all that are asked, if none are named), beside published numbers."""
    config = results["config"]
    measure = measure or measure_of(config, eval)
    published = targets_of(results, eval, measure)
    found = []
    for arm in arms or arms_of(config, eval):
        mine = by_seed(results["arms"], arm, eval, measure).values()
        record = {"arm": arm, "evaluation": eval, "measure": measure}
        record |= interval(mean_of(results, arm, eval, measure)) | {"seeds": len(mine)}
        record |= {key: range_text([entry[key] for entry in mine]) for key in ("n", "invalid")}
        found.append(record | _published(published, arm))
    return found


def figure_records(results: dict) -> list[dict]:
    """The bars of the study's figure."""
    config, found = results["config"], []
    bars = config["figure"]["bars"]
    for group in config["figure"]["groups"].values():
        records = measured(results, *shown_by(config, group), arms=group["arms"])
        for record, bar in zip(records, bars or group["arms"], strict=False):
            named = {"group": " ".join(group["label"].split()), "bar": bar}
            found.append((named if bars else {"group": named["group"]}) | record)
    return found


def contrast_records(results: dict, others: bool = False) -> list[dict]:
    """Differences between arms, beside published ones; with `others` those of other measures."""
    found = []
    for entry in results["contrasts"]:
        eval, name = entry["eval"], entry["name"]
        for measure, numbers in entry["by_measure"].items():
            if (measure != entry["measure"]) != others:
                continue
            record = {"contrast": entry["label"], "evaluation": eval, "measure": measure}
            record |= interval(numbers, "difference") | {"seeds": len(numbers["seeds"])}
            if not others:
                record["expected"] = {1: "above 0", -1: "below 0"}.get(entry["expected"], "")
                record["verdict"] = entry["verdict"].partition(": no interval")[0]
                record |= _published(targets_of(results, eval, measure, "contrast"), name)
            found.append(record)
    return found


def change_records(entries: Sequence[dict], parts: Sequence[str] = ("",)) -> list[dict]:
    """What midtraining stages or arms changed; `parts` are those of absorption."""
    found = []
    for entry, part in itertools.product(entries, parts):
        if (numbers := entry[part] if part else entry) is not None:
            record = {"stage": entry["label"], "part": part} if part else {"arm": entry["arm"]}
            record["evaluation"] = numbers.get("eval", entry["eval"])
            record["measure"] = numbers.get("source") or numbers["measure"]
            record |= {when: numbers[when]["mean"] for when in ("before", "after")}
            found.append(record | interval(numbers["change"], "difference"))
    return found


def interval(numbers: dict, key: str = "mean") -> dict:
    """A value with its interval; with one seed that over the questions, and how it was made."""
    use, method = bounded(numbers) or numbers, numbers["method"]
    if use is not numbers:
        method = f"one seed: {use['method'].removesuffix(', one seed')}"
    return {key: numbers[key], **{k: use[k] for k in ("ci_low", "ci_high")}, "interval": method}


def _published(published: dict[str, dict], name: str) -> dict:
    found = {}
    for label, rows in published.items():
        row = rows.get(name)
        found[label] = row and row["target"]
        found[f"ours - {label}"] = row and row["difference"]
    return found


def range_text(counts: Sequence[int]) -> str:
    """ "240", or "231 to 240" where seeds differ."""
    if not counts:
        return "not known yet"
    low, high = min(counts), max(counts)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def shown(
    config: dict, records: Sequence[dict], without: Sequence[str] = ()
) -> tuple[list[str], list[list[str]]]:
    """(head, rows) of records as text: a number with its interval is one cell.

    Columns that say the same in all rows are left out, if they name evaluation or measure.
    """
    columns = list(dict.fromkeys(key for record in records for key in record))
    same = lambda key: len({record.get(key) for record in records}) < 2
    hidden = {key for key in ("evaluation", "measure") if same(key)}
    hidden |= {"ci_low", "ci_high", *without}
    head = [key for key in columns if key not in hidden]
    value = columns[columns.index("ci_low") - 1] if "ci_low" in columns else ""
    rows = [[_text(config, record, key, value) for key in head] for record in records]
    return head, rows


def _text(config: dict, record: dict, key: str, value: str) -> str:
    cell = record.get(key)
    if cell is None:
        return "-"
    if not isinstance(cell, float):
        return str(cell)
    digits = digits_of(config, record["evaluation"]) if "evaluation" in record else 3
    sign = "+" if key == "difference" or key.startswith("ours - ") else ""
    text = f"{cell:{sign}.{digits}f}"
    if key == value and record["ci_low"] is not None:
        bounds = (f"{record[bound]:{sign}.{digits}f}" for bound in ("ci_low", "ci_high"))
        text += f" [{', '.join(bounds)}]"
    return text


# ------------------------------------------------------------------ files


def write(
    workdir: pathlib.Path, tables: Mapping[str, Sequence[dict]], config: dict, made: str
) -> list[str]:
    """Both files of every table that has records; returns their paths within the directory.

    Files of a table that has none are deleted: another config wrote them.

    Args:
      tables: name -> records.
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
