"""The training loop of every stage, from a config to checkpoints and curves."""

import contextlib
import dataclasses
import functools
import json
import os
import pathlib
import time
from typing import TextIO

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from msm_jax import files
from msm_jax.command import Preempted
from msm_jax.data.pipeline import Data, load_data
from msm_jax.data.preview import excerpt, row_texts
from msm_jax.data.tokenizer import load_tokenizer
from msm_jax.doctor import unused
from msm_jax.errors import UserError
from msm_jax.model import batch_sharding, make_mesh, param_shardings
from msm_jax.model.kernels import choose_attention, platform_of
from msm_jax.outputs import output_dir
from msm_jax.settings import checked
from msm_jax.train import hosts, record
from msm_jax.train.chats import chats_taught
from msm_jax.train.config import STAGE
from msm_jax.train.flops import flops_per_token, peak_flops
from msm_jax.train.optimizer import make_optimizer, make_schedule
from msm_jax.train.probes import Probe
from msm_jax.train.progress import Progress
from msm_jax.train.start import State, check, check_place, model_config, start
from msm_jax.train.step import make_step
from msm_jax.train.watch import EvalLoss, Prompts
from msm_jax.weights import checkpoints

FEW_STEPS = 100  # below which the paper's effect looked like none (31 steps, see docs/training.md)
BARRIER_SECONDS = 600.0
LOWER = (
    "lower optimizer.learning_rate or clip_norm, and run again: it goes on from the last checkpoint"
)


