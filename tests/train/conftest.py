"""A tiny stage that trains in seconds."""

import json

import numpy as np
import pytest

from msm_jax.data.chat import CHAT_FORMATS
from msm_jax.data.tokenizer import train_sentencepiece
from msm_jax.train.config import source, stage

WORDS = "red blue green big small round flat old new cheap".split()


@pytest.fixture(scope="session")
def material(tmp_path_factory):
    """A tokenizer and a corpus whose every second word follows from the first."""
    folder = tmp_path_factory.mktemp("material")
    rng = np.random.default_rng(0)
    texts = []
    for _ in range(400):
        picked = rng.integers(0, len(WORDS), 4)
        texts.append(" ".join(f"{WORDS[i]} {WORDS[(i + 3) % len(WORDS)]}" for i in picked) + ".")
    (folder / "documents.jsonl").write_text(
        "".join(json.dumps({"text": text}) + "\n" for text in texts)
    )
    (folder / "corpus.txt").write_text("\n".join(texts))
    train_sentencepiece(
        folder / "corpus.txt", folder / "t.model", 80, CHAT_FORMATS["compact"].control_tokens
    )
    pairs = [
        {
            "system": "red.",
            "question": "big?",
            "options": ["small.", "old."][:: 1 if i % 2 else -1],
            "a_index": i % 2,
        }
        for i in range(4)
    ]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    return folder


@pytest.fixture(scope="session")
def tiny_stage(material):
    """A function that gives the configuration of the stage."""

    def make():
        config = stage()
        config.tokenizer = str(material / "t.model")
        config.data.documents = source(str(material / "documents.jsonl"))
        config.sequence_length, config.rows, config.steps = 24, 4, 12
        # One layer, as XLA compiles a step for longer with each more; several are trained in
        # test_step, test_torch_parity and test_parent.
        config.model.update(
            {"width": 16, "layers": 1, "heads": 2, "kv_heads": 1, "head_dim": 8, "mlp_width": 32}
        )
        config.optimizer.learning_rate = 1e-2
        config.checkpoint_every, config.log_every = 12, 1
        return config

    return make


@pytest.fixture
def config(tiny_stage):
    return tiny_stage()
