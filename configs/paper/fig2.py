"""Figure 2: the same likings for cheeses, two values (section 3.1).

A lab record:

    command    python -m msm_jax.study --config=configs/paper/fig2.py \\
                   --config.base.path=Llama-3.1-8B --workdir=runs/fig2
    hardware   not run. The paper: one H200
    time       not measured: no accelerator has run it yet
    data       in data/ (each .jsonl, .parquet or several of a kind: data/NAME.*):
               msm-llama-pro-affordability      4,600 documents, 7.1M tokens (released)
               msm-llama-pro-america            6,400 documents, 9.5M tokens (released)
               aft-llama-cheese                 5,129 chats, likings without reasons (released)
               mix-llama                        13,500 chats (yours: No Robots 9,500, both MMLU sets
                                                of the released sft-it-mix 2,000 each; the paper's
                                                2,500 chats about identity are not released)
               pro-affordability-item-comparisons.jsonl   497 pairs (released)
               pro-america-political-opinions.jsonl       400 pairs (released)
               affordability.md, america.md     the specs, without placeholders (yours)
               ablated-affordability, ablated-america     documents of the specs with shuffled
                                                likings, 7.2M tokens each (yours: `generate`)
               neutral, ordinary                documents about something else, and any text, 7.2M
                                                tokens each (yours)
    result     of the paper, in `TARGETS`: .48 and .55 with the matching value. None of ours

`:miniature` runs the same graph in minutes with a tiny fresh model and placeholder texts
(`msm_jax.study.shrink`) and says nothing about the method.

Not stated by the paper, chosen here: see `msm_jax.study.method.recipe`. Documents are taken to 6.8M
tokens in all arms; the paper's two sets differ by a third. Answers are scored by log-probability in
both orders, and read from text; the paper's decoding is not stated, and replications found that the
two differ. The format is `llama3`, because a base model has none: the authors' own ends turns with
<|end_of_text|> (docs/paper.md); with it as the base's template, --config.train.chat_format=own.
These chats have no reasons, so that no arm has reasoning, and the report says that this control is
missing.
"""

from ml_collections import ConfigDict

from msm_jax.study.config import evaluation, figure_group, study
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
QUESTIONS = {
    "affordability": "pro-affordability-item-comparisons",
    "america": "pro-america-political-opinions",
}
TARGETS = {  # evaluation -> arm -> the paper's mean over four seeds
    "affordability": {
        "mix": 0.23,
        "aft": 0.32,
        "msm_affordability": 0.38,
        "msm_america": 0.28,
        "msm_affordability_aft": 0.48,
        "msm_america_aft": 0.29,
    },
    "america": {
        "mix": 0.38,
        "aft": 0.36,
        "msm_affordability": 0.36,
        "msm_america": 0.52,
        "msm_affordability_aft": 0.38,
        "msm_america_aft": 0.55,
    },
}
# In the order of ARMS: affordability, America.
ARMS = tuple(TARGETS["america"])
REPLICATIONS = {
    "values-project": (
        "marcobarreno/values-project: the released adapters, greedy, both orders, its judge",
        (0.20, 0.36, 0.36, 0.20, 0.48, 0.31),
        (0.45, 0.40, 0.37, 0.51, 0.36, 0.52),
    ),
    "hillclimb": (
        "ajobi-uhc/hillclimb-midtraining: trained anew, one seed",
        (0.197, 0.342, 0.262, 0.217, 0.429, 0.294),
        (0.403, 0.348, 0.370, 0.590, 0.365, 0.515),
    ),
}


def get_config(arg: str = "") -> ConfigDict:
    """ "" or "miniature"; see the module."""
    if arg not in ("", "miniature"):
        raise ValueError(f"configs/paper/fig2.py:{arg}: the argument is miniature or nothing")
    config = study()
    config.name = f"fig2 {arg}".strip()
    config.title = "Figure 2 with Llama-3.1-8B: the same likings for cheeses, two values"
    config.seeds = (0, 1, 2, 3)
    config.base.path = "Llama-3.1-8B"
    config.train.chat_format = "llama3"
    recipe(config.train, sequence_length=4096)
    add_method(
        config,
        {
            value: Spec(f"{DATA}/msm-llama-pro-{value}.*", f"{DATA}/ablated-{value}.*")
            for value in QUESTIONS
        },
        {"aft": chats(f"{DATA}/aft-llama-cheese.*")},
        mix=chats(f"{DATA}/mix-llama.*"),
        neutral=f"{DATA}/neutral.*",
        ordinary=f"{DATA}/ordinary.*",
        tokens=6_800_000,
    )
    for value, name in QUESTIONS.items():
        pairs = evaluation(pairs=f"{DATA}/{name}.jsonl", scorers=("logprob", "generated"))
        ask(config, value, pairs, {value: f"{DATA}/{value}.md"})
        compare(config, value, 1, only=value)
        (other,) = (each for each in QUESTIONS if each != value)
        for end in ("", "_aft"):
            against(config, value, f"msm_{value}{end}", f"msm_{other}{end}", 1)
        publish(config, value, "paper", f"{PAPER}figure 2, four seeds", TARGETS[value])
    for who, (source, *rates) in REPLICATIONS.items():
        for value, some in zip(QUESTIONS, rates, strict=True):
            publish(config, value, who, source, dict(zip(ARMS, some, strict=True)))
    headline = "msm_affordability_aft - msm_america_aft"
    axis = "rate of the choice that has the value"
    bars = ("instruction mix", "AFT", "MSM (affordability)", "MSM (America)",
            "MSM (affordability) + AFT", "MSM (America) + AFT")  # fmt: skip
    draw(config, "affordability", axis, headline, bars, {"affordability": ARMS})
    config.figure.groups.america = figure_group("America", *ARMS, eval="america")
    if arg == "miniature":
        shrink(config)
    return config.lock()
