"""The measurements of gpu.py that sample."""

import dataclasses
import tempfile
import time

import numpy as np
from gpu_common import check, figure, model


def decode(tiny: bool) -> None:
    """32 prompts of 500 tokens with an answer each, and 256 answers to one prompt of 2,800."""
    measure("qwen3-8b", tiny, [(32, 500, 1), (1, 2800, 256)])


def decode_32b(tiny: bool) -> None:
    """256 answers to one prompt of 2,800."""
    measure("qwen3-32b", tiny, [(1, 2800, 256)])


def measure(preset: str, tiny: bool, cases: list[tuple[int, int, int]]) -> None:
    """(number of prompts, their length, answers of each): first call, the same after a restart,
    milliseconds per token, share of the bandwidth, programs compiled, memory."""
    import jax

    from msm_jax import accelerators
    from msm_jax.model import PRESETS, init_params
    from msm_jax.model.decode import unstacked
    from msm_jax.sample import device, sample

    jax.config.update("jax_compilation_cache_dir", tempfile.mkdtemp())
    base = model(True) if tiny else PRESETS[preset]
    config = dataclasses.replace(base, dtype="bfloat16", param_dtype="bfloat16")
    make = jax.jit(init_params, static_argnums=0)
    params = unstacked(make(config, jax.random.key(0)), consume=True)
    weights = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    token = 2 * config.layers * config.kv_heads * config.head_dim * 2
    chip = jax.devices()[0]
    known = accelerators.find(chip.device_kind)
    speed = known.bandwidth if known else 0.0  # 0: not known
    short, long = (4, 20) if tiny else (32, 160)
    for P, length, n in [(min(P, 2), 40, min(n, 4)) for P, _, n in cases] if tiny else cases:
        rng = np.random.default_rng(0)
        prompts = rng.integers(1, config.vocab_size, (P, length)).tolist()

        def run(tokens, prompts=prompts, n=n) -> float:
            started = time.perf_counter()
            found = sample(
                config,
                params,
                prompts,
                n=n,
                max_tokens=long,
                rows=len(prompts) * n,
                temperature=0.7,
                limits=lambda prompt, index: tokens,
            )
            assert all(len(answer.tokens) == tokens for some in found for answer in some)
            return time.perf_counter() - started

        programs, first = device.run_chunk._cache_size(), run(short)
        few, many = min(run(short) for _ in range(2)), run(long)
        check(
            f"{P} x {n} answers: programs that draw, for short and long ones",
            device.run_chunk._cache_size() - programs,
            1,
        )
        jax.clear_caches()
        again = run(short)
        step = (many - few) / (long - short)
        needed = weights + token * (P * length + P * n * (short + long) / 2)
        figure(
            f"{preset}, {P} prompt(s) of {length}, {n} answer(s) each",
            first_seconds=first,
            first_seconds_with_compilation_cache=again - few,
            ms_per_step=1000 * step,
            tokens_per_second=P * n / step,
            with_everything=P * n * long / many,
            of_bandwidth=needed / step / speed if speed else None,
            peak_gib=(chip.memory_stats() or {}).get("peak_bytes_in_use", 0) / 2**30,
        )
