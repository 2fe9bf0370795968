"""Compile the programs of a study ahead of time, for devices that are not here.

    # takes minutes, needs libtpu
    python -m msm_jax.study.compile --config=configs/paper/fig4.py:qwen3-32b --topology=v5p:2x2x1 \\
        --config.train.accumulation=4
    # takes minutes
    python -m msm_jax.study.compile --config=configs/paper/fig2.py --mesh=4 --layers=1 \\
        --config.train.accumulation=4

Lists every different training step, decoding step and computation of a loss that the stages and
evaluations of the study run, then compiles each of them as `msm_jax.compile` does. No data, weights
or tokenizer are read. --layers=N compiles N layers instead of all, which takes a fraction of the
time and shows nothing about memory. --json=FILE keeps the figures of each program as soon as it is
compiled, and no program that FILE has is compiled again: several studies can share it.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from typing import Any

from absl import flags
from ml_collections import ConfigDict

from msm_jax import command
from msm_jax.errors import UserError
from msm_jax.evals.kinds import KINDS
from msm_jax.files import read_json, write_json
from msm_jax.model import PRESETS
from msm_jax.outputs import output_file
from msm_jax.study import evaluations, graph
from msm_jax.train import aot
from msm_jax.train.config import EIGHT_BITS, STAGE
from msm_jax.train.optimizer import RATES
from msm_jax.train.stage import OURS
from msm_jax.train.targets import devices_for

FIGURES = [{"identity": str, "text": str, "error": str, "studies": [str]}]  # of the file of --json


@dataclasses.dataclass
class Program:
    """One program to compile.

    Attributes:
      kind: "train", "decode", "scores" (log-probabilities of given answers) or "loss".
      config: of a stage, with the preset of the base.
      rows: at a time, of all but "train".
      tokens: of a row, of "loss".
      uses: the stages or evaluations that run it.
    """

    kind: str
    config: ConfigDict
    rows: int
    tokens: int
    uses: list[str]

    def line(self) -> str:
        """ "decode (64 rows): agents, questions"."""
        more = f" of {self.tokens:,} tokens" if self.tokens else ""
        size = f" ({self.rows} rows{more})" if self.rows else ""
        return f"{self.kind}{size}: {', '.join(self.uses)}"

    def identity(self) -> str:
        """Equal for two programs that are the same, as JSON."""
        config, names = json.loads(self.config.to_json()), ["model"]
        if self.kind == "train":
            names += ["rows", "accumulation", "sequence_length", "trainable", "mesh", "optimizer"]
            for name in RATES:
                del config["optimizer"][name]
        else:
            config["model"]["remat"] = "none"
        return json.dumps([self.kind, self.rows, self.tokens, [config[name] for name in names]])

    def compile(self, devices: Sequence[Any], slots: int) -> aot.Report:
        """Compiles it; UserError if it cannot be sharded or does not fit."""
        if self.kind == "train":
            return aot.compile_step(self.config, devices)
        if self.kind == "decode":
            return aot.compile_decode(self.config, devices, self.rows, slots)
        if self.kind == "scores":
            return aot.compile_scores(self.config, devices, self.rows, slots // 4)
        return aot.compile_loss(self.config, devices, self.rows, self.tokens)


def programs(config: ConfigDict, preset: str = "", layers: int = 0) -> list[Program]:
    """The different programs that a study runs.

    Args:
      preset: the shape of its base; "": the one that the base's directory is named after.
      layers: in place of the model's own number; 0: all.

    Raises:
      UserError: a config that is wrong, or a base of unknown shape.
    """
    tree = graph.complete(config)
    preset = preset or _preset(tree["base"]["path"])
    with_shape = lambda stage: _with_shape(stage, tree, preset, layers)
    stages = {name: with_shape(graph.stage_config(tree, name)) for name in tree["stages"]}
    base = with_shape(STAGE.fill(tree["train"]))
    base.model.lora_rank = 0
    if tree["base"]["path"] and base.model.param_dtype not in EIGHT_BITS:
        base.model.update({"dtype": "bfloat16", "param_dtype": "bfloat16"})  # as it is published
    found: dict[str, Program] = {}

    def add(stage: ConfigDict, use: str, kind: str, rows: int = 0, tokens: int = 0) -> None:
        new = Program(kind, stage, rows, tokens, [])
        uses = found.setdefault(new.identity(), new).uses
        if use not in uses:
            uses.append(use)

    for path in tree["arms"].values():
        for name in path:
            add(stages[name], name, "train")
    for name in tree["evals"]:
        settings = {**evaluations.resolved(tree, name), "kind": evaluations.kind_of(tree, name)}
        for arm in evaluations.arms_of(tree, name):
            path = tree["arms"][arm]
            stage, use = (stages[path[-1]], name) if path else (base, f"{name} of the base")
            for program in _asked(settings):
                add(stage, use, *program)
    return list(found.values())


def _asked(settings: dict) -> Iterator[tuple[str, int, int]]:
    """What an evaluation runs."""
    if settings["kind"] == "loss":
        yield "loss", settings["rows"], settings["sequence_length"]
        return
    ways = settings.get("scorers") or KINDS[settings["kind"]].keys
    if "logprob" in ways or settings["kind"] == "quiz":
        yield "scores", settings["rows"], 0
    if "generated" in ways or "max_tokens" in ways:
        yield "decode", settings["rows"], 0


def _preset(path: str) -> str:
    """The published model that a directory such as "Qwen2.5-32B-Instruct" is named after."""
    name = path.rstrip("/").rpartition("/")[2].lower()
    known = [preset for preset in PRESETS if name.startswith(preset)]
    if path and not known:
        raise UserError(
            f"config.base.path={path}: is not named after a model whose shape is known: give "
            f"--preset=NAME with one of {', '.join(PRESETS)}"
        )
    return max(known, key=len, default="")


def _with_shape(stage: dict, tree: dict, preset: str, layers: int) -> ConfigDict:
    """The config of a stage with the shape of its base."""
    config = ConfigDict(stage)
    model = config.model
    if model.preset in ("", "parent") and tree["base"]["path"]:
        model.preset = preset
    elif not model.vocab_size:
        model.vocab_size = tree["tokenizer"]["vocab_size"]
    if layers and model.preset:
        shape = dataclasses.asdict(PRESETS[model.preset])
        model.update({key: shape[key] for key in model if key in shape and key not in OURS})
        model.preset = ""
    model.layers = layers or model.layers
    return config


def main() -> None:
    """The command."""
    given = flags.FLAGS
    file = output_file(given.json, "--json") if given.json else None
    found = programs(given.config, given.preset, given.layers)
    print(f"{len(found)} programs", *(f"  {each.line()}" for each in found), sep="\n", flush=True)
    devices = devices_for(given.topology, given.mesh)
    if given.mesh:
        for each in found:
            each.config.model.attention = "auto"
    where = given.topology or str(given.mesh)
    entries = compile_all(found, devices, where, given.slots, given.config.name, file)
    if wrong := [entry["error"] for entry in entries if entry["error"]]:
        raise UserError("; ".join(wrong))


def compile_all(
    found: Sequence[Program],
    devices: Sequence[Any],
    where: str,
    slots: int,
    study: str,
    file: str | os.PathLike | None = None,
) -> list[dict]:
    """Compiles and prints every program: its figures as JSON with "error", "" if it fits.

    Args:
      where: a name of the devices.
      study: its name, which the entries list.
      file: keeps the entries; a program that is in it is not compiled again.
    """
    done = {entry["identity"]: entry for entry in (file and read_json(file, FIGURES)) or []}
    entries = []
    for each in found:
        text = f"{where}, {slots}, {each.identity()}"
        identity = hashlib.sha256(text.encode()).hexdigest()
        if identity not in done:
            new = {"identity": identity, "studies": [], **_outcome(each, devices, slots)}
            done[identity] = new
        entry = done[identity]
        if study not in entry["studies"]:
            entry["studies"].append(study)
        if file:
            write_json(file, [*done.values()])
        print(entry["text"], flush=True)
        entries.append(entry)
    return entries


def _outcome(program: Program, devices: Sequence[Any], slots: int) -> dict:
    """What compiling a program found: its figures, the text to print, and what is wrong or ""."""
    model = program.config.model
    named = {"kind": program.kind, "preset": model.preset, "lora_rank": model.lora_rank}
    try:
        report = program.compile(devices, slots)
    except UserError as error:
        return {**named, "text": f"{program.line()}: {error}", "error": str(error)}
    text, error = "\n".join(report.lines()), ""
    try:
        aot.check_fits([report])
    except UserError as found:
        error = str(found)
    return {**named, **report.figures(), "text": text, "error": error}


if __name__ == "__main__":
    flags.DEFINE_string("topology", "", "A TPU topology (v6e:2x4) or slice (v6e-8).")
    flags.DEFINE_integer("mesh", 0, "Number of fake CPU devices to compile for instead.")
    flags.DEFINE_string(
        "preset", "", "Shape of the base; by default the one that its directory is named after."
    )
    flags.DEFINE_integer("layers", 0, "Layers to compile instead of all; 0 is all.")
    flags.DEFINE_integer("slots", 4096, "Tokens of the decoding step's prompts.")
    flags.DEFINE_string("json", "", "File that keeps the figures as JSON.")
    command.run(main)
