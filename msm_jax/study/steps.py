"""How many steps a stage has whose data decide it (mixture="epochs", steps=0)."""

import dataclasses
import pathlib

from msm_jax.errors import UserError
from msm_jax.files import write_json
from msm_jax.links import below
from msm_jax.study import files, records
from msm_jax.study.claims import Claims
from msm_jax.study.contents import made_names
from msm_jax.study.graph import Study
from msm_jax.study.makers import role_of
from msm_jax.study.node import Node, with_files


def with_steps(study: Study, workdir: pathlib.Path) -> Study:
    """The study with the steps of all stages whose data exist by now.

    Tokens are counted with the store that the training reads later, and once: the number is kept
    by the stage's digest.

    Raises:
      UserError: data that cannot be read; a dose after the last step.
    """
    file = below(workdir, "cache", "steps.json")
    known = records.known_steps(file)
    nodes = dict(study.nodes)
    for node in study.nodes.values():
        if node.kind != "train" or node.config["steps"]:
            continue
        if missing := _missing(study, workdir, node):
            nodes[node.id] = dataclasses.replace(node, until=missing)
            continue
        if node.digest not in known:
            with Claims(workdir) as claims, claims.hold("steps"):
                known = {node.digest: _count(study, workdir, node), **records.known_steps(file)}
                write_json(file, known)
        nodes[node.id] = dataclasses.replace(node, counted=known[node.digest])
        _check_doses(study.config["dose"], nodes[node.id])
    return dataclasses.replace(study, nodes=nodes)


def _missing(study: Study, workdir: pathlib.Path, node: Node) -> str:
    """What is to be made before the steps of a stage can be known; "" if they can be."""
    names = made_names(entry["path"] for entry in with_files(node.config).values())
    needed = {*map(role_of, names), "tokenizer"}
    for role in sorted(needed & node.inputs.keys()):
        maker = study.nodes[node.inputs[role]]
        if files.read_mark(workdir, maker) is None:
            return maker.title
    base = _base(study, node)
    if base and base.config["adapter"] and files.read_mark(workdir, base) is None:
        return "the base with its adapter"
    return ""


def _base(study: Study, node: Node) -> Node | None:
    """The base that a stage or the stages before it start from."""
    while parent := node.inputs.get("parent"):
        node = study.nodes[parent]
    return node if node.kind == "base" else None


def _count(study: Study, workdir: pathlib.Path, node: Node) -> int:
    from msm_jax.train.stage import Stage  # imports JAX

    config = files.resolved(workdir, node)
    if (base := _base(study, node)) is not None:
        merged = base.config["adapter"] and str(files.model_dir(workdir, base.id))
        config.parent = merged or base.config["path"]
    try:
        return Stage(config).steps
    except UserError as error:
        raise UserError(f"{node.title}: {error}") from error


def _check_doses(dose: dict, node: Node) -> None:
    late = [step for step in dose["steps"] if step >= node.counted]
    if node.name in dose["stages"] and late:
        raise UserError(
            f"config.dose.steps={tuple(dose['steps'])}: the stage {node.name} has {node.counted} "
            "steps; name smaller ones"
        )
