"""The training loop of every stage, from a config to checkpoints and curves."""

import contextlib
import functools
import json
import os
import pathlib
import time
from collections.abc import Iterator
from typing import Any, TextIO

import jax
from ml_collections import ConfigDict

from msm_jax.accelerators import unused
from msm_jax.command import Preempted
from msm_jax.data.preview import excerpt, row_texts
from msm_jax.errors import UserError
from msm_jax.files import lock, read_jsonl
from msm_jax.model import ModelConfig, param_shardings
from msm_jax.model.kernels import choose_attention, describe_attention, platform_of
from msm_jax.outputs import output_dir
from msm_jax.provenance import code_version
from msm_jax.train import hosts, record
from msm_jax.train.config import FEW_STEPS, METRICS
from msm_jax.train.evaluations import Evaluations
from msm_jax.train.metrics import LOWER, Metrics
from msm_jax.train.optimizer import RATES, make_optimizer, make_schedule
from msm_jax.train.remat import settled
from msm_jax.train.stage import Stage, check_place
from msm_jax.train.start import State, all_finite, start
from msm_jax.train.step import make_step, step_arguments
from msm_jax.weights import checkpoints


def train(config: ConfigDict, workdir: str | os.PathLike, out: TextIO | None = None) -> dict:
    """Run a stage, as `config.stage` describes it, to its end, resuming from what `workdir` holds.

    Args:
      workdir: config.json, metrics.jsonl, tensorboard/, checkpoints/, log.txt; with several
        processes it has to be the same for all of them.
      out: a terminal for a bar, or any stream for the lines of log.txt; None is silent.

    Returns:
      {"steps", "loss", "tokens", "loss_tokens", "skipped", "empty", "probes", "seconds",
      "tokens_per_second", "data_share"}; `loss` is the last step's, None if it had no loss token
      (`empty` counts such steps); the last two are of this process only, and None if it found the
      stage finished.

    Raises:
      UserError: a key or an input that does not fit; no step had a loss token.
      Preempted: SIGTERM, SIGHUP or Ctrl-C came; the state is saved.
    """
    started, run, stage = time.time(), output_dir(workdir, "workdir"), Stage(config)
    config, shape = stage.config, (stage.config.rows, stage.config.sequence_length)
    # Whatever can be refused is refused before anything is written. The last line reads the data.
    check_place(run, config.parent)
    record.tokenizer_files(config)
    param_shardings(stage.model, stage.mesh)
    place = stage.place
    choose_attention(stage.model, config.sequence_length, platform_of(stage.mesh))
    _ = stage.steps, stage.held_out, stage.chats
    stage.model, why_remat = settled(stage.model, run, stage.mesh, lambda m: _lowered(stage, m))
    evaluations = Evaluations(stage)
    optimizer, step_fn = _step(stage, stage.model)
    facts = record.facts(stage)
    run.mkdir(parents=True, exist_ok=True)
    hosts.barrier("start")
    with contextlib.ExitStack() as stack:
        if hosts.is_first():
            busy = f"{run}: another process is training here: wait for it, or use another --workdir"
            stack.enter_context(lock(run / "lock", busy))
        alive = stack.enter_context(hosts.watchdog(config.watchdog, run))
        manager = stack.enter_context(checkpoints.checkpointer(run, config.keep, config.keep_steps))
        state = start(stage, optimizer, manager, facts)
        if hosts.is_first():
            record.write_config(run, stage, facts)
        metrics = Metrics(stage, run, state.step, out)
        stack.callback(metrics.close)
        _introduce(metrics, stage, state, why_remat)
        stop = stack.enter_context(hosts.StopRequest(stage.mesh).listening())
        schedule = hosts.replicated(make_schedule(config.optimizer, stage.steps), stage.mesh)
        # From here on arrays move between host and device only where the code says so.
        stack.enter_context(jax.transfer_guard("disallow"))
        unread: Any = None  # metrics of the step before, which the device may still compute
        for step in () if state.done else range(state.step + 1, stage.steps + 1):
            alive()
            with metrics.waiting_for_data():
                rows_of = functools.partial(stage.data.rows, state.step)
                batch = stop.add_to(hosts.place_rows(rows_of, shape, place))
            metrics.profile(state.step)
            with _out_of_memory(stage):
                state.trained, state.optimizer_state, values = step_fn(
                    state.trained, state.optimizer_state, state.frozen, batch, schedule
                )
            # The device works on this step while the host reads the metrics of the one before.
            stopping = stop.agreed(unread)
            if unread:
                metrics.read(step - 1, state, unread)
            unread, state.step, state.done = values, step, step == stage.steps
            with jax.transfer_guard("allow"):
                evaluations.run(state, metrics)
            last = stopping or state.done
            if last or step % config.checkpoint_every == 0 or step in config.keep_steps:
                metrics.read(step, state, unread, log=state.done)
                unread = None
                metrics.saved(manager.wait())
                with jax.transfer_guard("allow"):
                    _save(metrics, manager, state, values, facts, stage)
            metrics.saved(manager.wait() if last else manager.saved())
            if state.done:
                break
            if stopping:
                raise Preempted(f"{run}: saved step {step} of {stage.steps}")
        if not state.loss_tokens:
            raise UserError(
                f"{run}: none of {state.step} steps had a loss token, so nothing was learned: "
                "check data.NAME.loss_on, packing.too_long and sequence_length"
            )
        summary = {
            "steps": state.step,
            "loss": last_loss(run) if hosts.is_first() else None,
            "tokens": state.tokens,
            "loss_tokens": state.loss_tokens,
            "skipped": int(jax.device_get(state.optimizer_state.skipped)),
            "empty": state.empty,
            "probes": state.probes,
            "seconds": time.time() - started,
            **metrics.speed(),
        }
        metrics.say(_in_words(summary))
        hosts.barrier("end")
    return summary


