"""How many bytes the checkpoints of a study take, from the shapes of its models."""

import functools
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from msm_jax.study.graph import Study
from msm_jax.study.node import Node

_BYTES = {"bfloat16": 2, "float16": 2}  # of a weight; any other dtype has 4
_COPIES = 3  # a trained weight and AdamW's two moments, in the same dtype


def checkpoints(study: Study, todo: Iterable[Node]) -> int:
    """Bytes of the checkpoints that are kept of training stages; 0 if there are none.

    With LoRA a checkpoint holds the adapter alone. Norms and biases are not counted.
    """
    base, total = study.config["base"]["path"], 0
    for node in todo:
        if node.kind == "train":
            model = {**node.config["model"], **(_shape(base) if base else {})}
            model["vocab_size"] = model["vocab_size"] or study.config["tokenizer"]["vocab_size"]
            kept = node.config["keep"] + len(node.config["keep_steps"])
            size = _BYTES.get(model["param_dtype"], 4) * _COPIES
            total += kept * size * _trained(model, node.config["trainable"])
    return total


@functools.cache
def _shape(path: str) -> dict[str, Any]:
    from msm_jax import loading  # imports JAX
    from msm_jax.weights import checkpoints, hf_config

    folder = pathlib.Path(path)
    is_checkpoint = loading.is_checkpoint(folder)
    found = hf_config.read_config(folder) if is_checkpoint else checkpoints.load_config(folder)
    names = ("vocab_size", "width", "layers", "heads", "kv_heads", "head_dim", "mlp_width",
             "tied_embeddings")  # fmt: skip
    return {name: getattr(found, name) for name in names}


def _trained(model: Mapping[str, Any], trainable: str) -> int:
    """How many weights are trained."""
    D, F, d = model["width"], model["mlp_width"], model["head_dim"]
    queries, keys = model["heads"] * d, model["kv_heads"] * d
    sides = {"q": (D, queries), "k": (D, keys), "v": (D, keys), "o": (queries, D),
             "gate": (D, F), "up": (D, F), "down": (F, D)}  # fmt: skip
    targets = [sides[name] for name in model["lora_targets"]]
    adapter = model["layers"] * model["lora_rank"] * sum(a + b for a, b in targets)
    if trainable == "lora":
        return adapter
    tables = model["vocab_size"] * D * (1 if model["tied_embeddings"] else 2)
    return adapter + tables + model["layers"] * sum(a * b for a, b in sides.values())