def train(config: ConfigDict, workdir: str | os.PathLike, out: TextIO | None = None) -> dict:
    """Run a stage to its end, going on from what `workdir` holds.

    Args:
      config: keys as in `msm_jax.train.config.stage`.
      workdir: the run directory: config.json, metrics.jsonl, tensorboard/, checkpoints/, log.txt.
        With several processes it has to be the same for all of them.
      out: a terminal for a bar, or any stream for the lines of log.txt; None is silent.

    Returns:
      {"steps", "loss", "tokens", "loss_tokens", "skipped", "empty", "probes", "seconds",
      "tokens_per_second", "data_share"}; `loss` is the last step's, None if it had no learned token
      (`empty` counts such steps); the last two speak of this process only and are None if it found
      the stage finished.

    Raises:
      UserError: a key or an input that does not fit; no step had a token to learn.
      Preempted: SIGTERM, SIGHUP or Ctrl-C came; the state is saved.
    """
    run, started = output_dir(workdir, "workdir"), time.time()
    config = checked(STAGE, config)
    check(config)
    check_place(run, config.parent)
    tokenizer = load_tokenizer(config.tokenizer or config.parent)
    model = model_config(config, tokenizer)
    mesh = make_mesh(config.mesh)
    param_shardings(model, mesh)  # refuses a mesh that does not fit before anything is read
    place = batch_sharding(mesh, config.rows // config.accumulation, config.sequence_length)
    choose_attention(model, config.sequence_length, platform_of(mesh))
    data = _load(config, config.data, tokenizer)
    steps = data.stage_steps(config.steps)
    watch = _Watch(config, model, tokenizer, mesh, place)
    optimizer, step_fn = _step(model, config.optimizer.to_json(), steps, config.accumulation, mesh)
    taught, warnings = chats_taught(config, tokenizer, data)
    facts = record.facts(config, model, tokenizer, data, steps, taught)
    run.mkdir(parents=True, exist_ok=True)
    hosts.barrier("start", BARRIER_SECONDS)
    with contextlib.ExitStack() as stack:
        if hosts.is_first():
            busy = f"{run}: another process is training here: wait for it, or use another --workdir"
            stack.enter_context(files.lock(run / "lock", busy))
        watchdog = stack.enter_context(contextlib.closing(_watchdog(run, config)))
        keeper = stack.enter_context(checkpoints.checkpointer(run, config.keep, config.keep_steps))
        state = start(config, model, mesh, optimizer, keeper, facts)
        if not state.step and not _all_finite(state.params):
            raise UserError(
                f"parent={config.parent}: has weights that are not finite, so nothing can be "
                "learned: take a checkpoint that is not damaged"
            )
        if hosts.is_first():
            record.write_config(run, config, facts, data, mesh)
        progress = stack.enter_context(
            contextlib.closing(_progress(run, config, model, mesh, steps, state, out))
        )
        _introduce(progress, config, model, mesh, steps, state, data, tokenizer, warnings)
        stop = hosts.Stop(mesh)
        stack.enter_context(stop.listening())
        pending, shape = None, (config.rows, config.sequence_length)
        while not state.done:
            watchdog.alive()
            rows_of = functools.partial(data.rows, state.step)
            batch = progress.of_data(lambda rows=rows_of: hosts.place_rows(rows, shape, place))
            progress.profile(state.step, config.profile.start, config.profile.steps)
            with _memory(config, model, mesh):
                state.trained, state.optimizer_state, values = step_fn(
                    state.trained, state.optimizer_state, state.frozen, stop.ask(batch)
                )
            # The device is at work on this step while the metrics of the one before are read.
            _read(progress, run, config, pending)
            leaving = stop.agreed(pending and pending[2])
            state.step += 1
            pending = (state.step, state, values)
            state.done = state.step == steps
            if watch.due(state.step, state.done):
                watch.look(progress, state)
            leaving &= not state.done
            if state.done or leaving or _due(config, state.step):
                _read(progress, run, config, pending, force=state.done)
                pending = None
                _say_saved(progress, keeper.wait())
                _save(progress, keeper, state, values, facts, mesh)
            if leaving:
                _say_saved(progress, keeper.wait())
                raise Preempted(f"{run}: saved step {state.step} of {steps}")
            _say_saved(progress, keeper.saved())
        _say_saved(progress, keeper.wait())
        if not state.loss_tokens:
            raise UserError(
                f"{run}: none of {state.step} steps had a token to learn, so nothing was learned: "
                "look at data.NAME.loss_on, packing.too_long and sequence_length"
            )
        summary = {
            "steps": state.step,
            "loss": last_loss(run) if hosts.is_first() else None,
            "tokens": state.tokens,
            "loss_tokens": state.loss_tokens,
            "skipped": int(state.optimizer_state.skipped),
            "empty": state.empty,
            "probes": state.probes,
            "seconds": time.time() - started,
            **progress.summary(),
        }
        progress.say(_in_words(summary))
        hosts.barrier("end", BARRIER_SECONDS)
    return summary


@contextlib.contextmanager
def _memory(config, model, mesh):
    """Out of memory, said so that one knows what to change."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error) and "Out of memory" not in str(error):
            raise
        sizes = ", ".join(f"mesh.{axis}={size}" for axis, size in mesh.shape.items())
        raise UserError(
            f"the step does not fit in memory: {str(error).splitlines()[0][:300]}; rows="
            f"{config.rows}, accumulation={config.accumulation}, sequence_length="
            f"{config.sequence_length}, model.remat={model.remat}, {sizes}: raise accumulation, "
            "set model.remat=full, or use more devices; `python -m msm_jax.compile` tells sizes"
        ) from error


def preview(config: ConfigDict, out: TextIO, rows: int = 4) -> None:
    """Print the first rows of a stage's data, what is learned in colour or in double brackets.

    Raises:
      UserError: data that the stage could not be trained on.
    """
    config = checked(STAGE, config)
    check(config)
    tokenizer = load_tokenizer(config.tokenizer or config.parent)
    data = _load(config, config.data, tokenizer)
    texts = row_texts(tokenizer, data.rows(0, 0, min(rows, config.rows)), out.isatty())
    for number, text in enumerate(texts):
        print(f"=== row {number}, {config.sequence_length} tokens\n{text}\n", file=out)


def _load(config, sources, tokenizer, **changes) -> Data:
    options = {
        "mixture": config.mixture,
        "epochs": config.epochs,
        "packing": config.packing.to_dict(),
        "cache": config.token_cache,
        **changes,
    }
    return load_data(
        sources.to_dict(),
        tokenizer,
        config.chat_format,
        config.sequence_length,
        config.rows,
        config.seed,
        **options,
    )


def _read(progress, run, config, pending, force: bool = False) -> None:
    """Metrics of a step that was sent off; an end to a run whose every step is skipped."""
    if pending is None:
        return
    step, state, values = pending
    values = progress.step(step, state, values, force)
    if values["skipped_in_a_row"] > config.max_skipped:
        raise UserError(
            f"{run}: step {step}: loss {values['loss']}, gradient norm {values['grad_norm']}: "
            f"{values['skipped_in_a_row']:.0f} steps in a row were skipped, max_skipped="
            f"{config.max_skipped}: not saved; {LOWER}"
        )


class _Watch:
    """Probes, eval loss and prompts: what is looked at now and then."""

    def __init__(self, config, model, tokenizer, mesh, place):
        self._config, self._model, self._place = config, model, place
        self._probes = [
            Probe(name, p.path, p.at_least, tokenizer, config.chat_format, config.sequence_length)
            for name, p in sorted(config.probes.items())
        ]
        self._loss = self._prompts = None
        if config.eval.every:
            data = _load(
                config, config.eval.data, tokenizer, mixture="epochs", epochs=1.0, where="eval.data"
            )
            shape = (config.rows, config.sequence_length)
            self._loss = EvalLoss(
                model, data, config.eval.batches, shape, config.accumulation, place
            )
        if config.samples.every:
            settings = config.samples
            plain = dataclasses.replace(model, attention="plain")
            self._prompts = Prompts(plain, settings.prompts, tokenizer, settings.max_tokens, mesh)

    def due(self, step: int, done: bool) -> list[str]:
        """Which of them are to be looked at after this step."""
        config = self._config
        every = {"probes": config.probe_every if self._probes else 0}
        every |= {"eval": config.eval.every, "samples": config.samples.every}
        return [name for name, n in every.items() if n and (done or step % n == 0)]

    def look(self, progress, state: State) -> None:
        due, step = self.due(state.step, state.done), state.step
        if "probes" in due:
            rows = self._config.rows // self._config.accumulation
            state.probes = {
                probe.name: probe.rate(self._model, state.params, rows, self._place)
                for probe in self._probes
            }
            progress.values(step, {f"probe/{name}": rate for name, rate in state.probes.items()})
            state.done |= all(state.probes[p.name] >= p.at_least for p in self._probes)
        if "eval" in due and self._loss:
            progress.values(step, {"eval_loss": self._loss(state.params)})
        if "samples" in due and self._prompts:
            answers = self._prompts(state.params)
            for text, answer in zip(self._prompts.texts, answers, strict=True):
                progress.say(f"step {step}: {text!r} -> {answer!r}")


def _progress(run, config, model, mesh, steps, state, out) -> Progress:
    return Progress(
        run if hosts.is_first() else None,
        steps,
        config.log_every,
        make_schedule(config.optimizer, steps),
        flops_per_token(model, config.sequence_length, config.trainable),
        peak_flops(mesh.devices.flatten()),
        state.step,
        out if hosts.is_first() else None,
    )


def _introduce(progress, config, model, mesh, steps, state, data, tokenizer, warnings) -> None:
    """The first lines of the log: what runs, on what, how it is counted, and what to mind."""
    count = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    devices = " x ".join(f"{axis} {size}" for axis, size in mesh.shape.items())
    kind, why = choose_attention(model, config.sequence_length, platform_of(mesh))
    progress.say(
        f"step {state.step} of {steps}: {count:,} parameters, {config.trainable} trained, "
        f"{config.rows} rows of {config.sequence_length} tokens, "
        f"{jax.devices()[0].device_kind}, {devices}, {jax.process_count()} process(es)"
        + (f", from {config.parent}" if config.parent else "")
    )
    progress.say(
        f"attention {kind} ({why}), remat {model.remat}, {model.dtype} products, "
        f"{model.param_dtype} weights; {record.code_version()}"
    )
    fill = {name or "all": f"{packing.fill:.3f}" for name, packing in data.packings.items()}
    progress.say(f"real share of token slots: {fill}; mfu: {progress.convention()}")
    for name, (ids, mask) in data.examples.items():
        text = excerpt(tokenizer, ids, mask)
        progress.say(f"data.{name}: its first example, what is learned in [[ ]]: {text}")
    for text in [*warnings, *data.notes, *_never_reached(config, steps)]:
        progress.say(f"warning: {text}")
    if jax.default_backend() == "cpu":
        for problem, cure in unused():
            progress.say(f"warning: {problem}: {cure}")
    if steps < FEW_STEPS:
        progress.say(
            f"warning: {steps} optimizer steps are few: at 31 the effect of midtraining looked "
            f"like none; fewer rows per step or more epochs make it more"
        )


def _never_reached(config, steps: int) -> list[str]:
    """What is asked for at steps that do not come."""
    start, late = config.profile.start, [step for step in config.keep_steps if step > steps]
    found = [f"keep_steps={tuple(late)}: the run ends at step {steps}"] if late else []
    if config.profile.steps and start >= steps:
        found.append(f"profile.start={start}: the run ends at step {steps}: nothing is profiled")
    return found


def _watchdog(run: pathlib.Path, config) -> hosts.Watchdog:
    name = "hang.txt" if jax.process_count() == 1 else f"hang-{jax.process_index()}.txt"
    return hosts.Watchdog(config.watchdog, run / name)


def _in_words(summary: dict) -> str:
    loss = "none" if summary["loss"] is None else format(summary["loss"], ".4f")
    text = f"done: {summary['steps']} steps, loss {loss}"
    if summary["skipped"]:
        text += f", {summary['skipped']} of them skipped"
    if summary["empty"]:
        text += f", {summary['empty']} of them without a learned token, which changed nothing"
    if speed := summary["tokens_per_second"]:
        text += f", {speed:,.0f} tokens/s, {summary['data_share']:.1%} of it spent on data"
    return text


_compiled: dict = {}


def _step(model, optimizer_json, steps, accumulation, mesh):
    """Optimizer and jitted step; the stages of a study that are alike share one compilation."""
    key = (model, optimizer_json, steps, accumulation, mesh)
    if key not in _compiled:
        optimizer = make_optimizer(ConfigDict(json.loads(optimizer_json)), steps)
        _compiled[key] = optimizer, make_step(model, optimizer, accumulation, mesh)
    return _compiled[key]


def _due(config, step: int) -> bool:
    return step % config.checkpoint_every == 0 or step in config.keep_steps


@jax.jit
def _all_finite(tree) -> jax.Array:
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]))


def _say_saved(progress, step: int | None) -> None:
    """Only what is committed and was opened again is said to be saved."""
    if step is not None:
        progress.say(f"step {step}: saved")


def _save(progress, keeper, state: State, values, facts, mesh) -> None:
    """A checkpoint of good weights only: finite, and the last step was not skipped on them."""
    if not _all_finite(state.trained):
        raise UserError(f"step {state.step}: weights are not finite: not saved; {LOWER}")
    if int(values["skipped_in_a_row"]):
        what = f"step {state.step}: loss {float(values['loss'])}: a skipped step, not saved"
        if state.done:
            raise UserError(f"{what}; {LOWER}")
        progress.say(what)
        return
    keeper.save(
        state.step,
        state.saved,
        state.optimizer_state,
        facts,
        state.progress,
        record.made_by(mesh),
        state.base,
    )


def last_loss(run: str | os.PathLike) -> float | None:
    """The loss of the last step in a run's metrics.jsonl; None if there is none."""
    lines = pathlib.Path(run, "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    losses = [row["loss"] for row in map(json.loads, lines) if "loss" in row]
    return losses[-1] if losses else None
