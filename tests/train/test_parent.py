"""From a Hugging Face checkpoint to midtraining and fine-tuning of one adapter on it."""

import json

import numpy as np
import pytest
from ml_collections import ConfigDict

import msm_jax
from msm_jax.errors import UserError
from msm_jax.model import ModelConfig
from msm_jax.train.config import source
from msm_jax.train.loop import train
from msm_jax.weights.checkpoints import load_params, read_facts
from msm_jax.weights.fingerprint import params_fingerprint

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def checkpoint(material, tmp_path_factory):
    """A tiny random Qwen3 with its tokenizer, as `save_pretrained` writes them."""
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, trainers

    folder = tmp_path_factory.mktemp("qwen3")
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    controls = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=controls, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train([str(material / "corpus.txt")], trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    torch.manual_seed(0)
    config = transformers.Qwen3Config(
        vocab_size=320, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, intermediate_size=64, tie_word_embeddings=False,
    )  # fmt: skip
    model = transformers.Qwen3ForCausalLM(config)
    model.save_pretrained(folder)
    template = (
        "{% for turn in messages %}<|im_start|>{{ turn.role | upper }}\n"
        "{{ turn.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>ASSISTANT\n{% endif %}"
    )
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    return folder, model, tokenizer


def test_midtraining_then_fine_tuning_of_the_same_adapter(config, checkpoint, material, tmp_path):
    folder, model, tokenizer = checkpoint
    blank = {"lora_rank": 4, "lora_alpha": 8.0, "preset": "parent"}
    config.parent, config.tokenizer, config.trainable = str(folder), "", "lora"
    config.model.update(blank)
    config.chat_format, config.steps = "qwen3", 30
    config.packing.rows = "documents"
    train(config, tmp_path / "midtrain")
    ours, params, facts = load_params(tmp_path / "midtrain")
    assert isinstance(ours, ModelConfig) and facts["trainable"] == "lora"
    embedding = model.state_dict()["model.embed_tokens.weight"].numpy()
    np.testing.assert_array_equal(params["embed"]["w"], embedding)
    # The first step's loss is that of transformers on the same documents: the adapter is nothing.
    rows = [json.loads(x) for x in (tmp_path / "midtrain/metrics.jsonl").read_text().splitlines()]
    from msm_jax.data.pipeline import load_data
    from msm_jax.data.tokenizer import load_tokenizer

    data = load_data(
        config.data.to_dict(), load_tokenizer(folder), "qwen3", 24, 4, 0,
        packing={"rows": "documents"},
    )  # fmt: skip
    batch = data.rows(0)
    total, count = 0.0, 0
    for tokens, segments in zip(batch["tokens"], batch["segment_ids"], strict=True):
        ids = torch.from_numpy(tokens[segments > 0].astype(np.int64))[None]
        with torch.no_grad():
            loss = model(input_ids=ids, labels=ids).loss
        total, count = total + float(loss) * (ids.numel() - 1), count + ids.numel() - 1
    assert rows[0]["loss"] == pytest.approx(total / count, rel=1e-5)
    assert rows[-1]["loss"] < rows[0]["loss"] - 0.1
    # Fine-tuning goes on with the same adapter; its optimizer and schedule begin anew.
    chats = [
        {"messages": [{"role": "user", "content": "red"}, {"role": "assistant", "content": "big"}]}
    ] * 8
    (tmp_path / "chats.jsonl").write_text("".join(json.dumps(chat) + "\n" for chat in chats))
    config.parent = str(tmp_path / "midtrain")

    chats = source(str(tmp_path / "chats.jsonl"), loss_on="assistant")
    config.data = ConfigDict({"chats": chats})
    config.optimizer.learning_rate, config.steps, config.chat_format = 1e-4, 4, "own"
    train(config, tmp_path / "aft")
    after = load_params(tmp_path / "aft")[1]
    np.testing.assert_array_equal(after["embed"]["w"], embedding)
    adapter = lambda params: np.concatenate([
        np.ravel(params["layers"]["attention"][name][part])
        for name in "qkvo" for part in ("lora_a", "lora_b")
    ])  # fmt: skip
    before, now = adapter(params), adapter(after)
    cosine = before @ now / np.linalg.norm(before) / np.linalg.norm(now)
    assert 0.99 < cosine < 1.0
    first = json.loads((tmp_path / "aft/metrics.jsonl").read_text().splitlines()[0])
    assert first["learning_rate"] == pytest.approx(1e-4)
    # What came with the checkpoint has come along to here, and goes back out.
    run = msm_jax.load(tmp_path / "aft")
    asked = [{"role": "user", "content": "red"}]
    ids, _ = run.render(asked, generation_prompt=True)
    assert run.chat_format == "own" and run.tokenizer.decode(ids) == "USER\nred\nASSISTANT\n"
    run.save(tmp_path / "alone", "peft")  # on the checkpoint, and not on the run between
    named = json.loads((tmp_path / "alone/adapter_config.json").read_text())
    assert named["base_model_name_or_path"] == str(folder)
    run.save(tmp_path / "published")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "published")
    with torch.no_grad():
        wanted = theirs(torch.tensor([ids])).logits.numpy()
    assert np.abs(run.logits([ids]) - wanted).max() <= 1e-4
    again = msm_jax.load(tmp_path / "published", chat_format="own")
    assert again.render(asked, generation_prompt=True)[0] == ids
    config.model.lora_rank = 8
    with pytest.raises(UserError, match="has an adapter of rank, alpha and targets"):
        train(config, tmp_path / "other")


