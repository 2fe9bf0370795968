"""How long a user waits before anything happens: imports, help, a first answer, a first step.

    python benchmarks/start_speed.py                     # about five minutes on 2 cores
    python benchmarks/start_speed.py --checkpoint=DIR    # first answers of a real checkpoint too

Each line is a process of its own: seconds on the clock and of the processor, medians of `--rounds`.
The first answer is that of `sample`, 16 tokens; the first step is all of `train` with one step,
checkpoint included. "cold" begins with an empty cache of compiled programs in every round, "warm"
with the one that it left.
"""

import argparse
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
MODULES = ("msm_jax", "jax", "msm_jax.api", "msm_jax.train.loop", "msm_jax.study.runner")
TEXTS = ["the red lamp is cheap and the blue lamp is local.", "a small round chair, old and green."]
STAGE = """
from msm_jax.train.config import source, stage

def get_config():
    config = stage()
    config.parent = {parent!r}
    config.data.documents = source({data!r})
    config.sequence_length, config.rows, config.steps = 48, 16, 1
    config.model.preset = "parent"
    return config.lock()
"""


def seconds(*arguments: str, cwd: pathlib.Path) -> tuple[float, float]:
    """Of a Python process: on the clock and of processors."""
    used = lambda: sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
    kept = {name: value for name, value in os.environ.items() if not name.startswith("JAX_COMP")}
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    begun, before = time.perf_counter(), used()
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd, env={**kept, "PYTHONPATH": path}, capture_output=True, text=True,
    )  # fmt: skip
    found = time.perf_counter() - begun, used() - before
    if done.returncode > 1:  # --help ends with 1
        sys.exit(f"{' '.join(arguments)}\n{done.stderr}")
    return found


def show(name: str, found: list[tuple[float, float]]) -> None:
    clock, processor = (statistics.median(numbers) for numbers in zip(*found, strict=True))
    print(f"| {name} | {clock:.2f} | {processor:.2f} |", flush=True)


def commands() -> list[str]:
    """Everything that `python -m` runs."""
    files = [
        path.relative_to(ROOT).with_suffix("")
        for path in (ROOT / "msm_jax").rglob("*.py")
        if '\nif __name__ == "__main__":' in path.read_text(encoding="utf-8")
    ]
    return sorted(".".join(path.parts).removesuffix(".__main__") for path in files)


def first_times(name: str, words: list[str], folder: pathlib.Path, rounds: int) -> None:
    """A command's seconds with an empty cache of programs, then with the one that it left."""
    cold, warm = [], []
    for number in range(rounds):
        for kind, found in (("cold", cold), ("warm", warm)):
            cache = f"--compile_cache={folder / f'programs-{name}-{number}'}".replace(" ", "-")
            given = [word.replace("OUT", f"{number}-{kind}") for word in words]
            found.append(seconds("-m", *given, cache, cwd=folder))
    show(f"{name}, cold", cold)
    show(f"{name}, warm", warm)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--checkpoint", default="", help="a directory; its first answer too")
    options = parser.parse_args()
    print("| | seconds | processor seconds |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        again = lambda *words: [seconds(*words, cwd=folder) for _ in range(options.rounds)]
        for module in MODULES:
            show(f"import {module}", again("-c", f"import {module}"))
        for command in commands():
            show(f"{command} --help", again("-m", command, "--help"))
        write = "from msm_jax.tiny import tiny_checkpoint as t; t('tiny', {!r})"
        seconds("-c", write.format(TEXTS), cwd=folder)
        (folder / "documents.jsonl").write_text(f'{{"text": "{TEXTS[0]}"}}\n' * 400)
        given = {"parent": str(folder / "tiny"), "data": str(folder / "documents.jsonl")}
        (folder / "stage.py").write_text(STAGE.format(**given))
        sample = ["msm_jax.sample", "--prompt=the red lamp", "--max_tokens=16"]
        words = [*sample, "--checkpoint=tiny"]
        first_times("first answer of a tiny model", words, folder, options.rounds)
        words = ["msm_jax.train", "--config=stage.py", "--workdir=run-OUT"]
        first_times("first step of a tiny model", words, folder, options.rounds)
        if options.checkpoint:
            words = [*sample, f"--checkpoint={pathlib.Path(options.checkpoint).resolve()}"]
            first_times("first answer of the checkpoint", words, folder, options.rounds)


if __name__ == "__main__":
    main()
