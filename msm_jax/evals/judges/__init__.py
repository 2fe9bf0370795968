"""Judges: what turns a transcript into yes, no, or an honest nothing."""

from msm_jax.evals.judges.base import Judge, Judgement, Request

__all__ = ["Judge", "Judgement", "Request"]
