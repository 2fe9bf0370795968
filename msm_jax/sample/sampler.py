"""A key/value-cached sampler in pure JAX, and the log-probabilities of given completions.

Rows are grouped by the length bucket of their own prompt, every batch has the same number of
rows, and a sample's random numbers come from (seed, prompt, sample index, position). So neither
the shapes a row is computed in nor its dice depend on what else is asked for: the same question
gets the same answer in any company, and the number of compiled programs is the number of buckets.

Letters as in `msm_jax.model.config`, and N for the slots of the answers: the cache of a batch has
S = T + N slots.
"""

import collections
import dataclasses
import functools
import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from msm_jax.data.pipeline import as_batch
from msm_jax.errors import UserError
from msm_jax.model import Cache, ModelConfig, forward, logits
from msm_jax.train.loss import token_logprobs

SMALLEST_BUCKET = 32


@dataclasses.dataclass(frozen=True)
class Sample:
    """One answer.

    Attributes:
      prompt: index of the prompt in the call.
      index: which of the prompt's n samples this is.
      tokens: ids without the stop.
      logprobs: of each token, under the model itself: temperature 1, whole vocabulary. The same
        numbers as `logprobs` gives.
      finish_reason: "stop" or "length".
      text: the tokens as text, where a tokenizer was at hand.
    """

    prompt: int
    index: int
    tokens: list[int]
    logprobs: list[float]
    finish_reason: str
    text: str | None = None


def bucket(length: int) -> int:
    """The power of two, at least `SMALLEST_BUCKET`, that holds this many tokens."""
    return max(SMALLEST_BUCKET, 1 << (length - 1).bit_length())


def sample(
    config: ModelConfig,
    params: dict,
    prompts: Sequence[Sequence[int]],
    *,
    n: int = 1,
    first: int = 0,
    max_tokens: int = 256,
    temperature: float = 1.0,
    seed: int = 0,
    stop_ids: Sequence[int] = (),
    vocab_limit: int | None = None,
    rows: int = 64,
) -> list[list[Sample]]:
    """Draw n answers to every prompt.

    Args:
      config, params: the decoder.
      prompts: token ids, at least one per prompt.
      n: answers per prompt.
      first: index of the first of them, so that a long draw can be taken in parts.
      max_tokens: of one answer; at most this many.
      temperature: 0 takes the most likely token.
      seed: of the draw; an answer is a function of (seed, prompt, index) for given weights.
      stop_ids: tokens that end an answer; they are not part of it.
      vocab_limit: ids from here on are never drawn (rows of a padded embedding table).
      rows: answers computed at a time.

    Returns:
      For every prompt its n samples.

    Raises:
      UserError: an empty prompt, an id outside the vocabulary, or a number out of range.
    """
    limit = config.vocab_size if vocab_limit is None else vocab_limit
    _check(config, prompts, n, max_tokens, temperature, limit, rows)
    if first < 0:
        raise UserError(f"first={first}: must not be negative")
    indices = range(first, first + n)
    asked = [(prompt, index) for prompt in range(len(prompts)) for index in indices]
    answers: dict[tuple[int, int], Sample] = {}
    slots = bucket(max_tokens)
    settings = (
        jax.random.key(seed),
        np.int32(max_tokens),
        np.float32(temperature),
        np.asarray(stop_ids, np.int32),
        np.int32(limit),
    )
    for length, batch in _batches(asked, lambda ask: len(prompts[ask[0]]), rows):
        tokens_BT, lengths_B = _right_aligned([prompts[p] for p, _ in batch], rows, length)
        row_ids = (
            _padded([_prompt_hash(prompts[p]) for p, _ in batch], rows, np.uint32),
            _padded([index for _, index in batch], rows, np.uint32),
        )
        logits_BV, cache = _prefill(config, length + slots, params, tokens_BT, lengths_B)
        drawn, _ = _decode(config, slots, params, cache, logits_BV, lengths_B, row_ids, settings)
        drawn = jax.device_get(drawn)
        for row, (prompt, index) in enumerate(batch):
            answers[prompt, index] = Sample(
                prompt,
                index,
                drawn.tokens_BN[row, : drawn.counts_B[row]].tolist(),
                drawn.logprobs_BN[row, : drawn.counts_B[row]].tolist(),
                "stop" if drawn.stopped_B[row] else "length",
            )
    return [[answers[prompt, index] for index in indices] for prompt in range(len(prompts))]


