"""A grammar of English documents about an assistant and what its spec says."""

from msm_jax.corpus.grammar.engine import Grammar, load_grammar

__all__ = ["Grammar", "load_grammar"]
