"""Who writes: models behind an API, our own sampler, or a stub for checks of the pipeline."""

from msm_jax.corpus.writers.journal import Journal
from msm_jax.corpus.writers.request import Backend, Failure, Items, Reply, Request, Usage
from msm_jax.corpus.writers.writer import Answer, Writer

__all__ = [
    "Answer", "Backend", "Failure", "Items", "Journal", "Reply", "Request", "Usage", "Writer",
]  # fmt: skip
