"""Adapters beside the peft library: active, merged, swapped, written and read."""

import json
import pathlib
import sys

import jax
import numpy as np
import pytest

from msm_jax.errors import UserError
from msm_jax.model import forward, logits
from msm_jax.model.adapter import join, merge
from msm_jax.weights.huggingface import load_checkpoint, not_finite
from msm_jax.weights.peft import CONFIG_FILE, load_adapter, save_adapter
from msm_jax.weights.tensor_files import find_tensors

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "model"))
import reference

LENGTH = 503
_forward = jax.jit(forward, static_argnums=0)


def tokens():
    return np.random.default_rng(1).integers(0, 97, (1, LENGTH)).astype(np.int32)


def ours(config, params):
    ones, places = np.ones((1, LENGTH), np.int32), np.arange(LENGTH, dtype=np.int32)[None]
    return np.asarray(logits(config, params, _forward(config, params, tokens(), ones, places)))


def theirs(model):
    import torch

    with torch.no_grad():
        return model(torch.tensor(tokens(), dtype=torch.long)).logits.numpy()


@pytest.fixture
def base(tmp_path):
    """A function: family -> (directory of the base, transformers' model)."""
    pytest.importorskip("torch")
    pytest.importorskip("peft")

    def write(family="qwen3"):
        _, model = reference.tiny(family, family != "llama", 1e-5, 5e6, "odd widths")
        model.save_pretrained(tmp_path / "base")
        return tmp_path / "base", model

    return write


@pytest.mark.parametrize("family", ["qwen3", "qwen2", "llama"])
def test_logits_are_those_of_peft_active_and_merged(base, tmp_path, family):
    folder, model = base(family)
    config, params = load_checkpoint(folder)
    plain = theirs(model)
    wrapped = reference.random_adapter(model, tmp_path / "adapter")
    wanted = theirs(wrapped)
    assert np.abs(wanted - plain).max() > 0.1
    adapted, adapter = load_adapter(tmp_path / "adapter", config)
    assert (adapted.lora_rank, adapted.lora_alpha, adapted.lora_scale) == (64, 128.0, 2.0)
    whole = join(params, adapter)
    assert np.abs(ours(adapted, whole) - wanted).max() <= 1e-4
    assert np.abs(ours(*merge(adapted, whole)) - wanted).max() <= 1e-4
    merged = theirs(wrapped.merge_and_unload())
    assert np.abs(ours(*merge(adapted, whole)) - merged).max() <= 1e-4
    assert np.abs(ours(config, params) - plain).max() <= 1e-4


@pytest.mark.parametrize(
    "settings",
    [
        {"r": 5, "lora_alpha": 7, "use_rslora": True},
        {"target_modules": ["q_proj", "down_proj"], "r": 3},
        {"target_modules": r".*\.self_attn\.(k|v)_proj"},
        {"target_modules": "all-linear", "lora_dropout": 0.1},
        {"target_modules": "all-linear", "exclude_modules": ["lm_head", "v_proj"]},
        {"exclude_modules": r".*\.up_proj"},
    ],
)
def test_its_settings_mean_what_they_mean_to_peft(base, tmp_path, settings):
    folder, model = base()
    config, params = load_checkpoint(folder)
    wanted = theirs(reference.random_adapter(model, tmp_path / "adapter", **settings))
    adapted, adapter = load_adapter(tmp_path / "adapter", config)
    assert np.abs(ours(adapted, join(params, adapter)) - wanted).max() <= 1e-4


