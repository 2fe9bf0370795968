"""Judges: what turns a transcript into yes, no, or an honest nothing."""

from msm_jax.evals.judges.base import Judge, Judgement, JudgePrompt

__all__ = ["Judge", "Judgement", "JudgePrompt"]
