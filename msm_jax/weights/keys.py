"""Every key of a checkpoint's and an adapter's settings: used, harmless, refused, or warned of.

The lists are those of transformers 5 and peft 0.21, with what their older versions wrote and what
models of other families have. A key in none of them that asks for something leads to a warning;
adapters have no such keys in practice, so there it is refused.
"""

import dataclasses
import math
import warnings
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Table:
    """The keys of one file.

    Attributes:
      used: what the key decides here.
      harmless: keys that change neither tokens nor logits nor where a completion ends.
      refused: keys that would change the computation, unless they are off.
    """

    used: Mapping[str, str]
    harmless: frozenset[str]
    refused: frozenset[str] = frozenset()

    def problems(self, settings: Mapping[str, Any]) -> list[str]:
        """The refused keys that are not off."""
        return [
            f"{key} {shown(value)} is not supported"
            for key, value in settings.items()
            if key in self.refused and not is_off(value)
        ]

    def unknown(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The keys in no list that are not off."""
        known = {*self.used, *self.harmless, *self.refused}
        return {k: v for k, v in settings.items() if k not in known and not is_off(v)}

    def warn(self, where: object, settings: Mapping[str, Any]) -> None:
        """Warns of unknown keys."""
        if unknown := self.unknown(settings):
            warnings.warn(f"{where}: not used here: {in_words(unknown)}", stacklevel=3)


def in_words(settings: Mapping[str, Any]) -> str:
    """`key value, key value`, long values shortened."""
    return ", ".join(f"{key} {shown(value)}" for key, value in settings.items())


def shown(value: Any) -> str:
    """A value of a file for a message, shortened if it is long."""
    try:
        text = repr(value)
    except ValueError:  # a whole number of thousands of digits
        text = "a number too large"
    return text if len(text) <= 60 else text[:57] + "..."


def is_off(value: Any) -> bool:
    """Whether a value asks for nothing: none, false, empty, zero, or a factor of one."""
    if isinstance(value, float):
        return value in (0.0, 1.0)
    return value in (None, False, "", [], {})  # 0 == False


def finite(value: Any) -> float | None:
    """A number of JSON as a float; None if it is no number, not finite or too large."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _words(*texts: str) -> frozenset[str]:
    return frozenset(" ".join(texts).split())


# What older files of transformers keep in config.json and newer ones in generation_config.json.
SAMPLING = _words(
    "do_sample temperature top_k top_p min_p top_h typical_p epsilon_cutoff eta_cutoff",
    "repetition_penalty encoder_repetition_penalty no_repeat_ngram_size length_penalty",
    "num_beams num_beam_groups diversity_penalty early_stopping penalty_alpha dola_layers",
    "max_new_tokens min_length min_new_tokens max_time guidance_scale watermarking_config",
    "renormalize_logits remove_invalid_values exponential_decay_length_penalty",
)
_ROUTINE = _words(
    "transformers_version _from_model_config bos_token_id pad_token_id max_length use_cache",
    "cache_implementation cache_config max_cache_len num_return_sequences output_attentions",
    "output_hidden_states output_scores output_logits return_dict_in_generate compile_config",
    "disable_compile low_memory prefill_chunk_size decoder_start_token_id is_assistant",
    "num_assistant_tokens num_assistant_tokens_schedule assistant_confidence_threshold",
    "prompt_lookup_num_tokens max_matching_ngram_size assistant_early_exit assistant_lookbehind",
    "target_lookbehind assistant_ensemble_weight speculation_type continuous_batching_config",
    "encoder_no_repeat_ngram_size use_mtp chat_format _name_or_path",
)
GENERATION = Table({"eos_token_id": "where an answer ends"}, SAMPLING | _ROUTINE)

CONFIG = Table(
    used={
        "model_type": "the family: qwen2, qwen3 or llama",
        "architectures": "compared with model_type",
        "vocab_size": "rows of the embedding",
        "hidden_size": "width",
        "intermediate_size": "width of the feed-forward layers",
        "num_hidden_layers": "layers",
        "num_attention_heads": "query heads",
        "num_key_value_heads": "key/value heads; as many as query heads if absent",
        "head_dim": "width of a head; if absent 128 for qwen3, else width / heads",
        "rms_norm_eps": "epsilon of every norm; 1e-6 if absent",
        "tie_word_embeddings": "whether the head is the embedding; false if absent",
        "rope_theta": "base of the rotary frequencies; 10000 if absent",
        "rope_parameters": "rope type, factors and rope_theta",
        "rope_scaling": "the same in its older form; where it is set it stands in for all of "
        "rope_parameters, as in transformers",
        "hidden_act": "only silu",
        "layer_types": "only full_attention",
        "attention_bias": "part of qwen2; refused elsewhere",
        "eos_token_id": "where an answer ends, if generation_config.json does not say",
        "max_position_embeddings": "kept for the export; original length of llama3 if absent there",
        "original_max_position_embeddings": "of llama3, before what rope_parameters say",
    },
    harmless=SAMPLING
    | _ROUTINE
    | _words(
        "dtype torch_dtype initializer_range sliding_window max_window_layers",
        "pretraining_tp sep_token_id tokenizer_class prefix id2label label2id num_labels",
        "problem_type finetuning_task task_specific_params return_dict torchscript",
        "use_bfloat16 chunk_size_feed_forward is_decoder tie_encoder_decoder name_or_path",
        "_commit_hash attn_implementation _attn_implementation _attn_implementation_autoset",
        "unsloth_version unsloth_fixed mlp_dropout resid_pdrop max_length",
    ),
    refused=_words(
        "use_sliding_window mlp_bias quantization_config partial_rotary_factor",
        "attention_multiplier residual_multiplier embedding_multiplier logits_scaling",
        "logit_scale scale_emb scale_depth dim_model_base final_logit_softcapping",
        "attn_logit_softcapping query_pre_attn_scalar num_experts num_local_experts",
        "n_routed_experts num_experts_per_tok moe_intermediate_size decoder_sparse_step",
        "clip_qkv qkv_bias no_bias use_qk_norm qk_layernorm use_parallel_residual",
        "parallel_attn alibi add_cross_attention is_encoder_decoder cross_attention_hidden_size",
        "pruned_heads per_layer_config no_rope_layers no_rope_layer_interval attention_chunk_size",
        "use_mrope rope_interleaved residual_scale",
    ),
)

ROPE = Table(
    used={
        "rope_theta": "base of the rotary frequencies",
        "rope_type": "default or llama3",
        "type": "the same in older files",
        "factor": "of llama3",
        "low_freq_factor": "of llama3",
        "high_freq_factor": "of llama3",
        "original_max_position_embeddings": "of llama3",
    },
    harmless=frozenset(),
    refused=_words("partial_rotary_factor mrope_section attention_factor mscale mscale_all_dim"),
)

TOKENIZER = Table(
    used={
        "bos_token": "what a chat template calls so",
        "eos_token": "the same",
        "unk_token": "the same",
        "pad_token": "the same",
        "chat_template": "the chat format, if chat_template.jinja is not there",
        "added_tokens_decoder": "words that tokenizer.json lacks",
        "additional_special_tokens": "control tokens that tokenizer.json lacks",
        "extra_special_tokens": "the same",
    },
    harmless=_words(
        "tokenizer_class model_max_length clean_up_tokenization_spaces padding_side",
        "truncation_side truncation_strategy max_length stride pad_to_multiple_of",
        "pad_token_type_id model_specific_special_tokens errors legacy use_fast from_slow",
        "use_default_system_prompt sp_model_kwargs spaces_between_special_tokens",
        "model_input_names name_or_path special_tokens_map_file tokenizer_file vocab_file",
        "merges_file add_bos_token add_eos_token processor_class backend is_local",
        "return_token_type_ids sep_token cls_token mask_token response_schema unk_token_id",
    ),
)

ADAPTER = Table(
    used={
        "peft_type": "only LORA",
        "r": "rank",
        "lora_alpha": "the output is scaled by lora_alpha / r",
        "use_rslora": "... by lora_alpha / sqrt(r)",
        "target_modules": "projections: a list, a pattern or all-linear",
        "exclude_modules": "projections that are left out of them",
        "bias": "only none",
        "init_lora_weights": "only beginnings that leave the base's weights as they are",
        "base_model_name_or_path": "only compared with the name of the base that is loaded",
    },
    harmless=_words(
        "task_type auto_mapping peft_version revision inference_mode lora_dropout",
        "megatron_core qalora_group_size layers_pattern runtime_config ensure_weight_tying",
        "fan_in_fan_out eva_config",
    ),
    refused=_words(
        "use_dora modules_to_save rank_pattern alpha_pattern layers_to_transform",
        "trainable_token_indices target_parameters layer_replication lora_bias use_qalora",
        "use_bdlora megatron_config loftq_config corda_config lora_ga_config velora_config",
        "alora_invocation_tokens arrow_config monteclora_config kasa_config",
    ),
)
