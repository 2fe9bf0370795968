"""Qwen's real tokenizer, built from the BPE ranks that the `dashscope` wheel carries."""

import base64
import functools
import importlib.metadata
import json

import pytest

QWEN25_SYSTEM = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."

# Qwen3's, in the order of their ids from 151643; the first 22 are Qwen2.5's.
ADDED = (
    "<|endoftext|> <|im_start|> <|im_end|> <|object_ref_start|> <|object_ref_end|> <|box_start|> "
    "<|box_end|> <|quad_start|> <|quad_end|> <|vision_start|> <|vision_end|> <|vision_pad|> "
    "<|image_pad|> <|video_pad|> <tool_call> </tool_call> <|fim_prefix|> <|fim_middle|> "
    "<|fim_suffix|> <|fim_pad|> <|repo_name|> <|file_sep|> <tool_response> </tool_response> "
    "<think> </think>"
).split()
# How Qwen's tokenizer cuts text before merging: contractions, words, single digits, the rest.
CUTS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
)

# Templates in our own words, of the forms that checkpoints carry.
QWEN25_TEMPLATE = (
    "{%- if not messages or messages[0]['role'] != 'system' %}"
    "{{- '<|im_start|>system\\n" + QWEN25_SYSTEM + "<|im_end|>\\n' }}{%- endif %}"
    "{%- for turn in messages %}"
    "{{- '<|im_start|>' + turn['role'] + '\\n' + turn['content'] + '<|im_end|>\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)
QWEN3_TEMPLATE = (
    "{%- set ns = namespace(last=messages|length - 1) %}"
    "{%- for turn in messages %}{%- if turn.role == 'user' %}{%- set ns.last = loop.index0 %}"
    "{%- endif %}{%- endfor %}"
    "{%- for turn in messages %}{%- set answer = turn.content %}{%- set thought = '' %}"
    "{%- if turn.role == 'assistant' %}"
    "{%- if '</think>' in answer %}"
    "{%- set thought = answer.split('</think>')[0].split('<think>')[-1].strip('\\n') %}"
    "{%- set answer = answer.split('</think>')[-1].lstrip('\\n') %}{%- endif %}"
    "{%- if loop.index0 > ns.last and (loop.last or thought) %}"
    "{%- set answer = '<think>\\n' + thought + '\\n</think>\\n\\n' + answer.lstrip('\\n') %}"
    "{%- endif %}{%- endif %}"
    "{{- '<|im_start|>' + turn.role + '\\n' + answer + '<|im_end|>\\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}"
    "{%- if enable_thinking is defined and not enable_thinking %}"
    "{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}{%- endif %}"
)


def _letters() -> dict[int, str]:
    """Byte-level BPE's printable letter for each byte (Radford et al. 2019)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {
        **{byte: chr(byte) for byte in printable},
        **{byte: chr(256 + number) for number, byte in enumerate(others)},
    }


def _merge(ranks: dict[bytes, int], token: bytes) -> tuple[bytes, bytes]:
    """The two parts that BPE joins last to make a token."""
    parts = [bytes([byte]) for byte in token]
    while len(parts) > 2:
        pairs = [ranks.get(a + b, len(ranks)) for a, b in zip(parts, parts[1:], strict=False)]
        at = min(range(len(pairs)), key=pairs.__getitem__)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts[0], parts[1]


@functools.cache
def tokenizer_json() -> str:
    """The content of tokenizer.json; skips the test where the wheel is not installed."""
    try:
        wheel = importlib.metadata.distribution("dashscope")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("needs the dashscope wheel: make .venv/.installed-test")
    lines = wheel.locate_file("dashscope/resources/qwen.tiktoken").read_bytes().splitlines()
    ranks = {base64.b64decode(text): int(rank) for text, rank in map(bytes.split, lines)}
    letters = _letters()
    spelled = lambda token: "".join(letters[byte] for byte in token)
    merges = [_merge(ranks, token) for token in ranks if len(token) > 1]
    split = {"type": "Split", "pattern": {"Regex": CUTS}, "behavior": "Isolated", "invert": False}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False}
    model = {
        "type": "BPE",
        "vocab": {spelled(token): rank for token, rank in ranks.items()},
        "merges": [[spelled(a), spelled(b)] for a, b in merges],
    }
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    added = [
        {"id": len(ranks) + number, "content": name, "special": name.startswith("<|"), **flags}
        for number, name in enumerate(ADDED)
    ]
    return json.dumps(
        {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": added,
            "normalizer": {"type": "NFC"},
            "pre_tokenizer": {
                "type": "Sequence",
                "pretokenizers": [split, {**byte_level, "use_regex": False}],
            },
            "post_processor": None,
            "decoder": {**byte_level, "use_regex": True},
            "model": model,
        }
    )
