"""What LLVM's optimization levels cost and change on a CPU: compiling, speed, and bits.

    python benchmarks/llvm_level.py [--levels 3 1] [--rounds 2]

Each level is a process of its own, which compiles fresh weights and a training step of two models
and then trains; "weights" are the first 8 hex digits of the SHA-256 of all trained weights. Levels
alternate between rounds. `msm_jax.compile_cache` sets level 1 for commands on a CPU.
"""

import argparse
import hashlib
import os
import pathlib
import statistics
import subprocess
import sys
import time

from machine import machine

ROOT = pathlib.Path(__file__).resolve().parent.parent
SMALL = {"heads": 4, "kv_heads": 2, "head_dim": 16, "width": 64, "layers": 2, "mlp_width": 192}
LARGE = {"heads": 4, "kv_heads": 2, "head_dim": 64, "width": 256, "layers": 8, "mlp_width": 768}
CASES = {  # model, vocabulary, rows, length, steps
    "miniature": (SMALL, 700, 16, 48, 150),
    "20M": (LARGE, 8192, 4, 256, 12),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--levels", type=int, nargs="+", default=[3, 1])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--only", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only is not None:
        return measure(options.only)
    print(machine(os.cpu_count() or 1))
    print("\n| model | level | compile weights, step: processor s | ms per step | weights |")
    print("|---|---|---|---|---|", flush=True)
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    for level in options.levels * options.rounds:
        flags = {"XLA_FLAGS": f"--xla_backend_optimization_level={level}", "JAX_PLATFORMS": "cpu"}
        command = [sys.executable, __file__, f"--only={level}"]
        subprocess.run(command, env={**os.environ, **flags, "PYTHONPATH": path}, check=True)


def measure(level: int) -> None:
    """Prints a row per model."""
    import jax
    import numpy as np
    import optax

    from msm_jax.model import ModelConfig, init_params
    from msm_jax.train.step import make_step

    def compiled(function: jax.stages.Wrapped, *arguments: object) -> tuple:
        lowered = function.lower(*arguments)
        before = time.process_time()
        return lowered.compile(), time.process_time() - before

    for name, (shape, vocabulary, rows, length, steps) in CASES.items():
        config = ModelConfig(vocab_size=vocabulary, **shape)
        key = jax.random.key(0)
        init, of_init = compiled(jax.jit(init_params, static_argnums=0), config, key)
        optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))
        params = init(key)
        state = optimizer.init(params)
        tokens = np.random.default_rng(0).integers(1, vocabulary, (rows, length), np.int32)
        quarter = np.arange(length, dtype=np.int32)[None].repeat(rows, 0) // (length // 4)
        batch = {
            "tokens": tokens,
            "targets": np.roll(tokens, -1, 1),
            "loss_weights": np.ones((rows, length), np.float32),
            "segment_ids": 1 + quarter,
            "positions": np.arange(length, dtype=np.int32) - quarter * (length // 4),
        }
        step, of_step = compiled(make_step(config, optimizer), params, state, {}, batch)
        seconds = []
        for _ in range(steps):
            begun = time.perf_counter()
            params, state, _ = jax.block_until_ready(step(params, state, {}, batch))
            seconds.append(time.perf_counter() - begun)
        bits = b"".join(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(params))
        row = [name, level, f"{of_init:.1f}, {of_step:.1f}"]
        row += [f"{statistics.median(seconds) * 1e3:.2f}", hashlib.sha256(bits).hexdigest()[:8]]
        print(f"| {' | '.join(map(str, row))} |", flush=True)


if __name__ == "__main__":
    main()
