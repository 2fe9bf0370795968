"""What a model prefers and does, with an interval around every rate."""

from msm_jax.evals.evaluation import Preferences, evaluate_preferences, judge, sample

__all__ = ["Preferences", "evaluate_preferences", "judge", "sample"]
