"""A sampler in pure JAX: prompts are read once, rows are refilled as they finish.

The rows in flight are P prompts with M completions each (see `msm_jax.model.decode`). When a
completion ends, its row takes the prompt's next sample; when a prompt has none left and its
completions have ended, the next prompt takes its place. The device runs a chunk of tokens for all
rows while the host reads the previous chunk, so neither waits; a completion that has ended wastes
at most a chunk.

A sample's random numbers come from (seed, prompt, sample index, position, token id), so a sample
does not depend on what else is requested (up to rounding: the shapes that it is computed in follow
from `rows`, `n`, `max_tokens`, and the number and lengths of prompts). The program that draws is
compiled for the numbers of slots that prompts and completions have room for, see `_slots`; the one
that reads prompts, for each bucket of their lengths.
"""

import collections
import dataclasses
import functools
import hashlib
import logging
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from msm_jax.errors import UserError
from msm_jax.model import ModelConfig, decode
from msm_jax.model.decode import CHUNK
from msm_jax.sample import device
from msm_jax.sample.draw import HOTTEST
from msm_jax.sample.settings import check_settings

SMALLEST_BUCKET = 32  # tokens
# Of the memory beside the weights, what prompts, and rings, may take beyond need; and in slots.
SPARE, MOST_SPARE = 1 / 8, 2048
COMPLETIONS = 16  # in flight per prompt, unless there are too few prompts to fill the rows
OUT_OF_MEMORY = ("RESOURCE_EXHAUSTED", "Out of memory")
PREFILL_TOKENS = 2048  # short prompts are read several at a time, up to this many tokens


@dataclasses.dataclass(frozen=True)
class Sample:
    """One completion.

    Attributes:
      prompt: index of the prompt in the call.
      index: which of the prompt's n samples this is.
      tokens: ids without the stop id; if a text ended the completion, the fewest that hold what is
        before it (the last of them may also hold the beginning of the stop).
      logprobs: of each token, under the model itself: temperature 1, all ids below `vocab_limit`.
        The same numbers as `logprobs` gives.
      finish_reason: "stop", or "length" if `max_tokens` or the model's context is used up.
      text: the tokens as text up to the stop; None without a tokenizer.
    """

    prompt: int
    index: int
    tokens: list[int]
    logprobs: list[float]
    finish_reason: str
    text: str | None = None


def bucket(length: int, smallest: int = SMALLEST_BUCKET) -> int:
    """The smallest power of two that is at least `length` and `smallest`."""
    return max(smallest, 1 << max(length - 1, 0).bit_length())


def by_prompt(prompts: int, samples: Iterable[Sample]) -> list[list[Sample]]:
    """The samples of each of so many prompts, in the order of their indices."""
    found: list[list[Sample]] = [[] for _ in range(prompts)]
    for each in samples:
        found[each.prompt].append(each)
    return [sorted(each, key=lambda sample: sample.index) for each in found]


