"""A training stage's configuration: every key, its range, its meaning and its default."""

from typing import Any

from ml_collections import ConfigDict

from msm_jax.schema import NUMBER
from msm_jax.settings import SEED, SHARE, form, group, key, named

PROJECTIONS = ("q", "k", "v", "o", "gate", "up", "down")
DTYPES = ("float32", "bfloat16")
EIGHT_BITS = ("int8", "float8")
# Stages with fewer optimizer steps warn: 31 looked inert in a replication (see docs/training.md).
FEW_STEPS = 100
METRICS = {"step": int, "loss?": NUMBER}  # what a reader needs of a row of metrics.jsonl

SOURCE = form(
    "source",
    "One source of a mixture.",
    path=key(
        "", "of documents or chats; rows: msm_jax/corpus/rows.py, files: msm_jax/data/sources.py"
    ),
    weight=key(
        1.0, "its share of rows, relative to the other sources; 0 leaves it out", at_least=0
    ),
    loss_on=key("all", "the tokens of chats that have a loss", choices=("all", "assistant")),
    take=key(
        0,
        "documents to draw by take_seed; with one seed a smaller draw is part of a larger one",
        at_least=0,
    ),
    take_tokens=key(
        0, "or how many tokens of documents; both 0: all documents", at_least=0, at_most=2**53
    ),
    take_seed=key(0, "of that draw", **SEED),
    hold_out=key(
        0,
        "rows kept from training, drawn by number: parallel files hold out parallel rows; with one "
        "seed a smaller draw is part of a larger one",
        at_least=0,
    ),
    hold_out_seed=key(0, "of that draw", **SEED),
    part=key(
        "training",
        "the rows that hold_out leaves, or those that it keeps from training",
        choices=("training", "held_out"),
    ),
    repeat=key(1, 'of every document, in mixture="epochs"', at_least=1),
    tag=key("", "text before every document, without loss (SDF's DOCTAG)"),
    bad_rows=key(
        0.0,
        "share of rows that may be skipped; 0: the first one is an error",
        **SHARE,
        harmless="it decides whether bad rows end a run, not which rows are read",
    ),
    encoding_errors=key(
        "strict", "or bytes that are not UTF-8 become U+FFFD", choices=("strict", "replace")
    ),
)

PROBE = form(
    "probe",
    "Pairs of answers that are scored while a stage trains.",
    path=key("", "JSONL of pairs, as of preference evaluations"),
    at_least=key(
        0.9,
        "the probe holds if the right answer is the likelier one in this share of questions",
        **SHARE,
    ),
)

_NUMBERS = "sums are taken in another order: the last bits may differ, nothing else"
_LOOK = "it is measured during the training and changes nothing in it"
_KEPT = "which checkpoints are kept, not what is in them"

MODEL = group(
    "see ModelConfig",
    preset=key(
        "",
        'a name of msm_jax/model/presets.py, or "parent": the shape is theirs, and of the keys '
        "below only dtype, param_dtype, lora_*, remat and attention count",
    ),
    vocab_size=key(0, "0: the tokenizer's", at_least=0),
    width=key(64, "D, of the residual stream", at_least=1),
    layers=key(3, "L", at_least=1),
    heads=key(4, "H, heads of queries", at_least=1),
    kv_heads=key(2, "K, heads of keys and values; divides heads", at_least=1),
    head_dim=key(16, "d, width of one head, even", at_least=2),
    mlp_width=key(192, "F, between the two products of the MLP", at_least=1),
    rope_theta=key(10_000.0, "base of the rotary frequencies", above=0),
    norm_eps=key(1e-6, "added to the mean square in RMSNorm", above=0),
    qk_norm=key(True, "RMSNorm of queries and keys by head, as Qwen3 has"),
    qkv_bias=key(False, "biases of queries, keys and values, as Qwen2.5 has"),
    tied_embeddings=key(True, "the head is the embedding"),
    dtype=key("float32", "of products and activations", choices=DTYPES),
    param_dtype=key(
        "float32",
        "of weights; for a frozen base bfloat16, or int8 or float8 for its projections, with the "
        "rest in bfloat16",
        choices=(*DTYPES, *EIGHT_BITS),
    ),
    lora_rank=key(0, "R, of the adapter; 0: none", at_least=0),
    lora_alpha=key(128.0, "the adapter is scaled by alpha / rank", above=0),
    lora_targets=key(PROJECTIONS, "projections with an adapter", choices=PROJECTIONS),
    remat=key(
        "none",
        "what the backward pass computes again, see ModelConfig; auto: the fastest of none, dots, "
        "attention and full that fits in memory by the compiler's estimate",
        choices=("none", "full", "attention", "dots", "offload", "auto"),
        harmless="the same values, kept or computed again",
    ),
    attention=key(
        "auto",
        "the implementation, see kernels.py",
        choices=("auto", "plain", "blockwise", "splash", "cudnn"),
        harmless=_NUMBERS,
    ),
)

OPTIMIZER = group(
    "AdamW",
    learning_rate=key(1e-4, "after the warmup; 0 trains nothing, as a control", at_least=0),
    schedule=key("cosine", "cosine and linear end at 0", choices=("cosine", "linear", "constant")),
    warmup_fraction=key(0.05, "of the steps, from 0 to learning_rate", **SHARE),
    weight_decay=key(0.01, "decoupled; of matrices only", at_least=0),
    b1=key(0.9, "of the running mean of gradients", at_least=0, below=1),
    b2=key(0.999, "of the running mean of their squares", at_least=0, below=1),
    eps=key(1e-8, "added to the root of the mean square", above=0),
    clip_norm=key(1.0, "largest norm of a step's gradient; 0: no clipping", at_least=0),
    skip_spikes=key(
        0.0, "standard deviations above recent losses; 0: spikes are steps", at_least=0
    ),
)

