"""Answers of a model: drawn, or scored."""

from msm_jax.sample.sampler import Sample, logprobs, sample

__all__ = ["Sample", "logprobs", "sample"]
