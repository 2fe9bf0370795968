"""What is looked at while a stage trains: loss on other data, and greedy answers."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from msm_jax.model import forward, logits
from msm_jax.train.hosts import place_rows
from msm_jax.train.loss import summed_loss
from msm_jax.train.step import micro_batches


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def eval_sums(config, mesh, parts: int, params, batch) -> tuple[jax.Array, jax.Array]:
    """(summed loss in nats, learned tokens) of a batch, in as many parts as a step has."""
    one = lambda part: summed_loss(config, params, part, mesh)
    losses = jax.lax.map(one, micro_batches(batch, parts)) if parts > 1 else one(batch)
    return jnp.sum(losses), jnp.sum(batch["loss_weights"])


class EvalLoss:
    """Nats per learned token on fixed batches of other data.

    It takes the kernels, the mesh and the micro-batches of a training step, and no more memory.
    """

    def __init__(self, config, data, batches: int, shape: tuple[int, int], parts: int, place):
        self._sums = functools.partial(eval_sums, config, place.mesh, parts)
        self._data, self._shape, self._place = data, shape, place
        self._batches = min(batches, data.steps or batches)

    def __call__(self, params) -> float:
        """NaN where nothing is learned."""
        total = np.zeros(2)
        for number in range(self._batches):
            rows_of = functools.partial(self._data.rows, number)
            batch = place_rows(rows_of, self._shape, self._place)
            total += [float(x) for x in jax.device_get(self._sums(params, batch))]
        return float(total[0] / total[1]) if total[1] else math.nan


class Prompts:
    """Texts that are gone on with, greedily, always the same.

    Runs the whole row anew for every token: no cache, a few rows, seconds per look.
    """

    def __init__(self, config, texts, tokenizer, max_tokens: int, mesh):
        self._tokenizer, self.texts = tokenizer, tuple(texts)
        ids = [[*tokenizer.start_ids, *tokenizer.encode(text)] or [0] for text in self.texts]
        length = -(-(max(map(len, ids)) + max_tokens) // 16) * 16
        self._tokens_BT = np.zeros((len(ids), length), np.int32)
        self._lengths_B = np.array([len(each) for each in ids], np.int32)
        for row, each in enumerate(ids):
            self._tokens_BT[row, : len(each)] = each
        ends = {tokenizer.control(tokenizer.end_of_document)}
        self._ends, self._max_tokens = ends, max_tokens
        whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
        # A handful of rows cannot be cut by the mesh: the kernels are told of no mesh.
        self._run = jax.jit(functools.partial(_greedy, config, max_tokens), out_shardings=whole)

    def __call__(self, params) -> list[str]:
        tokens_BT = np.asarray(self._run(params, self._tokens_BT, self._lengths_B))
        answers = []
        for row, length in enumerate(self._lengths_B):
            ids = tokens_BT[row, length : length + self._max_tokens].tolist()
            stop = next((at for at, token in enumerate(ids) if token in self._ends), len(ids))
            answers.append(self._tokenizer.decode(ids[:stop]))
        return answers


def _greedy(config, count, params, tokens_BT, lengths_B):
    rows = jnp.arange(len(tokens_BT))
    positions_BT = jnp.broadcast_to(jnp.arange(tokens_BT.shape[1]), tokens_BT.shape)
    segment_ids_BT = jnp.ones_like(tokens_BT)

    def one(number, tokens_BT):
        hidden_BTD = forward(config, params, tokens_BT, segment_ids_BT, positions_BT)
        last_BD = hidden_BTD[rows, lengths_B + number - 1]
        chosen_B = jnp.argmax(logits(config, params, last_BD), axis=-1).astype(jnp.int32)
        return tokens_BT.at[rows, lengths_B + number].set(chosen_B)

    return jax.lax.fori_loop(0, count, one, tokens_BT)
