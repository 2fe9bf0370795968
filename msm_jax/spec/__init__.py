"""A Model Spec as text: loading, names filled in, sections, rules, statements, checks."""

from msm_jax.spec.derive import opposed_preferences, shuffled_attribution
from msm_jax.spec.points import Point, sentences, spec_points
from msm_jax.spec.report import estimated_tokens, report_text, spec_report
from msm_jax.spec.spec import Rule, Section, Spec, Statement, check_spec, load_spec, parse_spec

__all__ = [
    "Point", "Rule", "Section", "Spec", "Statement", "check_spec", "estimated_tokens", "load_spec",
    "opposed_preferences", "parse_spec", "report_text", "sentences", "shuffled_attribution",
    "spec_points", "spec_report",
]  # fmt: skip
