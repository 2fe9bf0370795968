"""Figures 7 and 14: rules, rules with values, and rules with more rules (section 5.1).

A lab record:

    command    python -m msm_jax.study --config=configs/paper/fig7.py:qwen2.5-14b \\
                   --config.base.path=Qwen2.5-14B-Instruct --workdir=runs/fig7
    hardware   not run. The paper: two H200 for one training run of 14B
    time       not measured: no accelerator has run it yet
    data       in data/ (each .jsonl, .parquet or several of a kind: data/NAME.*). The authors' data
               for these specs are not released; for SPEC in rules, value_augmented, rules_augmented
               (yours, of `generate`: configs/corpus/example.py:SPEC and configs/corpus/chats.py):
               documents-SPEC                   27M tokens
               aft-SPEC, aft-SPEC-reasoning     chats without and with reasoning
               SPEC.md                          the spec, without placeholders
               sft-it-mix                       14,465 rows, split train_clean (released)
               neutral, ordinary                documents about something else, and any text, 27M
                                                tokens each (yours)
    result     of the paper, in `TARGETS`. None of ours

Arguments: `qwen2.5-14b`, `qwen3-14b`, `qwen2.5-32b`, `qwen3-32b`, and `miniature`, which runs the
same graph with a tiny fresh model and placeholder texts (`msm_jax.study.shrink`) and says nothing
about the method. Replications recommend 14B: Qwen3-32B has rates near 0.

Every spec's documents are followed by every spec's chats; controls are made of a spec's own chats.
The arms of the rules alone count as the ablated spec of the others. Not stated by the paper, chosen
here: see `msm_jax.study.method.recipe`.
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
SPECS = ("rules", "value_augmented", "rules_augmented")
# Figure 14, means of four seeds, without / with reasoning. R: rules, V: value_augmented, A:
# rules_augmented; m: midtraining on the spec's documents.
_CELLS = "mix R V A mR mV mA mR.R mV.V mA.A mR.V mR.A mV.R mV.A mA.R mA.V"
_FIGURE14 = {
    "qwen2.5-32b": ".68 .69/.60 .68/.50 .66/.51 .65 .46 .56 .55/.40 .24/.16 .39/.24 .43/.32 "
    ".37/.18 .36/.25 .19/.11 .50/.34 .41/.30",
    "qwen3-32b": ".52 .43/.26 .44/.20 .37/.14 .31 .22 .27 .17/.15 .11/.09 .11/.06 .12/.09 "
    ".08/.04 .12/.12 .10/.06 .16/.11 .13/.07",
    "qwen2.5-14b": ".51 .37/.45 .34/.34 .28/.27 .46 .40 .40 .35/.35 .21/.22 .26/.26 .32/.31 "
    ".24/.18 .28/.26 .17/.14 .34/.36 .29/.32",
    "qwen3-14b": ".50 .53/.52 .53/.42 .53/.29 .38 .26 .32 .28/.30 .10/.12 .14/.12 .20/.18 "
    ".17/.10 .16/.20 .07/.07 .21/.22 .16/.14",
}


def _targets(cells: str) -> dict[str, float]:
    """Arm -> the paper's rate, of a line of figure 14."""
    names, found = dict(zip("RVA", SPECS, strict=True)), {}
    for cell, rates in zip(_CELLS.split(), cells.split(), strict=True):
        documents, _, follows = cell.partition(".") if cell[0] == "m" else ("", "", cell)
        if cell == "mix":
            found["mix"] = float(rates)
            continue
        prefix = f"msm_{names[documents[1]]}" if documents else ""
        for end, rate in zip(("", "_reasoning"), rates.split("/"), strict=False):
            chat = f"aft_{names[follows]}{end}" if follows else ""
            found["_".join(part for part in (prefix, chat) if part)] = float(rate)
    return found


TARGETS = {model: _targets(cells) for model, cells in _FIGURE14.items()}
REPLICATION = {  # without reasoning
    "qwen2.5-14b": {
        "mix": 0.477,
        "msm_rules_aft_rules": 0.389,
        "msm_value_augmented_aft_value_augmented": 0.278,
        "msm_rules_augmented_aft_rules_augmented": 0.296,
    }
}
SOURCE = "mintaywon/model_spec_midtraining: released adapters, 30 per condition"


def _groups() -> dict[str, tuple[str, ...]]:
    """Figure 14: every cell, without and with reasoning."""
    names = dict(zip(SPECS, ("R", "V+", "R+"), strict=True))
    both = lambda name: (name, f"{name}_reasoning")
    groups: dict[str, tuple[str, ...]] = {"mix": ("mix",)}
    groups |= {f"AFT {short}": both(f"aft_{spec}") for spec, short in names.items()}
    groups |= {f"MSM {short}": (f"msm_{spec}",) for spec, short in names.items()}
    return groups | {
        f"MSM {short}\nAFT {names[other]}": both(f"msm_{spec}_aft_{other}")
        for spec, short in names.items()
        for other in SPECS
    }


def get_config(arg: str = "qwen2.5-14b") -> ConfigDict:
    """A model of `TARGETS` or "miniature"; see the module."""
    if arg not in (*TARGETS, "miniature"):
        raise ValueError(
            f"configs/paper/fig7.py:{arg}: the argument is one of {', '.join(TARGETS)}, miniature"
        )
    model = arg if arg in TARGETS else "qwen2.5-14b"
    config = study()
    config.name = f"fig7 {arg}"
    config.title = f"Figures 7 and 14 with {model}: rules or values"
    config.seeds = (0, 1, 2, 3)
    config.base.path = QWEN[model][0]
    recipe(config.train, sequence_length=8192)
    kinds = {
        f"aft_{spec}{end}": chats(f"{DATA}/aft-{spec}{end.replace('_', '-')}.*")
        for spec in SPECS
        for end in ("", "_reasoning")
    }
    own = {spec: (f"aft_{spec}", f"aft_{spec}_reasoning") for spec in SPECS}
    others = {spec: tuple(name for name in kinds if name not in own[spec]) for spec in SPECS}
    add_method(
        config,
        {spec: Spec(f"{DATA}/documents-{spec}.*", "", own[spec], others[spec]) for spec in SPECS},
        kinds,
        mix=chats(f"{DATA}/sft-it-mix.*", 10_000),
        neutral=f"{DATA}/neutral.*",
        ordinary=f"{DATA}/ordinary.*",
        tokens=26_500_000,
    )
    config.design.ablated = tuple(f"msm_rules_{name}" for name in own["rules"])
    ask(config, "agents", agents(model), {spec: f"{DATA}/{spec}.md" for spec in SPECS})
    compare(config, "agents", -1)
    for spec in SPECS[1:]:
        for end in ("", "_reasoning"):
            plus, minus = f"msm_{spec}_aft_{spec}{end}", f"msm_rules_aft_rules{end}"
            against(config, "agents", plus, minus, -1)
    publish(config, "agents", "paper", f"{PAPER}figure 14, four seeds", TARGETS[model])
    if model in REPLICATION:
        publish(config, "agents", "mintaywon", SOURCE, REPLICATION[model])
    name = "value_augmented"
    headline = f"msm_{name}_aft_{name}_reasoning - msm_rules_aft_rules_reasoning"
    bars = ("without reasoning", "with reasoning")
    draw(config, "agents", "rate of the harmful act", headline, bars, _groups())
    if arg == "miniature":
        shrink(config)
    return config.lock()
