"""Every key of a checkpoint's settings is used, harmless, refused or named."""

import dataclasses
import json
import warnings

import pytest

from msm_jax.errors import UserError
from msm_jax.loading import check_keys
from msm_jax.weights import keys
from msm_jax.weights.hf_config import read_config

CONFIG = {
    "model_type": "llama", "vocab_size": 97, "hidden_size": 40, "intermediate_size": 72,
    "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
}  # fmt: skip


TABLES = {
    "config.json": keys.CONFIG,
    "rope_parameters": keys.ROPE,
    "generation_config.json": keys.GENERATION,
    "tokenizer_config.json": keys.TOKENIZER,
    "adapter_config.json": keys.ADAPTER,
}


def markdown():
    """The tables as docs/weights.md has them."""
    lines = []
    for name, table in TABLES.items():
        lines += [f"`{name}`", "", "| key | |", "|---|---|"]
        lines += [f"| `{key}` | {meaning} |" for key, meaning in table.used.items()]
        for title, some in (("refused unless off", table.refused), ("harmless", table.harmless)):
            if some:
                lines.append(f"| {title} | {', '.join(f'`{key}`' for key in sorted(some))} |")
        lines.append("")
    return "\n".join(lines)


def test_each_key_is_in_one_list():
    for table in TABLES.values():
        lists = [{*table.used}, table.harmless, table.refused]
        assert sum(map(len, lists)) == len(set.union(*map(set, lists)))


@pytest.mark.parametrize("value", [None, False, 0, 0.0, 1.0, "", [], {}])
def test_what_is_off_asks_for_nothing(value):
    assert keys.is_off(value)


@pytest.mark.parametrize("value", [True, 1, 2, 0.5, "x", [0], {"a": 0}, float("nan")])
def test_what_is_not_off(value):
    assert not keys.is_off(value)


@pytest.mark.parametrize("key", sorted(keys.CONFIG.refused))
def test_a_config_that_changes_the_computation_is_refused(tmp_path, key):
    for value, refused in ((2, True), (True, True), (None, False), (False, False), (1.0, False)):
        (tmp_path / "config.json").write_text(json.dumps({**CONFIG, key: value}))
        if refused:
            with pytest.raises(UserError, match=f"{key} {value} is not supported"):
                read_config(tmp_path)
        else:
            read_config(tmp_path)


def test_a_class_of_another_family_is_named(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({**CONFIG, "architectures": ["X"]}))
    with pytest.warns(UserWarning, match="architectures .'X'. is not model_type 'llama'"):
        read_config(tmp_path)


def test_sizes_that_do_not_fit_together_are_named_as_the_file_has_them(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({**CONFIG, "num_key_value_heads": 3}))
    with pytest.raises(UserError, match="config.json: num_attention_heads=4 .*num_key_value_heads"):
        read_config(tmp_path)


def test_unknown_keys_are_named_and_known_ones_are_not(tmp_path):
    settings = {**CONFIG, **dict.fromkeys(keys.CONFIG.harmless, 7), "new_trick": 3, "off": False}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    with pytest.warns(UserWarning, match="config.json: not used here: new_trick 3$"):
        read_config(tmp_path)
    for name, value in (
        ("generation_config.json", {"stop_strings": ["END"], "temperature": 0.3}),
        ("tokenizer_config.json", {"fix_everything": True, "model_max_length": 9}),
    ):
        (tmp_path / name).write_text(json.dumps(value))
        key = next(iter(value))
        with pytest.warns(UserWarning, match=f"{name}: not used here: {key} .{{3,7}}$"):
            check_keys(tmp_path)
        (tmp_path / name).unlink()


def test_what_transformers_and_peft_write_by_default_is_known():
    transformers, peft = pytest.importorskip("transformers"), pytest.importorskip("peft")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for kind in ("Qwen2Config", "Qwen3Config", "LlamaConfig"):
            settings = getattr(transformers, kind)().to_dict()
            keys.CONFIG.warn(kind, settings)
            assert not keys.CONFIG.problems(settings)
        keys.GENERATION.warn("generation", transformers.GenerationConfig().to_dict())
    names = {field.name for field in dataclasses.fields(peft.LoraConfig)}
    assert names <= {*keys.ADAPTER.used, *keys.ADAPTER.harmless, *keys.ADAPTER.refused}


def test_the_documentation_has_the_tables(root):
    assert markdown() in (root / "docs/weights.md").read_text(encoding="utf-8")