_SIZE: dict[str, Any] = {"at_least": -1, "harmless": _NUMBERS}

STAGE = form(
    "stage",
    "One stage of training.",
    seed=key(0, "of data order and fresh weights", **SEED),
    parent=key(
        "",
        'run directory, or Hugging Face checkpoint, to start from; "": fresh weights from the seed',
    ),
    tokenizer=key("", 'SentencePiece model, tokenizer.json or directory; "": the parent\'s'),
    chat_format=key("compact", 'or another of data/chat.py; "own": the checkpoint\'s template'),
    allow_new_chat_format=key(
        False,
        "allow chats in another format than the parent was trained on",
        harmless="the format itself counts",
    ),
    data=named(SOURCE, "the mixture"),
    mixture=key(
        "weights",
        "rows drawn by weight, or all documents, epochs times",
        choices=("weights", "epochs"),
    ),
    epochs=key(1.0, 'how often mixture="epochs" sees all documents', above=0),
    packing=group(
        "how documents fill rows",
        rows=key("packed", "many to a row, or one", choices=("packed", "documents")),
        documents_per_row=key(
            0,
            "at most, in packed rows; 0: 64, or one per 32 tokens of a row longer than 2,048. "
            "Attention on NVIDIA GPUs takes memory for as many as the fullest row has",
            at_least=0,
        ),
        too_long=key(
            "split",
            "what happens to documents longer than a row: split, truncated, dropped, or an error",
            choices=("split", "cut", "drop", "error"),
        ),
        long_chats=key(
            "error",
            "what happens to chats longer than a row; log.txt counts what is lost",
            choices=("error", "drop", "cut"),
        ),
    ),
    token_cache=key(
        "",
        'directory; "": $MSM_JAX_CACHE, or ~/.cache/msm_jax/tokens',
        harmless="where tokens are stored, not which",
    ),
    sequence_length=key(64, "T, tokens in a row", at_least=2),
    rows=key(32, "B, rows of the global batch: what one optimizer step sees", at_least=1),
    accumulation=key(1, "parts that a step's rows are computed in, one after another", at_least=1),
    steps=key(1000, 'optimizer steps; 0: what epochs makes of mixture="epochs"', at_least=0),
    trainable=key("all", "all weights, or the adapter only", choices=("all", "lora")),
    model=MODEL,
    mesh=group(
        "devices by axis; -1, in one place: what is left of them",
        data=key(1, "rows are divided among these, weights repeated", **_SIZE),
        fsdp=key(-1, "rows and weights are divided among these", **_SIZE),
        sequence=key(1, "the tokens of a row, and weights, are divided among these", **_SIZE),
        tensor=key(1, "heads, mlp and vocabulary are divided among these", **_SIZE),
    ),
    topology=key(
        "",
        'of TPUs that `compile` compiles for, such as "v5p:4x4x4"',
        harmless="only `compile` reads it",
    ),
    optimizer=OPTIMIZER,
    max_skipped=key(
        10,
        "steps in a row that are not finite; one more ends the run",
        at_least=0,
        harmless="a run that it does not end is the same",
    ),
    probes=named(PROBE, "when all hold, the stage ends"),
    probe_every=key(250, "steps", at_least=1),
    eval=group(
        'loss on other data, "eval_loss"',
        every=key(0, "steps; 0: never", at_least=0, harmless=_LOOK),
        batches=key(8, "that the loss is a mean over", at_least=1),
        data=named(SOURCE, "the data it is measured on"),
    ),
    samples=group(
        "greedy completions of prompts, in log.txt",
        every=key(0, "steps; 0: never", at_least=0, harmless=_LOOK),
        prompts=key((), "texts to complete", of=str, harmless=_LOOK),
        max_tokens=key(32, "of one completion", at_least=1, harmless=_LOOK),
    ),
    profile=group(
        "a window for TensorBoard's profiler",
        start=key(0, "the step that it begins at", at_least=0, harmless=_LOOK),
        steps=key(0, "its length; 0: no profile", at_least=0, harmless=_LOOK),
    ),
    watchdog=key(
        1800.0,
        "seconds without a step until all stacks are dumped; 0: never",
        at_least=0,
        harmless="it ends a run that hangs",
    ),
    checkpoint_every=key(500, "steps; the last one is saved as well", at_least=1, harmless=_KEPT),
    keep=key(1, "newest checkpoints kept", at_least=1, harmless=_KEPT),
    keep_steps=key(
        (), "steps whose checkpoints are kept for good", of=int, at_least=1, harmless=_KEPT
    ),
    fall_back=key(
        False,
        "resume from an older checkpoint if the newest is damaged",
        harmless="the steps after it are the same",
    ),
    log_every=key(20, "steps between two lines of metrics.jsonl", at_least=1, harmless=_LOOK),
)


def source(path: str = "", weight: float = 1.0, loss_on: str = "all") -> ConfigDict:
    """One source of a mixture; the other keys of `SOURCE` are set on what it returns."""
    return SOURCE.config(path=path, weight=weight, loss_on=loss_on)


def probe(path: str = "", at_least: float = 0.9) -> ConfigDict:
    """Pairs of answers that are scored while a stage trains."""
    return PROBE.config(path=path, at_least=at_least)


def stage() -> ConfigDict:
    """The defaults of `STAGE`; a config file sets what its stage needs and locks the result."""
    return STAGE.config()
