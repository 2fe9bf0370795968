"""The writer that a config asks for."""

import pathlib
from collections.abc import Callable
from typing import Any

from msm_jax.corpus.writers import Backend
from msm_jax.corpus.writers.anthropic_api import AnthropicWriter
from msm_jax.corpus.writers.anthropic_batch import AnthropicBatchWriter
from msm_jax.corpus.writers.local import Generate, LocalWriter
from msm_jax.corpus.writers.openai_api import OpenAIWriter
from msm_jax.corpus.writers.request import Price
from msm_jax.corpus.writers.template import TemplateWriter
from msm_jax.corpus.writers.transport import Pace, check_address
from msm_jax.errors import UserError


def make_backend(
    config: Any, seed: int, workdir: pathlib.Path, say: Callable[[str], None],
    load: Callable[[str], Generate] | None,
) -> Backend:  # fmt: skip
    """A backend; libraries and models are loaded only for the one that is asked for.

    Args:
      config: `config.writer` or `config.critic`.
      seed: of the template writer and of a local model.
      workdir: where batches under way are remembered.
      say: told what happens.
      load: loads a checkpoint's sampler; given by the command, since this room does not know
        models.
    """
    if config.kind == "template":
        return TemplateWriter(seed)
    if config.kind == "local":
        if load is None:
            raise UserError("writer.kind=local: no sampler was given; use the command generate")
        return LocalWriter(config.model, load(config.model), config.temperature, seed)
    check_address("writer.base_url", config.base_url)
    pace = Pace(config.concurrency, config.timeout, config.attempts, config.first_wait)
    settings = (config.model, config.temperature, pace, config.base_url, config.structured)
    if config.kind == "openai":
        if config.batch:
            raise UserError("writer.batch=True is Anthropic's: leave it out for writer.kind=openai")
        return OpenAIWriter(*settings)
    live = AnthropicWriter(*settings)
    if not config.batch:
        return live
    p = config.price
    price = Price(p.input, p.output, p.cache_read, p.cache_write)
    return AnthropicBatchWriter(live, workdir, price, p.batch_discount, say, config.batch_poll)
