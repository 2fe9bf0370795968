"""The measurements of gpu.py that compute with msm_jax."""

import dataclasses
import functools
import time

import numpy as np
from gpu_checks import both_ways, inputs, kinds
from gpu_common import batch_of, check, documents, figure, model, seconds


def ceilings(tiny: bool) -> None:
    """TFLOP/s of a bfloat16 product, TB/s of a copy: what the other figures can reach."""
    import jax
    import jax.numpy as jnp

    side, long = (256, 2**16) if tiny else (8192, 2**30)
    a = jnp.ones((side, side), jnp.bfloat16)
    product = jax.jit(lambda a: a @ a)
    each = seconds(lambda: product(a), 10)
    figure(f"product of {side}^3, bfloat16", tflops=2 * side**3 / each / 1e12)
    x = jnp.ones(long, jnp.bfloat16)
    copy = jax.jit(lambda x: x + 1)
    each = seconds(lambda: copy(x), 10)
    figure(f"reading and writing {2 * long / 2**30:.3g} GiB", tb_per_s=4 * long / each / 1e12)


def attention_speed(tiny: bool) -> None:
    import jax
    import jax.numpy as jnp

    from msm_jax.model import cudnn
    from msm_jax.model.kernels import platform_of

    H, K, d = (4, 2, 16) if tiny else (32, 8, 128)
    found = kinds(platform_of(None))
    for length in (96,) if tiny else (4096, 8192):
        segments = documents(1, length, 20 if tiny else 600)
        has = cudnn.documents_in(segments)
        for name, run in found.items():
            ids = jnp.asarray(segments if name != "cudnn causal" else np.ones_like(segments))
            rooms = [has, 64] if name == "cudnn packed" else [has]
            for most in rooms if name != "cudnn causal" else [1]:
                one = functools.partial(both_ways, run, most=most)
                given = (*inputs(1, length, H, K, d), ids)
                compiled = jax.jit(one).lower(*given).compile()
                figure(
                    f"{name}, {length} tokens, {has} documents, room for {most}",
                    ms=1000 * seconds(functools.partial(compiled, *given), 5),
                    temporary_gib=compiled.memory_analysis().temp_size_in_bytes / 2**30,
                )


def train(tiny: bool) -> None:
    import jax
    import jax.numpy as jnp

    from msm_jax.model import PRESETS, init_params, kernels
    from msm_jax.model.cudnn import documents_in
    from msm_jax.model.kernels import documents_bound
    from msm_jax.train.config import stage
    from msm_jax.train.flops import flops_per_token, peak_flops
    from msm_jax.train.optimizer import make_optimizer, split_params
    from msm_jax.train.step import make_step

    B, T, rank = (4, 96, 4) if tiny else (4, 4096, 64)
    base = model(True) if tiny else PRESETS["qwen3-8b"]
    base = dataclasses.replace(base, dtype="bfloat16", param_dtype="bfloat16", lora_rank=rank)
    segments = documents(B, T, 20 if tiny else 600)
    batch = jax.device_put(batch_of(base.vocab_size, segments))
    params = jax.jit(init_params, static_argnums=0)(base, jax.random.key(0))
    bound, peak = documents_bound(documents_in(segments), None), peak_flops(jax.devices())
    optimizer = make_optimizer(stage().optimizer, 1000)
    flops = flops_per_token(base, T, "lora") * B * T
    ways = {"documents known": bound, "documents unknown": None}
    cases = [(1, "full", "documents known"), (2, "dots", "documents known"),
             (1, "attention", "documents known"), (1, "full", "documents unknown")]  # fmt: skip
    for parts, remat, way in cases[:1] if tiny else cases:
        config = dataclasses.replace(base, remat=remat)
        trained, frozen = split_params(params, "lora")
        trained = jax.tree.map(jnp.copy, trained)  # a step consumes its own
        state, run = optimizer.init(trained), make_step(config, optimizer, parts, None, ways[way])
        started = time.perf_counter()
        compiled = run.lower(trained, state, frozen, batch).compile()
        compiling = time.perf_counter() - started
        taken = []
        for _ in range(4):
            started = time.perf_counter()
            trained, state, metrics = compiled(trained, state, frozen, batch)
            loss = float(metrics["loss"])
            taken.append(time.perf_counter() - started)
        memory = compiled.memory_analysis()
        name = f"LoRA, rows of {T}: {B} in {parts} part(s), remat {remat}, {way}"
        check(f"{name}: loss", abs(loss / np.log(base.vocab_size) - 1), 0.2)
        each = float(np.mean(taken[1:]))
        figure(
            name,
            attention=kernels.describe_attention(config, T, None, ways[way]),
            tokens_per_second=B * T / each,
            mfu=None if peak is None else flops / each / peak,
            gib=(memory.argument_size_in_bytes + memory.temp_size_in_bytes) / 2**30,
            compile_seconds=compiling,
        )
