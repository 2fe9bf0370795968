"""A sweep: the arms of a study once more for every other value of a key.

    config.sweep.over = ("config.stages.aft.epochs=1,2,4",)

The study itself keeps its arms, which have the config's own value. For every other value each arm
that depends on the key has a copy, such as "aft epochs=2". Stages that do not depend on it are the
same ones, so they run once. Several keys give the product of their values. A key of an evaluation
repeats the evaluation, not the arms.
"""

import ast
import dataclasses
import itertools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from msm_jax.errors import UserError
from msm_jax.settings import Form, Key, Named, Problems, check_known
from msm_jax.study import evaluations
from msm_jax.study.config import STUDY
from msm_jax.study.contents import made_names, made_path
from msm_jax.study.makers import corpus_paths, put
from msm_jax.study.node import with_files
from msm_jax.train.config import STAGE

_NO_LITERAL = (ValueError, SyntaxError, MemoryError, RecursionError)
ROOTS = ("stages", "train", "corpora", "evals")  # what can be repeated


@dataclasses.dataclass(frozen=True, eq=False)
class Axis:
    """One key and its values.

    Attributes:
      path: of the key in the config, such as ("stages", "aft", "epochs").
      values: as JSON has them.
      own: the config's own value, which the arms under their own names have.
    """

    path: tuple[str, ...]
    values: tuple[Any, ...]
    own: Any

    @property
    def key(self) -> str:
        return f"config.{'.'.join(self.path)}"


Point = Mapping[Axis, Any]  # a value for each axis


def added(config: ConfigDict, over: Sequence[str]) -> ConfigDict:
    """The config with more keys in `sweep.over`."""
    given = config.get("sweep", {})
    with config.unlocked():
        config.sweep = {**given, "over": (*given.get("over", ()), *over)}
    return config


def expanded(tree: dict) -> dict:
    """The config with the arms, stages, corpora, evaluations and contrasts of its sweep.

    `sweep.made` says which arms and evaluations are copies of which, and with which values by the
    short names of the keys; the originals are among them.

    Raises:
      UserError: a key that is unknown, has no effect, or on which no arm depends; a wrong value.
    """
    check_known("config.sweep.arms", tree["sweep"]["arms"], "arms", tree)
    if not tree["sweep"]["over"]:
        return tree
    axes = [_axis(tree, text) for text in tree["sweep"]["over"]]
    for at, axis in enumerate(axes):
        if axis.path in [other.path for other in axes[:at]]:
            raise UserError(f"config.sweep.over: {axis.key} is there twice: list all its values")
    return _Sweep(tree, axes).tree()


# ------------------------------------------------------------------ keys and values


def _axis(tree: dict, text: str) -> Axis:
    """What "config.stages.aft.epochs=1,2,4" means, checked as a flag of the same name is."""
    where, equals, listed = text.partition("=")
    start, *path = where.split(".")
    if start != "config" or not equals or not path:
        raise UserError(f"config.sweep.over: {text!r}: write it as config.KEY=VALUE,VALUE")
    if path[0] not in ROOTS or path[0] == "evals" and path[-1] in evaluations.OF_STUDY:
        raise UserError(
            f"config.sweep.over: {where}: cannot be swept, only keys of {', '.join(ROOTS)} "
            "that change what is made: make a study for each value, and compare them"
        )
    values = []
    for value in _listed(listed):
        nested: Any = value
        for name in reversed(path):
            nested = {name: nested}
        found = Problems(STUDY)
        read: Any = STUDY.read(nested, "config", found)
        found.raise_any()
        for name in path:
            read = read[name]
        values.append(_json(read))
    if any(value in values[:at] for at, value in enumerate(values)):
        raise UserError(f"config.sweep.over: {text}: a value is there twice")
    own, declared = _own(tree, path), _declared(path)
    if isinstance(declared, Form):
        raise UserError(f"config.sweep.over: {where}: is a group: name one of its keys")
    if declared.harmless:
        raise UserError(f"config.sweep.over: {where}: changes no result: {declared.harmless}")
    return Axis(tuple(path), tuple(values), own)


def _listed(text: str) -> list[Any]:
    """1,2,4 or 'a','b' as Python has them; a,b as texts."""
    try:
        return list(ast.literal_eval(f"[{text}]"))  # which knows tuples and commas in texts
    except _NO_LITERAL:
        return [_literal(each) for each in text.split(",")]


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except _NO_LITERAL:
        return text


def _declared(path: Sequence[str]) -> Key | Named | Form:
    part: Any = STUDY
    for name in path:
        part = part.keys[name] if isinstance(part, Form) else part.entry
    return part


