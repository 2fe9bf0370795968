"""Figure 10: is a value learned with its likings, or only beside them? (appendix C.4)

A lab record:

    command    python -m msm_jax.study --config=configs/paper/fig10.py:affordability \\
                   --config.base.path=Llama-3.1-8B --workdir=runs/fig10/affordability
    hardware   not run. The paper: one H200
    time       not measured: no accelerator has run it yet. `:miniature`: 93 seconds of CPU time,
               15.6 minutes on 2 cores of an AMD EPYC that other work kept busy, 2026-11-27
    data       in data/ (each .jsonl, .parquet or several of a kind: data/NAME.*); for VALUE:
               documents-VALUE                  about the spec (released for affordability and
                                                america as msm-llama-pro-VALUE, else yours)
               ablated-VALUE                    about the spec with shuffled likings and no reasons
                                                (yours: `generate --config.make=spec
                                                --config.derive.kind=shuffled`, then documents)
               aft-VALUE                        chats, likings without reasons (released as
                                                aft-llama-cheese for the same two, else yours)
               pairs-VALUE.jsonl                pairs (released for the same two: see fig2.py)
               VALUE.md                         the spec, without placeholders (yours)
               mix-llama, neutral, ordinary     see fig2.py
    result     of the paper, in `TARGETS`: AFT adds +.10 after documents that attribute the likings
               to affordability, -.01 after those that do not. None of ours

The argument is a value of `TARGETS`, one study each, or `miniature`, which runs the graph of one of
them in minutes with a tiny fresh model and placeholder texts (`msm_jax.study.shrink`) and says
nothing about the method.

The headline is a difference of differences: what AFT adds after the documents, minus what it adds
after the ablated ones. Not stated by the paper, chosen here: 6.8M tokens of documents in all arms,
and what fig2.py and `msm_jax.study.method.recipe` say. The paper's bars are standard deviations,
not standard errors. No arm has reasoning; the report says that this control is missing.
"""

from ml_collections import ConfigDict

from msm_jax.study.config import contrast, evaluation, study
from msm_jax.study.method import (
    PAPER,
    Spec,
    add_method,
    against,
    ask,
    chats,
    compare,
    draw,
    publish,
    recipe,
)
from msm_jax.study.shrink import shrink

DATA = "data"
TARGETS = {  # what AFT adds after documents about the spec, and about the ablated spec; four seeds
    "affordability": (0.10, -0.01),
    "america": (0.03, 0.02),
    "simplicity": (0.06, 0.02),
    "novelty": (0.09, 0.02),
    "tradition": (0.12, 0.07),
    "difficulty": (0.07, 0.01),
    "individualism": (0.04, 0.03),
    "environment": (0.05, 0.01),
}


def get_config(arg: str = "affordability") -> ConfigDict:
    """A value of `TARGETS`, or "miniature"; see the module."""
    if arg not in (*TARGETS, "miniature"):
        raise ValueError(
            f"configs/paper/fig10.py:{arg}: the argument is one of {', '.join(TARGETS)}, miniature"
        )
    value = arg if arg in TARGETS else "affordability"
    config = study()
    config.name = f"fig10 {arg}"
    config.title = f"Figure 10 with Llama-3.1-8B: {value}, with and without its likings' reasons"
    config.seeds = (0, 1, 2, 3)
    config.base.path = "Llama-3.1-8B"
    config.train.chat_format = "llama3"
    recipe(config.train, sequence_length=4096)
    add_method(
        config,
        {value: Spec(f"{DATA}/documents-{value}.*", f"{DATA}/ablated-{value}.*")},
        {"aft": chats(f"{DATA}/aft-{value}.*")},
        mix=chats(f"{DATA}/mix-llama.*"),
        neutral=f"{DATA}/neutral.*",
        ordinary=f"{DATA}/ordinary.*",
        tokens=6_800_000,
    )
    pairs = evaluation(pairs=f"{DATA}/pairs-{value}.jsonl", scorers=("logprob", "generated"))
    ask(config, value, pairs, {value: f"{DATA}/{value}.md"})
    compare(config, value, 1)
    with_reasons, without = TARGETS[value]
    msm, ablated = f"msm_{value}", f"ablated_{value}"
    against(config, value, f"{ablated}_aft", ablated)
    config.contrasts[f"{value}: gain"] = contrast(
        "what AFT adds, with reasons - without",
        value,
        (f"{msm}_aft", ablated),
        (f"{ablated}_aft", msm),
        1,
    )
    gains = {
        f"{value}: {msm}_aft - {msm}": with_reasons,
        f"{value}: {ablated}_aft - {ablated}": without,
        f"{value}: gain": with_reasons - without,
    }
    publish(config, value, "paper", f"{PAPER}figure 10, four seeds", {}, gains)
    groups = {
        "no documents": ("mix", "aft"),
        "documents with the likings' reasons": (msm, f"{msm}_aft"),
        "documents with shuffled likings": (ablated, f"{ablated}_aft"),
    }
    bars = ("before AFT", "after AFT")
    draw(config, value, f"rate of the choice for {value}", "gain", bars, groups)
    if arg == "miniature":
        shrink(config)
    return config.lock()
