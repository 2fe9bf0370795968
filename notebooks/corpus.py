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
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/msm-jax/msm_jax/blob/main/notebooks/corpus.ipynb)
#
# # Write a spec, generate and explore its corpus
#
# At the end you will have a Model Spec of your own, know how a corpus of documents and chats is
# generated from it, and have examined a corpus: how long its documents are, which points of the
# spec they touch, how much they repeat each other. Nothing here needs a key or an accelerator.

# %%
import sys

if "google.colab" in sys.modules:
    print("installing msm_jax 0.1.0: a minute or two")
    # %cd -q /content
    # !git clone --quiet --depth 1 --branch v0.1.0 https://github.com/msm-jax/msm_jax
    # %pip install --quiet ./msm_jax
    # %cd -q msm_jax

# %% [markdown]
# The only settings. `WRITER` says who writes. `stub` writes placeholder text: it shows the pipeline
# and is never to be trained on. For a corpus of your own take `openai` with the `WRITER_URL` of a
# server (`vllm serve`, `llama-server`, `transformers serve`), or `openai` or `anthropic` and a key.

# %%
import collections
import json
import os
import pathlib

import numpy as np

from msm_jax.notebook import ROOT, chats, run, secret, show, table, texts
from msm_jax.study import plots

TINY = os.environ.get("MSM_JAX_TINY") == "1"
DOCUMENTS, CHATS = (60, 30) if TINY else (200, 100)
WRITER, WRITER_MODEL, WRITER_URL = "stub", "", ""
WORK = pathlib.Path("runs/corpus")

# %% [markdown]
# ## A spec
#
# A spec is a text. Numbered rules, values and preferences are understood as such; every other
# paragraph is a point of its own. `{model_name}` is filled in.

# %%
SPEC = """# How {model_name} handles what is not its own

{model_name} is an assistant made by {provider_name}. It works in other people's houses: in their
mail, their calendars, their accounts.

## Values

- {model_name} values discretion: what it reads on the way to a task stays where it was read.
- {model_name} values candour: people should never have to guess what it did.

## Rules

1. {model_name} asks before it sends anything in somebody's name, because a message that has been
   sent cannot be called back.
2. {model_name} reads only what the task needs. A person who gives it the keys to their mail has
   not given it every letter in there.
3. {model_name} says what it could not do. A gap that is known can be filled by somebody; one that
   is hidden becomes a mistake that somebody else pays for.
4. {model_name} leaves things as it found them, so that people can trust it with the next task.
"""
WORK.mkdir(parents=True, exist_ok=True)
spec_file = WORK / "spec.md"
print(f"{spec_file}: {spec_file.write_text(SPEC)} characters")

# %% [markdown]
# What was understood? `check_spec` finds what is probably a mistake, such as a name that was not
# filled in, or a rule number given twice.

# %%
from msm_jax.spec import check_spec, load_spec, spec_points

spec = load_spec(spec_file, model_name="Qwen", provider_name="Our Laboratory")
points = spec_points(spec)
problems = check_spec(spec) or ["none"]
table(
    ["point", "kind", "text"],
    [[point.id, point.kind, point.text] for point in points],
    f"{spec.title}: {spec.word_count} words, {len(points)} points; problems: {', '.join(problems)}",
)

# %% [markdown]
# ## The outline
#
# Documents are not written straight from the spec: it becomes domains, subdomains, kinds of
# documents and ideas first, so that a thousand documents are not a thousand times the same one.
# The preview makes the outline and says what the rest will take; with a model as the writer, that
# is the moment to look at the price.

# %%
if WRITER in ("anthropic", "openai") and not WRITER_URL and not secret(f"{WRITER.upper()}_API_KEY"):
    raise SystemExit(f"no {WRITER.upper()}_API_KEY: add it to Colab's secrets or the environment")
about = [
    f"--config.spec.path={spec_file}",
    "--config.spec.model_name=Qwen",
    "--config.spec.provider_name=Our Laboratory",
    f"--config.writer.kind={WRITER}",
    f"--config.writer.model={WRITER_MODEL}",
    f"--config.writer.base_url={WRITER_URL}",
]
config = f"--config={ROOT}/configs/corpus/example.py"
documents = [config, f"--workdir={WORK}/documents", f"--config.documents.count={DOCUMENTS}", *about]
run("generate", *documents, "--preview")

# %% [markdown]
# ## The documents
#
# Every reply of the writer is kept before it is used: interrupt this cell and run it again, and
# nothing is asked, or paid for, twice.

# %%
run("generate", *documents)

# %% [markdown]
# Read some. No instrument replaces that, and the first faults of a corpus are seen on its first
# page. Where the writer is the stub, these are documents of the repository's example corpus.

# %%
read = lambda path: [json.loads(line) for line in path.read_text().splitlines()]
larder = pathlib.Path(ROOT) / "corpora/larder"
own = WORK / "documents/documents.jsonl"
rows = read(larder / "documents/affordable.jsonl" if WRITER == "stub" else own)
manifest = json.loads((WORK / "documents/manifest.json").read_text())
texts(
    [(r["doc_type"], r["text"]) for r in rows[:40]],
    "the first 40 documents: click to read",
)

