"""A study of the method cut to minutes: the same graph, a tiny fresh model, placeholder texts.

It shows that the parts of a config fit together, and says nothing about the method: the model
cannot write, and the texts of the stub writer mean nothing. Nothing has to be downloaded or paid.
"""

import importlib.resources
import re

from ml_collections import ConfigDict

from msm_jax.corpus.config import generate
from msm_jax.study.method import REASONING
from msm_jax.train.config import source

EXAMPLES = importlib.resources.files("msm_jax.spec") / "examples"
SPEC = str(EXAMPLES / "value_augmented.md")
COUNT = 12  # documents of a corpus, and chats
NEUTRAL = "neutral"  # the corpus for neutral documents, ordinary text, and texts in the prompt


def shrink(config: ConfigDict) -> None:
    """Replaces the model, all data of the user's, and what takes long.

    All arms begin with a stage `base` from fresh weights. Corpora of the stub writer stand for the
    files: equal paths become equal corpora. Questions that need a judge behind an API are left out.
    """
    config.title = f"PLACEHOLDER TEXTS AND A TINY MODEL, which show nothing. {config.title}"
    config.seeds = config.seeds[:1]
    config.base.update({"path": "", "adapter": ""})
    _data(config)
    _training(config)
    _evaluations(config)


def _training(config: ConfigDict) -> None:
    """One step of one layer that is 32 wide."""
    train = config.train
    train.update({"steps": 1, "rows": 2, "accumulation": 1, "sequence_length": 128})
    train.update({"chat_format": "", "log_every": 1})
    train.packing.long_chats = "cut"
    train.model.update({"width": 32, "layers": 1, "heads": 2, "kv_heads": 1, "mlp_width": 64})
    train.model.update({"dtype": "float32", "param_dtype": "float32", "remat": "none"})
    train.model.update({"lora_rank": 4, "lora_alpha": 8.0})
    config.tokenizer.update({"corpus": SPEC, "vocab_size": 400})
    text = source(f"{{{NEUTRAL}}}/documents.jsonl")
    config.stages.base = ConfigDict(
        {"data": {"text": text}, "trainable": "all", "model": {"lora_rank": 0}}
    )
    for name, stages in config.arms.items():
        config.arms[name] = ("base", *stages)
    config.dose.update({"stages": (), "steps": (), "eval": ""})


def _data(config: ConfigDict) -> None:
    """Corpora in place of files, with the same source for the same file."""
    config.corpora[NEUTRAL] = _corpus("documents", 0)  # to write neutral ones takes long
    known: dict[str, str] = {}
    sources = [data for stage in config.stages.values() for data in stage.data.values()]
    swept = [text.partition("=")[::2] for text in config.sweep.over]
    of_sweep = {int(n) for key, values in swept if key.endswith(".take") for n in values.split(",")}
    takes = sorted({data.take for data in sources} | of_sweep)
    # Other shares stay other shares.
    few = {take: min(COUNT, 2 + at) if take else 0 for at, take in enumerate(takes)}
    fewer = lambda text: re.sub(r"\d+", lambda found: str(few[int(found[0])]), text)
    config.sweep.over = tuple(
        f"{key}={fewer(values) if key.endswith('.take') else values}" for key, values in swept
    )
    for name, stage in config.stages.items():
        for role, data in stage.data.items():
            data.path = known.setdefault(data.path, "") or _made(config, name, role, data, known)
            data.update({"take": few[data.take], "take_tokens": 0})
            data.hold_out = min(data.hold_out, 1)


def _made(
    config: ConfigDict, stage: str, role: str, data: ConfigDict, known: dict[str, str]
) -> str:
    """The path of a new corpus that stands for a source; `known` remembers it."""
    if role == "ordinary" or (role == "documents" and stage == "neutral"):
        found = f"{{{NEUTRAL}}}/documents.jsonl"
    else:
        name = f"{role}{len(config.corpora)}"
        make = "documents" if role == "documents" else "chats"
        made = config.corpora[name] = _corpus(make, len(config.corpora))
        made.chats.reasoning = make == "chats" and stage.endswith(REASONING)
        found = f"{{{name}}}/{make}.jsonl"
    known[data.path] = found
    return found


def _corpus(make: str, seed: int) -> ConfigDict:
    made = generate()
    made.update({"make": make, "seed": seed})
    made.spec.update({"path": SPEC, "model_name": "Qwen", "provider_name": "Our Laboratory"})
    made.writer.kind = "stub"
    made.documents.update({"count": COUNT, "types": 1, "words": (30, 90), "allow_short": True})
    made.chats.update({"count": COUNT, "questions_per_domain": COUNT, "allow_short": True})
    return made


def _evaluations(config: ConfigDict) -> None:
    """One sample, few tokens, the questions that come with the package, rules as the judge."""
    held_out = {
        name: stage.data.documents.path
        for name, stage in config.stages.items()
        if "documents" in stage.data
    }
    for name, asked in [*config.evals.items()]:
        if asked.kind == "questions":
            _leave_out(config, name)
        if asked.kind == "agents":
            asked.update({"goals": ("none",), "samples": 1, "max_tokens": 8, "judge": "rules"})
            asked.update({"scenarios": asked.get("scenarios", ("murder",))[:1], "rows": 1})
            asked.update({"source": "own", "assistant": "Qwen"})
        if asked.kind == "preferences":
            asked.update({"pairs": "items", "scorers": ("logprob",), "rows": 16, "judge": "rules"})
        if asked.kind == "loss":
            names = [each.partition("=")[0] for each in asked.documents]
            stage = lambda each: each if each in held_out else f"msm_{each}"
            asked.documents = tuple(f"{each}={held_out[stage(each)]}" for each in names)
            asked.update({"hold_out": 1, "sequence_length": 128})
        if "judge_model" in asked:
            del asked["judge_model"]
        if asked.get("context"):
            asked.context = f"{{{NEUTRAL}}}/documents.jsonl"  # any text without a placeholder


def _leave_out(config: ConfigDict, name: str) -> None:
    """Removes an evaluation and what is about it."""
    del config.evals[name]
    for some in (config.contrasts, config.figure.groups, config.targets):
        for each, entry in [*some.items()]:
            if entry.eval == name:
                del some[each]
    config.design.context = tuple(each for each in config.design.context if each != name)
