"""One GPU, checked before it is timed; the checks also run on a CPU.

    python benchmarks/gpu.py --out=gpu.json           # at most 8 minutes on one H100 or H200
    python benchmarks/gpu.py --out=gpu.json --tiny --parts=attention,step,packing,sampler

attention  every attention that runs here against float32, forward and backward: random documents,
           padding (NaN for cuDNN's own), grouped queries; then its time and memory
step       gradients of a LoRA step in float32 equal those of the CPU; in bfloat16 they are as near
           with every remat, and finite
packing    log-probabilities of packed documents are those of each document in a row of its own
sampler    log-probabilities of drawn tokens are those of the full forward pass
train      LoRA r=64 of Qwen3-8B shapes on packed rows of 4,096: tokens/s, MFU, memory

Every part is a process with a time limit of its own, so that a failure costs one part and the
figures after it. The JSON has for each part its checks {"name", "value", "limit", "ok"}, its
figures {"name": ...}, and an error, if there was one; it is written after every part. The command
exits with 1 if a check or a part failed. It needs no network and no checkpoint: weights are random.
"""

import argparse
import dataclasses
import functools
import json
import pathlib
import subprocess
import sys
import time

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[1]
SECONDS = {"attention": 120, "step": 100, "packing": 50, "sampler": 60, "train": 150}
# Of the norm of an array: bfloat16 attention had .002 to .004 on an H200, of the plain one too.
ATTENTION_LIMIT = 0.01


def check(name: str, value: float, limit: float) -> None:
    """One line of the part's output; NaN is above every limit."""
    value = float(value)
    one = {"check": name, "value": value, "limit": limit, "ok": value <= limit}
    print(json.dumps(one), flush=True)


def figure(name: str, **numbers: object) -> None:
    print(json.dumps({"figure": name, **numbers}), flush=True)


def documents(rows: int, length: int, mean: int, seed: int = 0, fill: bool = True) -> np.ndarray:
    """int32 segment ids [rows, length]: documents of random lengths, then a little padding."""
    rng, ids = np.random.default_rng(seed), np.zeros((rows, length), np.int32)
    for row in range(rows):
        at, number, end = 0, 1, length if fill and row % 2 else length - int(rng.integers(1, mean))
        while at < end:
            size = min(int(rng.integers(1, 2 * mean)), end - at)
            ids[row, at : at + size] = number
            at, number = at + size, number + 1
    return ids


def batch_of(vocabulary: int, segment_ids: np.ndarray, seed: int = 0) -> dict:
    from msm_jax.data.pipeline import as_batch

    tokens = np.random.default_rng(seed).integers(1, vocabulary, segment_ids.shape)
    real = segment_ids > 0
    return as_batch((tokens * real).astype(np.int32), real.astype(np.uint8), segment_ids)


def distance(found: object, wanted: object) -> float:
    """Norm of the difference of two trees, over the norm of the second."""
    import jax

    flat = lambda tree: [np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(tree)]
    found, wanted = np.concatenate(flat(found)), np.concatenate(flat(wanted))
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


# ------------------------------------------------------------------ attention


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

    def inputs(B: int, T: int) -> tuple:
        keys = jax.random.split(jax.random.key(T), 4)
        draw = lambda key, heads: jax.random.normal(key, (B, T, heads, d), jnp.bfloat16)
        return tuple(draw(key, heads) for key, heads in zip(keys, (H, K, K, H), strict=True))

    def both_ways(run, q, k, v, cotangent, ids, most, spoil=False):
        real = (ids > 0)[..., None, None]
        if spoil:
            q, k, v = (jnp.where(real, x, jnp.nan) for x in (q, k, v))
        out, back = jax.vjp(lambda *qkv: run(*qkv, ids, most), q, k, v)
        return jnp.where(real, out, 0), *back(jnp.where(real, cotangent, 0))

    exact = jax.jit(
        functools.partial(both_ways, lambda q, k, v, ids, _: attend_by_head(q, k, v, ids))
    )
    for layout, segments in (("documents", several), ("one document", single)):
        most, ids = cudnn.documents_in(segments), jnp.asarray(segments)
        given = inputs(B, T)
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
    if tiny:
        return
    for length in (4096, 8192):
        segments = documents(1, length, 600)
        has = cudnn.documents_in(segments)
        for name, run in found.items():
            ids = jnp.asarray(segments if name != "cudnn causal" else np.ones_like(segments))
            rooms = [has, 64] if name == "cudnn packed" else [has]
            for most in rooms if name != "cudnn causal" else [1]:
                one = functools.partial(both_ways, run, most=most)
                given = (*inputs(1, length), ids)
                compiled = jax.jit(one).lower(*given).compile()
                figure(
                    f"{name}, {length} tokens, {has} documents, room for {most}",
                    ms=1000 * seconds(functools.partial(compiled, *given), 5),
                    temporary_gib=compiled.memory_analysis().temp_size_in_bytes / 2**30,
                )


