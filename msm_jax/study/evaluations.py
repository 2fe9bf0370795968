"""What a study asks of its models: the settings of each evaluation, and what its results depend on.

A stage's samples are drawn by one node, which also judges them by rules. A judge that is another
model is a node of its own for each evaluation: it needs the samples and not the stage's weights.
"""

import json
import os
import pathlib
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from msm_jax.corpus.writers.api_errors import key_is_missing
from msm_jax.corpus.writers.providers import CLIENTS
from msm_jax.errors import UserError
from msm_jax.evals.agents.scenarios import RULES
from msm_jax.evals.evaluation import read_summary
from msm_jax.evals.kinds import KINDS, resolve
from msm_jax.evals.losses import named_sources
from msm_jax.evals.material import NAMES, place
from msm_jax.files import sha256_file

NAME = re.compile(r"\w[\w .=+-]*")  # of an evaluation, which becomes a directory
OF_STUDY = ("kind", "arms", "measure", "at_least", "at_most")  # keys that `evaluate` has not
FILES = ("pairs", "questions", "quiz", "spec", "context")
# Settings that verdicts depend on and samples do not, beside all that have "judge" in their name.
_VERDICTS = {"": ("max_error_share",), "questions": ("max_error_share", "spec", "assistant")}

Content = Callable[[str, str], str]  # (path, where the config has it) to what the file is


# ------------------------------------------------------------------ checking a config


def check(tree: dict) -> None:
    """Refuse evaluations, and uses of their measures, that do not exist.

    Raises:
      UserError: naming the key, and what there is.
    """
    evals = tree["evals"]
    for name in evals:
        if not NAME.fullmatch(name):
            raise UserError(
                f"config.evals: {name!r} cannot be the name of a directory: use letters, digits, "
                "spaces and _ . = + -"
            )
        _known(f"config.evals.{name}.arms", arms_of(tree, name), "config.arms", tree["arms"])
        resolved(tree, name)
        measure_of(tree, name)
    _check_uses(tree)
    _check_absorption(tree)
    for name in tree["retention"]:
        _known("config.retention", [name], "config.evals", evals)


def _check_uses(tree: dict) -> None:
    """Contrasts, figure, targets, controls and dose: arms, evaluations, measures that exist."""
    evals, figure, dose, controls = (tree[k] for k in ("evals", "figure", "dose", "controls"))
    for name, entry in tree["contrasts"].items():
        where = f"config.contrasts.{name}"
        _known(f"{where}.eval", [entry["eval"]], "config.evals", evals)
        measure_of(tree, entry["eval"], entry["measure"], where)
        _known(where, [*entry["plus"], *entry["minus"]], "config.arms", tree["arms"])
        if not entry["plus"] or len(entry["plus"]) != len(entry["minus"]):
            raise UserError(f"{where}: plus and minus must name equally many arms")
    for name, entry in figure["groups"].items():
        where = f"config.figure.groups.{name}"
        _known(where, entry["arms"], "config.arms", tree["arms"])
        _known(f"{where}.eval", [entry["eval"] or figure["eval"]], "config.evals", evals)
        if not entry["arms"] or len(entry["arms"]) > len(figure["bars"] or entry["arms"]):
            raise UserError(
                f"{where}.arms: has {len(entry['arms'])} arms: name one or more, and no more than "
                f"config.figure.bars={tuple(figure['bars'])}"
            )
    for where, names, known in (
        ("figure.eval", [figure["eval"]] * bool(figure["eval"]), "evals"),
        ("figure.headline", [figure["headline"]] * bool(figure["headline"]), "contrasts"),
        ("figure.summary", figure["summary"], "contrasts"),
        ("controls.arms", controls["arms"], "arms"),
        ("controls.eval", [controls["eval"]] * bool(controls["eval"]), "evals"),
        ("dose.stages", dose["stages"], "stages"),
        ("dose.eval", [dose["eval"]] * bool(dose["steps"]), "evals"),
    ):
        _known(f"config.{where}", names, f"config.{known}", tree[known])
    for where, entry in (("figure", figure), ("controls", controls), ("dose", dose)):
        if entry["eval"]:
            measure_of(tree, entry["eval"], entry["measure"], f"config.{where}")
    _check_targets(tree)
    _check_asked(tree)


def _check_targets(tree: dict) -> None:
    """Published numbers: of arms, contrasts and measures that exist, and where they are from."""
    for name, entry in tree["targets"].items():
        where, eval = f"config.targets.{name}", entry["eval"]
        if not entry["label"] or not entry["source"]:
            raise UserError(f"{where}: say in label and source who published it, and where")
        _known(f"{where}.eval", [eval], "config.evals", tree["evals"])
        measure = measure_of(tree, eval, entry["measure"], where)
        _known(f"{where}.arms", entry["arms"], "config.arms", tree["arms"])
        _known(f"{where}.contrasts", entry["contrasts"], "config.contrasts", tree["contrasts"])
        for each in entry["contrasts"]:
            other = tree["contrasts"][each]
            if (other["eval"], measure_of(tree, other["eval"], other["measure"])) != (
                eval,
                measure,
            ):
                raise UserError(
                    f"{where}.contrasts: {each!r} compares {other['eval']!r}, the target is of "
                    f"{eval!r}, {measure}"
                )


