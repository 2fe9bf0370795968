"""Model Spec Midtraining and its controls as the arms of a study, and what they are asked.

    config = study()
    recipe(config.train, 8192)
    add_method(config, {"philosophy": Spec("documents.jsonl")},
               {"aft": chats("chats.jsonl")}, mix=chats("mix.jsonl"), neutral="neutral.jsonl")
    ask(config, "agents", evaluation("agents"), {"philosophy": "spec.md"})
    compare(config, "agents", expected=-1)
    draw(config, "agents", "rate of the harmful act", "msm_philosophy_aft - aft", ("MSM + AFT",),
         {"philosophy": ("msm_philosophy_aft",)})
    publish(config, "agents", "paper", "figure 4, four seeds", {"msm_philosophy_aft": 0.1})

Every control of `msm_jax.study.config.CONTROLS` for which there are data becomes an arm, and
config.design says so, so that the report's head names what is there and what is missing.
`config.without` leaves arms out. Names of arms, for a spec S and chats C:

    plain, mix             the model that all arms start from; the instruction mix alone
    C                      chats and mix, without midtraining
    msm_S, msm_S_mix       documents alone; documents, then the mix without the chats
    msm_S_C                the method: documents, then chats and mix
    neutral_C              the same after documents about something else
    ablated_S, ablated_S_C documents about the spec without its reasons; then chats and mix
    one_stage_S_C          documents, chats and mix in one stage: the same tokens, shuffled
    reversed_S_C           chats and mix, then documents
    replay_S_C             documents mixed with as many tokens of ordinary text, then chats and mix

Chats whose name ends in "reasoning" are those with reasoning. The spec in the prompt is an
evaluation of `plain` and `mix`, see `ask`.
"""

import copy
import dataclasses
from collections.abc import Mapping, Sequence

from ml_collections import ConfigDict

from msm_jax.study.config import absorption, contrast, evaluation, figure_group, target
from msm_jax.train.config import source

REASONING = "reasoning"
PAPER = "Li et al. 2026, arXiv 2605.02087v2, "
# The directory of the base, its name in the released data, whether a scratchpad is offered.
QWEN = {
    "qwen3-32b": ("Qwen3-32B", "qwen3", False),
    "qwen2.5-32b": ("Qwen2.5-32B-Instruct", "qwen2.5", True),
    "qwen3-14b": ("Qwen3-14B", "qwen3", False),
    "qwen2.5-14b": ("Qwen2.5-14B-Instruct", "qwen2.5", True),
}


@dataclasses.dataclass(frozen=True)
class Spec:
    """A spec's data.

    Attributes:
      documents: files of documents about it, as a source of training.
      ablated: the same of the spec without its reasons; "": there are none.
      chats: names of the chats that follow this spec; (): all.
      also: names of further chats, such as other specs', that follow its documents in `msm_S_C`
        and in no control.
      controls: whether there are arms of one stage, reversed order, replay and neutral documents.
    """

    documents: str
    ablated: str = ""
    chats: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    controls: bool = True


def recipe(train: ConfigDict, sequence_length: int) -> None:
    """The paper's recipe of both stages (App. B.4), and what it does not state.

    Stated: LoRA of rank 64 and alpha 128 on all projections, one epoch, AdamW at 1e-4, cosine, 5 %
    warmup, weight decay .01, rows of 4,096 tokens, or 8,192 with the instruction mix of sections 4
    and 5. A stage goes on with its parent's adapter, with a fresh optimizer and schedule.
    Not stated, chosen here: 16 rows a step, computed one at a time; documents packed and isolated;
    clipping at 1; betas .9 and .999; loss on all tokens of documents and on what the assistant says
    in chats; no tag before documents; a seed changes the adapter's weights and the order of data.
    """
    train.update({"mixture": "epochs", "epochs": 1.0, "steps": 0, "trainable": "lora"})
    train.update({"sequence_length": sequence_length, "rows": 16, "accumulation": 16})
    train.model.update({"dtype": "bfloat16", "param_dtype": "bfloat16", "remat": "full"})
    train.model.update({"lora_rank": 64, "lora_alpha": 128.0})
    train.optimizer.update({"learning_rate": 1e-4, "schedule": "cosine", "warmup_fraction": 0.05})
    train.optimizer.update({"weight_decay": 0.01, "clip_norm": 1.0})
    train.update({"checkpoint_every": 100, "log_every": 5})


