"""A sampler in pure JAX: prompts read once, rows refilled as they finish.

The rows in flight are P prompts with M answers each (see `msm_jax.model.decode`). When an answer
ends, its row takes the prompt's next sample; when a prompt has none left and its answers have
ended, the next prompt takes its place. The device runs a chunk of tokens for all rows while the
host looks at the chunk before, so nobody waits; an answer that has ended idles for a chunk at most.

A sample's random numbers come from (seed, prompt, sample index, position, token id), so a sample
does not depend on what else is asked for. (Up to rounding: the shapes that it is computed in follow
from `rows`, `n`, the number of prompts and the longest answers in flight.) Programs are compiled
per bucket of prompt lengths and per doubling of the rings, however many prompts there are.
"""

import collections
import dataclasses
import functools
import hashlib
import itertools
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from msm_jax.errors import UserError
from msm_jax.model import ModelConfig, decode, logits
from msm_jax.model.decode import CHUNK
from msm_jax.sample.draw import HOTTEST, draw
from msm_jax.sample.settings import check_settings

SMALLEST_BUCKET = 32
FIRST_RING = 128  # slots; doubled when an answer needs more
ANSWERS = 16  # in flight per prompt, unless there are too few prompts to fill the rows
OUT_OF_MEMORY = ("RESOURCE_EXHAUSTED", "Out of memory")
PREFILL_TOKENS = 2048  # short prompts are read several at a time, up to this many tokens
PRNG = "threefry2x32"  # whatever jax's default may be: the same seed, the same answers


@dataclasses.dataclass(frozen=True)
class Sample:
    """One answer.

    Attributes:
      prompt: index of the prompt in the call.
      index: which of the prompt's n samples this is.
      tokens: ids without the stop id; where a text ended the answer, the fewest that hold what is
        before it (the last of them may also hold the beginning of the stop).
      logprobs: of each token, under the model itself: temperature 1, all ids below `vocab_limit`.
        The same numbers as `logprobs` gives.
      finish_reason: "stop" or "length": `max_tokens`, or the model's context, is used up.
      text: the tokens as text up to the stop, where a tokenizer was at hand.
    """

    prompt: int
    index: int
    tokens: list[int]
    logprobs: list[float]
    finish_reason: str
    text: str | None = None


def bucket(length: int, smallest: int = SMALLEST_BUCKET) -> int:
    """The power of two, at least `smallest`, that holds this many tokens."""
    return max(smallest, 1 << max(length - 1, 0).bit_length())


def sample(config: ModelConfig, params: dict, prompts: Sequence, **settings) -> list[list[Sample]]:
    """For every prompt its n samples, in their order. Arguments and errors as for `stream`."""
    found: list[list[Sample]] = [[] for _ in prompts]
    for answer in stream(config, params, prompts, **settings):
        found[answer.prompt].append(answer)
    return [sorted(answers, key=lambda answer: answer.index) for answers in found]


