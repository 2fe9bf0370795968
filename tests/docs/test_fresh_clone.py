"""`make miniature` and then `make test`, in one checkout, as the README has them."""

import json
import os
import shutil
import subprocess
import sys

import config_keys
from test_commands import RUN

from msm_jax.study import files, graph

ROOT = config_keys.ROOT
SHIPPED = {config.path: config for config in config_keys.shipped()}


def test_the_documented_commands_do_not_look_at_what_was_run_in_the_checkout(tmp_path):
    kept = shutil.ignore_patterns(
        ".*", "runs", "build", "dist", "site", "*.egg-info", "__pycache__"
    )
    checkout = tmp_path / "checkout"
    shutil.copytree(ROOT, checkout, ignore=kept)
    # As a finished study leaves it.
    study = graph.make_study(SHIPPED["configs/miniature.py"].load())
    for stage in study.stages.values():
        folder = files.stage_dir(checkout / "runs" / "miniature", stage.id)
        folder.mkdir(parents=True)
        mark = {"id": stage.id, "digest": stage.digest, "summary": {}, "code": "an earlier one"}
        files.write_json(folder / "stage.json", mark)
    run = lambda *command: subprocess.run(
        [sys.executable, "-m", *command],
        cwd=checkout,
        env={**os.environ, "PYTHONPATH": str(checkout)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    planned = ("msm_jax.study", "--config=configs/miniature.py", "--workdir=runs/miniature")
    assert "to do: 0 stages" in run(*planned, "--dry_run").stdout
    before = json.dumps(sorted(map(str, (checkout / "runs").rglob("*"))))
    makes = [step.command for step in RUN if step.command.startswith("make ")]
    done = run("pytest", *(f"tests/docs/test_commands.py::test_it_runs[{name}]" for name in makes))
    assert done.returncode == 0 and f"{len(makes)} passed" in done.stdout, done.stdout + done.stderr
    assert json.dumps(sorted(map(str, (checkout / "runs").rglob("*")))) == before
