"""Runs the train command as several processes of one run on this machine."""

import json
import os
import pathlib
import socket
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
CONFIG = """
import json
from ml_collections import ConfigDict

def get_config():
    config = ConfigDict(json.loads({json!r}))
    for group, name in (("model", "lora_targets"), ("samples", "prompts")):
        config[group][name] = tuple(config[group][name])
    config.keep_steps = tuple(config.keep_steps)
    return config.lock()
"""


def write_config(config, folder) -> pathlib.Path:
    path = pathlib.Path(folder) / "stage.py"
    path.write_text(CONFIG.format(json=config.to_json()))
    return path


def start(config, workdir, processes: int = 1, devices: int = 1, *flags: str) -> list:
    """The processes, started; `devices` fake ones each."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    command = [sys.executable, "-m", "msm_jax.train", f"--config={config}", f"--workdir={workdir}"]
    environment = {
        **os.environ,
        "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
    }
    started = []
    for number in range(processes):
        joined = [f"--coordinator=127.0.0.1:{port}", f"--processes={processes}"]
        joined = [*joined, f"--process={number}"] if processes > 1 else []
        started.append(
            subprocess.Popen(
                [*command, *joined, *flags],
                env=environment,
                cwd=ROOT,
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
        )
    return started


def finish(started, timeout: float = 240.0) -> list[tuple[int, str]]:
    """(exit code, stderr) of each; none outlives the test."""
    try:
        return [
            (process.returncode, err)
            for process in started
            for _, err in [process.communicate(timeout=timeout)]
        ]
    finally:
        for process in started:
            process.kill()


def losses(run) -> dict[int, float]:
    path = pathlib.Path(run) / "metrics.jsonl"
    if not path.exists():
        return {}
    found = {}
    for line in path.read_text().splitlines():
        try:
            row = json.loads(line)
        except ValueError:  # the line that a kill cut
            continue
        if "loss" in row:
            found[row["step"]] = row["loss"]
    return found
