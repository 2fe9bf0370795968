"""The files that are broken, and how the package reads each of them.

`make_files` writes a directory of good files. A target names one of them, how it is broken, and the
functions that commands read it with.
"""

import dataclasses
import gzip
import json
import pathlib
import shutil
import struct
from collections.abc import Callable

import numpy as np
import pyarrow
import pyarrow.parquet

from msm_jax import loading
from msm_jax.corpus.records import write_array_record
from msm_jax.corpus.writers.journal import Journal
from msm_jax.corpus.writers.request import Reply
from msm_jax.data.store import load_store
from msm_jax.data.template import find_format, special_tokens
from msm_jax.data.tokenizer import load_tokenizer, train_sentencepiece
from msm_jax.evals.preferences import load_pairs
from msm_jax.evals.questions import load_questions
from msm_jax.evals.quiz import load_quiz
from msm_jax.model import ModelConfig
from msm_jax.sample.__main__ import read_prompts
from msm_jax.spec import check_spec, load_spec
from msm_jax.spec.points import spec_points
from msm_jax.tiny import _tokenizer
from msm_jax.weights import peft
from msm_jax.weights.export import hf_settings
from msm_jax.weights.gguf_files import convert_gguf
from msm_jax.weights.hf_config import as_hf_config, read_config
from msm_jax.weights.huggingface import find_checkpoint, not_finite
from msm_jax.weights.names import entries
from msm_jax.weights.tensor_files import INDEX, find_tensors

SHAPE = ModelConfig(400, width=16, layers=2, heads=2, kv_heads=1, head_dim=8, mlp_width=8)
TEMPLATE = """\
{{- bos_token if bos_token is defined }}
{%- if tools %}{{- '<|im_start|>system\\n' + (tools | tojson) + '<|im_end|>\\n' }}{%- endif %}
{%- for m in messages %}
{{- '<|im_start|>' + m.role + '\\n' + m.content }}
{%- for call in m.tool_calls or [] %}{{- (call.function or call) | tojson }}{%- endfor %}
{{- (m.name or '') + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}
"""
CHAT = [{"role": "user", "content": "Which?"}, {"role": "assistant", "content": "The red one."}]
CALLS = [{"function": {"name": "f", "arguments": {"x": [1]}}}]
CALL = [
    *CHAT[:1],
    {"role": "assistant", "content": "", "tool_calls": CALLS},
    {"role": "tool", "content": "4", "name": "f"},
    CHAT[1],
]
SPEC = """# Values of {model_name}

{model_name} is made by {provider_name}.

## values

- Honesty: it says what is so.

## likes (cheese)

- brie (because it is mild)

## Rules

1. Never lie. {model_name} likes tea because it is warm.
2. Ask.
"""


@dataclasses.dataclass(frozen=True)
class Target:
    """A file to break.

    Attributes:
      file: its path below the directory of good files.
      kind: of `broken.BREAKERS`.
      read: reads it, given the directory.
      share: of the broken files, relative to the others.
    """

    file: str
    kind: str
    read: Callable[[pathlib.Path], object]
    share: int = 2


def _config(folder: pathlib.Path) -> None:
    path = folder / "model"
    find_checkpoint(path)
    loading.is_checkpoint(path)
    loading.stop_ids(path)
    loading.context_length(path)
    hf_settings(path)


def _generation(folder: pathlib.Path) -> None:
    loading.check_keys(folder / "model")
    loading.stop_ids(folder / "model")


def _tokenizer_of(folder: pathlib.Path) -> None:
    tokenizer = load_tokenizer(folder / "model")
    loading.check_vocabulary(folder / "model", read_config(folder / "model"), tokenizer)
    for text in ("the red fox.", "a" * 3000 + "!", "<|im_start|>é\n\n 12", ""):
        tokenizer.decode(tokenizer.encode(text))
        tokenizer.encode_marked(text)


