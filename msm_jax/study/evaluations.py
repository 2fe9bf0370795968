"""What a study asks of its models: the settings of each evaluation, and what its results depend on.

A stage's samples are drawn by one node, which also judges them by rules. A judge that is another
model is a node of its own for each evaluation: it needs the samples and not the stage's weights.
"""

import json
import os
import pathlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping

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
    for name in tree["evals"]:
        measure_of(tree, name)
    for where, eval, measure, arms in _uses(tree):
        if not eval:
            raise UserError(f"{where}.eval: is empty; name one of {sorted(tree['evals'])}")
        measure_of(tree, eval, measure, f"{where}.measure")
        for arm in arms:
            if arm not in arms_of(tree, eval):
                raise UserError(
                    f"{where}: arm {arm!r} is not asked {eval!r}: add it to "
                    f"config.evals.{eval}.arms"
                )
    for name, entry in tree["contrasts"].items():
        if not entry["plus"] or len(entry["plus"]) != len(entry["minus"]):
            raise UserError(f"config.contrasts.{name}: plus and minus must name equally many arms")
    bars = tree["figure"]["bars"]
    for name, entry in tree["figure"]["groups"].items():
        if not entry["arms"] or len(entry["arms"]) > len(bars or entry["arms"]):
            raise UserError(
                f"config.figure.groups.{name}.arms: has {len(entry['arms'])} arms: name one or "
                f"more, and no more than config.figure.bars={tuple(bars)}"
            )
    _check_targets(tree)
    _check_absorption(tree)
    with_context = sorted(name for name, entry in tree["evals"].items() if entry.get("context"))
    for name in tree["design"]["context"]:
        if name not in with_context:
            raise UserError(
                f"config.design.context: {name!r} is not one of config.evals with a context: "
                f"{with_context}"
            )


def _uses(tree: dict) -> Iterator[tuple[str, str, str, Iterable[str]]]:
    """(key, evaluation, measure or "", arms) of everything that shows or compares measures."""
    figure, controls, dose, absorption = (
        tree[key] for key in ("figure", "controls", "dose", "absorption")
    )
    if figure["eval"]:
        yield "config.figure", figure["eval"], figure["measure"], ()
    if eval := controls["eval"] or figure["eval"]:
        yield "config.controls", eval, controls["measure"], controls["arms"]
    if dose["eval"] or dose["steps"]:
        yield "config.dose", dose["eval"], dose["measure"], ()
    if absorption["stages"]:
        yield "config.absorption", absorption["eval"], "", ()
    for name, entry in tree["contrasts"].items():
        arms = [*entry["plus"], *entry["minus"]]
        yield f"config.contrasts.{name}", entry["eval"], entry["measure"], arms
    for name, entry in figure["groups"].items():
        eval = entry["eval"] or figure["eval"]
        yield f"config.figure.groups.{name}", eval, "", entry["arms"]
    for name, entry in tree["targets"].items():
        yield f"config.targets.{name}", entry["eval"], entry["measure"], entry["arms"]


def _check_targets(tree: dict) -> None:
    """Published numbers say where they are from, and are of the measure of their contrasts."""
    for name, entry in tree["targets"].items():
        where, eval = f"config.targets.{name}", entry["eval"]
        if not entry["label"] or not entry["source"]:
            raise UserError(f"{where}: say in label and source who published it, and where")
        measure = measure_of(tree, eval, entry["measure"])
        for each in entry["contrasts"]:
            other = tree["contrasts"][each]
            own = other["eval"], measure_of(tree, other["eval"], other["measure"])
            if own != (eval, measure):
                raise UserError(
                    f"{where}.contrasts: {each!r} compares {other['eval']!r}, the target is of "
                    f"{eval!r}, {measure}"
                )


def _check_absorption(tree: dict) -> None:
    """Its evaluation measures the loss of the texts that each stage names, before and after it."""
    eval = tree["absorption"]["eval"]
    for name, entry in tree["absorption"]["stages"].items():
        if (kind := kind_of(tree, eval)) != "loss":
            raise UserError(
                f"config.absorption.eval={eval!r}: is of kind {kind}; it must be of kind loss"
            )
        where = f"config.absorption.stages.{name}"
        for role in ("own", "control"):
            measure_of(tree, eval, entry[role] or "''", f"{where}.{role}")
        first = [arm for arm, path in tree["arms"].items() if path[:1] == [name]]
        if first and not has_base(tree):
            raise UserError(
                f"{where}: is the first stage of arm {first[0]!r} and starts from fresh weights, "
                "so that there is no loss before it"
            )


# ------------------------------------------------------------------ settings


def resolved(tree: dict, name: str) -> dict:
    """All settings of an evaluation of the config: its own, and the defaults of its kind.

    Raises:
      UserError: a setting that the kind has no use for, or lacks.
    """
    entry, where, kind = tree["evals"][name], f"config.evals.{name}", kind_of(tree, name)
    given = {k: v for k, v in entry.items() if k not in OF_STUDY and v is not None}
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


def kind_of(tree: dict, name: str) -> str:
    """The kind of an evaluation."""
    return tree["evals"][name].get("kind", "preferences")


def arms_of(tree: dict, name: str) -> list[str]:
    """The arms that an evaluation is for."""
    return list(tree["evals"][name].get("arms") or tree["arms"])


def measure_of(tree: dict, name: str, measure: str = "", where: str = "") -> str:
    """The measure of an evaluation that is meant: the one named, or its own.

    Raises:
      UserError: it has no such measure; `where` is the key that names it.
    """
    kind = kind_of(tree, name)
    names = KINDS[kind].measure_names(resolved(tree, name))
    wanted = measure or tree["evals"][name].get("measure") or names[0]
    if wanted not in names:
        where = where if measure else f"config.evals.{name}.measure"
        raise UserError(
            f"{where}={wanted!r}: the evaluation {name!r} of kind {kind} measures: "
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
    """The settings of one evaluation of a node, as JSON.

    Returns:
      All settings of its kind, "kind", "step" (of the checkpoint; None: the last one) and
      "content": the hash of each of its files, by key.
    """
    settings, entry = resolved(tree, name), tree["evals"][name]
    if "seed" in settings and entry.get("seed") is None:
        settings["seed"] = seed
    if step is not None and settings.get("scorers"):  # what the dose curve shows, and no more
        wanted = measure_of(tree, name, tree["dose"]["measure"], "config.dose.measure")
        settings["scorers"] = [s for s in settings["scorers"] if s == wanted] or settings["scorers"]
    where = f"config.evals.{name}"
    found = {
        key: sha256_file(place(path)) if path in NAMES else content(path, f"{where}.{key}")
        for key, path in paths_of(settings)
    }
    return {"kind": kind_of(tree, name), **settings, "step": step, "content": found}


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
    counts = lambda key: ("judge" in key or key in later) == verdicts
    kept = {key for key, each in KINDS[kind].keys.items() if counts(key) and not each.harmless}
    found = {k: settings[k] for k in sorted(kept - {*FILES, "documents", "judge_checkpoint"})}
    contents = settings["content"].items()
    found["files"] = {key: hash for key, hash in contents if counts(key.partition(".")[0])}
    return found if verdicts else {"kind": kind, "step": settings["step"], **found}


# ------------------------------------------------------------------ results


def measures_of(settings: Mapping, folder: pathlib.Path) -> tuple[dict, dict[str, dict]]:
    """(summary.json, its measures by name) of an evaluation."""
    summary = read_summary(folder)
    return summary, KINDS[settings["kind"]].measures(summary)
