"""Figure 19: documents in another register, and about somebody else (appendix H).

A lab record:

    command    python -m msm_jax.study --config=configs/paper/fig19.py \\
                   --config.base.path=Qwen2.5-32B-Instruct --workdir=runs/fig19
    hardware   not run. The paper: four H200 for one training run
    time       not measured: no accelerator has run it yet. `:miniature`: 35 seconds of CPU time,
               2.1 minutes on 2 cores of an AMD EPYC that other work kept busy, 2026-11-27
    data       in data/ (each .jsonl, .parquet or several of a kind: data/NAME.*):
               msm-qwen-philosophy-spec         13,201 documents (released)
               documents-REWRITE                the same, rewritten by a language model, for each of
                                                `REWRITES` (not released; yours, of `generate` with
                                                --config.documents.rewrite=REWRITE)
               aft-no-cot-qwen2.5-philosophy-spec       9,963 chats (released)
               sft-it-mix                       14,465 rows, split train_clean (released)
               spec.md, ablated, neutral, ordinary      see fig4.py (yours)
    result     of the paper, in `TARGETS`. One seed. None of ours

`:miniature` runs the same graph in minutes with a tiny fresh model and placeholder texts
(`msm_jax.study.shrink`) and says nothing about the method.

The paper's numbers of the original documents (.33 and .11) differ from those of figure 4 (.53 and
.22) and are not explained. It has one more rewrite, "assistants should", which `generate` does not
make. Controls of one stage, order and replay are made of the original documents only. Not stated by
the paper, chosen here: 36M tokens of documents in all arms, because rewrites are shorter; see
`msm_jax.study.method.recipe`.
"""

from ml_collections import ConfigDict

from msm_jax.study.config import study
from msm_jax.study.method import (
    PAPER,
    QWEN,
    Spec,
    add_method,
    against,
    agents,
    ask,
    chats,
    compare,
    draw,
    publish,
    recipe,
)
from msm_jax.study.shrink import shrink

DATA, MODEL = "data", "qwen2.5-32b"
REWRITES = {  # documents.rewrite of `generate` -> the paper's rates: MSM, MSM and AFT
    "model_should": (0.49, 0.13),
    "model_does": (0.35, 0.09),
    "assistant": (0.36, 0.14),  # "assistants do"
    "one": (0.51, 0.12),
    "another": (0.47, 0.17),  # Claude
    "human": (0.47, 0.12),
}
TARGETS = {"mix": 0.63, "aft": 0.60, "msm_original": 0.33, "msm_original_aft": 0.11}
for _name, (_msm, _aft) in REWRITES.items():
    TARGETS |= {f"msm_{_name}": _msm, f"msm_{_name}_aft": _aft}


def get_config(arg: str = "") -> ConfigDict:
    """ "" or "miniature"; see the module."""
    if arg not in ("", "miniature"):
        raise ValueError(f"configs/paper/fig19.py:{arg}: the argument is miniature or nothing")
    config = study()
    config.name = f"fig19 {arg}".strip()
    config.title = f"Figure 19 with {MODEL}: documents in another register, about somebody else"
    config.base.path = QWEN[MODEL][0]
    recipe(config.train, sequence_length=8192)
    specs = {"original": Spec(f"{DATA}/msm-qwen-philosophy-spec.*", f"{DATA}/ablated.*")}
    for name in REWRITES:
        specs[name] = Spec(f"{DATA}/documents-{name}.*", controls=False)
    add_method(
        config,
        specs,
        {"aft": chats(f"{DATA}/aft-no-cot-qwen2.5-philosophy-spec.*")},
        mix=chats(f"{DATA}/sft-it-mix.*", 10_000),
        neutral=f"{DATA}/neutral.*",
        ordinary=f"{DATA}/ordinary.*",
        tokens=36_000_000,
    )
    ask(config, "agents", agents(MODEL), {"original": f"{DATA}/spec.md"})
    compare(config, "agents", -1)
    for name in REWRITES:
        against(config, "agents", f"msm_{name}_aft", "msm_original_aft")
    publish(config, "agents", "paper", f"{PAPER}figure 19, one seed", TARGETS)
    groups = {"no documents": ("mix", "aft")} | {
        name.replace("_", " "): (f"msm_{name}", f"msm_{name}_aft") for name in specs
    }
    bars, headline = ("without AFT", "with AFT"), "msm_original_aft - aft"
    draw(config, "agents", "rate of the harmful act", headline, bars, groups)
    if arg == "miniature":
        shrink(config)
    return config.lock()
