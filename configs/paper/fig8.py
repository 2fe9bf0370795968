"""Figures 8 and 17: a general spec of one paragraph, or a specific one (section 5.2).

A lab record:

    command    python -m msm_jax.study --config=configs/paper/fig8.py:qwen2.5-32b \\
                   --config.base.path=Qwen2.5-32B-Instruct --workdir=runs/fig8
    hardware   not run. The paper: four H200 for one training run of 32B
    time       not measured: no accelerator has run it yet. `:miniature`: 39 seconds of CPU time,
               2.9 minutes on 2 cores of an AMD EPYC that other work kept busy, 2026-11-27
    data       in data/ (each .jsonl, .parquet or several of a kind: data/NAME.*):
               msm-qwen-philosophy-spec         13,201 documents, 41.4M tokens (released)
               aft-no-cot-qwen2.5-philosophy-spec, aft-cot-qwen2.5-philosophy-spec (released; qwen3
                                                for that model)
               documents-general                41M tokens about the general spec (yours, of
                                                `generate`: configs/corpus/example.py:general)
               aft-general, aft-general-reasoning       chats that follow it (yours)
               sft-it-mix                       14,465 rows, split train_clean (released)
               specific.md, general.md          the specs, without placeholders (yours)
               ablated-specific, neutral, ordinary      41M tokens each (yours): see fig4.py
    result     of the paper, in `TARGETS`; with reasoning .43 general, .26 specific for Qwen2.5-32B.
               None of ours

Arguments: `qwen2.5-32b`, `qwen3-32b`, and `miniature`, which runs the same graph in minutes with a
tiny fresh model and placeholder texts (`msm_jax.study.shrink`) and says nothing about the method.

Both specs' documents are followed by both specs' chats; controls are made of a spec's own chats.
The paper subsamples the specific spec's chats to the number of the general one's, which it does not
state: 8,000 of each here. Its numbers of the specific spec (.26) and of figure 4 (.05) differ and
are not explained. Not stated by the paper, chosen here: see `msm_jax.study.method.recipe`.
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

DATA = "data"
CHATS = 8_000
SPECS = ("general", "specific")
# Figure 17, whose order of bars is inferred; the instruction mix alone is of figure 8.
TARGETS = {
    "qwen2.5-32b": {
        "mix": 0.68,
        "aft_general": 0.72,
        "aft_general_reasoning": 0.70,
        "aft_specific": 0.66,
        "aft_specific_reasoning": 0.54,
        "msm_general": 0.49,
        "msm_specific": 0.53,
        "msm_general_aft_general": 0.41,
        "msm_general_aft_general_reasoning": 0.43,
        "msm_general_aft_specific": 0.31,
        "msm_general_aft_specific_reasoning": 0.30,
        "msm_specific_aft_specific": 0.23,
        "msm_specific_aft_specific_reasoning": 0.26,
        "msm_specific_aft_general": 0.36,
        "msm_specific_aft_general_reasoning": 0.33,
    },
    "qwen3-32b": {
        "mix": 0.54,
        "aft_general": 0.55,
        "aft_general_reasoning": 0.53,
        "aft_specific": 0.44,
        "aft_specific_reasoning": 0.17,
        "msm_general": 0.47,
        "msm_specific": 0.32,
        "msm_general_aft_general": 0.27,
        "msm_general_aft_general_reasoning": 0.25,
        "msm_general_aft_specific": 0.12,
        "msm_general_aft_specific_reasoning": 0.07,
        "msm_specific_aft_specific": 0.12,
        "msm_specific_aft_specific_reasoning": 0.09,
        "msm_specific_aft_general": 0.18,
        "msm_specific_aft_general_reasoning": 0.10,
    },
}


def get_config(arg: str = "qwen2.5-32b") -> ConfigDict:
    """ "qwen2.5-32b", "qwen3-32b" or "miniature"; see the module."""
    if arg not in (*TARGETS, "miniature"):
        raise ValueError(
            f"configs/paper/fig8.py:{arg}: the argument is one of {', '.join(TARGETS)}, miniature"
        )
    model = arg if arg in TARGETS else "qwen2.5-32b"
    base, name, _ = QWEN[model]
    config = study()
    config.name = f"fig8 {arg}"
    config.title = f"Figures 8 and 17 with {model}: a general or a specific spec"
    config.seeds = (0, 1, 2, 3)
    config.base.path = base
    recipe(config.train, sequence_length=8192)
    kinds = {
        "aft_general": chats(f"{DATA}/aft-general.*", CHATS),
        "aft_general_reasoning": chats(f"{DATA}/aft-general-reasoning.*", CHATS),
        "aft_specific": chats(f"{DATA}/aft-no-cot-{name}-philosophy-spec.*", CHATS),
        "aft_specific_reasoning": chats(f"{DATA}/aft-cot-{name}-philosophy-spec.*", CHATS),
    }
    of = {spec: (f"aft_{spec}", f"aft_{spec}_reasoning") for spec in SPECS}
    general, specific = of["general"], of["specific"]
    documents = f"{DATA}/msm-qwen-philosophy-spec.*"
    add_method(
        config,
        {
            "general": Spec(f"{DATA}/documents-general.*", "", general, specific),
            "specific": Spec(documents, f"{DATA}/ablated-specific.*", specific, general),
        },
        kinds,
        mix=chats(f"{DATA}/sft-it-mix.*", 10_000),
        neutral=f"{DATA}/neutral.*",
        ordinary=f"{DATA}/ordinary.*",
        tokens=40_500_000,
    )
    ask(config, "agents", agents(model), {spec: f"{DATA}/{spec}.md" for spec in SPECS})
    compare(config, "agents", -1)
    for end in ("", "_reasoning"):
        plus, minus = (f"msm_{spec}_aft_{spec}{end}" for spec in SPECS[::-1])
        against(config, "agents", plus, minus, -1)
    publish(config, "agents", "paper", f"{PAPER}figures 8 and 17, four seeds", TARGETS[model])
    headline = "msm_specific_aft_specific_reasoning - msm_general_aft_general_reasoning"
    both = lambda name: (name, f"{name}_reasoning")
    groups: dict[str, tuple[str, ...]] = {"mix": ("mix",)}
    groups |= {f"AFT {spec}": both(f"aft_{spec}") for spec in SPECS}
    groups |= {f"MSM {spec}": (f"msm_{spec}",) for spec in SPECS}
    groups |= {
        f"MSM {spec}\nAFT {other}": both(f"msm_{spec}_aft_{other}")
        for spec in SPECS
        for other in SPECS
    }
    bars = ("without reasoning", "with reasoning")
    draw(config, "agents", "rate of the harmful act", headline, bars, groups)
    if arg == "miniature":
        shrink(config)
    return config.lock()
