"""The training loop of every stage, from a config to checkpoints and curves."""

import contextlib
import dataclasses
import json
import math
import os
import pathlib
import platform
import shutil
import signal
import time
from typing import Any, TextIO

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from msm_jax import __version__
from msm_jax.command import Preempted
from msm_jax.data.pipeline import Data, load_data
from msm_jax.data.tokenizer import (
    HF_TOKENIZER_FILE,
    TOKENIZER_FILE,
    Tokenizer,
    load_tokenizer,
    tokenizer_file,
)
from msm_jax.errors import UserError
from msm_jax.model import ModelConfig, batch_sharding, init_params, make_mesh, param_shardings
from msm_jax.train.flops import flops_per_token, peak_flops
from msm_jax.train.optimizer import (
    join_params,
    make_optimizer,
    make_schedule,
    optimizer_shardings,
    split_params,
)
from msm_jax.train.probes import Probe
from msm_jax.train.progress import Progress
from msm_jax.train.step import make_step
from msm_jax.weights import checkpoints


@dataclasses.dataclass
class State:
    """What a checkpoint holds. `step` is also the position in the data."""

    step: int
    trained: dict
    frozen: dict
    optimizer_state: Any
    tokens: int = 0
    probes: dict = dataclasses.field(default_factory=dict)
    done: bool = False

    @property
    def params(self) -> dict:
        return join_params(self.trained, self.frozen)


