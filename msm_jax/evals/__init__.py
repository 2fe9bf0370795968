"""Evaluations of what a model prefers and does, with an interval around every rate."""

from msm_jax.evals.evaluation import judge, sample
from msm_jax.evals.preferences import Preferences, evaluate_preferences

__all__ = ["Preferences", "evaluate_preferences", "judge", "sample"]
