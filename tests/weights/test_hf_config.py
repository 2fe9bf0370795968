"""config.json: both spellings, what follows from what, and what is refused."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from msm_jax.errors import UserError
from msm_jax.model import PRESETS, ModelConfig, RopeScaling
from msm_jax.model.rope import frequencies
from msm_jax.weights.hf_config import as_hf_config, read_config

QWEN3 = {
    "model_type": "qwen3",
    "vocab_size": 97,
    "hidden_size": 40,
    "intermediate_size": 72,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 24,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
    "rope_theta": 5e6,
    "torch_dtype": "bfloat16",
}
LLAMA3 = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 256,
}


def written(tmp_path, config):
    (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path


def test_both_spellings_say_the_same(tmp_path):
    new = {name: value for name, value in QWEN3.items() if name not in ("rope_theta",)}
    new["rope_parameters"] = {"rope_type": "default", "rope_theta": 5e6}
    wanted = ModelConfig(97, 40, 3, 4, 2, 24, 72, rope_theta=5e6, norm_eps=1e-5)
    assert read_config(written(tmp_path, QWEN3)) == wanted
    assert read_config(written(tmp_path, new)) == wanted


def test_what_older_files_leave_out(tmp_path):
    old = {**QWEN3, "model_type": "qwen2", "hidden_size": 64, "sliding_window": 4096}
    for name in ("head_dim", "num_key_value_heads", "tie_word_embeddings"):
        del old[name]
    config = read_config(written(tmp_path, old))
    assert (config.head_dim, config.kv_heads) == (16, 4)
    assert config.qkv_bias and not config.qk_norm and not config.tied_embeddings


@pytest.mark.parametrize("theta_inside", [False, True])
def test_llama_scaling_in_both_spellings(tmp_path, theta_inside):
    raw = {**QWEN3, "model_type": "llama"}
    if theta_inside:
        del raw["rope_theta"]
        raw["rope_parameters"] = {"rope_type": "llama3", "rope_theta": 5e6, **LLAMA3}
    else:
        raw["rope_scaling"] = {"type": "llama3", **LLAMA3}
    config = read_config(written(tmp_path, raw))
    assert config.rope_scaling == RopeScaling(8.0, 1.0, 4.0, 256)
    assert config.rope_theta == 5e6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "qwen3_moe"}, "model_type 'qwen3_moe'"),
        ({"use_sliding_window": True}, "use_sliding_window"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "sliding_attention"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu'"),
        ({"attention_bias": True}, "attention_bias"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "rope type 'yarn'"),
        ({"rope_theta": None}, "rope_theta None"),
        ({"rms_norm_eps": "x"}, "rms_norm_eps 'x'"),
        ({"num_hidden_layers": -1}, "num_hidden_layers -1"),
        ({"vocab_size": True}, "vocab_size True"),
        ({"model_type": ["qwen3"]}, "model_type .'qwen3'."),
        ({"layer_types": 5}, "layer_types 5: a list"),
        ({"layer_types": [["full_attention"]]}, "layer_types .* are not supported"),
        ({"rope_theta": 10**400}, "rope_theta 1000.*: a number above 0"),
        ({"rope_theta": float("inf")}, "rope_theta inf"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps nan"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers 1000000000: .* to 10,000 .LAYERS"),
        ({"tie_word_embeddings": "false"}, "tie_word_embeddings 'false'"),
        ({"rope_scaling": [8.0]}, "rope_scaling .8.0.: one object"),
        ({"rope_parameters": {"full_attention": {"rope_theta": 1e4}}}, "rope_parameters .*object"),
        ({"rope_scaling": {"factor": 2.0}}, "factor 2.0 .* has no rope_type"),
        ({"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}}, "partial_rotary"),
        (
            {"rope_scaling": {"rope_type": "llama3", **LLAMA3, "factor": float("inf")}},
            "factor inf: a number",
        ),
        (
            {"rope_scaling": {**LLAMA3, "type": "llama3", "low_freq_factor": 4}},
            "high_freq_factor is not above",
        ),
    ],
)
def test_what_is_not_done_is_refused_by_name(tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        read_config(written(tmp_path, {**QWEN3, **change}))


def test_what_is_absent_is_what_transformers_takes_it_for(tmp_path):
    transformers = pytest.importorskip("transformers")
    sizes = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")
    heads = ("num_attention_heads", "num_key_value_heads")
    for family in ("qwen2", "qwen3", "llama"):
        raw = {key: QWEN3[key] for key in (*sizes, *heads)} | {"model_type": family}
        config = read_config(written(tmp_path, raw))
        theirs = transformers.AutoConfig.from_pretrained(tmp_path)
        assert config.rope_theta == theirs.rope_parameters["rope_theta"]
        assert config.norm_eps == theirs.rms_norm_eps
        assert config.tied_embeddings == theirs.tie_word_embeddings
        assert config.head_dim == getattr(theirs, "head_dim", config.head_dim)


SCALINGS = {
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32},
    "linear": {"type": "linear", "factor": 2.0},
    "llama3": {"rope_type": "llama3", **LLAMA3},
    "llama3 with its theta": {"rope_type": "llama3", "rope_theta": 7e5, **LLAMA3},
    "default": {"rope_type": "default"},
}


@pytest.mark.parametrize("outside", [{}, {"rope_theta": 3e5}])
@pytest.mark.parametrize("name", SCALINGS)
def test_rope_scaling_stands_in_for_rope_parameters_as_in_transformers(tmp_path, name, outside):
    """A model card says: add rope_scaling; the file has rope_parameters already."""
    transformers = pytest.importorskip("transformers")
    raw = {key: value for key, value in QWEN3.items() if key != "rope_theta"}
    raw |= {"rope_parameters": {"rope_type": "default", "rope_theta": 5e6}, **outside}
    written(tmp_path, {**raw, "rope_scaling": SCALINGS[name]})
    if name in ("yarn", "linear"):
        with pytest.raises(UserError, match=f"rope type '{name}'"):
            read_config(tmp_path)
        return
    with pytest.warns(UserWarning, match="rope_scaling .* stands in for rope_parameters"):
        config = read_config(tmp_path)
    theirs = transformers.AutoConfig.from_pretrained(tmp_path).rope_parameters
    assert config.rope_theta == theirs["rope_theta"] != 5e6
    assert (config.rope_scaling is not None) == (theirs["rope_type"] == "llama3")
    if config.rope_scaling:
        assert config.rope_scaling == RopeScaling(8.0, 1.0, 4.0, 256)


def test_all_problems_are_told_together(tmp_path):
    with pytest.raises(UserError, match=r"model_type None.*hidden_size None.*num_attention_heads"):
        read_config(written(tmp_path, {"vocab_size": 3}))


@pytest.mark.parametrize("content", ["", "[]", "{", "[" * 100_000])
def test_what_is_no_config_is_refused(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError, match="config.json: not"):
        read_config(tmp_path)


@pytest.mark.parametrize("name", PRESETS)
def test_written_and_read_again(tmp_path, name):
    raw = as_hf_config(PRESETS[name], "bfloat16", 32768)
    assert read_config(written(tmp_path, raw)) == PRESETS[name]


def test_transformers_reads_what_we_write(tmp_path):
    transformers = pytest.importorskip("transformers")
    for name in ("qwen2.5-7b", "qwen3-0.6b", "llama-3.1-8b"):
        config = PRESETS[name]
        written(tmp_path, as_hf_config(config, "bfloat16", 4096))
        theirs = transformers.AutoConfig.from_pretrained(tmp_path)
        assert theirs.hidden_size == config.width and theirs.head_dim == config.head_dim
        assert theirs.rope_parameters["rope_theta"] == config.rope_theta
        assert theirs.tie_word_embeddings == config.tied_embeddings
        theirs.save_pretrained(tmp_path)  # and we read what they write
        assert read_config(tmp_path) == config


def test_scaled_frequencies_are_those_of_transformers():
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("torch")
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    for head_dim, length in ((128, 8192), (16, 64)):
        settings = {**LLAMA3, "original_max_position_embeddings": length, "rope_type": "llama3"}
        theirs = transformers.LlamaConfig(
            hidden_size=4 * head_dim,
            num_attention_heads=4,
            head_dim=head_dim,
            rope_parameters={**settings, "rope_theta": 5e5},
        )
        wanted, _ = ROPE_INIT_FUNCTIONS["llama3"](theirs, "cpu")
        found = frequencies(head_dim, 5e5, RopeScaling(8.0, 1.0, 4.0, length))
        np.testing.assert_allclose(found, wanted.numpy(), rtol=2e-6)
        assert not jnp.allclose(found, frequencies(head_dim, 5e5))
