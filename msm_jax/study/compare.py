"""`python -m msm_jax.study.compare`: the results of several studies side by side.

    python -m msm_jax.study.compare --studies=runs/miniature,runs/smaller --output=runs/compare

Writes compare.html, compare.json and compare.csv: every evaluation of arms of the same name, and
what differs between the studies. Evaluations with other items, another judge or other sampling are
called not comparable.
"""

import itertools
import json
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from absl import flags

from msm_jax import command, page
from msm_jax.errors import UserError
from msm_jax.evals.kinds import KINDS
from msm_jax.files import read_json, seal, write_json, write_text
from msm_jax.links import below
from msm_jax.outputs import output_dir
from msm_jax.schema import NUMBER, check
from msm_jax.study import evaluations, files, plots, records, tables
from msm_jax.study.display import counted
from msm_jax.study.numbers import interval_text

_MEAN = {"arm": str, "eval": str, "measure": str, "mean": NUMBER, "ci_low": NUMBER,
         "ci_high": NUMBER, "n": int, "method": str}  # fmt: skip
_BOUNDS = {"ci_low": NUMBER, "ci_high": NUMBER, "n": int, "method": str}
_MEASURE = {"n": int, "invalid": int, "low": NUMBER, "high": NUMBER}
_EVAL = {"kind": (*KINDS,), "measure": str, "measures": {str: _MEASURE}}
_ARM = {"name": str, "seed": int, "stages": [str], "evals": {str: _EVAL}}
RESULTS = {
    **dict.fromkeys(("study", "created", "seal"), str),
    "code": {str: str},
    "arms": [_ARM],
    "means": [({**_MEAN, "over_items": _BOUNDS}, _MEAN)],
    "config": {"seeds": [int], "base": {"path": str, "adapter": str}},
}
_SETTINGS = {"kind": (*KINDS,), "content": {str: str}, "step": (int, None)}
# Keys that change no result.
_LABELS = tuple(f"config.{key}" for key in ("name", "title", "sweep.made", "price_per_hour"))


# ------------------------------------------------------------------ reading


def read(workdir: pathlib.Path) -> dict:
    """The results.json of a study, with "settings": (evaluation, seed) -> what was measured with.

    Raises:
      UserError: it is missing, is not what the study wrote, or a link is in the directory.
    """
    again = "run the study again, which writes it from what was measured"
    files.check_links(workdir)
    path = below(workdir, "results.json")
    found = read_json(path, RESULTS, again)
    if found is None:
        raise UserError(f"{path}: there is no such file: name the --workdir of a finished study")
    if found["seal"] != seal(found):
        raise UserError(f"{path}: is not what the study wrote: {again}")
    found["settings"] = {}
    for arm in found["arms"]:
        for name in (arm["name"], *arm["evals"]):
            if not evaluations.NAME.fullmatch(name):
                raise UserError(f"{path}: {name!r} is no name of an arm or evaluation: {again}")
        for eval in arm["evals"] if arm["stages"] else ():
            folder = below(workdir, "evals", arm["stages"][-1])
            mark = records.read_mark(folder / "evals.json")
            settings = (mark or {"config": {}})["config"].get(eval)
            try:
                found["settings"][eval, arm["seed"]] = _identity(check(settings, _SETTINGS, eval))
            except (UserError, KeyError) as error:
                raise UserError(f"{folder / 'evals.json'}: {error} is wrong: {again}") from error
    return found


def _identity(settings: Mapping) -> dict[str, Any]:
    """What the items, samples and verdicts of an evaluation depend on, but for the seed."""
    samples = evaluations.samples_identity(settings)
    verdicts = evaluations.verdicts_identity(settings)
    flat = {**samples, **verdicts, "files": {**samples["files"], **verdicts["files"]}}
    flat |= {f"the content of {key}": value for key, value in flat.pop("files").items()}
    return {key: value for key, value in flat.items() if key != "seed"}


# ------------------------------------------------------------------ comparing


def compare(studies: Mapping[str, dict]) -> dict:
    """The content of compare.json.

    Args:
      studies: as of `read`, by the names of their directories.
    """
    evals = dict.fromkeys(eval for each in studies.values() for eval, _ in each["settings"])
    return {
        "studies": [_head(name, each) for name, each in studies.items()],
        "evals": [_evaluation(studies, eval) for eval in evals],
        "same_runs": _same_runs(studies),
        "config": _config(studies),
    }