@functools.partial(jax.jit, static_argnums=(0, 1))
def _prefill(config, slots, params, tokens_BT, lengths_B):
    """Read the prompts; returns the scores after their last tokens, logits_BV, and the cache."""
    B, T = tokens_BT.shape
    positions_BT = jnp.arange(T)[None] - (T - lengths_B[:, None])
    segment_ids_BT = (positions_BT >= 0).astype(jnp.int32)
    hidden_BTD, cache = forward(
        config,
        params,
        tokens_BT,
        segment_ids_BT,
        jnp.maximum(positions_BT, 0),
        Cache.empty(config, B, slots),
    )
    return logits(config, params, hidden_BTD[:, -1]), cache


class _Answers(NamedTuple):
    """The answers so far: counts_B tokens each without the stop; last_B is what was drawn last."""

    tokens_BN: jax.Array
    logprobs_BN: jax.Array
    counts_B: jax.Array
    stopped_B: jax.Array
    last_B: jax.Array


# The cache is also an output, although nobody wants it: only then can the loop work in its memory.
@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=(3,))
def _decode(config, slots, params, cache, logits_BV, lengths_B, row_ids, settings):
    """Answer until every row has stopped or has max_tokens; returns (_Answers, cache).

    Args:
      slots: N.
      row_ids: what makes a row's key out of the root key: (prompt hashes_B, sample indices_B).
      settings: (root key, max_tokens, temperature, stop_ids, vocab_limit).
    """
    B = len(lengths_B)
    root_key, max_tokens, *how = settings
    fold_in = jax.vmap(jax.random.fold_in)
    keys_B = fold_in(fold_in(jnp.broadcast_to(root_key, (B,)), row_ids[0]), row_ids[1])

    def unfinished(carry):
        step, answers, _ = carry
        return (step < max_tokens) & ~jnp.all(answers.stopped_B)

    def one_token(carry):
        step, answers, cache = carry
        hidden_BTD, cache = forward(
            config,
            params,
            answers.last_B[:, None],
            jnp.ones((B, 1), jnp.int32),
            (lengths_B + step - 1)[:, None],
            cache,
        )
        logits_BV = logits(config, params, hidden_BTD[:, 0])
        return step + 1, _extend(answers, logits_BV, keys_B, step, *how), cache

    answers = _Answers(
        tokens_BN=jnp.zeros((B, slots), jnp.int32),
        logprobs_BN=jnp.zeros((B, slots), jnp.float32),
        counts_B=jnp.zeros(B, jnp.int32),
        stopped_B=lengths_B == 0,  # rows that only fill the batch have nothing to say
        last_B=jnp.zeros(B, jnp.int32),
    )
    answers = _extend(answers, logits_BV, keys_B, 0, *how)
    _, answers, cache = jax.lax.while_loop(unfinished, one_token, (1, answers, cache))
    return answers, cache


def _extend(answers, logits_BV, keys_B, step, temperature, stop_ids, vocab_limit):
    """The answers with their token number `step`; what a stopped row draws does not count."""
    known_1V = jnp.arange(logits_BV.shape[1])[None] < vocab_limit
    token_B = _draw(jnp.where(known_1V, logits_BV, -jnp.inf), keys_B, step, temperature)
    logprob_B = _pick(jax.nn.log_softmax(logits_BV), token_B)
    stopped_B = answers.stopped_B | jnp.isin(token_B, stop_ids)
    put = lambda x_BN, x_B: jax.lax.dynamic_update_slice(x_BN, x_B[:, None], (0, step))
    return _Answers(
        tokens_BN=put(answers.tokens_BN, token_B),
        logprobs_BN=put(answers.logprobs_BN, logprob_B),
        counts_B=answers.counts_B + ~stopped_B,
        stopped_B=stopped_B,
        last_B=token_B,
    )


def _draw(logits_BV, keys_B, step, temperature):
    """One token per row: the best, or the best after Gumbel noise (a draw from the softmax)."""
    V = logits_BV.shape[1]

    def noise(key):
        return jax.random.gumbel(jax.random.fold_in(key, step), (V,), jnp.float32)

    def noisy(logits_BV):
        return logits_BV / temperature + jax.vmap(noise)(keys_B)

    scores_BV = jax.lax.cond(temperature > 0, noisy, lambda logits_BV: logits_BV, logits_BV)
    return jnp.argmax(scores_BV, axis=-1).astype(jnp.int32)


