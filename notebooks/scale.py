# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/msm-jax/msm_jax/blob/main/notebooks/scale.ipynb)
#
# # Plan and compile a 32B study for a pod
#
# At the end you will know whether a stage of Qwen3-32B fits a slice of TPUs before you rent one:
# the bytes that every chip holds, the collectives that run, the time a step takes at least, and
# what the stage may cost; and you will have the launch commands to run it.

# %%
import sys

if "google.colab" in sys.modules:
    print("installing msm_jax 0.1.0: a minute or two")
    # %cd -q /content
    # !git clone --quiet --depth 1 --branch v0.1.0 https://github.com/msm-jax/msm_jax
    # %pip install --quiet "./msm_jax[tpu]"
    # %cd -q msm_jax

# %% [markdown]
# The only settings. `SLICE` is one of `configs/scale/qwen.py`. Compiling for TPUs needs their
# compiler, libtpu, and no TPU. A 32B step takes a compiler from two minutes to half an hour on two
# cores; with `MSM_JAX_TINY=1` a small model is compiled instead.

# %%
import importlib.util
import json
import os
import pathlib
import sys

from IPython.display import display

from msm_jax.notebook import ROOT, run, show, table
from msm_jax.study import plots

TINY = os.environ.get("MSM_JAX_TINY") == "1"
MODEL, MODE, SLICE = "qwen3-32b", "lora", "v5p-64"
TOKENS = 41_000_000  # of the stage: the paper's larger corpora have 10 to 41 million
PRICE = 4.20  # US$ per chip and hour: an example, see cloud.google.com/tpu/pricing
MFU = (0.2, 0.4, 0.6)  # shares of the peak to plan with
WORK = pathlib.Path("runs/scale")

# %% [markdown]
# ## The compiler
#
# JAX looks for TPUs wherever it finds libtpu, so the tests keep it apart, in `.venv/tpu`. In Colab
# the cell at the top has installed it.

# %%
apart = pathlib.Path(sys.prefix) / "tpu"  # where the project's Makefile puts it
LIBTPU = apart.is_dir() or importlib.util.find_spec("libtpu") is not None
FOUND = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(apart)])} if apart.is_dir() else {}
print(
    "libtpu is here" if LIBTPU else "no libtpu: pip install 'msm_jax[tpu]'; fake devices are used"
)

# %% [markdown]
# ## The config
#
# A config is a lab record: command, hardware, time and result stand in its docstring. The small
# one has the same recipe and another shape.

# %%
SMALL = """
from ml_collections import ConfigDict
from msm_jax.train.config import source, stage


def get_config() -> ConfigDict:
    config = stage()
    config.topology = "v5e:2x4"
    config.data.documents = source("documents.jsonl")
    config.sequence_length, config.rows, config.trainable = 256, 8, "lora"
    config.model.update({"vocab_size": 2048, "width": 128, "layers": 4, "heads": 8, "kv_heads": 4})
    config.model.update({"head_dim": 64, "mlp_width": 384, "lora_rank": 8, "remat": "full"})
    config.model.update({"dtype": "bfloat16", "param_dtype": "bfloat16"})
    return config.lock()
"""
WORK.mkdir(parents=True, exist_ok=True)
(WORK / "small.py").write_text(SMALL)
CONFIG = f"{WORK}/small.py" if TINY else f"{ROOT}/configs/scale/qwen.py:{MODEL},{MODE},{SLICE}"

# %% [markdown]
# ## Does it lower at all?
#
# On eight fake CPU devices: it proves that the mesh cuts every weight and every row. Seconds for a
# small model; a 32B step is better compiled for real at once, so this uses a small one always.

# %%
run("compile", f"--config={WORK}/small.py", "--mesh=8", f"--json={WORK}/mesh.json", "--nodecode")

# %% [markdown]
# ## Does it fit the chips?
#
# The real train step, compiled by the TPU's own compiler for a slice that is not here. What it
# says of memory is what a run would need; it says nothing of numbers or speed.