def seconds(run, times: int) -> float:
    """Mean of so many runs after one; what a run returns is waited for once, at the end."""
    import jax

    jax.block_until_ready(run())
    started = time.perf_counter()
    for _ in range(times):
        last = run()
    jax.block_until_ready(last)
    return (time.perf_counter() - started) / times


# ------------------------------------------------------------------ a model


def model(tiny: bool, **changes: object):
    from msm_jax.model import ModelConfig

    sizes = (97, 32, 1, 4, 2, 16, 48) if tiny else (4096, 512, 6, 8, 2, 128, 1536)
    return ModelConfig(*sizes, **changes)


def adapted(config, seed: int = 0) -> dict:
    """Random weights whose adapter is not zero."""
    import jax

    from msm_jax.model import init_params

    def make(key):
        move = lambda path, x: x + 0.02 if path[-1].key == "lora_b" else x
        return jax.tree_util.tree_map_with_path(move, init_params(config, key))

    return jax.jit(make)(jax.random.key(seed))


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
    for remat in ("none", "attention") if tiny else REMATS:
        bf16 = model(tiny, lora_rank=8, dtype="bfloat16", remat=remat)
        found_loss, found = gradients(bf16, here)
        check(f"bfloat16, remat {remat}: loss", abs(found_loss / loss - 1), 5e-3)
        check(f"bfloat16, remat {remat}: gradients", distance(found, wanted), 5e-2)


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
    lengths = (3, 40) if tiny else (3, 40, 300, 700)
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
            found = sample(config, params, prompts, n=2, max_tokens=24 if tiny else 128, rows=4)
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


# ------------------------------------------------------------------ time


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


PARTS = {each.__name__: each for each in (attention, step, packing, sampler, train)}


# ------------------------------------------------------------------ all parts


def result(name: str, tiny: bool, limit: float) -> dict:
    """What a part says in a process of its own."""
    command = [sys.executable, __file__, f"--part={name}", *(["--tiny"] if tiny else [])]
    started, error = time.perf_counter(), ""
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=limit)
        lines = done.stdout
        if done.returncode:
            error = done.stderr[-3000:] or f"exit code {done.returncode}"
    except subprocess.TimeoutExpired as expired:
        lines, error = expired.stdout or b"", f"not finished after {limit:.0f} s"
        lines = lines.decode() if isinstance(lines, bytes) else lines
    return {**said(lines), "error": error, "seconds": round(time.perf_counter() - started, 1)}


def said(lines: str) -> dict:
    """{"checks", "figures"} of what a part has printed, whose last line may be incomplete."""
    found: dict = {"checks": [], "figures": []}
    for line in lines.splitlines():
        if not line.startswith('{"') or not line.endswith("}"):
            continue
        one = json.loads(line)
        kind = next(iter(one))
        found[f"{kind}s"].append({"name": one.pop(kind), **one})
    return found


def measure(parts: list[str], out: str, tiny: bool) -> bool:
    """Runs the parts, writes their results, and says whether all is well."""
    from msm_jax.files import write_json
    from msm_jax.provenance import code_version, library_versions

    found = {"code": code_version(), "libraries": library_versions(), "tiny": tiny, "parts": {}}
    for name in parts:
        found["parts"][name] = one = result(name, tiny, SECONDS[name])
        write_json(out, found)
        for each in one["checks"]:
            print(f"{'ok  ' if each['ok'] else 'FAIL'} {name}: {each['name']}: {each['value']:.2g}")
        for each in one["figures"]:
            print(f"     {name}: {json.dumps(each)}")
        print(f"     {name}: {one['error'] or 'done'}, {one['seconds']} s", flush=True)
    return all(
        not one["error"] and all(each["ok"] for each in one["checks"])
        for one in found["parts"].values()
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default="gpu.json", help="file for the results")
    parser.add_argument("--parts", default=",".join(PARTS), help="which, separated by commas")
    parser.add_argument("--tiny", action="store_true", help="small shapes, no times")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    flags = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    if flags.part:
        import jax

        device = jax.devices()[0]
        figure("machine", device=device.device_kind, platform=device.platform)
        PARTS[flags.part](flags.tiny)
        return 0
    parts = flags.parts.split(",")
    if unknown := set(parts) - PARTS.keys():
        parser.error(f"--parts: no {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    return 0 if measure(parts, flags.out, flags.tiny) else 1


if __name__ == "__main__":
    sys.exit(main())