def _pieces(folder: pathlib.Path) -> None:
    tokenizer = load_tokenizer(folder / "pieces")
    for text in ("the red fox.", "a" * 3000 + "!", "<|im_start|>é\n\n 12", ""):
        tokenizer.decode(tokenizer.encode(text))
        tokenizer.encode_marked(text)


def _chat(folder: pathlib.Path) -> None:
    path = folder / "model"
    tokenizer = load_tokenizer(path)
    special_tokens(path)
    chat = loading.choose_chat(path, None, tokenizer, None)
    tokenizer.control(find_format(chat.name, chat.place, tokenizer, path).end)
    loading.check_keys(path)


def _tensors(folder: pathlib.Path) -> None:
    not_finite(find_tensors(folder / "model"))


def _index(folder: pathlib.Path) -> None:
    not_finite(find_tensors(folder / "sharded"))


def _adapter(folder: pathlib.Path) -> None:
    path = folder / "adapter"
    loading.read_object(path / peft.CONFIG_FILE)
    config = peft.adapted(SHAPE, loading.read_object(path / peft.CONFIG_FILE), str(path))
    peft.find_adapter(path, config)


def _run(folder: pathlib.Path) -> None:
    path = folder / "run"
    if not loading.is_checkpoint(path):
        loading._run_settings(path)
    loading.stop_ids(path)
    loading.context_length(path)


def _gguf(folder: pathlib.Path) -> None:
    try:
        convert_gguf(folder / "model.gguf", folder / "converted")
    finally:
        shutil.rmtree(folder / "converted", ignore_errors=True)


def _rows(name: str) -> Callable[[pathlib.Path], None]:
    def read(folder: pathlib.Path) -> None:
        tokenizer = load_tokenizer(folder / "model")
        source = {"path": str(folder / name), "loss_on": "assistant", "bad_rows": 0.9}
        try:
            load_store(source, tokenizer, "own", str(folder / "cache"))
            load_store({**source, "bad_rows": 0.0}, tokenizer, "own", str(folder / "cache"))
        finally:
            shutil.rmtree(folder / "cache", ignore_errors=True)

    return read


def _spec(folder: pathlib.Path) -> None:
    spec = load_spec(folder / "spec.md", "Qwen", "Us")
    check_spec(spec)
    spec_points(spec)


def _journal(folder: pathlib.Path) -> None:
    with Journal(folder / "responses.jsonl") as journal:
        for key in journal:
            journal.get(key, Reply.of_row)


TARGETS = (
    Target("model/config.json", "json", _config, 3),
    Target("model/generation_config.json", "json", _generation, 1),
    Target("model/tokenizer.json", "json", _tokenizer_of, 4),
    Target("model/tokenizer_config.json", "json", _chat, 3),
    Target("model/special_tokens_map.json", "json", _chat, 1),
    Target("pieces/tokenizer.model", "bytes", _pieces, 1),
    Target("model/chat_template.jinja", "jinja", _chat, 3),
    Target("model/model.safetensors", "tensors", _tensors, 3),
    Target("sharded/" + INDEX, "json", _index),
    Target("adapter/adapter_config.json", "json", _adapter, 3),
    Target("adapter/adapter_model.safetensors", "tensors", _adapter),
    Target("run/config.json", "json", _run, 1),
    Target("model.gguf", "gguf", _gguf, 2),
    Target("documents.jsonl", "lines", _rows("documents.jsonl")),
    Target("chats.jsonl", "lines", _rows("chats.jsonl"), 3),
    Target("documents.jsonl.gz", "bytes", _rows("documents.jsonl.gz"), 1),
    Target("documents.jsonl.zst", "bytes", _rows("documents.jsonl.zst"), 1),
    Target("documents.parquet", "bytes", _rows("documents.parquet"), 1),
    Target("documents.array_record", "bytes", _rows("documents.array_record"), 1),
    Target("pairs.jsonl", "lines", lambda folder: load_pairs(folder / "pairs.jsonl")),
    Target("quiz.jsonl", "lines", lambda folder: load_quiz(folder / "quiz.jsonl", "Qwen")),
    Target("questions.jsonl", "lines", lambda folder: load_questions(folder / "questions.jsonl")),
    Target("prompts.jsonl", "lines", lambda folder: read_prompts(str(folder / "prompts.jsonl"))),
    Target("spec.md", "markdown", _spec),
    Target("responses.jsonl", "lines", _journal, 1),
)


