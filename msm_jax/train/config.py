"""A training stage's configuration: every key, its meaning and its default."""

from ml_collections import ConfigDict


def source(path: str = "", weight: float = 1.0, loss_on: str = "all") -> ConfigDict:
    """One source of a mixture.

    path: JSONL of documents ({"text"}) or chats ({"messages"}).
    weight: its share of rows, relative to the other sources; 0 leaves it out.
    loss_on: what chats teach: "all" tokens or what the "assistant" says.
    """
    return ConfigDict({"path": path, "weight": weight, "loss_on": loss_on})


def stage() -> ConfigDict:
    """The defaults; a config file sets what its stage needs and locks the result."""
    config = ConfigDict()
    config.seed = 0  # of data order and fresh weights
    config.parent = ""  # run directory whose weights to start from; "" starts from the seed
    config.tokenizer = ""  # SentencePiece model file
    config.chat_format = "compact"
    config.data = ConfigDict()  # name -> source()
    config.sequence_length = 64  # T
    config.rows = 32  # B of the global batch
    config.accumulation = 1  # micro-batches per step
    config.steps = 1000  # optimizer steps
    config.trainable = "all"  # or "lora": the adapter only
    config.model = ConfigDict(
        {
            "vocab_size": 0,  # 0: the tokenizer's
            "width": 64,
            "layers": 3,
            "heads": 4,
            "kv_heads": 2,
            "head_dim": 16,
            "mlp_width": 192,
            "rope_theta": 10_000.0,
            "norm_eps": 1e-6,
            "qk_norm": True,
            "qkv_bias": False,
            "tied_embeddings": True,
            "dtype": "float32",
            "param_dtype": "float32",
            "lora_rank": 0,
            "lora_alpha": 128.0,
            "lora_targets": ("q", "k", "v", "o", "gate", "up", "down"),
            "remat": "none",  # or "full", "attention", "dots", "offload": see ModelConfig
            "attention": "auto",  # or "plain", "blockwise", "splash", "cudnn": see kernels.py
        }
    )
    # Devices: rows are dealt to data x fsdp, weights are cut by fsdp and tensor; -1: what is left.
    config.mesh = ConfigDict({"data": 1, "fsdp": -1, "tensor": 1})
    config.optimizer = ConfigDict(
        {
            "learning_rate": 1e-4,
            "schedule": "cosine",  # or "linear", "constant"
            "warmup_fraction": 0.05,
            "weight_decay": 0.01,
            "b1": 0.9,
            "b2": 0.999,
            "eps": 1e-8,
            "clip_norm": 1.0,  # 0: no clipping
            "skip_spikes": 0.0,  # standard deviations above recent losses; 0: spikes are steps
        }
    )
    config.max_skipped = 10  # steps in a row that are not finite; one more ends the run
    config.probes = ConfigDict()  # name -> {"path", "at_least"}: when all hold, the stage ends
    config.probe_every = 250
    config.checkpoint_every = 500
    config.keep = 1  # newest checkpoints kept
    config.keep_steps = ()  # steps whose checkpoints are kept for good
    config.log_every = 20
    return config
