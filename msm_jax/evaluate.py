"""`python -m msm_jax.evaluate`: what a checkpoint prefers, and what it does as an agent.

    python -m msm_jax.evaluate --checkpoint=runs/aft --pairs=opinions --output=runs/aft/opinions
    python -m msm_jax.evaluate --kind=agents --checkpoint=runs/aft --output=runs/aft/agents
    python -m msm_jax.evaluate --config=configs/evals/agents.py --checkpoint=runs/aft \\
        --output=runs/aft/agents

Every setting is a flag of its own. A config file may hold any of them under the same names, and a
flag takes precedence. Sampling and judging can run apart (`--phase`): judging needs no
accelerator, and reads the settings of the samples from the output directory. After a kill the same
command continues. `--kind=agents` writes report.html, in which `--arms` compares checkpoints.
`--phase=inspect` writes a log that `inspect view` opens.
"""

from msm_jax import memory

if __name__ == "__main__":
    memory.restart("msm_jax.evaluate")  # before imports that take seconds

import pathlib
import sys

from absl import flags

from msm_jax import command, loading
from msm_jax.errors import UserError, located
from msm_jax.evals import kinds
from msm_jax.evals.evaluation import judge, read_recorded, sample
from msm_jax.evals.report.arms import named_folders
from msm_jax.files import dumps
from msm_jax.outputs import output_dir
from msm_jax.settings import form, key, values

PHASES = ("all", "sample", "judge", "report", "inspect")
KEYS = {
    "kind": key("preferences", "the kind of evaluation", choices=sorted(kinds.KINDS)),
    "checkpoint": key(None, "run or Hugging Face directory of the model to evaluate", of=str),
    "adapter": key(None, "PEFT adapter to put on the checkpoint", of=str),
    "dtype": key(None, "type of the weights", of=str),
    "mesh": key((), "devices that share the weights", of=str),
    "output": key(None, "directory for samples, verdicts, summary and report", of=str),
    "phase": key("all", "what to do; all is sampling, judging and the report", choices=PHASES),
    "arms": key(
        (), "checkpoints to compare in the report, each as NAME:DIR[+DIR...], the first being the "
        "one that the others are compared with", of=str,
    ),
}  # fmt: skip
COMMAND = form("evaluate", "What the command does, and with which model.", **KEYS)


def define_flags() -> None:
    """Define this command's flags."""
    flags.DEFINE_string("config", None, "A config file with settings, as path.py[:arg].")
    loading.define_flags()
    define = {
        str: flags.DEFINE_string,
        int: flags.DEFINE_integer,
        float: flags.DEFINE_float,
        bool: flags.DEFINE_boolean,
        tuple: flags.DEFINE_list,
    }
    for name, each in KEYS.items():
        meaning = f"{each.meaning[0].upper()}{each.meaning[1:]}."
        if each.choices:
            flags.DEFINE_enum(name, each.default, each.choices, meaning)
        elif name not in flags.FLAGS:
            define[each.kind](name, each.default, meaning)
    for name, each in kinds.SETTINGS.items():
        define[each.kind](name, None, kinds.help_of(name))


def resolved_settings() -> dict:
    """Defaults of the kind, then the config file, then the flags that were given.

    Raises:
      UserError: what is unknown, what the kind has no use for, and what is missing.
    """
    config = flags.FLAGS.config.to_dict() if flags.FLAGS.config else {}
    names = sorted({*KEYS, *kinds.SETTINGS})
    given = config | {n: flags.FLAGS[n].value for n in names if flags.FLAGS[n].present}
    own = values(COMMAND, {n: given.get(n, flags.FLAGS[n].value) for n in KEYS}, "--")
    settings = {name: value for name, value in given.items() if name not in KEYS}
    if own["phase"] in ("judge", "report", "inspect") and own["output"]:
        recorded = read_recorded(pathlib.Path(own["output"]))
        if recorded is None:
            raise UserError(f"{own['output']}: has no evaluation.json; run --phase=sample first")
        if "kind" not in given:
            own["kind"] = recorded.get("kind", "preferences")
            if own["kind"] not in kinds.KINDS:
                raise UserError(
                    f"{own['output']}/evaluation.json: has the kind {own['kind']!r}, which is none "
                    f"of {', '.join(kinds.KINDS)}: give --kind"
                )
        # Files are recorded by their hashes alone.
        files = {"pairs", "questions", "quiz", "spec", "documents"}
        # What a judge is asked, and where, is never taken from a file beside the samples.
        known = {n for n in kinds.KINDS[own["kind"]].keys if n not in files and "judge" not in n}
        recorded = {n: value for n, value in recorded.items() if n in known}
        with located(f"{own['output']}/evaluation.json"):
            kinds.resolve(own["kind"], recorded)
        settings = recorded | settings
    settings = kinds.resolve(own["kind"], settings)
    missing = [name for name in kinds.KINDS[own["kind"]].required if not settings[name]]
    if own["phase"] in ("sample", "all") and not own["checkpoint"]:
        missing.insert(0, "checkpoint")
    missing += [] if own["output"] else ["output"]
    if missing:
        options = ", ".join(f"--{name}" for name in missing)
        raise UserError(f"{options} must be given for --phase={own['phase']}")
    return {**own, "settings": settings}


def evaluate(resolved: dict) -> None:
    """Run the phase; prints the main numbers as JSON once there are verdicts."""
    name, phase, settings = resolved["kind"], resolved["phase"], resolved["settings"]
    kind, output = kinds.KINDS[name], output_dir(resolved["output"], "--output")
    judging = phase in ("judge", "all")
    arms = named_folders(resolved["arms"]) or {output.resolve().name: [output]}
    if resolved["arms"] and kind.report is None:
        raise UserError(f"--arms: there is no report for --kind={name}")
    # A judge that is a checkpoint is loaded when the model that was sampled is gone; any other is
    # made at once, so that a missing key ends the command before anything is sampled.
    at_once = judging and settings.get("judge") != "checkpoint"
    evaluation = kinds.make_evaluation(name, settings, output, at_once)
    if phase in ("sample", "all"):
        from msm_jax.api import load

        parts = {part: resolved[part] or None for part in ("adapter", "dtype")}
        model = load(resolved["checkpoint"], mesh=loading.mesh_sizes(resolved["mesh"]), **parts)
        sample(model.for_sampling(), evaluation, output)
    if judging:
        if not at_once:
            evaluation = kinds.make_evaluation(name, settings, output, True)
        print(dumps(kind.headline(judge(evaluation, output)), indent=1))
    if phase in ("report", "all") and kind.report is not None:
        print(f"report: {kind.report(output, arms)}", file=sys.stderr)
    elif phase == "inspect" and kind.inspect is not None:
        print(f"log: {kind.inspect(output)}", file=sys.stderr)
    elif phase in ("report", "inspect"):
        raise UserError(f"--phase={phase}: --kind={name} has none")


if __name__ == "__main__":
    define_flags()
    command.run(lambda: evaluate(resolved_settings()), config=False)
