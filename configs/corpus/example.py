"""Ten thousand documents about a spec.

A lab record:

    command    python -m msm_jax.generate \\
                   --config=configs/corpus/example.py --workdir=runs/example \\
                   --config.writer.kind=openai \\
                   --config.writer.base_url=http://localhost:8000/v1 \\
                   --config.writer.model=Qwen/Qwen3-32B
    hardware   a server with the writer's model, here `vllm serve Qwen/Qwen3-32B`
    time       not measured: no server of this size has written it yet
    result     the pipeline runs with the stub writer (tests/corpus) and with `transformers serve`

Another spec: `--config.spec.path=my.md --config.spec.model_name=Qwen`. Other writers:
docs/corpus.md. `--preview` first prints tokens and, with prices, dollars. An argument names another
example spec: `configs/corpus/example.py:philosophy`.
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
