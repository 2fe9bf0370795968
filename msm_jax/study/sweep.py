"""A sweep: the arms of a study once more for every other value of a key.

    config.sweep.over = ("config.stages.aft.epochs=1,2,4",)

The study itself keeps its arms, which have the config's own value. For every other value each arm
that depends on the key has a copy, such as "aft epochs=2". Stages that do not depend on it are the
same ones, so they run once. Several keys give the product of their values. A key of an evaluation
repeats the evaluation, not the arms.
"""

import ast
import contextlib
import dataclasses
import itertools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from msm_jax.errors import UserError
from msm_jax.settings import Form, Key, Problems, check_known
from msm_jax.study import evaluations
from msm_jax.study.config import STUDY
from msm_jax.study.contents import made_path
from msm_jax.study.makers import corpus_paths
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
    own = _own(tree, path, where)
    if why := _declared(path).harmless:
        raise UserError(f"config.sweep.over: {where}: changes no result: {why}")
    return Axis(tuple(path), tuple(values), own)


def _listed(text: str) -> list[Any]:
    """1,2,4 or 'a','b' as Python has them; a,b as texts."""
    with contextlib.suppress(*_NO_LITERAL):
        return list(ast.literal_eval(f"[{text}]"))  # which knows tuples and commas in texts
    return [_literal(each) for each in text.split(",")]


def _literal(text: str) -> Any:
    with contextlib.suppress(*_NO_LITERAL):
        return ast.literal_eval(text)
    return text


def _declared(path: Sequence[str]) -> Key:
    part: Any = STUDY
    for name in path:
        part = part.keys[name] if isinstance(part, Form) else part.entry
    return part


def _own(tree: dict, path: Sequence[str], where: str) -> Any:
    """The value that the config itself gives to a key."""
    root, name = path[0], path[1]
    inside = path[1:] if root == "train" else path[2:]
    if root != "train" and name not in tree[root]:
        raise UserError(f"{where}: {name!r} is not one of config.{root}: {sorted(tree[root])}")
    place: Any = {
        "train": lambda: tree["train"],
        "stages": lambda: _stage(tree, name),
        "corpora": lambda: tree["corpora"][name],
        "evals": lambda: evaluations.resolved(tree, name),
    }[root]()
    for at, each in enumerate(inside):
        if each not in place:
            raise UserError(f"{where}: there is no {'.'.join(inside[: at + 1])} in this config")
        place = place[each]
    return place


def _stage(tree: dict, name: str) -> dict:
    return _json(STAGE.fill(tree["train"], tree["stages"][name]))


def _json(value: Any) -> Any:
    return json.loads(json.dumps(value))


def _put(config: dict, path: Sequence[str], value: Any) -> None:
    for name in path[:-1]:
        config = config.setdefault(name, {})
    config[path[-1]] = value


def _text(value: Any) -> str:
    """A value as a part of a name."""
    return re.sub(r"[^\w.+-]+", "_", value if isinstance(value, str) else json.dumps(value))


# ------------------------------------------------------------------ copies