def _check_asked(tree: dict) -> None:
    """What is compared or drawn must be evaluated."""
    figure, controls = tree["figure"], tree["controls"]
    uses = [("controls", controls["eval"] or figure["eval"], controls["arms"])]
    for name, entry in tree["contrasts"].items():
        uses.append((f"contrasts.{name}", entry["eval"], [*entry["plus"], *entry["minus"]]))
    for name, entry in figure["groups"].items():
        uses.append((f"figure.groups.{name}", entry["eval"] or figure["eval"], entry["arms"]))
    for name, entry in tree["targets"].items():
        uses.append((f"targets.{name}", entry["eval"], entry["arms"]))
    for where, eval, arms in uses:
        for arm in arms:
            if eval and arm not in arms_of(tree, eval):
                raise UserError(
                    f"config.{where}: arm {arm!r} is not asked {eval!r}: add it to "
                    f"config.evals.{eval}.arms"
                )


def _check_absorption(tree: dict) -> None:
    absorption, evals = tree["absorption"], tree["evals"]
    if not absorption["stages"]:
        return
    _known("config.absorption.eval", [absorption["eval"]], "config.evals", evals)
    if (kind := evals[absorption["eval"]]["kind"]) != "loss":
        raise UserError(
            f"config.absorption.eval={absorption['eval']!r}: is of kind {kind}; it must be of kind "
            "loss"
        )
    _known("config.absorption.stages", absorption["stages"], "config.stages", tree["stages"])
    for name, entry in absorption["stages"].items():
        where = f"config.absorption.stages.{name}"
        for role in ("own", "control"):
            measure_of(tree, absorption["eval"], entry[role] or "''", f"{where}.{role}")
        if entry["quiz"]:
            _known(f"{where}.quiz", [entry["quiz"]], "config.evals", evals)
        first = [arm for arm, path in tree["arms"].items() if path[:1] == [name]]
        if first and not has_base(tree):
            raise UserError(
                f"{where}: is the first stage of arm {first[0]!r} and starts from fresh weights, "
                "so that there is no loss before it"
            )


def _known(where: str, names: Any, place: str, known: Any) -> None:
    for name in names:
        if name not in known:
            raise UserError(f"{where}: {name!r} is not one of {place}: {sorted(known)}")


# ------------------------------------------------------------------ settings


def resolved(tree: dict, name: str) -> dict:
    """All settings of an evaluation of the config: its own, and the defaults of its kind.

    Raises:
      UserError: a setting that the kind has no use for, or lacks.
    """
    entry, where = tree["evals"][name], f"config.evals.{name}"
    kind = entry.get("kind", "preferences")
    given = {key: value for key, value in entry.items() if key not in OF_STUDY}
    given = {key: value for key, value in given.items() if value is not None}
    try:
        settings = resolve(kind, given)
    except UserError as error:
        raise UserError(f"{where}: {str(error).replace('--', '')}") from error
    for key in KINDS[kind].required:
        if not settings[key]:
            raise UserError(f"{where}.{key}: must be given for kind={kind!r}")
    if settings.get("judge_cache"):
        raise UserError(
            f"{where}.judge_cache: a study keeps the judge's replies beside the samples of each "
            "stage: leave it out"
        )
    return json.loads(json.dumps(settings))


def arms_of(tree: dict, name: str) -> list[str]:
    """The arms that an evaluation is for."""
    return list(tree["evals"][name].get("arms") or tree["arms"])


def measure_of(tree: dict, name: str, measure: str = "", where: str = "") -> str:
    """The measure of an evaluation that is meant: the one named, or its own.

    Raises:
      UserError: it has no such measure; `where` is the key that names it.
    """
    kind = tree["evals"][name].get("kind", "preferences")
    names = KINDS[kind].measure_names(resolved(tree, name))
    own = tree["evals"][name].get("measure", "")
    wanted = measure or own or names[0]
    if wanted not in names:
        where = where if measure else f"config.evals.{name}"
        raise UserError(
            f"{where}.measure={wanted!r}: the evaluation {name!r} of kind {kind} measures: "
            f"{', '.join(names)}"
        )
    return wanted


def shown_by(tree: dict, group: Mapping) -> tuple[str, str]:
    """The evaluation and the measure that a group of the figure's bars shows."""
    figure = tree["figure"]
    if group["eval"] not in ("", figure["eval"]):
        return group["eval"], measure_of(tree, group["eval"])
    return figure["eval"], measure_of(tree, figure["eval"], figure["measure"])


def has_base(tree: dict) -> bool:
    """Whether arms start from a checkpoint."""
    return bool(tree.get("base", {}).get("path"))


