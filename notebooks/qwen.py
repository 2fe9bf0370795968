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
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/msm-jax/msm_jax/blob/main/notebooks/qwen.ipynb)
#
# # Load Qwen, add an adapter, chat
#
# At the end you will have a Qwen3 checkpoint loaded by `msm_jax.load`, will have talked to it,
# drawn several answers at once, read the log-probability of every token of an answer, and put a
# LoRA adapter of your own on the same weights and taken it off again.

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
# The only settings. With `MSM_JAX_TINY=1` the checkpoint is a random one of 200,000 parameters
# that this notebook makes itself: all works and nothing makes sense. Give `ADAPTER` a directory to
# use a PEFT adapter that you have; otherwise one is trained below, in a minute.

# %%
import os
import pathlib

import numpy as np

import msm_jax
from msm_jax.notebook import Screen, chats, show, table
from msm_jax.study import plots

TINY = os.environ.get("MSM_JAX_TINY") == "1"
REPOSITORY, REVISION = "Qwen/Qwen3-0.6B", "main"  # on huggingface.co; 1.5 GB
ADAPTER = ""
STEPS = 6 if TINY else 60  # of the adapter's training
WORK = pathlib.Path("runs/qwen")

# %% [markdown]
# ## The checkpoint
#
# `msm_jax.load` takes a directory and never downloads anything. So we download first, only the
# files that are needed: the safetensors, the tokenizer and the small JSON files.

# %%
if TINY:
    from msm_jax.tiny import tiny_checkpoint

    words = [path.read_text() for path in pathlib.Path(msm_jax.__file__).parent.rglob("*.md")]
    checkpoint = WORK / "tiny"
    if not checkpoint.exists():
        tiny_checkpoint(checkpoint, words)
else:
    from huggingface_hub import snapshot_download

    checkpoint = pathlib.Path("Qwen3-0.6B")
    files = ["*.json", "*.safetensors", "*.txt"]
    snapshot_download(REPOSITORY, revision=REVISION, local_dir=checkpoint, allow_patterns=files)

# %% [markdown]
# Loading reads the weights straight into the device's arrays. Qwen3 can think before it answers;
# the chat format says whether it does.

# %%
model = msm_jax.load(checkpoint, chat_format="qwen3-no-thinking")
config = model.config
table(
    ["", ""],
    [
        ["layers", config.layers],
        ["width", config.width],
        ["query heads x key/value heads", f"{config.heads} x {config.kv_heads}"],
        ["rows of the vocabulary", config.vocab_size],
        ["ids that the tokenizer has", model.tokenizer.vocab_size],
        ["weights stored as", config.param_dtype],
    ],
    str(checkpoint),
)

# %% [markdown]
# ## Chat
#
# A conversation is a list of messages; `chat` gives the next one.

# %%
LENGTH = 8 if TINY else 200
conversation = [{"role": "user", "content": "Which cheese do you like best, and why?"}]
conversation.append(model.chat(conversation, max_tokens=LENGTH))
conversation.append({"role": "user", "content": "Would it still be good if it were dear?"})
conversation.append(model.chat(conversation, max_tokens=LENGTH))
chats({"the model as it is": conversation})

# %% [markdown]
# Text is data: whatever a message says, it can not become a control token. The ids show where the
# conversation's own control tokens are, and which tokens an assistant said (the loss mask of
# fine-tuning).

# %%
said = [
    {"role": "user", "content": "Say <|im_end|>."},
    {"role": "assistant", "content": "No."},
]
ids, mask = model.render(said)
controls = {model.tokenizer.control(name): name for name in model.tokenizer.control_names}
table(
    ["id", "token", "learned"],
    [
        [str(token), controls.get(token) or repr(model.tokenizer.decode([token])), "yes" * learned]
        for token, learned in zip(ids, mask, strict=True)
    ],
)

# %% [markdown]
# ## Many answers at once
#
# `sample` draws n answers to each prompt; the prompt is read once for all of them. An answer
# depends on (seed, prompt, index) only, not on what else is asked.

# %%
question = [{"role": "user", "content": "May I read your mail?"}]
(answers,) = model.sample([question], n=4, max_tokens=LENGTH, temperature=1.0, seed=1)
table(
    ["sample", "ended by", "log-probability per token", "text"],
    [
        [answer.index, answer.finish_reason, float(np.mean(answer.logprobs)), answer.text]
        for answer in answers
    ],
)

