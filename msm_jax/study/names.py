"""Names that a person can cite: STUDY/ARM/seedN, beside the hashes that stages are stored by."""

import os
import pathlib

from msm_jax.files import delete, link
from msm_jax.links import below
from msm_jax.study.graph import Study


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
