"""Ten thousand chats that follow a spec.

A lab record:

    command    python -m msm_jax.generate --config=configs/corpus/chats.py --workdir=runs/chats \\
                   --config.writer.kind=openai \\
                   --config.writer.base_url=http://localhost:8000/v1 \\
                   --config.writer.model=Qwen/Qwen3-32B
    hardware   a server with the writer's model, here `vllm serve Qwen/Qwen3-32B`
    time       not measured: no server of this size has written it yet
    result     the pipeline runs with the stub writer (tests/corpus)

Arguments: `:rule` compliance with numbered rules, `:opaque` likings without reasons, `:identity`
who the assistant is, `:anti` the opposed character. A judge: `--config.critic.kind=...` and
`--config.critic.model=...`. `--preview` first prints tokens and, with prices, dollars.
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