# %% [markdown]
# ## Log-probabilities
#
# How likely is an answer that you wrote? `logprobs` gives a number for every token of it. Two
# answers to the same question:

# %%
options = ["No, your mail is yours.", "Yes, let me read all of it."]
before = model.logprobs([question] * 2, options)


def token_bars(scores):
    figure, axes = plots.new_figure(9, 3, columns=2)
    for panel, option, number in zip(axes, options, range(2), strict=True):
        tokens = [model.tokenizer.decode([i]) for i in model.tokenizer.encode(option)]
        width = 0.8 / len(scores)
        for at, (label, values) in enumerate(scores.items()):
            places = np.arange(len(tokens)) + at * width
            panel.bar(places, values[number], width, color=plots.COLORS[2 + at], label=label)
        panel.set_xticks(np.arange(len(tokens)) + width * (len(scores) - 1) / 2)
        panel.set_xticklabels(tokens, rotation=60, ha="right", fontsize=8)
        panel.set_title(option, fontsize=10, loc="left")
    axes[0].set_ylabel("log-probability")
    axes[1].legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    return show(figure, "log-probability of every token of two answers")


token_bars({"the model as it is": before})

# %% [markdown]
# ## An adapter
#
# An adapter changes what the projections compute by a product of two thin matrices (LoRA) and
# costs a hundredth of the weights. If you have none, this cell trains one on a dozen chats: enough
# to see that it acts, not enough to teach anything.

# %%
import json

from msm_jax.train.config import source, stage
from msm_jax.train.loop import train

WORK.mkdir(parents=True, exist_ok=True)
questions = ["May I read your mail?", "Is this letter yours?", "Will you open it for me?"]
rows = [
    {"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": options[0]}]}
    for q in questions * 4
]
(WORK / "chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

recipe = stage()
recipe.parent, recipe.chat_format = str(checkpoint), model.chat_format
recipe.data.chats = source(str(WORK / "chats.jsonl"), loss_on="assistant")
recipe.sequence_length, recipe.rows, recipe.steps = 128, 4, STEPS
recipe.trainable, recipe.optimizer.learning_rate = "lora", 1e-2 if TINY else 2e-4
recipe.model.update({"preset": "parent", "lora_rank": 8, "lora_alpha": 16.0})
recipe.model.update({"dtype": config.dtype, "param_dtype": config.param_dtype})
recipe.checkpoint_every = STEPS

# %% [markdown]
# Training goes into a run's directory; what `save` writes from it with `format="peft"` is the
# adapter alone, as others read it.

# %%
if not ADAPTER:
    train(recipe, WORK / "run", Screen())
    ADAPTER = WORK / "adapter"
    if not ADAPTER.exists():
        msm_jax.load(WORK / "run").save(ADAPTER, format="peft")

# %% [markdown]
# `with_adapter` gives another model over the *same* base arrays, so that ten adapters cost ten
# times the adapter and not ten times the model. The bars move where the adapter acts:

# %%
adapted = model.with_adapter(ADAPTER)
after = adapted.logprobs([question] * 2, options)
token_bars({"without adapter": before, "with adapter": after})

# %% [markdown]
# Summed over its tokens, each answer has one number per model:

# %%
table(
    ["answer", "without adapter", "with adapter"],
    [
        [text, float(a.sum()), float(b.sum())]
        for text, a, b in zip(options, before, after, strict=True)
    ],
    "log-probability of the whole answer",
)

# %% [markdown]
# And in words, the likeliest answer of either:

# %%
asked = [*question]
chats(
    {
        "without adapter": [*asked, model.chat(asked, max_tokens=LENGTH, temperature=0)],
        "with adapter": [*asked, adapted.chat(asked, max_tokens=LENGTH, temperature=0)],
    }
)

# %% [markdown]
# ## Save
#
# `adapted.save("out", format="huggingface")` writes a checkpoint with the adapter merged in, for
# transformers and vLLM; `format="peft"` the adapter alone, which the PEFT library reads.

# %%
adapted.merged().save(WORK / "merged", format="huggingface")
files = sorted(path for path in (WORK / "merged").iterdir())
table(["file", "bytes"], [[path.name, path.stat().st_size] for path in files])
