"""A GGUF file, as llama.cpp and Ollama keep models, into a Hugging Face checkpoint directory.

Only the families of this package are read (llama, qwen2, qwen3), with tokenizers whose splitting
rule we know. Everything else is refused by name: tensors, metadata, tokenizers, rope scalings.
The `gguf` package parses the file, after its counts were checked, and dequantizes tensors.
"""

import dataclasses
import math
import mmap
import os
import pathlib
import struct
from typing import Any

import ml_dtypes
import numpy as np

from msm_jax import schema
from msm_jax.data.tokenizer import is_panic
from msm_jax.data.tokenizer_patterns import LLAMA3_SPLIT, QWEN2_SPLIT
from msm_jax.errors import UserError, located
from msm_jax.files import new_directory, write_json, write_text
from msm_jax.limits import DIMENSION, GGUF_ENTRIES, TOKENIZER_BYTES, open_regular
from msm_jax.model.rope import RopeScaling, frequencies
from msm_jax.weights import keys
from msm_jax.weights.hf_config import FAMILIES, read_config
from msm_jax.weights.names import entries
from msm_jax.weights.tensor_files import INDEX
from msm_jax.weights.writing import Piece, split_into_shards, write_shards

SHARD_BYTES = 4 * 10**9
_ROPE_FACTORS = "rope_freqs.weight"
# Metadata key below "<architecture>." -> key of config.json.
_SIZES = {
    "block_count": "num_hidden_layers",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "rope.freq_base": "rope_theta",
    "context_length": "max_position_embeddings",
}
_HEAD_SIZES = ("attention.key_length", "attention.value_length", "rope.dimension_count")
_FLOATS = ("attention.layer_norm_rms_epsilon", "rope.freq_base")
# What the metadata must hold, below "<architecture>." and elsewhere.
_MODEL = {
    **{name: float if name in _FLOATS else int for name in _SIZES},
    **{f"{name}?": int for name in _HEAD_SIZES},
    "rope.scaling.type?": "none",
    "vocab_size?": object,
}
_VOCABULARY = {
    "tokenizer.ggml.model": str,
    "tokenizer.ggml.tokens": [str],
    **{f"tokenizer.ggml.{name}_token_id?": int for name in "bos eos eot padding unknown".split()},
}
_BPE = {
    "tokenizer.ggml.token_type": [int],
    "tokenizer.ggml.merges": [str],
    "tokenizer.ggml.add_bos_token?": bool,
    "tokenizer.chat_template?": str,
}
# Llama 3's rope scaling is stored as one factor per frequency. Meta's releases (3.1, 3.2) differ in
# the first number only; which it was is found by computing the factors of each.
_LLAMA3_FACTORS = (8.0, 32.0)
_LLAMA3 = {
    "rope_type": "llama3",
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
# tokenizer.ggml.pre -> how text is split before merging, as the models' tokenizer.json says it.
_SPLITS = {"smollm": "digits", "qwen2": QWEN2_SPLIT, "llama-bpe": LLAMA3_SPLIT}
_CONTROL, _USER_DEFINED, _NORMAL, _UNUSED = 3, 4, 1, 5  # tokenizer.ggml.token_type


@dataclasses.dataclass(frozen=True)
class GGUF:
    """A parsed file: its metadata as plain values, and its tensors by name, not dequantized."""

    path: pathlib.Path
    metadata: dict[str, Any]
    tensors: dict[str, Any]


def convert_gguf(
    source: str | os.PathLike, target: str | os.PathLike, dtype: str = "float32"
) -> None:
    """Write a Hugging Face checkpoint with the weights, tokenizer and chat template of a GGUF file.

    The directory appears when it is complete. Weights are stored as "float32" (dequantized exactly)
    or "bfloat16" (rounded). UserError for a damaged file, or what this package does not know.
    """
    found = read_gguf(source)
    settings = hf_config(found)
    with new_directory(target) as temporary:
        write_json(temporary / "config.json", settings)
        try:
            _write_tokenizer(found, temporary)
        except BaseException as error:  # the library raises bare Exception, or panics
            if isinstance(error, UserError | OSError):
                raise
            if not isinstance(error, Exception) and not is_panic(error):
                raise
            raise UserError(f"{source}: its tokenizer cannot be made: {error}") from error
        _write_weights(found, settings, temporary, dtype)


def read_gguf(path: str | os.PathLike) -> GGUF:
    """Parse a GGUF file; UserError if it is not complete, or the `gguf` package is missing."""
    try:
        import gguf
    except ImportError as error:
        raise UserError(
            f"{path}: GGUF files need the package gguf: pip install 'msm_jax[gguf]'"
        ) from error
    try:
        check_header(path)
        reader = gguf.GGUFReader(path)
        metadata = {name: field.contents() for name, field in reader.fields.items()}
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error
    except Exception as error:  # the parser trusts offsets, and fails in many ways on damaged files
        raise UserError(f"{path}: is not a complete GGUF file ({error})") from error
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    if len(tensors) != len(reader.tensors):
        raise UserError(f"{path}: holds two tensors of one name")
    return GGUF(pathlib.Path(path), metadata, tensors)


def hf_config(found: GGUF) -> dict:
    """The config.json of the model in a file; UserError for what we do not know."""
    family = found.metadata.get("general.architecture")
    if not isinstance(family, str) or family not in FAMILIES:
        raise UserError(
            f"{found.path}: architecture {keys.shown(family)} is not supported, only "
            f"{', '.join(FAMILIES)}"
        )
    form = {**_VOCABULARY, **{f"{family}.{name}": kind for name, kind in _MODEL.items()}}
    schema.check(found.metadata, form, f"{found.path}: its metadata")
    known = {name.removesuffix("?") for name in form}
    unknown = [n for n in found.metadata if n.startswith(f"{family}.") and n not in known]
    if unknown:
        raise UserError(
            f"{found.path}: metadata {', '.join(sorted(unknown))} is not supported: it may change "
            "what the model computes"
        )
    settings: dict[str, Any] = {"architectures": [FAMILIES[family][1]], "model_type": family}
    settings |= {ours: _plain(found.metadata[f"{family}.{name}"]) for name, ours in _SIZES.items()}
    heads = max(1, settings["num_attention_heads"])  # 0 is refused with the other sizes
    sizes = [found.metadata.get(f"{family}.{name}") for name in _HEAD_SIZES]
    sizes = [size for size in sizes if size is not None] or [settings["hidden_size"] // heads]
    if len(set(sizes)) > 1:
        raise UserError(f"{found.path}: keys, values and rope of widths {sizes} are not supported")
    return {
        **settings,
        "head_dim": sizes[0],
        "hidden_act": "silu",
        "vocab_size": len(found.metadata["tokenizer.ggml.tokens"]),
        "tie_word_embeddings": "output.weight" not in found.tensors,
        "rope_scaling": _rope_scaling(found, settings["rope_theta"], sizes[0]),
        **{
            f"{name}_token_id": found.metadata.get(f"tokenizer.ggml.{key}_token_id")
            for name, key in (("bos", "bos"), ("eos", "eos"), ("pad", "padding"))
        },
    }


def _plain(value: Any) -> Any:
    """A float32 of the file as the shortest decimal that rounds to it: 9.99999974e-06 is 1e-05."""
    return float(str(np.float32(value))) if isinstance(value, float) else value


def _rope_scaling(found: GGUF, theta: float, head_dim: int) -> dict | None:
    """Llama 3's scaling whose factors are those of the file; None without factors."""
    tensor = found.tensors.get(_ROPE_FACTORS)
    if tensor is None:
        return None
    # A width that the file only claims is not computed with: it may be larger than any memory.
    for factor in _LLAMA3_FACTORS if tensor.data.shape == (head_dim // 2,) else ():
        ours = frequencies(head_dim, theta) / frequencies(head_dim, theta, RopeScaling(factor))
        if np.allclose(ours, tensor.data, rtol=1e-5):
            return {**_LLAMA3, "factor": factor}
    raise UserError(
        f"{found.path}: {_ROPE_FACTORS} is not the scaling of Llama 3.1 or 3.2 (factors "
        f"{_LLAMA3_FACTORS}), so it is not supported"
    )


# ------------------------------------------------------------------ header
# The gguf package believes every count and length in a file: a wrong one makes it loop or allocate
# without end. The format: magic, version, number of tensors and of metadata values; then each value
# as name, type and content; then each tensor as name, shape, type and place. Integers are
# little-endian, a text is its length and its bytes (ggml's docs/gguf.md).

_MAGIC, _VERSIONS = b"GGUF", (2, 3)
_STRING, _ARRAY = 8, 9
_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # bytes, by type
_MOST_AXES = 4  # GGML_MAX_DIMS


class _Reader:
    """Walks over the bytes of a file; ValueError where they end."""

    def __init__(self, data: mmap.mmap):
        self.data, self.at, self.entries = data, 0, 0

    def skip(self, count: int) -> None:
        """Go on by so many bytes."""
        self.at += count
        if self.at > len(self.data):
            raise ValueError("it ends within its metadata")
        if self.at > TOKENIZER_BYTES:
            raise ValueError(f"its metadata have more bytes than {TOKENIZER_BYTES}")

    def number(self, form: str) -> int:
        """An integer of this `struct` format."""
        start = self.at
        self.skip(struct.calcsize(form))
        return struct.unpack_from(form, self.data, start)[0]

    def text(self) -> None:
        """Go on over a text."""
        self.skip(self.number("<Q"))

    def count(self, number: int) -> int:
        """So many more entries."""
        self.entries += number
        if self.entries > GGUF_ENTRIES:
            raise ValueError(f"it has more metadata values and tensors than {GGUF_ENTRIES}")
        return number

    def value(self) -> None:
        """Go on over a type and what is of that type."""
        kind, number = self.number("<I"), 1
        if kind == _ARRAY:
            kind, number = self.number("<I"), self.count(self.number("<Q"))
        if kind == _STRING:
            for _ in range(number):
                self.text()
        elif kind in _BYTES:
            self.skip(number * _BYTES[kind])
        else:
            raise ValueError(f"metadata of type {kind} are not known")

    def tensor(self) -> None:
        """Go on over the description of a tensor."""
        self.text()
        axes = self.number("<I")
        if axes > _MOST_AXES:
            raise ValueError(f"a tensor has {axes} axes, more than {_MOST_AXES}")
        shape = [self.number("<Q") for _ in range(axes)]
        if any(size > DIMENSION for size in shape) or math.prod(shape) >= 2**62:
            raise ValueError(f"a tensor has shape {shape}, which no file can hold")
        self.skip(4 + 8)  # its type and place


def check_header(path: str | os.PathLike) -> None:
    """Walk over the metadata and the descriptions of the tensors.

    UserError for a count or length that the file cannot have, or that is above a limit.
    """
    with open_regular(path) as file:
        if os.fstat(file.fileno()).st_size < 24:
            raise UserError(f"{path}: is not a complete GGUF file (it is too short)")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                _walk(_Reader(data))
            except ValueError as error:
                raise UserError(f"{path}: is not a complete GGUF file ({error})") from error


def _walk(reader: _Reader) -> None:
    if reader.data[:4] != _MAGIC:
        raise ValueError("it does not begin with GGUF")
    reader.skip(4)
    if (version := reader.number("<I")) not in _VERSIONS:
        raise ValueError(f"its version is {version}, or it is big-endian; known are {_VERSIONS}")
    tensors, values = reader.count(reader.number("<Q")), reader.count(reader.number("<Q"))
    for _ in range(values):
        reader.text()
        reader.value()
    for _ in range(tensors):
        reader.tensor()


# ------------------------------------------------------------------ weights


def _write_weights(found: GGUF, settings: dict, directory: pathlib.Path, dtype: str) -> None:
    """All tensors as safetensors, after every name and shape has been checked."""
    import gguf

    with located(f"{found.path}: its metadata, as a config.json"):
        config = read_config(directory)
    wanted = [Piece(n, entry, i) for entry in entries(config) for i, n in enumerate(entry.names)]
    family = getattr(gguf.MODEL_ARCH, settings["model_type"].upper())
    table = gguf.get_tensor_name_map(family, config.layers)
    suffixes = (".weight", ".bias")
    sources = {p.name: str(table.get_name(p.name, try_suffixes=suffixes)) for p in wanted}
    known = {*sources.values(), _ROPE_FACTORS}
    problems = [f"{n}: is not a tensor of this model" for n in found.tensors if n not in known]
    for piece in wanted:
        tensor = found.tensors.get(name := sources[piece.name])
        if tensor is None:
            problems.append(f"{piece.name}: is missing")
        elif (shape := tuple(map(int, reversed(tensor.shape)))) != piece.entry.file_shape:
            asked = piece.entry.file_shape
            problems.append(f"{name}: has shape {shape}, its metadata ask for {asked}")
    if problems:
        shown = "\n  ".join(problems[:20])
        raise UserError(f"{found.path}: its tensors are not those of its metadata:\n  {shown}")
    kind = np.dtype(np.float32 if dtype == "float32" else ml_dtypes.bfloat16)
    shards = split_into_shards(wanted, kind, SHARD_BYTES)
    shards = [sorted(shard, key=lambda piece: piece.name) for shard in shards]
    array = lambda piece: _array(found, sources[piece.name], settings).astype(kind)
    if index := write_shards(directory, shards, kind, array):
        index["weight_map"] = {name: index["weight_map"][name] for name in sources}
        write_json(directory / INDEX, index)


def _array(found: GGUF, name: str, settings: dict) -> np.ndarray:
    """A tensor in float32, in the order of Hugging Face's files."""
    import gguf

    tensor = found.tensors[name]
    try:
        array = gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32, copy=False)
    except Exception as error:
        raise UserError(f"{found.path}: {name}: {tensor.tensor_type.name}: {error}") from error
    if count := array.size - np.count_nonzero(np.isfinite(array)):
        raise UserError(f"{found.path}: {name}: {count} of its numbers are not finite")
    heads = {"attn_q": "num_attention_heads", "attn_k": "num_key_value_heads"}.get(
        name.split(".")[-2]
    )
    if settings["model_type"] == "llama" and heads:
        # llama.cpp turns pairs (i, i + d/2) of each head into neighbours (2i, 2i + 1).
        count = settings[heads]
        pairs = array.reshape(count, array.shape[0] // count // 2, 2, *array.shape[1:])
        array = np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(array.shape)
    return array


# ------------------------------------------------------------------ tokenizer


def _write_tokenizer(found: GGUF, directory: pathlib.Path) -> None:
    """tokenizer.json, tokenizer_config.json, generation_config.json and the chat template."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, processors
    from tokenizers import pre_tokenizers as pre

    held = {name.removeprefix("tokenizer."): value for name, value in found.metadata.items()}
    kind, split = held["ggml.model"], held.get("ggml.pre")
    if kind != "gpt2" or split not in [*_SPLITS]:
        raise UserError(
            f"{found.path}: tokenizer {kind!r} with pre-tokenizer {split!r} is not supported, only "
            f"byte-level BPE ('gpt2') with one of {', '.join(_SPLITS)}"
        )
    schema.check(found.metadata, _BPE, f"{found.path}: its metadata")
    tokens, types = held["ggml.tokens"], held["ggml.token_type"]
    merges = [tuple(merge.split(" ", 1)) for merge in held["ggml.merges"]]
    ids = {token: number for number, token in enumerate(tokens)}
    odd = sorted(set(types) - {_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED})
    if len(ids) != len(tokens) or len(types) != len(tokens) or odd:
        raise UserError(f"{found.path}: its token list is damaged, or has types {odd}")
    missing = [m for m in merges if len(m) != 2 or not {*m, "".join(m)} <= ids.keys()]
    if missing:
        raise UserError(f"{found.path}: merge {missing[0]} is of tokens that it does not have")
    tokenizer = Tokenizer(models.BPE(ids, merges, fuse_unk=False, byte_fallback=False))
    if split == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    if split == "smollm":
        steps = [pre.Digits(individual_digits=True), pre.ByteLevel(add_prefix_space=False)]
    else:
        cut = pre.Split(Regex(_SPLITS[split]), behavior="isolated")
        steps = [cut, pre.ByteLevel(add_prefix_space=False, use_regex=False)]
    tokenizer.pre_tokenizer = pre.Sequence(steps)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    names = _special_names(found, tokens)
    # llama.cpp writes Llama 3's <|begin_of_text|> unless the file says that it should not.
    if held.get("ggml.add_bos_token", split == "llama-bpe"):
        if not (bos := names.get("bos_token")):
            raise UserError(f"{found.path}: has no bos_token_id, which begins every text")
        with_bos = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos}:1 $B:1", special_tokens=[(bos, ids[bos])]
        )
        byte_level = tokenizer.post_processor
        tokenizer.post_processor = processors.Sequence([byte_level, with_bos])
    for token, kind in zip(tokens, types, strict=True):
        if kind in (_CONTROL, _USER_DEFINED):
            special = kind == _CONTROL
            added = AddedToken(token, special=special, normalized=False)
            (tokenizer.add_special_tokens if special else tokenizer.add_tokens)([added])
    tokenizer.save(str(directory / "tokenizer.json"))
    fixed = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    write_json(directory / "tokenizer_config.json", {**fixed, **names})
    if template := held.get("chat_template"):
        write_text(directory / "chat_template.jinja", template)
    ends = sorted({held[key] for key in ("ggml.eos_token_id", "ggml.eot_token_id") if key in held})
    write_json(directory / "generation_config.json", {"eos_token_id": ends} if ends else {})


def _special_names(found: GGUF, tokens: list[str]) -> dict[str, str]:
    """{"eos_token": "<|im_end|>", ...} of the ids in the metadata."""
    names = {}
    for name, key in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")):
        number = found.metadata.get(f"tokenizer.ggml.{key}_token_id")
        if number is None:
            continue
        if not 0 <= number < len(tokens):
            raise UserError(f"{found.path}: {key}_token_id {number} is not among its tokens")
        names[f"{name}_token"] = tokens[number]
    return names
