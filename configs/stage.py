"""One stage on a checkpoint of yours: midtraining on documents, then fine-tuning on chats.

A lab record:

    command    python -m msm_jax.train --config=configs/stage.py --workdir=runs/midtrain \\
                   --config.parent=Qwen3-8B \\
                   --config.data.documents.path=runs/example/documents.jsonl
               python -m msm_jax.train --config=configs/stage.py:aft --workdir=runs/aft \\
                   --config.parent=runs/midtrain --config.data.chats.path=runs/chats/chats.jsonl
    hardware   whatever holds the parent's weights in bfloat16 and the activations of one row;
               `python -m msm_jax.compile` tells sizes of configs with a preset's name
    time       not measured: no accelerator has run it yet
    result     both commands run on the CPU with a tiny checkpoint (tests/docs)

The recipe is the paper's (App. B.4): LoRA r=64, alpha=128 on all seven projections, one epoch,
AdamW 1e-4, cosine, 5 % warmup, weight decay 0.01; rows of 4,096 tokens (8,192 where the paper's
instruction data is mixed in). The second stage goes on with the first one's adapter. What the paper
does not state is ours: 16 rows a step, one at a time, documents packed and isolated, clipping at 1.
"""

from ml_collections import ConfigDict

from msm_jax.train.config import source, stage


def get_config(arg: str = "midtrain") -> ConfigDict:
    """`arg`: "midtrain" (documents) or "aft" (chats; what the assistant says is learned)."""
    if arg not in ("midtrain", "aft"):
        raise ValueError(f"configs/stage.py:{arg}: the argument is midtrain or aft")
    config = stage()
    if arg == "midtrain":
        config.data.documents = source("documents.jsonl")
    else:
        config.data.chats = source("chats.jsonl", loss_on="assistant")
    config.chat_format = "own"
    config.mixture, config.steps = "epochs", 0
    config.sequence_length, config.rows, config.accumulation = 4096, 16, 16
    config.model.update({"preset": "parent", "dtype": "bfloat16", "param_dtype": "bfloat16"})
    config.model.update({"lora_rank": 64, "lora_alpha": 128.0, "remat": "full"})
    config.trainable = "lora"
    config.checkpoint_every, config.log_every = 100, 5
    return config.lock()