def sample(
    config: ModelConfig, params: dict, prompts: Sequence, **settings: Any
) -> list[list[Sample]]:
    """For every prompt its n samples, in their order. Arguments and errors as for `stream`."""
    return by_prompt(len(prompts), stream(config, params, prompts, **settings))


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
    mesh: Mesh | None = None,
) -> Iterator[Sample]:
    """Draw n samples for every prompt of token ids; each is yielded as soon as it has ended.

    Args:
      first: index of the first sample of a prompt, so that a long draw can be done in parts.
      max_tokens: of one sample, at most.
      temperature, top_k, top_p, min_p: as in `draw`.
      seed: 32 bits; for given weights a sample is a function of (seed, prompt, index).
      stop_ids: tokens that end a sample; they are not part of it.
      stop: called once per chunk with a sample's tokens so far; returns how many of them to keep
        and their text if it ends there, or None if it continues.
      vocab_limit: ids from here on are never drawn (rows of a padded embedding table).
      context_length: tokens of a prompt and its sample together, at most; None: no bound. A sample
        that reaches it ends with "length".
      rows: samples computed at a time; halved while they do not fit into memory.
      limits: (prompt, index) -> at most how many tokens that sample gets; 0 leaves it out.
      mesh: that shards the params.

    Raises:
      UserError: an empty prompt or one that leaves no room for a sample, an id outside the
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
        if most := {index: limit for index, limit in most.items() if limit > 0}:
            by_bucket[bucket(len(prompt) - 1)].append((number, prompt, most))
    how = {
        "key": jax.random.key(np.uint32(seed), impl=device.PRNG),
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
    for length, group in _groups(config, params, by_bucket, rows):
        make = lambda P, M, length=length: _Batch(
            config, params, layers, how, P, M, length, longest, stop, mesh
        )
        rows = yield from _all_samples(make, group, rows)


# (number of the prompt, its ids, {index of a sample: at most how many tokens it gets}).
_Request = tuple[int, Sequence[int], dict[int, int]]


def _groups(
    config: ModelConfig, params: dict, by_bucket: Mapping[int, list[_Request]], rows: int
) -> list[tuple[int, list[_Request]]]:
    """[(length, prompts that are sampled together)], by the length that they are padded to.

    A step reads the weights once for all rows. So prompts that do not fill the rows join longer
    ones, as long as reading their keys and padding costs less than reading the weights again.
    """
    weights, token = _sizes(config, params)
    groups: list[tuple[int, list[_Request]]] = []
    few: list[_Request] = []
    few_length = 0
    for length, requests in sorted(by_bucket.items()):
        if few and len(few) * length * token > weights:
            groups.append((few_length, few))
            few = []
        few, few_length = few + requests, length
        if sum(len(most) for _, _, most in few) >= rows:
            groups.append((length, few))
            few = []
    return [*groups, (few_length, few)] if few else groups


def _sizes(config: ModelConfig, params: dict) -> tuple[int, int]:
    """Bytes of the weights, and of the keys and values of one token."""
    values = 2 * config.layers * config.kv_heads * config.head_dim
    weights = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    return weights, values * jnp.dtype(config.compute_dtype).itemsize


def _slots(config: ModelConfig, params: dict, mesh: Mesh | None, rows: int, needed: int) -> int:
    """Tokens that each of `rows` has room for: `needed`, or more where memory is plentiful.

    Only the slots in use are read, so more cost no time, and longer texts need no other program.
    The number follows from the model, the rows and the device, not from what is in memory.
    """
    weights, token = _sizes(config, params)
    limit = (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit", 0)
    room = limit * (mesh.size if mesh is not None else 1) - 2 * weights if limit else weights
    spare = max(1, min(int(SPARE * room) // (rows * token), MOST_SPARE))
    return max(needed, 1 << (spare.bit_length() - 1))


def _all_samples(
    make: Callable[[int, int], "_Batch"], requests: list[_Request], rows: int
) -> Generator[Sample, None, int]:
    """The samples of the prompts of one bucket; returns how many rows fitted into memory.

    With fewer rows no sample changes, since its random numbers are its own.
    """
    while True:
        queue = [
            (prompt, [_Row(number, index, limit) for index, limit in most.items()])
            for number, prompt, most in requests
            if most
        ]
        if not queue:
            return rows
        try:
            batch = make(*_shape(len(queue), max(len(left) for _, left in queue), rows))
            missing = {number: most for number, _, most in requests}
            for each in batch.run(queue):
                del missing[each.prompt][each.index]
                yield each
            return rows
        except (jax.errors.JaxRuntimeError, ValueError) as error:
            if not any(words in str(error) for words in OUT_OF_MEMORY):
                raise
            # Other processes would continue with as many rows as before.
            if rows == 1 or jax.process_count() > 1:
                raise UserError(
                    f"sampling with rows={rows} ran out of the device's memory; use fewer rows, "
                    f"shorter prompts or a mesh over more devices ({str(error).splitlines()[0]})"
                ) from None
        batch, rows = None, rows // 2  # frees its memory first
        logging.warning("out of memory: sampling goes on with %d rows at a time", rows)


def _shape(prompts: int, n: int, rows: int) -> tuple[int, int]:
    """(P, M): prompts in flight, and samples of each."""
    M = min(bucket(n, 1), max(min(COMPLETIONS, rows), bucket(-(-rows // prompts), 1)), rows)
    return min(max(1, rows // M), bucket(prompts, 1)), M


@dataclasses.dataclass
class _Row:
    """A sample that is being drawn."""

    prompt: int
    index: int
    limit: int
    tokens: list[int] = dataclasses.field(default_factory=list)
    logprobs: list[float] = dataclasses.field(default_factory=list)
    ended: bool = False


_InRow = list[list[_Row | None]]  # [P][M]


@dataclasses.dataclass
class _Batch:
    """The rows in flight, of prompts of one bucket of `length`; `longest` bounds completions."""

    config: ModelConfig
    params: dict
    layers: dict
    how: Mapping[str, Any]
    P: int
    M: int
    length: int
    longest: int
    stop: Callable[[Sequence[int]], tuple[int, str] | None] | None
    mesh: Mesh | None

    def __post_init__(self) -> None:
        P, M, slots = self.P, self.M, functools.partial(_slots, self.config, self.params, self.mesh)
        S, R = slots(P, self.length), slots(P * M, self.longest)
        state = device.empty_state(self.config, self.mesh, P, M, S, R)
        place = getattr(jax.tree.leaves(self.params)[0], "sharding", None)
        if self.mesh is None and place is not None:  # as the device will give them back
            if isinstance(place, NamedSharding):
                place = NamedSharding(place.mesh, PartitionSpec())
            state = jax.device_put(state, place)
        self.prompts, self.rings, self.rows = state
        self.in_row: _InRow = [[None] * M for _ in range(P)]
        self.left: list[collections.deque] = [collections.deque() for _ in range(P)]
        self.ids: list[Sequence[int]] = [()] * P  # of the prompt in each place

    def run(self, requests: Iterable[tuple[Sequence[int], list[_Row]]]) -> Iterator[Sample]:
        """All samples of these prompts, each as soon as it has ended."""
        queue = collections.deque(requests)
        running: Any = None  # rows and arrays of the chunk that the device computes
        while True:
            self._admit(queue)
            begun = self._begin()
            # A row may be given to another sample before this chunk is read.
            rows = [list(row) for row in self.in_row]
            alive = [row for some in rows for row in some if row]
            if alive:
                self.rings, self.rows, found = device.run_chunk(
                    self.config,
                    self.layers,
                    self.prompts,
                    self.rings,
                    self.rows,
                    begun,
                    self.how,
                    self.mesh,
                )
                for array in found:
                    array.copy_to_host_async()
            if running:
                yield from self._read(*running)
            running = (rows, found) if alive else None
            if not running and not queue and not any(self.left):
                return

    def _admit(self, queue: collections.deque) -> None:
        """Read prompts into places whose samples have all ended."""
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
                ids, rows = queue.popleft()
                self.ids[place], self.left[place] = ids, collections.deque(rows)
                tokens_BS[at, : len(ids) - 1] = ids[:-1]
                lengths_B[at], places_B[at] = len(ids) - 1, place
            self.prompts = device.read_prompts(
                self.config, self.mesh, self.params, self.prompts, tokens_BS, lengths_B, places_B
            )

    def _begin(self) -> tuple[np.ndarray, ...]:
        """Give free rows their prompts' next samples; returns what the device needs to know.

        That is (new_PM, token_PM, index_PM, limit_PM, hash_P).
        """
        new_PM = np.zeros((self.P, self.M), bool)
        token_PM, index_PM, limit_PM = np.zeros((3, self.P, self.M), np.int32)
        hash_P = np.zeros(self.P, np.uint32)
        for place, m in np.ndindex(self.P, self.M):
            if self.in_row[place][m] is None and self.left[place]:
                row = self.left[place].popleft()
                self.in_row[place][m] = row
                new_PM[place, m], token_PM[place, m] = True, self.ids[place][-1]
                index_PM[place, m], limit_PM[place, m] = row.index, row.limit
                hash_P[place] = _prompt_hash(self.ids[place])
        return new_PM, token_PM, index_PM, limit_PM, hash_P

    def _read(self, rows: _InRow, found: Sequence[Array]) -> Iterator[Sample]:
        """The samples that ended in a chunk."""
        tokens_CPM, logprobs_CPM = (np.asarray(array) for array in found)
        stops_CPM = np.isin(tokens_CPM, self.how["stop_ids"])
        first_PM = np.where(stops_CPM.any(axis=0), stops_CPM.argmax(axis=0), CHUNK)
        for place, m in np.ndindex(self.P, self.M):
            row = rows[place][m]
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


def _prompt_hash(prompt: Sequence[int]) -> int:
    """32 bits that depend on the ids alone, unlike Python's `hash`."""
    data = np.asarray(prompt, "<i4").tobytes()
    return int.from_bytes(hashlib.blake2b(data, digest_size=4).digest(), "little")


def check_prompts(
    config: ModelConfig,
    prompts: Sequence[Sequence[int]],
    vocab_limit: int,
    context_length: int | None = None,
    room: int = 1,
) -> None:
    """UserError for a prompt that is empty, has ids outside the vocabulary, or is too long.

    A prompt and `room` tokens more (0 if the completion is part of it) fit into `context_length`.
    """
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
    """Whether the model's context ended the completion of a prompt of so many tokens."""
    used = prompt + len(answer.tokens)
    too_short = answer.finish_reason == "length" and len(answer.tokens) < max_tokens
    return context is not None and too_short and used >= context