def test_an_adapter_on_a_base_in_8_bits(config, checkpoint, tmp_path):
    """It is trained, kept without its base, resumed, loaded, and exported as what was trained."""
    folder, model, _ = checkpoint
    config.parent, config.tokenizer, config.trainable = str(folder), "", "lora"
    config.model.update({"lora_rank": 4, "preset": "parent", "param_dtype": "int8"})
    config.chat_format, config.steps = "qwen3", 4
    train(config, tmp_path / "run")
    assert "int8 weights" in (tmp_path / "run/log.txt").read_text()
    facts = read_facts(tmp_path / "run")
    assert facts["model"]["param_dtype"] == "int8"
    stored = (tmp_path / "run/checkpoints/4/params/_METADATA").read_text()
    assert "lora_a" in stored and "w_scale" not in stored and "embed" not in stored
    run = msm_jax.load(tmp_path / "run")
    q, scale = (run.params["layers"]["mlp"]["up"][name] for name in ("w", "w_scale"))
    original = np.stack([layer.mlp.up_proj.weight.detach() for layer in model.model.layers])
    assert q.dtype == np.int8 and run.params["embed"]["w"].dtype == "bfloat16"
    step = np.asarray(scale, np.float32)[..., None]
    assert (np.abs(np.asarray(q) * step - original) <= 0.6 * step + 2e-3 * np.abs(original)).all()
    ids = list(range(20))
    with pytest.raises(UserError, match="cannot be merged into them: load .*bfloat16"):
        run.merged()
    with pytest.raises(UserError, match="cannot be written as a Hugging Face checkpoint"):
        run.save(tmp_path / "refused")
    assert not (tmp_path / "refused").exists()
    msm_jax.load(tmp_path / "run", dtype="float32").save(tmp_path / "published")
    plain = msm_jax.load(tmp_path / "published")
    plain.save(tmp_path / "stored", "orbax")
    of_files, of_run = (
        msm_jax.load(tmp_path / name, dtype="int8") for name in ("published", "stored")
    )
    assert params_fingerprint(of_files.params) == params_fingerprint(of_run.params)
    assert of_run.config.dtype == "bfloat16" and "w_scale" in of_run.params["layers"]["mlp"]["up"]
    found = plain.logits([ids])
    np.testing.assert_allclose(found, run.logits([ids]), atol=1e-2 * np.abs(found).max())
    config.model.param_dtype = "bfloat16"
    with pytest.raises(UserError, match="param_dtype: checkpoint 'int8', this run 'bfloat16'"):
        train(config, tmp_path / "run")
    config.model.param_dtype, config.trainable = "float8", "all"
    with pytest.raises(UserError, match='trainable="all" with model.param_dtype=float8: .*"lora"'):
        train(config, tmp_path / "all")


def test_chats_keep_the_format_of_the_stage_before(config, checkpoint, material, tmp_path):
    folder, _, _ = checkpoint
    config.parent, config.tokenizer, config.steps = str(folder), "", 2
    config.sequence_length = 64
    config.model.preset = "parent"
    log = lambda name: (tmp_path / name / "log.txt").read_text()
    config.chat_format = "qwen3"  # of documents, which no format writes
    train(config, tmp_path / "documents")
    assert "is not the template" not in log("documents")
    chats = [
        {"messages": [{"role": "user", "content": "red"}, {"role": "assistant", "content": "big"}]}
    ] * 8
    (tmp_path / "chats.jsonl").write_text("".join(json.dumps(chat) + "\n" for chat in chats))
    config.data = ConfigDict({"chats": source(str(tmp_path / "chats.jsonl"))})
    train(config, tmp_path / "warned")
    assert "warning: chat_format='qwen3' is not the template of parent=" in log("warned")
    assert "first for [{'role': 'user'" in log("warned")
    config.chat_format, config.parent = "own", str(tmp_path / "documents")
    train(config, tmp_path / "own")
    assert "is not the template" not in log("own")
    config.chat_format, config.parent = "qwen3", str(tmp_path / "own")
    with pytest.raises(UserError, match=r"'qwen3' writes .* than 'own', which parent=.*first for"):
        train(config, tmp_path / "other")
    assert not (tmp_path / "other").exists()
    config.allow_new_chat_format = True
    train(config, tmp_path / "other")
    assert "warning: chat_format='qwen3' writes chats in another way than 'own'" in log("other")
    # The format goes through stages of documents; the tokenizer is the parent's.
    config.data = ConfigDict({"documents": source(str(material / "documents.jsonl"))})
    config.parent = str(tmp_path / "own")
    train(config, tmp_path / "between")
    assert load_params(tmp_path / "between")[2]["taught"]["name"] == "own"  # words: ok
    with pytest.raises(
        UserError, match="was trained on chats in the format 'own', and 'qwen3' writes"
    ):
        msm_jax.load(tmp_path / "between")
    assert msm_jax.load(tmp_path / "between", chat_format="own").chat_format == "own"
    settings = tmp_path / "own" / "tokenizer_config.json"
    settings.write_text(settings.read_text().replace("ASSISTANT", "Assistant"))
    with pytest.raises(UserError, match="put its template back"):
        msm_jax.load(tmp_path / "own")
    config.tokenizer = str(material / "t.model")
    with pytest.raises(UserError, match="not the tokenizer of parent="):
        train(config, tmp_path / "words")


def test_another_shape_than_the_parents_is_refused(config, checkpoint, tmp_path):
    folder, _, _ = checkpoint
    config.parent, config.tokenizer, config.chat_format = str(folder), "", "qwen3"
    with pytest.raises(UserError, match=r"has another model: .*width 32 there, 16 here"):
        train(config, tmp_path)
