"""One optimizer step, for full-parameter and LoRA training, documents and chats alike."""

import functools

import jax
import jax.numpy as jnp
import optax

from msm_jax.train.loss import summed_loss
from msm_jax.train.optimizer import join_params


def make_step(config, optimizer, accumulation: int = 1):
    """The jitted step.

    Args:
      config: ModelConfig.
      optimizer: optax transformation of the trained parameters.
      accumulation: micro-batches that the batch is cut into; the gradient is that of the whole.

    Returns:
      step(trained, optimizer_state, frozen, batch) -> (trained, optimizer_state, metrics), with
      batch as `Data.batches[i]` gives it and metrics {"loss", "grad_norm", "loss_tokens"}, the
      loss in nats per learned token. The first two arguments are donated.
    """

    def gradient(trained, frozen, batch):
        loss = lambda trained: summed_loss(config, join_params(trained, frozen), batch)
        return jax.value_and_grad(loss)(trained)

    def accumulated(trained, frozen, batch):
        if accumulation == 1:
            return gradient(trained, frozen, batch)
        parts = jax.tree.map(lambda x: x.reshape(accumulation, -1, *x.shape[1:]), batch)

        def add(total, part):
            return jax.tree.map(jnp.add, total, gradient(trained, frozen, part)), None

        zero = (jnp.zeros(()), jax.tree.map(jnp.zeros_like, trained))
        return jax.lax.scan(add, zero, parts)[0]

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(trained, optimizer_state, frozen, batch):
        loss, gradients = accumulated(trained, frozen, batch)
        weight = jnp.maximum(jnp.sum(batch["loss_weights"]), 1.0)
        gradients = jax.tree.map(lambda gradient: gradient / weight, gradients)
        updates, optimizer_state = optimizer.update(gradients, optimizer_state, trained)
        metrics = {
            "loss": loss / weight,
            "grad_norm": optax.global_norm(gradients),
            "loss_tokens": weight,
        }
        return optax.apply_updates(trained, updates), optimizer_state, metrics

    return step
