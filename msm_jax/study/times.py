"""Hours, cost and disk space of a study, from what its own stages and evaluations took.

Every node that is done has a mark with its seconds, and a training stage also its speed. A node
that is still to do is expected to take what nodes of the same kind took on the same device: a stage
with the same shape of model and of batch, the same evaluations of such a model. For a kind that
never ran here there is no estimate.
"""

import dataclasses
import functools
import json
import pathlib
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from msm_jax.files import write_json
from msm_jax.study import records
from msm_jax.study.claims import Claims
from msm_jax.study.devices import counted
from msm_jax.study.graph import Study
from msm_jax.study.node import Node

# Of a training stage's config: what decides the time of a step.
_SHAPE = ("model", "rows", "accumulation", "sequence_length", "trainable", "mesh")
_BYTES = {"bfloat16": 2, "float16": 2}  # of a weight; any other dtype has 4
_COPIES = 3  # a trained weight and AdamW's two moments, in the same dtype
_SIZES = ("vocab_size", "width", "layers", "heads", "kv_heads", "head_dim", "mlp_width",
          "tied_embeddings")  # fmt: skip
_NOT_COUNTED = ("seed", "content", "step")  # of settings: what does not change how long they take
_NO_NODE: tuple[str, Mapping, str] = ("", {}, "")


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Seconds until nodes are done, and the nodes that are not in it."""

    seconds: float
    unknown: tuple[Any, ...] = ()

    def text(self, price: float = 0.0) -> str:
        """ "about 1.3 hours", or "at least 2 minutes (not measured yet: 1 judge)"; "": unknown."""
        cost = f", cost {self.seconds / 3600 * price:,.2f}" if price else ""
        known = duration(self.seconds) + cost
        if not self.unknown:
            return f"about {known}"
        names = {"train": "training stage", "evals": "evaluation"}
        kinds = [names.get(node.kind, node.kind) for node in self.unknown]
        parts = (counted(kinds.count(kind), kind) for kind in dict.fromkeys(kinds))
        missing = f"(not measured yet: {', '.join(parts)})"
        return f"at least {known} {missing}" if self.seconds >= 1 else ""


def duration(seconds: float) -> str:
    """4680 -> "1.3 hours"."""
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"


# ------------------------------------------------------------------ speeds


class Speeds:
    """What nodes of each kind took, from the marks of a study's directory."""

    def __init__(self, workdir: pathlib.Path):
        # Of nodes by id: kind, config, and the id of the node that each starts from, or "".
        self._nodes: dict[str, tuple[str, Mapping, str]] = {}
        self._seconds: dict[str, list[tuple[float, float]]] = {}
        self._keys: dict[tuple[str, str], str] = {}
        self._devices: set[str] = set()
        names = ("stages/*/stage.json", "evals/*/evals.json", "evals/*/*/judge.json")
        paths = (path for name in names for path in workdir.glob(name))
        marks = [*filter(None, map(records.mark_or_none, paths))]
        for mark in marks:
            self._nodes[mark["id"]] = mark["kind"], mark["config"], mark["parent"]
        for mark in marks:
            self.add(mark)

    def add(self, mark: Mapping) -> None:
        """A node that is done."""
        kind, config, parent = mark["kind"], mark["config"], mark["parent"]
        self._nodes[mark["id"]] = kind, config, parent
        seconds, each, summary = float(mark["seconds"]), 0.0, mark["summary"]
        if kind == "train":
            speed, steps = summary.get("tokens_per_second"), summary.get("steps")
            if not speed or not steps:  # it was done already, or had a single step
                return
            each = summary["tokens"] / speed / steps
            # The rest is compiling and saving. Of a stage that was resumed only the last part is
            # measured.
            seconds = max(0.0, seconds - each * steps)
        self._devices.add(mark["device"])
        key = self._key(kind, config, parent, mark["device"])
        self._seconds.setdefault(key, []).append((seconds, each))

    def of(self, study: Study, node: Node, device: str, step: int = 0) -> float | None:
        """Seconds that a node takes after a step; None if its kind never ran on such a device."""
        if (node.id, device) not in self._keys:
            parent = at = node.inputs.get("parent", "")
            while known := study.nodes.get(at):
                at = known.inputs.get("parent", "")
                self._nodes[known.id] = known.kind, known.config, at
            self._keys[node.id, device] = self._key(node.kind, node.config, parent, device)
        found = self._seconds.get(self._keys[node.id, device])
        if not found or (node.kind == "train" and not node.steps):
            return None
        fixed, each = (statistics.median(column) for column in zip(*found, strict=True))
        return (0.0 if step else fixed) + each * max((node.steps or 0) - step, 0)

    def hours(self, study: Study, node: Node) -> dict[str, float]:
        """Hours that a node takes, on each kind of device on which its kind has run."""
        found = {device: self.of(study, node, device) for device in sorted(self._devices)}
        return {device: round(s / 3600, 4) for device, s in found.items() if s is not None}

    def _key(self, kind: str, config: Mapping, parent: str, device: str) -> str:
        alike: Any = _plain(config)
        if kind == "train":
            alike = [_shape(config), self._base(parent)]
        elif kind == "evals":
            _, of_parent, _ = self._nodes.get(parent, _NO_NODE)
            alike = [alike, _shape(of_parent), self._base(parent)]
        return json.dumps([kind, alike, device], sort_keys=True, default=str)

    def _base(self, at: str) -> str | None:
        """The id of the base that a chain of stages starts from."""
        for _ in range(len(self._nodes)):  # a damaged mark could name itself
            at = self._nodes.get(at, _NO_NODE)[2] or at
        return at if self._nodes.get(at, _NO_NODE)[0] == "base" else None


