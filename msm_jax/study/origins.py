"""Where every number of a report comes from: its evaluation, and the stages, data and base behind.

Two clicks lead from a number to the hashes of data: the number leads to the row of its arm in the
evaluation's section, which names settings, judge and code; the row leads to every stage of the arm.
"""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from msm_jax.evals.evaluation import read_recorded
from msm_jax.evals.kinds import KINDS
from msm_jax.links import below
from msm_jax.study import files, records
from msm_jax.study.contents import made_path
from msm_jax.study.evaluations import arms_of, measure_of, paths_of
from msm_jax.study.graph import Study
from msm_jax.study.makers import role_of
from msm_jax.study.node import Node
from msm_jax.study.numbers import interval_text

ANSWERS = ("report.html", "verdicts.jsonl", "samples.jsonl")  # of an evaluation, linked if there


class Link(NamedTuple):
    """A cell of a table that leads elsewhere: to "#place" on the page, or to a file beside it."""

    text: str
    href: str


def number(config: dict, eval: str, arm: str) -> str:
    """The place on the page of an arm's row in the section of an evaluation."""
    return f"e{list(config['evals']).index(eval)}a{list(config['arms']).index(arm)}"


def link(config: dict, eval: str, arm: str, text: str) -> Link:
    """The text with a link to what an arm's number is from."""
    return Link(text, f"#{number(config, eval, arm)}")


def at_path(config: dict, eval: str, path: Sequence[str], text: str) -> Link | str:
    """The text, with a link to the row of the arm of these stages if there is one."""
    asked = arms_of(config, eval) if eval in config["evals"] else ()
    same = (arm for arm in config["arms"] if tuple(config["arms"][arm]) == tuple(path))
    arm = next((arm for arm in same if arm in asked), None)
    return link(config, eval, arm, text) if arm else text


# ------------------------------------------------------------------ evaluations


def write_transcripts(results: dict, study: Study, workdir: pathlib.Path) -> None:
    """The page of transcripts of every evaluation that has one, where it is missing or older."""
    nodes = study.evaluations
    for row in results["arms"]:
        for name, entry in row["evals"].items():
            write = KINDS[entry["kind"]].report
            folder = below(files.directory(workdir, nodes[row["stages"][-1]]), name)
            page, summary = below(folder, "report.html"), below(folder, "summary.json")
            if write and not (page.exists() and page.stat().st_mtime >= summary.stat().st_mtime):
                write(folder, {row["citation"]: [folder]})


def sections(results: dict, study: Study, workdir: pathlib.Path) -> list[dict]:
    """Of every evaluation: name, kind, measure, settings, hashes of files, and a row for each arm.

    A row is (place on the page or "", cells): arm, seed, value, n, invalid, interval, stages, code,
    answers.
    """
    config, nodes, found = results["config"], study.evaluations, []
    for eval, entry in config["evals"].items():
        measure, arms = measure_of(config, eval), arms_of(config, eval)
        mine = [row for arm in arms for row in results["arms"] if row["name"] == arm]
        settings, hashes = _settings(workdir, nodes[mine[0]["stages"][-1]], eval)
        rows = []
        for row in mine:
            is_first = row["seed"] == config["seeds"][0]
            place = number(config, eval, row["name"]) if is_first else ""
            rows.append((place, _row(study, workdir, nodes[row["stages"][-1]], row, eval, measure)))
        kind = entry.get("kind", "preferences")
        section = {"name": eval, "kind": kind, "measure": measure}
        found.append({**section, "settings": settings, "hashes": hashes, "rows": rows})
    return found


def _settings(
    workdir: pathlib.Path, node: Node, eval: str
) -> tuple[list[tuple[str, str]], list[tuple[str, str, str]]]:
    """(setting, value) with the hash of the prompts, and (setting, file, SHA-256)."""
    settings = dict(node.config[eval])
    content, _ = settings.pop("content"), settings.pop("step")
    asked = (read_recorded(below(files.directory(workdir, node), eval)) or {}) | settings
    shown = {k: v for k, v in asked.items() if v is not None and k not in ("model", "seed")}
    text = lambda value: value if isinstance(value, str) else json.dumps(value)
    paths = dict(paths_of(settings))
    return (
        [(key, text(value)) for key, value in shown.items() if key not in paths],
        [(key, paths[key], content[key]) for key in content],
    )


