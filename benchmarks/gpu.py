"""One GPU, checked before it is timed; everything also runs on a CPU with small shapes.

    python benchmarks/gpu.py --out=gpu.json           # at most 10 minutes on one H100 or H200
    python benchmarks/gpu.py --out=gpu.json --tiny --parts=attention,step,packing,sampler

ceilings         what the card reaches: a large product, a copy
attention        every attention that runs here against float32, forward and backward: random
                 documents, padding (NaN for cuDNN's own), grouped queries
step             gradients of a LoRA step in float32 equal those of the CPU; in bfloat16 they are as
                 near to them as the CPU's, with every remat
packing          log-probabilities of packed documents are those of each document in its own row
sampler          log-probabilities of drawn tokens are those of the full forward pass
train            LoRA r=64 of Qwen3-8B shapes on packed rows of 4,096: tokens/s, MFU, memory
train_peer       the same in transformers + peft
decode           sampling with Qwen3-8B shapes: time per token, share of the bandwidth, compiling
decode_peer      `generate` of transformers with Qwen3-8B shapes

Only if --parts names them:

attention_speed  time and memory of every attention, forward and backward
head             time of the loss and its gradient, by tokens in a chunk
eightbit         weights in 8 bits: rounded as on a CPU; gradients as over the same weights
train_int8       LoRA r=64 of Qwen3-8B and 32B shapes in int8
train_32b        LoRA r=64 of Qwen3-32B shapes
decode_32b       sampling with Qwen3-32B shapes

Every part is a process with a time limit of its own, so that a failure costs one part and the
figures after it. The JSON has for each part its checks {"name", "value", "limit", "ok"}, its
figures {"name": ...}, and an error, if there was one; it is written after every part. The command
exits with 1 if a check or a part failed. It needs no network and no checkpoint: weights are random.
A peer whose packages are missing is reported as skipped. --tiny shows that everything runs; its
figures mean nothing.
"""

import argparse
import importlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

from gpu_common import figure

ROOT = pathlib.Path(__file__).resolve().parents[1]
# Part -> the module with a function of its name, and seconds that it may take; 600 for all.
PARTS = {
    "ceilings": ("gpu_times", 20),
    "attention": ("gpu_checks", 70),
    "step": ("gpu_checks", 70),
    "packing": ("gpu_checks", 30),
    "sampler": ("gpu_checks", 45),
    "train": ("gpu_times", 90),
    "train_peer": ("gpu_peers", 70),
    "decode": ("gpu_decode", 100),
    "decode_peer": ("gpu_peers", 60),
}
EXTRA = {  # run only if they are named
    "attention_speed": ("gpu_times", 40),
    "head": ("gpu_times", 20),
    "eightbit": ("gpu_eightbit", 90),
    "train_int8": ("gpu_eightbit", 90),
    "train_32b": ("gpu_times", 90),
    "decode_32b": ("gpu_decode", 120),
}


def run_part(name: str, tiny: bool) -> None:
    """In the part's own process."""
    run = getattr(importlib.import_module((PARTS | EXTRA)[name][0]), name)
    if not name.endswith("_peer"):  # JAX would take the card's memory from it
        import jax

        device = jax.devices()[0]
        figure("machine", device=device.device_kind, platform=device.platform)
    run(tiny)


def result(name: str, tiny: bool, limit: float) -> dict:
    """What a part reports in a process of its own."""
    command = [sys.executable, __file__, f"--part={name}", *(["--tiny"] if tiny else [])]
    environment = dict(os.environ)
    if name in ("attention", "step", "packing", "sampler", "eightbit"):
        # Triton would be tried for every float32 product of the references: minutes of compiling.
        flags = os.environ.get("XLA_FLAGS", "")
        environment["XLA_FLAGS"] = f"{flags} --xla_gpu_enable_triton_gemm=false"
    started, error = time.perf_counter(), ""
    # Files and not pipes: what the part has started may hold a pipe open.
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as problems:
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=out, stderr=problems, start_new_session=True, env=environment
        )
        try:
            if code := process.wait(limit):
                problems.seek(0)
                error = problems.read()[-3000:] or f"exit code {code}"
        except subprocess.TimeoutExpired:
            error = f"not finished after {limit:.0f} s"
        finally:
            if process.poll() is None:  # with its children, which may hold the card
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        out.seek(0)
        found = parsed(out.read())
    return {**found, "error": error, "seconds": round(time.perf_counter() - started, 1)}


def parsed(lines: str) -> dict:
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
        found["parts"][name] = one = result(name, tiny, (PARTS | EXTRA)[name][1])
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
        run_part(flags.part, flags.tiny)
        return 0
    parts = flags.parts.split(",")
    if unknown := set(parts) - PARTS.keys() - EXTRA.keys():
        known = ", ".join(PARTS | EXTRA)
        parser.error(f"--parts: no {', '.join(sorted(unknown))}; there are {known}")
    return 0 if measure(parts, flags.out, flags.tiny) else 1


if __name__ == "__main__":
    sys.exit(main())
