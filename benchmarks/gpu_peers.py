"""The measurements of gpu.py that compute with transformers and peft: same shapes, same batches.

They are skipped where torch, transformers or peft is missing, or torch has no CUDA.
"""

import functools
import time

import numpy as np
from gpu_common import batch_of, documents, figure, seconds


def network(tiny: bool, lora: bool):
    """(model, device) of the shapes of Qwen3-8B with random weights; None where it cannot run."""
    try:
        import peft
        import torch
        from transformers import AutoModelForCausalLM, Qwen3Config
    except ImportError as error:
        figure("peer", skipped=f"{error}")
        return None
    if not (tiny or torch.cuda.is_available()):
        figure("peer", skipped="torch has no CUDA")
        return None
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    figure("peer", **{each.__name__: each.__version__ for each in (torch, peft)})
    sizes = (97, 32, 1, 4, 2, 16, 48) if tiny else (151936, 4096, 36, 32, 8, 128, 12288)
    names = "vocab_size hidden_size num_hidden_layers num_attention_heads num_key_value_heads "
    names += "head_dim intermediate_size"
    config = Qwen3Config(
        **dict(zip(names.split(), sizes, strict=True)),
        tie_word_embeddings=False,
        attn_implementation="sdpa",
        use_cache=not lora,
    )
    torch.manual_seed(0)
    with device:
        made = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    if lora:
        made.gradient_checkpointing_enable({"use_reentrant": False})
        made.enable_input_require_grads()
        targets = "q_proj k_proj v_proj o_proj gate_proj up_proj down_proj".split()
        made = peft.get_peft_model(
            made, peft.LoraConfig(r=4 if tiny else 64, lora_alpha=128, target_modules=targets)
        )
    return made.to(device), device


def train_peer(tiny: bool) -> None:
    """LoRA r=64 with checkpointing, sdpa with a 4-d mask of documents, fused AdamW."""
    found = network(tiny, lora=True)
    if found is None:
        return
    import torch

    net, device = found
    net.train()
    T, vocabulary = (96, 97) if tiny else (4096, 151936)
    trained = [each for each in net.parameters() if each.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, weight_decay=0.01, fused=True)

    def step(batch) -> None:
        ids = batch["segment_ids"]
        causal = torch.ones(T, T, dtype=torch.bool, device=device).tril()
        seen = (ids[:, :, None] == ids[:, None]) & causal
        mask = torch.zeros(seen.shape, dtype=torch.bfloat16, device=device)
        mask = mask.masked_fill(~seen, torch.finfo(torch.bfloat16).min)
        labels = batch["tokens"].masked_fill(ids == 0, -100)
        out = net(
            input_ids=batch["tokens"],
            attention_mask=mask[:, None],
            position_ids=batch["positions"],
            labels=labels,
        )
        optimizer.zero_grad(set_to_none=True)
        out.loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        out.loss.item()

    for rows in (1, 4):
        arrays = batch_of(vocabulary, documents(rows, T, 20 if tiny else 600))
        batch = {
            name: torch.from_numpy(np.array(arrays[name])).long().to(device)
            for name in ("tokens", "positions", "segment_ids")
        }
        started = time.perf_counter()
        step(batch)
        first = time.perf_counter() - started
        taken = seconds(functools.partial(step, batch), 3)
        peak = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else None
        figure(
            f"transformers + peft, LoRA, {rows} row(s) of {T}, checkpointing, sdpa",
            tokens_per_second=rows * T / taken,
            peak_gib=peak,
            first_step_seconds=first,
        )


def decode_peer(tiny: bool) -> None:
    """`generate`: 32 rows of 500 tokens and 64 more, 64 rows of 2,800 and 32 more."""
    found = network(tiny, lora=False)
    if found is None:
        return
    import torch

    net, device = found
    net.eval()
    for rows, length, tokens in [(2, 8, 4)] if tiny else [(32, 500, 64), (64, 2800, 32)]:
        ids = torch.randint(1, 90, (rows, length), device=device)
        run = lambda ids=ids, tokens=tokens: net.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=True,
            temperature=0.7,
            top_k=0,
            min_new_tokens=tokens,
            max_new_tokens=tokens,
            pad_token_id=0,
        ).cpu()
        with torch.no_grad():
            taken = seconds(run, 1)
        figure(
            f"transformers generate, {rows} rows of {length} + {tokens}",
            tokens_per_second=rows * tokens / taken,
        )
