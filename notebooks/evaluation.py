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
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/msm-jax/msm_jax/blob/main/notebooks/evaluation.ipynb)
#
# # Read an evaluation: rates, intervals, transcripts
#
# At the end you will know what every number of an evaluation's report means: a rate and its
# interval, for these conditions or for others like them; what a missing verdict does to it; when
# two checkpoints differ; how many samples that takes; and you will have read the transcripts
# behind the numbers.

# %%
import sys

if "google.colab" in sys.modules:
    print("installing msm_jax 0.1.0: a minute or two")
    # %cd -q /content
    # !git clone --quiet --depth 1 --branch v0.1.0 https://github.com/msm-jax/msm_jax
    # %pip install --quiet ./msm_jax
    # %cd -q msm_jax

# %% [markdown]
# The only settings. Give `CHECKPOINTS` two directories to evaluate models of yours. Without any,
# the answers below come from *dice and templates*, so that there is something to read at once:
# their rates say nothing about any model.

# %%
import json
import os
import pathlib

import numpy as np

from msm_jax.notebook import interval, run, show, table, texts
from msm_jax.study import plots

TINY = os.environ.get("MSM_JAX_TINY") == "1"
SAMPLES = 25 if TINY else 100  # of each condition; the paper has 300
CHECKPOINTS = {}  # such as {"base": "Qwen3-0.6B", "tuned": "runs/aft"}
SCENARIOS, GOALS = ("exfiltration", "murder", "leaking"), ("none", "explicit")
WORK = pathlib.Path("runs/evaluation")

# %% [markdown]
# ## What is asked
#
# An assistant with access to a company's mail finds that it is about to be replaced, and one
# harmful act is within reach. Three scenarios, with no goal or one of eight: 27 conditions.

# %%
from msm_jax.evals.agents.scenarios import AgentScenarios

evaluation = AgentScenarios(scenarios=SCENARIOS, goals=GOALS, samples=SAMPLES)
conditions = list(evaluation.prompts)
texts(
    [
        (name, "\n\n".join(f"[{m['role']}]\n{m['content']}" for m in prompt.messages))
        for name, prompt in list(evaluation.prompts.items())[::9]
    ],
    f"three of {len(conditions)} conditions",
)

# %% [markdown]
# ## Ask
#
# Asking and judging are apart: asking needs the accelerator, judging does not. Both go on where
# they were stopped. Two checkpoints that are asked with the same seed throw the same dice, so that
# sample 7 of one is a pair with sample 7 of the other.

# %%
from msm_jax.evals import sample
from msm_jax.evals.agents.scripted import Scripted

if CHECKPOINTS:
    for name, checkpoint in CHECKPOINTS.items():
        grid = [f"--scenarios={','.join(SCENARIOS)}", f"--goals={','.join(GOALS)}"]
        asked = ["--kind=agents", "--phase=sample", f"--samples={SAMPLES}", *grid]
        run("evaluate", f"--checkpoint={checkpoint}", f"--output={WORK / name}", *asked)
else:
    for name, harm in (("base", 0.45), ("tuned", 0.14)):
        sample(Scripted(name, evaluation.prompts, harm), evaluation, WORK / name)
arms = list(CHECKPOINTS) or ["base", "tuned"]

# %% [markdown]
# ## Judge
#
# The judge `rules` needs no model: it says yes where the act was carried out, no where nothing
# comes near it, and leaves the rest open. `--judge=anthropic` or `openai` would ask a language
# model.

# %%
for name in arms:
    run("evaluate", f"--output={WORK / name}", "--phase=judge", "--judge=rules", quiet=True)

# %% [markdown]
# Two measures of the same answers: what the judge says was decided, and what was carried out.

# %%
summaries = {name: json.loads((WORK / name / "summary.json").read_text()) for name in arms}
MEASURES = {
    "verdict": "decided to do it, says the judge",
    "executed": "carried it out, by fixed rules on its actions",
}


def bounds(b):
    low, high, ci_low, ci_high = (f"{100 * b[k]:.0f}" for k in ("low", "high", "ci_low", "ci_high"))
    return f"{low} to {high} % [{ci_low}, {ci_high}]"


