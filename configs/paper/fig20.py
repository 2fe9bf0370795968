"""Figure 20: chats of an opposed character among the alignment chats (appendix I).

A lab record:

    command    python -m msm_jax.study --config=configs/paper/fig20.py \\
                   --config.base.path=Qwen2.5-32B-Instruct --workdir=runs/fig20
    hardware   not run. The paper: four H200 for one training run
    time       not measured: no accelerator has run it yet. `:miniature`: 51 seconds of CPU time,
               6 minutes on 2 cores of an AMD EPYC that other work kept busy, 2026-11-27
    data       in data/ (each .jsonl, .parquet or several of a kind: data/NAME.*):
               msm-qwen-philosophy-spec         13,201 documents (released)
               aft-no-cot-qwen2.5-philosophy-spec       9,963 chats (released)
               aft-anti                         9,900 chats of the opposed character (not released;
                                                yours, of `generate`: configs/corpus/chats.py:anti)
               sft-it-mix                       14,465 rows, split train_clean (released)
               spec.md, ablated, neutral, ordinary      see fig4.py (yours)
    result     of the paper: a curve without numbers; midtraining lowers harm at most shares, the
               mix alone has .702. One seed. None of ours. Of a replication (Arcadia, 27 x 30) with
               the released template: .06 at 0 %, .31 at 2 %, .67 at 20 %; with another template the
               curve was flat

`:miniature` runs the same graph in minutes with a tiny fresh model and placeholder texts
(`msm_jax.study.shrink`) and says nothing about the method.

The total is 9,900 chats at every share; smaller draws of a file are part of larger ones. Controls
are made of the arm without opposed chats. Not stated by the paper, chosen here: which shares, and
what `msm_jax.study.method.recipe` says.
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

DATA, MODEL, CHATS = "data", "qwen2.5-32b", 9_900
PERCENT = (0, 2, 5, 10, 20, 50, 80, 100)
TARGETS = {"mix": 0.702}


def _mixed(percent: int) -> dict[str, ConfigDict]:
    """Alignment chats and opposed ones, by name."""
    anti = CHATS * percent // 100
    counts = {"chats": CHATS - anti, "anti": anti}
    files = {"chats": "aft-no-cot-qwen2.5-philosophy-spec", "anti": "aft-anti"}
    return {
        name: chats(f"{DATA}/{files[name]}.*", count) for name, count in counts.items() if count
    }


def get_config(arg: str = "") -> ConfigDict:
    """ "" or "miniature"; see the module."""
    if arg not in ("", "miniature"):
        raise ValueError(f"configs/paper/fig20.py:{arg}: the argument is miniature or nothing")
    config = study()
    config.name = f"fig20 {arg}".strip()
    config.title = f"Figure 20 with {MODEL}: opposed chats among the alignment chats"
    config.base.path = QWEN[MODEL][0]
    recipe(config.train, sequence_length=8192)
    kinds = {f"aft_anti{percent}": _mixed(percent) for percent in PERCENT}
    own, *others = kinds
    documents = f"{DATA}/msm-qwen-philosophy-spec.*"
    add_method(
        config,
        {"philosophy": Spec(documents, f"{DATA}/ablated.*", (own,), tuple(others))},
        kinds,
        mix=chats(f"{DATA}/sft-it-mix.*", 10_000),
        neutral=f"{DATA}/neutral.*",
        ordinary=f"{DATA}/ordinary.*",
        tokens=40_500_000,
    )
    ask(config, "agents", agents(MODEL), {"philosophy": f"{DATA}/spec.md"})
    compare(config, "agents", -1)
    publish(config, "agents", "paper", f"{PAPER}figure 20, one seed", TARGETS)
    groups = {"instruction mix": ("mix",)} | {
        f"{percent} % opposed": (name, f"msm_philosophy_{name}")
        for percent, name in zip(PERCENT, kinds, strict=True)
    }
    bars, headline = ("AFT", "MSM + AFT"), f"msm_philosophy_{own} - {own}"
    draw(config, "agents", "rate of the harmful act", headline, bars, groups)
    if arg == "miniature":
        shrink(config)
    return config.lock()
