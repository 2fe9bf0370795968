"""config.json of a Hugging Face checkpoint, read into a `ModelConfig` and made from one.

Keys that the decoder does not compute are refused by name: a key that is ignored without a word
makes a model that is almost right.
"""

import os
import pathlib
import re
import warnings
from typing import Any

from msm_jax.errors import UserError
from msm_jax.files import read_object
from msm_jax.limits import DIMENSION, LAYERS
from msm_jax.model import ModelConfig, RopeScaling
from msm_jax.weights import keys

# model_type: (norm on q and k, biases on q, k and v), transformers' class.
FAMILIES = {
    "qwen3": ((True, False), "Qwen3ForCausalLM"),
    "qwen2": ((False, True), "Qwen2ForCausalLM"),
    "llama": ((False, False), "LlamaForCausalLM"),
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
# Where a file does not say: the defaults of transformers, which are the same in these families.
_DEFAULTS = {
    "rms_norm_eps": 1e-6,
    "rope_theta": 10_000.0,
    "tie_word_embeddings": False,
    "hidden_act": "silu",
}
_LLAMA3 = {
    "factor": "factor",
    "low_freq_factor": "low_freq_factor",
    "high_freq_factor": "high_freq_factor",
    "original_max_position_embeddings": "original_length",
}


def read_config(directory: str | os.PathLike, dtype: str = "float32") -> ModelConfig:
    """The model that a checkpoint directory's config.json describes, in this dtype, not the file's.

    UserError lists all keys that are missing, malformed or not supported.
    """
    file = pathlib.Path(directory) / "config.json"
    raw = {**_DEFAULTS, **read_object(file)}
    problems = _refused(raw)
    fields: dict[str, Any] = dict(_sizes(raw, problems))
    fields |= _rope(raw, problems, file)
    fields["norm_eps"] = _number(raw, "rms_norm_eps", problems)
    if problems:
        raise UserError(f"{file}: " + "; ".join(problems))
    keys.CONFIG.warn(file, raw)
    (fields["qk_norm"], fields["qkv_bias"]), architecture = FAMILIES[raw["model_type"]]
    fields["tied_embeddings"] = raw["tie_word_embeddings"]
    named = raw.get("architectures") or [architecture]
    if named != [architecture]:
        warnings.warn(
            f"{file}: architectures {keys.shown(named)} is not model_type {raw['model_type']!r}, "
            "which counts, as in transformers; vLLM goes by architectures",
            stacklevel=2,
        )
    try:
        return ModelConfig(**fields, dtype=dtype, param_dtype=dtype)
    except UserError as error:
        ours = {name: theirs for theirs, name in _SIZES.items()}
        text = re.sub(r"model\.(\w+)", lambda hit: ours.get(hit[1], hit[0]), str(error))
        raise UserError(f"{file}: {text}") from error


def stop_ids(settings: dict, where: str = "generation_config.json") -> tuple[int, ...]:
    """eos_token_id of generation_config.json or config.json; UserError unless it is integers."""
    found = settings.get("eos_token_id")
    ids = found if isinstance(found, list) else [] if found is None else [found]
    if any(type(token) is not int or token >= 2**31 for token in ids):
        raise UserError(
            f"{where}: eos_token_id {keys.shown(found)}: token ids have to be integers below 2^31"
        )
    return tuple(token for token in ids if token >= 0)  # -1 is how some files say "none"


def _refused(raw: dict) -> list[str]:
    """The keys that ask for what the decoder does not compute."""
    found = []
    kind = raw.get("model_type")
    if not isinstance(kind, str) or kind not in FAMILIES:
        found.append(f"model_type {keys.shown(kind)}: only {', '.join(FAMILIES)}")
    found += keys.CONFIG.problems(raw)
    # Qwen2's biases are part of the family, whatever a file says of them.
    if raw.get("attention_bias") and kind != "qwen2":
        found.append(f"attention_bias {keys.shown(raw['attention_bias'])} is not supported")
    layers = raw.get("layer_types")
    if layers is not None and not isinstance(layers, list):
        found.append(f"layer_types {keys.shown(layers)}: a list is needed")
    elif other := {keys.shown(layer) for layer in layers or () if layer != "full_attention"}:
        found.append(f"layer_types {keys.shown(sorted(other))} are not supported")
    if raw["hidden_act"] != "silu":
        found.append(f"hidden_act {keys.shown(raw['hidden_act'])}: only silu")
    if not isinstance(tied := raw["tie_word_embeddings"], bool):
        found.append(f"tie_word_embeddings {keys.shown(tied)}: true or false is needed")
    return found


def _sizes(raw: dict, problems: list[str]) -> dict[str, int]:
    known = dict(raw)
    if known.get("num_key_value_heads") is None:
        known["num_key_value_heads"] = known.get("num_attention_heads")
    if known.get("head_dim") is None:
        width, heads = known.get("hidden_size"), known.get("num_attention_heads")
        if raw.get("model_type") == "qwen3":
            known["head_dim"] = 128
        elif isinstance(width, int) and isinstance(heads, int) and heads > 0:
            known["head_dim"] = width // heads
    found = {}
    for theirs, ours in _SIZES.items():
        value, most = known.get(theirs), LAYERS if ours == "layers" else DIMENSION
        if type(value) is int and 0 < value <= most:
            found[ours] = value
        else:
            problems.append(
                f"{theirs} {keys.shown(value)}: a whole number from 1 to {most} is needed"
            )
    return found


def _number(raw: dict, name: str, problems: list[str]) -> float:
    value: Any = raw.get(name)
    if type(value) in (int, float) and 1e-38 < value < 1e38:  # what float32 can hold
        return float(value)
    problems.append(f"{name} {keys.shown(value)}: a number above 0, below 1e38, is needed")
    return 1.0


def _rope(raw: dict, problems: list[str], file: pathlib.Path) -> dict[str, Any]:
    """Both spellings: rope_theta beside rope_scaling, and the rope_parameters that hold both.

    As in transformers 5 (`convert_rope_params_to_dict`), rope_scaling stands in for all of
    rope_parameters where both are set.
    """
    parameters, scaling = raw.get("rope_parameters") or {}, raw.get("rope_scaling") or {}
    for name, value in (("rope_parameters", parameters), ("rope_scaling", scaling)):
        if not isinstance(value, dict) or any(isinstance(part, dict) for part in value.values()):
            problems.append(f"{name} {keys.shown(value)}: one object of numbers is needed")
            return {}
    settings = scaling or parameters
    found = _rope_of(settings, raw, problems)
    if scaling and parameters and not problems:
        other: list[str] = []
        if _rope_of(parameters, raw, other) != found or other:
            warnings.warn(
                f"{file}: rope_scaling {scaling} stands in for rope_parameters {parameters}, as in "
                f"transformers: {found}; delete the one that is not meant",
                stacklevel=3,
            )
    keys.ROPE.warn(f"{file}: rotary settings", settings)
    return found


def _rope_of(settings: dict, raw: dict, problems: list[str]) -> dict[str, Any]:
    length = "original_max_position_embeddings"
    outside = {"rope_theta": raw["rope_theta"], length: raw.get("max_position_embeddings")}
    settings = {**outside, **settings, **({length: raw[length]} if raw.get(length) else {})}
    theta = _number(settings, "rope_theta", problems)
    kind = settings.get("rope_type", settings.get("type", "default"))
    if kind not in ("default", "llama3"):
        problems.append(f"rope type {keys.shown(kind)}: only default and llama3")
    problems += keys.ROPE.problems(settings)
    if kind != "llama3":
        if kind == "default" and not keys.is_off(settings.get("factor")):
            problems.append(
                f"factor {keys.shown(settings['factor'])} of the rotary positions has no rope_type"
            )
        return {"rope_theta": theta, "rope_scaling": None}
    values: dict[str, Any] = {
        ours: _number(settings, theirs, problems) for theirs, ours in _LLAMA3.items()
    }
    scaling = RopeScaling(**{**values, "original_length": int(values["original_length"])})
    if scaling.high_freq_factor <= scaling.low_freq_factor:
        problems.append("high_freq_factor is not above low_freq_factor")
    return {"rope_theta": theta, "rope_scaling": scaling}


def family(config: ModelConfig) -> str:
    """The model_type of a config; UserError for a model that no family describes."""
    for name, (traits, _) in FAMILIES.items():
        if traits == (config.qk_norm, config.qkv_bias):
            return name
    raise UserError(
        f"model.qk_norm={config.qk_norm} with model.qkv_bias={config.qkv_bias}: no family of "
        f"{', '.join(FAMILIES)} has both, so it cannot be written as a Hugging Face checkpoint"
    )


def as_hf_config(
    config: ModelConfig, dtype: str, max_length: int, original: dict | None = None
) -> dict:
    """The content of config.json, in the spellings of old and new transformers.

    `dtype` is that of the stored weights, `max_length` the longest row in tokens; other keys are
    kept from `original`, the config.json that the weights came with.
    """
    kind = family(config)
    rope: dict[str, Any] = {"rope_type": "default"}
    if config.rope_scaling:
        values = {theirs: getattr(config.rope_scaling, ours) for theirs, ours in _LLAMA3.items()}
        rope = {"rope_type": "llama3", **values}
    ours = {
        "architectures": [FAMILIES[kind][1]],
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