def train(config: ConfigDict, workdir: str | os.PathLike, out: TextIO | None = None) -> dict:
    """Run a stage to its end, going on from what `workdir` holds.

    Args:
      config: keys as in `msm_jax.train.config.stage`.
      workdir: the run directory: config.json, metrics.jsonl, tensorboard/, checkpoints/, log.txt.
      out: a terminal for a bar, or any stream for the lines of log.txt; None is silent.

    Returns:
      {"steps", "loss", "tokens", "probes", "seconds", "tokens_per_second", "data_share"};
      the last two speak of this process only and are None if it found the stage finished.

    Raises:
      UserError: an input that does not fit.
      Preempted: SIGTERM came; the state is saved.
    """
    run, started = pathlib.Path(workdir), time.time()
    _check(config)
    tokenizer = load_tokenizer(config.tokenizer)
    model = model_config(config, tokenizer)
    mesh = make_mesh(config.mesh)
    param_shardings(model, mesh)  # refuses a mesh that does not fit before anything is read
    place = batch_sharding(mesh, config.rows // config.accumulation)
    data = load_data(
        config.data, tokenizer, config.chat_format, config.sequence_length, config.rows, config.seed
    )
    probes = [
        Probe(name, p.path, p.at_least, tokenizer, config.chat_format, config.sequence_length)
        for name, p in sorted(config.probes.items())
    ]
    optimizer, step_fn = _step(
        model, config.optimizer.to_json(), config.steps, config.accumulation, mesh
    )
    facts = _facts(config, model, tokenizer, data)
    run.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        keeper = stack.enter_context(checkpoints.checkpointer(run, config.keep, config.keep_steps))
        state = _start(config, model, mesh, optimizer, keeper, facts)
        _write_config(run, config, model, tokenizer, data)
        progress = stack.enter_context(
            contextlib.closing(_progress(run, config, model, mesh, state, out))
        )
        asked_to_stop = stack.enter_context(_signals())
        pending = None
        while not state.done:
            batch = progress.of_data(lambda: data.batches[state.step])
            state.trained, state.optimizer_state, values = step_fn(
                state.trained, state.optimizer_state, state.frozen, _placed(batch, place)
            )
            # The device is at work on this step while the metrics of the one before are read.
            progress.step(pending)
            _refuse_to_diverge(run, config, pending)
            state.step += 1
            state.tokens += int(np.count_nonzero(batch["segment_ids"]))
            pending = (state.step, state.tokens, values)
            state.done = state.step == config.steps
            if probes and (state.done or state.step % config.probe_every == 0):
                state.probes = {
                    probe.name: probe.rate(model, state.params, config.rows) for probe in probes
                }
                progress.probes(state.step, state.probes)
                state.done |= all(state.probes[p.name] >= p.at_least for p in probes)
            stop = bool(asked_to_stop) and not state.done
            if state.done or stop or _due(config, state.step):
                progress.step(pending, force=state.done)
                pending = None
                progress.say(_save(keeper, state, values, facts))
            if stop:
                raise Preempted(f"{run}: saved step {state.step} of {config.steps}")
        summary = {
            "steps": state.step,
            "loss": last_loss(run),
            "tokens": state.tokens,
            "probes": state.probes,
            "seconds": time.time() - started,
            **progress.summary(),
        }
        progress.say(_in_words(summary))
    return summary


def _progress(run, config, model, mesh, state, out) -> Progress:
    progress = Progress(
        run,
        config.steps,
        config.log_every,
        make_schedule(config.optimizer, config.steps),
        flops_per_token(model, config.sequence_length, config.trainable),
        peak_flops(mesh.devices.flatten()),
        state.step,
        out,
    )
    count = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    devices = " x ".join(f"{axis} {size}" for axis, size in mesh.shape.items())
    progress.say(
        f"step {state.step} of {config.steps}: {count:,} parameters, {config.trainable} trained, "
        f"{config.rows} rows of {config.sequence_length} tokens, "
        f"{jax.devices()[0].device_kind}, {devices}"
        + (f", from {config.parent}" if config.parent else "")
    )
    return progress


def _in_words(summary: dict) -> str:
    text = f"done: {summary['steps']} steps, loss {summary['loss']:.4f}"
    if speed := summary["tokens_per_second"]:
        text += f", {speed:,.0f} tokens/s, {summary['data_share']:.1%} of it spent on data"
    return text


def _placed(batch: dict, place) -> dict:
    """The batch on its devices; a single one fetches it faster by itself."""
    return batch if place.mesh.size == 1 else jax.device_put(batch, place)


def model_config(config: ConfigDict, tokenizer: Tokenizer) -> ModelConfig:
    """The model of a stage; UserError where the tokenizer has more ids than the model has rows."""
    fields = dict(config.model)
    fields["vocab_size"] = fields["vocab_size"] or tokenizer.vocab_size
    if fields["vocab_size"] < tokenizer.vocab_size:
        raise UserError(
            f"model.vocab_size={fields['vocab_size']} but {config.tokenizer} has "
            f"{tokenizer.vocab_size} ids: set it to 0 to follow the tokenizer"
        )
    return ModelConfig(**fields)


def _check(config: ConfigDict) -> None:
    """Impossible combinations, before anything is read."""
    if config.steps < 1:
        raise UserError(f"steps={config.steps}: must be at least 1")
    if config.accumulation < 1 or config.rows % config.accumulation:
        raise UserError(
            f"rows={config.rows} cannot be cut into accumulation={config.accumulation} equal parts"
        )
    if config.parent and not checkpoints.directory(config.parent).is_dir():
        raise UserError(f"parent={config.parent}: has no checkpoints; give a run directory")
    for name in ("probe_every", "checkpoint_every", "log_every", "keep", "sequence_length", "rows"):
        if config[name] < 1:
            raise UserError(f"{name}={config[name]}: must be at least 1")
    if config.probes and config.optimizer.schedule != "constant":
        raise UserError(
            f"probes end the stage early, so optimizer.schedule={config.optimizer.schedule!r} "
            'would be cut off: use "constant", or remove the probes'
        )


_compiled: dict = {}


def _step(model, optimizer_json, steps, accumulation, mesh):
    """Optimizer and jitted step; the stages of a study that are alike share one compilation."""
    key = (model, optimizer_json, steps, accumulation, mesh)
    if key not in _compiled:
        optimizer = make_optimizer(ConfigDict(json.loads(optimizer_json)), steps)
        _compiled[key] = optimizer, make_step(model, optimizer, accumulation, mesh)
    return _compiled[key]


def _start(config, model, mesh, optimizer, keeper, facts) -> State:
    """The state to go on from; the first that exists:

    1. the newest checkpoint of this run
    2. the weights of the parent run, with a fresh optimizer
    3. fresh weights from the seed
    """
    params = _initial_params(config, model, mesh)
    trained, frozen = split_params(params, config.trainable)
    places = optimizer_shardings(optimizer, trained, mesh)
    optimizer_state = jax.jit(optimizer.init, out_shardings=places)(trained)
    found = keeper.restore(params, optimizer_state, facts)
    if found is None:
        return State(0, trained, frozen, optimizer_state)
    step, params, optimizer_state, progress = found
    trained, frozen = split_params(params, config.trainable)
    return State(step, trained, frozen, optimizer_state, **progress)


def _initial_params(config, model, mesh) -> dict:
    initialize = jax.jit(init_params, static_argnums=0, out_shardings=param_shardings(model, mesh))
    fresh = initialize(model, jax.random.key(config.seed))
    if not config.parent:
        return fresh
    parent_model, params, _ = checkpoints.load_params(config.parent, mesh=mesh)
    changed = {
        field.name: (getattr(parent_model, field.name), getattr(model, field.name))
        for field in dataclasses.fields(ModelConfig)
        if getattr(parent_model, field.name) != getattr(model, field.name)
        and not field.name.startswith("lora_")
        and field.name not in ("dtype", *checkpoints.RUNTIME_FIELDS)
    }
    if changed:
        raise UserError(
            f"parent {config.parent} has another model: "
            + ", ".join(
                f"{name} {theirs} there, {ours} here" for name, (theirs, ours) in changed.items()
            )
        )
    if parent_model.lora_rank not in (0, model.lora_rank):
        raise UserError(
            f"parent {config.parent} has an adapter of rank {parent_model.lora_rank}, this stage "
            f"asks for model.lora_rank={model.lora_rank}: merge it first, or use the same rank"
        )
    if model.lora_rank and not parent_model.lora_rank:
        # The parent has no adapter: a fresh one joins its weights.
        adapter, _ = split_params(fresh, "lora")
        return join_params(params, adapter)
    return params


def _due(config, step: int) -> bool:
    return step % config.checkpoint_every == 0 or step in config.keep_steps


def _refuse_to_diverge(run, config, pending) -> None:
    """An end to a run whose every step is skipped."""
    if pending is None or int(pending[2]["skipped_in_a_row"]) <= config.max_skipped:
        return
    step, _, values = pending
    raise UserError(
        f"{run}: step {step}: loss {float(values['loss'])}, gradient norm "
        f"{float(values['grad_norm'])}: {int(values['skipped_in_a_row'])} steps in a row were "
        f"skipped, max_skipped={config.max_skipped}; {LOWER}"
    )


LOWER = (
    "lower optimizer.learning_rate or clip_norm, and run again: it goes on from the last checkpoint"
)


@jax.jit
def _all_finite(tree) -> jax.Array:
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]))


