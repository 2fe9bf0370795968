"""What a model prefers, with an interval around every rate."""

from msm_jax.evals.evaluation import evaluate_preferences, judge_preferences, sample_preferences

__all__ = ["evaluate_preferences", "judge_preferences", "sample_preferences"]
