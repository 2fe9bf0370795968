"""A study's configuration: every key, its range, its meaning and its default."""

import dataclasses
import types
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from msm_jax.corpus.config import GENERATE
from msm_jax.evals.kinds import KINDS, SETTINGS, kinds_with
from msm_jax.settings import SEED, Form, Key, Named, form, group, key, named
from msm_jax.train.config import STAGE

_REPORT = "results and report are written again from what was measured"


def _of_evaluate() -> dict[str, Key | Named | Form]:
    """The settings of `evaluate`; None: not given, so that the kind's default holds."""
    found: dict[str, Key | Named | Form] = {}
    for name, declared in SETTINGS.items():
        meaning = f"{declared.meaning} ({', '.join(kinds_with(name))})"
        is_key = isinstance(declared, Key)
        more: dict[str, Any] = {"default": None} if is_key else {}
        found[name] = dataclasses.replace(declared, meaning=meaning, **more)
    return found


EVALUATION = form(
    "evaluation",
    "One evaluation of the last stage of arms; only what differs from its kind's defaults.",
    kind=key("preferences", "the kind of evaluation", choices=sorted(KINDS)),
    arms=key((), "which arms are evaluated; () is all", of=str),
    measure=key(
        "", "which of its numbers is compared; the kind's first if empty", harmless=_REPORT
    ),
    at_least=key(
        None,
        "makes it a gate: an arm whose measure is lower is reported as not reaching it",
        of=float,
        harmless=_REPORT,
    ),
    at_most=key(None, "the same, for a measure that is higher", of=float, harmless=_REPORT),
    **_of_evaluate(),
)

_MEASURE = "which of its numbers; the evaluation's own measure if empty"

CONTRAST = form(
    "contrast",
    "Per seed, the values of the arms in `plus` minus those in `minus`; then over seeds.",
    label=key("", "its name in tables and figures", harmless=_REPORT),
    eval=key("", "the evaluation whose values are compared", harmless=_REPORT),
    measure=key("", _MEASURE, harmless=_REPORT),
    plus=key((), "arms whose values are added", of=str, harmless=_REPORT),
    minus=key((), "arms whose values are subtracted; as many as in plus", of=str, harmless=_REPORT),
    expected=key(
        0,
        "the sign that the hypothesis predicts, 0 for no prediction",
        at_least=-1,
        at_most=1,
        harmless=_REPORT,
    ),
)

FIGURE_GROUP = form(
    "figure_group",
    "Bars beside each other.",
    label=key("", "the text under them", harmless=_REPORT),
    arms=key((), "an arm for each bar, in the order of figure.bars", of=str, harmless=_REPORT),
    eval=key("", "the evaluation that they show; the figure's if empty", harmless=_REPORT),
)

TARGET = form(
    "target",
    "Numbers that somebody else published; the report shows them beside ours.",
    label=key("", 'who, as legends and tables name it, such as "paper"', harmless=_REPORT),
    source=key("", "where it was published, and of how much data", harmless=_REPORT),
    eval=key("", "the evaluation that the numbers are compared with", harmless=_REPORT),
    measure=key("", _MEASURE, harmless=_REPORT),
    arms=named(key(0.0, "", harmless=_REPORT), "arm -> the published value"),
    contrasts=named(
        key(0.0, "", harmless=_REPORT),
        "contrast -> the published difference, where the values of its arms are not in `arms`",
    ),
)

ABSORPTION = form(
    "absorption",
    "What shows that a midtraining stage learned its documents.",
    own=key(
        "", "name of the held-out documents that are like those of the stage", harmless=_REPORT
    ),
    control=key("", "name of the text that the stage is not about", harmless=_REPORT),
    quiz=key("", "an evaluation of kind quiz about the stage's documents; none if empty"),
    label=key("", "its name in sentences; the stage's own if empty", harmless=_REPORT),
)

