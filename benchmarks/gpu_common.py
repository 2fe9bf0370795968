"""What the parts of gpu.py share: how they report, and random documents, batches and models."""

import json
import sys
import time

import numpy as np


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


def seconds(run, times: int) -> float:
    """Mean of so many runs after one; what a run returns is waited for once, at the end."""
    wait = lambda found: None
    if "jax" in sys.modules:
        wait = sys.modules["jax"].block_until_ready
    wait(run())
    started = time.perf_counter()
    for _ in range(times):
        last = run()
    wait(last)
    return (time.perf_counter() - started) / times


def model(tiny: bool, **changes: object):
    from msm_jax.model import ModelConfig

    sizes = (97, 32, 1, 4, 2, 16, 48) if tiny else (4096, 512, 6, 8, 2, 128, 1536)
    return ModelConfig(*sizes, **changes)


def adapted(config, seed: int = 0) -> dict:
    """Random weights whose adapter is not zero, drawn by numpy: nothing to compile."""
    import jax

    from msm_jax.model import abstract_params

    rng, std = np.random.default_rng(seed), config.width**-0.5
    constant = {"scale": 1.0, "b": 0.0, "w_scale": std / 40}

    def draw(path, leaf):
        if (name := path[-1].key) in constant:
            return jax.numpy.full(leaf.shape, constant[name], leaf.dtype)
        x = rng.standard_normal(leaf.shape, np.float32)
        x = np.clip(40 * x, -127, 127) if leaf.dtype.itemsize == 1 else std * x
        return jax.numpy.asarray(x, leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, abstract_params(config))


def random_params(config) -> dict:
    """Random weights of any size, made a layer at a time, with an adapter that adds nothing."""
    import jax
    import jax.numpy as jnp

    from msm_jax.model import abstract_params

    def leaf(path, shape):
        name, stacked = path[-1].key, path[0].key == "layers"
        if name in ("scale", "lora_b", "b"):
            return jnp.full(shape.shape, name == "scale", shape.dtype)
        one = shape.shape[1:] if stacked else shape.shape
        std = one[-1] ** -0.5
        draw = lambda key: (std * jax.random.normal(key, one)).astype(shape.dtype)
        make = jax.jit(lambda key: jax.lax.map(draw, jax.random.split(key, config.layers)))
        return (make if stacked else jax.jit(draw))(jax.random.key(len(path) + shape.size % 97))

    return jax.tree_util.tree_map_with_path(leaf, abstract_params(config))