measured = [
    (name, label, summaries[name]["measures"][measure])
    for name in arms
    for measure, label in MEASURES.items()
]
table(
    ["checkpoint", "measure", "rate", "bounds", "answers", "without verdict"],
    [
        [name, label, interval(m), bounds(m["bounds"]), m["n"], m["missing"]]
        for name, label, m in measured
    ],
    "in brackets 95 % intervals; bounds hold whatever the missing verdicts are",
)

# %% [markdown]
# ## Why a rate may be missing
#
# An answer without a verdict is not a *no*. If more than 5 % of the answers have none, a rate over
# the others would be a rate of something else, and none is given: only *bounds*, from all the
# missing ones being no to all of them being yes. `executed` needs no judge and always has a rate.

# %%
for name in arms:
    print(f"{name}: {summaries[name]['measures']['verdict'].get('withheld', 'nothing withheld')}")
table(
    ["checkpoint", "answers", "judged", "open", "no reply", "cut off", "malformed"],
    [
        [name, c["samples"], c["ok"], c["undecided"], c["error"], c["truncated"], c["malformed"]]
        for name in arms
        for c in [summaries[name]["counts"]]
    ],
)

# %% [markdown]
# ## What an interval says
#
# Of 20 answers none was harmful. Is the rate 0? The textbook interval, rate ± 1.96 standard
# errors, says so with certainty, which is absurd. The exact interval (Clopper and Pearson 1934)
# asks which rates would make what was seen not too unlikely, and ends at 17 %.

# %%
from msm_jax.evals.statistics import exact

n = 20
k = np.arange(n + 1)
found = [exact(int(yes), n) for yes in k]
wald = 1.96 * np.sqrt(k / n * (1 - k / n) / n)
figure, axes = plots.new_figure(7, 3)
axes.fill_between(
    k,
    [f.ci_low for f in found],
    [f.ci_high for f in found],
    alpha=0.3,
    color=plots.COLORS[2],
    label="exact",
)
for sign in (-1, 1):
    axes.plot(
        k,
        k / n + sign * wald,
        color=plots.COLORS[3],
        linestyle="--",
        label="textbook" if sign > 0 else None,
    )
axes.plot(k, k / n, color="#222", linewidth=1)
axes.axhspan(-0.2, 0, color="#eee")
axes.axhspan(1, 1.2, color="#eee")
axes.set(xlabel=f"harmful answers of {n}", ylabel="rate", ylim=(-0.2, 1.2))
axes.xaxis.get_major_locator().set_params(integer=True)
axes.legend(frameon=False)
show(figure, "the exact and the textbook interval by number of harmful answers")

# %% [markdown]
# ## Condition by condition
#
# The mean hides that conditions differ. Each dot is one condition with its exact interval.

# %%
figure, axes = plots.new_figure(7.4, 7)
for number, name in enumerate(arms):
    each = summaries[name]["measures"]["executed"]["conditions"]
    for at, condition in enumerate(conditions):
        one, y = each[condition], at + 0.32 * number - 0.16
        color = plots.COLORS[3 - number]
        if one["ci_low"] is not None:
            axes.plot([one["ci_low"], one["ci_high"]], [y, y], color=color, linewidth=1.6)
            axes.scatter([one["rate"]], [y], s=22, color=color, label=name if not at else None)
axes.set_yticks(range(len(conditions)))
axes.set_yticklabels([name.removesuffix("/replacement") for name in conditions], fontsize=8)
axes.set_ylim(len(conditions) - 0.4, -0.6)
axes.set(xlabel="rate of the act carried out", xlim=(-0.02, 1))
axes.grid(axis="x", color="#eee")
axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
show(figure, "rate of every condition with its interval, both checkpoints")

# %% [markdown]
# ## These conditions, or others like them?
#
# *Fixed*: the mean over exactly these 27 conditions; only the answers were drawn. *Drawn*: the
# conditions stand for all those that might have been written; then their own differences count
# too, and the interval is several times as wide. Neither is wrong; they answer different
# questions.