def logprobs(
    config: ModelConfig,
    params: dict,
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[int]],
    *,
    rows: int = 64,
) -> list[np.ndarray]:
    """The log-probability of every token of every completion after its prompt.

    Args:
      config, params: the decoder.
      prompts, completions: token ids, one completion per prompt; a prompt has at least one id.
      rows: sequences computed at a time.

    Returns:
      float32 arrays, one per completion and as long as it.

    Raises:
      UserError: an empty prompt, an id outside the vocabulary, or lists of unequal length.
    """
    if len(prompts) != len(completions):
        raise UserError(f"logprobs: {len(prompts)} prompts but {len(completions)} completions")
    texts = [[*prompt, *answer] for prompt, answer in zip(prompts, completions, strict=True)]
    _check(config, prompts, 1, 1, 1.0, config.vocab_size, rows)
    _check(config, texts, 1, 1, 1.0, config.vocab_size, rows)
    found: list[np.ndarray] = [np.zeros(0, np.float32)] * len(texts)
    asked = [text for text in range(len(texts)) if len(completions[text])]
    for length, batch in _batches(asked, lambda text: len(texts[text]), rows):
        tokens_BT, segment_ids_BT = np.zeros((2, rows, length), np.int32)
        for row, text in enumerate(batch):
            tokens_BT[row, : len(texts[text])] = texts[text]
            segment_ids_BT[row, : len(texts[text])] = 1
        scored = as_batch(tokens_BT, segment_ids_BT, segment_ids_BT)
        logprobs_BT = np.asarray(token_logprobs(config, params, scored))
        for row, text in enumerate(batch):
            # the score of a token stands where its predecessor is
            answer = slice(len(prompts[text]) - 1, len(texts[text]) - 1)
            found[text] = logprobs_BT[row, answer].copy()
    return found


def _pick(values_V, ids):
    """Per row the value at its id: [..., V] and [...] -> [...]."""
    return jnp.take_along_axis(values_V, ids[..., None], axis=-1)[..., 0]


def _batches(items: Sequence, length: Callable, rows: int) -> Iterator[tuple[int, list]]:
    """(bucket, at most `rows` items of it), shortest buckets first, items in their order."""
    groups = collections.defaultdict(list)
    for item in items:
        groups[bucket(length(item))].append(item)
    for size in sorted(groups):
        for start in range(0, len(groups[size]), rows):
            yield size, groups[size][start : start + rows]


def _right_aligned(prompts, rows, length):
    """tokens_BT with the prompts at the right end, and lengths_B; spare rows have length 0."""
    tokens_BT = np.zeros((rows, length), np.int32)
    for row, prompt in enumerate(prompts):
        tokens_BT[row, length - len(prompt) :] = prompt
    return tokens_BT, _padded([len(prompt) for prompt in prompts], rows, np.int32)


def _padded(values, rows, dtype):
    return np.asarray(values + [0] * (rows - len(values)), dtype)


def _prompt_hash(prompt: Sequence[int]) -> int:
    """32 bits that depend on the ids alone, not on the process as Python's `hash` may."""
    data = np.asarray(prompt, "<i4").tobytes()
    return int.from_bytes(hashlib.blake2b(data, digest_size=4).digest(), "little")


def _check(config, prompts, n, max_tokens, temperature, vocab_limit, rows):
    for name, value in (("n", n), ("max_tokens", max_tokens), ("rows", rows)):
        if value < 1:
            raise UserError(f"{name}={value}: must be at least 1")
    if not temperature >= 0:
        raise UserError(f"temperature={temperature}: must be 0 (greedy) or more")
    if not 1 <= vocab_limit <= config.vocab_size:
        raise UserError(f"vocab_limit={vocab_limit}: the model has {config.vocab_size} ids")
    for number, prompt in enumerate(prompts):
        if not len(prompt):
            raise UserError(f"prompt {number} is empty: give at least one token")
        if min(prompt) < 0 or max(prompt) >= config.vocab_size:
            raise UserError(
                f"prompt {number} has ids outside 0..{config.vocab_size - 1}, the model's "
                "vocabulary: was it encoded with this model's tokenizer?"
            )
