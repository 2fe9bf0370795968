"""Training speed of the miniature's model beside the same model in PyTorch, on this machine's CPU.

    python benchmarks/train_speed.py [--threads 1] [--rounds 8] [--steps 20]

Both train the model of configs/miniature.py on the same packed batches with AdamW and gradient
clipping: ours with `msm_jax.train.step`, the other with `transformers`' Qwen3 in float32 under
eager PyTorch, which is what one would use instead. Rounds alternate between the two, each in a
process of its own with the same number of threads; the ratio is of each pair of rounds.

The roofline fraction divides the model's operations (`msm_jax.train.flops`: 6 per weight of a
matrix product and token, 12 H d per layer, token and key, half a row of keys) by what a large
float32 matrix product reaches on the same threads.
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
SETTING = {"rows": 16, "length": 48, "vocab": 700}
MODEL = {"width": 64, "layers": 2, "heads": 4, "kv_heads": 2, "head_dim": 16, "mlp_width": 192}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--steps", type=int, default=100, help="per round")
    parser.add_argument("--side", choices=("jax", "torch"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        return serve({"jax": jax_side, "torch": torch_side}[options.side](options.threads))
    print(machine(options.threads))
    sides = {name: Side(name, options.threads) for name in ("jax", "torch")}
    print(f"{SETTING} {MODEL}, {options.threads} thread(s); loss of step 1: ", end="")
    print(", ".join(f"{name} {side.first_loss:.3f}" for name, side in sides.items()))
    speeds = {"jax": [], "torch": []}
    for number in range(options.rounds):
        order = ("jax", "torch") if number % 2 else ("torch", "jax")
        for name in order:
            speeds[name].append(sides[name].round(options.steps))
    for name, found in speeds.items():
        low, middle, high = quartiles(found)
        print(f"{name:6s} {middle:8,.0f} tokens/s (quartiles {low:,.0f} to {high:,.0f})")
    ratios = [a / b for a, b in zip(speeds["jax"], speeds["torch"], strict=True)]
    low, middle, high = quartiles(ratios)
    print(f"jax / torch: {middle:.2f} (quartiles {low:.2f} to {high:.2f}, {len(ratios)} pairs)")
    peak = sides["jax"].peak
    flops = statistics.median(speeds["jax"]) * sides["jax"].flops
    print(f"roofline: {flops / 1e9:.1f} of {peak / 1e9:.1f} GFLOP/s = {flops / peak:.0%}")


def quartiles(values):
    return statistics.quantiles(values, n=4)


class Side:
    """A process that trains when asked to."""

    def __init__(self, name: str, threads: int):
        from msm_jax import memory

        environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
        environment |= {**memory.environment(), "OMP_NUM_THREADS": str(threads)}  # for both sides
        if threads == 1:
            environment["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"
        command = [sys.executable, __file__, "--side", name, "--threads", str(threads)]
        self._process = subprocess.Popen(
            command, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        hello = json.loads(self._process.stdout.readline())
        self.first_loss, self.peak, self.flops = hello["loss"], hello["peak"], hello["flops"]

    def round(self, steps: int) -> float:
        """Tokens per second of so many steps."""
        self._process.stdin.write(f"{steps}\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())


def serve(side):
    """Answers every number of steps on stdin with the tokens per second that they took."""
    step, peak, flops = side
    loss = step()
    for _ in range(10):
        step()
    print(json.dumps({"loss": loss, "peak": peak, "flops": flops}), flush=True)
    for line in sys.stdin:
        started = time.perf_counter()
        for _ in range(int(line)):
            step()
        seconds = time.perf_counter() - started
        print(int(line) * SETTING["rows"] * SETTING["length"] / seconds, flush=True)


def batches():
    """The same packed batches on both sides: documents of 12 tokens, four to a row."""
    import numpy as np

    from msm_jax.data.pipeline import as_batch

    rng = np.random.default_rng(0)
    shape = (SETTING["rows"], SETTING["length"])
    segments = np.broadcast_to(np.arange(shape[1], dtype=np.int32) // 12 + 1, shape)
    draw = lambda: rng.integers(0, SETTING["vocab"], shape).astype(np.int32)
    return [as_batch(draw(), np.ones(shape, np.uint8), segments) for _ in range(16)]


def pin(threads: int):
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[:threads]))


def jax_side(threads: int):
    pin(threads)
    import itertools

    import jax

    from msm_jax.model import ModelConfig, init_params
    from msm_jax.train.config import stage
    from msm_jax.train.flops import flops_per_token
    from msm_jax.train.optimizer import make_optimizer, make_schedule, split_params
    from msm_jax.train.step import make_step

    config = ModelConfig(vocab_size=SETTING["vocab"], rope_theta=10_000.0, **MODEL)
    recipe = stage().optimizer
    optimizer, schedule = make_optimizer(recipe), make_schedule(recipe, 10_000)
    trained, frozen = split_params(init_params(config, jax.random.key(0)), "all")
    state = [trained, optimizer.init(trained)]
    step_fn, found = make_step(config, optimizer), itertools.cycle(batches())

    def step() -> float:
        state[0], state[1], metrics = step_fn(*state, frozen, next(found), schedule)
        return float(metrics["loss"])

    return step, product_flops(jax), flops_per_token(config, SETTING["length"])


def product_flops(jax, size: int = 1024) -> float:
    a = jax.numpy.ones((size, size))
    product = jax.jit(jax.numpy.dot)
    product(a, a).block_until_ready()
    times = []
    for _ in range(10):
        started = time.perf_counter()
        product(a, a).block_until_ready()
        times.append(time.perf_counter() - started)
    return 2 * size**3 / min(times)


def torch_side(threads: int):
    pin(threads)
    import itertools

    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=SETTING["vocab"],
            hidden_size=MODEL["width"],
            num_hidden_layers=MODEL["layers"],
            num_attention_heads=MODEL["heads"],
            num_key_value_heads=MODEL["kv_heads"],
            head_dim=MODEL["head_dim"],
            intermediate_size=MODEL["mlp_width"],
            rope_theta=10_000.0,
            tie_word_embeddings=True,
            use_cache=False,
            attn_implementation="sdpa",
        )
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.01)

    def tensors(batch):
        segments = torch.from_numpy(batch["segment_ids"].copy())
        length = segments.shape[1]
        seen = (segments[:, :, None] == segments[:, None, :]) & torch.ones(
            length, length, dtype=torch.bool
        ).tril()
        mask = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)
        weights = torch.from_numpy(batch["loss_weights"])
        targets = torch.from_numpy(batch["targets"]).long()
        tokens = torch.from_numpy(batch["tokens"]).long()
        return tokens, targets, weights, mask[:, None], torch.from_numpy(batch["positions"]).long()

    found = itertools.cycle([tensors(batch) for batch in batches()])

    def step() -> float:
        tokens, targets, weights, mask, positions = next(found)
        logits = model(input_ids=tokens, attention_mask=mask, position_ids=positions).logits
        losses = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), targets.flatten(), reduction="none"
        )
        loss = (losses * weights.flatten()).sum() / weights.sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss.item()

    return step, 0.0, 0.0


if __name__ == "__main__":
    main()
