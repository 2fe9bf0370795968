"""Runs that exist become stages of a study, if they are what the study would have trained."""

import pathlib
from collections.abc import Sequence

from msm_jax.errors import UserError
from msm_jax.files import link
from msm_jax.study import files, records, worker
from msm_jax.study.claims import Claims
from msm_jax.study.graph import Study
from msm_jax.study.node import Node


def adopt(study: Study, workdir: pathlib.Path, runs: Sequence[str]) -> list[str]:
    """Make stages of runs, without training, and return a sentence for each.

    A run is a stage if its checkpoint's facts are those that the stage would record: config, data,
    tokenizer, chat format and the weights that it started from. The run stays where it is.

    Raises:
      UserError: a run is none of the study's stages; the message lists what differs from the
        nearest one. Runs that were adopted before stay adopted.
    """
    import jax

    from msm_jax.train.start import facts_of

    jax.config.update("jax_platforms", "cpu")  # accelerators are for the workers
    left, said = [pathlib.Path(run) for run in runs], []
    while left:
        nearest: dict[pathlib.Path, tuple[Node, list[str]]] = {}
        ready, later = _open_stages(study, workdir)
        for node in ready:
            facts = facts_of(files.resolved(workdir, node))
            for run in left:
                differs = _differences(run, node, facts)
                if run not in nearest or len(differs) < len(nearest[run][1]):
                    nearest[run] = node, differs
        found = [(run, node) for run, (node, differs) in nearest.items() if not differs]
        if not found:
            raise UserError("\n".join(_refusal(run, nearest.get(run), later) for run in left))
        for run, node in found:
            with Claims(workdir) as claims, claims.hold(files.claim_name(node)):
                if files.read_mark(workdir, node) is None:
                    _take(workdir, run, node)
                    said.append(f"{run}: adopted as {node.title} ({node.id})")
            left.remove(run)
    return said


def _open_stages(study: Study, workdir: pathlib.Path) -> tuple[list[Node], list[Node]]:
    """Training stages that are not done: those whose inputs are all done, and the others."""
    done = {name for name, node in study.nodes.items() if files.read_mark(workdir, node)}
    todo = [node for name, node in study.nodes.items() if node.kind == "train" and name not in done]
    ready = [node for node in todo if done.issuperset(node.inputs.values())]
    return ready, [node for node in todo if node not in ready]


def _differences(run: pathlib.Path, node: Node, facts: dict) -> list[str]:
    from msm_jax.weights import checkpoints
    from msm_jax.weights.damage import differences

    saved = checkpoints.read_facts(run)
    found = differences(saved, {"format": checkpoints.FORMAT, **facts})
    kept = checkpoints.steps(checkpoints.directory(run))
    if kept[-1] != facts["steps"]:
        found.append(f"its newest checkpoint is of step {kept[-1]}, not of {facts['steps']}")
    if lost := sorted({*node.config["keep_steps"]} - {*kept}):
        found.append(f"keep_steps: the checkpoints of steps {lost} are not there")
    return found


def _refusal(run: pathlib.Path, nearest: tuple[Node, list[str]] | None, later: list[Node]) -> str:
    titles = ", ".join(node.title for node in later)
    others = f"; not compared, because what they start from is not done: {titles}" * bool(later)
    if nearest is None:
        return f"--adopt={run}: there is no stage left that it could be{others}"
    node, differs = nearest
    lines = "".join(f"\n  {line}" for line in differs)
    return f"--adopt={run}: differs from {node.title}, the nearest stage:{lines}{others}"


def _take(workdir: pathlib.Path, run: pathlib.Path, node: Node) -> None:
    """The stage's directory: a link to the run, then the mark."""
    from msm_jax.train.loop import last_loss
    from msm_jax.weights.checkpoints import load_params

    _, _, found = load_params(run)  # reads all arrays and compares their checksums
    if not found["done"]:
        raise UserError(f"--adopt={run}: the run is not finished: run `train` again first")
    made_by = records.read_run(run)["versions"]
    summary = {
        "steps": found["step"],
        "loss": last_loss(run),
        **{key: found[key] for key in ("tokens", "loss_tokens", "empty", "probes")},
        "adopted": True,
    }
    folder = files.stage_dir(workdir, node.id)
    link(folder / "model", run.resolve())
    code = {name: str(made_by.get(name, "not recorded")) for name in worker.code()}
    code["source"] = str(made_by.get("code", "unknown")).rpartition(" ")[2]
    mark = worker.stage_mark(node, summary, 0.0) | {"code": code, "created": worker.now()}
    records.write_mark(files.mark_path(workdir, node), mark)
