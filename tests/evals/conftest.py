"""A tiny model with random weights, in memory and as a run directory."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import pytest

from msm_jax.api import Model
from msm_jax.data.chat import CHAT_FORMATS
from msm_jax.data.tokenizer import load_tokenizer, train_sentencepiece
from msm_jax.model import ModelConfig, init_params
from msm_jax.weights.checkpoints import checkpointer, model_facts


@pytest.fixture(scope="session")
def tokenizer_file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    text = "a red lamp or a tin box?\na red cup and a tin hat.\nyou are alda, with a pen.\n"
    (folder / "corpus.txt").write_text(text * 20)
    controls = CHAT_FORMATS["compact"].control_tokens
    train_sentencepiece(folder / "corpus.txt", folder / "t.model", 48, controls)
    return folder / "t.model"


@pytest.fixture(scope="session")
def model(tokenizer_file):
    tokenizer = load_tokenizer(tokenizer_file)
    config = ModelConfig(
        vocab_size=64, width=16, layers=1, heads=2, kv_heads=1, head_dim=8, mlp_width=16
    )
    make = lambda key: jax.tree.map(lambda x: 2 * x, init_params(config, key))
    return Model(config, jax.jit(make)(jax.random.key(0)), tokenizer, "compact")


@pytest.fixture(scope="session")
def other_model(model):
    larger = jax.jit(lambda params: jax.tree.map(lambda x: 1.5 * x, params))
    return dataclasses.replace(model, params=larger(model.params))


@pytest.fixture(scope="session")
def run_dir(model, tokenizer_file, tmp_path_factory):
    """What `train` would leave behind."""
    folder = tmp_path_factory.mktemp("run")
    settings = {"tokenizer": "anywhere", "chat_format": model.chat_format}
    (folder / "tokenizer.model").write_bytes(tokenizer_file.read_bytes())
    (folder / "config.json").write_text(json.dumps(settings))
    facts = {"model": model_facts(model.config), "tokenizer": model.tokenizer.fingerprint}
    with checkpointer(folder, keep=1) as saver:
        saver.save(3, model.params, {"count": jnp.array(3)}, facts, {})
    return folder
