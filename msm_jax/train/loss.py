"""The loss: a token-weighted mean over the whole global step."""

import functools

import jax
import jax.numpy as jnp

from msm_jax.model import forward, logits


def target_logprobs(config, params, batch) -> jax.Array:
    """float32[B, T]: the log-probability that each token's target follows it. Traceable."""
    hidden_BTD, _ = forward(
        config, params, batch["tokens"], batch["segment_ids"], batch["positions"]
    )
    logits_BTV = logits(config, params, hidden_BTD)
    chosen_BT = jnp.take_along_axis(logits_BTV, batch["targets"][..., None], axis=-1)[..., 0]
    return chosen_BT - jax.nn.logsumexp(logits_BTV, axis=-1)


token_logprobs = functools.partial(jax.jit, static_argnums=0)(target_logprobs)


def summed_loss(config, params, batch) -> jax.Array:
    """Negative log-likelihood summed over tokens with their loss weights, in nats."""
    return -jnp.sum(target_logprobs(config, params, batch) * batch["loss_weights"])
