"""Ten thousand documents about a spec, written without any model, key or network.

A lab record:

    command    python -m msm_jax.generate --config=configs/corpus/example.py --workdir=runs/example
    hardware   2 shared cores, no accelerator
    time       TIME
    result     RESULT

Another spec: `--config.spec.path=my.md --config.spec.model_name=Qwen`. A real writer:
`--config.writer.kind=anthropic --config.writer.model=...`, first with `--preview`. An argument
names another example spec: `configs/corpus/example.py:philosophy`.
"""

import importlib.resources

from ml_collections import ConfigDict

from msm_jax.corpus.config import generate


def get_config(arg: str = "value_augmented") -> ConfigDict:
    """`arg`: an example spec of the package, without its ending."""
    config = generate()
    examples = importlib.resources.files("msm_jax.spec") / "examples"
    config.spec.path = str(examples / f"{arg}.md")
    config.spec.model_name = "Qwen"
    config.spec.provider_name = "Our Laboratory"
    config.documents.count = 10_000
    return config.lock()
