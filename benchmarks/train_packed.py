"""Training of packed documents beside transformers + PyTorch (+ PEFT), on this machine's CPU.

    python benchmarks/train_packed.py [--models 20m 100m] [--modes full lora] [--rounds 3]

Same model (Qwen3's architecture, or the shape of SmolLM2-135M; random weights, float32), same
documents, same optimizer (AdamW, clipping), three sides:

    ours     msm_jax's step on packed rows: blockwise attention, chunked head
    padded   transformers (sdpa) on batches of documents padded to the longest, as its users run
             it: DataCollatorWithPadding, no packing
    packed   transformers (sdpa) on our packed rows, documents kept apart by a 4-d mask

With --sides there may be more: `devices` is ours with one device per thread, which share the rows
(JAX_NUM_CPU_DEVICES); --before=CHECKOUT adds ours with the code of another checkout. Each side is a
process of its own; rounds alternate. Counted are real tokens per second: tokens that are not
padding. The ratio is that of each round's pair. Tokens per second of processor time are printed
beside it, for machines on which others work too, and what the machine itself reaches before and
after. LoRA: r=64, alpha=128 on the seven projections, with PEFT on the other side (pip install
peft). With --loss_share=0.3 only the last 30 % of each document has loss, as in chats.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

from machine import machine

ROOT = pathlib.Path(__file__).resolve().parent.parent
_SHAPE = "vocab_size width layers heads kv_heads head_dim mlp_width".split()
MODELS = {
    "20m": dict(zip(_SHAPE, (16_384, 384, 8, 6, 2, 64, 1024), strict=True)),
    "100m": dict(zip(_SHAPE, (32_768, 768, 12, 12, 4, 64, 2048), strict=True)),
    "smollm2": dict(zip(_SHAPE, (49_152, 576, 30, 9, 3, 64, 1536), strict=True)),
}
LLAMA = ("smollm2",)  # no norms of queries and keys
# Lengths like those of chats with reasoning (lognormal, median 370, mean 510).
DOCUMENTS = 256
# Tokens of a row, packed rows, and documents where they are padded.
BATCH = {"20m": (2048, 2, 8), "100m": (2048, 1, 4), "smollm2": (512, 2, 4)}
LORA = {"lora_rank": 64, "lora_alpha": 128.0}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--modes", nargs="+", default=["full", "lora"], choices=["full", "lora"])
    usual = ["ours", "padded", "packed"]
    parser.add_argument("--sides", nargs="+", default=usual, choices=list(SIDES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10.0, help="of a round, at least")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--loss_share", type=float, default=1.0, help="of a document's tokens")
    parser.add_argument("--before", help="a checkout with earlier code, to compare ours with")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        return serve(options)
    for model in options.models:
        for mode in options.modes:
            compare(options, model, mode)


def compare(options, model, mode):
    names = [*options.sides, *(["before"] if options.before else [])]
    found_before = machine(options.threads)
    sides = {name: Side(options, name, model, mode) for name in names}
    speeds = {name: [] for name in sides}
    for number in range(options.rounds):
        for name in list(sides)[:: 1 if number % 2 else -1]:
            speeds[name].append(sides[name].round())
    for side in sides.values():
        side.close()
    print(f"{model} {mode}: first losses", {n: round(s.hello["loss"], 3) for n, s in sides.items()})
    print(f"  the machine before: {found_before}")
    print(f"  the machine after:  {machine(options.threads)}")
    for name, found in speeds.items():
        ratios = [a / b for a, b in zip(speeds["ours"], found, strict=True)]
        print(
            f"  {name:7s} {statistics.median(found):7,.0f} real tokens/s "
            f"({min(found):,.0f} to {max(found):,.0f}), fill {sides[name].hello['fill']:.2f}, "
            f"ours is {statistics.median(ratios):.2f}x ({min(ratios):.2f} to {max(ratios):.2f}), "
            f"{sides[name].tokens / sides[name].cpu:,.0f} tokens per processor second, "
            f"peak memory {sides[name].last['memory'] / 2**30:.2f} GiB"
        )
    sys.stdout.flush()


class Side:
    """A process that trains when asked to."""

    def __init__(self, options, name, model, mode):
        from msm_jax import memory

        environment = {**os.environ, "JAX_PLATFORMS": "cpu", "HF_HUB_OFFLINE": "1"}
        root = options.before if name == "before" else ROOT
        side = "ours" if name in ("before", "devices") else name
        environment["PYTHONPATH"] = f"{root}:{os.environ.get('PYTHONPATH', '')}"
        environment |= {**memory.environment(), "OMP_NUM_THREADS": str(options.threads)}
        if name == "devices":
            environment["JAX_NUM_CPU_DEVICES"] = str(options.threads)
        command = [sys.executable, __file__, "--side", side, "--models", model, "--modes", mode]
        command += ["--seconds", str(options.seconds), "--threads", str(options.threads)]
        command += ["--loss_share", str(options.loss_share)]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            command, env=environment, text=True, stdin=pipe, stdout=pipe
        )
        self.hello = json.loads(self._process.stdout.readline())
        self.tokens = self.cpu = 0.0

    def round(self) -> float:
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        self.last = json.loads(self._process.stdout.readline())
        self.tokens += self.last["tokens"]
        self.cpu += self.last["cpu"]
        return self.last["speed"]

    def close(self):
        self._process.stdin.close()
        self._process.wait()


def serve(options):
    """Answers every line on stdin with the real tokens per second of a round."""
    import resource

    global LENGTH, ROWS, PADDED_ROWS, LOSS_SHARE
    name, LOSS_SHARE = options.models[0], options.loss_share
    LENGTH, ROWS, PADDED_ROWS = BATCH[name]
    model = {**MODELS[name], "qk_norm": name not in LLAMA}
    step, fill = SIDES[options.side](model, options.modes[0], options.threads)
    loss, _ = step()
    step()
    print(json.dumps({"loss": loss, "fill": fill}), flush=True)
    for _ in sys.stdin:
        started, cpu, tokens = time.perf_counter(), time.process_time(), 0
        while time.perf_counter() - started < options.seconds:
            tokens += step()[1]
        speed = tokens / (time.perf_counter() - started)
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        cpu = time.process_time() - cpu
        found = {"speed": speed, "memory": memory, "tokens": tokens, "cpu": cpu}
        print(json.dumps(found), flush=True)


def documents(vocab: int):
    import numpy as np

    rng = np.random.default_rng(0)
    lengths = np.clip(rng.lognormal(5.92, 0.8, DOCUMENTS), 16, LENGTH).astype(int)
    return [rng.integers(1, vocab, length).astype(np.int32) for length in lengths]


def packed_batches(vocab: int):
    """Packed rows as training makes them, ROWS at a time, and their share of real tokens."""
    import numpy as np

    from msm_jax.data.packing import pack
    from msm_jax.data.pipeline import as_batch

    found = documents(vocab)
    rows = pack([len(ids) for ids in found], LENGTH, 0)
    tokens = np.zeros((len(rows), LENGTH), np.int32)
    segments = np.zeros((len(rows), LENGTH), np.int32)
    loss = np.zeros((len(rows), LENGTH), np.uint8)
    for row, numbers in enumerate(rows):
        at = 0
        for segment, number in enumerate(numbers, start=1):
            here = slice(at, at + len(found[number]))
            tokens[row, here], segments[row, here] = found[number], segment
            at = here.stop
            loss[row, at - round(LOSS_SHARE * len(found[number])) : at] = 1
    order = np.random.default_rng(1).permutation(len(rows))
    cuts = [order[i : i + ROWS] for i in range(0, len(rows) - ROWS + 1, ROWS)]
    batches = [as_batch(tokens[c], loss[c], segments[c]) for c in cuts]
    return batches, float((segments > 0).mean())


def ours(model, mode, threads):
    import itertools

    import jax

    from msm_jax.model import (
        ModelConfig,
        batch_sharding,
        init_params,
        make_mesh,
        param_shardings,
    )
    from msm_jax.train.config import stage
    from msm_jax.train.optimizer import make_optimizer, make_schedule, split_params
    from msm_jax.train.step import make_step

    config = ModelConfig(rope_theta=1e6, **model, **(LORA if mode == "lora" else {}))
    recipe = stage().optimizer
    optimizer, schedule = make_optimizer(recipe), make_schedule(recipe, 10_000)
    params = init_params(config, jax.random.key(0))
    mesh = make_mesh({"data": -1}) if jax.device_count() > 1 else None
    if mesh is not None:
        params = jax.device_put(params, param_shardings(config, mesh))
    trained, frozen = split_params(params, "lora" if mode == "lora" else "all")
    state = [trained, optimizer.init(trained)]
    step_fn = make_step(config, optimizer, mesh=mesh)
    batches, fill = packed_batches(model["vocab_size"])
    if mesh is not None:
        batches = [jax.device_put(batch, batch_sharding(mesh, ROWS, LENGTH)) for batch in batches]
    found = itertools.cycle(batches)

    def step():
        batch = next(found)
        state[0], state[1], metrics = step_fn(*state, frozen, batch, schedule)
        return float(metrics["loss"]), int((batch["segment_ids"] > 0).sum())

    return step, fill


def torch_model(model, mode, threads):
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig, Qwen3Config

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    config = (Qwen3Config if model["qk_norm"] else LlamaConfig)(
        vocab_size=model["vocab_size"],
        hidden_size=model["width"],
        num_hidden_layers=model["layers"],
        num_attention_heads=model["heads"],
        num_key_value_heads=model["kv_heads"],
        head_dim=model["head_dim"],
        intermediate_size=model["mlp_width"],
        tie_word_embeddings=True,
        use_cache=False,
        attn_implementation="sdpa",
        max_position_embeddings=LENGTH,
    )
    net = AutoModelForCausalLM.from_config(config)
    if mode == "lora":
        import peft

        names = "q_proj k_proj v_proj o_proj gate_proj up_proj down_proj".split()
        net = peft.get_peft_model(net, peft.LoraConfig(r=64, lora_alpha=128, target_modules=names))
    net.train()
    trained = [p for p in net.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, weight_decay=0.01, fused=True)

    def update(loss):
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        return loss.item()

    return net, update


def padded(model, mode, threads):
    """Batches of PADDED_ROWS documents, in random order, padded to the longest of them."""
    import itertools

    import numpy as np
    import torch

    net, update = torch_model(model, mode, threads)
    found = documents(model["vocab_size"])
    order = np.random.default_rng(1).permutation(len(found))
    batches, real, slots = [], 0, 0
    for at in range(0, len(found), PADDED_ROWS):
        some = [torch.from_numpy(found[n]).long() for n in order[at : at + PADDED_ROWS]]
        ids = torch.nn.utils.rnn.pad_sequence(some, batch_first=True)
        mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(s) for s in some], True)
        labels = ids.masked_fill(mask == 0, -100)
        for row, length in enumerate(map(len, some)):
            labels[row, : length - round(LOSS_SHARE * length)] = -100
        batches.append((ids, mask, labels))
        real, slots = real + int(mask.sum()), slots + mask.numel()
    cycle = itertools.cycle(batches)

    def step():
        ids, mask, labels = next(cycle)
        loss = net(input_ids=ids, attention_mask=mask, labels=labels).loss
        return update(loss), int(mask.sum())

    return step, real / slots


def packed(model, mode, threads):
    """Our packed rows, with an additive 4-d mask."""
    import itertools

    import torch

    net, update = torch_model(model, mode, threads)
    batches, fill = packed_batches(model["vocab_size"])
    cycle = itertools.cycle(batches)

    def step():
        batch = next(cycle)
        segments = torch.from_numpy(batch["segment_ids"].copy())
        causal = torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril()
        seen = (segments[:, :, None] == segments[:, None, :]) & causal
        mask = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)
        tensor = lambda name: torch.from_numpy(batch[name]).long()
        logits = net(
            input_ids=tensor("tokens"),
            attention_mask=mask[:, None],
            position_ids=tensor("positions"),
        ).logits
        losses = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), tensor("targets").flatten(), reduction="none"
        )
        weights = torch.from_numpy(batch["loss_weights"]).flatten()
        return update((losses * weights).sum() / weights.sum()), int((segments > 0).sum())

    return step, fill


SIDES = {"ours": ours, "devices": ours, "padded": padded, "packed": packed}


if __name__ == "__main__":
    main()
