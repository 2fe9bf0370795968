"""The stub's text is for checks of the pipeline, and whoever uses it otherwise is warned."""

import re

import pytest

from msm_jax.corpus.records import read_rows
from msm_jax.corpus.writers.stub import WARNING
from msm_jax.data.chat import CHAT_FORMATS
from msm_jax.data.pipeline import load_data
from msm_jax.data.tokenizer import load_tokenizer, train_sentencepiece
from msm_jax.errors import UserError
from msm_jax.train.config import source


def test_the_manifest_and_the_log_of_a_stage_say_that_it_is_placeholder_text(config, run, tmp_path):
    asked = config("values", count=12)
    asked.formats = ("jsonl", "parquet", "array_record", "tfds")
    assert "pipeline checks" in run(asked, tmp_path)["only_for"]
    texts = [row["text"] for _, row in read_rows(tmp_path / "documents.jsonl")]
    assert all(re.match(r"Stub [a-z]+ [a-z]+ [a-z]+\. ", text) for text in texts)
    (tmp_path / "real.jsonl").write_text(
        '{"text": "A lamp.", "writer": {"writer": "openai"}}\n' * 3
    )
    (tmp_path / "texts.txt").write_text("\n".join(texts))
    train_sentencepiece(
        tmp_path / "texts.txt", tmp_path / "t.model", 300, CHAT_FORMATS["compact"].control_tokens
    )
    tokenizer = load_tokenizer(tmp_path / "t.model")
    names = ("documents.jsonl", "documents.parquet", "documents.array_record", "real.jsonl")
    sources = {name.replace(".", "_"): source(str(tmp_path / name)) for name in names}
    sources["documents_tfds"] = source(f"tfds:{tmp_path / 'tfds'}")
    data = load_data(
        sources, tokenizer, "compact", 64, 4, 0, mixture="epochs", epochs=1.0, cache=str(tmp_path)
    )
    notes = {name: account.get("notes", {}) for name, account in data.accounts.items()}
    warned = {name: note[WARNING] for name, note in notes.items() if WARNING in note}
    assert set(warned) == set(sources) - {"real_jsonl"} and set(warned.values()) == {12}
    assert sum(f"{WARNING}: 12" in note for note in data.notes) == 4


@pytest.mark.parametrize("style", ["value", "opaque", "identity"])
def test_it_answers_every_step_of_chats(style, config, run, tmp_path):
    asked = config("cheese_cost" if style == "opaque" else "rules")
    asked.make, asked.critic.kind = "chats", "stub"
    asked.chats.update({"style": style, "count": 12, "questions_per_domain": 24})
    found = run(asked, tmp_path)
    assert found["records"] == 12 and not found["dropped"] and not found["failures"]["writer"]


def test_it_is_chosen_by_name_only(config, run, tmp_path):
    asked = config()
    asked.writer.kind = ""
    with pytest.raises(UserError, match=r"(?s)kind is not set.*vllm serve.*anthropic.*local.*stub"):
        run(asked, tmp_path)
    assert not list(tmp_path.iterdir())
