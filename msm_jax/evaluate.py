"""`python -m msm_jax.evaluate`: which options a checkpoint prefers.

    python -m msm_jax.evaluate --checkpoint=RUN --pairs=FILE --output=DIR
    python -m msm_jax.evaluate --config=configs/my_evaluation.py --seed=3

Every setting is a flag of its own; a config file may hold any of them under the same names, and a
flag that is given wins. Sampling and judging can run apart (`--stage`), and the same command goes
on where a killed one stopped.
"""

import json

from absl import flags
from ml_collections import config_flags

from msm_jax import command
from msm_jax.errors import UserError
from msm_jax.evals import evaluate_preferences, judge_preferences, sample_preferences
from msm_jax.evals.preferences import SCORERS

STAGES = ("sample", "judge", "all")
REQUIRED = {
    "sample": ("checkpoint", "pairs", "output"),
    "judge": ("pairs", "output"),
    "all": ("checkpoint", "pairs", "output"),
}


def define_flags() -> list[str]:
    """Define this command's flags; returns the names of the settings."""
    config_flags.DEFINE_config_file("config", None, "A config with settings, as path.py[:arg].")
    before = set(flags.FLAGS)
    flags.DEFINE_string("checkpoint", None, "Run directory whose newest checkpoint is asked.")
    flags.DEFINE_string("pairs", None, "JSONL file of preference pairs.")
    flags.DEFINE_string("output", None, "Directory for the answers, verdicts and summary.")
    flags.DEFINE_enum("stage", "all", STAGES, "What to do.")
    flags.DEFINE_list("scorers", list(SCORERS), f"Of {', '.join(SCORERS)}.")
    flags.DEFINE_integer("seed", 0, "Of the generated answers.")
    flags.DEFINE_integer("samples", 1, "Generated answers per question.")
    flags.DEFINE_float("temperature", 0.0, "Of the generated answers; 0 is greedy.")
    flags.DEFINE_integer("max_tokens", 32, "Of one generated answer.")
    flags.DEFINE_integer("rows", 64, "How many are computed at a time.")
    return sorted(set(flags.FLAGS) - before)


def resolved_settings(names: list[str]) -> dict:
    """Defaults, then the config file, then the flags that were given."""
    settings = {name: flags.FLAGS[name].value for name in names}
    config = flags.FLAGS.config.to_dict() if flags.FLAGS.config else {}
    unknown = sorted(set(config) - set(names))
    if unknown:
        raise UserError(f"--config: unknown settings {unknown}; known: {names}")
    for name, value in config.items():
        if not flags.FLAGS[name].present:
            settings[name] = list(value) if name == "scorers" else value
    if settings["stage"] not in STAGES:
        raise UserError(f"stage={settings['stage']!r}: one of {STAGES}")
    missing = [name for name in REQUIRED[settings["stage"]] if not settings[name]]
    if missing:
        options = ", ".join(f"--{name}" for name in missing)
        raise UserError(f"{options} must be given for --stage={settings['stage']}")
    return settings


def evaluate(settings: dict) -> None:
    """Run the stage; prints the scorers' numbers as JSON once they are judged."""
    settings = dict(settings)
    stage, checkpoint = settings.pop("stage"), settings.pop("checkpoint")
    pairs, output = settings.pop("pairs"), settings.pop("output")
    if stage == "judge":
        summary = judge_preferences(pairs, output)
    else:
        from msm_jax.api import load

        ask = sample_preferences if stage == "sample" else evaluate_preferences
        summary = ask(load(checkpoint), pairs, output, **settings)
    if summary:
        print(json.dumps(summary["scorers"], indent=1))


if __name__ == "__main__":
    NAMES = define_flags()
    command.run(lambda: evaluate(resolved_settings(NAMES)), config=False)