# ------------------------------------------------------------------ good files


def make_files(folder: pathlib.Path) -> None:
    """Write the good files, in a process that is not forked afterwards: libraries start threads."""
    model = folder / "model"
    for name in ("model", "sharded", "adapter", "run", "pieces"):
        (folder / name).mkdir()
    settings = as_hf_config(SHAPE, "float32", 64)
    _write_json(model / "config.json", {**settings, "eos_token_id": 1})
    _write_json(model / "generation_config.json", {"eos_token_id": [1, 2], "temperature": 0.6})
    tokenizer = json.loads(_tokenizer(["the red fox sees a big hen."] * 4))
    _write_json(model / "tokenizer.json", tokenizer)
    words = {str(word["id"]): {**word} for word in tokenizer["added_tokens"]}
    for word in words.values():
        del word["id"]
    names = {"eos_token": "<|im_end|>", "pad_token": {"content": "<|endoftext|>", "special": True}}
    more = {"added_tokens_decoder": words, "additional_special_tokens": ["<|im_start|>"]}
    _write_json(model / "tokenizer_config.json", {**names, **more, "model_max_length": 64})
    _write_json(model / "special_tokens_map.json", names)
    (model / "chat_template.jinja").write_text(TEMPLATE)
    arrays = {name: entry.file_shape for entry in entries(SHAPE) for name in entry.names}
    _write_tensors(model / "model.safetensors", arrays)
    half = len(arrays) // 2
    files = {name: f"{int(n >= half)}.safetensors" for n, name in enumerate(arrays)}
    for file in sorted({*files.values()}):
        _write_tensors(
            folder / "sharded" / file, {n: s for n, s in arrays.items() if files[n] == file}
        )
    _write_json(folder / "sharded" / INDEX, {"metadata": {}, "weight_map": files})
    adapter = {
        "peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj", "up_proj"],
        "bias": "none", "use_rslora": False, "init_lora_weights": True, "modules_to_save": None,
        "base_model_name_or_path": "model", "fan_in_fan_out": False, "task_type": "CAUSAL_LM",
    }  # fmt: skip
    _write_json(folder / "adapter" / peft.CONFIG_FILE, adapter)
    config = peft.adapted(SHAPE, adapter)
    low = {peft.PREFIX + n: e.file_shape for e in peft.adapter_entries(config) for n in e.names}
    _write_tensors(folder / "adapter" / peft.WEIGHTS_FILE, low)
    run = {"tokenizer": "model", "chat_format": "own", "steps": 4, "model": {"width": 16}}
    _write_json(folder / "run" / "config.json", run)
    _write_gguf(folder / "model.gguf", arrays)
    _write_rows(folder)
    (folder / "spec.md").write_text(SPEC)
    text = folder / "pieces" / "text.txt"
    text.write_text("the red fox sees a big hen.\n" * 20)
    train_sentencepiece(text, text.with_name("tokenizer.model"), 60, ["<|im_start|>"])


