"""Completions of a model: drawn, or scored. The names below are imported on first use, because
`msm_jax.sample.settings` needs neither JAX nor a model."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from msm_jax.sample.sampler import Sample, filled_context, sample, stream
    from msm_jax.sample.scoring import logprobs

__all__ = ["Sample", "filled_context", "logprobs", "sample", "stream"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from msm_jax.sample import sampler, scoring

    return getattr(scoring if name == "logprobs" else sampler, name)
