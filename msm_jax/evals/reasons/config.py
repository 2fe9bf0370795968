"""What the analysis of reasons can be set to."""

from msm_jax.corpus.config import WRITER
from msm_jax.settings import SEED, SHARE, form, key

_KIND = key("", "whose replies", choices=("anthropic", "openai", "local", ""))

REASONS = form(
    "reasons",
    "Reasons of agents.",
    reader=WRITER.under("who reads the answers", kind=_KIND),
    second=WRITER.under("another reader, for how far two agree; its kind may be empty", kind=_KIND),
    seed=key(0, "of the order in which reasons are sorted", **SEED),
    per_condition=key(0, "answers of each condition that are read, the first; 0: all", at_least=0),
    reasons=key(8, "of one answer, at most", at_least=1, at_most=50),
    patterns=key(18, "that the reasons are sorted into, at most", at_least=1, at_most=60),
    at_once=key(120, "reasons that are sorted in one request", at_least=2, at_most=2000),
    overlap=key(
        0.75, "patterns of one kind are one if more of the answers that have either have both",
        **SHARE,
    ),
    spec=key("", "file of a spec whose rules may be followed or misused; empty: no such kinds"),
    max_tokens=key(2000, "of one reply", at_least=1),
    max_error_share=key(
        0.05, "no rate where a larger share of the answers could not be read", **SHARE
    ),
)  # fmt: skip