# What else could explain a gain. The paper or a replication lacked each of these, or needed it to
# explain its numbers (docs/paper.md).
CONTROLS = {
    "plain": "the model without any training",
    "mix": "the instruction mix alone",
    "aft": "alignment fine-tuning without midtraining",
    "aft_reasoning": "alignment fine-tuning with reasoning, without midtraining",
    "msm": "midtraining alone",
    "msm_mix": "midtraining, then the instruction mix without the alignment chats",
    "neutral": "midtraining on as many tokens of documents about something else",
    "ablated": "midtraining on the spec without its reasons",
    "context": "the spec in the prompt (an evaluation with a context)",
    "one_stage": "documents and chats in one stage of as many tokens",
    "reversed": "alignment fine-tuning before midtraining",
    "replay": "midtraining mixed with ordinary text",
}

STUDY = form(
    "study",
    "A complete experiment.",
    name=key("study", "in results.json and the plan", harmless=_REPORT),
    title=key("", "of the report", harmless=_REPORT),
    seeds=key((0,), "each draws its own world, weights and data order", **SEED),
    platform=key(
        "",
        'what computes: "cpu", "gpu" (NVIDIA) or "tpu"; "": $JAX_PLATFORMS, or else the '
        "accelerators of this machine, or else the CPU",
        choices=("", "cpu", "gpu", "tpu"),
        harmless="only the order of sums differs, and so the last bits",
    ),
    workers=key(
        0,
        "processes that run stages at the same time and share the devices evenly; 0: one for each "
        "accelerator, or for each core of a CPU; 1: every stage has all accelerators as one mesh",
        at_least=0,
        harmless="only the order of sums differs, and so the last bits",
    ),
    price_per_hour=key(
        0.0,
        "of this machine, in any currency, for the cost in the plan and the results; 0: no cost",
        at_least=0,
        harmless="it is only multiplied by the hours",
    ),
    world=group(
        "files that are built from the seed",
        builder=key(
            "",
            'a function of (options, seed, directory) as "module:name"; "": all files are yours',
        ),
        options=named(None, "WorldConfig() for the miniature's builder"),
    ),
    base=group(
        "the checkpoint that all arms start from; its tokenizer and its shape are the stages'",
        path=key("", 'Hugging Face checkpoint, or a run; "": fresh weights from the seed'),
        adapter=key("", "PEFT adapter that is merged into it first"),
    ),
    corpora=named(GENERATE, 'made before the stages that name its files, as "{NAME}/..."'),
    tokenizer=group(
        'trained where train.tokenizer and base.path are ""',
        corpus=key("{world}/corpus.txt", "a text, one sentence a line"),
        vocab_size=key(1000, "of the SentencePiece model", at_least=1),
        symbols=key(
            (), "texts that are one token each, such as a line break, otherwise unknown", of=str
        ),
    ),
    train=STAGE.under(
        "what all stages have in common; the study sets seed and parent",
        chat_format=key(
            "", 'a name of data/chat.py, or "own"; "": the base\'s, with fresh weights "compact"'
        ),
    ),
    stages=named(STAGE, "the keys that differ from train", sparse=True),
    arms=named(key((), "", of=str), "name -> stages in order; () is the base itself"),
    evals=named(EVALUATION, "evaluations", sparse=True),
    design=group(
        "which arms are the controls of the method; the report names those that the study lacks",
        **{name: key((), meaning, of=str, harmless=_REPORT) for name, meaning in CONTROLS.items()},
    ),
    without=key(
        (),
        "arms to leave out, with the contrasts, bars and evaluations that need them; the report "
        "names them",
        of=str,
    ),
    sweep=group(
        "arms that depend on a key, repeated with other values of it; --sweep adds to `over`",
        over=key(
            (),
            'keys and values, as "config.stages.aft.epochs=1,2,4"; several give the product of '
            "their values",
            of=str,
        ),
        arms=key((), "which of the arms that depend on them are repeated; () is all", of=str),
    ),
    dose=group(
        "arms that end with one of these stages are also evaluated after so many of its steps",
        stages=key((), "names in stages; (): no dose curve", of=str),
        steps=key((), "checkpoints are kept at these", of=int, at_least=1),
        eval=key("", "a name in evals"),
        measure=key("", _MEASURE),
    ),
    absorption=group(
        "held-out loss before and after midtraining stages: have they learned their documents?",
        eval=key("", "an evaluation of kind loss, whose documents have a name for each source"),
        stages=named(ABSORPTION, "name in stages -> what it should have learned"),
        at_least=key(
            0.15,
            "a stage has absorbed its documents if their loss fell by so many nats per token more "
            "than that of the control text",
            at_least=0,
            harmless=_REPORT,
        ),
    ),
    retention=key(
        (),
        "evaluations of what training should not change, such as general knowledge: asked of the "
        "model that the arms start from too, and shown beside the headline",
        of=str,
    ),
    contrasts=named(CONTRAST, "comparisons of arms"),
    figure=group(
        "the first figure of the report",
        eval=key("", "the evaluation that it shows", harmless=_REPORT),
        measure=key("", _MEASURE, harmless=_REPORT),
        axis=key("", "what it shows, in words; the measure's name if empty", harmless=_REPORT),
        bars=key((), "what the bars of a group are, for the legend", of=str, harmless=_REPORT),
        groups=named(
            FIGURE_GROUP, "its bars; where the scale changes, the figure goes on in another panel"
        ),
        headline=key("", "the contrast that the report begins with", harmless=_REPORT),
        summary=key((), "contrasts that the command's last line names", of=str, harmless=_REPORT),
    ),
    targets=named(TARGET, "published numbers, with their source"),
    controls=group(
        "arms whose measure should be within `within` of `expected`",
        arms=key((), "names in arms", of=str, harmless=_REPORT),
        eval=key("", "a name in evals; the figure's if empty", harmless=_REPORT),
        measure=key("", _MEASURE, harmless=_REPORT),
        expected=key(0.5, "such as chance", harmless=_REPORT),
        within=key(0.15, "the largest distance from it", at_least=0, harmless=_REPORT),
    ),
)