def stream(
    config: ModelConfig,
    params: dict,
    prompts: Sequence[Sequence[int]],
    *,
    n: int = 1,
    first: int = 0,
    max_tokens: int = 256,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    seed: int = 0,
    stop_ids: Sequence[int] = (),
    stop: Callable[[Sequence[int]], tuple[int, str] | None] | None = None,
    vocab_limit: int | None = None,
    context_length: int | None = None,
    rows: int = 64,
    limits: Callable[[int, int], int] | None = None,
    mesh: jax.sharding.Mesh | None = None,
) -> Iterator[Sample]:
    """Draw n answers to every prompt; each is given as soon as it has ended.

    Args:
      config, params: the decoder.
      prompts: token ids, at least one per prompt.
      n: answers per prompt.
      first: index of the first of them, so that a long draw can be taken in parts.
      max_tokens: of one answer; at most this many.
      temperature, top_k, top_p, min_p: as in `draw`.
      seed: of the draw, 32 bits; an answer is a function of (seed, prompt, index) for given
        weights.
      stop_ids: tokens that end an answer; they are not part of it.
      stop: says of an answer's tokens so far how many of them are to be kept and which text they
        are if it ends there, or None where it goes on. It is asked once per chunk.
      vocab_limit: ids from here on are never drawn (rows of a padded embedding table).
      context_length: tokens of a prompt and its answer together, at most; None: no bound. An
        answer that comes to it ends with "length".
      rows: answers computed at a time; half as many where they do not fit into memory.
      limits: of (prompt, index), at most how many tokens that answer gets, up to max_tokens; 0
        leaves it out. None: max_tokens for all.
      mesh: that the params are cut by.

    Raises:
      UserError: an empty prompt or one that leaves no room for an answer, an id outside the
        vocabulary, a number out of range, too little memory for one row, or weights whose scores
        are not finite.
    """
    check_settings(n=n, first=first, max_tokens=max_tokens, rows=rows, seed=seed)
    check_settings(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    limit = config.vocab_size if vocab_limit is None else vocab_limit
    check_prompts(config, prompts, limit, context_length)
    room = [max_tokens if context_length is None else context_length - len(p) for p in prompts]
    by_bucket: dict[int, list] = collections.defaultdict(list)
    for number, prompt in enumerate(prompts):
        most = {
            index: min(max_tokens, room[number], limits(number, index) if limits else max_tokens)
            for index in range(first, first + n)
        }
        if any(limit > 0 for limit in most.values()):
            by_bucket[bucket(len(prompt) - 1)].append((number, prompt, most))
    how = {
        "key": jax.random.key(np.uint32(seed), impl=PRNG),
        "stop_ids": np.asarray(sorted(stop_ids) or [-1], np.int32),
        "vocab_limit": np.int32(limit),
        "temperature": np.float32(min(temperature, HOTTEST)),
        "top_k": np.int32(min(top_k, limit)),
        "top_p": np.float32(top_p),
        "min_p": np.float32(min_p),
    }
    config = dataclasses.replace(config, attention="auto", remat="none")  # were for training
    layers = decode.unstacked(params)
    longest = bucket(min(max_tokens, max(room, default=1)))
    for length, asked in _together(config, params, by_bucket, rows):
        make = lambda P, M, length=length: _Flight(
            config, params, layers, how, P, M, length, longest, stop, mesh
        )
        rows = yield from _all_answers(make, asked, rows)


def _together(config, params, by_bucket, rows):
    """[(length, prompts that are answered together)], by the length that they are padded to.

    A step reads the weights once for all rows. So prompts that do not fill the rows join longer
    ones, as long as reading their keys and padding costs less than the weights once more.
    """
    weights = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    token = 2 * config.layers * config.kv_heads * config.head_dim
    token *= jnp.dtype(config.compute_dtype).itemsize
    groups, few, few_length = [], [], 0
    for length, asked in sorted(by_bucket.items()):
        if few and len(few) * length * token > weights:
            groups.append((few_length, few))
            few = []
        few, few_length = few + asked, length
        if sum(limit > 0 for _, _, most in few for limit in most.values()) >= rows:
            groups.append((length, few))
            few = []
    return [*groups, (few_length, few)] if few else groups


def _all_answers(make, asked, rows):
    """Gives the answers to the prompts of one bucket; returns how many rows fitted into memory.

    With fewer rows no answer changes, since its random numbers are its own.
    """
    while True:
        queue = [
            (prompt, [_Row(number, index, most[index]) for index in most if most[index] > 0])
            for number, prompt, most in asked
        ]
        queue = [(prompt, answers) for prompt, answers in queue if answers]
        if not queue:
            return rows
        try:
            flight = make(*_shape(len(queue), max(len(answers) for _, answers in queue), rows))
            by_number = {number: most for number, _, most in asked}
            for answer in flight.run(queue):
                by_number[answer.prompt][answer.index] = 0
                yield answer
            return rows
        except (jax.errors.JaxRuntimeError, ValueError) as error:
            if not any(words in str(error) for words in OUT_OF_MEMORY):
                raise
            # Other processes would go on with as many rows as before.
            if rows == 1 or jax.process_count() > 1:
                raise UserError(
                    f"sampling with rows={rows} ran out of the device's memory; take fewer rows, "
                    f"shorter prompts or a mesh over more devices ({str(error).splitlines()[0]})"
                ) from None
        flight, rows = None, rows // 2
        logging.warning("out of memory: sampling goes on with %d rows at a time", rows)


def _shape(prompts: int, n: int, rows: int) -> tuple[int, int]:
    """(P, M): prompts in flight, and answers of each."""
    up = lambda count: 1 << (count - 1).bit_length()
    M = min(up(n), max(min(ANSWERS, rows), up(-(-rows // prompts))), rows)
    return min(max(1, rows // M), up(prompts)), M


@dataclasses.dataclass
class _Row:
    """An answer in the making."""

    prompt: int
    index: int
    limit: int
    tokens: list[int] = dataclasses.field(default_factory=list)
    logprobs: list[float] = dataclasses.field(default_factory=list)
    started: int = 0  # the chunk it began with
    ended: bool = False


class _Flight:
    """All answers to the prompts of one bucket."""

    def __init__(self, config, params, layers, how, P, M, length, longest, stop, mesh):
        self.config, self.params, self.layers, self.how = config, params, layers, how
        self.P, self.M, self.length, self.longest = P, M, length, longest
        self.stop, self.mesh = stop, mesh
        self.prompts = decode.empty(config, P, length, mesh)
        self.rings = decode.empty_rings(config, P, M, min(FIRST_RING, longest), mesh)
        self.rows = _fresh_rows(P, M)
        self.in_row: list[list[_Row | None]] = [[None] * M for _ in range(P)]
        self.left: list[collections.deque] = [collections.deque() for _ in range(P)]
        self.asked: list[Sequence[int]] = [()] * P  # the prompt in each place

    def run(self, queue) -> Iterator[Sample]:
        queue = collections.deque(queue)
        looked_at: Any = None  # the chunk that the device is at, or has done
        for chunk in itertools.count():
            self._admit(queue)
            begun = self._begin(chunk)
            # A row may be given to another answer before this chunk is looked at.
            whose = [list(rows) for rows in self.in_row]
            alive = [row for rows in whose for row in rows if row]
            if alive:
                self._make_room(alive, chunk)
                self.rings, self.rows, found = _run_chunk(
                    self.config, self.layers, self.prompts, self.rings, self.rows, begun, self.how
                )
                for array in found:
                    array.copy_to_host_async()
            if looked_at:
                yield from self._look(*looked_at)
            looked_at = (whose, found) if alive else None
            if not looked_at and not queue and not any(self.left):
                return

    def _admit(self, queue) -> None:
        """Read prompts into places whose answers have all ended."""
        free = [
            place for place in range(self.P) if not self.left[place] and not any(self.in_row[place])
        ][: len(queue)]
        most = max(1, min(self.P, PREFILL_TOKENS // self.length))
        while free:
            size = most if len(free) > 1 else 1
            places, free = free[:size], free[size:]
            tokens_BS = np.zeros((size, self.length), np.int32)
            lengths_B, places_B = np.zeros(size, np.int32), np.full(size, self.P, np.int32)
            for at, place in enumerate(places):
                ids, answers = queue.popleft()
                self.asked[place], self.left[place] = ids, collections.deque(answers)
                tokens_BS[at, : len(ids) - 1] = ids[:-1]
                lengths_B[at], places_B[at] = len(ids) - 1, place
            self.prompts = _read_prompts(
                self.config, self.mesh, self.params, self.prompts, tokens_BS, lengths_B, places_B
            )

    def _begin(self, chunk):
        """Give free rows their prompts' next samples; what the device has to know of them."""
        new_PM = np.zeros((self.P, self.M), bool)
        token_PM, index_PM, limit_PM = np.zeros((3, self.P, self.M), np.int32)
        hash_P = np.zeros(self.P, np.uint32)
        for place in range(self.P):
            for m in range(self.M):
                if self.in_row[place][m] is None and self.left[place]:
                    row = self.left[place].popleft()
                    self.in_row[place][m], row.started = row, chunk
                    new_PM[place, m], token_PM[place, m] = True, self.asked[place][-1]
                    index_PM[place, m], limit_PM[place, m] = row.index, row.limit
                    hash_P[place] = _prompt_hash(self.asked[place])
        return new_PM, token_PM, index_PM, limit_PM, hash_P

    def _make_room(self, alive, chunk) -> None:
        """Rings long enough for the chunk that comes."""
        oldest = min(row.started for row in alive)
        while self.rings.slots < min((chunk - oldest + 1) * CHUNK, self.longest):
            self.rings = _grow(self.rings)

    def _look(self, whose, found) -> Iterator[Sample]:
        """Answers that ended in a chunk."""
        tokens_CPM, logprobs_CPM = (np.asarray(array) for array in found)
        stops_CPM = np.isin(tokens_CPM, self.how["stop_ids"])
        first_PM = np.where(stops_CPM.any(axis=0), stops_CPM.argmax(axis=0), CHUNK)
        for place, rows in enumerate(whose):
            for m, row in enumerate(rows):
                if row is None or row.ended:
                    continue
                first, room = int(first_PM[place, m]), row.limit - len(row.tokens)
                row.tokens += tokens_CPM[: min(first, room), place, m].tolist()
                row.logprobs += logprobs_CPM[: min(first, room), place, m].tolist()
                if not np.isfinite(row.logprobs[-CHUNK:]).all():
                    raise UserError(
                        f"the model's scores for prompt {row.prompt} are not finite: its weights "
                        f"are damaged, or {self.config.dtype} cannot hold what they lead to"
                    )
                reason = "stop" if first < min(room, CHUNK) else "length" if room <= CHUNK else None
                text, ending = None, self.stop(row.tokens) if self.stop else None
                if ending is not None:
                    reason, (kept, text) = "stop", ending
                    del row.tokens[kept:], row.logprobs[kept:]
                if reason:
                    row.ended = True
                    if self.in_row[place][m] is row:
                        self.in_row[place][m] = None
                    yield Sample(row.prompt, row.index, row.tokens, row.logprobs, reason, text)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Rows:
    """What the device knows of the rows: the last token, how many so far, and at most."""

    token_PM: jax.Array
    age_PM: jax.Array
    limit_PM: jax.Array
    ended_PM: jax.Array
    key_PM: jax.Array


def _fresh_rows(P, M):
    zeros = lambda: jnp.zeros((P, M), jnp.int32)  # each its own memory, to be handed on
    keys_PM = jnp.broadcast_to(jax.random.key(0, impl=PRNG), (P, M))
    return _Rows(zeros(), zeros(), zeros(), jnp.ones((P, M), bool), keys_PM)


_grow = jax.jit(decode.Rings.grown)


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=(3,))
def _read_prompts(config, mesh, params, prompts, tokens_BS, lengths_B, places_B):
    """Prompts with these in their places; a place beyond the last is nowhere."""
    read = decode.prefill(config, params, tokens_BS, lengths_B, mesh)
    put = lambda old, new: old.at[places_B].set(new, mode="drop")
    return jax.tree.map(put, prompts, read)


@functools.partial(jax.jit, static_argnums=0, donate_argnums=(3, 4))
def _run_chunk(config, params, prompts, rings, rows, begun, how):
    """CHUNK tokens of all rows: (rings, rows, (tokens_CPM, logprobs_CPM))."""
    new_PM, token_PM, index_PM, limit_PM, hash_P = begun
    fold_in = jax.vmap(jax.vmap(jax.random.fold_in, (None, 0)))
    key_P = jax.vmap(jax.random.fold_in, (None, 0))(how["key"], hash_P)
    keys_PM = fold_in(key_P, index_PM.astype(jnp.uint32))
    rows = _Rows(
        jnp.where(new_PM, token_PM, rows.token_PM),
        jnp.where(new_PM, 0, rows.age_PM),
        jnp.where(new_PM, limit_PM, rows.limit_PM),
        jnp.where(new_PM, False, rows.ended_PM),
        jnp.where(new_PM, keys_PM, rows.key_PM),
    )
    P, M = new_PM.shape

    def unfinished(carry):
        newest, rows, _ = carry
        return (newest.filled < CHUNK) & ~jnp.all(rows.ended_PM)

    def one_token(carry):
        newest, rows, (tokens_CPM, logprobs_CPM) = carry
        step = newest.filled
        hidden_PMD, newest = decode.decode(
            config, params, prompts, rings, newest, rows.token_PM, rows.age_PM
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
    return rings.joined(newest), rows, found


def masked(logits_V, vocab_limit):
    """Scores [..., V] with no probability from `vocab_limit` on."""
    known_V = jnp.arange(logits_V.shape[-1]) < vocab_limit
    return jnp.where(jnp.expand_dims(known_V, range(logits_V.ndim - 1)), logits_V, -jnp.inf)


def _prompt_hash(prompt: Sequence[int]) -> int:
    """32 bits that depend on the ids alone, not on the process as Python's `hash` may."""
    data = np.asarray(prompt, "<i4").tobytes()
    return int.from_bytes(hashlib.blake2b(data, digest_size=4).digest(), "little")


def check_prompts(config, prompts, vocab_limit, context_length=None, room=1) -> None:
    """UserError for prompts that are empty, of another vocabulary, or that do not leave so much
    room in the context."""
    if not 1 <= vocab_limit <= config.vocab_size:
        raise UserError(f"vocab_limit={vocab_limit}: the model has {config.vocab_size} ids")
    check_settings(context_length=context_length)
    for number, prompt in enumerate(prompts):
        if not len(prompt):
            raise UserError(f"prompt {number} is empty: give at least one token")
        if min(prompt) < 0 or max(prompt) >= vocab_limit:
            raise UserError(
                f"prompt {number} has ids outside 0..{vocab_limit - 1}, the model's "
                "vocabulary: was it encoded with this model's tokenizer?"
            )
        if context_length is not None and len(prompt) + room > context_length:
            raise UserError(
                f"prompt {number} has {len(prompt):,} tokens{'' if room else ' with its answer'}; "
                f"prompt and answer must fit into the model's context of {context_length:,} "
                "(max_position_embeddings): shorten it, or give a larger context_length to go "
                "beyond what the model was made for"
            )


def filled_context(answer: Sample, prompt: int, max_tokens: int, context: int | None) -> bool:
    """Whether an answer to a prompt of so many tokens was ended by the model's context."""
    used = prompt + len(answer.tokens)
    cut = answer.finish_reason == "length" and len(answer.tokens) < max_tokens
    return context is not None and cut and used >= context
