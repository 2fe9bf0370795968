"""config.json of a Hugging Face checkpoint, read into a `ModelConfig` and made from one.

What the decoder does not compute is refused by name: a key that is passed over in silence makes a
model that is almost right.
"""

import json
import os
import pathlib
from typing import Any

from msm_jax.errors import UserError
from msm_jax.model import ModelConfig, RopeScaling

# What distinguishes the families: (norm on q and k, biases on q, k and v).
FAMILIES = {"qwen3": (True, False), "qwen2": (False, True), "llama": (False, False)}
ARCHITECTURES = {
    "qwen3": "Qwen3ForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "llama": "LlamaForCausalLM",
}

_SIZES = {
    "vocab_size": "vocab_size",
    "hidden_size": "width",
    "num_hidden_layers": "layers",
    "num_attention_heads": "heads",
    "num_key_value_heads": "kv_heads",
    "head_dim": "head_dim",
    "intermediate_size": "mlp_width",
}
_LLAMA3 = {
    "factor": "factor",
    "low_freq_factor": "low_freq_factor",
    "high_freq_factor": "high_freq_factor",
    "original_max_position_embeddings": "original_length",
}


def read_config(directory: str | os.PathLike, dtype: str = "float32") -> ModelConfig:
    """The model that a checkpoint directory's config.json describes.

    Args:
      directory: of the checkpoint.
      dtype: of weights and activations; the file's own is how it is stored, which may differ.

    Raises:
      UserError: no such file, not JSON, or listing every key that is missing, malformed or asks
        for something the decoder does not do.
    """
    file = pathlib.Path(directory) / "config.json"
    raw = read_json(file)
    problems = _refused(raw)
    fields: dict[str, Any] = dict(_sizes(raw, problems))
    fields |= _rope(raw, problems)
    fields["norm_eps"] = _number(raw, "rms_norm_eps", problems)
    if problems:
        raise UserError(f"{file}: " + "; ".join(problems))
    fields["qk_norm"], fields["qkv_bias"] = FAMILIES[raw["model_type"]]
    # transformers' own default for these families.
    fields["tied_embeddings"] = raw.get("tie_word_embeddings", False)
    return ModelConfig(**fields, dtype=dtype, param_dtype=dtype)


def read_json(file: pathlib.Path) -> dict:
    """The object in a JSON file; UserError where there is none."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file}: not JSON ({error})") from error
    if not isinstance(found, dict):
        raise UserError(f"{file}: not a JSON object")
    return found


def _refused(raw: dict) -> list[str]:
    """What the file asks for and the decoder does not do."""
    found = []
    if raw.get("model_type") not in FAMILIES:
        found.append(f"model_type {raw.get('model_type')!r}: only {', '.join(FAMILIES)}")
    for name in ("use_sliding_window", "attention_bias", "mlp_bias"):
        # Qwen2's biases are part of the family, whatever a file says of them.
        if raw.get(name) and not (name == "attention_bias" and raw.get("model_type") == "qwen2"):
            found.append(f"{name} {raw[name]!r} is not supported")
    other = {kind for kind in raw.get("layer_types") or () if kind != "full_attention"}
    if other:
        found.append(f"layer_types {sorted(map(str, other))} are not supported")
    if raw.get("quantization_config"):
        found.append("quantization_config: quantized checkpoints are not supported")
    if raw.get("hidden_act", "silu") != "silu":
        found.append(f"hidden_act {raw['hidden_act']!r}: only silu")
    return found


def _sizes(raw: dict, problems: list[str]) -> dict[str, int]:
    known = dict(raw)
    if known.get("num_key_value_heads") is None:
        known["num_key_value_heads"] = known.get("num_attention_heads")
    if known.get("head_dim") is None:
        width, heads = known.get("hidden_size"), known.get("num_attention_heads")
        if isinstance(width, int) and isinstance(heads, int) and heads > 0:
            known["head_dim"] = width // heads
    found = {}
    for theirs, ours in _SIZES.items():
        value = known.get(theirs)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            found[ours] = value
        else:
            problems.append(f"{theirs} {value!r}: a whole number above 0 is needed")
    return found


def _number(raw: dict, name: str, problems: list[str]) -> float:
    value = raw.get(name)
    if isinstance(value, int | float) and not isinstance(value, bool) and value > 0:
        return float(value)
    problems.append(f"{name} {value!r}: a number above 0 is needed")
    return 0.0


def _rope(raw: dict, problems: list[str]) -> dict[str, Any]:
    """Both spellings: rope_theta beside rope_scaling, and the rope_parameters that hold both."""
    settings = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    if not isinstance(settings, dict):
        problems.append(f"rope_parameters {settings!r}: an object is needed")
        return {}
    theta = _number({"rope_theta": raw.get("rope_theta"), **settings}, "rope_theta", problems)
    kind = settings.get("rope_type", settings.get("type", "default"))
    if kind not in ("default", "llama3"):
        problems.append(f"rope type {kind!r}: only default and llama3")
    if kind != "llama3":
        return {"rope_theta": theta, "rope_scaling": None}
    values: dict[str, Any] = {
        ours: _number(settings, theirs, problems) for theirs, ours in _LLAMA3.items()
    }
    return {
        "rope_theta": theta,
        "rope_scaling": RopeScaling(
            **{**values, "original_length": int(values["original_length"])}
        ),
    }


def family(config: ModelConfig) -> str:
    """The model_type of a config; UserError for a model that no family describes."""
    for name, traits in FAMILIES.items():
        if traits == (config.qk_norm, config.qkv_bias):
            return name
    raise UserError(
        f"model.qk_norm={config.qk_norm} with model.qkv_bias={config.qkv_bias}: no family of "
        f"{', '.join(FAMILIES)} has both, so it cannot be written as a Hugging Face checkpoint"
    )


def as_hf_config(config: ModelConfig, dtype: str, max_length: int, original: dict | None = None):
    """The content of config.json, in both spellings.

    Args:
      config: of the model.
      dtype: that the weights are stored in.
      max_length: longest row in tokens.
      original: config.json that the weights came with; keys that we do not decide are kept.
    """
    kind = family(config)
    rope: dict[str, Any] = {"rope_type": "default"}
    if config.rope_scaling:
        values = {theirs: getattr(config.rope_scaling, ours) for theirs, ours in _LLAMA3.items()}
        rope = {"rope_type": "llama3", **values}
    ours = {
        "architectures": [ARCHITECTURES[kind]],
        "model_type": kind,
        **{theirs: getattr(config, name) for theirs, name in _SIZES.items()},
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        "rope_scaling": rope if config.rope_scaling else None,
        "rope_parameters": {**rope, "rope_theta": config.rope_theta},
        "tie_word_embeddings": config.tied_embeddings,
        "hidden_act": "silu",
        "torch_dtype": dtype,
        "dtype": dtype,
        "max_position_embeddings": max_length,
    }
    kept = dict(original or {})
    kept.pop("layer_types", None)  # follows from the rest
    if original and "max_position_embeddings" in original:
        ours["max_position_embeddings"] = original["max_position_embeddings"]
    return {**kept, **ours}