def _head(name: str, results: dict) -> dict:
    base = results["config"]["base"]
    return {
        "name": name,
        "study": results["study"],
        "created": results["created"],
        "base": " + ".join(filter(None, (base["path"], base["adapter"]))) or "fresh weights",
        "seeds": results["config"]["seeds"],
        "arms": list(dict.fromkeys(arm["name"] for arm in results["arms"])),
        "code": results["code"],
    }


def _evaluation(studies: Mapping[str, dict], eval: str) -> dict:
    """An evaluation's numbers in all studies, and why they cannot be compared, if so."""
    found = []
    for name, results in studies.items():
        rows = [arm for arm in results["arms"] if eval in arm["evals"]]
        for mean in results["means"]:
            mine = [arm["evals"][eval] for arm in rows if arm["name"] == mean["arm"]]
            if mean["eval"] == eval and mine:
                counts = [e["measures"].get(mean["measure"], {}).get("n", 0) for e in mine]
                is_own = mean["measure"] == mine[0]["measure"]
                more = {"study": name, "seeds": len(mine), "items": counts, "compared": is_own}
                found.append({**mean, **more})
    return {"eval": eval, "differences": _differences(studies, eval), "means": found}


def _differences(studies: Mapping[str, dict], eval: str) -> list[dict]:
    """The settings that differ between the studies that have an evaluation.

    Of files that are made from the seed the seeds count that all studies have.
    """
    by_study = {
        name: {seed: each for (e, seed), each in results["settings"].items() if e == eval}
        for name, results in studies.items()
    }
    by_study = {name: by_seed for name, by_seed in by_study.items() if by_seed}
    common = set.intersection(*map(set, by_study.values()))
    used = {
        name: [each for seed, each in by_seed.items() if seed in common or not common]
        for name, by_seed in by_study.items()
    }
    found = []
    for key in dict.fromkeys(key for some in used.values() for each in some for key in each):
        values = {
            name: sorted({json.dumps(each[key], sort_keys=True) for each in some if key in each})
            or ["(absent)"]
            for name, some in used.items()
        }
        if len({*map(tuple, values.values())}) > 1:
            found.append({"key": key, "values": values})
    return found


def _same_runs(studies: Mapping[str, dict]) -> list[dict]:
    """Arms and seeds whose stages are the same ones in several studies."""
    found: dict[tuple, list[str]] = {}
    for name, results in studies.items():
        for arm in results["arms"]:
            key = (arm["name"], arm["seed"], tuple(arm["stages"]))
            found.setdefault(key, []).append(name)
    return [
        {"arm": arm, "seed": seed, "studies": names}
        for (arm, seed, _), names in found.items()
        if len(names) > 1
    ]


def _config(studies: Mapping[str, dict]) -> list[dict]:
    """The keys of the configs that differ, each with its value in every study."""
    flat = {name: dict(_leaves(results["config"])) for name, results in studies.items()}
    found = []
    for key in dict.fromkeys(itertools.chain(*flat.values())):
        values = {name: leaves.get(key, "(absent)") for name, leaves in flat.items()}
        if len(set(values.values())) > 1 and not key.startswith(_LABELS):
            found.append({"key": key, "values": values})
    return found


def _leaves(config: Any, path: str = "config") -> Iterator[tuple[str, str]]:
    if isinstance(config, dict) and config:
        for name, value in config.items():
            yield from _leaves(value, f"{path}.{name}")
    else:
        yield path, json.dumps(config)


# ------------------------------------------------------------------ writing