def study() -> ConfigDict:
    """The defaults of `STUDY`; a config file sets what its study needs and locks the result.

    A path that begins with "{world}/" is a file that the seed's world builder makes, one with
    "{NAME}/" of `corpora.NAME`; any other path is yours, and counts by its content, not its name.
    """
    return STUDY.config()


def evaluation(kind: str = "preferences", /, **settings: Any) -> ConfigDict:
    """An entry of evals: the keys of `EVALUATION` that are given, and no others.

    Raises:
      UserError: a key that there is not, or a value that is out of range.
    """
    EVALUATION.config(kind=kind, **settings)
    return ConfigDict({"kind": kind, **settings})


def contrast(
    label: str, eval: str, plus: tuple, minus: tuple, expected: int = 0, measure: str = ""
) -> ConfigDict:
    """Per seed, the values of the arms in `plus` minus those in `minus`; then over seeds."""
    return CONTRAST.config(
        label=label, eval=eval, plus=plus, minus=minus, expected=expected, measure=measure
    )


def figure_group(label: str, *arms: str, eval: str = "") -> ConfigDict:
    """Bars beside each other, one for each arm, such as before and after fine-tuning."""
    return FIGURE_GROUP.config(label=label, arms=arms, eval=eval)


def target(
    label: str,
    source: str,
    eval: str,
    arms: Mapping[str, float],
    contrasts: Mapping[str, float] = types.MappingProxyType({}),
    measure: str = "",
) -> ConfigDict:
    """Numbers that somebody else published, by the names of arms and contrasts."""
    return TARGET.config(
        label=label,
        source=source,
        eval=eval,
        arms=dict(arms),
        contrasts=dict(contrasts),
        measure=measure,
    )


def absorption(own: str, control: str, quiz: str = "", label: str = "") -> ConfigDict:
    """What shows that a midtraining stage learned its documents; names in `absorption.eval`."""
    return ABSORPTION.config(own=own, control=control, quiz=quiz, label=label)
