"""`python -m msm_jax.train`: one stage, on a laptop or a pod.

    python -m msm_jax.train --config=configs/stage.py --workdir=runs/midtrain \\
        --config.parent=Qwen3-8B --config.data.documents.path=runs/example/documents.jsonl

The config's keys are those of `msm_jax/train/config.py`, each overridable as --config.KEY=VALUE.
With --preview it prints the first rows of the data, their loss tokens in green or in [[ ]]. Run the
same command again to resume after a stop or a kill. On several hosts start it on each, with
--distributed where JAX finds the others by itself (TPU pods, Slurm, GKE), otherwise with
--coordinator=HOST:PORT --processes=N --process=I.
"""

from msm_jax import memory

if __name__ == "__main__":
    memory.restart("msm_jax.train")  # before imports that take seconds

import re
import sys

from absl import flags

from msm_jax import command
from msm_jax.errors import UserError
from msm_jax.files import dumps

_WORKDIR = flags.DEFINE_string("workdir", None, "The run directory.")
_PREVIEW = flags.DEFINE_bool(
    "preview",
    False,
    "Print the first rows, with their loss tokens marked, and stop; writes no run.",
)
_DISTRIBUTED = flags.DEFINE_bool("distributed", False, "Join the other hosts of this pod.")
_COORDINATOR = flags.DEFINE_string(
    "coordinator", "", "HOST:PORT of process 0, if JAX does not find it."
)
_PROCESSES = flags.DEFINE_integer("processes", 0, "How many processes there are.")
_PROCESS = flags.DEFINE_integer("process", -1, "The number of this process, from 0.")


flags.register_multi_flags_validator(
    ["workdir", "preview"],
    lambda given: given["workdir"] is not None or given["preview"],
    "--workdir: give the run directory",
)


def main() -> None:
    """Run the command."""
    from msm_jax.train import hosts  # --help does not wait for JAX to be imported
    from msm_jax.train.loop import preview, train

    if _PREVIEW.value:
        preview(flags.FLAGS.config, sys.stdout)
        return
    _check_hosts(_COORDINATOR.value, _PROCESSES.value, _PROCESS.value)
    if _DISTRIBUTED.value or _COORDINATOR.value:
        hosts.initialize(_COORDINATOR.value, _PROCESSES.value, _PROCESS.value)
    with hosts.fail_together():
        summary = train(flags.FLAGS.config, _WORKDIR.value, sys.stderr)
    if hosts.is_first():
        print(dumps(summary))


def _check_hosts(coordinator: str, processes: int, process: int) -> None:
    """UserError before anything waits for the other hosts."""
    if not coordinator and (processes, process) != (0, -1):
        raise UserError("--processes and --process need --coordinator=HOST:PORT")
    if coordinator and not re.fullmatch(r"[^:/]+:\d+|\[[\da-fA-F:]+\]:\d+", coordinator):
        raise UserError(f"--coordinator={coordinator}: must be HOST:PORT")
    if coordinator and not 0 <= process < processes:
        raise UserError(
            f"--process={process}, --processes={processes}: must be a number from 0 and how many "
            "there are, with --coordinator"
        )


if __name__ == "__main__":
    command.run(main)
