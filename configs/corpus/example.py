"""Ten thousand documents about a spec, written without any model, key or network.

A lab record:

    command    python -m msm_jax.generate --config=configs/corpus/example.py --workdir=runs/example
    hardware   2 shared cores, no accelerator
    time       93 s while others worked on the same cores (45 s of processor time)
    result     10,000 documents of 150 to 600 words, 3.9M words, about 4.8M tokens (estimated); all
               points of the spec in the words of at least 1,666 documents; no duplicates, no
               near-duplicates, no shared runs of 50 words that are not the spec's; distinct
               3-grams .167 over the first million words (2026-11-25)

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
