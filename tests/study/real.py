"""The config of a tiny study from a Hugging Face checkpoint: spec, documents, weights, rates."""

import os
import pathlib

from ml_collections import ConfigDict

from msm_jax.corpus.config import generate
from msm_jax.study.config import contrast, evaluation, study
from msm_jax.train.config import source

FILES = pathlib.Path(os.environ.get("TINY_FILES", "."))  # base/, files/


def get_config():
    """Arms without training, after documents, and after documents and fine-tuning."""
    config = study()
    config.name = "real"
    config.workers = 1
    config.platform = "cpu"
    config.base.path = str(FILES / "base")
    docs = generate()
    docs.spec.update({"path": str(FILES / "files" / "spec.md"), "model_name": "Aria"})
    docs.writer.kind = "stub"
    docs.documents.update({"count": 6, "types": 1, "words": (20, 60), "allow_short": True})
    config.corpora.docs = docs
    config.train.update({"rows": 4, "sequence_length": 16, "mixture": "epochs", "steps": 0})
    config.train.update({"checkpoint_every": 4, "log_every": 1})
    # One program for stages of any number of steps.
    config.train.optimizer.update({"schedule": "constant", "warmup_fraction": 0.0})
    config.train.trainable = "lora"
    config.train.model.update({"lora_rank": 2, "lora_alpha": 4.0})
    data = lambda path: ConfigDict({"data": {"text": source(path)}})
    config.stages.msm = data("{docs}/documents.jsonl")
    config.stages.aft = data(str(FILES / "files" / "red*.jsonl"))
    config.arms.plain = ()
    config.arms.msm = ("msm",)
    config.arms.both = ("msm", "aft")
    # One row, as of the conversations that are sampled after the evaluations: one program for both.
    config.evals.which = evaluation(
        pairs=str(FILES / "files" / "pairs.jsonl"), rows=1, max_tokens=4
    )
    config.contrasts.gap = contrast("both - plain", "which", ("both",), ("plain",))
    return config.lock()