def _save(keeper, state: State, values, facts) -> str:
    """A checkpoint of good weights only: finite, and the last step was not skipped on them."""
    if not _all_finite(state.trained):
        raise UserError(f"step {state.step}: weights are not finite: not saved; {LOWER}")
    if int(values["skipped_in_a_row"]):
        what = f"step {state.step}: loss {float(values['loss'])}: a skipped step, not saved"
        if state.done:
            raise UserError(f"{what}; {LOWER}")
        return what
    progress = {"tokens": state.tokens, "probes": state.probes, "done": state.done}
    keeper.save(state.step, state.params, state.optimizer_state, facts, progress)
    return f"step {state.step}: saved"


def last_loss(run: str | os.PathLike) -> float:
    """The last loss in a run's metrics.jsonl; NaN if it has none."""
    lines = pathlib.Path(run, "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    losses = [row["loss"] for row in map(json.loads, lines) if "loss" in row]
    return losses[-1] if losses else math.nan


def _facts(config, model, tokenizer, data: Data) -> dict:
    """What a checkpoint has to agree with for the run to go on bit for bit."""
    return {
        "model": checkpoints.model_facts(model),
        "tokenizer": tokenizer.fingerprint,
        "data": data.fingerprint,
        "seed": config.seed,
        "steps": config.steps,
        "trainable": config.trainable,
        "accumulation": config.accumulation,
        "optimizer": config.optimizer.to_dict(),
    }


def _write_config(run: pathlib.Path, config, model, tokenizer, data: Data) -> None:
    """config.json: everything that made this run, with absolute paths."""
    record = json.loads(config.to_json())
    record["tokenizer"] = os.path.abspath(config.tokenizer)
    _copy_tokenizer(tokenizer_file(config.tokenizer), run)
    record["resolved_model"] = checkpoints.model_facts(model)
    record["tokenizer_sha256"] = tokenizer.fingerprint
    record["data_fingerprint"] = data.fingerprint
    record["corpora"] = {
        name: {
            "documents": packed.documents,
            "tokens": packed.tokens,
            "loss_tokens": packed.loss_tokens,
            "rows": len(packed.tokens_NT),
            "fill": round(packed.fill, 4),
        }
        for name, packed in data.sources.items()
    }
    record["versions"] = {
        "msm_jax": __version__,
        "jax": jax.__version__,
        "python": platform.python_version(),
        "device": jax.devices()[0].device_kind,
    }
    aside = run / "config.json.partial"
    aside.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    os.replace(aside, run / "config.json")


def _copy_tokenizer(source: pathlib.Path, run: pathlib.Path) -> None:
    """Beside the weights, so that a run can be moved or published."""
    target = run / (HF_TOKENIZER_FILE if source.suffix == ".json" else TOKENIZER_FILE)
    aside = target.with_suffix(".partial")
    shutil.copyfile(source, aside)
    os.replace(aside, target)


@contextlib.contextmanager
def _signals():
    """A list that is no longer empty once SIGTERM has come; a second one ends the process."""
    received: list[int] = []

    def handle(number, frame):
        if received:
            os._exit(143)
        received.append(number)

    try:
        before = signal.signal(signal.SIGTERM, handle)
    except ValueError:  # not in the main thread: whoever runs us there handles signals
        yield received
        return
    try:
        yield received
    finally:
        signal.signal(signal.SIGTERM, before)