# %%
if LIBTPU:
    figures = WORK / "topology.json"
    run("compile", f"--config={CONFIG}", f"--json={figures}", "--nodecode", environment=FOUND)
else:
    figures = WORK / "mesh.json"
report = json.loads(figures.read_text())[0]

# %% [markdown]
# ## Bytes per device
#
# Weights, frozen weights and optimizer are cut over the slice; temporaries are what the step
# computes on the way, and what `remat`, fewer rows per chip or a tensor axis make smaller.

# %%
GIB = 2**30
held = {
    name: report["bytes"].get(name, 0) / GIB
    for name in ("weights", "frozen weights", "optimizer", "batch", "temporaries")
}
unit, scale = ("GiB", 1) if sum(held.values()) > 0.5 else ("MiB", 1024)
figure, axes = plots.new_figure(8, 2.1)
left = 0.0
for color, (name, size) in zip(plots.COLORS[1:], held.items(), strict=False):
    axes.barh([0], [size * scale], left=left, height=0.5, color=color, label=name)
    left += size * scale
limit = report["limit"] / GIB * scale
if 0 < limit < 20 * left:
    axes.axvline(limit, color="#222", linestyle=(0, (4, 3)), label="what a program may use")
axes.set(yticks=[], xlabel=f"{unit} per device", xlim=(0, None), ylim=(-0.6, 0.6))
axes.set_title(report["devices"], fontsize=10, loc="left")
axes.legend(frameon=False, fontsize=8, ncols=6, loc="upper center", bbox_to_anchor=(0.5, -0.35))
show(figure, "bytes that a device holds, by what they are for")

# %% [markdown]
# The same in numbers. The compiler speaks of arguments, which hold weights, optimizer and batch,
# and of temporaries.

# %%
room = report["limit"]
total = report["bytes"]["arguments"] + report["bytes"]["temporaries"]
table(
    ["", "MiB per device"],
    [
        *((name, round(size / 2**20, 2)) for name, size in report["bytes"].items()),
        ("arguments + temporaries", round(total / 2**20, 2)),
        ("what a program may use", round(room / 2**20) if room else "not known for this device"),
    ],
)

# %% [markdown]
# ## Collectives
#
# What the chips say to each other in one step: gathered weights forwards and backwards, reduced
# gradients. LoRA reduces little, because only the adapter has gradients.

# %%
table(
    ["collective", "times a step", "MiB a step and device"],
    [
        [kind, one["count"], round(one["bytes"] / 2**20, 2)]
        for kind, one in sorted(report["collectives"].items())
    ],
)

# %% [markdown]
# ## A roofline
#
# A step takes at least as long as its slowest part: products at the chip's peak, reading the
# weights once, or moving the collectives' bytes. It is a bound and no measurement; imperfect
# overlap and attention's own efficiency are left out.

# %%
bound = report["bound"]
if bound:
    figure, axes = plots.new_figure(7, 1.9)
    slowest = max(bound.values())
    colors = [plots.COLORS[3] if value == slowest else plots.COLORS[2] for value in bound.values()]
    axes.barh(range(len(bound)), [1000 * value for value in bound.values()], color=colors)
    axes.set_yticks(range(len(bound)))
    axes.set_yticklabels(bound)
    axes.invert_yaxis()
    axes.set_xlabel("milliseconds a step takes at least")
    share = report["flops"] / report["peak_flops"] / slowest
    axes.set_title(f"at most {share:.0%} of the peak", fontsize=10, loc="left")
    display(show(figure, "seconds that a step takes at least, by what takes them"))
else:
    print("the peak of this device is not known")

# %% [markdown]
# ## Time and money
#
# Operations of the whole stage over what the slice can do, at several shares of its peak. What a
# run of yours reaches stands as `mfu` in its log after a minute: put that in.

# %%
import math

from msm_jax import accelerators
from msm_jax.train.aot import stage_model
from msm_jax.train.flops import flops_per_token

