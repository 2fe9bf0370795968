"""`python -m msm_jax.evaluate`: what a checkpoint prefers, and what it does as an agent.

    python -m msm_jax.evaluate --checkpoint=runs/aft --pairs=opinions --output=runs/aft/opinions
    python -m msm_jax.evaluate --kind=agents --checkpoint=runs/aft --output=runs/aft/agents
    python -m msm_jax.evaluate --config=configs/evals/agents.py --checkpoint=runs/aft \\
        --output=runs/aft/agents

Every setting is a flag of its own; a config file may hold any of them under the same names, and a
flag that is given wins. Sampling and judging can run apart (`--stage`): judging needs no
accelerator, and takes what was asked from the output directory. The same command goes on where a
killed one stopped. `--kind=agents` writes report.html; `--arms` lays checkpoints side by side.
`--stage=inspect` writes a log that `inspect view` opens.
"""

import json
import pathlib
import sys

from absl import flags

from msm_jax import command, files, loading
from msm_jax.errors import UserError
from msm_jax.evals import kinds
from msm_jax.evals.evaluation import judge, sample
from msm_jax.outputs import output_dir
from msm_jax.settings import form, key, values

STAGES = ("all", "sample", "judge", "report", "inspect")
COMMAND = form(
    "evaluate",
    "What the command does, and to whom.",
    kind=key("preferences", "what is evaluated", choices=sorted(kinds.KINDS)),
    checkpoint=key(None, "who is asked", of=str),
    adapter=key(None, "a PEFT adapter on it", of=str),
    dtype=key(None, "of the weights", of=str),
    mesh=key((), "devices that share them", of=str),
    output=key(None, "a directory", of=str),
    stage=key("all", "what is done", choices=STAGES),
    arms=key((), "for the report", of=str),
)


def define_flags() -> list[str]:
    """Define this command's flags; returns the names of the settings."""
    flags.DEFINE_string("config", None, "A config with settings, as path.py[:arg].")
    before = set(flags.FLAGS)
    flags.DEFINE_enum("kind", "preferences", sorted(kinds.KINDS), "What is evaluated.")
    flags.DEFINE_string("checkpoint", None, "Run or Hugging Face directory of who is asked.")
    loading.define_flags()
    flags.DEFINE_string("output", None, "Directory for answers, verdicts, summary and report.")
    flags.DEFINE_enum("stage", "all", STAGES, "What to do.")
    flags.DEFINE_list("arms", [], "For the report: NAME:DIR[+DIR...] each; the first is compared.")
    for name, setting in kinds.SETTINGS.items():
        define = {
            str: flags.DEFINE_string,
            int: flags.DEFINE_integer,
            float: flags.DEFINE_float,
            bool: flags.DEFINE_boolean,
            tuple: flags.DEFINE_list,
        }[setting.key.kind]
        define(name, None, setting.help())
    return sorted(set(flags.FLAGS) - before)


def resolved_settings(names: list[str]) -> dict:
    """Defaults of the kind, then the config file, then the flags that were given.

    Raises:
      UserError: what is unknown, what the kind has no use for, and what is missing.
    """
    config = flags.FLAGS.config.to_dict() if flags.FLAGS.config else {}
    given = {name: flags.FLAGS[name].value for name in names if flags.FLAGS[name].present}
    given = {**config, **given}
    own = values(COMMAND, {n: given.get(n, flags.FLAGS[n].value) for n in COMMAND.keys}, "--")
    settings = {name: value for name, value in given.items() if name not in COMMAND.keys}
    if own["stage"] in ("judge", "report", "inspect") and own["output"]:
        recorded = _recorded(own["output"])
        if "kind" not in given:
            own["kind"] = recorded.get("kind", "preferences")
        settings = {**kinds.recorded_settings(own["kind"], recorded), **settings}
    settings = kinds.resolve(own["kind"], settings)
    samples = own["stage"] in ("sample", "all")
    missing = ["checkpoint"] if samples and not own["checkpoint"] else []
    missing += [name for name in kinds.KINDS[own["kind"]].required if not settings[name]]
    missing += [] if own["output"] else ["output"]
    if missing:
        options = ", ".join(f"--{name}" for name in missing)
        raise UserError(f"{options} must be given for --stage={own['stage']}")
    return {**own, "settings": settings}


def _recorded(output: str) -> dict:
    """What the answers in a directory were asked."""
    path = pathlib.Path(output) / "evaluation.json"
    if not path.exists():
        raise UserError(f"{output}: has no evaluation.json; run --stage=sample first")
    return json.loads(path.read_text(encoding="utf-8"))


def evaluate(resolved: dict) -> None:
    """Run the stage; prints the main numbers as JSON once they are judged."""
    kind, stage = kinds.KINDS[resolved["kind"]], resolved["stage"]
    output, settings = output_dir(resolved["output"], "--output"), resolved["settings"]
    judging = stage in ("judge", "all")
    arms = _arms(resolved["arms"], output)
    if resolved["arms"] and kind.report is None:
        raise UserError(f"--arms: there is no report for --kind={resolved['kind']}")
    # A judge that is a checkpoint is loaded when the model that was asked is gone; any other is
    # made at once, so that a missing key ends the command before anything is sampled.
    at_once = judging and settings.get("judge") != "checkpoint"
    evaluation = kind.make(settings, output, at_once)
    if stage in ("sample", "all"):
        from msm_jax.api import load

        parts = {name: resolved[name] or None for name in ("adapter", "dtype")}
        model = load(resolved["checkpoint"], mesh=loading.mesh_sizes(resolved["mesh"]), **parts)
        sample(model.for_sampling(), evaluation, output)
    if judging:
        evaluation = evaluation if at_once else kind.make(settings, output, True)
        print(files.dumps(kind.headline(judge(evaluation, output)), indent=1))
    if stage in ("report", "all") and kind.report is not None:
        path = kind.report(output, arms)
        print(f"report: {path}", file=sys.stderr)
    elif stage == "inspect" and kind.inspect is not None:
        print(f"log: {kind.inspect(output)}", file=sys.stderr)
    elif stage in ("report", "inspect"):
        raise UserError(f"--stage={stage}: there is none for --kind={resolved['kind']}")


def _arms(words: list[str], output: pathlib.Path) -> dict[str, list[pathlib.Path]]:
    """ "a:x+y,b:z" as {"a": [x, y], "b": [z]}; without words the output alone."""
    arms: dict[str, list[pathlib.Path]] = {}
    for word in words:
        name, _, folders = word.partition(":")
        if not name or not folders or name in arms:
            raise UserError(f"--arms: {word!r} is not NAME:DIR[+DIR...] with a name of its own")
        arms[name] = [pathlib.Path(folder) for folder in folders.split("+")]
    return arms or {output.resolve().name: [output]}


if __name__ == "__main__":
    NAMES = define_flags()
    command.run(lambda: evaluate(resolved_settings(NAMES)), config=False)
