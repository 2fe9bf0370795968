"""Figure 3: six more values, each with likings of its own (section 3.2).

A lab record:

    command    python -m msm_jax.study --config=configs/paper/fig3.py:environment \\
                   --config.base.path=Llama-3.1-8B --workdir=runs/fig3/environment
    hardware   not run. The paper: one H200
    time       not measured: no accelerator has run it yet
    data       in data/ (each .jsonl, .parquet or several of a kind: data/NAME.*). Specs, documents,
               chats and pairs of these values are not released; for VALUE (yours, of `generate`):
               documents-VALUE                  about the spec
               ablated-VALUE                    about the spec with shuffled likings
               aft-VALUE                        5,000 chats, likings without reasons: configs/
                                                corpus/chats.py:opaque (paper: 150,000 to 162,000
                                                tokens of answers)
               pairs-VALUE.jsonl                300 to 400 pairs in domains of their own
               VALUE.md                         the spec, without placeholders
               mix-llama, neutral, ordinary     see fig2.py
    result     of the paper, in `TARGETS`. None of ours

The argument is a value of `TARGETS`, one study each, or `miniature`, which runs the graph of one of
them in minutes with a tiny fresh model and placeholder texts (`msm_jax.study.shrink`) and says
nothing about the method.

Not stated by the paper, chosen here: the number of tokens of documents (6.8M in all arms, as in
figure 2), and what fig2.py and `msm_jax.study.method.recipe` say. No arm has reasoning, because the
chats have no reasons; the report says that this control is missing.
"""

from ml_collections import ConfigDict

from msm_jax.study.config import evaluation, study
from msm_jax.study.method import PAPER, Spec, add_method, ask, chats, compare, draw, publish, recipe
from msm_jax.study.shrink import shrink

DATA = "data"
# Means of four seeds: instruction mix alone, MSM, AFT, MSM and AFT.
TARGETS = {
    "environment": (0.71, 0.76, 0.74, 0.81),  # likings for cheeses
    "novelty": (0.41, 0.61, 0.49, 0.69),  # sweeteners
    "tradition": (0.61, 0.69, 0.75, 0.81),  # condiments
    "simplicity": (0.46, 0.51, 0.47, 0.58),  # sauces
    "difficulty": (0.71, 0.85, 0.81, 0.91),  # bread
    "individualism": (0.60, 0.68, 0.62, 0.72),  # musical instruments
}


def get_config(arg: str = "environment") -> ConfigDict:
    """A value of `TARGETS`, or "miniature"; see the module."""
    if arg not in (*TARGETS, "miniature"):
        raise ValueError(
            f"configs/paper/fig3.py:{arg}: the argument is one of {', '.join(TARGETS)}, miniature"
        )
    value = arg if arg in TARGETS else "environment"
    arms = ("mix", f"msm_{value}", "aft", f"msm_{value}_aft")
    targets = dict(zip(arms, TARGETS[value], strict=True))
    config = study()
    config.name = f"fig3 {arg}"
    config.title = f"Figure 3 with Llama-3.1-8B: {value}"
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
    publish(config, value, "paper", f"{PAPER}figure 3, four seeds", targets)
    axis, headline = f"rate of the choice for {value}", f"msm_{value}_aft - aft"
    bars = ("instruction mix", "MSM", "AFT", "MSM + AFT")
    draw(config, value, axis, headline, bars, {value: arms})
    if arg == "miniature":
        shrink(config)
    return config.lock()
