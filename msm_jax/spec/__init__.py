"""A Model Spec as text: loading, names filled in, sections, rules, statements, checks."""

from msm_jax.spec.spec import Rule, Section, Spec, Statement, check_spec, load_spec, parse_spec

__all__ = ["Rule", "Section", "Spec", "Statement", "check_spec", "load_spec", "parse_spec"]
