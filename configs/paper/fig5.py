"""Figure 5: how many chats alignment fine-tuning needs, with and without midtraining (section 4.2).

A lab record:

    command    python -m msm_jax.study --config=configs/paper/fig5.py:qwen3-32b \\
                   --config.base.path=Qwen3-32B --workdir=runs/fig5
    hardware   not run
    time       not measured: no accelerator has run it yet
    data       in data/ (each .jsonl, .parquet or several of a kind: data/NAME.*): as fig4.py, with
               80,000 chats in place of 9,963, which are not released (yours):
               aft-80k, aft-80k-reasoning       the same chats without and with reasoning
    result     of the paper: a curve without numbers. The method is better at every size; one seed;
               the plain baselines are .666 (Qwen2.5-32B) and .524 (Qwen3-32B). None of ours

Arguments: `qwen3-32b`, `qwen2.5-32b`, and `miniature`, which runs the same graph in minutes with a
tiny fresh model and placeholder texts (`msm_jax.study.shrink`) and says nothing about the method.

A smaller set of chats is part of every larger one, as 1,250 of 2,500 (`take`, with one take_seed).
Controls are made of 10,000 chats; the other sizes are in the arms `aft_N` and
`msm_philosophy_aft_N` only. Not stated by the paper, chosen here: see
`msm_jax.study.method.recipe`; all sizes are mixed with the same 10,000 rows of instruction data, so
that the share of alignment chats grows with their number.
"""

from ml_collections import ConfigDict

from msm_jax.study.config import figure_group, study
from msm_jax.study.method import Spec, add_method, chats, recipe
from msm_jax.study.method_questions import QWEN, agents, ask, compare
from msm_jax.study.shrink import shrink

DATA = "data"
MODELS = ("qwen3-32b", "qwen2.5-32b")
SIZES = (1_250, 2_500, 5_000, 10_000, 20_000, 40_000, 80_000)
CONTROLS = 10_000
FILES = {"": "aft-80k", "_reasoning": "aft-80k-reasoning"}


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
    kinds = {
        f"aft_{size}{end}": chats(f"{DATA}/{file}.*", size)
        for end, file in FILES.items()
        for size in SIZES
    }
    own = tuple(f"aft_{CONTROLS}{end}" for end in FILES)
    also = tuple(name for name in kinds if name not in own)
    documents = f"{DATA}/msm-qwen-philosophy-spec.*"
    add_method(
        config,
        {"philosophy": Spec(documents, f"{DATA}/ablated.*", own, also)},
        kinds,
        mix=chats(f"{DATA}/sft-it-mix.*", 10_000),
        neutral=f"{DATA}/neutral.*",
        ordinary=f"{DATA}/ordinary.*",
        tokens=40_500_000,
    )
    ask(config, "agents", agents(model), {"philosophy": f"{DATA}/spec.md"})
    compare(config, "agents", -1)
    for name in kinds:
        label = name.removeprefix("aft_").replace("_", " ") + ": AFT, MSM + AFT"
        config.figure.groups[name] = figure_group(label, name, f"msm_philosophy_{name}")
    config.figure.update({"eval": "agents", "axis": "rate of the harmful act"})
    config.figure.headline = f"agents: msm_philosophy_{own[0]} - {own[0]}"
    if arg == "miniature":
        shrink(config)
    return config.lock()
