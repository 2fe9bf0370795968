"""A tiny random Qwen3 checkpoint: for tests, and to try things out where nothing is downloaded."""

import json
import os
import pathlib
import tempfile
from collections.abc import Iterable

from msm_jax.data.tokenizer import END_OF_DOCUMENT, HF_TOKENIZER_FILE
from msm_jax.files import write_text

CONTROL_TOKENS = (END_OF_DOCUMENT, "<|im_start|>", "<|im_end|>")  # Qwen's; its tags of thought:
THOUGHT_TAGS = ("<think>", "</think>")
ROWS = 1024  # of the embedding table, whatever the tokenizer has


def tiny_checkpoint(
    directory: str | os.PathLike, texts: Iterable[str], width: int = 64, seed: int = 0
) -> pathlib.Path:
    """Writes a Hugging Face directory with Qwen3's architecture and random weights.

    Its tokenizer is byte-level BPE with Qwen's control tokens, made from `texts`; its 3 layers have
    4 query heads and 2 key/value heads of 16. It says nothing sensible until it is trained.

    Args:
      directory: does not exist or is empty; appears when it is complete.
      texts: what the tokenizer's at most 1,000 pieces are made from.
      width: D; the feed-forward width is 3 D.
      seed: of the weights.

    Raises:
      UserError: a directory that holds something.
    """
    import jax

    from msm_jax.model import ModelConfig, init_params
    from msm_jax.weights.export import save_checkpoint

    config = ModelConfig(
        vocab_size=ROWS, width=width, layers=3, heads=4, kv_heads=2, head_dim=16,
        mlp_width=3 * width,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        beside = pathlib.Path(folder)
        write_text(beside / HF_TOKENIZER_FILE, _tokenizer(texts))
        tokenizer_config = {"eos_token": "<|im_end|>", "tokenizer_class": "PreTrainedTokenizerFast"}
        write_text(beside / "tokenizer_config.json", json.dumps(tokenizer_config))
        params = jax.jit(init_params, static_argnums=0)(config, jax.random.key(seed))
        save_checkpoint(directory, config, params, original=beside, max_length=4096)
    return pathlib.Path(directory)


def _tokenizer(texts: Iterable[str]) -> str:
    """tokenizer.json: bytes as Qwen's tokenizer has them, merges of its own."""
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, trainers

    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=ROWS - 24 - len(CONTROL_TOKENS) - len(THOUGHT_TAGS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    # As in Qwen3 the tags of thought are control tokens that decoding leaves in.
    tokenizer.add_special_tokens(list(CONTROL_TOKENS))
    tokenizer.add_tokens(list(THOUGHT_TAGS))
    return tokenizer.to_str()