def preview(config: ConfigDict, out: TextIO, rows: int = 4) -> None:
    """Print the first rows of a stage's data, loss tokens in colour or in double brackets."""
    stage = Stage(config)
    batch = stage.data.rows(0, 0, min(rows, stage.config.rows))
    for number, text in enumerate(row_texts(stage.tokenizer, batch, out.isatty())):
        print(f"=== row {number}, {stage.config.sequence_length} tokens\n{text}\n", file=out)


def last_loss(run: str | os.PathLike) -> float | None:
    """The loss of the last step in a run's metrics.jsonl; None if there is none."""
    rows = read_jsonl(pathlib.Path(run, "metrics.jsonl"), form=METRICS)
    losses = [row["loss"] for row in rows if "loss" in row]
    return losses[-1] if losses else None


# ------------------------------------------------------------------ set-up


def _step(stage: Stage, model: ModelConfig) -> tuple[Any, Any]:
    """Optimizer and jitted step of a stage with this model."""
    config = stage.config
    optimizer = json.dumps({k: v for k, v in config.optimizer.items() if k not in RATES})
    return _shared_step(model, optimizer, config.accumulation, stage.mesh, stage.documents)


@functools.cache
def _shared_step(
    model: ModelConfig,
    optimizer_json: str,
    accumulation: int,
    mesh: jax.sharding.Mesh,
    documents: int | None,
) -> tuple[Any, Any]:
    """The stages of a study that are alike share one compilation."""
    optimizer = make_optimizer(ConfigDict(json.loads(optimizer_json)))
    return optimizer, make_step(model, optimizer, accumulation, mesh, documents)


def _lowered(stage: Stage, model: ModelConfig) -> Any:
    optimizer, step = _step(stage, model)
    return step.lower(*step_arguments(stage.config, model, stage.mesh, optimizer))