def write(found: dict, output: pathlib.Path) -> None:
    """compare.json, compare.csv and compare.html."""
    write_json(output / "compare.json", found)
    write_text(output / "compare.csv", tables.csv_text([*_records(found)]))
    names, studies = [study["name"] for study in found["studies"]], found["studies"]
    versions = dict.fromkeys(key for study in studies for key in study["code"])
    page.write(
        output / "compare.html",
        "compare.html",
        title=f"{len(names)} studies side by side",
        names=names,
        heads=[
            *([key, *(study[key] for study in studies)] for key in ("study", "base")),
            ["seeds", *(", ".join(map(str, study["seeds"])) for study in studies)],
            ["arms", *(str(len(study["arms"])) for study in studies)],
            ["written", *(study["created"] for study in studies)],
            *([key, *(study["code"].get(key, "-") for study in studies)] for key in versions),
        ],
        same=[f"{run['arm']}, seed {run['seed']}" for run in found["same_runs"]],
        evals=[_shown(entry, names) for entry in found["evals"]],
        config=[[each["key"], *each["values"].values()] for each in found["config"]],
    )


def _shown(entry: dict, names: Sequence[str]) -> dict:
    own = [mean for mean in entry["means"] if mean["compared"]]
    cell = lambda arm, name: "; ".join(
        _text(mean) for mean in own if (mean["arm"], mean["study"]) == (arm, name)
    )
    values = lambda each: (f"{name}: {', '.join(v)}" for name, v in each["values"].items())
    different = [f"{each['key']}: {'; '.join(values(each))}" for each in entry["differences"]]
    both = len({mean["study"] for mean in own}) > 1
    arms = dict.fromkeys(mean["arm"] for mean in own)
    return {
        "name": entry["eval"],
        "measure": ", ".join(dict.fromkeys(mean["measure"] for mean in own)),
        "differences": different,
        "figure": page.svg_uri(_draw(own, names)) if both and not different else "",
        "rows": [[arm, *(cell(arm, name) or "-" for name in names)] for arm in arms],
    }


def _text(mean: dict) -> str:
    count, seeds = tables.range_text(mean["items"]), counted(mean["seeds"], "seed")
    return f"{interval_text(mean, digits=3, brief=True)}, {seeds}, n={count} each"


def _draw(means: list[dict], names: Sequence[str]):
    """Means with intervals: a row for each arm, a color for each study."""
    arms = list(dict.fromkeys(mean["arm"] for mean in means))
    figure, axes = plots.new_figure(7.4, 1.0 + 0.12 * len(arms) * (len(names) + 1))
    for at, (name, color) in enumerate(zip(names, itertools.cycle(plots.COLORS), strict=False)):
        mine = [m for m in means if m["study"] == name and m["mean"] is not None]
        ys = [-arms.index(m["arm"]) + (0.5 - (at + 1) / (len(names) + 1)) * 0.8 for m in mine]
        axes.scatter([m["mean"] for m in mine], ys, s=18, color=color, label=name, zorder=3)
        for y, mean in zip(ys, mine, strict=True):
            if found := plots.bounds(mean):
                axes.plot(found, [y, y], color=color, linewidth=1.2)
    axes.set_yticks([-at for at in range(len(arms))], arms, fontsize=8)
    axes.set_xlabel(means[0]["measure"])
    axes.legend(frameon=False, fontsize=8, loc="lower left", bbox_to_anchor=(0, 1), ncols=3)
    return figure


def _records(found: dict) -> Iterator[dict]:
    """A record for each mean."""
    names = ("eval", "measure", "arm", "study", "mean", "ci_low", "ci_high", "method", "seeds")
    for entry in found["evals"]:
        for mean in entry["means"]:
            record = {key: mean[key] for key in names}
            record["items"] = " ".join(map(str, mean["items"]))
            yield record | {"comparable": not entry["differences"]}


def main() -> None:
    """The command."""
    given = flags.FLAGS.studies
    output = output_dir(flags.FLAGS.output, "--output")
    if len(given) < 2:
        raise UserError("--studies: name two directories of studies or more, as runs/a,runs/b")
    names = [os.path.normpath(name) for name in given]
    if len(set(names)) < len(names):
        raise UserError(f"--studies={','.join(given)}: a directory is there twice")
    found = compare({name: read(pathlib.Path(name)) for name in names})
    write(found, output)
    for entry in found["evals"]:
        if entry["differences"]:
            print(f"not comparable: {entry['eval']}: see compare.html")
    print(f"page: {output / 'compare.html'}")


if __name__ == "__main__":
    flags.DEFINE_list("studies", None, "Directories of studies that have run.", required=True)
    flags.DEFINE_string("output", None, "Directory for the page; made if missing.", required=True)
    command.run(main, config=False)