def _row(
    study: Study, workdir: pathlib.Path, node: Node, row: dict, eval: str, measure: str
) -> list[Any]:
    base = study.nodes[row["stages"][0]].inputs.get("parent")
    ids = [base, *row["stages"]] if base else row["stages"]
    chain = [Link(study.nodes[each].name, f"#s-{each}") for each in ids]
    start = [row["name"], row["seed"]]
    entry = row["evals"].get(eval)
    if entry is None or measure not in entry["measures"]:
        return [*start, "not known yet", "", "", "", chain, "", []]
    judge = study.judges.get((row["stages"][-1], eval), node)
    mark = files.read_mark(workdir, judge) or {"code": {}}
    code = f"{mark['code'].get('msm_jax', '-')} ({mark['code'].get('source', '-')})"
    folder = below(files.directory(workdir, node), eval)
    numbers = entry["measures"][measure]
    answers = [
        Link(name, (folder / name).relative_to(workdir).as_posix())
        for name in ANSWERS
        if below(folder, name).exists()
    ]
    shown = (interval_text(numbers, "value"), *(numbers[key] for key in ("n", "invalid", "method")))
    return [*start, *shown, chain, code, answers]


# ------------------------------------------------------------------ stages


def stages(study: Study, workdir: pathlib.Path) -> list[dict]:
    """Of every base, corpus, world, tokenizer and stage: facts, data with hashes, config."""
    found = []
    for node in study.stages.values():
        facts = _facts(study, workdir, node)
        data = _data(workdir, node) if node.kind == "train" else []
        entry = {"id": node.id, "title": node.title, "facts": facts}
        found.append({**entry, "data": data, "config": node.config})
    return found


def _facts(study: Study, workdir: pathlib.Path, node: Node) -> list[tuple[str, Any]]:
    folder = files.stage_dir(workdir, node.id)
    found: list[tuple[str, Any]] = [("SHA-256 of all that it is made of", node.digest)]
    found += [("directory", Link(f"stages/{node.id}", f"stages/{node.id}/"))] * folder.exists()
    for role, name in node.inputs.items():
        what = {"parent": "starts from"}.get(role, role)
        found.append((what, Link(study.nodes[name].title, f"#s-{name}")))
    if node.kind == "base":
        found += [(key, node.config[key]) for key in ("path", "adapter") if node.config[key]]
        found.append(("SHA-256 of weights and settings", node.config["content"]))
    mark = files.read_mark(workdir, node)
    if mark is None:
        return [*found, ("state", "not done yet")]
    for name, value in mark["summary"].items():
        if isinstance(value, int | float):
            found.append((name, f"{value:,}" if isinstance(value, int) else f"{value:.4g}"))
    found.append(("code", ", ".join(f"{name} {version}" for name, version in mark["code"].items())))
    return [*found, ("device", mark["device"])]


def _data(workdir: pathlib.Path, node: Node) -> list[list[Any]]:
    """Rows: name, file, SHA-256 of its content, and what is taken of it."""
    run = records.read_run(files.model_dir(workdir, node.id))
    hashes, rows = run["identity"].get("data", {}), []
    for name, source in node.config["data"].items():
        made = made_path(source["path"])
        path = source["path"].replace("{", "").replace("}", "") if made else source["path"]
        file = Link(path, f"#s-{node.inputs[role_of(made.name)]}") if made else path
        content = hashes.get(name, {}).get("content", "not known yet")
        use = f"loss on {source['loss_on']}, weight {source['weight']:g}"
        rows.append([name, file, content, size_text(run["corpora"].get(name, {})), use])
    return rows


def size_text(corpus: Mapping[str, int]) -> str:
    """How much a run read of a corpus, as its config.json has it."""
    return f"{corpus.get('documents', 0):,} records, {corpus.get('tokens', 0):,} tokens"
