"""What is looked at while a stage trains: loss on other data, and greedy answers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from msm_jax.model import forward, logits
from msm_jax.train.hosts import place_rows
from msm_jax.train.loss import summed_loss


class EvalLoss:
    """Nats per learned token on fixed batches of other data."""

    def __init__(self, config, data, batches: int, rows: int, length: int, place):
        self._config, self._data, self._place = config, data, place
        self._batches = min(batches, data.steps or batches)
        self._shape = (rows, length)
        whole = jax.sharding.NamedSharding(place.mesh, jax.sharding.PartitionSpec())
        self._sum = jax.jit(self._sums, out_shardings=whole)

    def _sums(self, params, batch):
        loss = summed_loss(self._config, params, batch, self._place.mesh)
        return jnp.stack([loss, jnp.sum(batch["loss_weights"])])

    def __call__(self, params) -> float:
        total = np.zeros(2)
        for number in range(self._batches):
            rows_of = functools.partial(self._data.rows, number)
            batch = place_rows(rows_of, self._shape, self._place)
            total += np.asarray(self._sum(params, batch), np.float64)
        return float(total[0] / max(total[1], 1.0))


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