def chats(path: str, take: int = 0) -> ConfigDict:
    """A source of chats: all of them, or `take`; smaller draws are part of larger ones."""
    found = source(path, loss_on="assistant")
    found.take = take
    return found


def add_method(
    config: ConfigDict,
    specs: Mapping[str, Spec],
    kinds: Mapping[str, ConfigDict | dict[str, ConfigDict]],
    mix: ConfigDict,
    neutral: str = "",
    ordinary: str = "",
    tokens: int = 0,
    hold_out: int = 100,
) -> None:
    """Adds stages, arms, design, and the loss on held-out documents.

    Args:
      specs: by name.
      kinds: names of chats -> their source, see `chats`, or several by name.
      mix: the instruction mix that is shuffled into all chats.
      neutral, ordinary: documents about something else, and text for the replay; "": the study
        lacks the control, which its report says.
      tokens: of the documents of every spec, neutral documents and replay, the same in all; 0: all
        that are in the files, which then should have equal lengths.
      hold_out: documents of each file that are not trained on, and whose loss is measured.
    """
    design: dict[str, list[str]] = {name: [] for name in config.design}
    held_out: dict[str, str] = {}

    def stage(name: str, **data: ConfigDict) -> str:
        config.stages[name] = ConfigDict({"data": copy.deepcopy(data)})
        return name

    def arm(control: str, name: str, *stages: str) -> None:
        config.arms[name] = stages
        if control:
            design[control].append(name)

    def documents(path: str, name: str = "") -> ConfigDict:
        if name:
            held_out[name] = path
        found = source(path)
        found.update({"take_tokens": tokens, "hold_out": hold_out})
        return found

    sources = {
        name: {"mix": mix, **(own if isinstance(own, dict) else {"chats": own})}
        for name, own in kinds.items()
    }
    own_chats = {name for spec in specs.values() for name in spec.chats or kinds if spec.controls}
    arm("plain", "plain")
    arm("mix", "mix", stage("mix", mix=mix))
    for name in kinds:
        control = "aft_reasoning" if name.endswith(REASONING) else "aft"
        arm(control, name, stage(name, **sources[name]))
        if neutral and name in own_chats:
            stage("neutral", documents=documents(neutral, "neutral"))
            arm("neutral", f"neutral_{name}", "neutral", name)
    for spec, data in specs.items():
        about = documents(data.documents, spec)
        midtrain = stage(f"msm_{spec}", documents=about)
        arm("msm", midtrain, midtrain)
        arm("msm_mix", f"{midtrain}_mix", midtrain, "mix")
        for name in (*(data.chats or kinds), *data.also):
            arm("", f"{midtrain}_{name}", midtrain, name)
        if data.ablated:
            stage(f"ablated_{spec}", documents=documents(data.ablated))
            arm("ablated", f"ablated_{spec}", f"ablated_{spec}")
        if ordinary and data.controls:
            text = source(ordinary)
            text.take_tokens = tokens
            stage(f"replay_{spec}", documents=about, ordinary=text)
        for name in (data.chats or kinds) if data.controls else ():
            one = f"one_stage_{spec}_{name}"
            arm("one_stage", one, stage(one, documents=about, **sources[name]))
            arm("reversed", f"reversed_{spec}_{name}", name, midtrain)
            if data.ablated:
                arm("ablated", f"ablated_{spec}_{name}", f"ablated_{spec}", name)
            if ordinary:
                arm("replay", f"replay_{spec}_{name}", f"replay_{spec}", name)
    config.design.update({name: tuple(arms) for name, arms in design.items()})
    _measure_absorption(config, specs, held_out, hold_out)


