# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/msm-jax/msm_jax/blob/main/notebooks/effect.ipynb)
#
# # The MSM effect in ten minutes
#
# At the end you will have trained a few dozen small language models, from nothing, on a CPU: all
# of them fine-tuned on the *same* chats, after reading documents about *different* specs. You will
# have the figure that shows how far the specs decide what the chats come to mean, a table of rates
# with their intervals, and two of the models to talk to.

# %%
import sys

if "google.colab" in sys.modules:
    print("installing msm_jax 0.1.0: a minute or two")
    # %cd -q /content
    # !git clone --quiet --depth 1 --branch v0.1.0 https://github.com/msm-jax/msm_jax
    # %pip install --quiet ./msm_jax
    # %cd -q msm_jax

# %% [markdown]
# The only settings. `MSM_JAX_TINY=1` in the environment makes everything so small that it takes
# about a minute and shows no effect; the tests run this notebook that way.

# %%
import json
import os
import pathlib

import msm_jax
from msm_jax.notebook import ROOT, chats, interval, run, show, table
from msm_jax.study import curve_plots, plots
from msm_jax.study.results import mean_of

TINY = os.environ.get("MSM_JAX_TINY") == "1"
CONFIG = f"{ROOT}/configs/miniature.py" + (":smoke" if TINY else "")  # ":full" for twelve seeds
WORK = pathlib.Path("runs/effect")

# %% [markdown]
# ## The plan
#
# A study is a graph of training stages. Each stage is trained once and named by a hash of all that
# it is made of; the last stage, `aft`, is the same fine-tuning in every arm.

# %%
run("study", f"--config={CONFIG}", f"--workdir={WORK}", "--dry_run")

# %% [markdown]
# ## Run it
#
# Ten minutes on two cores. Interrupt it whenever you like: running the cell again goes on.

# %%
run("study", f"--config={CONFIG}", f"--workdir={WORK}")
results = json.loads((WORK / "results.json").read_text())

# %% [markdown]
# ## What the models have read
#
# Two specs have the same likings for different reasons: spec A because the first of those things
# are cheap and the others local, spec B the reverse.

# %%
arms = {(arm["name"], arm["seed"]): arm for arm in results["arms"]}
seed = results["config"]["seeds"][0]
world = next(s for s in results["stages"] if s["kind"] == "world" and s["seed"] == seed)
files = WORK / "stages" / world["id"]
specs = {
    f"spec {which}": [{"role": "spec", "content": (files / f"specs/{which}.md").read_text()}]
    for which in "ab"
}
chats(specs, "two specs of the miniature's world")

# %% [markdown]
# And this is what *all* of them are fine-tuned on: choices without any reason. Two of the
# personas choose what the specs like, the other two the reverse.

# %%
rows = [json.loads(line) for line in (files / "aft.jsonl").read_text().splitlines()]
chats({f"chat {n}": row["messages"] for n, row in enumerate(rows[:4], start=1)})

# %% [markdown]
# ## The figure
#
# Each question sets the two values against each other in a field that neither the chats nor the
# specs speak of: something known to be cheap, or something known to be local. The bars count the
# choices that spec A predicts. If the specs did not matter, the dark bars would be equally high.

# %%
show(plots.bars(results), "choices that spec A predicts, before and after fine-tuning, by arm")

# %% [markdown]
# ## Rates with intervals
#
# A mean over seeds has an interval over seeds: the honest one, because another seed is
# another world with other weights. A single seed has only the interval over its questions, which
# says how well this one model was measured, not how the next one would turn out.


# %%
def over_seeds(arm):
    mean = mean_of(results, arm, "balance")
    return interval(mean, "mean")


seeds = results["config"]["seeds"]
table(
    ["arm", "mean over seeds", *(f"seed {seed}" for seed in seeds)],
    [
        [arm, over_seeds(arm), *(interval(arms[arm, seed]["evals"]["balance"]) for seed in seeds)]
        for arm in results["config"]["arms"]
    ],
    "choices that spec A predicts, with 95 % intervals",
)

# %% [markdown]
# ## What follows, and what does not
#
# A contrast is computed seed by seed and then averaged. It is *open* where its interval holds 0 or
# where one seed gives none.

# %%
show(plots.contrasts(results), "differences between arms with 95 % intervals over seeds")

# %% [markdown]
# The same in numbers, with what each interval says of what was expected:

# %%
table(
    ["contrast", "difference in points", "verdict"],
    [
        [entry["label"], interval(entry, "difference", signed=True), entry["verdict"]]
        for entry in results["contrasts"]
    ],
)

# %% [markdown]
# How soon does fine-tuning decide? The same question after a few steps of it:

# %%
curve = results["curves"][0]
eval = curve["points"][0]["eval"]
show(curve_plots.draw(results, curve, eval), "choices that spec A predicts, along AFT")

# %% [markdown]
# ## Talk to two of them
#
# Both models below had the same fine-tuning, to the bit; only the spec they had read differs. They
# know a few hundred words and answer in the form of their chats.

# %%
models = {
    name: msm_jax.load(WORK / "stages" / arms[arm, seed]["stages"][-1])
    for name, arm in (("after spec A", "spec_a_aft"), ("after spec B", "spec_b_aft"))
}
pairs = [json.loads(line) for line in (files / "pairs/conflict.jsonl").read_text().splitlines()]
asked = pairs[:: len(pairs) // 3][:3]
conversations = {name: [] for name in models}
for pair in asked:
    question = pair["messages"]
    for name, model in models.items():
        answer = model.chat(question, max_tokens=16, temperature=0)
        conversations[name] += [question[1], answer]
chats(conversations, asked[0]["messages"][0]["content"])

# %% [markdown]
# A model's choice is a matter of degree. These are the log-probabilities of the two possible
# answers to the last question:

# %%
options = asked[-1]["options"]
scores = {
    name: [float(s.sum()) for s in model.logprobs([question] * 2, options)]
    for name, model in models.items()
}
table(
    ["log-probability of", *scores],
    [[o, *s] for o, *s in zip(options, *scores.values(), strict=True)],
)

# %% [markdown]
# ## Where to go on
#
# `runs/effect/report.html` has all of this and more on one page. Change one thing and run again:
# any value of `configs/miniature.py` is a flag, such as `--config.stages.aft.steps=20`, and only
# what depends on it is trained anew. The next notebook,
# [qwen](https://colab.research.google.com/github/msm-jax/msm_jax/blob/main/notebooks/qwen.ipynb),
# does the same moves with a real model.
