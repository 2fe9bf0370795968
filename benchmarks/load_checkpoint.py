"""Loading a large random checkpoint: peak memory above the arrays, and speed beside `cat`.

    python benchmarks/load_checkpoint.py                      # 4 GB, one device and 8 fake ones
    python benchmarks/load_checkpoint.py --gigabytes=8 --rounds=5

Writes the checkpoint once (bfloat16, Qwen3 shapes, shards of 5 GB) into --folder, then loads it in
fresh processes, `cat` and load in turn, all from a warm page cache. Prints for each kind of mesh:

    peak - arrays    largest resident memory of the loading process, less what it was before the
                     load and less the arrays themselves, in MB; the limit is 1.5 times the largest
                     tensor plus 300 MB
    of cat           seconds of cat / seconds of msm_jax's load, medians over rounds, against
                     `cat *.safetensors > /dev/null`, which throws each block away, and against
                     `cat *.safetensors > /dev/shm/FILE`, which keeps all of them in fresh memory
"""

import argparse
import json
import os
import pathlib
import statistics
import struct
import subprocess
import sys
import time

import numpy as np

LOADER = """
import json, sys, threading, time
folder, sizes = sys.argv[1], json.loads(sys.argv[2])
import jax
from msm_jax.model import make_mesh
from msm_jax.weights.huggingface import load_checkpoint
jax.device_put(1.0).block_until_ready()
mesh = make_mesh(sizes) if sizes else None
def resident():
    fields = open('/proc/self/status').read().split()
    return 1024 * int(fields[fields.index('RssAnon:') + 1])
peak, done, before = 0, False, resident()
def watch():
    global peak
    while not done:
        peak = max(peak, resident())
        time.sleep(0.002)
watcher = threading.Thread(target=watch)
watcher.start()
start = time.perf_counter()
_, params = load_checkpoint(folder, mesh=mesh)
jax.block_until_ready(params)
seconds = time.perf_counter() - start
done = True
watcher.join()
leaves = jax.tree.leaves(params)
arrays = sum(piece.data.nbytes for leaf in leaves for piece in leaf.addressable_shards)
print(json.dumps({"seconds": seconds, "above": max(peak, resident()) - before - arrays,
                  "arrays": arrays}))
"""
MESHES = {"1 device": {}, "fsdp 8": {"data": 1, "fsdp": 8, "tensor": 1},
          "fsdp 2 x tensor 4": {"data": 1, "fsdp": 2, "tensor": 4}}  # fmt: skip


def write_checkpoint(folder: pathlib.Path, gigabytes: float) -> int:
    """A random checkpoint of about this size; returns the bytes of its largest tensor."""
    import dataclasses

    from msm_jax.model import preset
    from msm_jax.weights.hf_config import as_hf_config
    from msm_jax.weights.names import entries
    from msm_jax.weights.writing import pieces

    config = dataclasses.replace(preset("qwen3-4b"), layers=1)
    sizes = [sum(e.size for e in entries(dataclasses.replace(config, layers=n))) for n in (1, 2)]
    layers = round((gigabytes * 1e9 / 2 - sizes[0]) / (sizes[1] - sizes[0])) + 1
    config = dataclasses.replace(config, layers=max(layers, 1))
    wanted = pieces(entries(config))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(as_hf_config(config, "bfloat16", 4096)))
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 2**14, 1 << 24, np.uint16).astype(np.uint16)
    shards, room = [[]], 0
    for piece in wanted:
        if room + piece.bytes("uint16") > 2e9:
            shards.append([])
            room = 0
        shards[-1].append(piece)
        room += piece.bytes("uint16")
    weight_map = {}
    for number, shard in enumerate(shards, 1):
        name, header, at = f"model-{number:05d}-of-{len(shards):05d}.safetensors", {}, 0
        for piece in shard:
            stop = at + piece.bytes("uint16")
            header[piece.name] = {
                "dtype": "BF16", "shape": list(piece.entry.file_shape), "data_offsets": [at, stop]
            }  # fmt: skip
            weight_map[piece.name], at = name, stop
        text = json.dumps(header).encode()
        with open(folder / name, "wb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            while at > 0:
                file.write(noise[: min(at // 2, len(noise))].tobytes())
                at -= 2 * min(at // 2, len(noise))
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return max(piece.bytes("uint16") for piece in wanted)


def cat(folder: pathlib.Path, target: str = "/dev/null") -> float:
    files = sorted(map(str, folder.glob("*.safetensors")))
    with open(target, "wb") as output:
        start = time.perf_counter()
        subprocess.run(["cat", *files], stdout=output, check=True)
        seconds = time.perf_counter() - start
    if target != "/dev/null":
        os.remove(target)
    return seconds


def load(folder: pathlib.Path, sizes: dict) -> dict:
    flags = "--xla_force_host_platform_device_count=8" if sizes else ""
    done = subprocess.run(
        [sys.executable, "-c", LOADER, str(folder), json.dumps(sizes)],
        env={**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--folder", type=pathlib.Path, default=pathlib.Path("runs/load_checkpoint"))
    parser.add_argument("--gigabytes", type=float, default=4.0)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    largest = write_checkpoint(args.folder, args.gigabytes)
    size = sum(file.stat().st_size for file in args.folder.glob("*.safetensors"))
    limit = 1.5 * largest + 300e6
    cat(args.folder)
    print(f"{size / 1e9:.2f} GB, largest tensor {largest / 1e6:.0f} MB, limit {limit / 1e6:.0f} MB")
    kept = f"/dev/shm/msm_jax_{os.getpid()}"
    print("mesh               peak - arrays        load   cat > /dev/null   cat > /dev/shm")
    for name, sizes in MESHES.items():
        load(args.folder, sizes)  # a virtual machine's memory is slow where nobody has used it
        rounds, above = [], 0
        for _ in range(args.rounds):
            found = load(args.folder, sizes)
            above = max(above, found["above"])
            rounds.append((found["seconds"], cat(args.folder), cat(args.folder, kept)))
        ours, thrown, held = (statistics.median(times) for times in zip(*rounds, strict=True))
        print(
            f"{name:18} {above / 1e6:10.0f} MB {size / ours / 1e9:6.2f} GB/s"
            f" {size / thrown / 1e9:6.2f} GB/s {thrown / ours:5.2f}"
            f" {size / held / 1e9:6.2f} GB/s {held / ours:5.2f}"
        )


if __name__ == "__main__":
    main()