def asked_of(tree: dict) -> dict[tuple[str, ...], dict[str, tuple[str, int | None]]]:
    """Path of stages -> name -> the evaluation, and after which step of the last stage.

    Beside what arms are asked: what absorption and retention compare them with.
    """
    dose, found = tree["dose"], {}
    for arm, path in tree["arms"].items():
        mine = found.setdefault(tuple(path), {})
        mine |= {name: (name, None) for name in tree["evals"] if arm in arms_of(tree, name)}
        if path and path[-1] in dose["stages"] and dose["eval"] in mine:
            mine |= {dose_name(dose["eval"], step): (dose["eval"], step) for step in dose["steps"]}
        for name in tree["retention"]:
            if name in mine:
                found.setdefault(root_of(tree, path), {})[name] = (name, None)
        for end, stage in enumerate(path):
            if entry := tree["absorption"]["stages"].get(stage):
                names = [tree["absorption"]["eval"], *([entry["quiz"]] if entry["quiz"] else [])]
                for each in (path[:end], path[: end + 1]):
                    found.setdefault(tuple(each), {}).update({n: (n, None) for n in names})
    return {path: mine for path, mine in found.items() if mine}


def root_of(tree: dict, path: list[str]) -> tuple[str, ...]:
    """The path that an arm begins with: the base, or its first stage from fresh weights."""
    return () if has_base(tree) else tuple(path[:1])


def settings_of(tree: dict, name: str, seed: int, step: int | None, content: Content) -> dict:
    """What a node needs to know of one evaluation, as JSON.

    Returns:
      The resolved settings with "kind", "step" (None: the last one) and "content": what each of
      its files is.
    """
    settings, entry = resolved(tree, name), tree["evals"][name]
    if "seed" in settings and entry.get("seed") is None:
        settings["seed"] = seed
    if step is not None and settings.get("scorers"):  # what the dose curve shows, and no more
        wanted = measure_of(tree, name, tree["dose"]["measure"], "config.dose")
        settings["scorers"] = [s for s in settings["scorers"] if s == wanted] or settings["scorers"]
    where = f"config.evals.{name}"
    found = {
        key: sha256_file(place(path)) if path in NAMES else content(path, f"{where}.{key}")
        for key, path in paths_of(settings)
    }
    kind = entry.get("kind", "preferences")
    return {"kind": kind, **settings, "step": step, "content": found}


def paths_of(settings: Mapping) -> Iterator[tuple[str, str]]:
    """(key, path) of the files of an evaluation, those of `documents` by their names."""
    yield from ((key, settings[key]) for key in FILES if settings.get(key))
    for name, path in named_sources(settings.get("documents", ())).items():
        yield f"documents.{name}", path


def placed(settings: Mapping, find: Callable[[str], str]) -> dict:
    """The settings of `kinds.make_evaluation`, with every file where `find` says it is."""
    own = {key: settings[key] for key in KINDS[settings["kind"]].keys}
    found = {key: path if path in NAMES else find(path) for key, path in paths_of(settings)}
    own |= {key: path for key, path in found.items() if key in own}
    if "documents" in own:
        paths = {key.partition(".")[2]: path for key, path in found.items() if key not in own}
        own["documents"] = [f"{name}={path}" for name, path in paths.items()]
    return {key: tuple(v) if isinstance(v, list) else v for key, v in own.items()}


def dose_name(name: str, step: int) -> str:
    """The name of an evaluation at an earlier step."""
    return f"{name}@{step}"


# ------------------------------------------------------------------ identity


def is_deferred(settings: Mapping) -> bool:
    """Whether another model judges, in a node of its own."""
    return settings.get("judge", RULES) != RULES


def missing_key(settings: Mapping) -> str:
    """What a judge behind an API waits for, in words; "" if its key is there or not needed."""
    client = CLIENTS.get(settings["judge"])
    if client is None or (client.key_optional and settings["judge_url"]):
        return ""
    has_key = os.environ.get(client.key_name, "").strip()
    return "" if has_key else key_is_missing(client.key_name)


def samples_identity(settings: Mapping) -> dict:
    """What the samples of an evaluation depend on beside the model: files by content."""
    return _identity(settings, verdicts=False)


def verdicts_identity(settings: Mapping) -> dict:
    """What the verdicts depend on beside the samples."""
    return _identity(settings, verdicts=True)


def _identity(settings: Mapping, verdicts: bool) -> dict:
    kind = settings["kind"]
    later = _VERDICTS.get(kind, _VERDICTS[""])
    is_verdicts = lambda key: "judge" in key or key in later
    keys = {k for k in KINDS[kind].keys if is_verdicts(k) == verdicts}
    kept = {k for k in keys if not getattr(KINDS[kind].keys[k], "harmless", "")}
    contents = settings["content"]
    files = {k: v for k, v in contents.items() if is_verdicts(k.partition(".")[0]) == verdicts}
    found = {k: settings[k] for k in sorted(kept - {*FILES, "documents", "judge_checkpoint"})}
    found |= {"files": files}
    return found if verdicts else {"kind": kind, "step": settings["step"], **found}


# ------------------------------------------------------------------ results


def measures_of(settings: Mapping, folder: pathlib.Path) -> tuple[dict, dict[str, dict]]:
    """(summary.json, its measures by name) of an evaluation."""
    summary = read_summary(folder)
    return summary, KINDS[settings["kind"]].measures(summary)
