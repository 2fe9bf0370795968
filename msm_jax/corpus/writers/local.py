"""A checkpoint of our own as a writer. Its sampler is passed in: this room knows no models."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from msm_jax.corpus.writers.providers import messages_of
from msm_jax.corpus.writers.request import Failure, Reply, Request, Usage
from msm_jax.limits import REPLY_CHARACTERS
from msm_jax.spec import estimated_tokens

# (messages of each prompt, most tokens, temperature, seed) -> (text, whether it ended) of each
Generate = Callable[[Sequence[Sequence[dict[str, str]]], int, float, int], list[tuple[str, bool]]]
ROWS = 64  # requests sampled together


class LocalWriter:
    """A `Backend`. A reply depends on (seed, request), not on what is sampled beside it.

    A sample of `generate` must depend on its seed and prompt only; a request's own sample number is
    added to `seed`.
    """

    def __init__(self, checkpoint: str, generate: Generate, temperature: float, seed: int):
        settings = {"model": checkpoint, "temperature": temperature, "seed": seed}
        self.identity: Mapping[str, Any] = {"writer": "local", **settings}
        self.counts: dict[str, int] = {}
        self.lost = Usage()
        self._generate, self._temperature, self._seed = generate, temperature, seed

    def replies(
        self, requests: Sequence[Request], go_on: Callable[[], bool]
    ) -> Iterator[tuple[int, Reply | Failure]]:
        # Requests with equal limits and seeds are sampled together, in their order.
        settings = [(r.max_tokens, (self._seed + r.sample) % 2**32) for r in requests]
        for limit, seed in dict.fromkeys(settings):
            numbers = [at for at, own in enumerate(settings) if own == (limit, seed)]
            for start in range(0, len(numbers), ROWS):
                if not go_on():
                    return
                chunk = numbers[start : start + ROWS]
                prompts = [messages_of(requests[at], structured=False) for at in chunk]
                found = self._generate(prompts, limit, self._temperature, seed)
                for at, prompt, (text, ended) in zip(chunk, prompts, found, strict=True):
                    read = sum(estimated_tokens(m["content"]) for m in prompt)
                    usage = Usage(read, estimated_tokens(text))
                    stop = "end" if ended and len(text) <= REPLY_CHARACTERS else "length"
                    yield at, Reply(text[:REPLY_CHARACTERS], stop, usage)
