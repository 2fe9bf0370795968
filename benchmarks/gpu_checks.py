"""The checks of gpu.py: a part is a function of `tiny`, which runs small shapes on any machine."""

import dataclasses
import functools

import numpy as np
from gpu_common import adapted, batch_of, check, distance, documents, figure, model

# Of the norm of an array: bfloat16 attention had .002 to .004 on an H200, of the plain one too.
ATTENTION_LIMIT = 0.01


def kinds(platform: str) -> dict:
    """name -> function (q, k, v, ids, documents) of every attention that may run here."""
    from msm_jax.model import cudnn
    from msm_jax.model.attention import attend_by_head
    from msm_jax.model.blockwise import blockwise_attention

    found = {
        "plain": lambda q, k, v, ids, most: attend_by_head(q, k, v, ids),
        "blockwise": lambda q, k, v, ids, most: blockwise_attention(q, k, v, ids),
    }
    if platform != "gpu":
        figure("cudnn", skipped=f"this is {platform}")
        return found
    of_rows = lambda run: lambda q, k, v, ids, most: run(q, k, v, cudnn.find_rows(ids, most))
    found["cudnn mask"] = lambda q, k, v, ids, most: cudnn.masked(q, k, v, ids)
    found["cudnn causal"] = of_rows(cudnn.causal)
    if why := cudnn.no_packed():
        figure("cudnn packed", skipped=why)
    else:
        found["cudnn packed"] = of_rows(cudnn.packed)
    return found


def inputs(B: int, T: int, H: int, K: int, d: int) -> tuple:
    """Random q, k, v and a gradient of the output, bfloat16."""
    import jax
    import jax.numpy as jnp

    keys = jax.random.split(jax.random.key(T), 4)
    draw = lambda key, heads: jax.random.normal(key, (B, T, heads, d), jnp.bfloat16)
    return tuple(draw(key, heads) for key, heads in zip(keys, (H, K, K, H), strict=True))


def both_ways(run, q, k, v, cotangent, ids, most, spoil=False):
    """(out, dq, dk, dv); `spoil` sets padding to NaN on the way in."""
    import jax
    import jax.numpy as jnp

    real = (ids > 0)[..., None, None]
    if spoil:
        q, k, v = (jnp.where(real, x, jnp.nan) for x in (q, k, v))
    out, back = jax.vjp(lambda *qkv: run(*qkv, ids, most), q, k, v)
    return jnp.where(real, out, 0), *back(jnp.where(real, cotangent, 0))