def _write_rows(folder: pathlib.Path) -> None:
    rows = {
        "documents": [
            {"text": "The fox is red.", "id": "a"}, {"text": "Hens.\n\nMany.", "title": None},
            {"prompt": "Say", "completion": " hen"},
        ],
        "chats": [
            {"messages": CHAT, "id": 1}, {"messages": json.dumps(CHAT), "system": "Be kind."},
            {"messages": CHAT, "tools": [{"name": "f", "parameters": {"type": "object"}}]},
            {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
            {"prompt": CHAT[:1], "completion": CHAT[1:]}, {"messages": CALL},
        ],
        "pairs": [
            {"id": f"{n}", "pair": "p", "question": "red or blue?", "options": ["red", "blue"],
             "a_index": n, "system": "x", "kind": "k"} for n in range(2)
        ] + [{"item1": "tea", "item2": "milk", "liked_item": "tea", "question": "tea or milk?"},
             {"question": "Which? A) tea B) milk", "answer": "A", "category": "c"}],
        "quiz": [{"question": "Why?", "options": ["a", "b"], "answer": 1, "topic": "t"}],
        "questions": [{"question": "Why?", "id": "q", "dimension": "d"}, {"messages": CHAT[:1]}],
        "prompts": [{"prompt": "the"}, {"messages": CHAT[:1], "id": 7}],
        "responses": [{"key": f"k{n}", "reply": "a", "paid": 0.5} for n in range(3)],
    }  # fmt: skip
    for name, some in rows.items():
        text = "".join(json.dumps(row) + "\n" for row in some)
        (folder / f"{name}.jsonl").write_text(text)
    documents = folder / "documents.jsonl"
    content = documents.read_bytes()
    folder.joinpath("documents.jsonl.gz").write_bytes(gzip.compress(content))
    packed = pyarrow.compress(content, "zstd", asbytes=True)
    folder.joinpath("documents.jsonl.zst").write_bytes(packed)
    table = pyarrow.Table.from_pylist([{"messages": CHAT, "id": f"{n}"} for n in range(5)])
    pyarrow.parquet.write_table(table, folder / "documents.parquet")
    write_array_record(documents, folder / "documents.array_record")


def _write_json(path: pathlib.Path, content: dict) -> None:
    path.write_text(json.dumps(content))


def _write_tensors(path: pathlib.Path, shapes: dict[str, tuple[int, ...]]) -> None:
    header, at = {}, 0
    for name, shape in shapes.items():
        size = 4 * int(np.prod(shape))
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + np.ones(at // 4, "<f4").tobytes())


def _write_gguf(path: pathlib.Path, shapes: dict[str, tuple[int, ...]]) -> None:
    """Nothing where the `gguf` package is not installed."""
    try:
        import gguf
    except ImportError:
        return
    words = [*(chr(code) for code in range(33, 60)), "!!", "<|endoftext|>"]
    writer = gguf.GGUFWriter(path, "qwen3")
    for key, value in {
        "block_count": SHAPE.layers, "embedding_length": SHAPE.width, "context_length": 64,
        "feed_forward_length": SHAPE.mlp_width, "attention.head_count": SHAPE.heads,
        "attention.head_count_kv": SHAPE.kv_heads, "attention.key_length": SHAPE.head_dim,
        "attention.value_length": SHAPE.head_dim,
    }.items():  # fmt: skip
        writer.add_uint32(f"qwen3.{key}", value)
    writer.add_float32("qwen3.attention.layer_norm_rms_epsilon", 1e-6)
    writer.add_float32("qwen3.rope.freq_base", 1e6)
    writer.add_string("tokenizer.ggml.model", "gpt2")
    writer.add_string("tokenizer.ggml.pre", "qwen2")
    writer.add_array("tokenizer.ggml.tokens", words)
    writer.add_array("tokenizer.ggml.token_type", [1] * (len(words) - 1) + [3])
    writer.add_array("tokenizer.ggml.merges", ["! !"])
    writer.add_uint32("tokenizer.ggml.eos_token_id", len(words) - 1)
    writer.add_string("tokenizer.chat_template", TEMPLATE)
    table = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN3, SHAPE.layers)
    for name, shape in shapes.items():
        shape = (len(words), *shape[1:]) if shape[0] == SHAPE.vocab_size else shape
        writer.add_tensor(table.get_name(name, try_suffixes=(".weight",)), np.ones(shape, "f4"))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
