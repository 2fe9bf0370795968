"""GGUF files: every tensor and token id as transformers reads them, or refused by name."""

import functools
import json
import pathlib
import re
import struct
import sys

import numpy as np
import pytest

from msm_jax.convert import quality
from msm_jax.data.tokenizer import load_tokenizer
from msm_jax.errors import UserError
from msm_jax.weights.gguf_files import convert_gguf
from msm_jax.weights.huggingface import load_checkpoint
from msm_jax.weights.tensor_files import find_tensors

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "model"))
import reference

gguf = pytest.importorskip("gguf")
TEXTS = [
    "Hello world, it's 12345 o'clock  now\n\n\tüñí 中文 😀 <|im_start|>user",
    "  x  = 3.14159;\r\n",
    "I'VE  done\x00 that",
]


def test_a_real_model_is_what_transformers_reads(smollm2, smollm2_gguf, monkeypatch):
    transformers, torch = (pytest.importorskip(name) for name in ("transformers", "torch"))
    # Transformers would parse the file again for each thing that it reads.
    parsed = functools.cache(gguf.GGUFReader)
    monkeypatch.setattr(gguf, "GGUFReader", lambda path: parsed(str(path)))
    given = {"pretrained_model_name_or_path": smollm2_gguf.parent, "gguf_file": smollm2_gguf.name}
    model = transformers.AutoModelForCausalLM.from_pretrained(**given, dtype=torch.float32)
    theirs, ours = model.state_dict(), find_tensors(smollm2)
    assert set(theirs) - set(ours) <= {"lm_head.weight"}  # tied
    for name, stored in ours.items():
        np.testing.assert_array_equal(stored.read(), theirs[name].numpy(), err_msg=name)
    tokenizer = transformers.AutoTokenizer.from_pretrained(**given)
    saved = load_tokenizer(smollm2)
    for text in TEXTS:
        assert saved.encode_marked(text) == tokenizer(text)["input_ids"]
        assert saved.decode(saved.encode(text)) == text
    assert tokenizer.chat_template == (smollm2 / "chat_template.jinja").read_text()


def test_a_real_model_in_8_bits_is_near_the_same_in_bfloat16(smollm2, monkeypatch):
    """On 128 tokens; on 1,024 it was .0042 and 95.1 %, and with float8 .016 and 91.4 %."""
    monkeypatch.setattr("msm_jax.convert.MOST", 128)
    (line,) = quality(str(smollm2), "int8")
    found = re.search(r"on 128 tokens .* mean (\S+), max (\S+) nats.* after (\S+)% of", line)
    assert 0 < float(found[1]) <= 0.01 and float(found[2]) <= 0.3, line
    assert float(found[3]) >= 90, line


# ------------------------------------------------------------------ made here


