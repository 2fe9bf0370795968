"""report.html of agent scenarios."""

from msm_jax.evals.report.page import write_report

__all__ = ["write_report"]
