"""Answers of a model: drawn, or scored."""

from msm_jax.sample.sampler import Sample, sample, stream
from msm_jax.sample.scoring import logprobs

__all__ = ["Sample", "logprobs", "sample", "stream"]
