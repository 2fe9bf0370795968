"""What this machine reaches now, printed beside the figures of a benchmark.

from machine import machine
"""

import json
import os
import subprocess
import sys
import time

_MEASURE = """
import json, mmap, time
import jax, numpy as np

def seconds(work):
    started = time.perf_counter()
    work()
    return time.perf_counter() - started

size, width = 2**28, 2048
source, target = np.ones(size, np.uint8), np.ones(size, np.uint8)
copy = min(seconds(lambda: np.copyto(target, source)) for _ in range(3))
with mmap.mmap(-1, size) as fresh:
    touch = seconds(lambda: np.frombuffer(fresh, np.uint8)[:: mmap.PAGESIZE].fill(1))
x = jax.numpy.ones((width, width))
product = jax.jit(lambda x: x @ x)
multiply = min(seconds(lambda: product(x).block_until_ready()) for _ in range(4))
print(json.dumps([size / copy / 1e9, size / touch / 1e9, 2 * width**3 / multiply / 1e9]))
"""


def machine(threads: int | None = None) -> str:
    """Date, load, speed of a warm copy, of first writes to fresh pages, of float32 products.

    Measured in a process of its own, on so many threads; by default all. A copy of n bytes counts
    as n bytes, and is made by one thread.
    """
    load, environment = os.getloadavg()[0], {**os.environ, "JAX_PLATFORMS": "cpu"}
    if threads == 1:
        environment["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"
    command = [sys.executable, "-c", _MEASURE]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    copy, touch, product = json.loads(done.stdout)
    return (
        f"{time.strftime('%F %H:%M')}, load {load:.1f}: copies {copy:.1f} GB/s, "
        f"first touch {touch:.1f} GB/s, float32 products {product:.0f} GFLOP/s"
    )