def attention(tiny: bool) -> None:
    import jax
    import jax.numpy as jnp

    from msm_jax.model import cudnn
    from msm_jax.model.attention import attend_by_head
    from msm_jax.model.kernels import platform_of

    B, T, H, K, d = (2, 96, 4, 2, 16) if tiny else (2, 2048, 32, 8, 128)
    found = kinds(platform_of(None))
    several = documents(B, T, T // 7)
    single = np.minimum(documents(B, T, T // 2, seed=1), 1)

    exact = jax.jit(
        functools.partial(both_ways, lambda q, k, v, ids, _: attend_by_head(q, k, v, ids))
    )
    for layout, segments in (("documents", several), ("one document", single)):
        most, ids = cudnn.documents_in(segments), jnp.asarray(segments)
        given = inputs(B, T, H, K, d)
        with jax.default_matmul_precision("highest"):
            wanted = exact(*(x.astype(jnp.float32) for x in given), ids, most)
        for name, run in found.items():
            if name == "cudnn causal" and most > 1:
                continue
            spoil = name in ("cudnn causal", "cudnn packed")
            ours = jax.jit(functools.partial(both_ways, run, most=most, spoil=spoil))
            for which, got, want in zip(
                ("out", "dq", "dk", "dv"), ours(*given, ids), wanted, strict=True
            ):
                check(f"{name}, {layout}: {which}", distance(got, want), ATTENTION_LIMIT)


def step(tiny: bool) -> None:
    import jax

    from msm_jax.model import cudnn, make_mesh
    from msm_jax.model.adapter import join
    from msm_jax.model.config import REMATS
    from msm_jax.model.kernels import documents_bound
    from msm_jax.train.loss import summed_loss
    from msm_jax.train.optimizer import split_params

    config = model(tiny, lora_rank=8)
    segments = documents(2, 96 if tiny else 1024, 20 if tiny else 150)
    most, batch = cudnn.documents_in(segments), batch_of(config.vocab_size, segments)
    params = jax.device_get(adapted(config))

    def gradients(config, device) -> tuple:
        place = lambda tree: jax.device_put(tree, device)
        mesh = make_mesh({"data": 1, "fsdp": 1, "sequence": 1, "tensor": 1}, [device])
        trained, frozen = split_params(place(params), "lora")
        bound = documents_bound(most, mesh)
        loss = lambda trained: summed_loss(config, join(trained, frozen), place(batch), mesh, bound)
        return jax.device_get(jax.jit(jax.value_and_grad(loss))(trained))

    cpu, here = jax.devices("cpu")[0], jax.devices()[0]
    with jax.default_matmul_precision("highest"):
        loss, wanted = gradients(config, cpu)
        found_loss, found = gradients(config, here)
    check("float32: loss", abs(found_loss / loss - 1), 1e-5)
    check("float32: gradients", distance(found, wanted), 1e-4)
    bf16 = model(tiny, lora_rank=8, dtype="bfloat16")
    usual = distance(gradients(bf16, cpu)[1], wanted)
    figure("bfloat16 on the CPU: gradients", distance=usual)
    for remat in ("none", "attention") if tiny else [each for each in REMATS if each != "auto"]:
        found_loss, found = gradients(dataclasses.replace(bf16, remat=remat), here)
        check(f"bfloat16, remat {remat}: loss", abs(found_loss / loss - 1), 5e-3)
        # How far bfloat16 is from float32 depends on the weights: the CPU's distance measures it.
        check(f"bfloat16, remat {remat}: gradients", distance(found, wanted), 1.5 * usual)


def packing(tiny: bool) -> None:
    import jax

    from msm_jax.model import cudnn
    from msm_jax.model.kernels import documents_bound
    from msm_jax.train.loss import token_logprobs

    config = model(tiny)
    segments = documents(2, 96 if tiny else 2048, 20 if tiny else 250)
    batch, params = batch_of(config.vocab_size, segments), adapted(config)
    places = [(row, np.flatnonzero(segments[row] == each))
              for row in range(2) for each in range(1, segments[row].max() + 1)]  # fmt: skip
    single = {
        name: np.zeros((len(places), segments.shape[1]), x.dtype) for name, x in batch.items()
    }
    for at, (row, here) in enumerate(places):
        for name, x in batch.items():
            single[name][at, : len(here)] = x[row, here]

    def documents_of(config) -> tuple[np.ndarray, np.ndarray]:
        bound = documents_bound(cudnn.documents_in(segments), None)
        one = documents_bound(1, None)
        packed = np.asarray(token_logprobs(config, params, batch, None, bound))
        apart = np.asarray(token_logprobs(config, params, single, None, one))
        real = lambda x, batch: x[batch["loss_weights"] > 0]
        together = np.concatenate([packed[row, here][:-1] for row, here in places])
        return together, real(apart, single)

    with jax.default_matmul_precision("highest"):
        packed, apart = documents_of(config)
    check("float32: packed and apart", np.abs(packed - apart).max(), 1e-4)
    packed16, apart16 = documents_of(model(tiny, dtype="bfloat16"))
    check("bfloat16: packed against float32", np.abs(packed16 - packed).mean(), 0.02)
    check("bfloat16: apart against float32", np.abs(apart16 - packed).mean(), 0.02)


def sampler(tiny: bool) -> None:
    import jax
    import jax.numpy as jnp

    from msm_jax.model import forward, logits
    from msm_jax.sample import sample

    config, rng = model(tiny), np.random.default_rng(0)
    params = jax.tree.map(lambda x: 2 * x, adapted(config))  # a model with opinions
    lengths = (3, 40) if tiny else (40, 700)
    prompts = [rng.integers(1, config.vocab_size, length).tolist() for length in lengths]
    T = 96 if tiny else 1024

    @functools.partial(jax.jit, static_argnums=0)
    def scores(config, params, ids_BT):
        at_BT = jnp.broadcast_to(jnp.arange(T), ids_BT.shape)
        hidden_BTD = forward(config, params, ids_BT, jnp.ones_like(ids_BT), at_BT, documents=1)
        return jax.nn.log_softmax(logits(config, params, hidden_BTD))

    for dtype, limit, precision in (("float32", 2e-3, "highest"), ("bfloat16", 0.15, None)):
        config = model(tiny, dtype=dtype)
        with jax.default_matmul_precision(precision):
            worst = 0.0
            found = sample(config, params, prompts, n=2, max_tokens=24 if tiny else 64, rows=4)
            for prompt, answers in zip(prompts, found, strict=True):
                for answer in answers:
                    ids = np.zeros((1, T), np.int32)
                    text = [*prompt, *answer.tokens]
                    ids[0, : len(text)] = text
                    at = len(prompt) - 1 + np.arange(len(answer.tokens))
                    wanted = np.asarray(scores(config, params, ids))[0, at, answer.tokens]
                    # In bfloat16 single tokens may be far: the mean is what is bounded.
                    apart = np.abs(wanted - np.asarray(answer.logprobs))
                    worst = max(worst, float(apart.max() if dtype == "float32" else apart.mean()))
        check(f"{dtype}: sampled against the full forward pass", worst, limit)
