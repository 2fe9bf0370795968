"""report.html: one file that shows what a study found, made from results.json and its files."""

import functools
import itertools
import pathlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from msm_jax import page
from msm_jax.data.sources import read_source
from msm_jax.files import dumps, new_file
from msm_jax.limits import SPEC_BYTES, read_bytes
from msm_jax.links import below
from msm_jax.study import curve_plots, design, files, origins, plots, records, tables
from msm_jax.study.display import clock, counted
from msm_jax.study.evaluations import arms_of, measure_of, root_of
from msm_jax.study.graph import Study
from msm_jax.study.numbers import bounded, by_seed, interval_text
from msm_jax.study.results import mean_of
from msm_jax.study.targets import UNTESTED

FEW_ARMS = 3  # an evaluation of fewer has no figure of its arms


def write(results: dict, study: Study, workdir: pathlib.Path) -> None:
    """report.html, with figure.png, tables/ and pages of transcripts beside it."""
    config = results["config"]
    figure, seed = config["figure"], config["seeds"][0]
    drawn = plots.bars(results) if figure["groups"] else None
    if drawn:
        with new_file(workdir / "figure.png") as temporary:
            drawn.savefig(temporary, dpi=160, format="png")
    contrasts = plots.contrasts(results)
    origins.write_transcripts(results, study, workdir)
    page.write(
        workdir / "report.html",
        "study.html",
        title=config["title"] or config["name"],
        subtitle=_subtitle(results),
        results=results,
        several=len(config["seeds"]) > 1,
        interval=interval_text,
        bound=tables.bound_text,
        place=lambda eval, arm: f"#{origins.number(config, eval, arm)}",
        controls=design.sentences(config)[0],
        waiting=tables.waiting_lines(results),
        absorption=[_absorption(config, entry) for entry in results["absorption"]],
        retention=[_retention(config, entry) for entry in results["retention"]],
        no_retention=tables.NO_RETENTION,
        evaluations=_evaluations(results),
        headline=figure["headline"] and sentence(results),
        comparison=figure["headline"] and _comparison(results),
        axis=tables.axis_of(config),
        bars=drawn and plots.svg_uri(drawn),
        figure=drawn and _figure(results),
        sources=list(dict.fromkeys((t["label"], t["source"]) for t in config["targets"].values())),
        untested=UNTESTED,
        contrasts=contrasts and plots.svg_uri(contrasts),
        contrast_table=_contrasts(results),
        other_measures=tables.shown(config, tables.contrast_records(results, others=True)),
        curves=curve_plots.shown(results),
        losses=_losses(study, workdir),
        seed=seed,
        chats=_chats(study, workdir, seed),
        corpora=_corpora(study, workdir, seed),
        specs=_specs(study, workdir, seed),
        times=_times(results, study),
        time_note=_time_note(results),
        files=tables.write(workdir, _records(results), config, _subtitle(results)),
        origins=origins.sections(results, study, workdir),
        stages=origins.stages(study, workdir),
        versions=_versions(results),
        dumps=dumps,
    )


def _records(results: dict) -> dict[str, list[dict]]:
    """The tables that are written as files, by name."""
    asked = [(m["eval"], m["measure"]) for m in results["means"]]
    return {
        "figure": tables.figure_records(results),
        "contrasts": tables.contrast_records(results),
        "contrasts_of_other_measures": tables.contrast_records(results, others=True),
        "evaluations": [
            record for at in dict.fromkeys(asked) for record in tables.measured(results, *at)
        ],
        "absorption": tables.change_records(results["absorption"], ("own", "control", "quiz")),
        "retention": tables.change_records(results["retention"]),
        "gates": results["gates"],
        "curves": curve_plots.records(results),
        "targets": results["targets"],
    }


def _figure(results: dict) -> tuple[list[str], list[list[Any]]]:
    """The table under the figure, with links to what its numbers come from."""
    config, some = results["config"], tables.figure_records(results)
    hidden = ("arm", "evaluation") if config["figure"]["bars"] else ()
    head, rows = tables.shown(config, some, hidden)
    linked: list[list[Any]] = [[*row] for row in rows]
    at = head.index("mean")
    for record, row in zip(some, linked, strict=True):
        row[at] = origins.link(config, record["evaluation"], record["arm"], row[at])
    return head, linked


