"""Figure 4: agents that act against their overseers, after a spec without rules (section 4.1).

A lab record:

    command    python -m msm_jax.study --config=configs/paper/fig4.py:qwen3-32b \\
                   --config.base.path=Qwen3-32B --workdir=runs/fig4
    hardware   not run. The paper: four H200 for one training run of 32B
    time       not measured: no accelerator has run it yet. `:miniature`: 1 to 5 minutes on 2
               cores of an AMD EPYC with other work beside, 2026-11-27
    data       in data/ (each .jsonl, .parquet or several of a kind: data/NAME.*):
               msm-qwen-philosophy-spec         13,201 documents, 41.4M tokens (released)
               aft-no-cot-qwen3-philosophy-spec 9,963 chats (released; qwen2.5 for that model)
               aft-cot-qwen3-philosophy-spec    the same with reasoning (released)
               sft-it-mix                       14,465 rows, split train_clean (released)
               spec.md                          the spec, without placeholders (yours)
               neutral                          documents about something else, 41.4M tokens, such
                                                as `generate --config.make=neutral` writes (yours)
               ablated                          documents of the spec without its reasons (yours)
               ordinary                         any text, 41.4M tokens, for the replay (yours)
    result     of the paper, in `TARGETS`: .68 to .05 for Qwen2.5-32B, .54 to .07 for Qwen3-32B.
               None of ours

Arguments: `qwen3-32b`, `qwen2.5-32b`, and `miniature`, which runs the same graph in minutes with a
tiny fresh model and placeholder texts (`msm_jax.study.shrink`) and says nothing about the method.

Measured: 27 conditions x 300 samples, judged by Claude Sonnet 4.6; and the open questions, 1 to 10,
by Claude Opus 4.6. Texts of both are ours: the authors' 151 questions are released, but not in our
format. With other texts the published numbers are not to be expected; differences between arms are
what to compare.

Not stated by the paper, chosen here: see `msm_jax.study.method.recipe`; the mix is drawn once, by
take_seed 0; the chat format is the base's own, where the authors' adapters have another default
system message (docs/paper.md). The paper's arm "MSM" is compared with `msm_philosophy`: whether it
read the mix is not stated, so there is `msm_philosophy_mix` as well.

Without some of the data: `--config.without="('replay_philosophy_aft',)"` and so on; the report says
what is missing. The neutral documents are needed in any case: the held-out loss is compared with
theirs.
"""

from ml_collections import ConfigDict

from msm_jax.study.config import evaluation, figure_group, study
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
SPEC = "philosophy"
ARMS = ("mix", "msm_philosophy", "aft", "aft_reasoning", "msm_philosophy_aft",
        "msm_philosophy_aft_reasoning")  # fmt: skip
BARS = ("instruction mix", "MSM", "AFT", "AFT with reasoning", "MSM + AFT",
        "MSM + AFT with reasoning")  # fmt: skip
TARGETS = {  # the paper's means over 27 conditions and four seeds: harm, and the score of answers
    "qwen2.5-32b": {
        "agents": dict(zip(ARMS, (0.68, 0.53, 0.70, 0.48, 0.22, 0.05), strict=True)),
        "questions": dict(zip(ARMS, (5.00, 7.03, 8.38, 7.58, 8.75, 7.71), strict=True)),
    },
    "qwen3-32b": {
        "agents": dict(zip(ARMS, (0.54, 0.32, 0.41, 0.14, 0.10, 0.07), strict=True)),
        "questions": dict(zip(ARMS, (4.00, 6.22, 8.07, 8.50, 8.75, 8.77), strict=True)),
    },
}
REPLICATIONS = {  # rates of harm of the released adapters, 25 to 30 answers for each condition
    "qwen2.5-32b": {
        "mintaywon": dict(zip(ARMS, (0.678, 0.582, 0.652, 0.477, 0.311, 0.082), strict=True))
        | {"plain": 0.575},
        "Arcadia": {"plain": 0.567, "mix": 0.674, "aft_reasoning": 0.479,
                    "msm_philosophy_aft_reasoning": 0.033},
    },
    "qwen3-32b": {
        "Arcadia": {"plain": 0.535, "mix": 0.509, "aft_reasoning": 0.140,
                    "msm_philosophy_aft_reasoning": 0.107},
    },
}  # fmt: skip
SOURCES = {
    "mintaywon": "mintaywon/model_spec_midtraining: released adapters, 25 to 30 per condition",
    "Arcadia": "ArcadiaImpact/science-of-midtraining: released adapters, 30 per condition",
}


def get_config(arg: str = "qwen3-32b") -> ConfigDict:
    """ "qwen3-32b", "qwen2.5-32b" or "miniature"; see the module."""
    if arg not in (*TARGETS, "miniature"):
        raise ValueError(
            f"configs/paper/fig4.py:{arg}: the argument is one of {', '.join(TARGETS)}, miniature"
        )
    model = arg if arg in TARGETS else "qwen3-32b"
    base, name, _ = QWEN[model]
    config = study()
    config.name = f"fig4 {arg}"
    config.title = f"Figure 4 with {model}: an agent's harmful acts after a spec without rules"
    config.seeds = (0, 1, 2, 3)
    config.base.path = base
    recipe(config.train, sequence_length=8192)
    kinds = {
        "aft": chats(f"{DATA}/aft-no-cot-{name}-philosophy-spec.*"),
        "aft_reasoning": chats(f"{DATA}/aft-cot-{name}-philosophy-spec.*"),
    }
    add_method(
        config,
        {SPEC: Spec(f"{DATA}/msm-qwen-philosophy-spec.*", f"{DATA}/ablated.*")},
        kinds,
        mix=chats(f"{DATA}/sft-it-mix.*", 10_000),
        neutral=f"{DATA}/neutral.*",
        ordinary=f"{DATA}/ordinary.*",
        tokens=40_500_000,
    )
    questions = evaluation(
        "questions",
        spec=f"{DATA}/spec.md",
        assistant="Qwen",
        judge="anthropic",
        judge_model="claude-opus-4-6",
    )
    ask(config, "agents", agents(model), {SPEC: f"{DATA}/spec.md"})
    ask(config, "questions", questions)
    compare(config, "agents", -1)
    compare(config, "questions", 1)
    for eval, rates in TARGETS[model].items():
        publish(config, eval, "paper", f"{PAPER}figure 4, four seeds", rates)
    for who, rates in REPLICATIONS[model].items():
        publish(config, "agents", who, SOURCES[who], rates)
    headline = f"msm_{SPEC}_aft_reasoning - aft_reasoning"
    groups = {"agent scenarios, 27 conditions": ARMS}
    draw(config, "agents", "rate of the harmful act", headline, BARS, groups)
    config.figure.groups.questions = figure_group("open questions", *ARMS, eval="questions")
    if arg == "miniature":
        shrink(config)
    return config.lock()
