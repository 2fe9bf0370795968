"""The results on the terminal, and the tables that the report shows too."""

from collections.abc import Sequence

from msm_jax.study import design
from msm_jax.study.display import aligned, counted
from msm_jax.study.evaluations import arms_of, measure_of
from msm_jax.study.numbers import interval_text
from msm_jax.study.results import mean_of

NO_RETENTION = (
    "retention was not measured: no evaluation shows what the training took from the model "
    "(config.retention)"
)


def digits_of(config: dict, eval: str) -> int:
    """How many decimals of an evaluation's values are shown."""
    return 3 if config["evals"][eval].get("kind") == "loss" else 2


def table(results: dict) -> str:
    """Absorption, the figure's values, contrasts, retention and checks, for the terminal."""
    config, lines = results["config"], [""]
    if warning := mixed_code(results["made_with"]):
        lines += [warning, ""]
    lines += [*design.sentences(config, brief=True), ""]
    lines += [entry["sentence"] for entry in results["absorption"]]
    lines += [""] * bool(results["absorption"])
    if config["figure"]["groups"]:
        lines += _figure(results)
    if results["contrasts"]:
        lines += ["", "contrasts"]
        lines += aligned([
            [entry["label"], difference_text(config, entry), entry["verdict"]]
            for entry in results["contrasts"]
        ])  # fmt: skip
    lines += ["", *_retention(results)]
    lines += _checks(results)
    if results["waiting"]:
        lines += ["", *waiting_lines(results)]
    return "\n".join([*lines, ""])


def axis_of(config: dict) -> str:
    """What the figure shows, in words."""
    figure = config["figure"]
    return figure["axis"] or measure_of(config, figure["eval"], figure["measure"])


def _figure(results: dict) -> list[str]:
    config = results["config"]
    figure, eval = config["figure"], config["figure"]["eval"]
    measure, digits = measure_of(config, eval, figure["measure"]), digits_of(config, eval)
    others = {m["measure"] for m in results["means"] if m["eval"] == eval} - {measure}
    columns = [("before", ""), ("after", "")] + [("after", "generated")] * ("generated" in others)
    cells = [["", "before AFT", "after AFT", "after, generated"][: len(columns) + 1]]
    for group in figure["groups"].values():
        names = [name or measure for _, name in columns]
        means = [
            mean_of(results, group[when], eval, name)
            for (when, _), name in zip(columns, names, strict=True)
        ]
        texts = [interval_text(mean, digits=digits) for mean in means]
        cells.append([group["label"], *texts])
    seeds = counted(len(config["seeds"]), "seed")
    return [f"{eval}: {axis_of(config)} (mean over {seeds}, 95 % interval)", *aligned(cells)]


def difference_text(config: dict, entry: dict) -> str:
    """A contrast's difference with its interval."""
    digits = digits_of(config, entry["eval"])
    return interval_text(entry, "difference", signed=True, digits=digits)


def _retention(results: dict) -> list[str]:
    if not results["retention"]:
        return [NO_RETENTION]
    rows = [
        [entry["eval"], entry["arm"], *before_after(results["config"], entry)]
        for entry in results["retention"]
    ]
    return ["retention", *aligned([["", "", "before", "after", "change"], *rows])]


def before_after(config: dict, entry: dict) -> list[str]:
    """Three cells: before, after, change."""
    return cells(entry, digits_of(config, entry["eval"]))


def cells(entry: dict, digits: int) -> list[str]:
    """What changed, as text: before, after, change."""
    return [
        interval_text(entry["before"], digits=digits, brief=True),
        interval_text(entry["after"], digits=digits, brief=True),
        interval_text(entry["change"], "difference", signed=True, digits=digits, brief=True),
    ]


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
        apart = [entry["arm"] for entry in results["agreement"] if not entry["agree"]]
        found = (
            f"disagree in sign in: {', '.join(apart)}" if apart else "agree in sign in every arm"
        )
        lines.append(f"log-probability and generated answers {found}")
    return lines


def bound_text(gate: dict) -> str:
    """ ">= 0.9"."""
    bounds = (("at_least", ">="), ("at_most", "<="))
    return " and ".join(f"{sign} {gate[k]:g}" for k, sign in bounds if gate[k] is not None)


def waiting_lines(results: dict) -> list[str]:
    """What could not be done yet, by what it waits for."""
    reasons: dict[str, list[str]] = {}
    for entry in results["waiting"]:
        reasons.setdefault(entry["for"], []).append(entry["what"])
    lines = [f"waiting: {reason}: {'; '.join(what)}" for reason, what in reasons.items()]
    return [*lines, "what is done is kept; the same command goes on once it is there"]


def mixed_code(made_with: list[dict]) -> str:
    """A warning that names the versions of code where several made the numbers; else ""."""
    names = {name for entry in made_with for name in entry["code"]}
    differ = [n for n in sorted(names) if len({e["code"].get(n) for e in made_with}) > 1]
    parts = [
        f"{len(entry['stages'])} stages and {len(entry['evals'])} evaluated: "
        + ", ".join(f"{name} {entry['code'].get(name)}" for name in differ)
        for entry in made_with
    ]
    return f"warning: not all was made with the same code: {'; '.join(parts)}" if differ else ""


def evaluation_tables(results: dict) -> list[tuple[str, str, list[str], list[list[str]]]]:
    """Of every evaluation (name, kind, head, a row for each arm) with all its measures."""
    config, found = results["config"], []
    for eval, entry in config["evals"].items():
        means = [mean for mean in results["means"] if mean["eval"] == eval]
        measures = list(dict.fromkeys(mean["measure"] for mean in means))
        rows = []
        for arm in arms_of(config, eval):
            mine = [row["evals"].get(eval) for row in results["arms"] if row["name"] == arm]
            values = [_cell(config, eval, means, arm, measure) for measure in measures]
            rows.append([arm, *values, _counts(mine, "n"), _counts(mine, "invalid")])
        head = ["arm", *measures, "n per seed", "invalid"]
        found.append((eval, entry.get("kind", "preferences"), head, rows))
    return found


def _cell(config: dict, eval: str, means: Sequence[dict], arm: str, measure: str) -> str:
    mean = next((m for m in means if (m["arm"], m["measure"]) == (arm, measure)), None)
    if mean is None or mean["mean"] is None:
        return "-"
    return interval_text(mean, digits=digits_of(config, eval), brief=True)


def _counts(entries: Sequence[dict | None], key: str) -> str:
    """The n, or the invalid answers, of each measure of an arm; the range over seeds."""
    known = [entry["measures"] for entry in entries if entry]
    if not known:
        return "not known yet"
    counts: dict[str, str] = {}
    for measure in known[0]:
        found = [measures[measure][key] for measures in known if measure in measures]
        low, high = min(found), max(found)
        counts[measure] = f"{low:,}" if low == high else f"{low:,} to {high:,}"
    if len(set(counts.values())) == 1:
        return next(iter(counts.values()))
    return ", ".join(f"{measure} {count}" for measure, count in counts.items())