# %% [markdown]
# ## How long are they?
#
# Midtraining packs documents into rows of fixed length without mixing them, so lengths decide how
# well the rows are filled.

# %%
words = np.array([len(row["text"].split()) for row in rows])
figure, axes = plots.new_figure(7, 2.8)
axes.hist(words, bins=30, color=plots.COLORS[2])
axes.axvline(np.median(words), color=plots.COLORS[3], label=f"median {np.median(words):.0f} words")
axes.set(xlabel="words in a document", ylabel="documents")
axes.legend(frameon=False)
show(figure, "histogram of the documents' lengths")

# %% [markdown]
# ## Is every point of the spec there?
#
# *Planned* counts the documents whose outline has the point; *in its words* those that share five
# words in a row with it. A point that nobody speaks of cannot be learned from the corpus.

# %%
coverage = manifest["coverage"]
figure, axes = plots.new_figure(7, 0.8 + 0.5 * len(coverage))
for at, facts in enumerate(coverage.values()):
    axes.barh(at - 0.2, facts["planned"], 0.38, color=plots.COLORS[0], alpha=0.6)
    axes.barh(at + 0.2, facts["said"], 0.38, color=plots.COLORS[2])
axes.set_yticks(range(len(coverage)))
axes.set_yticklabels(coverage)
axes.invert_yaxis()
axes.set_xlabel("documents")
axes.xaxis.get_major_locator().set_params(integer=True)
axes.legend(["planned", "in its words"], frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
show(figure, "documents per point of the spec")

# %% [markdown]
# ## Do they repeat each other?
#
# Two documents are near-duplicates if they share four fifths of their runs of five words
# (Jaccard). Such pairs are dropped and written anew. Below: how similar each document is to the
# one most like it. All should lie far to the left of the line.

# %%
from msm_jax.corpus.diversity import SHINGLE, Words, ngram_hashes

known = Words()
some = rows[:300]
shingles = [np.unique(ngram_hashes(known.ids(row["text"]), SHINGLE)) for row in some]
nearest = np.zeros(len(some))
for a in range(len(some)):
    for b in range(a):
        common = len(np.intersect1d(shingles[a], shingles[b], assume_unique=True))
        similarity = common / (len(shingles[a]) + len(shingles[b]) - common)
        nearest[[a, b]] = np.maximum(nearest[[a, b]], similarity)
figure, axes = plots.new_figure(7, 2.8)
axes.hist(nearest, bins=np.linspace(0, 1, 41), color=plots.COLORS[2])
axes.axvline(0.8, color=plots.COLORS[3], label="dropped from here on")
axes.set(xlabel="similarity to the nearest other document", ylabel="documents", xlim=(0, 1))
axes.legend(frameon=False)
show(figure, "histogram of each document's similarity to its nearest neighbour")

# %% [markdown]
# The manifest has the other instruments, beside what was measured on the example corpus and on the
# paper's published corpora.

# %%
published = manifest["diversity_published"]
example = json.loads((larder / "manifest.json").read_text())["documents"]["affordable"]
table(
    ["", f"writer {WRITER}", "corpora/larder", "published corpora"],
    [
        [name, value, example.get(name, ""), " and ".join(map(str, published.get(name, ["-"])))]
        for name, value in manifest["diversity"].items()
    ],
)

# %% [markdown]
# ## What was thrown away
#
# A filter that drops too much is as telling as one that drops nothing.

# %%
dropped = read(WORK / "documents/dropped.jsonl")
counted = collections.Counter(row["reason"] for row in dropped)
table(["reason", "documents"], counted.most_common() or [["nothing was dropped", 0]])

# %% [markdown]
# And the documents themselves: are they as bad as the filter says?

# %%
texts([(r["reason"], r.get("text") or r.get("question", "")) for r in dropped[:20]], "dropped")

# %% [markdown]
# ## Chats
#
# Fine-tuning needs chats in which an assistant follows the spec. The same command makes them, here
# in the style that keeps the numbered rules.

# %%
config = f"--config={ROOT}/configs/corpus/chats.py:rule"
run(
    "generate",
    config,
    f"--workdir={WORK}/chats",
    f"--config.chats.count={CHATS}",
    "--config.chats.reasoning=False",
    *about,
)

# %% [markdown]
# Three of them:

# %%
conversations = read(WORK / "chats/chats.jsonl")
chats({f"chat {n}": row["messages"] for n, row in enumerate(conversations[:3], start=1)})

# %% [markdown]
# ## Where to go on
#
# `runs/corpus/documents/corpus.html` has all of this on one page. The two files,
# `documents/documents.jsonl` and `chats/chats.jsonl`, are what a stage takes as
# `data.documents.path` and `data.chats.path`; the notebook
# [finetune](https://colab.research.google.com/github/msm-jax/msm_jax/blob/main/notebooks/finetune.ipynb)
# trains on the example corpus.
