"""Where a study keeps its things, and the marks that say which nodes are done.

    stages/ID/        a world, corpus, tokenizer or training stage, or the base
    stages/ID/model   of the base and of a run that was adopted: its weights, or a link to them
    evals/ID/         the evaluations of the stage ID
    arms/ARM/seedN/   links to the stages and evaluations of an arm
    claims/           which process does what (`claims`)

A mark is written last, so that what a killed process left never looks done. The directory may come
from somebody else: what its files hold is checked (`records`), and links that a study does not make
are refused, so that nothing outside of it is written, deleted or shown in the report.
"""

import json
import os
import pathlib

from ml_collections import ConfigDict

from msm_jax.data.tokenizer import TOKENIZER_FILE
from msm_jax.errors import UserError
from msm_jax.files import TEMPORARY, delete, link
from msm_jax.links import below, refuse_links
from msm_jax.study import records
from msm_jax.study.contents import made_path
from msm_jax.study.graph import Study
from msm_jax.study.makers import role_of
from msm_jax.study.node import Node, with_files


def check_links(workdir: pathlib.Path) -> None:
    """UserError for a link in a study's directory that the study did not make."""
    for name in ("stages", "evals", "bases", "cache", "claims", "tables"):
        ours = ("model", f"model{TEMPORARY}") if name == "stages" else ()
        refuse_links(below(workdir, name), allowed=ours)
    below(workdir, "arms")  # its links are made anew


def _own(workdir: pathlib.Path, *names: str) -> pathlib.Path:
    """A directory of the study's, which may be missing."""
    folder = below(workdir, *names)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: is a file where a study has a directory: move it away")
    return folder


def stage_dir(workdir: pathlib.Path, stage_id: str) -> pathlib.Path:
    """The directory of every node but evaluations."""
    return _own(workdir, "stages", stage_id)


def model_dir(workdir: pathlib.Path, stage_id: str) -> pathlib.Path:
    """Where the weights of a training stage, or of the base, are: a run or a checkpoint.

    Raises:
      UserError: a run that was adopted is no longer there.
    """
    folder = stage_dir(workdir, stage_id)
    model = folder / "model"
    if model.is_symlink() and not model.is_dir():
        raise UserError(
            f"{model}: {os.readlink(model)}, to which it is a link, is gone: put it back, or "
            f"delete {folder} and run again"
        )
    return model if model.is_dir() else folder


def link_base(workdir: pathlib.Path, node: Node) -> None:
    """Point to where the base is now, which may have been moved since."""
    if not node.config["adapter"]:
        link(stage_dir(workdir, node.id) / "model", os.path.abspath(node.config["path"]))


def directory(workdir: pathlib.Path, node: Node) -> pathlib.Path:
    """Where a node writes: that of evaluations is named by the stage that they evaluate."""
    if node.kind in ("evals", "judge"):
        own = (node.name,) if node.kind == "judge" else ()
        return _own(workdir, "evals", node.inputs["parent"], *own)
    return stage_dir(workdir, node.id)


def claim_name(node: Node) -> str:
    """The claim on a node's directory; evaluations and the verdicts on them share one."""
    return f"evals-{node.inputs['parent']}" if node.kind in ("evals", "judge") else node.id


def place(workdir: pathlib.Path, path: str, node: Node) -> str:
    """A path of a node's config with the directory of the node that makes the file."""
    found = made_path(path)
    if found is None:
        return path
    folder = stage_dir(workdir, node.inputs[role_of(found.name)])
    return f"{found.before}{folder / found.inside}"


def resolved(workdir: pathlib.Path, node: Node) -> ConfigDict:
    """The config of a training stage with the places of its files, tokenizer, parent and tokens."""
    config = json.loads(json.dumps(node.config))
    for entry in with_files(config).values():
        entry["path"] = place(workdir, entry["path"], node)
    if tokenizer := node.inputs.get("tokenizer"):
        config["tokenizer"] = str(stage_dir(workdir, tokenizer) / TOKENIZER_FILE)
    if parent := node.inputs.get("parent"):
        config["parent"] = str(model_dir(workdir, parent))
    if "MSM_JAX_CACHE" not in os.environ:
        config["token_cache"] = config["token_cache"] or str(token_cache(workdir))
    return ConfigDict(config)


def mark_path(workdir: pathlib.Path, node: Node) -> pathlib.Path:
    """The file that appears when a node is done: stage.json, evals.json or judge.json."""
    names = {"evals": "evals.json", "judge": "judge.json"}
    return directory(workdir, node) / names.get(node.kind, "stage.json")


def read_mark(workdir: pathlib.Path, node: Node) -> dict | None:
    """The mark of a node that is done, else None.

    Raises:
      UserError: its directory holds another stage, or a file that is not a mark.
    """
    path = mark_path(workdir, node)
    if node.kind in ("evals", "judge"):  # the directory is used again for other settings
        mark = records.mark_or_none(path)
        return mark if mark and mark["digest"] == node.digest else None
    mark = records.read_mark(path)
    if mark is None:
        return None
    if mark["digest"] != node.digest:
        raise UserError(
            f"{path}: holds the stage {mark['digest']}, this study's is {node.digest}: use another "
            "--workdir"
        )
    return mark


def token_cache(workdir: pathlib.Path) -> pathlib.Path:
    """Where workers keep tokens, unless the user has named another place."""
    return below(workdir, "cache", "tokens")


# ------------------------------------------------------------------ names that people cite


def citation(config: dict, arm: str, seed: int) -> str:
    """ "fig4/msm/seed1"; of a study from a checkpoint "fig4/Qwen3-32B/msm/seed1"."""
    base = config["base"]
    paths = [base[key] for key in ("path", "adapter") if base[key]]
    start = "+".join(os.path.basename(os.path.abspath(path)) for path in paths)
    return "/".join(filter(None, [config["name"], start, arm, f"seed{seed}"]))


def link_arms(study: Study, workdir: pathlib.Path) -> None:
    """arms/ARM/seedN/1-STAGE, 2-STAGE, ..., evals: links to the stages that an arm consists of.

    Links of arms that the study no longer has are removed.
    """
    root, wanted = below(workdir, "arms"), {}
    for (arm, seed), stages in study.arms.items():
        folder = root / arm / f"seed{seed}"
        up = pathlib.Path("../../..")
        for number, stage in enumerate(stages, start=1):
            wanted[folder / f"{number}-{study.nodes[stage].name}"] = up / "stages" / stage
        if stages[-1] in study.evaluations:
            wanted[folder / "evals"] = up / "evals" / stages[-1]
    for folder, inner, others in os.walk(root, topdown=False):
        for path in (pathlib.Path(folder, name) for name in (*inner, *others)):
            empty = path.is_dir() and not any(path.iterdir())
            if path not in wanted and (path.is_symlink() or empty):
                delete(path, inside=root)
    for path, target in wanted.items():
        link(path, target)