sys.path.insert(0, str(ROOT))
from configs.scale import qwen

plan = qwen.get_config(f"{MODEL},{MODE},{SLICE}")
per_token = flops_per_token(stage_model(plan), plan.sequence_length, plan.trainable)
steps = math.ceil(TOKENS / (plan.rows * plan.sequence_length))
topologies = {name: topology for name, (_, topology, _) in qwen.SLICES.items() if topology}
slices = {name: accelerators.find_slice(topology) for name, topology in topologies.items()}


def hours(where, mfu):
    """Of training, all chips of a slice at that share of their peak."""
    return TOKENS * per_token / (where.chips * where.accelerator.flops * mfu) / 3600


mine = slices[SLICE]
table(
    ["mfu", "hours of training", "chip-hours", "US$ (example price)"],
    [
        [f"{mfu:.0%}", round(h, 2), round(h * mine.chips), round(h * mine.chips * PRICE)]
        for mfu in MFU
        for h in [hours(mine, mfu)]
    ],
    f"{MODEL} {MODE}, {TOKENS:,} tokens in {steps:,} steps of {plan.rows} x {plan.sequence_length} "
    f"on {mine.type}: {mine.chips} chips, {mine.hosts} hosts, {TOKENS * per_token:.2g} FLOP",
)

# %% [markdown]
# A larger slice takes more rows at a time and so fewer steps. Fewer than 100 optimizer steps are a
# warning sign: at 31 the effect looked like none in one replication. If the steps are few, take a
# smaller slice or more epochs.

# %%
figure, axes = plots.new_figure(6.4, 3)
for color, (name, where) in zip(plots.COLORS[2:], slices.items(), strict=False):
    rows = qwen.get_config(f"{MODEL},{MODE},{name}").rows
    steps = math.ceil(TOKENS / (rows * plan.sequence_length))
    taken = [hours(where, mfu) for mfu in MFU]
    label = f"{name} ({where.type}): {steps} steps"
    axes.plot([100 * mfu for mfu in MFU], taken, marker="o", color=color, label=label)
axes.set(xlabel="mfu, percent", ylabel="hours of training", ylim=(0, None))
axes.legend(frameon=False, fontsize=8)
show(figure, "hours of training by slice and mfu")

# %% [markdown]
# To the training come creating the slice, installing, loading 65 GB of weights, compiling the
# step, and sampling for the evaluation: plan an hour beside it for the first run.
#
# ## Launch
#
# The scripts of `launch/` read one settings file. `launch/babysit msm_jax.train ...` creates the
# slice, installs on every worker, runs, and does it again after each preemption until the run is
# done; `launch/delete` ends what costs money. Every script has `--dry-run`, which prints what it
# would do and does nothing. Here with a project that does not exist:

# %%
import subprocess

settings = (ROOT / "launch/settings.example.sh").read_text()
settings = settings.replace("ACCELERATOR=v5p-128 ", f"ACCELERATOR={mine.type} ")
(WORK / "settings.sh").write_text(settings)


def launch(script, *words):
    asked = [f"{ROOT}/launch/{script}", "--dry-run", f"--settings={WORK}/settings.sh", *words]
    print(subprocess.run(asked, capture_output=True, text=True, check=True).stdout)


launch("create")

# %% [markdown]
# From a shell in the checkout, with `gcloud` logged in and `launch/settings.sh` filled in:
#
#     launch/babysit --delete msm_jax.train --config=configs/scale/qwen.py:qwen3-32b,lora,v5p-64 \
#         --config.parent=shared/Qwen3-32B --config.data.documents.path=shared/documents.jsonl \
#         --workdir=runs/midtrain --distributed
#     launch/status        # what is there, and what each worker does
#     launch/logs          # the workers' logs
#     launch/delete        # nothing is left that costs money
#
# The second stage is the same command with `--config.parent=runs/midtrain` and the chats as data;
# the notebook *finetune* has both in small.