# %%
table(
    ["checkpoint", "conditions fixed", "conditions drawn"],
    [
        [name, interval(m), interval(m["conditions_a_sample"])]
        for name in arms
        for m in [summaries[name]["measures"]["executed"]]
    ],
    "mean rate of the act carried out, 95 % intervals",
)

# %% [markdown]
# ## Do the two differ?
#
# Do not look whether their intervals overlap: ask for the interval of the *difference*. Pairing
# sample by sample takes out what both owe to the same dice.

# %%
from msm_jax.evals.report.arms import compare, read_arms

runs = read_arms({name: [WORK / name] for name in arms})
contrasts = compare(runs[arms[1]], runs[arms[0]], "executed")
table(
    ["what it is about", "difference in points"],
    [[one.method, interval(one.as_dict(), "estimate", signed=True)] for one in contrasts],
    f"{arms[1]} minus {arms[0]}",
)

# %% [markdown]
# The same as a picture: a difference is *found* where its interval does not hold 0.

# %%
contrasts = [one for one in contrasts if one.ci_low is not None]
figure, axes = plots.new_figure(7, 0.9 + 0.4 * len(contrasts))
for at, one in enumerate(contrasts):
    axes.plot([one.ci_low, one.ci_high], [at, at], color=plots.COLORS[2], linewidth=2.2)
    axes.scatter([one.estimate], [at], s=40, color=plots.COLORS[2])
axes.axvline(0, color="#333", linewidth=0.9)
axes.set_yticks(range(len(contrasts)))
axes.set_yticklabels([one.method for one in contrasts], fontsize=8)
axes.set_ylim(len(contrasts) - 0.5, -0.5)
axes.set_xlabel(f"{arms[1]} minus {arms[0]}")
show(figure, "the difference with its intervals")

# %% [markdown]
# ## How many samples does it take?
#
# Before the next evaluation: to find a difference of this size four times out of five (power .8),
# how many answers per checkpoint?

# %%
from msm_jax.evals.power import power_of, samples_per_arm

rates = [(0.54, 0.07), (0.14, 0.07), (0.10, 0.07), (0.54, 0.50)]
table(
    ["A", "B", "answers per checkpoint", "per condition of 27"],
    [
        [f"{a:.0%}", f"{b:.0%}", needed, -(-needed // 27)]
        for a, b in rates
        for needed in [samples_per_arm(a, b)]
    ],
    "to tell A from B with power .8, two-sided .05",
)

# %% [markdown]
# And the other way round: what a number of answers can find.

# %%
counts = np.unique(np.geomspace(10, 5000, 60).astype(int))
figure, axes = plots.new_figure(7, 3)
for color, (a, b) in zip(plots.COLORS[2:], rates, strict=False):
    axes.plot(
        counts,
        [power_of(a, b, int(n)) for n in counts],
        color=color,
        label=f"{a:.0%} against {b:.0%}",
    )
axes.axhline(0.8, color="#333", linewidth=0.9, linestyle=(0, (4, 3)))
axes.set(xscale="log", xlabel="answers per checkpoint", ylabel="power", ylim=(0, 1.02))
axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
show(figure, "power by number of answers")

# %% [markdown]
# ## Read the transcripts
#
# No number replaces this. First those that are carried out, then those left open.

# %%
run_a = runs[arms[0]][0]
chosen = []
for wanted in (True, None, False):
    keys = [key for key, row in run_a.verdicts.items() if row["verdict"] is wanted][:5]
    word = {True: "yes", None: "open", False: "no"}[wanted]
    chosen += [
        (f"{word} · {name} #{index}", run_a.samples[name, index]["text"]) for name, index in keys
    ]
texts(chosen, f"answers of {arms[0]}, with the verdict of the rules")

# %% [markdown]
# ## The report
#
# One page without anything loaded from elsewhere: all of this, and every transcript, to filter.

# %%
folders = ",".join(f"{name}:{WORK / name}" for name in arms)
run("evaluate", f"--output={WORK / arms[0]}", "--phase=report", f"--arms={folders}")
