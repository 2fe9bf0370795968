"""Which reasons agents give for what they do, before and after midtraining.

A lab record:

    command    python -m msm_jax.evals.reasons --config=configs/evals/reasons.py \\
                   --workdir=runs/reasons --arms=base:runs/base/agents,msm:runs/msm/agents
    hardware   none beside the reader's
    time       not measured: two requests per answer and some 70 for the patterns; the paper reads
               27 conditions x 300 answers of every checkpoint, 16,200 requests each
    result     none of ours. The paper (Claude Opus 4.6, section 4.3): drivers of misalignment
               28-55 % of answers before, 0-12 % after

The reader is the paper's. Another: `--config.reader.kind=openai
--config.reader.base_url=http://localhost:8000/v1 --config.reader.model=MODEL`, or a checkpoint:
`--config.reader.kind=local --config.reader.model=DIRECTORY`.
"""

from ml_collections import ConfigDict

from msm_jax.evals.reasons.config import REASONS


def get_config() -> ConfigDict:
    """See the module."""
    config = REASONS.config()
    config.reader.kind = "anthropic"
    config.reader.model = "claude-opus-4-6"
    return config.lock()
