"""The measurements of gpu.py that compute with msm_jax."""

import dataclasses
import functools
import time

import numpy as np
from gpu_checks import both_ways, inputs, kinds
from gpu_common import batch_of, check, documents, figure, model, random_params, seconds


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
    """TFLOP/s count the 2 + 5 products of the pairs that see each other, whatever is computed."""
    import jax
    import jax.numpy as jnp

    from msm_jax.model import cudnn
    from msm_jax.model.kernels import platform_of

    def pairs(segments_BT: np.ndarray) -> float:
        lengths = [np.bincount(row[row > 0]) for row in segments_BT]
        return float(sum((length**2).sum() / 2 for length in lengths))

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
                each = seconds(functools.partial(compiled, *given), 5)
                figure(
                    f"{name}, {length} tokens, {has} documents, room for {most}",
                    ms=1000 * each,
                    tflops=7 * 2 * H * d * pairs(np.asarray(ids)) / each / 1e12,
                    temporary_gib=compiled.memory_analysis().temp_size_in_bytes / 2**30,
                )


def head(tiny: bool) -> None:
    """Loss and gradient of the hidden states, by tokens in a chunk; (*): what training takes."""
    import jax
    import jax.numpy as jnp

    from msm_jax.train.loss import chunk_length, cross_entropy

    B, T, D, V = (2, 96, 32, 97) if tiny else (4, 4096, 4096, 151936)
    keys = jax.random.split(jax.random.key(0), 3)
    hidden_BTD = jax.random.normal(keys[0], (B, T, D), jnp.bfloat16)
    w_VD = jax.random.normal(keys[1], (V, D), jnp.bfloat16) * D**-0.5
    targets_BT, weights_BT = jax.random.randint(keys[2], (B, T), 0, V), jnp.ones((B, T))
    ours = chunk_length(hidden_BTD.shape, V)
    for chunk in (ours or T,) if tiny else (ours, 128, 256, 512):
        loss = functools.partial(cross_entropy, chunk, None)
        run = jax.jit(jax.value_and_grad(loss))
        each = seconds(lambda run=run: run(hidden_BTD, w_VD, targets_BT, weights_BT), 3)
        figure(
            f"head, {B} rows of {T}, chunks of {chunk}{' (*)' if chunk == ours else ''}",
            ms=1000 * each,
            tflops=3 * 2 * B * T * D * V / each / 1e12,
        )


def train(tiny: bool) -> None:
    _train(tiny, "qwen3-8b", [(2, "dots"), (1, "dots"), (2, "none"), (1, "full")])


def train_32b(tiny: bool) -> None:
    _train(tiny, "qwen3-32b", [(2, "full")])


def _train(tiny: bool, preset: str, cases: list[tuple[int, str]]) -> None:
    """LoRA of all seven projections; a case is (parts of a step, remat)."""
    import jax
    import jax.numpy as jnp

    from msm_jax.model import PRESETS, kernels
    from msm_jax.model.cudnn import documents_in
    from msm_jax.model.kernels import documents_bound
    from msm_jax.train.config import stage
    from msm_jax.train.flops import flops_per_token, peak_flops
    from msm_jax.train.optimizer import make_optimizer, make_schedule, split_params
    from msm_jax.train.step import make_step

    B, T, rank = (4, 96, 4) if tiny else (4, 4096, 64)
    base = model(True) if tiny else PRESETS[preset]
    base = dataclasses.replace(base, dtype="bfloat16", param_dtype="bfloat16", lora_rank=rank)
    segments = documents(B, T, 20 if tiny else 600)
    batch = jax.device_put(batch_of(base.vocab_size, segments))
    params = random_params(base)
    bound, peak = documents_bound(documents_in(segments), None), peak_flops(jax.devices())
    recipe = stage().optimizer
    optimizer, schedule = make_optimizer(recipe), make_schedule(recipe, 1000)
    flops = flops_per_token(base, T, "lora") * B * T
    trained, frozen = split_params(params, "lora")
    for parts, remat in cases[:2] if tiny else cases:
        name = f"{preset}, LoRA r={rank}, {B} rows of {T} in {parts} part(s), remat {remat}"
        config = dataclasses.replace(base, remat=remat)
        adapter = jax.tree.map(jnp.copy, trained)  # a step consumes its own
        state, run = optimizer.init(adapter), make_step(config, optimizer, parts, None, bound)
        started = time.perf_counter()
        try:
            compiled = run.lower(adapter, state, frozen, batch, schedule).compile()
            compiling = time.perf_counter() - started
            taken = []
            for _ in range(4):
                started = time.perf_counter()
                adapter, state, metrics = compiled(adapter, state, frozen, batch, schedule)
                loss = float(metrics["loss"])
                taken.append(time.perf_counter() - started)
        except jax.errors.JaxRuntimeError as error:  # the next case may need less memory
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            figure(name, error=str(error)[:300])
            continue
        memory = compiled.memory_analysis()
        check(f"{name}: loss", abs(loss / np.log(base.vocab_size) - 1), 0.2)
        each = float(np.mean(taken[1:]))
        in_use = (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
        figure(
            name,
            attention=kernels.describe_attention(config, T, None, bound),
            tokens_per_second=B * T / each,
            seconds=each,
            seconds_at_peak=None if peak is None else flops / peak,
            mfu=None if peak is None else flops / each / peak,
            estimated_gib=(memory.argument_size_in_bytes + memory.temp_size_in_bytes) / 2**30,
            peak_gib_so_far=None if in_use is None else in_use / 2**30,
            compile_seconds=compiling,
        )
