"""Ten thousand chats that follow a spec, written without any model, key or network.

A lab record:

    command    python -m msm_jax.generate --config=configs/corpus/chats.py --workdir=runs/chats
    hardware   2 shared cores, no accelerator
    time       3.4 minutes while others worked on the same cores (92 s of processor time)
    result     10,000 chats, about 1.9M tokens (estimated), no near-duplicates; distinct 3-grams
               .054 (2026-11-25): the answers quote the same few sentences of the spec

Arguments: `:rule` compliance with numbered rules, `:opaque` likings without reasons, `:identity`
who the assistant is, `:anti` the opposed character. A real writer and a judge:
`--config.writer.kind=anthropic --config.writer.model=... --config.critic.kind=anthropic
--config.critic.model=...`, first with `--preview`.
"""

import importlib.resources

from ml_collections import ConfigDict

from msm_jax.corpus.config import STYLES, generate

SPECS = {"value": "value_augmented", "rule": "rules", "opaque": "cheese_cost"}
COUNTS = {"opaque": 5_000, "identity": 2_500}


def get_config(arg: str = "value") -> ConfigDict:
    """`arg`: one of msm_jax.corpus.config.STYLES."""
    if arg not in STYLES:
        raise ValueError(f"configs/corpus/chats.py:{arg}: the argument is one of {STYLES}")
    config = generate()
    config.make = "chats"
    config.chats.style = arg
    config.chats.count = COUNTS.get(arg, 10_000)
    examples = importlib.resources.files("msm_jax.spec") / "examples"
    config.spec.path = str(examples / f"{SPECS.get(arg, 'value_augmented')}.md")
    config.spec.model_name = "Qwen"
    config.spec.provider_name = "Our Laboratory"
    return config.lock()