def _evaluations(results: dict) -> list[tuple]:
    """Of every evaluation: name, kind, head, a row for each arm, and a figure if it is compared.

    The first measure is the one that is compared, and leads to what it is from.
    """
    config, found = results["config"], []
    compared = {entry["eval"] for entry in results["contrasts"]}
    for eval, entry in config["evals"].items():
        means = {(m["arm"], m["measure"]): m for m in results["means"] if m["eval"] == eval}
        measures = list(dict.fromkeys(measure for _, measure in means))
        text = functools.partial(interval_text, digits=tables.digits_of(config, eval), brief=True)
        rows = []
        for arm in arms_of(config, eval):
            mine = (means[arm, measure] for measure in measures)
            own, *others = (text(mean) if mean["mean"] is not None else "-" for mean in mine)
            seeds = {m: by_seed(results["arms"], arm, eval, m).values() for m in measures}
            counts = (_counts(seeds, "n"), _counts(seeds, "invalid"))
            rows.append([arm, origins.link(config, eval, arm, own), *others, *counts])
        drawn = eval in compared and len(rows) >= FEW_ARMS
        uri = plots.svg_uri(plots.arms(results, eval)) if drawn else ""
        head = ["arm", *measures, "n per seed", "invalid"]
        found.append((eval, entry.get("kind", "preferences"), head, rows, uri))
    return found


def _counts(seeds: Mapping[str, Collection[dict]], key: str) -> str:
    """The n, or the invalid answers, of each measure of an arm; the range over seeds."""
    counts = {m: tables.range_text([e[key] for e in some]) for m, some in seeds.items() if some}
    if len(set(counts.values())) < 2:
        return next(iter(counts.values()), tables.range_text(()))
    return ", ".join(f"{measure} {count}" for measure, count in counts.items())


def _contrasts(results: dict) -> tuple[list[str], list[list[Any]]]:
    """The table of contrasts, which have links to the numbers of their arms."""
    config = results["config"]
    head, rows = tables.shown(config, tables.contrast_records(results))
    found: list[list[Any]] = []
    for entry, row in zip(results["contrasts"], rows, strict=True):
        contrast = config["contrasts"][entry["name"]]
        links = [
            origins.link(config, entry["eval"], arm, f"{sign} {arm}")
            for sign, side in (("+", "plus"), ("-", "minus"))
            for arm in contrast[side]
        ]
        said = f"{contrast['plus'][0]} - {contrast['minus'][0]}" == row[0]  # by the links
        found.append([links if said else [row[0], *links], *row[1:]])
    return head, found


def _subtitle(results: dict) -> str:
    config, code = results["config"], results["code"]
    return (
        f"{counted(len(config['seeds']), 'seed')}, {len(config['arms'])} arms, "
        f"{len(results['stages'])} stages; {results['created']}; "
        f"msm_jax {code['msm_jax']} ({code['source']})"
    )


def sentence(results: dict) -> str:
    """The headline contrast in words; says so when there is nothing to be seen."""
    name = results["config"]["figure"]["headline"]
    entry = next(c for c in results["contrasts"] if c["name"] == name)
    if entry["difference"] is None:
        reason = "it waits for a judge" if results.get("waiting") else "no valid answers"
        return f"{entry['label']}: {reason}, so nothing can be said."
    found = f"{entry['label']}: {interval_text(entry, 'difference', signed=True)}"
    if entry["ci_low"] is None and bounded(entry):
        return (
            f"{found}. The interval is over the questions of one training run each, which cannot "
            "show what training does: this shows no effect yet."
        )
    if entry["ci_low"] is None:
        return f"{found}. This shows no effect yet."
    bounds = f"{found} (95 % interval over {counted(entry['n_pairs'], 'seed')})."
    if entry["ci_low"] <= 0 <= entry["ci_high"]:
        return f"{bounds} The interval holds 0: this study does not show an effect."
    sign = 1 if entry["difference"] > 0 else -1
    if entry["expected"] and sign != entry["expected"]:
        return f"{bounds} The interval excludes 0 on the side opposite to the one expected."
    return f"{bounds} The interval excludes 0."


def _comparison(results: dict) -> str:
    """The means behind the headline contrast."""
    config, figure = results["config"], results["config"]["figure"]
    entry = config["contrasts"][figure["headline"]]
    eval = entry["eval"]
    measure, digits = measure_of(config, eval, entry["measure"]), tables.digits_of(config, eval)
    means = [
        f"{arm}: {interval_text(mean_of(results, arm, eval, measure), digits=digits)}"
        for arm in (*entry["plus"], *entry["minus"])
    ]
    is_drawn = eval == figure["eval"] and measure == measure_of(config, eval, figure["measure"])
    name = tables.axis_of(config) if is_drawn else f"{eval}, {measure}"
    return f"{name[:1].upper()}{name[1:]}: {'; '.join(means)}."


def _changed(config: dict, eval: str, paths: Sequence[Sequence[str]], entry: dict) -> list[Any]:
    """Cells of before, after and change; the first two lead to what they are from."""
    before, after, change = tables.changes(config, entry, eval)
    ends = zip(paths, (before, after), strict=True)
    return [*(origins.at_path(config, eval, path, text) for path, text in ends), change]


