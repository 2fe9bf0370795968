"""Our own sampler as a writer, with a real (tiny, untrained) checkpoint."""

import json

import jax
import jax.numpy as jnp
import pytest

from msm_jax.corpus.writers import Request
from msm_jax.corpus.writers.local import LocalWriter
from msm_jax.data.chat import CHAT_FORMATS
from msm_jax.data.tokenizer import load_tokenizer, train_sentencepiece
from msm_jax.errors import UserError
from msm_jax.generate import local_sampler
from msm_jax.model import ModelConfig, init_params
from msm_jax.weights.checkpoints import checkpointer, model_facts


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    (folder / "corpus.txt").write_text("a red lamp or a tin box? " * 50)
    controls = CHAT_FORMATS["compact"].control_tokens
    train_sentencepiece(folder / "corpus.txt", folder / "tokenizer.model", 40, controls)
    tokenizer = load_tokenizer(folder)
    config = ModelConfig(
        vocab_size=64, width=16, layers=1, heads=2, kv_heads=1, head_dim=8, mlp_width=16
    )
    params = jax.jit(init_params, static_argnums=0)(config, jax.random.key(0))
    settings = {"tokenizer": "anywhere", "chat_format": "compact"}
    (folder / "config.json").write_text(json.dumps(settings))
    facts = {"model": model_facts(config), "tokenizer": tokenizer.fingerprint}
    with checkpointer(folder, keep=1) as saver:
        saver.save(1, params, {"count": jnp.array(1)}, facts, {})
    return str(folder)


def request(text, sample=0):
    return Request("document", "a tin box", text, {}, None, 6, sample)


def test_a_reply_depends_on_seed_and_request_alone(checkpoint):
    writer = LocalWriter(checkpoint, local_sampler(checkpoint), 1.0, seed=3)
    asked = [request("a red lamp"), request("or a"), request("a red lamp", 1)]
    together = dict(writer.replies(asked, lambda: True))
    for at in (0, 2):
        ((_, alone),) = writer.replies([asked[at]], lambda: True)
        assert alone == together[at]
    assert together[0].text != together[2].text
    assert {reply.stop for reply in together.values()} <= {"end", "length"}


def test_without_a_sampler_there_is_no_local_writer(config, run, tmp_path):
    asked = config("general", count=4)
    asked.writer.kind, asked.writer.model = "local", "a/run"
    with pytest.raises(UserError, match="no sampler was passed"):
        run(asked, tmp_path)
