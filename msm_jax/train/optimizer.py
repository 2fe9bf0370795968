"""AdamW with warmup and decay, and which parameters it moves."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from msm_jax.errors import UserError
from msm_jax.model.adapter import only_adapter, without_adapter

DECAYED = ("w", "lora_a", "lora_b")  # not norms, not biases
TRAINABLE = ("all", "lora")
# The share of the peak, of the share of the decay that is over. optax's schedules want a number of
# steps that is known when the program is compiled.
SCHEDULES = {
    "cosine": lambda over: 0.5 * (1 + jnp.cos(jnp.pi * over)),
    "linear": lambda over: 1 - over,
    "constant": jnp.ones_like,
}
RATES = ("learning_rate", "warmup_fraction")  # keys of the optimizer's that a Schedule has


class Schedule(NamedTuple):
    """What a learning rate depends on besides its form, each a float32 scalar; lengths in steps.

    An argument of the compiled step: stages of other lengths or rates run the same program.
    """

    peak: Any
    warmup: Any
    decay: Any


def make_schedule(config: ConfigDict, steps: int) -> Schedule:
    """Linear warmup over `warmup_fraction` of the run, then decay to 0 at its end."""
    warmup = round(config.warmup_fraction * steps)
    return Schedule(*map(np.float32, (config.learning_rate, warmup, max(steps - warmup, 1))))


def learning_rate(form: str, schedule: Schedule, step: jax.Array) -> jax.Array:
    """The learning rate, float32 [], after `step` good steps; `form` is one of SCHEDULES."""
    peak, warmup, decay = schedule
    step = step.astype(jnp.float32)
    over = jnp.clip((step - warmup) / decay, 0.0, 1.0)
    # (step + 1) / warmup: the first step already moves.
    rising = (step + 1) / jnp.maximum(warmup, 1.0)
    return peak * jnp.where(step < warmup, rising, SCHEDULES[form](over))


def scale_by_schedule(form: str) -> optax.GradientTransformationExtraArgs:
    """Updates times minus `learning_rate`, of the `schedule` that `update` is given."""

    def update(
        updates: Any, state: Any, params: Any = None, *, schedule: Schedule, **_: Any
    ) -> tuple[Any, Any]:
        rate = learning_rate(form, schedule, state.count)
        updates = jax.tree.map(lambda each: (-rate).astype(each.dtype) * each, updates)
        return updates, optax.ScaleByScheduleState(optax.safe_increment(state.count))

    init = lambda _: optax.ScaleByScheduleState(jnp.zeros([], jnp.int32))
    return optax.GradientTransformationExtraArgs(init, update)


def make_optimizer(config: ConfigDict) -> optax.GradientTransformationExtraArgs:
    """AdamW (Loshchilov & Hutter 2019) with decoupled weight decay on matrices only.

    Its `update` takes `schedule`, as of `make_schedule`. Steps that are not finite, and loss spikes
    where config.skip_spikes asks for it, are skipped.

    Raises:
      UserError: an unknown form of schedule.
    """
    if config.schedule not in SCHEDULES:
        raise UserError(f"optimizer.schedule={config.schedule!r}: one of {(*SCHEDULES,)}")

    def decays(params: dict) -> dict:
        return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key in DECAYED, params)

    adamw = optax.chain(
        optax.scale_by_adam(b1=config.b1, b2=config.b2, eps=config.eps),
        optax.add_decayed_weights(config.weight_decay, decays),
        scale_by_schedule(config.schedule),
    )
    if config.clip_norm:
        adamw = optax.chain(optax.clip_by_global_norm(config.clip_norm), adamw)
    return skip_bad_steps(adamw, config.skip_spikes)


SPIKE_WINDOW = 128  # losses that a spike is measured by (OLMo-core's SkipStepOptimizer)


class SkipState(NamedTuple):
    """The optimizer's own state as the last good step left it, and int32 counts of skipped steps.

    `recent` are the losses of SPIKE_WINDOW good steps, NaN where there were none yet; None where
    spikes are not detected.
    """

    inner: Any
    skipped: jax.Array
    in_a_row: jax.Array
    recent: jax.Array | None


def skip_bad_steps(
    inner: optax.GradientTransformation, spikes: float = 0.0
) -> optax.GradientTransformationExtraArgs:
    """`inner`, but a step whose loss or gradient norm is not finite changes nothing.

    A step without loss tokens changes nothing either, and is not counted as skipped. With `spikes`
    above 0, a step whose loss is more than that many standard deviations above the mean of the last
    128 good ones is skipped too, once there are as many. The learning-rate schedule counts good
    steps only. What else `update` is given goes to that of `inner`.
    """

    inner = optax.with_extra_args_support(inner)

    def init(params: dict) -> SkipState:
        recent = jnp.full(SPIKE_WINDOW, jnp.nan) if spikes else None
        return SkipState(inner.init(params), jnp.int32(0), jnp.int32(0), recent)

    def update(
        gradients: dict,
        state: SkipState,
        params: dict | None = None,
        *,
        loss: Any = 0.0,
        grad_norm: Any = None,
        loss_tokens: Any = 1.0,
        **more: Any,
    ) -> tuple[dict, SkipState]:
        grad_norm = optax.global_norm(gradients) if grad_norm is None else grad_norm
        good = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
        recent = state.recent
        if recent is not None:
            # While the window has holes its mean is NaN, and nothing is greater than NaN.
            good &= ~(loss > jnp.mean(recent) + spikes * jnp.std(recent))
            recent = jnp.where(good, jnp.roll(recent, 1).at[0].set(loss), recent)
        updates, after = inner.update(gradients, state.inner, params, **more)
        keep = lambda new, old: jnp.where(good, new, old)
        bad = (~good & (loss_tokens != 0)).astype(jnp.int32)
        updates = jax.tree.map(lambda update: keep(update, jnp.zeros_like(update)), updates)
        inner_state = jax.tree.map(keep, after, state.inner)
        in_a_row = (state.in_a_row + bad) * bad
        return updates, SkipState(inner_state, state.skipped + bad, in_a_row, recent)

    return optax.GradientTransformationExtraArgs(init, update)


def optimizer_shardings(
    optimizer: optax.GradientTransformation, trained: dict, mesh: jax.sharding.Mesh
) -> optax.OptState:
    """Shardings of `optimizer.init(trained)`: moments as their parameters, counts replicated."""
    replicated = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    return optax.tree_utils.tree_map_params(
        optimizer,
        lambda _, param: param.sharding,
        jax.eval_shape(optimizer.init, trained),
        trained,
        transform_non_params=lambda _: replicated,
    )


def split_params(params: dict, trainable: str) -> tuple[dict, dict]:
    """(trained, frozen) trees that `msm_jax.model.adapter.join` puts together again.

    UserError for trainable="lora" without an adapter in the model, and for another word.
    """
    if trainable not in TRAINABLE:
        raise UserError(f"trainable={trainable!r}: one of {TRAINABLE}")
    if trainable == "all":
        return params, {}
    adapter = only_adapter(params)
    if not adapter:
        raise UserError('trainable="lora" needs an adapter: set model.lora_rank above 0')
    return adapter, without_adapter(params)