@pytest.mark.parametrize("rslora", [False, True])
def test_what_we_write_loads_in_peft(base, tmp_path, rslora):
    from peft import PeftModel

    folder, model = base()
    config, params = load_checkpoint(folder)
    wrapped = reference.random_adapter(model, tmp_path / "first", r=5, use_rslora=rslora)
    wanted = theirs(wrapped)
    adapted, adapter = load_adapter(tmp_path / "first", config)
    save_adapter(tmp_path / "again", adapted, join(params, adapter), "base", rslora)
    again = PeftModel.from_pretrained(wrapped.unload(), tmp_path / "again").eval()
    np.testing.assert_allclose(theirs(again), wanted, atol=1e-5)
    found, same = load_adapter(tmp_path / "again", config)
    assert found.lora_alpha == pytest.approx(adapted.lora_alpha)
    jax.tree.map(np.testing.assert_array_equal, same, adapter)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"use_dora": True}, "use_dora True is not supported"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"rank_pattern": {"q_proj": 3}}, "rank_pattern"),
        ({"layers_to_transform": [0]}, "layers_to_transform"),
        ({"layers_to_transform": 0}, "layers_to_transform 0 is not supported"),
        ({"bias": "all"}, "bias 'all'"),
        ({"peft_type": "IA3"}, "peft_type 'IA3'"),
        ({"r": 0}, "r 0"),
        ({"lora_alpha": None}, "lora_alpha None"),
        ({"lora_alpha": 0}, "lora_alpha 0: the adapter would do nothing"),
        ({"lora_alpha": -4}, "lora_alpha -4: a number above 0"),
        ({"lora_alpha": 10**400}, "lora_alpha 1000"),
        ({"r": 10**400}, "r 1000"),
        ({"lora_alpha": float("nan")}, "lora_alpha nan"),
        ({"exclude_modules": 3}, "exclude_modules 3"),
        ({"exclude_modules": ["q_proj"]}, "is not a tensor of this model"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices .*merge_and_unload"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights 'pissa'"),
        ({"target_modules": ["lm_head", "q_proj"]}, "target_modules has .'lm_head'."),
        ({"target_modules": ["0.self_attn.q_proj"]}, "picks q_proj in some layers only"),
        ({"target_modules": "("}, "target_modules '\\('.*unterminated"),
        ({"exclude_modules": "("}, "exclude_modules '\\('"),
        ({"target_modules": r"([a-z0-9._]+)+!"}, "target_modules .*takes more seconds than 1"),
        ({"something_new": 3}, "something_new 3 is not supported"),
        ({"target_modules": ["q_proj", "k_proj"]}, "is not a tensor of this model"),
        ({"r": 32}, r"has shape \[64, 40\], its config asks for \[32, 40\]"),
    ],
)
def test_what_is_not_done_is_refused_by_name(base, tmp_path, change, message, monkeypatch):
    monkeypatch.setattr("msm_jax.weights.peft.MATCHING_SECONDS", 1 if "!" in str(change) else 60)
    folder, model = base()
    config, _ = load_checkpoint(folder)
    reference.random_adapter(model, tmp_path / "adapter")
    file = tmp_path / "adapter" / CONFIG_FILE
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(UserError, match=message):
        load_adapter(tmp_path / "adapter", config)


def changed(folder, change):
    """The adapter's file with `change` applied to its tensors."""
    import safetensors.numpy

    file = folder / "adapter_model.safetensors"
    tensors = safetensors.numpy.load_file(file)
    change(tensors)
    safetensors.numpy.save_file(tensors, file)


def test_numbers_that_are_not_finite_are_told_with_their_place(base, tmp_path):
    folder, model = base()
    config, _ = load_checkpoint(folder)
    reference.random_adapter(model, tmp_path / "adapter", r=4)
    name = "base_model.model.model.layers.1.mlp.up_proj.lora_B.weight"

    def spoil(tensors):
        tensors[name][:2, 0] = np.nan, np.inf

    changed(tmp_path / "adapter", spoil)
    with pytest.raises(
        UserError, match=r"layers.1.mlp.up_proj.lora_B.weight: 2 of its numbers are not"
    ):
        load_adapter(tmp_path / "adapter", config)
    assert not_finite(find_tensors(tmp_path / "adapter", "adapter_model.safetensors")) == [
        f"{name}: 2 of its numbers are not finite"
    ]


def test_an_adapter_that_does_nothing_is_told(base, tmp_path):
    folder, model = base()
    config, _ = load_checkpoint(folder)
    reference.random_adapter(model, tmp_path / "adapter", r=4)
    changed(
        tmp_path / "adapter",
        lambda tensors: [x.fill(0) for name, x in tensors.items() if "lora_B" in name],
    )
    with pytest.warns(UserWarning, match="the adapter does nothing"):
        load_adapter(tmp_path / "adapter", config)


def test_embeddings_beside_an_adapter_are_named_as_such(base, tmp_path):
    folder, model = base()
    config, _ = load_checkpoint(folder)
    reference.random_adapter(model, tmp_path / "adapter", r=4)
    # As peft's save_embedding_layers="auto" writes them of a model that was resized.
    beside = {"base_model.model.model.embed_tokens.weight": np.zeros((101, 40), np.float32)}
    changed(tmp_path / "adapter", lambda tensors: tensors.update(beside))
    with pytest.raises(UserError, match=r"shape \[101, 40\].*was resized .*97 rows.*merge_and_un"):
        load_adapter(tmp_path / "adapter", config)


def test_pickled_weights_are_refused(base, tmp_path):
    folder, model = base()
    config, _ = load_checkpoint(folder)
    reference.random_adapter(model, tmp_path / "adapter")
    weights = tmp_path / "adapter" / "adapter_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(UserError, match="pickled weights can run code"):
        load_adapter(tmp_path / "adapter", config)
    with pytest.raises(UserError, match="has no adapter"):
        save_adapter(tmp_path / "out", config, {})
