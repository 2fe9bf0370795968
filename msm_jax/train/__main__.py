"""Train one stage: `python -m msm_jax.train --config=configs/stage.py --workdir=DIR`.

The config's keys are those of `msm_jax/train/config.py`, each overridable as --config.KEY=VALUE.
Run the same command again to go on after a stop or a kill.
"""

import json
import sys

from absl import flags

from msm_jax import command

_WORKDIR = flags.DEFINE_string("workdir", None, "The run directory.", required=True)


def main() -> None:
    from msm_jax.train.loop import train  # jax is slow to import and --help is not to wait for it

    print(json.dumps(train(flags.FLAGS.config, _WORKDIR.value, sys.stderr)))


if __name__ == "__main__":
    command.run(main)
