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
from msm_jax.data.pipeline import Data, load_data
from msm_jax.data.preview import excerpt, row_texts
from msm_jax.data.tokenizer import Tokenizer, load_tokenizer
from msm_jax.errors import UserError
from msm_jax.files import lock, read_jsonl
from msm_jax.model import ModelConfig, batch_sharding, make_mesh, param_shardings
from msm_jax.model.kernels import (
    choose_attention,
    describe_attention,
    documents_bound,
    platform_of,
)
from msm_jax.outputs import output_dir
from msm_jax.provenance import code_version
from msm_jax.settings import checked
from msm_jax.train import hosts, record
from msm_jax.train.chats import chat_format_of
from msm_jax.train.config import FEW_STEPS, METRICS, STAGE
from msm_jax.train.evaluations import Evaluations
from msm_jax.train.flops import flops_per_token, peak_flops
from msm_jax.train.metrics import Metrics
from msm_jax.train.optimizer import make_optimizer, make_schedule
from msm_jax.train.remat import settled, step_arguments
from msm_jax.train.start import (
    State,
    all_finite,
    check,
    check_place,
    model_config,
    parent_fingerprint,
    start,
)
from msm_jax.train.step import make_step
from msm_jax.weights import checkpoints

LOWER = "lower optimizer.learning_rate or clip_norm, and run again: it resumes from a checkpoint"


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
    # Whatever can be refused is refused before anything is written.
    started = time.time()
    run, config = output_dir(workdir, "workdir"), checked(STAGE, config)
    check(config)
    check_place(run, config.parent)
    tokenizer = load_tokenizer(config.tokenizer or config.parent)
    record.tokenizer_files(config)
    model, mesh = model_config(config, tokenizer), make_mesh(config.mesh)
    param_shardings(model, mesh)
    shape = (config.rows, config.sequence_length)
    place = batch_sharding(mesh, config.rows // config.accumulation, config.sequence_length)
    choose_attention(model, config.sequence_length, platform_of(mesh))
    data = _load(config, config.data, tokenizer)
    steps = data.stage_steps(config.steps)
    held_out = _load(config, config.eval.data, tokenizer, **_ONCE) if config.eval.every else None
    chats, warnings = chat_format_of(config, tokenizer, data)
    recipe = (config.optimizer.to_json(), steps, config.accumulation, mesh)
    step_of = lambda model: _step(model, *recipe, documents_bound(data.documents, mesh))

    def lowered(model: ModelConfig) -> Any:
        optimizer, step = step_of(model)
        return step.lower(*step_arguments(config, model, mesh, optimizer))

    model, why_remat = settled(model, run, mesh, lowered)
    evaluations = Evaluations(config, model, tokenizer, held_out, place)
    optimizer, step_fn = step_of(model)
    facts = record.facts(config, model, tokenizer, data, steps, chats)
    run.mkdir(parents=True, exist_ok=True)
    hosts.barrier("start")
    with contextlib.ExitStack() as stack:
        if hosts.is_first():
            stack.enter_context(lock(run / "lock", _BUSY.format(run=run)))
        watchdog = stack.enter_context(_watchdog(run, config))
        manager = stack.enter_context(checkpoints.checkpointer(run, config.keep, config.keep_steps))
        state = start(config, model, mesh, optimizer, manager, facts)
        if hosts.is_first():
            record.write_config(run, config, facts, data, mesh)
        metrics = stack.enter_context(_metrics(run, config, model, mesh, steps, state, out))
        _introduce(metrics, config, model, mesh, steps, state, data, tokenizer, warnings)
        if why_remat:
            metrics.say(f"remat {model.remat}, {why_remat}")
        stop = hosts.StopRequest(mesh)
        stack.enter_context(stop.listening())
        # From here on arrays move between host and device only where the code says so.
        stack.enter_context(jax.transfer_guard("disallow"))
        unread: Any = None
        for step in () if state.done else range(state.step + 1, steps + 1):
            watchdog.alive()
            with metrics.waiting_for_data():
                rows_of = functools.partial(data.rows, state.step)
                batch = stop.add_to(hosts.place_rows(rows_of, shape, place))
            metrics.profile(state.step)
            with _out_of_memory(config, model, mesh):
                state.trained, state.optimizer_state, values = step_fn(
                    state.trained, state.optimizer_state, state.frozen, batch
                )
            # The device works on this step while the host reads the metrics of the one before.
            stopping = stop.agreed(unread)
            if unread:
                _check(run, config, step - 1, metrics.read(step - 1, state, unread))
            unread, state.step, state.done = values, step, step == steps
            with jax.transfer_guard("allow"):
                evaluations.run(state, metrics)
            stopping &= not state.done
            due = step % config.checkpoint_every == 0 or step in config.keep_steps
            if state.done or stopping or due:
                _check(run, config, step, metrics.read(step, state, unread, log=state.done))
                unread = None
                _say_saved(metrics, manager.wait())
                with jax.transfer_guard("allow"):
                    _save(metrics, manager, state, values, facts, mesh)
            if stopping:
                _say_saved(metrics, manager.wait())
                raise Preempted(f"{run}: saved step {step} of {steps}")
            _say_saved(metrics, manager.saved())
            if state.done:
                break
        _say_saved(metrics, manager.wait())
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


_BUSY = "{run}: another process is training here: wait for it, or use another --workdir"


def preview(config: ConfigDict, out: TextIO, rows: int = 4) -> None:
    """Print the first rows of a stage's data, loss tokens in colour or in double brackets."""
    config, tokenizer, data = _prepared(config)
    texts = row_texts(tokenizer, data.rows(0, 0, min(rows, config.rows)), out.isatty())
    for number, text in enumerate(texts):
        print(f"=== row {number}, {config.sequence_length} tokens\n{text}\n", file=out)


def steps_of(config: ConfigDict) -> int:
    """The optimizer steps of a stage, whose data are tokenized for it; nothing is trained.

    Raises:
      UserError: as of `train`.
    """
    config, _, data = _prepared(config)
    return data.stage_steps(config.steps)


def _prepared(config: ConfigDict) -> tuple[ConfigDict, Tokenizer, Data]:
    """A stage's checked config, its tokenizer, and its data, tokenized for it."""
    config = checked(STAGE, config)
    check(config)
    tokenizer = load_tokenizer(config.tokenizer or config.parent)
    return config, tokenizer, _load(config, config.data, tokenizer)


def facts_of(config: ConfigDict) -> dict:
    """What a checkpoint of this stage holds as its facts; nothing is trained.

    Raises:
      UserError: as of `train`.
    """
    config, tokenizer, data = _prepared(config)
    model = model_config(config, tokenizer)
    steps = data.stage_steps(config.steps)
    chats, _ = chat_format_of(config, tokenizer, data)
    facts = record.facts(config, model, tokenizer, data, steps, chats)
    return facts | {"parent": parent_fingerprint(config, model)}


def last_loss(run: str | os.PathLike) -> float | None:
    """The loss of the last step in a run's metrics.jsonl; None if there is none."""
    rows = read_jsonl(pathlib.Path(run, "metrics.jsonl"), form=METRICS)
    losses = [row["loss"] for row in rows if "loss" in row]
    return losses[-1] if losses else None


# ------------------------------------------------------------------ set-up


_ONCE: dict[str, Any] = {"mixture": "epochs", "epochs": 1.0, "where": "eval.data"}


def _load(config: ConfigDict, sources: ConfigDict, tokenizer: Tokenizer, **changes: Any) -> Data:
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


@functools.cache
def _step(
    model: ModelConfig,
    optimizer_json: str,
    steps: int,
    accumulation: int,
    mesh: jax.sharding.Mesh,
    documents: int | None,
) -> tuple[Any, Any]:
    """Optimizer and jitted step; the stages of a study that are alike share one compilation."""
    optimizer = make_optimizer(ConfigDict(json.loads(optimizer_json)), steps)
    return optimizer, make_step(model, optimizer, accumulation, mesh, documents)


def _watchdog(
    run: pathlib.Path, config: ConfigDict
) -> contextlib.AbstractContextManager[hosts.Watchdog]:
    name = "hang.txt" if jax.process_count() == 1 else f"hang-{jax.process_index()}.txt"
    return contextlib.closing(hosts.Watchdog(config.watchdog, run / name))


def _metrics(
    run: pathlib.Path,
    config: ConfigDict,
    model: ModelConfig,
    mesh: jax.sharding.Mesh,
    steps: int,
    state: State,
    out: TextIO | None,
) -> contextlib.AbstractContextManager[Metrics]:
    first = hosts.is_first()
    flops = flops_per_token(model, config.sequence_length, config.trainable)
    peak = peak_flops(mesh.devices.flatten())
    schedule = make_schedule(config.optimizer, steps)
    files, shown = (run, out) if first else (None, None)
    return contextlib.closing(
        Metrics(files, config, steps, schedule, flops, peak, state.step, shown)
    )


def _introduce(
    metrics: Metrics,
    config: ConfigDict,
    model: ModelConfig,
    mesh: jax.sharding.Mesh,
    steps: int,
    state: State,
    data: Data,
    tokenizer: Tokenizer,
    warnings: list[str],
) -> None:
    """The first lines of the log: what runs, on what, how it is counted, and warnings."""
    count = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    devices = " x ".join(f"{axis} {size}" for axis, size in mesh.shape.items())
    documents = documents_bound(data.documents, mesh)
    attention = describe_attention(model, config.sequence_length, mesh, documents)
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
        text = excerpt(tokenizer, ids.tolist(), mask.tolist())
        metrics.say(f"data.{name}: its first example, loss tokens in [[ ]]: {text}")
    warnings = [*warnings, *data.notes]
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


# ------------------------------------------------------------------ of a step


@contextlib.contextmanager
def _out_of_memory(
    config: ConfigDict, model: ModelConfig, mesh: jax.sharding.Mesh
) -> Iterator[None]:
    """Turns an error of memory into one that says what to change."""
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
            "set model.remat=full, lower packing.documents_per_row (on GPUs), or use more devices; "
            "`python -m msm_jax.compile` prints sizes"
        ) from error


def _check(run: pathlib.Path, config: ConfigDict, step: int, values: dict[str, float]) -> None:
    """Ends a run whose every step is skipped."""
    if values["skipped_in_a_row"] > config.max_skipped:
        raise UserError(
            f"{run}: step {step}: loss {values['loss']}, gradient norm {values['grad_norm']}: "
            f"{values['skipped_in_a_row']:.0f} steps in a row were skipped, max_skipped="
            f"{config.max_skipped}: not saved; {LOWER}"
        )


def _save(
    metrics: Metrics, manager: Any, state: State, values: Any, facts: dict, mesh: jax.sharding.Mesh
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
        record.provenance(mesh),
        state.base,
    )


def _say_saved(metrics: Metrics, step: int | None) -> None:
    """Reports a checkpoint only once it is committed and was opened again."""
    if step is not None:
        metrics.say(f"step {step}: saved")


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