class _Sweep:
    """The copies of a sweep: of which things, at which points, under which names."""

    def __init__(self, tree: dict, axes: list[Axis]):
        self._old, self._axes = tree, axes
        self._new = _json(tree)
        arms, wanted = tree["arms"], tree["sweep"]["arms"]
        self._corpora = {name: self._axes_of_corpus(name) for name in tree["corpora"]}
        self._stages = {name: self._axes_of_stage(name) for name in tree["stages"]}
        self._evals = {
            name: [axis for axis in axes if axis.path[:2] == ("evals", name)]
            for name in tree["evals"]
        }
        self._arms = {
            name: [a for a in axes if any(a in self._stages.get(each, ()) for each in stages)]
            for name, stages in arms.items()
        }
        self._repeated = set(wanted or arms)
        self._check()
        self._labels = self._find_labels()

    def _axes_of_corpus(self, name: str) -> list[Axis]:
        """Those of the corpus, and of all that it is made from."""
        names = {name}
        while True:
            paths = [path for each in names for path in self._files_of(each)]
            found = {made.name for path in paths if (made := made_path(path))}
            if found & self._old["corpora"].keys() <= names:
                break
            names |= found & self._old["corpora"].keys()
        return [a for a in self._axes if a.path[0] == "corpora" and a.path[1] in names]

    def _files_of(self, corpus: str) -> Iterable[str]:
        return corpus_paths(self._old["corpora"][corpus]).values()

    def _axes_of_stage(self, name: str) -> list[Axis]:
        made = [made_path(e["path"]) for e in with_files(_stage(self._old, name)).values()]
        of_corpora = {a for m in made if m for a in self._corpora.get(m.name, ())}
        return [
            axis
            for axis in self._axes
            if axis.path[:2] == ("stages", name)
            or (axis.path[0] == "train" and not self._is_given(name, axis.path[1:]))
            or axis in of_corpora
        ]

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
            of_arms = {name for name, axes in self._arms.items() if axis in axes}
            of_evals = {n for n, axes in self._evals.items() if axis in axes}
            of_evals = {arm for name in of_evals for arm in evaluations.arms_of(self._old, name)}
            if not (of_arms | of_evals) & self._repeated:
                raise UserError(f"config.sweep.over: {axis.key}: no arm depends on it")

    def _find_labels(self) -> dict[Axis, str]:
        """The last part of each key; the full key where an arm depends on two of that name."""
        together = [*self._arms.values(), *self._evals.values()]
        last = lambda axis: axis.path[-1]
        twice = {
            axis
            for axes in together
            for axis in axes
            if [last(other) for other in axes].count(last(axis)) > 1
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

    def _name(self, name: str, axes: Sequence[Axis], point: Point) -> str:
        """Of the copy at a point; the original's where it has the config's own values."""
        mine = {axis: point[axis] for axis in axes if axis in point}
        if _is_own(mine):
            return name
        return " ".join([name, *(f"{self._labels[a]}={_text(v)}" for a, v in mine.items())])

    def tree(self) -> dict:
        """The config with all copies."""
        new = self._new
        made: dict[str, dict] = {"arms": {}, "evals": {}, "keys": {}}
        for axis, label in self._labels.items():
            made["keys"].setdefault(label, []).append(axis.key)
        new["arms"] = {}
        for arm, stages in self._old["arms"].items():
            new["arms"][arm] = stages
            if not (axes := self._arms[arm]) or arm not in self._repeated:
                continue
            self._note(made["arms"], arm, arm, {axis: axis.own for axis in axes})
            for point in self._points(axes):
                copy = self._name(arm, axes, point)
                new["arms"][copy] = [self._copy_stage(stage, point) for stage in stages]
                self._note(made["arms"], copy, arm, point)
        self._repeat_evaluations(made)
        self._repeat_contrasts()
        new["sweep"]["made"] = made
        return new

    def _note(self, made: dict, copy: str, of: str, point: Point) -> None:
        values = {self._labels[axis]: value for axis, value in point.items()}
        made[copy] = {"of": of, "values": values}

    def _copy_stage(self, name: str, point: Point) -> str:
        copy = self._name(name, self._stages.get(name, []), point)
        if copy == name or copy in self._new["stages"]:
            return copy
        own = self._new["stages"][copy] = _json(self._old["stages"][name])
        for axis in self._stages[name]:
            if axis.path[0] != "corpora":
                inside = axis.path[1 if axis.path[0] == "train" else 2 :]
                _put(own, inside, point[axis])
        for key, entry in with_files(_stage(self._old, name)).items():
            if (path := self._moved(entry["path"], point)) != entry["path"]:
                _put(own, [*key.split("."), "path"], path)
        absorption = self._new["absorption"]["stages"]
        if name in absorption:
            label = copy.replace(name, absorption[name]["label"] or name, 1)
            absorption[copy] = {**absorption[name], "label": label}
        return copy

    def _moved(self, path: str, point: Point) -> str:
        """A path to what a corpus makes, in the copy of that corpus."""
        made = made_path(path)
        if made is None or made.name not in self._corpora:
            return path
        return f"{made.before}{{{self._copy_corpus(made.name, point)}}}/{made.inside}"

    def _copy_corpus(self, name: str, point: Point) -> str:
        copy = self._name(name, self._corpora[name], point)
        if copy in self._new["corpora"]:
            return copy
        own = self._new["corpora"][copy] = _json(self._old["corpora"][name])
        for axis in self._corpora[name]:
            if axis.path[1] == name:
                _put(own, axis.path[2:], point[axis])
        for key, path in corpus_paths(own).items():
            _put(own, key.split("."), self._moved(path, point))
        return copy

    def _repeat_evaluations(self, made: Mapping[str, dict]) -> None:
        old, self._new["evals"] = self._new["evals"], {}
        for name, entry in old.items():
            arms = entry.get("arms") or ()
            axes, wanted = self._evals[name], self._old["sweep"]["arms"]
            copies = {name: (entry, arms)}
            if axes:
                self._note(made["evals"], name, name, {axis: axis.own for axis in axes})
            for point in self._points(axes):
                copy = self._name(name, axes, point)
                own = _json(entry)
                for axis in axes:
                    _put(own, axis.path[2:], point[axis])
                of = evaluations.arms_of(self._old, name)
                copies[copy] = (own, [a for a in of if a in self._repeated] if wanted else arms)
                self._note(made["evals"], copy, name, point)
            for copy, (own, asked) in copies.items():
                own["arms"] = [c for c, m in made["arms"].items() if m["of"] in asked]
                own["arms"] = [*asked, *(c for c in own["arms"] if c not in asked)]
                self._new["evals"][copy] = own

    def _repeat_contrasts(self) -> None:
        """A copy at each point where all arms of a contrast have one."""
        for name, entry in self._old["contrasts"].items():
            arms = [*entry["plus"], *entry["minus"]]
            of_eval = self._evals.get(entry["eval"], [])
            known = [of_eval, *(self._arms.get(arm, []) for arm in arms)]
            axes = [axis for axis in self._axes if any(axis in some for some in known)]
            for point in self._points(axes):
                at = lambda arm, point=point: self._name(arm, self._arms.get(arm, []), point)
                if all(at(arm) == arm or arm in self._repeated for arm in arms):
                    copy = self._name(name, axes, point)
                    self._new["contrasts"][copy] = {
                        **entry,
                        "label": copy.replace(name, entry["label"] or name, 1),
                        "eval": self._name(entry["eval"], of_eval, point),
                        **{side: [at(arm) for arm in entry[side]] for side in ("plus", "minus")},
                    }


def _is_own(point: Point) -> bool:
    return all(value == axis.own for axis, value in point.items())