def _shape(config: Mapping) -> dict:
    return {key: config.get(key) for key in _SHAPE}


def _plain(config: Any) -> Any:
    """Settings without those that do not change how long they take."""
    if not isinstance(config, Mapping):
        return config
    return {key: _plain(value) for key, value in config.items() if key not in _NOT_COUNTED}


def estimate(
    study: Study,
    todo: Iterable[Node],
    speeds: Speeds,
    device_of: Callable[[Node], str],
    workers: int,
    running: Mapping[str, tuple[float, int]],
) -> Estimate:
    """Until `todo` is done: the longest chain of nodes, or all work over all workers.

    Args:
      device_of: node to the text of the place that it runs on.
      workers: how many nodes run at a time.
      running: id -> (seconds since it started, its last step), of nodes that have begun.
    """
    wanted, unknown = {node.id for node in todo}, []
    seconds, ends = dict[str, float](), dict[str, float]()
    for name, node in ((name, node) for name, node in study.nodes.items() if name in wanted):
        elapsed, step = running.get(name, (0.0, 0))
        found = speeds.of(study, node, device_of(node), step)
        if found is None:
            unknown.append(node)
        # In the middle of a stage its remaining steps count, not the time since it started.
        seconds[name] = max(0.0, (found or 0.0) - (0.0 if step else elapsed))
        before = (ends.get(needed, 0.0) for needed in node.inputs.values())
        ends[name] = seconds[name] + max(before, default=0.0)
    work = sum(seconds.values()) / max(workers, 1)
    return Estimate(max([work, *ends.values()]), tuple(unknown))


# ------------------------------------------------------------------ what was spent


class Spent:
    """The seconds that studies ran in a directory, over all starts; a kill loses the last part."""

    def __init__(self, workdir: pathlib.Path, claims: Claims):
        self._workdir, self._claims = workdir, claims
        self._since = time.monotonic()

    def update(self) -> None:
        """Add what was spent since the last time; other processes add theirs."""
        now = time.monotonic()
        with self._claims.hold("spent"):
            total = records.seconds_spent(self._workdir) + now - self._since
            write_json(self._workdir / records.SPENT, {"seconds": round(total, 2)})
        self._since = now


def record(study: Study, workdir: pathlib.Path, marks: Mapping[str, dict]) -> dict:
    """The fields of results.json's "seconds" that say how fast it ran, on what, and the cost."""
    price, spent = study.config["price_per_hour"], records.seconds_spent(workdir)
    speeds = {name: mark["summary"].get("tokens_per_second") for name, mark in marks.items()}
    return {
        "all_runs": round(spent, 1),
        "cost": round(spent / 3600 * price, 2) if price else None,
        "devices": sorted({mark["device"] for mark in marks.values() if mark.get("device")}),
        "tokens_per_second": {name: round(s, 1) for name, s in speeds.items() if s},
    }


# ------------------------------------------------------------------ disk


def checkpoint_bytes(study: Study, todo: Iterable[Node]) -> int:
    """Bytes of the checkpoints that are kept of training stages; 0 if there are none.

    With LoRA a checkpoint holds the adapter alone. Norms and biases are not counted.
    """
    base, total = study.config["base"]["path"], 0
    for node in todo:
        if node.kind == "train":
            model = {**node.config["model"], **(_base_shape(base) if base else {})}
            model["vocab_size"] = model["vocab_size"] or study.config["tokenizer"]["vocab_size"]
            kept = node.config["keep"] + len(node.config["keep_steps"])
            size = _BYTES.get(model["param_dtype"], 4) * _COPIES
            total += kept * size * _trained(model, node.config["trainable"])
    return total


@functools.cache
def _base_shape(path: str) -> dict[str, Any]:
    from msm_jax.train.stage import shape_of  # imports JAX

    found = dataclasses.asdict(shape_of(path))
    return {name: found[name] for name in _SIZES}


def _trained(model: Mapping[str, Any], trainable: str) -> int:
    """How many weights are trained."""
    D, F, d = model["width"], model["mlp_width"], model["head_dim"]
    queries, keys = model["heads"] * d, model["kv_heads"] * d
    sides = {"q": (D, queries), "k": (D, keys), "v": (D, keys), "o": (queries, D),
             "gate": (D, F), "up": (D, F), "down": (F, D)}  # fmt: skip
    targets = [sides[name] for name in model["lora_targets"]]
    adapter = model["layers"] * model["lora_rank"] * sum(a + b for a, b in targets)
    if trainable == "lora":
        return adapter
    tables = model["vocab_size"] * D * (1 if model["tied_embeddings"] else 2)
    return adapter + tables + model["layers"] * sum(a * b for a, b in sides.values())
