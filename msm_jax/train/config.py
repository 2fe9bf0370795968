"""A training stage's configuration: every key, its meaning and its default."""

from ml_collections import ConfigDict


def source(path: str = "", weight: float = 1.0, loss_on: str = "all") -> ConfigDict:
    """One source of a mixture.

    path: of documents or chats; rows: `msm_jax/data/rows.py`, files: `msm_jax/data/sources.py`.
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
            "take_seed": 0,  # of that draw
            "repeat": 1,  # of every document, in mixture="epochs"
            "tag": "",  # text before every document, never learned (SDF's DOCTAG)
            "bad_rows": 0.0,  # share of rows that may be skipped; 0: the first one is an error
            "encoding_errors": "strict",  # or "replace": bytes that are not UTF-8 become U+FFFD
        }
    )


def probe(path: str = "", at_least: float = 0.9) -> ConfigDict:
    """Pairs asked while a stage trains.

    path: JSONL of pairs, as of preference evaluations.
    at_least: share of questions whose right answer is the likelier one, from which on it holds.
    """
    return ConfigDict({"path": path, "at_least": at_least})


def stage() -> ConfigDict:
    """The defaults; a config file sets what its stage needs and locks the result."""
    config = ConfigDict()
    config.seed = 0  # of data order and fresh weights
    # Run directory, or Hugging Face checkpoint, to start from; "": fresh weights from the seed.
    config.parent = ""
    config.tokenizer = ""  # SentencePiece model, tokenizer.json or directory; "": the parent's
    config.chat_format = "compact"  # or another of data/chat.py; "own": the checkpoint's template
    config.data = ConfigDict()  # name -> source()
    config.mixture = "weights"  # rows drawn by weight; or "epochs": all documents, epochs times
    config.epochs = 1.0  # how often mixture="epochs" sees all documents
    config.packing = ConfigDict(  # how documents are laid in rows
        {
            "rows": "packed",  # or "documents", one to a row
            "too_long": "split",  # documents, into rows; or "cut", "drop", "error"
            "long_chats": "error",  # chats longer than a row; or "drop", "cut": see log.txt
        }
    )
    config.token_cache = ""  # directory; "": $MSM_JAX_CACHE, or ~/.cache/msm_jax/tokens
    config.sequence_length = 64  # T, tokens in a row
    config.rows = 32  # B, rows of the global batch: what one optimizer step sees
    config.accumulation = 1  # parts that a step's rows are computed in, one after another
    config.steps = 1000  # optimizer steps; 0: what `epochs` makes of mixture="epochs"
    config.trainable = "all"  # or "lora": the adapter only
    config.model = ConfigDict(  # see ModelConfig
        {
            # A name of msm_jax/model/presets.py, or "parent": the shape is theirs, and of the
            # keys below only dtype, param_dtype, lora_*, remat and attention count.
            "preset": "",
            "vocab_size": 0,  # 0: the tokenizer's
            "width": 64,  # D, of the residual stream
            "layers": 3,  # L
            "heads": 4,  # H, heads of queries
            "kv_heads": 2,  # K, heads of keys and values; divides `heads`
            "head_dim": 16,  # d, width of one head, even
            "mlp_width": 192,  # F, between the two products of the MLP
            "rope_theta": 10_000.0,  # base of the rotary frequencies
            "norm_eps": 1e-6,  # added to the mean square in RMSNorm
            "qk_norm": True,  # RMSNorm of queries and keys by head, as Qwen3 has
            "qkv_bias": False,  # biases of queries, keys and values, as Qwen2.5 has
            "tied_embeddings": True,  # the head is the embedding
            "dtype": "float32",  # of products and activations; or "bfloat16"
            "param_dtype": "float32",  # of weights; "bfloat16" for a frozen base under LoRA
            "lora_rank": 0,  # R, of the adapter; 0: none
            "lora_alpha": 128.0,  # the adapter is scaled by alpha / rank
            "lora_targets": ("q", "k", "v", "o", "gate", "up", "down"),  # projections adapted
            "remat": "none",  # or "full", "attention", "dots", "offload": see ModelConfig
            "attention": "auto",  # or "plain", "blockwise", "splash", "cudnn": see kernels.py
        }
    )
    # Devices by axis; -1, in one place: what is left of them.
    config.mesh = ConfigDict(
        {
            "data": 1,  # rows are dealt to these, weights repeated
            "fsdp": -1,  # rows are dealt to these, weights cut among them
            "sequence": 1,  # the tokens of a row are dealt to these, weights cut among them
            "tensor": 1,  # heads, mlp and vocabulary are cut among these
        }
    )
    config.topology = ""  # of TPUs that `compile` compiles for, such as "v5p:4x4x4"
    config.optimizer = ConfigDict(  # AdamW
        {
            "learning_rate": 1e-4,  # after the warmup
            "schedule": "cosine",  # to 0 at the last step; or "linear", "constant"
            "warmup_fraction": 0.05,  # of the steps, from 0 to learning_rate
            "weight_decay": 0.01,  # decoupled; of matrices only
            "b1": 0.9,  # of the running mean of gradients
            "b2": 0.999,  # of the running mean of their squares
            "eps": 1e-8,  # added to the root of the mean square
            "clip_norm": 1.0,  # 0: no clipping
            "skip_spikes": 0.0,  # standard deviations above recent losses; 0: spikes are steps
        }
    )
    config.max_skipped = 10  # steps in a row that are not finite; one more ends the run
    config.probes = ConfigDict()  # name -> probe(): when all hold, the stage ends
    config.probe_every = 250  # steps
    # Loss on other data, "eval_loss".
    config.eval = ConfigDict(
        {
            "every": 0,  # steps; 0: never
            "batches": 8,  # that the loss is a mean over
            "data": ConfigDict(),  # name -> source()
        }
    )
    # Greedy answers to prompts, into log.txt.
    config.samples = ConfigDict(
        {
            "every": 0,  # steps; 0: never
            "prompts": (),  # texts to go on with
            "max_tokens": 32,  # of one answer
        }
    )
    # A window for TensorBoard's profiler.
    config.profile = ConfigDict(
        {
            "start": 0,  # the step that it begins at
            "steps": 0,  # its length; 0: no profile
        }
    )
    config.watchdog = 1800.0  # seconds without a step until all stacks are dumped; 0: never
    config.checkpoint_every = 500  # steps; the last one is saved as well
    config.keep = 1  # newest checkpoints kept
    config.keep_steps = ()  # steps whose checkpoints are kept for good
    config.fall_back = False  # go on from an older checkpoint where the newest is damaged
    config.log_every = 20  # steps between two lines of metrics.jsonl
    return config