def write_gguf(path: pathlib.Path, family: str, tied: bool = True, change=lambda parts: None):
    """A small model of transformers as a GGUF file, named by the gguf package's own tables.

    `change` may edit {"metadata", "tensors"} before they are written. Returns the state dict.
    """
    config, model = reference.tiny(family, tied, 1e-5, 5e5, "odd widths")
    state = {name: array.numpy() for name, array in model.state_dict().items()}
    arch = {"llama": gguf.MODEL_ARCH.LLAMA, "qwen2": gguf.MODEL_ARCH.QWEN2,
            "qwen3": gguf.MODEL_ARCH.QWEN3}[family]  # fmt: skip
    names = gguf.get_tensor_name_map(arch, config.layers)
    tensors = {}
    for name, array in state.items():
        if name == "lm_head.weight" and tied:
            continue
        if family == "llama" and ("q_proj" in name or "k_proj" in name):
            heads = config.heads if "q_proj" in name else config.kv_heads
            halves = array.reshape(heads, 2, config.head_dim // 2, -1)
            array = halves.swapaxes(1, 2).reshape(array.shape)  # as llama.cpp's converter does
        tensors[names.get_name(name, try_suffixes=(".weight", ".bias"))] = array.copy()
    letters = [chr(code) for code in range(33, 33 + config.vocab_size - 3)]
    words = [*letters, "ab", "[PAD0]", "<|endoftext|>"]
    kinds = [3 if w.startswith("<|") else 5 if w.startswith("[PAD") else 1 for w in words]
    parts = {
        "metadata": {
            f"{family}.block_count": config.layers,
            f"{family}.embedding_length": config.width,
            f"{family}.feed_forward_length": config.mlp_width,
            f"{family}.attention.head_count": config.heads,
            f"{family}.attention.head_count_kv": config.kv_heads,
            f"{family}.attention.key_length": config.head_dim,
            f"{family}.attention.value_length": config.head_dim,
            f"{family}.attention.layer_norm_rms_epsilon": config.norm_eps,
            f"{family}.rope.freq_base": config.rope_theta,
            f"{family}.context_length": 4096,
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.pre": "qwen2",
            "tokenizer.ggml.tokens": words,
            "tokenizer.ggml.token_type": kinds,
            "tokenizer.ggml.merges": ["a b"],
            "tokenizer.ggml.eos_token_id": words.index("<|endoftext|>"),
        },
        "tensors": tensors,
    }
    change(parts)
    writer = gguf.GGUFWriter(path, family)
    for key, value in parts["metadata"].items():
        add = {int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
        add.get(type(value), writer.add_array)(key, value)
    for name, array in parts["tensors"].items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return config, state


@pytest.mark.parametrize(
    ("family", "tied"), [("llama", True), ("llama", False), ("qwen2", True), ("qwen3", False)]
)
def test_every_family_comes_back_bit_for_bit(tmp_path, family, tied):
    config, state = write_gguf(tmp_path / "a.gguf", family, tied)
    convert_gguf(tmp_path / "a.gguf", tmp_path / "hf")
    found, _ = load_checkpoint(tmp_path / "hf")
    assert found == config
    tensors = find_tensors(tmp_path / "hf")
    for name, stored in tensors.items():
        np.testing.assert_array_equal(stored.read(), state[name], err_msg=name)
    tokenizer = load_tokenizer(tmp_path / "hf")
    assert tokenizer.decode(tokenizer.encode("cab<|endoftext|>")) == "cab<|endoftext|>"
    assert len(tokenizer.encode("cab")) == 2


def test_bfloat16_and_several_files(tmp_path, monkeypatch):
    _, state = write_gguf(tmp_path / "a.gguf", "qwen3")
    monkeypatch.setattr("msm_jax.weights.gguf_files.SHARD_BYTES", 20_000)
    convert_gguf(tmp_path / "a.gguf", tmp_path / "hf", "bfloat16")
    assert len(list((tmp_path / "hf").glob("*.safetensors"))) > 1
    for name, stored in find_tensors(tmp_path / "hf").items():
        np.testing.assert_array_equal(stored.read(), state[name].astype(stored.dtype))


def llama3_factors(parts, factor=8.0, damage=1.0):
    """The factors of transformers' own rule, as llama.cpp's converter stores them."""
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    width = parts["metadata"]["llama.attention.key_length"]
    theta = parts["metadata"]["llama.rope.freq_base"]
    scaling = {"rope_type": "llama3", "factor": factor, "low_freq_factor": 1.0,
               "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
               "rope_theta": theta}  # fmt: skip
    config = LlamaConfig(head_dim=width, rope_parameters=scaling)
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    plain = theta ** (-np.arange(0, width, 2) / width)
    parts["tensors"]["rope_freqs.weight"] = np.float32(damage * plain / scaled.numpy())


@pytest.mark.parametrize("factor", [8.0, 32.0])
def test_llama3s_rope_scaling_is_found_from_its_factors(tmp_path, factor):
    pytest.importorskip("torch")
    change = lambda parts: llama3_factors(parts, factor)
    write_gguf(tmp_path / "a.gguf", "llama", change=change)
    convert_gguf(tmp_path / "a.gguf", tmp_path / "hf")
    settings = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert settings["rope_scaling"]["factor"] == factor


def sets(**metadata):
    return lambda parts: parts["metadata"].update(
        {name.replace("__", "."): value for name, value in metadata.items()}
    )


REFUSED = {
    "a tensor too many": (
        lambda parts: parts["tensors"].update({"blk.0.ffn_gate_exps.weight": np.ones(4, "f4")}),
        "blk.0.ffn_gate_exps.weight: is not a tensor",
    ),
    "a tensor missing": (
        lambda parts: parts["tensors"].pop("blk.1.attn_q.weight"),
        r"model.layers.1.self_attn.q_proj.weight: is missing",
    ),
    "another shape": (
        lambda parts: parts["tensors"].update({"output_norm.weight": np.ones(4, "f4")}),
        r"output_norm.weight: has shape \(4,\)",
    ),
    "NaN": (
        lambda parts: parts["tensors"]["output_norm.weight"].fill(np.nan),
        r"output_norm.weight: \d+ of its numbers are not finite",
    ),
    "metadata": (sets(llama__expert_count=8), "metadata llama.expert_count is not supported"),
    "rope": (sets(llama__rope__scaling__type="yarn"), "rope.scaling.type must be 'none'"),
    "other factors": (lambda parts: llama3_factors(parts, damage=1.01), "rope_freqs.weight is not"),
    "a width that no memory holds": (
        lambda parts: (llama3_factors(parts), sets(**dict.fromkeys(
            ("llama__attention__key_length", "llama__attention__value_length"), 2**32 - 2))(parts)),
        "rope_freqs.weight is not",
    ),
    "key width": (sets(llama__attention__value_length=2), "widths"),
    "pre": (sets(tokenizer__ggml__pre="deepseek-llm"), "pre-tokenizer 'deepseek-llm'"),
    "sentencepiece": (sets(tokenizer__ggml__model="llama"), "tokenizer 'llama'"),
    "merges": (sets(tokenizer__ggml__merges=["a zzz"]), "merge .* is of tokens"),
    "ids": (sets(tokenizer__ggml__eos_token_id=10**6), "eos_token_id 1000000"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_not_known_is_refused_by_name(tmp_path, what):
    pytest.importorskip("torch")
    change, message = REFUSED[what]
    write_gguf(tmp_path / "a.gguf", "llama", change=change)
    with pytest.raises(UserError, match=message):
        convert_gguf(tmp_path / "a.gguf", tmp_path / "hf")
    assert [path.name for path in tmp_path.iterdir()] == ["a.gguf"]


def test_other_architectures_and_damaged_files_are_refused(tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "a.gguf", "mamba")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(UserError, match="architecture 'mamba' is not supported, only"):
        convert_gguf(tmp_path / "a.gguf", tmp_path / "hf")
    write_gguf(tmp_path / "b.gguf", "qwen3")
    content = (tmp_path / "b.gguf").read_bytes()
    for size in (5, 30, len(content) // 2, len(content) - 1):
        (tmp_path / "c.gguf").write_bytes(content[:size])
        with pytest.raises(UserError, match=r"c\.gguf: is not a complete GGUF file"):
            convert_gguf(tmp_path / "c.gguf", tmp_path / "hf")
    with pytest.raises(UserError, match="cannot be read"):
        convert_gguf(tmp_path / "none.gguf", tmp_path / "hf")


def test_the_command_converts_and_others_name_it(tmp_path, forked):
    config, _ = write_gguf(tmp_path / "a.gguf", "qwen3")
    run = lambda module, *argv: forked(f"msm_jax.{module}", list(argv), str(tmp_path))
    done = run("convert", "--source=a.gguf", "--target=hf", "--dtype=bfloat16")
    assert done["code"] == 0 and "hf: " in done["err"], done
    assert load_checkpoint(tmp_path / "hf")[0].layers == config.layers
    for argv in (["--to=orbax"], ["--adapter=x"], ["--chat_format=qwen3"]):
        done = run("convert", "--source=a.gguf", "--target=other", *argv)
        assert done["code"] == 2 and "becomes a Hugging Face checkpoint" in done["err"]
    done = run("sample", "--checkpoint=a.gguf", "--prompt=x")
    assert done["code"] == 2 and "msm_jax.convert --source=a.gguf" in done["err"]
    assert not (tmp_path / "other").exists()


def test_counts_that_a_file_cannot_hold_are_refused_before_it_is_read(tmp_path):
    """The gguf package would loop over them, or allocate, without end."""
    write_gguf(tmp_path / "a.gguf", "qwen3")
    content = (tmp_path / "a.gguf").read_bytes()
    tokens = content.index(b"tokenizer.ggml.tokens") + len("tokenizer.ggml.tokens") + 8
    huge = struct.pack("<Q", 2**40)
    for at, message in (
        (8, "metadata values and tensors than .*GGUF_ENTRIES"),  # the number of tensors
        (16, "metadata values and tensors than .*GGUF_ENTRIES"),  # of metadata values
        (24, "ends within its metadata"),  # the length of the first name
        (tokens, "metadata values and tensors than .*GGUF_ENTRIES"),  # the length of a list
    ):
        (tmp_path / "b.gguf").write_bytes(content[:at] + huge + content[at + 8 :])
        with pytest.raises(UserError, match=rf"b\.gguf: .*{message}"):
            convert_gguf(tmp_path / "b.gguf", tmp_path / "hf")


def test_metadata_of_another_type_are_named(tmp_path):
    for name, value in (("qwen3.block_count", "two"), ("tokenizer.ggml.merges", [1, 2])):
        change = lambda parts, name=name, value=value: parts["metadata"].update({name: value})
        write_gguf(tmp_path / "a.gguf", "qwen3", change=change)
        with pytest.raises(UserError, match=rf"a\.gguf: .*{name}.* must be a .*, not"):
            convert_gguf(tmp_path / "a.gguf", tmp_path / "hf")
