"""`python -m msm_jax.evals.reasons`: which reasons agents give for what they do.

    python -m msm_jax.evals.reasons --config=configs/evals/reasons.py --workdir=runs/reasons \\
        --arms=base:runs/base/agents,msm:runs/msm/agents --patterns_only

A model reads every answer of judged agent scenarios and writes down its reasons (reasons.jsonl);
those of all checkpoints become patterns (patterns.toml), which a person can edit. Without
--patterns_only the same command goes on: every answer is read for these patterns (classes.jsonl),
and reasons.html, reasons.json and reasons.csv say how often each checkpoint reasons by them. A
patterns.toml that exists is kept, and answers are not read for reasons again.

It can be killed at any time: the same command goes on and pays for nothing twice. Keys of providers
are read from the environment (ANTHROPIC_API_KEY, OPENAI_API_KEY).
"""

import pathlib
from typing import Any

from absl import flags

from msm_jax import command
from msm_jax.corpus.writers import Writer
from msm_jax.errors import UserError
from msm_jax.evals.reasons import report, steps
from msm_jax.evals.report.arms import Arms, named_folders, read_arms
from msm_jax.files import write_jsonl, write_text
from msm_jax.outputs import output_dir


def main() -> None:
    """The command."""
    from msm_jax.corpus.backends import make_backend, price_of
    from msm_jax.corpus.writers import Journal
    from msm_jax.corpus.writers.journal import FILE
    from msm_jax.evals.reasons.config import REASONS
    from msm_jax.generate import StepOutput, local_sampler
    from msm_jax.settings import checked

    config = checked(REASONS, flags.FLAGS.config)
    workdir = output_dir(flags.FLAGS.workdir, "--workdir")
    if not config.reader.kind:
        raise UserError("config.reader.kind is not set: anthropic, openai or local (docs/evals.md)")
    arms = read_arms(named_folders(flags.FLAGS.arms))
    workdir.mkdir(parents=True, exist_ok=True)
    advice = "wait for it, or use another --workdir"
    with StepOutput() as output, Journal(workdir / FILE, advice, output.say) as journal:
        readers = {}
        for role in ("reader", "second"):
            own = config[role]
            if own.kind:
                backend = make_backend(own, config.seed, workdir, output.say, local_sampler)
                readers[role] = Writer(backend, journal, price_of(own), own.max_usd, output.reply)
        analyse(config, workdir, arms, readers, flags.FLAGS.patterns_only)


def analyse(
    config: Any, workdir: pathlib.Path, arms: Arms, readers: dict[str, Writer], patterns_only: bool
) -> None:
    """Reasons, patterns, classes and report; `readers` are "reader" and perhaps "second"."""
    from msm_jax.spec.spec import MODEL_NAME, load_spec

    answers = steps.answers_of(arms, config.per_condition)
    path, first = workdir / "patterns.toml", readers["reader"]
    if not path.exists():
        read = steps.read_answers(first, answers, config)
        write_jsonl(workdir / "reasons.jsonl", read)
        given = (item["reason"] for reading in read for item in reading["found"])
        spec = load_spec(config.spec, MODEL_NAME).text if config.spec else ""
        write_text(path, steps.write_patterns(steps.find_patterns(first, given, spec, config)))
    patterns = steps.read_pattern_file(path)
    if patterns_only:
        print(f"patterns: {path}: edit them, then run the same command without --patterns_only")
        return
    classes = {
        role: steps.read_answers(reader, answers, config, patterns)
        for role, reader in readers.items()
    }
    rows = ({"reader": role, **row} for role, read in classes.items() for row in read)
    write_jsonl(workdir / "classes.jsonl", rows)
    report.write_report(workdir, arms, patterns, classes, readers, config)
    print(f"report: {workdir / 'reasons.html'}")


if __name__ == "__main__":
    flags.DEFINE_string("workdir", None, "Directory of the analysis.", required=True)
    flags.DEFINE_list(
        "arms", None, "Checkpoints to compare, each as NAME:DIR[+DIR...] with directories of "
        "judged agent scenarios; the others are compared with the first.", required=True,
    )  # fmt: skip
    flags.DEFINE_bool("patterns_only", False, "Stop when patterns.toml is there, to be edited.")
    command.run(main)
