"""Midtraining of Qwen on accelerators: the paper's recipe, cut to slices of TPUs or one GPU.

A lab record:

    command    # takes minutes and libtpu
               python -m msm_jax.compile --config=configs/scale/qwen.py:qwen3-32b,full,v5p-64
               # needs a pod
               python -m msm_jax.train --config=configs/scale/qwen.py:qwen3-32b,lora,v5p-64 \\
                   --workdir=runs/midtrain --config.parent=/weights/Qwen3-32B \\
                   --config.data.documents.path=documents.jsonl --distributed
    hardware   the argument: MODEL,full|lora,v5e-256|v5p-64|v6e-64|h200 (chips, not cores)
    time       not measured: no accelerator has run it yet
    result     compiles ahead of time and fits; docs/training.md has the table

The recipe is the paper's (App. B.4): LoRA r=64, alpha=128 on all seven projections, one epoch,
AdamW 1e-4, cosine, 5 % warmup, weight decay 0.01; rows of 8,192 tokens for LoRA where they fit.
What the paper does not state (batch, packing, clipping) is ours: about 0.26M tokens a step on
TPU slices in full training, documents packed and isolated, clipping at 1.
"""

import math

from ml_collections import ConfigDict

from msm_jax.train.config import source, stage

MODELS = ("qwen2.5-32b", "qwen3-32b", "qwen2.5-14b", "qwen3-14b", "qwen2.5-7b", "qwen3-8b")
# chips, TPU topology, tensor axis
SLICES = {
    "v5e-256": (256, "v5e:16x16", 1),
    "v5p-64": (64, "v5p:4x4x4", 1),
    "v6e-64": (64, "v6e:8x8", 1),
    "h200": (1, "", 1),
}


def get_config(arg: str = "qwen3-32b,lora,v5p-64") -> ConfigDict:
    """ "MODEL,full|lora,SLICE"."""
    model, mode, where = (arg.split(",") + ["", ""])[:3]
    if model not in MODELS or mode not in ("full", "lora") or where not in SLICES:
        raise ValueError(
            f"configs/scale/qwen.py:{arg}: the argument is MODEL,full|lora,SLICE with a model of "
            f"{MODELS} and a slice of {tuple(SLICES)}"
        )
    chips, topology, tensor = SLICES[where]
    config = stage()
    config.topology = topology
    config.mesh.update({"data": 1, "fsdp": chips // tensor, "tensor": tensor})
    config.data.documents = source("documents.jsonl")
    config.mixture, config.steps = "epochs", 0
    config.chat_format = "qwen3-no-thinking" if model.startswith("qwen3") else "qwen2.5"
    config.sequence_length, config.rows = 4096, max(chips, 4)
    config.accumulation = math.ceil(config.rows / chips) if chips == 1 else 1
    config.model.update({"preset": model, "dtype": "bfloat16", "remat": "full"})
    config.trainable = "lora" if mode == "lora" else "all"
    if mode == "lora":
        config.model.update({"param_dtype": "bfloat16", "lora_rank": 64, "lora_alpha": 128.0})
    else:
        config.optimizer.learning_rate = 1e-5
    config.checkpoint_every, config.keep, config.log_every = 100, 2, 5
    return config.lock()
