"""A training stage's configuration: every key, its meaning and its default."""

from ml_collections import ConfigDict


def source(path: str = "", weight: float = 1.0, loss_on: str = "all") -> ConfigDict:
    """One source of a mixture.

    path: documents ({"text"}) or chats ({"messages"}); kinds of files: `msm_jax/data/sources.py`.
    weight: its share of rows, relative to the other sources; 0 leaves it out.
    loss_on: what chats teach: "all" tokens or what the "assistant" says.
    """
    return ConfigDict(
        {
            "path": path,
            "weight": weight,
            "loss_on": loss_on,
            "take": 0,  # so many documents, drawn by take_seed: of one seed, fewer lie in more
            "take_tokens": 0,  # or documents of so many tokens; both 0: all of them
            "take_seed": 0,
            "repeat": 1,  # of every document, in mixture="epochs"
            "tag": "",  # text before every document, never learned (SDF's DOCTAG)
            "bad_rows": 0.0,  # share of rows that may be skipped; 0: the first one is an error
            "encoding_errors": "strict",  # or "replace": bytes that are not UTF-8 become U+FFFD
        }
    )


def stage() -> ConfigDict:
    """The defaults; a config file sets what its stage needs and locks the result."""
    config = ConfigDict()
    config.seed = 0  # of data order and fresh weights
    # Run directory, or Hugging Face checkpoint, to start from; "": fresh weights from the seed.
    config.parent = ""
    config.tokenizer = ""  # SentencePiece model, tokenizer.json or directory; "": the parent's
    config.chat_format = "compact"  # or another of data/chat.py; "own": the tokenizer's template
    config.data = ConfigDict()  # name -> source()
    config.mixture = "weights"  # rows drawn by weight; or "epochs": all documents, epochs times
    config.epochs = 1.0  # of mixture="epochs"
    # rows: "packed", or "documents", one to a row. too_long: "split" into rows, "cut", "error".
    config.packing = ConfigDict({"rows": "packed", "too_long": "split"})
    config.token_cache = ""  # directory; "": $MSM_JAX_CACHE, or ~/.cache/msm_jax/tokens
    config.sequence_length = 64  # T
    config.rows = 32  # B of the global batch
    config.accumulation = 1  # micro-batches per step
    config.steps = 1000  # optimizer steps; 0: what `epochs` makes of mixture="epochs"
    config.trainable = "all"  # or "lora": the adapter only
    config.model = ConfigDict(
        {
            # A name of msm_jax/model/presets.py, or "parent": the shape is theirs, and of the
            # keys below only dtype, param_dtype, lora_*, remat and attention count.
            "preset": "",
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
    # Devices: rows are dealt to data x fsdp, their tokens to sequence, weights are cut by fsdp,
    # sequence and tensor; -1: what is left.
    config.mesh = ConfigDict({"data": 1, "fsdp": -1, "sequence": 1, "tensor": 1})
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
    # Loss on other data, "eval_loss", over so many batches.
    config.eval = ConfigDict({"every": 0, "batches": 8, "data": ConfigDict()})
    # Greedy answers to prompts (texts to go on with), into log.txt.
    config.samples = ConfigDict({"every": 0, "prompts": (), "max_tokens": 32})
    config.profile = ConfigDict({"start": 0, "steps": 0})  # a window, for TensorBoard's profiler
    config.watchdog = 1800.0  # seconds without a step until all stacks are dumped; 0: never
    config.checkpoint_every = 500
    config.keep = 1  # newest checkpoints kept
    config.keep_steps = ()  # steps whose checkpoints are kept for good
    config.fall_back = False  # go on from an older checkpoint where the newest is damaged
    config.log_every = 20
    return config
