"""Figure 5: how many chats alignment fine-tuning needs, with and without midtraining (section 4.2).

A lab record:

    command    python -m msm_jax.study --config=configs/paper/fig5.py:qwen3-32b \\
                   --config.base.path=Qwen3-32B --workdir=runs/fig5
    hardware   not run
    time       not measured: no accelerator has run it yet. `:miniature`: 38 seconds of CPU time,
               1.9 minutes on 2 cores of an AMD EPYC that other work kept busy, 2026-11-27
    data       in data/ (each .jsonl, .parquet or several of a kind: data/NAME.*): as fig4.py, with
               80,000 chats in place of 9,963, which are not released (yours):
               aft-80k, aft-80k-reasoning       the same chats without and with reasoning
    result     of the paper: a curve without numbers. The method is better at every size; one seed;
               the plain baselines are .666 (Qwen2.5-32B) and .524 (Qwen3-32B). None of ours

Arguments: `qwen3-32b`, `qwen2.5-32b`, and `miniature`, which runs the same graph in minutes with a
tiny fresh model and placeholder texts (`msm_jax.study.shrink`) and says nothing about the method.

The sizes are a sweep of `take` over `SIZES`. A smaller set of chats is part of every larger one, as
1,250 of 2,500 (with one take_seed). The arms `aft` and `msm_philosophy_aft` have 10,000 chats, as
all controls have; only these two, and those with reasoning, are repeated with other sizes, as
`aft take=1250`. The report's curve is the paper's figure. Not stated by the paper, chosen here: see
`msm_jax.study.method.recipe`; all sizes are mixed with the same 10,000 rows of instruction data, so
that the share of alignment chats grows with their number.
"""

from ml_collections import ConfigDict

from msm_jax.study.config import study
from msm_jax.study.method import (
    PAPER,
    QWEN,
    Spec,
    add_method,
    agents,
    ask,
    chats,
    compare,
    draw,
    publish,
    recipe,
)
from msm_jax.study.shrink import shrink

DATA = "data"
TARGETS = {"qwen3-32b": 0.524, "qwen2.5-32b": 0.666}  # the instruction mix alone
MODELS, MSM = tuple(TARGETS), "msm_philosophy"
SIZES = (1_250, 2_500, 5_000, 10_000, 20_000, 40_000, 80_000)
CONTROLS = 10_000
FILES = {"aft": "aft-80k", "aft_reasoning": "aft-80k-reasoning"}
REPLICATION = {
    "qwen2.5-32b": {
        f"{MSM}_aft_reasoning take=1250": 0.068,
        f"{MSM}_aft_reasoning take=2500": 0.108,
        f"{MSM}_aft_reasoning take=5000": 0.118,
        f"{MSM}_aft_reasoning": 0.114,
    }
}
SOURCE = "mintaywon/model_spec_midtraining: from the released MSM; 9,585 chats where we have 10,000"


def get_config(arg: str = "qwen3-32b") -> ConfigDict:
    """ "qwen3-32b", "qwen2.5-32b" or "miniature"; see the module."""
    if arg not in (*MODELS, "miniature"):
        raise ValueError(
            f"configs/paper/fig5.py:{arg}: the argument is one of {', '.join(MODELS)}, miniature"
        )
    model = arg if arg in MODELS else MODELS[0]
    config = study()
    config.name = f"fig5 {arg}"
    config.title = f"Figure 5 with {model}: how many chats alignment fine-tuning needs"
    config.base.path = QWEN[model][0]
    recipe(config.train, sequence_length=8192)
    kinds = {name: chats(f"{DATA}/{file}.*", CONTROLS) for name, file in FILES.items()}
    add_method(
        config,
        {"philosophy": Spec(f"{DATA}/msm-qwen-philosophy-spec.*", f"{DATA}/ablated.*")},
        kinds,
        mix=chats(f"{DATA}/sft-it-mix.*", 10_000),
        neutral=f"{DATA}/neutral.*",
        ordinary=f"{DATA}/ordinary.*",
        tokens=40_500_000,
    )
    sizes = ",".join(map(str, SIZES))
    config.sweep.over = tuple(f"config.stages.{name}.data.chats.take={sizes}" for name in kinds)
    config.sweep.arms = (*kinds, *(f"{MSM}_{name}" for name in kinds))
    ask(config, "agents", agents(model), {"philosophy": f"{DATA}/spec.md"})
    compare(config, "agents", -1)
    groups = {"instruction mix": ("mix",)} | {
        f"{CONTROLS:,} chats{name.removeprefix('aft').replace('_', ', ')}": (name, f"{MSM}_{name}")
        for name in kinds
    }
    bars = ("AFT", "MSM + AFT")
    draw(config, "agents", "rate of the harmful act", f"{MSM}_aft - aft", bars, groups)
    publish(config, "agents", "paper", f"{PAPER}figure 5, one seed", {"mix": TARGETS[model]})
    if model in REPLICATION:
        publish(config, "agents", "mintaywon", SOURCE, REPLICATION[model])
    if arg == "miniature":
        shrink(config)
    return config.lock()
