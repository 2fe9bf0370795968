"""The writer that a config names."""

import pathlib
from collections.abc import Callable
from typing import Any

from msm_jax.corpus.writers import Backend
from msm_jax.corpus.writers.batches import AnthropicBatches
from msm_jax.corpus.writers.client import Pace, check_address
from msm_jax.corpus.writers.local import Generate, LocalWriter
from msm_jax.corpus.writers.providers import CLIENTS, AnthropicClient
from msm_jax.corpus.writers.request import Price
from msm_jax.corpus.writers.stub import StubWriter
from msm_jax.errors import UserError


def make_backend(
    config: Any, seed: int, workdir: pathlib.Path, say: Callable[[str], None],
    load: Callable[[str], Generate] | None,
) -> Backend:  # fmt: skip
    """The backend of `config.writer` or `config.critic`; only its own library is imported.

    `load` loads a checkpoint's sampler; it is passed in, since this room does not know models.
    """
    if config.kind == "stub":
        return StubWriter(seed)
    if config.kind == "local":
        if load is None:
            raise UserError("writer.kind=local: no sampler was passed; use the command generate")
        return LocalWriter(config.model, load(config.model), config.temperature, seed)
    check_address("writer.base_url", config.base_url)
    pace = Pace(config.concurrency, config.timeout, config.attempts, config.first_wait)
    client = CLIENTS[config.kind](
        config.model, config.temperature, pace, config.base_url, config.structured
    )
    if not config.batch:
        return client
    if not isinstance(client, AnthropicClient):
        raise UserError("writer.batch=True is Anthropic's: leave it out for writer.kind=openai")
    discount = config.price.batch_discount
    return AnthropicBatches(client, workdir, price_of(config), discount, say, config.batch_poll)


def price_of(config: Any) -> Price:
    """The price in `config.writer` or `config.critic`."""
    price = config.price
    return Price(price.input, price.output, price.cache_read, price.cache_write)
