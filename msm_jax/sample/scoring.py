"""The log-probabilities of given completions; a prompt shared by several of them is read once."""

import collections
import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

from msm_jax.errors import UserError
from msm_jax.model import ModelConfig, decode, logits
from msm_jax.sample.device import masked
from msm_jax.sample.sampler import bucket, check_prompts
from msm_jax.sample.settings import check_settings

SMALLEST_BUCKET = 8  # tokens; completions are often a word
LARGEST_SCORES = 2**26  # tokens times vocabulary, or queries times keys, in memory at once


def logprobs(
    config: ModelConfig,
    params: dict,
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[int]],
    *,
    vocab_limit: int | None = None,
    context_length: int | None = None,
    rows: int = 64,
    mesh: Mesh | None = None,
) -> list[np.ndarray]:
    """The log-probability of every token of every completion after its prompt, float32 arrays.

    Args:
      prompts, completions: token ids, one completion per prompt; a prompt has at least one id.
      vocab_limit: ids from here on have no probability (rows of a padded embedding table).
      context_length: tokens of a prompt and its completion together, at most; None: no bound.
      rows: completions computed at a time, fewer if they are long.
      mesh: that shards the params.

    Raises:
      UserError: an empty prompt, an id outside the vocabulary, lists of unequal length, or a text
        that is longer than the context.
    """
    if len(prompts) != len(completions):
        raise UserError(f"logprobs: {len(prompts)} prompts but {len(completions)} completions")
    limit = config.vocab_size if vocab_limit is None else vocab_limit
    texts = [[*prompt, *answer] for prompt, answer in zip(prompts, completions, strict=True)]
    check_settings(rows=rows)
    check_prompts(config, prompts, limit)
    check_prompts(config, texts, limit, context_length, room=0)
    config = dataclasses.replace(config, attention="auto", remat="none")  # were for training
    found: list[np.ndarray] = [np.zeros(0, np.float32)] * len(prompts)
    layers = decode.unstacked(params)
    for shape, units in _units(prompts, completions, rows):
        P, M, S, T = _shape(config, shape, len(units), rows)
        for start in range(0, len(units), P):
            some = units[start : start + P]
            ids_PS, lengths_P = np.zeros((P, S), np.int32), np.zeros(P, np.int32)
            tokens_PMT, targets_PMT = np.zeros((2, P, M, T), np.int32)
            for place, (prompt, numbers) in enumerate(some):
                ids_PS[place, : len(prompt) - 1] = prompt[:-1]
                lengths_P[place] = len(prompt) - 1
                for m, number in enumerate(numbers):
                    answer = completions[number]
                    tokens_PMT[place, m, : len(answer)] = [prompt[-1], *answer[:-1]]
                    targets_PMT[place, m, : len(answer)] = answer
            scores_PMT = np.asarray(
                score(
                    config, mesh, params, layers, ids_PS, lengths_P, tokens_PMT, targets_PMT, limit
                )
            )
            for place, (_, numbers) in enumerate(some):
                for m, number in enumerate(numbers):
                    found[number] = scores_PMT[place, m, : len(completions[number])].copy()
    return found


# (buckets of the prompt's and the completions' lengths, completions per prompt).
_Shape = tuple[int, int, int]
_Unit = tuple[tuple[int, ...], list[int]]  # a prompt, and the numbers of some of its completions


def _units(
    prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]], rows: int
) -> list[tuple[_Shape, list[_Unit]]]:
    """The completions grouped by the shape of the program that scores them."""
    by_prompt: dict[tuple, list[int]] = collections.defaultdict(list)
    for number, (prompt, answer) in enumerate(zip(prompts, completions, strict=True)):
        if len(answer):
            by_prompt[tuple(prompt), bucket(len(answer), SMALLEST_BUCKET)].append(number)
    units: dict[_Shape, list[_Unit]] = collections.defaultdict(list)
    for (prompt, T), numbers in by_prompt.items():
        M = min(bucket(len(numbers), 1), bucket(rows + 1, 1) // 2)
        for start in range(0, len(numbers), M):
            units[bucket(len(prompt) - 1), T, M].append((prompt, numbers[start : start + M]))
    return sorted(units.items())


def _shape(config: ModelConfig, shape: _Shape, count: int, rows: int) -> tuple[int, int, int, int]:
    """(P, M, S, T), with as many prompts P at a time as rows and memory allow."""
    S, T, M = shape
    room = 4 * LARGEST_SCORES // (config.heads * M * T * (S + T))
    P = max(1, min(rows // M, bucket(room + 1, 1) // 2, bucket(count, 1)))
    return P, M, S, T


@functools.partial(jax.jit, static_argnums=(0, 1))
def score(
    config: ModelConfig,
    mesh: Mesh | None,
    params: dict,
    layers: dict,
    ids_PS: Array,
    lengths_P: Array,
    tokens_PMT: Array,
    targets_PMT: Array,
    vocab_limit: Array,
) -> Array:
    """float32 log-probabilities [P, M, T] of the targets."""
    prompts = decode.prefill(config, params, ids_PS, lengths_P, mesh)
    hidden_PMTD = decode.extend(config, layers, prompts, tokens_PMT, mesh)

    def some_tokens(part: tuple[Array, Array]) -> Array:
        hidden_CD, targets_C = part
        scores_CV = masked(logits(config, params, hidden_CD), vocab_limit)
        chosen_C = jnp.take_along_axis(scores_CV, targets_C[:, None], axis=-1)[:, 0]
        return chosen_C - jax.nn.logsumexp(scores_CV, axis=-1)

    # Scores for all tokens at once would be larger than the model.
    size = targets_PMT.size
    chunk = max(1, min(LARGEST_SCORES // config.vocab_size, size))
    flat = (hidden_PMTD.reshape(size, -1), targets_PMT.reshape(size))
    parts = [jnp.pad(x, [(0, -size % chunk)] + [(0, 0)] * (x.ndim - 1)) for x in flat]
    parts = [x.reshape(-1, chunk, *x.shape[1:]) for x in parts]
    scores = jax.lax.map(some_tokens, tuple(parts)).reshape(-1)[:size]
    return decode.placed(scores.reshape(targets_PMT.shape), mesh)
