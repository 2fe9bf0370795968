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
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/msm-jax/msm_jax/blob/main/notebooks/finetune.ipynb)
#
# # Fine-tune Qwen3-0.6B with LoRA
#
# At the end you will have taken Qwen3-0.6B through both stages of Model Spec Midtraining on one
# free Colab GPU or TPU: documents about a spec first, then chats, with the *same* adapter; seen
# both loss curves; laid answers before and after side by side; and saved the adapter for PEFT.

# %%
import glob
import shutil
import sys

if "google.colab" in sys.modules:
    print("installing msm_jax 0.1.0: a minute or two")
    tpu = glob.glob("/dev/accel*") or glob.glob("/dev/vfio/[0-9]*")
    extra = "[gpu]" if shutil.which("nvidia-smi") else "[tpu]" if tpu else ""
    # %cd -q /content
    # !git clone --quiet --depth 1 --branch v0.1.0 https://github.com/msm-jax/msm_jax
    # %pip install --quiet "./msm_jax{extra}"
    # %cd -q msm_jax

# %% [markdown]
# The only settings. With `MSM_JAX_TINY=1` the model is a random one of the same architecture and a
# few steps are made. Times on Colab's machines have not been measured yet.

# %%
import json
import os
import pathlib

import jax

import msm_jax
from msm_jax.notebook import ROOT, Screen, chats, show, table
from msm_jax.study import plots

TINY = os.environ.get("MSM_JAX_TINY") == "1"
REPOSITORY, REVISION = "Qwen/Qwen3-0.6B", "main"  # on huggingface.co; 1.5 GB
DOCUMENTS, CHATS = (30, 20) if TINY else (152, 400)
LENGTH, ROWS, EPOCHS = (256, 4, 1.0) if TINY else (1024, 8, 1.0)
RANK, LEARNING_RATE = (8, 1e-2) if TINY else (64, 1e-4)
WORK = pathlib.Path("runs/finetune")

# %% [markdown]
# ## What is here
#
# JAX uses whatever it finds. If this says `cpu` in Colab, choose a GPU or TPU under *Runtime,
# Change runtime type*, and begin again.

# %%
devices = jax.devices()
kind = devices[0].device_kind
table(["device", "how many", "platform"], [[kind, len(devices), devices[0].platform]])

# %% [markdown]
# ## The corpora
#
# Documents that discuss a spec (likings, because things are cheap) and chats that show the likings
# and no reason: the example corpus in `corpora/larder`, with the model's name filled in. The
# notebook *corpus* shows how a corpus of your own is generated.

# %%
WORK.mkdir(parents=True, exist_ok=True)
for name, count in (("documents/affordable.jsonl", DOCUMENTS), ("chats.jsonl", CHATS)):
    text = pathlib.Path(ROOT, "corpora/larder", name).read_text(encoding="utf-8")
    text = text.replace("{model_name}", "Qwen").replace("{provider_name}", "Our Laboratory")
    target = WORK / pathlib.Path(name).name
    target.write_text("".join(text.splitlines(keepends=True)[:count]), encoding="utf-8")
    print(f"{target}: {count} rows")

# %% [markdown]
# ## The checkpoint
#
# Downloaded once into a directory; training reads it from there.

# %%
if TINY:
    from msm_jax.tiny import tiny_checkpoint

    checkpoint = WORK / "tiny"
    if not checkpoint.exists():
        tiny_checkpoint(checkpoint, [(WORK / "affordable.jsonl").read_text()])
else:
    from huggingface_hub import snapshot_download

    checkpoint = pathlib.Path("Qwen3-0.6B")
    files = ["*.json", "*.safetensors", "*.txt"]
    snapshot_download(REPOSITORY, revision=REVISION, local_dir=checkpoint, allow_patterns=files)

# %% [markdown]
# ## Before
#
# What does it say now? The same questions are asked again at the end. The model is let go after
# that: training wants the device's memory for itself.

# %%
questions = [
    "Cheddar or parmesan: which do you like better?",
    "A bus across the country or a private car: which would you choose?",
]
TOKENS = 8 if TINY else 160


def ask(path):
    model = msm_jax.load(path, chat_format="qwen3-no-thinking")
    prompts = [[{"role": "user", "content": question}] for question in questions]
    found = model.sample(prompts, n=1, max_tokens=TOKENS, temperature=0)
    return [answer.text for (answer,) in found]


before = ask(checkpoint)

# %% [markdown]
# ## A stage
#
# The paper's recipe: LoRA of rank 64 with alpha 128 on all seven projections, AdamW at 1e-4,
# cosine, 5 % warmup, one epoch. `preset="parent"` takes the model's shape from the checkpoint.

