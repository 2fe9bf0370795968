"""Compiles every shipped large config ahead of time and writes docs/compile_table.md.

    python benchmarks/compile_table.py [--keep runs/compile] [--only qwen3-32b,full,v5p-64]
    python benchmarks/compile_table.py --studies   # every program of the paper's figures

Needs libtpu (pip install 'msm_jax[tpu]') but no TPU, a quarter of an hour on two CPU cores (an hour
with --studies) and about 3 GB of memory. Figures that are already in --keep are reused: delete them
to compile again. Each form replaces its own table and leaves the other.
"""

import argparse
import json
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
TARGET = ROOT / "docs" / "compile_table.md"
SLICES = ("v5e-256", "v5p-64", "v6e-64")
ROWS = [f"{m},{mode},{s}" for m in ("qwen3-32b", "qwen2.5-32b") for mode in ("full", "lora")
        for s in SLICES]  # fmt: skip
HEAD = """# Compile proofs

Each row compiles the real training step of `configs/scale/qwen.py:CONFIG` with libtpu for that
topology. Rows with a decode column also compile one step of the sampler (bfloat16, 64 answers or
one per group of chips, prompts of 4,096 tokens). This was done on a machine with two cores and no
TPU that also ran other work, so the seconds are upper limits. A row shows that the step lowers,
that its kernels compile, and that the compiler's memory estimate fits. It shows nothing about
numerical results or speed. The table is written by
`python benchmarks/compile_table.py`. <!-- takes half an hour -->

Sizes are GiB per chip. "Free" is the share of the memory available to a program that remains
after arguments and temporaries. "Bound" is an upper estimate of mfu, not a measurement: the share
of the chip's peak that a step could reach if matrix products (including those that remat computes
twice) and collectives (over one axis of the torus) overlapped perfectly. Mfu counts 6 FLOPs per
trained weight and token, 4 per frozen one, and half of causal attention.

"""
COLUMNS = ("config", "weights + optimizer", "arguments", "temporaries", "free", "compile s",
           "collectives, times (GiB)", "bound", "decode: GiB, compile s")  # fmt: skip

# Of `scripts/`, with the flags of scripts/common.sh for one host of four chips.
STUDIES = ("fig2", "fig3", "fig10", "fig4:qwen3-32b", "fig5:qwen3-32b", "fig8:qwen3-32b",
           "fig12:qwen3-32b", "fig4:qwen2.5-32b", "fig5:qwen2.5-32b", "fig8:qwen2.5-32b",
           "fig12:qwen2.5-32b", "fig19", "fig20", "fig7:qwen3-14b", "fig7:qwen2.5-14b")  # fmt: skip
MACHINE = ("--topology=v5p:2x2x1", "--config.workers=1", "--config.train.accumulation=4")
TITLE = "\n## Programs of the paper's figures\n"
STUDIES_HEAD = """
Every different program of the studies in `configs/paper/`, at full depth, for one TPU v5p host of
four chips, which is the machine that `scripts/` assume (`MACHINE` in `scripts/common.sh`). Studies
with the same base share their programs. "Loss" is the program of the held-out loss, and
"log-probabilities" that of the probabilities of given answers. Sizes are GiB per chip. "Free" is
the share of a chip's memory that remains. The table is written by
`python benchmarks/compile_table.py --studies`. <!-- takes an hour -->

"""
STUDIES_COLUMNS = ("base", "program", "figures", "arguments", "temporaries", "free", "fits",
                   "compile s")  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keep", default="runs/compile", help="directory of the figures")
    parser.add_argument("--only", nargs="*", default=ROWS)
    parser.add_argument("--studies", action="store_true", help="of the paper's figures")
    options = parser.parse_args()
    keep = pathlib.Path(options.keep)
    keep.mkdir(parents=True, exist_ok=True)
    scale, _, studies = TARGET.read_text(encoding="utf-8").partition(TITLE)
    if options.studies:
        rows = study_rows(keep / "studies.json")
        write(scale + TITLE + STUDIES_HEAD + table(STUDIES_COLUMNS, rows))
        return
    for name in options.only:
        file = keep / f"{name}.json"
        if not file.exists():
            print(f"compiling {name}", flush=True)
            command = [sys.executable, "-m", "msm_jax.compile", f"--json={file}"]
            command += [f"--config={ROOT}/configs/scale/qwen.py:{name}"]
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
            if done.returncode and not file.exists():
                print(done.stderr[-1500:], flush=True)
    rows = [line(name, keep / f"{name}.json") for name in ROWS if (keep / f"{name}.json").exists()]
    write(HEAD + table(COLUMNS, rows) + (TITLE + studies if studies else ""))


def write(text: str) -> None:
    TARGET.write_text(text, encoding="utf-8")
    print(f"{TARGET}: written")


def table(columns: tuple[str, ...], rows: list[str]) -> str:
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|", *rows]
    return "\n".join(lines) + "\n"


def study_rows(file: pathlib.Path) -> list[str]:
    for name in STUDIES:
        figure, _, argument = name.partition(":")
        config = f"{ROOT}/configs/paper/{figure}.py" + (f":{argument}" if argument else "")
        command = [sys.executable, "-m", "msm_jax.study.compile", f"--config={config}", *MACHINE]
        command += [f"--json={file}"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        print(name, done.stderr[-1500:] if done.returncode else "", flush=True)
    return [study_line(entry) for entry in json.loads(file.read_text())]


def study_line(entry: dict) -> str:
    base = entry["preset"] + (" with adapter" if entry["lora_rank"] else "")
    figures = ", ".join(dict.fromkeys(study.split()[0][3:] for study in entry["studies"]))
    if "bytes" not in entry:
        return f"| {base} | {entry['kind']} | {figures} | | | | no: {entry['error']} | |"
    used = entry["bytes"]["arguments"] + entry["bytes"]["temporaries"]
    cells = [
        base,
        entry["name"],
        figures,
        *(f"{entry['bytes'][kind] / 2**30:.2f}" for kind in ("arguments", "temporaries")),
        f"{1 - used / entry['limit']:.0%}",
        "no" if entry["error"] else "yes",
        f"{entry['seconds']:.0f}",
    ]
    return "| " + " | ".join(cells) + " |"


def line(name: str, file: pathlib.Path) -> str:
    train, *decode = json.loads(file.read_text())
    gib = lambda n: f"{n / 2**30:.2f}"
    sizes = train["bytes"]
    held = sum(sizes[kind] for kind in ("weights", "frozen weights", "optimizer"))
    total = sizes["arguments"] + sizes["temporaries"]
    collectives = ", ".join(
        f"{kind} {one['count']} ({one['bytes'] / 2**30:.1f})"
        for kind, one in sorted(train["collectives"].items())
    )
    moved = sum(one["bytes"] for one in train["collectives"].values())
    slowest = max(train["done"] / train["peak_flops"], moved / train["link"])
    bound = train["flops"] / train["peak_flops"] / slowest
    cells = [
        name,
        gib(held),
        gib(sizes["arguments"]),
        gib(sizes["temporaries"]),
        f"{1 - total / train['limit']:.0%}",
        f"{train['seconds']:.0f}",
        collectives,
        f"{bound:.0%}",
    ]
    if not decode:
        cells.append("not compiled")
    for one in decode:
        total = one["bytes"]["arguments"] + one["bytes"]["temporaries"]
        cells.append(f"{gib(total)}, {one['seconds']:.0f}")
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
