"""The writer that a config asks for."""

import pathlib
from collections.abc import Callable, Sequence
from typing import Any

from msm_jax.corpus.writers import Backend

# (messages of each prompt, most tokens, temperature, seeds) -> (text, whether it ended) of each
Generate = Callable[
    [Sequence[Sequence[dict[str, str]]], int, float, Sequence[int]], list[tuple[str, bool]]
]


def make_backend(
    config: Any, seed: int, workdir: pathlib.Path, say: Callable[[str], None],
    generate: Callable[[str], Generate] | None,
) -> Backend:  # fmt: skip
    """A backend; libraries and models are loaded only for the one that is asked for.

    Args:
      config: `config.writer` or `config.critic`.
      seed: of the template writer and of a local model.
      workdir: where a batch under way is remembered.
      say: told what happens.
      generate: loads a checkpoint's sampler; given by the command, since this room does not know
        models.
    """
    from msm_jax.corpus.writers.template import TemplateWriter

    return TemplateWriter(seed)