def _retention(config: dict, entry: dict) -> list[Any]:
    after = config["arms"][entry["arm"]]
    some = _changed(config, entry["eval"], (root_of(config, after), after), entry)
    return [entry["eval"], entry["arm"], entry["since"], *some]


def _absorption(config: dict, entry: dict) -> dict:
    """A midtraining stage's sentence, and rows of what it measured, before and after."""
    rows, paths = [], (entry["path"][:-1], entry["path"])
    for role in ("own", "control", "quiz"):
        part = entry[role]
        if part is None:
            continue
        name = f"loss on {part.get('source')} ({role}), nats per token"
        if role == "quiz":
            name = f"{part['eval']}, {part['measure']}"
        some = _changed(config, part.get("eval", entry["eval"]), paths, part)
        percent = "" if part["percent"] is None else f"{part['percent']:+.1f} %"
        rows.append([name, *some, percent])
    more = entry["more_than_control"]
    text = interval_text(more, "difference", signed=True, digits=3, brief=True)
    rows.append(["fall of own less that of control, nats per token", "", "", text, ""])
    return {"sentence": entry["sentence"], "passed": bool(entry["passed"]), "rows": rows}


def _losses(study: Study, workdir: pathlib.Path) -> dict[str, str]:
    """A figure for each name of a training stage, with a curve per stage."""
    curves: dict[str, list] = {}
    for stage in study.stages.values():
        if stage.kind == "train":
            rows = records.read_metrics(files.model_dir(workdir, stage.id))
            curves.setdefault(stage.name, []).append((stage.path[-2:][0], rows))
    return {name: plots.svg_uri(plots.losses(name, some)) for name, some in curves.items()}


def _chats(study: Study, workdir: pathlib.Path, seed: int) -> dict[str, list[dict]]:
    """Sampled answers of every arm that has any."""
    nodes, chats = study.evaluations, {}
    for arm in study.config["arms"]:
        if node := nodes.get(study.arms[arm, seed][-1]):
            chats[arm] = records.read_chats(files.directory(workdir, node))
    return {arm: some for arm, some in chats.items() if some}


def _corpora(study: Study, workdir: pathlib.Path, seed: int) -> list[tuple[str, str, list[dict]]]:
    """(path, size, first rows) of every corpus that a stage of the seed reads."""
    found: dict[str, tuple] = {}
    for stage in study.stages.values():
        for name, source in stage.config.get("data", {}).items() if stage.seed == seed else ():
            if (path := source["path"]) not in found:
                run = records.read_run(files.model_dir(workdir, stage.id))
                rows = itertools.islice(read_source(files.place(workdir, path, stage)), 4)
                shown = [row for _, row in rows if isinstance(row, dict)]
                size = origins.size_text(run["corpora"].get(name, {}))
                found[path] = (path.removeprefix("{world}/"), size, shown)
    return list(found.values())


def _specs(study: Study, workdir: pathlib.Path, seed: int) -> dict[str, str]:
    """The specs that the seed's world was built with."""
    worlds = [s for s in study.stages.values() if s.kind == "world" and s.seed == seed]
    return {
        file.name: read_bytes(file, SPEC_BYTES).decode("utf-8", "replace")
        for world in worlds
        for file in sorted(below(files.directory(workdir, world), "specs").glob("*.md"))
    }


def _times(results: dict, study: Study) -> list[tuple[Any, ...]]:
    spent: dict[str, list[float]] = {}
    for name, seconds in results["seconds"]["stages"].items():
        spent.setdefault(study.nodes[name].name, []).append(seconds)
    spent["evaluations"] = list(results["seconds"]["evals"].values())
    if results["seconds"]["judges"]:
        spent["verdicts of judges"] = list(results["seconds"]["judges"].values())
    return [
        (name, len(some), f"{sum(some):.1f}", f"{max(some, default=0):.1f}")
        for name, some in spent.items()
    ]


def _time_note(results: dict) -> str:
    seconds = results["seconds"]
    total = sum(sum(seconds[part].values()) for part in ("stages", "evals", "judges"))
    cost = "" if seconds["cost"] is None else f", at a cost of {seconds['cost']:,.2f}"
    return (
        f"{clock(total)} of work in all; {clock(seconds['all_runs'])} of running over all starts"
        f"{cost}; {clock(seconds['this_run'])} since the last start. Worked on: "
        f"{'; '.join(seconds['devices'])}. A resumed stage counts its last run only."
    )


def _versions(results: dict) -> list[list[str]]:
    """A table, head first: versions that stages were made with, and those of the report."""
    made = results["made_with"]
    codes = [*(entry["code"] for entry in made), results["code"]]
    head = (f"{len(e['stages'])} stages, {len(e['evals'])} evaluated" for e in made)
    names = dict.fromkeys(itertools.chain(*codes))
    rows = ([name, *(str(code.get(name, "-")) for code in codes)] for name in names)
    return [["", *head, "report"], *rows]
