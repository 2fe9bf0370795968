"""Whole checkpoint directories, with Qwen's real tokenizer: loaded, adapted, saved, converted."""

import copy
import dataclasses
import json
import pathlib
import sys
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers

from msm_jax import tiny
from msm_jax.api import load
from msm_jax.errors import UserError
from msm_jax.tiny import tiny_checkpoint

sys.path.insert(0, str(pathlib.Path(__file__).parent / "data"))
sys.path.insert(0, str(pathlib.Path(__file__).parent / "model"))
import qwen
import reference

CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Which is older, 3 or 10?"},
]
LONG = [CHAT[0], {"role": "user", "content": CHAT[1]["content"] * 30}]
ROWS = 151_936
# A third token that ends answers, so that the program of these tests is one program.
THIRD = "<|im_start|>"


def write_checkpoint(folder, rows: int, tokenizer_json: str) -> None:
    """A tiny Qwen3 in a directory like those of the hub, rows beyond the tokenizer made likely."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    tokenizer = tokenizers.Tokenizer.from_str(tokenizer_json)
    stop_ids = [tokenizer.token_to_id(name) for name in ("<|im_end|>", "<|endoftext|>")]
    config = transformers.Qwen3Config(
        vocab_size=rows, hidden_size=24, intermediate_size=40, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=8, rms_norm_eps=1e-6,
        tie_word_embeddings=True, eos_token_id=stop_ids[0], max_position_embeddings=4096,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.Qwen3ForCausalLM(config).eval()
    with torch.no_grad():
        for value in model.parameters():
            value.copy_(torch.randn_like(value) * 0.2 + (value.dim() == 1))
        model.model.embed_tokens.weight[tokenizer.get_vocab_size() :] *= 3
    model.generation_config.eos_token_id = stop_ids
    model.save_pretrained(folder)
    (folder / "tokenizer.json").write_text(tokenizer_json)
    settings = {
        "chat_template": qwen.QWEN3_TEMPLATE,
        "eos_token": "<|im_end|>",
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    write_checkpoint(folder, ROWS, qwen.tokenizer_json())
    return folder


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """(loaded by us, by transformers, directory) of one with 1,024 rows, a hundredth of the work.

    For what does not depend on the tokenizer.
    """
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("small")
    beside = tiny_checkpoint(folder.with_name("beside"), [turn["content"] for turn in CHAT])
    write_checkpoint(folder, tiny.ROWS, (beside / "tokenizer.json").read_text())
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    return load(folder), theirs, folder


@pytest.fixture(scope="module")
def theirs(folder):
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    return model, transformers.AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def ours(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # its template writes what our format writes
        warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache")
        return load(folder)


def their_logits(model, ids):
    import torch

    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].double().numpy()


def test_a_conversation_gets_the_logits_of_transformers(ours, theirs):
    model, tokenizer = theirs
    wanted = tokenizer.apply_chat_template(LONG, add_generation_prompt=True, return_dict=False)
    ids, loss = ours.render(LONG, generation_prompt=True)
    assert ids == wanted and len(ids) > 250 and not any(loss)
    found = ours.logits([ids])[0]
    assert found.shape == (len(ids), ROWS)
    assert np.abs(found - their_logits(model, ids)).max() <= 1e-4


def test_rows_without_an_id_have_no_probability(ours, theirs):
    prompt, answer = ours.encode(CHAT), ours.encode("10, of course.\n\nOr 3?")
    scores = their_logits(theirs[0], [*prompt, *answer])[len(prompt) - 1 : -1]
    known = scores[:, :151_669]
    rest = np.exp(scores[:, 151_669:]).sum()
    assert rest > 0.05 * np.exp(known).sum()  # or this would test nothing
    top = known.max(axis=1)
    total = top + np.log(np.exp(known - top[:, None]).sum(axis=1))
    wanted = known[np.arange(len(answer)), answer] - total
    (found,) = ours.logprobs([CHAT], [answer], rows=1)
    np.testing.assert_allclose(found, wanted, atol=1e-4)
    with pytest.raises(UserError, match="ids outside"):
        ours.logprobs([CHAT], [[151_700]])
    (samples,) = ours.sample([CHAT], n=5, max_tokens=12, temperature=1.0, rows=3, stop=THIRD)
    assert all(token < 151_669 for sample in samples for token in sample.tokens)
    (again,) = ours.logprobs([CHAT], [samples[0].tokens], rows=1)
    np.testing.assert_allclose(again, samples[0].logprobs, atol=1e-4)


def test_an_answer_ends_at_the_checkpoints_own_stop_ids(ours, folder, tmp_path):
    assert ours.stop_ids == (151_645, 151_643)
    assert (ours.chat_format, ours.format.end) == ("own", "<|im_end|>")
    asked = {"n": 3, "max_tokens": 3, "temperature": 0, "rows": 3}
    ((sample, *_),) = ours.sample([CHAT], stop=THIRD, **asked)
    for file in folder.iterdir():
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / "generation_config.json").unlink()
    stop = json.dumps({"eos_token_id": sample.tokens[1]})
    (tmp_path / "generation_config.json").write_text(stop)
    (answers,) = load(tmp_path).sample([CHAT], **asked)
    for stopped in answers:
        assert (stopped.tokens, stopped.finish_reason) == (sample.tokens[:1], "stop")


def test_another_template_is_used_with_a_warning(folder, tmp_path):
    for file in folder.iterdir():
        (tmp_path / file.name).symlink_to(file)
    changed = qwen.QWEN3_TEMPLATE.replace("turn.role +", "turn.role|upper +")
    (tmp_path / "chat_template.jinja").write_text(changed)
    with pytest.warns(UserWarning, match="built-in format 'qwen3' differs, first for"):
        model = load(tmp_path)
    text = model.tokenizer.decode(model.encode(CHAT[1:]))
    assert text.startswith("USER\n")
    other = load(tmp_path, chat_format="qwen3-no-thinking")
    assert model.identity() != other.identity()
    assert other.tokenizer.decode(other.encode(CHAT[1:])).startswith("user\n")
    with pytest.raises(UserError, match="no control token '<|begin_of_text|>'".replace("|", r"\|")):
        load(tmp_path, chat_format="llama3")
    with pytest.raises(UserError, match="chat_format='nothing'"):
        load(tmp_path, chat_format="nothing")


def test_adapters_are_swapped_over_one_base(small, tmp_path):
    ours, theirs, folder = small
    ids = ours.encode(CHAT)
    plain, wanted = ours.logits([ids]), {}
    for name, rank in (("a", 64), ("b", 3)):
        wrapped = reference.random_adapter(copy.deepcopy(theirs), tmp_path / name, rank, r=rank)
        wanted[name] = their_logits(wrapped, ids)
    model = load(folder, adapter=tmp_path / "a")
    for name in "aba":
        model = model.with_adapter(tmp_path / name)
        assert model.params["embed"]["w"] is not None
        assert np.abs(model.logits([ids])[0] - wanted[name]).max() <= 1e-4
        assert np.abs(model.merged().logits([ids])[0] - wanted[name]).max() <= 1e-4
    assert np.abs(wanted["a"] - wanted["b"]).max() > 0.1
    np.testing.assert_array_equal(model.with_adapter(None).logits([ids]), plain)
    # the base is shared, not copied
    swapped = ours.with_adapter(tmp_path / "b")
    assert swapped.params["embed"]["w"] is ours.params["embed"]["w"]


def test_saved_in_every_form_and_loaded_again(ours, theirs, folder, tmp_path):
    import transformers

    reference.random_adapter(copy.deepcopy(theirs[0]), tmp_path / "adapter", r=4)
    tuned = ours.with_adapter(tmp_path / "adapter")
    ids = ours.encode(CHAT)
    wanted = tuned.logits([ids])
    tuned.save(tmp_path / "run", "orbax")
    run = load(tmp_path / "run")
    assert run.identity() == tuned.identity() and run.stop_ids == ours.stop_ids
    np.testing.assert_array_equal(run.logits([ids]), wanted)
    assert run.encode(CHAT) == ids
    run.save(tmp_path / "adapter again", "peft")
    again = ours.with_adapter(tmp_path / "adapter again")
    np.testing.assert_array_equal(again.logits([ids]), wanted)
    run.save(tmp_path / "merged")
    merged = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    assert np.abs(their_logits(merged, ids) - wanted[0]).max() <= 1e-4
    assert merged.config.eos_token_id == 151_645
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "merged")
    found = tokenizer.apply_chat_template(CHAT, add_generation_prompt=True, return_dict=False)
    assert found == ids
    with pytest.raises(UserError, match="format='gguf'"):
        run.save(tmp_path / "x", "gguf")
    with pytest.raises(UserError, match="has no adapter to save"):
        ours.save(tmp_path / "x", "peft")


def test_the_command_converts_and_checks(ours, folder, tmp_path, forked):
    source, back = f"--source={folder}", f"--target={tmp_path / 'back'}"
    (tmp_path / "text.md").write_text(
        "# Lamps\n\nThe red lamp is older than the blue one, and nobody knows why.\n"
    )
    run_dir = f"--source={tmp_path / 'run'}"
    mistakes = (
        ((source, back, "--to=huggingface"), "is not empty"),
        ((source,), "--target and --to must be given"),
        ((source, "--check", "--to=orbax"), "--check writes nothing"),
        ((f"--source={tmp_path}", "--check"), "has no config.json"),
        ((run_dir, f"--target={tmp_path / 'p'}", "--to=peft"), "no adapter"),
        ((source, back, "--to=orbax", "--dtype=int8"), "when a model is loaded"),
    )
    lines = [
        (source, "--check", "--dtype=int8", f"--text={tmp_path / 'text.md'}"),
        (source, f"--target={tmp_path / 'run'}", "--to=orbax"),
        (run_dir, back, "--to=huggingface"),
        *(line for line, _ in mistakes),
    ]
    checked, *converted = [forked("msm_jax.convert", [*line], tmp_path) for line in lines]
    assert checked["code"] == 0, checked["err"]
    for words in (
        "qwen3: 2 layers of width 24",
        "3,656,984 in 24 tensors of float32",
        "model.embed_tokens.weight [151936, 24]",
        "tokenizer.json: 151669 ids, 26 of them control tokens; 267 rows of the model have no id",
        "own: a completion ends with <|im_end|>; stop ids [151643, 151645]",
        f"int8 against bfloat16 on 19 tokens of {tmp_path / 'text.md'}: KL per token mean ",
    ):  # fmt: skip
        assert words in checked["out"], checked["out"]
    assert "warning" not in checked["out"]
    for done in converted[:2]:
        assert done["code"] == 0, done["err"]
    target = tmp_path / "back"
    names = {file.name for file in folder.iterdir()}
    assert names <= {file.name for file in target.iterdir()}
    assert load(target).identity() == ours.identity()
    for done, (_, message) in zip(converted[2:], mistakes, strict=True):
        assert done["code"] == 2 and message in done["err"], done["err"]
        assert "Traceback" not in done["err"]


def test_on_a_mesh_as_on_one_device(ours, folder):
    many = load(folder, mesh={"data": 1})
    assert many.mesh is not None
    np.testing.assert_array_equal(many.logits([[1, 2, 3]]), ours.logits([[1, 2, 3]]))
    with pytest.raises(UserError, match="impossible mesh"):
        load(folder, mesh={"fsdp": jax.device_count() + 1})
    for wrong, says in (
        ({"tensr": 1}, "there is no axis 'tensr'; known: data, fsdp, sequence, tensor"),
        ({"tensor": 1.5}, "1.5 is no size"),
        ({"tensor": True}, "True is no size"),
        ("tensor=1", "must be a Mesh, or sizes such as"),
    ):
        with pytest.raises(UserError, match=says):
            load(folder, mesh=wrong)


def test_a_model_with_unstacked_layers_is_the_same_model(small, tmp_path):
    ours, theirs, _ = small
    reference.random_adapter(copy.deepcopy(theirs), tmp_path / "a", r=4)
    reference.random_adapter(copy.deepcopy(theirs), tmp_path / "b", 3, r=3)
    model = ours.with_adapter(tmp_path / "a")
    # Its own arrays, which are deleted.
    model = dataclasses.replace(model, params=jax.tree.map(jnp.copy, model.params))
    stack = model.params["layers"]["mlp"]["up"]["w"]
    identity, ids = model.identity(), model.encode(CHAT)
    wanted, merged = model.logits([ids]), model.merged().logits([ids])
    asked = {"prompts": [CHAT, "one"], "n": 2, "max_tokens": 4}
    answers, scores = model.sample(**asked), model.logprobs([CHAT], ["Yes."])
    assert model.for_sampling() is model  # there is room for both forms
    apart = model.for_sampling(always=True)
    assert stack.is_deleted() and isinstance(apart.params["layers"], tuple)
    assert apart.identity() == identity
    np.testing.assert_allclose(apart.logits([ids]), wanted, atol=1e-5)
    np.testing.assert_allclose(apart.logprobs([CHAT], ["Yes."])[0], scores[0], atol=1e-5)
    for some, others in zip(apart.sample(**asked), answers, strict=True):
        assert [answer.tokens for answer in some] == [answer.tokens for answer in others]
    np.testing.assert_allclose(apart.merged().logits([ids]), merged, atol=1e-5)
    apart.save(tmp_path / "saved", "orbax")
    assert load(tmp_path / "saved").identity() == identity
    swapped = apart.with_adapter(tmp_path / "b").logits([ids])
    np.testing.assert_allclose(swapped, ours.with_adapter(tmp_path / "b").logits([ids]), atol=1e-5)
    np.testing.assert_allclose(
        apart.with_adapter(None).logits([ids]), ours.logits([ids]), atol=1e-5
    )


def test_commands_take_an_adapter_and_a_mesh(small, tmp_path, forked):
    ours, theirs, folder = small
    reference.random_adapter(copy.deepcopy(theirs), tmp_path / "a", r=4)
    two = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    run = lambda module, *line: forked(module, [*line], tmp_path, env=two)
    question = {"question": "Which is older?", "options": ["3", "10"], "answer": 1}
    (tmp_path / "quiz.jsonl").write_text(json.dumps(question) + "\n")
    quiz = ["--kind=quiz", f"--checkpoint={folder}"]
    quiz += [f"--quiz={tmp_path / 'quiz.jsonl'}", "--rows=2"]
    tuned = [*quiz, f"--adapter={tmp_path / 'a'}", "--mesh=tensor=2"]
    asked = [f"--checkpoint={folder}", "--prompt=one", "--max_tokens=3"]
    done = run("msm_jax.sample", *asked, "--mesh=tensor=2", "--temperature=0")
    wrong = run("msm_jax.sample", *asked, "--mesh=tensor:2")
    assert done["code"] == 0, done["err"]
    ids = ours.encode("one")
    for _ in range(3):
        known = their_logits(theirs, ids)[-1, : ours.tokenizer.vocab_size]
        ids.append(int(known.argmax()))
    assert not {*ids} & {*ours.ends}
    alone = ours.tokenizer.decode(ids[len(ours.encode("one")) :])
    assert json.loads(done["out"])["completion"] == alone
    assert wrong["code"] == 2 and "'tensor:2' is not AXIS=NUMBER" in wrong["err"]
    for name, line in {"plain": quiz, "tuned": tuned}.items():
        done = run("msm_jax.evaluate", *line, f"--output={tmp_path / name}")
        assert done["code"] == 0, done["err"]
    model = lambda name: json.loads((tmp_path / name / "evaluation.json").read_text())["model"]
    assert model("plain")["params"] != model("tuned")["params"]
