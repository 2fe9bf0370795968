"""A node of a study's graph: one job, named by a hash of what decides its result."""

import dataclasses
from collections.abc import Mapping

from msm_jax.files import sha256_json

FORMAT = 3  # 3: hashes of JSON everywhere


@dataclasses.dataclass(frozen=True)
class Node:
    """One job of the graph.

    Attributes:
      digest: SHA-256 of everything that it is made of; `id` is its beginning.
      kind: "world", "corpus", "base", "tokenizer", "train", "evals" (all evaluations of one stage)
        or "judge" (the verdicts on one of them, if another model gives them).
      name: of a training stage a key of the config's `stages`, of a corpus one of `corpora`, of
        verdicts one of `evals`, else the kind.
      path: names of the training stages that lead here, this one last.
      seed: of world, weights and data order.
      config: as JSON, with paths as the config has them; of "evals" settings by evaluation.
      inputs: ids of the nodes that it is made from, as "world", "corpora.NAME", "tokenizer",
        "parent" (the stage or base that a stage starts from, or that is evaluated), "evals" (the
        samples that are judged).
      counted: the steps that steps=0 stands for, once they are known.
      until: what has to be made before they are; "" if nothing.
    """

    digest: str
    kind: str
    name: str
    path: tuple[str, ...]
    seed: int
    config: dict
    inputs: dict[str, str]
    counted: int = 0
    until: str = ""

    @property
    def id(self) -> str:
        return self.digest[:12]

    @property
    def steps(self) -> int:
        """Optimizer steps; 0 where they are not known yet."""
        return self.config["steps"] or self.counted if self.kind == "train" else 0

    @property
    def tokens(self) -> int:
        """Token slots of all steps; an upper bound, because probes may end a stage early."""
        return self.steps and self.steps * self.config["rows"] * self.config["sequence_length"]

    @property
    def title(self) -> str:
        if self.kind == "corpus":
            return f"corpus {self.name}"
        verb = {"evals": "evaluate ", "judge": f"judge {self.name} of "}.get(self.kind, "")
        what = " > ".join(self.path) or ("base" if verb else self.kind)
        return f"{verb}{what}, seed {self.seed}"


Makers = Mapping[str, Node]  # by the name in "{name}/...": "world", and those of config.corpora


def digest_of(kind: str, **content) -> str:
    return sha256_json({"format": FORMAT, "kind": kind, **content})


def inputs_of(**nodes: Node | None) -> dict[str, str]:
    return {role: node.id for role, node in nodes.items() if node}


def with_files(config: dict) -> dict[str, dict]:
    """The entries of a stage's config that name a file, by their path in it."""
    groups = {"data": config["data"], "probes": config["probes"]}
    groups["eval.data"] = config["eval"]["data"]
    return {f"{part}.{key}": entry for part, all in groups.items() for key, entry in all.items()}