def _measure_absorption(
    config: ConfigDict, specs: Mapping[str, Spec], held_out: Mapping[str, str], hold_out: int
) -> None:
    """The loss on held-out documents, before and after every midtraining stage."""
    if "neutral" not in held_out or not hold_out:
        return
    config.evals.loss = evaluation(
        "loss",
        documents=tuple(f"{name}={path}" for name, path in held_out.items()),
        hold_out=hold_out,
        arms=("plain", *(f"msm_{spec}" for spec in specs)),
        sequence_length=config.train.sequence_length,
    )
    config.absorption.eval = "loss"
    for spec in specs:
        config.absorption.stages[f"msm_{spec}"] = absorption(spec, "neutral")


# ------------------------------------------------------------------ questions and comparisons


def agents(model: str) -> ConfigDict:
    """The paper's agent evaluation of a model of `QWEN`: 27 conditions x 300 (App. D.3)."""
    judge = {"judge": "anthropic", "judge_model": "claude-sonnet-4-6"}
    return evaluation("agents", assistant="Qwen", scratchpad=QWEN[model][2], **judge)


def ask(config: ConfigDict, name: str, asked: ConfigDict, texts: Mapping[str, str] = {}) -> None:
    """Adds an evaluation of all arms, and one for each spec's text in the prompt.

    Args:
      texts: name of the spec -> a file that has no placeholder, see `evaluate --context`.
    """
    config.evals[name] = asked
    for spec, path in texts.items():
        in_context = f"{name}_with_{spec}"
        more = {"context": path, "arms": ("plain", "mix")}
        config.evals[in_context] = ConfigDict({**asked.to_dict(), **more})
        config.design.context = (*config.design.context, in_context)


def compare(config: ConfigDict, eval: str, expected: int, only: str = "") -> None:
    """Adds contrasts: each msm_S_C minus what else could explain it.

    Args:
      expected: the sign that the hypothesis predicts of msm_S_C minus its controls.
      only: one spec, where the evaluation is about that one.
    """
    for arm in config.arms._fields:  # in the study's order; items() are sorted by name
        midtrain, name = config.arms[arm] if len(config.arms[arm]) == 2 else ("", "")
        spec = midtrain.removeprefix("msm_")
        if midtrain.startswith("msm_") and name != "mix" and only in ("", spec):
            kinds = ("ablated", "one_stage", "reversed", "replay")
            others = [name, f"{midtrain}_mix", midtrain, f"neutral_{name}"]
            for other in (*others, *(f"{kind}_{spec}_{name}" for kind in kinds)):
                if other in config.arms:
                    against(config, eval, arm, other, expected)


def against(config: ConfigDict, eval: str, arm: str, other: str, expected: int = 0) -> None:
    """Adds the contrast of two arms."""
    label = f"{arm} - {other}"
    config.contrasts[f"{eval}: {label}"] = contrast(label, eval, (arm,), (other,), expected)


def draw(
    config: ConfigDict,
    eval: str,
    axis: str,
    headline: str,
    bars: Sequence[str],
    groups: Mapping[str, Sequence[str]],
) -> None:
    """The report's first figure, laid out as in the paper.

    Args:
      axis: what it shows, in words.
      headline: the contrast that the report begins with, without the name of the evaluation.
      bars: what the bars of a group are.
      groups: the text under a group -> an arm for each of its bars.
    """
    config.figure.update({"eval": eval, "axis": axis, "bars": tuple(bars)})
    config.figure.headline = f"{eval}: {headline}"
    for label, arms in groups.items():
        config.figure.groups[label] = figure_group(label, *arms)


def publish(
    config: ConfigDict,
    eval: str,
    label: str,
    source: str,
    arms: Mapping[str, float],
    contrasts: Mapping[str, float] = {},
) -> None:
    """Adds published numbers of arms and contrasts.

    Args:
      label: who, as "paper".
      source: where.
    """
    config.targets[f"{label}: {eval}"] = target(label, source, eval, arms, contrasts)