def _introduce(metrics: Metrics, stage: Stage, state: State, why_remat: str) -> None:
    """The first lines of the log: what runs, on what, how it is counted, and warnings."""
    config, model, data, steps = stage.config, stage.model, stage.data, stage.steps
    count = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    devices = " x ".join(f"{axis} {size}" for axis, size in stage.mesh.shape.items())
    attention = describe_attention(model, config.sequence_length, stage.mesh, stage.documents)
    fill = {name or "all": f"{packing.fill:.3f}" for name, packing in data.packings.items()}
    metrics.say(
        f"step {state.step} of {steps}: {count:,} parameters, {config.trainable} trained, "
        f"{config.rows} rows of {config.sequence_length} tokens, "
        f"{jax.devices()[0].device_kind}, {devices}, {jax.process_count()} process(es)"
        + (f", from {config.parent}" if config.parent else "")
    )
    metrics.say(
        f"attention {attention}, remat {model.remat}, {model.dtype} products, "
        f"{model.param_dtype} weights; {code_version()}"
    )
    metrics.say(f"real share of token slots: {fill}; mfu: {metrics.mfu_convention()}")
    for name, (ids, mask) in data.examples.items():
        text = excerpt(stage.tokenizer, ids.tolist(), mask.tolist())
        metrics.say(f"data.{name}: its first example, loss tokens in [[ ]]: {text}")
    warnings = [*stage.chats[1], *data.notes]
    if late := tuple(step for step in config.keep_steps if step > steps):
        warnings.append(f"keep_steps={late}: the run ends at step {steps}")
    if config.profile.steps and (begin := config.profile.start) >= steps:
        warnings.append(f"profile.start={begin}: the run ends at step {steps}: nothing is profiled")
    if jax.default_backend() == "cpu":
        warnings += [f"{problem}: {cure}" for problem, cure in unused()]
    if steps < FEW_STEPS:
        warnings.append(
            f"{steps} optimizer steps are few: with 31 midtraining seemed to have no effect; use "
            "fewer rows per step or more epochs"
        )
    for text in warnings:
        metrics.say(f"warning: {text}")
    if why_remat:
        metrics.say(f"remat {model.remat}, {why_remat}")


# ------------------------------------------------------------------ of a step


@contextlib.contextmanager
def _out_of_memory(stage: Stage) -> Iterator[None]:
    """Turns an error of memory into one that says what to change."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error) and "Out of memory" not in str(error):
            raise
        config = stage.config
        sizes = ", ".join(f"mesh.{axis}={size}" for axis, size in stage.mesh.shape.items())
        raise UserError(
            f"the step does not fit in memory: {str(error).splitlines()[0][:300]}; "
            f"rows={config.rows}, accumulation={config.accumulation}, "
            f"sequence_length={config.sequence_length}, model.remat={stage.model.remat}, {sizes}: "
            "raise accumulation, set model.remat=full, lower packing.documents_per_row (on GPUs), "
            "or use more devices; `python -m msm_jax.compile` prints sizes"
        ) from error


def _save(
    metrics: Metrics, manager: Any, state: State, values: Any, facts: dict, stage: Stage
) -> None:
    """A checkpoint of good weights only: they are finite, and the last step was not skipped."""
    if not all_finite(state.trained):
        raise UserError(f"step {state.step}: weights are not finite: not saved; {LOWER}")
    if int(values["skipped_in_a_row"]):
        what = f"step {state.step}: loss {float(values['loss'])}: a skipped step, not saved"
        if state.done:
            raise UserError(f"{what}; {LOWER}")
        metrics.say(what)
        return
    metrics.sync()
    manager.save(
        state.step,
        state.saved,
        state.optimizer_state,
        facts,
        state.progress,
        record.provenance(stage.mesh),
        state.base,
    )


def _in_words(summary: dict[str, Any]) -> str:
    loss = "none" if summary["loss"] is None else format(summary["loss"], ".4f")
    text = f"done: {summary['steps']} steps, loss {loss}"
    if summary["skipped"]:
        text += f", {summary['skipped']} of them skipped"
    if summary["empty"]:
        text += f", {summary['empty']} of them without a loss token, which changed nothing"
    if speed := summary["tokens_per_second"]:
        text += f", {speed:,.0f} tokens/s, {summary['data_share']:.1%} of it spent on data"
    return text
