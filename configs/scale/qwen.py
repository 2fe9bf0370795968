"""Midtraining of Qwen on accelerators: the paper's recipe, cut to slices of TPUs or one GPU.

A lab record:

    command    # takes minutes and libtpu
               python -m msm_jax.compile --config=configs/scale/qwen.py:qwen3-32b,full,v5p-64
               # needs a pod
               python -m msm_jax.train --config=configs/scale/qwen.py:qwen3-32b,lora,v5p-64 \\
                   --workdir=runs/midtrain --config.parent=/weights/Qwen3-32B \\
                   --config.data.documents.path=documents.jsonl --distributed
    hardware   the argument: MODEL,full|lora,v5e-256|v5p-64|v6e-64|h200|h100 (chips, not cores)
    time       one H200: 1.0 s a step of `:qwen3-8b,lora,h200`, 5.3 s of `:qwen3-32b,lora,h200`,
               after compiling for 5 to 15 s; NOT MEASURED: the H100, TPUs
    result     slices of TPUs: compile ahead of time and fit; docs/training.md has the table
               one H200: tokens/s below

On one H200, 2026-11-27, jax 0.11.2, `benchmarks/gpu.py --parts=train,train_32b`: LoRA, random
weights, documents of about 600 tokens packed into 4 rows of 4,096; the mean of 3 steps of one run.

    model       parts, remat    tokens/s   MFU      peak GiB
    qwen3-8b    1, dots           15,922   56.3 %   79.0       as below
                2, dots           15,263   53.9 %   49.6
                2, none           14,974   52.9 %   65.4       by the compiler's estimate
                1, full           12,832   45.3 %   35.2       by the compiler's estimate
    qwen3-32b   2, full            3,081   44.9 %   91.5       as below

NOT MEASURED on a GPU: every other model, full training, and the H100. There the step has 2 parts
and remat=auto. In bfloat16 Qwen3-32B alone takes 61 GiB, more than JAX uses of an H100 by default.

The recipe is the paper's (App. B.4): LoRA r=64, alpha=128 on all seven projections, one epoch,
AdamW 1e-4, cosine, 5 % warmup, weight decay 0.01; rows of 8,192 tokens for LoRA where they fit.
What the paper does not state (batch, packing, clipping) is ours: about 0.26M tokens a step on
TPU slices in full training, documents packed and isolated, clipping at 1.
"""

from ml_collections import ConfigDict

from msm_jax.train.config import source, stage

MODELS = ("qwen2.5-32b", "qwen3-32b", "qwen2.5-14b", "qwen3-14b", "qwen2.5-7b", "qwen3-8b")
# chips, TPU topology, tensor axis
SLICES = {
    "v5e-256": (256, "v5e:16x16", 1),
    "v5p-64": (64, "v5p:4x4x4", 1),
    "v6e-64": (64, "v6e:8x8", 1),
    "h200": (1, "", 1),
    "h100": (1, "", 1),
}
# What was fastest of what was measured on one GPU: parts of a step, remat.
MEASURED = {
    ("qwen3-8b", "lora", "h200"): (1, "dots"),
    ("qwen3-32b", "lora", "h200"): (2, "full"),
}
NOT_MEASURED = (2, "auto")


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
    on_gpu = MEASURED.get((model, mode, where), NOT_MEASURED)
    config.accumulation, remat = on_gpu if chips == 1 else (1, "full")
    config.model.update({"preset": model, "dtype": "bfloat16", "remat": remat})
    config.trainable = "lora" if mode == "lora" else "all"
    if mode == "lora":
        config.model.update({"param_dtype": "bfloat16", "lora_rank": 64, "lora_alpha": 128.0})
    else:
        config.optimizer.learning_rate = 1e-5
    config.checkpoint_every, config.keep, config.log_every = 100, 2, 5
    return config.lock()