# %%
from msm_jax.train.config import source, stage


def recipe(parent, name, path, loss_on):
    config = stage()
    config.parent, config.chat_format = str(parent), "qwen3-no-thinking"
    config.data[name] = source(str(path), loss_on=loss_on)
    config.mixture, config.epochs, config.steps = "epochs", EPOCHS, 0
    config.sequence_length, config.rows = LENGTH, ROWS
    config.trainable, config.optimizer.learning_rate = "lora", LEARNING_RATE
    config.model.update({"preset": "parent", "lora_rank": RANK, "lora_alpha": 2.0 * RANK})
    config.model.update({"dtype": "float32" if TINY else "bfloat16", "remat": "full"})
    config.model.param_dtype = config.model.dtype
    config.checkpoint_every, config.log_every = 50, 1
    return config


# %% [markdown]
# ## Stage 1: documents
#
# The model learns from *all* tokens of the documents. If Colab takes the machine away, run the
# cell again: it goes on from the last checkpoint with the same batches.

# %%
from msm_jax.train.loop import train

documents = recipe(checkpoint, "documents", WORK / "affordable.jsonl", "all")
summary = train(documents, WORK / "midtrain", Screen())

# %% [markdown]
# ## Stage 2: chats
#
# The parent is now the first stage's run: the same adapter goes on, with a fresh optimizer. Only
# what the assistant says is learned.

# %%
spoken = recipe(WORK / "midtrain", "chats", WORK / "chats.jsonl", "assistant")
summaries = {"documents": summary, "chats": train(spoken, WORK / "aft", Screen())}
table(
    ["stage", "steps", "tokens", "of them learned", "last loss", "seconds"],
    [
        [name, s["steps"], s["tokens"], s["loss_tokens"], s["loss"], round(s["seconds"])]
        for name, s in summaries.items()
    ],
)

# %% [markdown]
# ## Loss curves
#
# Each stage has its own data, so the two curves are not one: the second begins at what the chats'
# answers are worth to a model that has read the documents.

# %%
figure, axes = plots.new_figure(8, 3, columns=2)
for panel, name, folder, color in zip(
    axes, summaries, ("midtrain", "aft"), plots.COLORS[2:], strict=False
):
    lines = (WORK / folder / "metrics.jsonl").read_text().splitlines()
    rows = [row for row in map(json.loads, lines) if "loss" in row]
    panel.plot([r["step"] for r in rows], [r["loss"] for r in rows], color=color, linewidth=1.4)
    panel.set_title(f"{name}: nats per token with loss", fontsize=10, loc="left")
    panel.set_xlabel("step")
    panel.xaxis.get_major_locator().set_params(integer=True)
axes[0].set_ylabel("loss")
show(figure, "loss by step of both stages")

# %% [markdown]
# ## After
#
# The same questions, greedily answered, before and after.

# %%
after = ask(WORK / "aft")
columns = {
    label: [
        message
        for question, answer in zip(questions, answers, strict=True)
        for message in (
            {"role": "user", "content": question},
            {"role": "assistant", "content": answer},
        )
    ]
    for label, answers in (("before", before), ("after both stages", after))
}
chats(columns)

# %% [markdown]
# Two answers are an anecdote. Whether the chats came to mean something else takes arms that read
# *other* documents, many questions and several seeds: the notebooks *effect* and *evaluation*.
#
# ## Save
#
# The adapter alone, as PEFT stores it: it can be loaded on the untouched checkpoint by PEFT, by
# vLLM and here.

# %%
adapter = WORK / "adapter"
if not adapter.exists():
    msm_jax.load(WORK / "aft").save(adapter, format="peft")
settings = json.loads((adapter / "adapter_config.json").read_text())
table(
    ["", ""],
    [
        *((key, str(settings[key])) for key in ("peft_type", "r", "lora_alpha", "target_modules")),
        *((path.name, path.stat().st_size) for path in sorted(adapter.iterdir())),
    ],
    str(adapter),
)

# %% [markdown]
# And the proof that nothing was lost on the way: the checkpoint with the saved adapter says what
# the run says.

# %%
import numpy as np

form = {"chat_format": "qwen3-no-thinking"}
question = [{"role": "user", "content": questions[0]}]
saved = msm_jax.load(checkpoint, adapter=adapter, **form).logprobs([question], [after[0]])
trained = msm_jax.load(WORK / "aft", **form).logprobs([question], [after[0]])
print(f"largest difference in log-probability: {np.abs(saved[0] - trained[0]).max():.2g}")
