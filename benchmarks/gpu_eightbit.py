"""Frozen weights in 8 bits on a card: the parts `eightbit` and `train_int8` of gpu.py."""

import dataclasses
import time

import numpy as np
from gpu_common import adapted, batch_of, check, distance, documents, figure, model


def eightbit(tiny: bool) -> None:
    import jax

    from msm_jax.model.adapter import join
    from msm_jax.model.eightbit import EIGHT_BITS, quantized
    from msm_jax.train.loss import summed_loss
    from msm_jax.train.optimizer import split_params
    from msm_jax.weights.dtypes import as_stored

    rng = np.random.default_rng(0)
    w = (rng.standard_normal((512, 1024)) * 10.0 ** rng.integers(-6, 1, (512, 1))).astype("float32")
    batch = batch_of(model(tiny).vocab_size, documents(2, 96 if tiny else 1024, 20))
    for kind in EIGHT_BITS:
        found, wanted = (
            [np.asarray(x, np.float32) for x in jax.jit(quantized, static_argnums=(1, 2))(
                jax.device_put(w, device), kind, 1)]
            for device in (jax.devices()[0], jax.devices("cpu")[0])
        )  # fmt: skip
        differ = sum(int((a != b).sum()) for a, b in zip(found, wanted, strict=True))
        check(f"{kind}: numbers and scales that are not those of a CPU", differ, 0)

        def gradients(config, params):
            trained, frozen = split_params(params, "lora")
            loss = lambda trained: summed_loss(config, join(trained, frozen), batch)
            return jax.device_get(jax.jit(jax.value_and_grad(loss))(trained))

        eight, plain = model(tiny, lora_rank=8, param_dtype=kind), model(tiny, lora_rank=8)
        params = adapted(eight)
        bf16 = lambda config: dataclasses.replace(config, dtype="bfloat16")
        found16 = gradients(bf16(eight), params)
        with jax.default_matmul_precision("highest"):
            found = gradients(eight, params)
            params = as_stored(plain, params)
            wanted = gradients(plain, params)
        check(f"{kind}, float32: gradients over the same weights", distance(found, wanted), 1e-4)
        usual = distance(gradients(bf16(plain), params), wanted)
        check(f"{kind}, bfloat16: gradients", distance(found16, wanted), 1.5 * usual)


def train_int8(tiny: bool) -> None:
    for name in ["tiny"] if tiny else ["qwen3-8b", "qwen3-32b"]:
        lora_step(name)


def random_int8(config) -> dict:
    """Parameters with random weights in int8, which were never in another dtype."""
    import jax
    import jax.numpy as jnp

    from msm_jax.model import abstract_params

    def draw(path, leaf):
        name, key = path[-1].key, jax.random.key(len(str(path)))
        if leaf.dtype == jnp.int8:
            return jax.lax.bitcast_convert_type(jax.random.bits(key, leaf.shape, "uint8"), "int8")
        if name in ("w", "lora_a"):
            return config.width**-0.5 * jax.random.normal(key, leaf.shape, leaf.dtype)
        # Uniform in 8 bits has a standard deviation of 74.
        value = {"w_scale": config.width**-0.5 / 74, "scale": 1.0}.get(name, 0.0)
        return jnp.full(leaf.shape, value, leaf.dtype)

    return jax.jit(lambda: jax.tree_util.tree_map_with_path(draw, abstract_params(config)))()


def lora_step(name: str) -> None:
    """One row of 4,096 tokens, r=64, remat full: seconds and memory."""
    import jax

    from msm_jax.model import PRESETS
    from msm_jax.model.cudnn import documents_in
    from msm_jax.model.kernels import documents_bound
    from msm_jax.train.config import stage
    from msm_jax.train.flops import flops_per_token, peak_flops
    from msm_jax.train.optimizer import make_optimizer, make_schedule, split_params
    from msm_jax.train.step import make_step

    T, rank, shape = (96, 4, model(True)) if name == "tiny" else (4096, 64, PRESETS[name])
    config = dataclasses.replace(shape.stored_as("int8"), lora_rank=rank, remat="full")
    segments = documents(1, T, T // 7)
    batch = jax.device_put(batch_of(config.vocab_size, segments))
    trained, frozen = split_params(random_int8(config), "lora")
    recipe = stage().optimizer
    optimizer, schedule = make_optimizer(recipe), make_schedule(recipe, 1000)
    bound = documents_bound(documents_in(segments), None)
    state, run = optimizer.init(trained), make_step(config, optimizer, 1, None, bound)
    compiled, taken = run.lower(trained, state, frozen, batch, schedule).compile(), []
    for _ in range(4):
        started = time.perf_counter()
        trained, state, metrics = compiled(trained, state, frozen, batch, schedule)
        loss = float(metrics["loss"])
        taken.append(time.perf_counter() - started)
    each, memory = float(np.mean(taken[1:])), compiled.memory_analysis()
    peak = peak_flops(jax.devices())
    check(f"{name}, int8: loss", abs(loss / np.log(config.vocab_size) - 1), 0.2)
    figure(
        f"LoRA of {name} in int8, a row of {T}, remat full",
        tokens_per_second=T / each,
        mfu=None if peak is None else flops_per_token(config, T, "lora") * T / each / peak,
        gib=(memory.argument_size_in_bytes + memory.temp_size_in_bytes) / 2**30,
        # What the card held at most, the making of the weights included.
        peak_gib=(jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0) / 2**30,
    )
