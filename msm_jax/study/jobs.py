"""The nodes of a study as jobs: a command for each, for any scheduler."""

import pathlib
from collections.abc import Sequence

from msm_jax.errors import UserError
from msm_jax.evals.material import NAMES
from msm_jax.study import devices, files, times
from msm_jax.study.contents import made_path
from msm_jax.study.evaluations import paths_of
from msm_jax.study.graph import Study
from msm_jax.study.makers import corpus_paths
from msm_jax.study.node import Node, with_files

REPORT = "report"  # the id of the last job
# Flags of the command that its jobs do not get.
_OWN = ("only", "jobs", "executor", "slurm", "slurm_cpu", "adopt", "dry_run", "distributed")


def graph(study: Study, workdir: pathlib.Path, words: Sequence[str]) -> dict:
    """What `--jobs=json` prints.

    Args:
      words: of the command that prints it, of which those of the jobs are made.
    """
    speeds = times.Speeds(workdir)
    jobs = [
        {
            "id": node.id,
            "name": node.title,
            "command": command(words, node),
            "needs": sorted(set(node.inputs.values())),
            "inputs": [*_files_of(node), *_directories(study, workdir, node)],
            "outputs": [str(files.directory(workdir, node))],
            "accelerator": devices.needs_accelerator(node),
            "hours": speeds.hours(study, node),
            "done": files.read_mark(workdir, node) is not None,
        }
        for node in study.nodes.values()
    ]
    report = {
        "id": REPORT,
        "name": "results and report",
        "command": command(words, None),
        "needs": [*study.nodes],
        "inputs": [str(workdir)],
        "outputs": [str(workdir / name) for name in ("results.json", "report.html")],
        "accelerator": False,
        "hours": {},
        "done": False,
    }
    return {"study": study.config["name"], "workdir": str(workdir), "jobs": [*jobs, report]}


def command(words: Sequence[str], node: Node | None, python: str = "python") -> list[str]:
    """The command of a job; without a node that of the study, which then finds nothing to do."""
    found, rest = [], iter(words)
    for word in rest:
        flag, equals, _ = word.lstrip("-").partition("=")
        if not word.startswith("-") or flag not in _OWN:
            found.append(word)
        elif not equals and flag not in _OWN[-2:]:
            next(rest, None)
    found += [f"--only={node.id}"] if node else []
    if node and node.kind == "train" and "--distributed" in words:
        found.append("--distributed")
    return [python, "-m", "msm_jax.study", *found]


def find(study: Study, name: str) -> Node:
    """The node with this id, or with an id that begins so.

    Raises:
      UserError: there is none, or more than one.
    """
    found = [node for node in study.nodes.values() if name and node.id.startswith(name)]
    if len(found) != 1:
        nodes = "".join(f"\n  {node.id}  {node.title}" for node in found or study.nodes.values())
        many = "several nodes have" if found else "no node of this study has"
        raise UserError(f"--only={name}: {many} an id that begins so:{nodes}")
    return found[0]


def _files_of(node: Node) -> list[str]:
    """The files and checkpoints of the user's that a node reads."""
    config, paths = node.config, list[str]()
    if node.kind == "train":
        paths = [config["tokenizer"], *(entry["path"] for entry in with_files(config).values())]
    elif node.kind == "corpus":
        writers = [config[role] for role in ("writer", "critic")]
        paths = [*corpus_paths(config).values(), config["tokenizer"]]
        paths += [writer["model"] for writer in writers if writer["kind"] == "local"]
    elif node.kind == "tokenizer":
        paths = [config["corpus"]]
    elif node.kind == "base":
        paths = [config["path"], config["adapter"]]
    elif node.kind == "evals":
        paths = [path for settings in config.values() for _, path in paths_of(settings)]
    elif node.kind == "judge":
        paths = [config.get("judge_checkpoint", ""), *(path for _, path in paths_of(config))]
    own = {path for path in paths if path and made_path(path) is None and path not in NAMES}
    return sorted(own)


def _directories(study: Study, workdir: pathlib.Path, node: Node) -> list[str]:
    """The directories of the nodes that a node is made from."""
    needed = (study.nodes[name] for name in node.inputs.values())
    return sorted({str(files.directory(workdir, each)) for each in needed})