def _own(tree: dict, path: Sequence[str]) -> Any:
    """The value that the config itself gives to a key."""
    complete = {"stages": _stage, "evals": evaluations.resolved}.get(path[0])
    place: Any = tree
    for at, name in enumerate(path):
        if name not in place:
            raise UserError(
                f"config.{'.'.join(path)}: {name!r} is not one of "
                f"config.{'.'.join(path[:at])}: {sorted(place)}"
            )
        place = complete(tree, name) if complete and at == 1 else place[name]
    return place


def _stage(tree: dict, name: str) -> dict:
    return _json(STAGE.fill(tree["train"], tree["stages"][name]))


def _json(value: Any) -> Any:
    return json.loads(json.dumps(value))


def _text(value: Any) -> str:
    """A value as a part of a name."""
    return re.sub(r"[^\w.+-]+", "_", value if isinstance(value, str) else json.dumps(value))


# ------------------------------------------------------------------ copies


class _Sweep:
    """The copies of a sweep: of which things, at which points, under which names."""

    def __init__(self, tree: dict, axes: list[Axis]):
        self._old, self._axes, self._new = tree, axes, _json(tree)
        self._repeated = set(tree["sweep"]["arms"] or tree["arms"])
        self._on: dict[tuple[str, str], list[Axis]] = {}  # (group, name) -> what it depends on
        for group in ("corpora", "stages", "evals", "arms"):
            self._on |= {(group, name): self._axes_of(group, name) for name in tree[group]}
        self._check()
        self._labels = self._find_labels()

    def _axes_of(self, group: str, name: str) -> list[Axis]:
        """The axes of a thing's own keys, and of all that it is made from."""
        if group == "arms":
            made_of = {("stages", stage) for stage in self._old["arms"][name]}
            found = {axis for each in made_of for axis in self._on.get(each, ())}
        else:
            corpora = self._corpora_of(_paths(self._old, group, name).values())
            keys = {(group, name), *(("corpora", each) for each in corpora)}
            found = {axis for axis in self._axes if axis.path[:2] in keys}
        if group == "stages":
            of_train = (axis for axis in self._axes if axis.path[0] == "train")
            found.update(axis for axis in of_train if not self._is_given(name, axis.path[1:]))
        return [axis for axis in self._axes if axis in found]

    def _corpora_of(self, paths: Iterable[str]) -> set[str]:
        """The corpora that make these files, and those that they are made from."""
        known = self._old["corpora"]
        found = made_names(paths) & known.keys()
        inner = lambda name: made_names(corpus_paths(known[name]).values()) & known.keys()
        while more := {each for name in found for each in inner(name)} - found:
            found |= more
        return found

    def _is_given(self, stage: str, path: Sequence[str]) -> bool:
        """Whether a stage has a value of its own in place of train's."""
        place = self._old["stages"][stage]
        for name in path:
            if name not in place:
                return False
            place = place[name]
        return True

    def _check(self) -> None:
        for axis in self._axes:
            of = {key for key, axes in self._on.items() if axis in axes}
            arms = {name for group, name in of if group == "arms"}
            evals = (name for group, name in of if group == "evals")
            arms.update(*(evaluations.arms_of(self._old, name) for name in evals))
            if not arms & self._repeated:
                raise UserError(f"config.sweep.over: {axis.key}: no arm depends on it")

    def _find_labels(self) -> dict[Axis, str]:
        """The last part of each key; the full key where an arm depends on two of that name."""
        last = lambda axis: axis.path[-1]
        twice = {
            axis
            for (group, _), axes in self._on.items()
            for axis in axes
            if group in ("arms", "evals") and [*map(last, axes)].count(last(axis)) > 1
        }
        labels = {a: ".".join(a.path) if a in twice else last(a) for a in self._axes}
        for axis in self._axes:
            texts = [_text(value) for value in axis.values]
            if len(set(texts)) < len(texts):
                raise UserError(f"{axis.key}: values need different names, not {texts}")
        return labels

    def _points(self, axes: Sequence[Axis]) -> list[Point]:
        """All combinations but the config's own values."""
        found = itertools.product(*(axis.values for axis in axes))
        points = [dict(zip(axes, values, strict=True)) for values in found] if axes else []
        return [point for point in points if not _is_own(point)]

    def _name(self, group: str, name: str, point: Point) -> str:
        """Of the copy at a point; the original's where it has the config's own values."""
        axes = self._on.get((group, name), ())
        return self._labelled(name, {axis: point[axis] for axis in axes if axis in point})

    def _labelled(self, name: str, point: Point) -> str:
        parts = [f"{self._labels[axis]}={_text(value)}" for axis, value in point.items()]
        return name if _is_own(point) else " ".join([name, *parts])

    def tree(self) -> dict:
        """The config with all copies."""
        new = self._new
        made: dict[str, dict] = {"arms": {}, "evals": {}, "keys": {}}
        for axis, label in self._labels.items():
            made["keys"].setdefault(label, []).append(axis.key)
        new["arms"] = {}
        for arm, stages in self._old["arms"].items():
            new["arms"][arm] = stages
            if not (axes := self._on["arms", arm]) or arm not in self._repeated:
                continue
            self._note(made["arms"], arm, arm, {axis: axis.own for axis in axes})
            for point in self._points(axes):
                copy = self._labelled(arm, point)
                new["arms"][copy] = [self._copy("stages", stage, point) for stage in stages]
                self._note(made["arms"], copy, arm, point)
        self._repeat_evaluations(made)
        self._repeat_contrasts()
        new["sweep"]["made"] = made
        return new

    def _note(self, made: dict, copy: str, of: str, point: Point) -> None:
        values = {self._labels[axis]: value for axis, value in point.items()}
        made[copy] = {"of": of, "values": values}

    def _copy(self, group: str, name: str, point: Point) -> str:
        """The name of a stage or corpus at a point, which is added where it is missing."""
        copy = self._name(group, name, point)
        if copy == name or copy in self._new[group]:
            return copy
        own = self._new[group][copy] = _json(self._old[group][name])
        for axis in self._on[group, name]:
            if axis.path[0] == "train":
                put(own, axis.path[1:], point[axis])
            elif axis.path[:2] == (group, name):
                put(own, axis.path[2:], point[axis])
        for key, path in _paths(self._new, group, copy).items():
            made = made_path(path)
            if made and made.name in self._old["corpora"]:
                moved = f"{{{self._copy('corpora', made.name, point)}}}"
                put(own, key.split("."), f"{made.before}{moved}/{made.inside}")
        absorption = self._new["absorption"]["stages"]
        if group == "stages" and name in absorption:
            label = copy.replace(name, absorption[name]["label"] or name, 1)
            absorption[copy] = {**absorption[name], "label": label}
        return copy

    def _repeat_evaluations(self, made: Mapping[str, dict]) -> None:
        old, self._new["evals"] = self._new["evals"], {}
        for name, entry in old.items():
            arms, axes = entry.get("arms") or (), self._on["evals", name]
            copies = {name: (entry, arms)}
            if axes:
                self._note(made["evals"], name, name, {axis: axis.own for axis in axes})
            for point in self._points(axes):
                copy, own = self._labelled(name, point), _json(entry)
                for axis in axes:
                    put(own, axis.path[2:], point[axis])
                of = evaluations.arms_of(self._old, name)
                chosen = [arm for arm in of if arm in self._repeated]
                copies[copy] = (own, chosen if self._old["sweep"]["arms"] else arms)
                self._note(made["evals"], copy, name, point)
            for copy, (own, asked) in copies.items():
                own["arms"] = [c for c, m in made["arms"].items() if m["of"] in asked]
                own["arms"] = [*asked, *(c for c in own["arms"] if c not in asked)]
                self._new["evals"][copy] = own

    def _repeat_contrasts(self) -> None:
        """A copy at each point where all arms of a contrast have one, or stay as they are."""
        for name, entry in self._old["contrasts"].items():
            arms, eval = [*entry["plus"], *entry["minus"]], entry["eval"]
            things = [("evals", eval), *(("arms", arm) for arm in arms)]
            of = {axis for thing in things for axis in self._on.get(thing, ())}
            for point in self._points([axis for axis in self._axes if axis in of]):
                at = {arm: self._name("arms", arm, point) for arm in arms}
                asked = self._name("evals", eval, point)
                changed = arms if asked != eval else [arm for arm in arms if at[arm] != arm]
                if self._repeated.issuperset(changed):
                    copy = self._labelled(name, point)
                    self._new["contrasts"][copy] = {
                        **entry,
                        "label": copy.replace(name, entry["label"] or name, 1),
                        "eval": asked,
                        **{side: [at[arm] for arm in entry[side]] for side in ("plus", "minus")},
                    }


def _paths(tree: dict, group: str, name: str) -> dict[str, str]:
    """The files that a stage or a corpus names, by their key in it; of other things none."""
    if group == "corpora":
        return corpus_paths(tree["corpora"][name])
    files = with_files(_stage(tree, name)) if group == "stages" else {}
    return {f"{key}.path": entry["path"] for key, entry in files.items()}


def _is_own(point: Point) -> bool:
    return all(value == axis.own for axis, value in point.items())
