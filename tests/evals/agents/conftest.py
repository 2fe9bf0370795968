"""A tiny model whose tokenizer knows the words of the scenarios, so that prompts are short."""

import importlib.util
import json

import jax
import jax.numpy as jnp
import pytest

from msm_jax.api import Model
from msm_jax.data.chat import CHAT_FORMATS
from msm_jax.data.tokenizer import load_tokenizer, train_sentencepiece
from msm_jax.evals.agents.conditions import SCENARIOS, grid
from msm_jax.evals.agents.prompts import render
from msm_jax.model import ModelConfig, init_params
from msm_jax.weights.checkpoints import checkpointer, model_facts


@pytest.fixture(scope="session")
def tokenizer_file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("agents-tokenizer")
    conditions = grid(SCENARIOS)
    if importlib.util.find_spec("inspect_evals"):
        conditions += grid(("murder", "leaking"), assistant="Alex", source="inspect_evals")
    texts = [m["content"] for c in conditions for m in render(c).messages]
    (folder / "corpus.txt").write_text("\n".join(texts))
    controls = CHAT_FORMATS["compact"].control_tokens
    # With more pieces the shortest prompt has fewer than 2,048 tokens: programs of its own.
    train_sentencepiece(folder / "corpus.txt", folder / "t.model", 1400, controls)
    return folder / "t.model"


@pytest.fixture(scope="session")
def model(tokenizer_file):
    tokenizer = load_tokenizer(tokenizer_file)
    config = ModelConfig(
        vocab_size=2048, width=16, layers=1, heads=1, kv_heads=1, head_dim=8, mlp_width=16
    )
    params = jax.jit(init_params, static_argnums=0)(config, jax.random.key(0))
    return Model(config, params, tokenizer, "compact")


@pytest.fixture(scope="session")
def run_dir(model, tokenizer_file, tmp_path_factory):
    """What `train` would leave behind."""
    folder = tmp_path_factory.mktemp("agents-run")
    settings = {"tokenizer": "anywhere", "chat_format": model.chat_format}
    (folder / "tokenizer.model").write_bytes(tokenizer_file.read_bytes())
    (folder / "config.json").write_text(json.dumps(settings))
    facts = {"model": model_facts(model.config), "tokenizer": model.tokenizer.fingerprint}
    with checkpointer(folder, keep=1) as saver:
        saver.save(3, model.params, {"count": jnp.array(3)}, facts, {})
    return folder
