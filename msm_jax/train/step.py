"""One optimizer step, for full-parameter and LoRA training, documents and chats alike."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from msm_jax.model import ModelConfig, abstract_params, batch_sharding, param_shardings, placed
from msm_jax.model.adapter import join
from msm_jax.train.loss import summed_loss
from msm_jax.train.optimizer import Schedule, SkipState, optimizer_shardings, split_params


def make_step(
    config: ModelConfig,
    optimizer: optax.GradientTransformation,
    accumulation: int = 1,
    mesh: jax.sharding.Mesh | None = None,
    documents: int | None = None,
) -> jax.stages.Wrapped:
    """The jitted step, with the gradient of all micro-batches of a batch, on a mesh or one device.

    `documents` is the most that a row has, as of `forward`.

    Returns:
      step(trained, optimizer_state, frozen, batch, schedule) -> (trained, optimizer_state,
      metrics), with batch as from `Data.rows`, schedule as from `make_schedule` (or nothing, where
      the optimizer takes none), and metrics {"loss", "grad_norm", "loss_tokens", "tokens"}, the
      loss in nats per loss token (NaN where there is none: then nothing changes), and the counts of
      `skip_bad_steps` where the optimizer has them. A batch may also have "stop", int32 flags whose
      sum is a metric. The first two arguments are donated. Gradients are summed in float32,
      whatever the dtype of the products.
    """

    optimizer = optax.with_extra_args_support(optimizer)

    def gradient(trained: dict, frozen: dict, batch: dict) -> tuple[jax.Array, dict]:
        loss = lambda trained: summed_loss(config, join(trained, frozen), batch, mesh, documents)
        return jax.value_and_grad(loss)(trained)

    def accumulated(trained: dict, frozen: dict, batch: dict) -> tuple[jax.Array, dict]:
        if accumulation == 1:
            return gradient(trained, frozen, batch)

        def add(total: Any, part: dict) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, total, gradient(trained, frozen, part)), None

        zero = (jnp.zeros(()), jax.tree.map(jnp.zeros_like, trained))
        return jax.lax.scan(add, zero, micro_batches(batch, accumulation))[0]

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(
        trained: dict,
        optimizer_state: Any,
        frozen: dict,
        batch: dict,
        schedule: Schedule | None = None,
    ) -> tuple:
        batch = dict(batch)
        stop = batch.pop("stop", None)
        loss, gradients = accumulated(trained, frozen, batch)
        weight = jnp.sum(batch["loss_weights"])
        gradients = jax.tree.map(lambda each: each / jnp.where(weight > 0, weight, 1), gradients)
        metrics = {
            "loss": loss / weight,
            "grad_norm": optax.global_norm(gradients),
            "loss_tokens": weight,
            "tokens": jnp.count_nonzero(batch["segment_ids"]),
        }
        if stop is not None:
            metrics["stop"] = jnp.sum(stop)
        updates, optimizer_state = optimizer.update(
            gradients,
            optimizer_state,
            trained,
            loss=metrics["loss"],
            grad_norm=metrics["grad_norm"],
            loss_tokens=weight,
            schedule=schedule,
        )
        if isinstance(optimizer_state, SkipState):
            metrics["skipped"] = optimizer_state.skipped
            metrics["skipped_in_a_row"] = optimizer_state.in_a_row
        return optax.apply_updates(trained, updates), optimizer_state, metrics

    return step


def micro_batches(batch: dict, parts: int) -> dict:
    """A batch of [B, ...] arrays as [parts, B / parts, ...]; every device keeps its rows.

    Part i has the rows i, i + parts, ...
    """
    part = lambda x: jnp.swapaxes(x.reshape(-1, parts, *x.shape[1:]), 0, 1)
    return jax.tree.map(part, batch)


def step_arguments(
    config: ConfigDict, model: ModelConfig, mesh: jax.sharding.Mesh, optimizer: Any
) -> tuple:
    """Shapes of the arguments of a stage's step, with their shardings."""
    params = placed(abstract_params(model), param_shardings(model, mesh))
    trained, frozen = split_params(params, config.trainable)
    state = placed(
        jax.eval_shape(optimizer.init, trained), optimizer_shardings(optimizer, trained, mesh)
    )
    at_a_time = config.rows // config.accumulation
    batch = batch_shapes(mesh, config.rows, at_a_time, config.sequence_length)
    replicated = NamedSharding(mesh, PartitionSpec())
    scalar = jax.ShapeDtypeStruct((), jnp.float32, sharding=replicated)
    return trained, state, frozen, batch, Schedule(scalar, scalar, scalar)


def batch_shapes(mesh: jax.sharding.Mesh, rows: int, at_a_time: int, length: int) -> dict[str, Any]:
    """Shapes of a batch [rows, length] whose rows are placed as those that run `at_a_time`."""
    place = batch_sharding(mesh, at_a_time, length)
    of = lambda dtype: jax.ShapeDtypeStruct((rows, length), dtype, sharding=place)
    names = ("tokens", "targets", "segment_ids", "positions")
    return {**dict.fromkeys(names, of(jnp.int32)), "loss_weights": of(jnp.float32)}
