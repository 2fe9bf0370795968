"""What the sampler runs on the device: prompts are read, and all rows get a chunk of tokens."""

import dataclasses
import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh

from msm_jax.model import ModelConfig, decode, logits
from msm_jax.model.decode import CHUNK
from msm_jax.sample.draw import draw

PRNG = "threefry2x32"  # fixed, so that a seed's samples do not depend on jax's default


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Rows:
    """The rows on the device: last token, number of tokens, the most allowed, ended, and key."""

    token_PM: Array
    age_PM: Array
    limit_PM: Array
    ended_PM: Array
    key_PM: Array


@functools.partial(jax.jit, static_argnums=range(6))
def empty_state(
    config: ModelConfig, mesh: Mesh | None, P: int, M: int, S: int, R: int
) -> tuple[decode.Prompts, decode.Rings, Rows]:
    """Room for P prompts of S tokens, and M rows of each, without a sample, in rings of R slots."""
    zeros = lambda: jnp.zeros((P, M), jnp.int32)  # each has its own memory, which is donated
    keys_PM = jnp.broadcast_to(jax.random.key(0, impl=PRNG), (P, M))
    rows = Rows(zeros(), zeros(), zeros(), jnp.ones((P, M), bool), keys_PM)
    prompts, rings = decode.empty(config, P, S), decode.empty_rings(config, P, M, R)
    return decode.placed((prompts, rings, rows), mesh)


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=(3,))
def read_prompts(
    config: ModelConfig,
    mesh: Mesh | None,
    params: dict,
    prompts: decode.Prompts,
    tokens_BS: Array,
    lengths_B: Array,
    places_B: Array,
) -> decode.Prompts:
    """`prompts` with these in their places; a place beyond the last is dropped."""
    read = decode.prefill(config, params, tokens_BS, lengths_B, mesh)

    def put(old: Array, new: Array) -> Array:
        if new.ndim == 1:
            return old.at[places_B].set(new, mode="drop")
        return old.at[places_B, :, : new.shape[2]].set(new, mode="drop")

    return decode.placed(jax.tree.map(put, prompts, read), mesh)


@functools.partial(jax.jit, static_argnames=("config", "mesh"), donate_argnums=(3, 4))
def run_chunk(
    config: ModelConfig,
    params: dict,
    prompts: decode.Prompts,
    rings: decode.Rings,
    rows: Rows,
    begun: tuple,
    how: Mapping[str, Array],
    mesh: Mesh | None = None,
) -> tuple[decode.Rings, Rows, tuple[Array, Array]]:
    """CHUNK tokens of all rows: (rings, rows, (tokens_CPM, logprobs_CPM))."""
    new_PM, token_PM, index_PM, limit_PM, hash_P = begun
    fold_in = jax.vmap(jax.vmap(jax.random.fold_in, (None, 0)))
    key_P = jax.vmap(jax.random.fold_in, (None, 0))(how["key"], hash_P)
    keys_PM = fold_in(key_P, index_PM.astype(jnp.uint32))
    begin = Rows(token_PM, jnp.zeros_like(token_PM), limit_PM, jnp.zeros_like(new_PM), keys_PM)
    rows = jax.tree.map(functools.partial(jnp.where, new_PM), begin, rows)
    P, M = new_PM.shape

    def unfinished(carry: tuple) -> Array:
        newest, rows, _ = carry
        return (newest.filled < CHUNK) & ~jnp.all(rows.ended_PM)

    def one_token(carry: tuple) -> tuple:
        newest, rows, (tokens_CPM, logprobs_CPM) = carry
        step = newest.filled
        hidden_PMD, newest = decode.decode(
            config, params, prompts, rings, newest, rows.token_PM, rows.age_PM, mesh
        )
        logits_NV = masked(
            logits(config, params, hidden_PMD.reshape(P * M, -1)), how["vocab_limit"]
        )
        key_N = jax.vmap(jax.random.fold_in)(rows.key_PM.reshape(-1), rows.age_PM.reshape(-1))
        token_N, logprob_N = draw(logits_NV, jax.random.key_data(key_N), how)
        token_PM, age_PM = token_N.reshape(P, M), rows.age_PM + 1
        ended_PM = jnp.isin(token_PM, how["stop_ids"]) | (age_PM >= rows.limit_PM)
        rows = dataclasses.replace(
            rows, token_PM=token_PM, age_PM=age_PM, ended_PM=rows.ended_PM | ended_PM
        )
        found = (
            tokens_CPM.at[step].set(token_PM),
            logprobs_CPM.at[step].set(logprob_N.reshape(P, M)),
        )
        return newest, rows, found

    found = jnp.full((CHUNK, P, M), -2, jnp.int32), jnp.zeros((CHUNK, P, M))
    start = (decode.empty_chunk(rings), rows, found)
    newest, rows, found = jax.lax.while_loop(unfinished, one_token, start)
    return decode.placed((rings.joined(newest), rows, found), mesh)


def masked(logits_V: Array, vocab_limit: Array) -> Array:
    """Scores [..., V] in which ids from `vocab_limit` on have no probability."""
    known_V = jnp.arange(logits_V.shape[-1]) < vocab_limit
    return jnp.where(jnp.expand_dims(known_V, range(logits_V.ndim - 1)), logits_V, -jnp.inf)
