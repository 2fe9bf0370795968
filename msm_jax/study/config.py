"""A study's configuration: every key, its range, its meaning and its default."""

import dataclasses
import functools
import types
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from msm_jax.corpus.config import GENERATE
from msm_jax.evals.kinds import KINDS, SETTINGS, kinds_with
from msm_jax.settings import SEED, Key, form, group, key, named
from msm_jax.train.config import STAGE

_MEASURE = "which of its numbers; the evaluation's own measure if empty"
# A key that decides what is shown, and not what is made.
_shown = functools.partial(
    key, harmless="results and report are written again from what was measured"
)
_sums = functools.partial(key, harmless="only the order of sums differs, and so the last bits")


def _of_evaluate() -> dict[str, Key]:
    """The settings of `evaluate`; None: not given, so that the kind's default holds."""
    meaning = lambda name: f"{SETTINGS[name].meaning} ({', '.join(kinds_with(name))})"
    return {
        name: dataclasses.replace(declared, meaning=meaning(name), default=None)
        for name, declared in SETTINGS.items()
    }


EVALUATION = form(
    "evaluation",
    "One evaluation of the last stage of arms; only what differs from its kind's defaults.",
    kind=key("preferences", "the kind of evaluation", choices=sorted(KINDS)),
    arms=key((), "which arms are evaluated; () is all", of=str, among="arms"),
    measure=_shown("", "which of its numbers is compared; the kind's first if empty"),
    at_least=_shown(
        None,
        "makes it a gate: an arm whose measure is lower is reported as not reaching it",
        of=float,
    ),
    at_most=_shown(None, "the same, for a measure that is higher", of=float),
    **_of_evaluate(),
)

CONTRAST = form(
    "contrast",
    "Per seed, the values of the arms in `plus` minus those in `minus`; then over seeds.",
    label=_shown("", "its name in tables and figures"),
    eval=_shown("", "the evaluation whose values are compared", among="evals"),
    measure=_shown("", _MEASURE),
    plus=_shown((), "arms whose values are added", of=str, among="arms"),
    minus=_shown((), "arms whose values are subtracted; as many as in plus", of=str, among="arms"),
    expected=_shown(
        0, "the sign that the hypothesis predicts, 0 for no prediction", at_least=-1, at_most=1
    ),
)

FIGURE_GROUP = form(
    "figure_group",
    "Bars beside each other.",
    label=_shown("", "the text under them"),
    arms=_shown((), "an arm for each bar, in the order of figure.bars", of=str, among="arms"),
    eval=_shown("", "the evaluation that they show; the figure's if empty", among="evals"),
)

TARGET = form(
    "target",
    "Numbers that somebody else published; the report shows them beside ours.",
    label=_shown("", 'who, as legends and tables name it, such as "paper"'),
    source=_shown("", "where it was published, and of how much data"),
    eval=_shown("", "the evaluation that the numbers are compared with", among="evals"),
    measure=_shown("", _MEASURE),
    arms=named(_shown(0.0, ""), "arm -> the published value", among="arms"),
    contrasts=named(
        _shown(0.0, ""),
        "contrast -> the published difference, where the values of its arms are not in `arms`",
        among="contrasts",
    ),
)

ABSORPTION = form(
    "absorption",
    "What shows that a midtraining stage learned its documents.",
    own=_shown("", "name of the held-out documents that are like those of the stage"),
    control=_shown("", "name of the text that the stage is not about"),
    quiz=key(
        "", "an evaluation of kind quiz about the stage's documents; none if empty", among="evals"
    ),
    label=_shown("", "its name in sentences; the stage's own if empty"),
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
    name=_shown("study", "in results.json and the plan"),
    title=_shown("", "of the report"),
    seeds=key((0,), "each draws its own world, weights and data order", **SEED),
    platform=_sums(
        "",
        'what computes: "cpu", "gpu" (NVIDIA) or "tpu"; "": $JAX_PLATFORMS, or else the '
        "accelerators of this machine, or else the CPU",
        choices=("", "cpu", "gpu", "tpu"),
    ),
    workers=_sums(
        0,
        "processes that run stages at the same time and share the devices evenly; 0: one for each "
        "accelerator, or for each core of a CPU; 1: every stage has all accelerators as one mesh",
        at_least=0,
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
            "", 'a function of (options, seed, directory) as "module:name"; "": all files are yours'
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
    arms=named(
        key((), "", of=str, among="stages"), "name -> stages in order; () is the base itself"
    ),
    evals=named(EVALUATION, "evaluations", sparse=True),
    design=group(
        "which arms are the controls of the method; the report names those that the study lacks",
        **{
            name: _shown((), meaning, of=str, among="evals" if name == "context" else "arms")
            for name, meaning in CONTROLS.items()
        },
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
        stages=key((), "names in stages; (): no dose curve", of=str, among="stages"),
        steps=key((), "checkpoints are kept at these", of=int, at_least=1),
        eval=key("", "a name in evals", among="evals"),
        measure=key("", _MEASURE),
    ),
    absorption=group(
        "held-out loss before and after midtraining stages: have they learned their documents?",
        eval=key(
            "",
            "an evaluation of kind loss, whose documents have a name for each source",
            among="evals",
        ),
        stages=named(ABSORPTION, "name in stages -> what it should have learned", among="stages"),
        at_least=_shown(
            0.15,
            "a stage has absorbed its documents if their loss fell by so many nats per token more "
            "than that of the control text",
            at_least=0,
        ),
    ),
    retention=key(
        (),
        "evaluations of what training should not change, such as general knowledge: asked of the "
        "model that the arms start from too, and shown beside the headline",
        of=str,
        among="evals",
    ),
    contrasts=named(CONTRAST, "comparisons of arms"),
    figure=group(
        "the first figure of the report",
        eval=_shown("", "the evaluation that it shows", among="evals"),
        measure=_shown("", _MEASURE),
        axis=_shown("", "what it shows, in words; the measure's name if empty"),
        bars=_shown((), "what the bars of a group are, for the legend", of=str),
        groups=named(
            FIGURE_GROUP, "its bars; where the scale changes, the figure goes on in another panel"
        ),
        headline=_shown("", "the contrast that the report begins with", among="contrasts"),
        summary=_shown(
            (), "contrasts that the command's last line names", of=str, among="contrasts"
        ),
    ),
    targets=named(TARGET, "published numbers, with their source"),
    controls=group(
        "arms whose measure should be within `within` of `expected`",
        arms=_shown((), "names in arms", of=str, among="arms"),
        eval=_shown("", "a name in evals; the figure's if empty", among="evals"),
        measure=_shown("", _MEASURE),
        expected=_shown(0.5, "such as chance"),
        within=_shown(0.15, "the largest distance from it", at_least=0),
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
