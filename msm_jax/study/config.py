"""A study's configuration: every key, its range, its meaning and its default."""

from typing import Any

from ml_collections import ConfigDict

from msm_jax.corpus.config import GENERATE
from msm_jax.settings import ROWS, SEED, SHARE, form, group, key, named
from msm_jax.train.config import STAGE

_REPORT = "results and report are written again from what was measured"

EVALUATION = form(
    "evaluation",
    "Preference pairs asked of the last stage of arms.",
    pairs=key("", "JSONL file of questions"),
    arms=key((), "which arms are evaluated; () is all", of=str),
    at_least=key(
        0.0,
        "above 0 this is a gate: an arm with a lower rate is reported as not reaching it",
        **SHARE,
        harmless=_REPORT,
    ),
    scorers=key(
        ("logprob", "generated"),
        "the first one's rate is the evaluation's",
        choices=("logprob", "generated"),
    ),
    samples=key(1, "generated completions per question", at_least=1),
    temperature=key(0.0, "of generated completions; 0 is greedy", at_least=0, single=False),
    max_tokens=key(8, "of a generated completion", at_least=1),
    rows=ROWS,
)

CONTRAST = form(
    "contrast",
    "Per seed, the rates of the arms in `plus` minus those in `minus`; then over seeds.",
    label=key("", "its name in tables and figures", harmless=_REPORT),
    eval=key("", "the evaluation whose rates are compared", harmless=_REPORT),
    plus=key((), "arms whose rates are added", of=str, harmless=_REPORT),
    minus=key((), "arms whose rates are subtracted; as many as in plus", of=str, harmless=_REPORT),
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
    "Two bars.",
    label=key("", "the text under them", harmless=_REPORT),
    before=key("", "the arm before fine-tuning", harmless=_REPORT),
    after=key("", "the arm after it", harmless=_REPORT),
)

STUDY = form(
    "study",
    "A complete experiment.",
    name=key("study", "in results.json and the plan", harmless=_REPORT),
    title=key("", "of the report", harmless=_REPORT),
    seeds=key((0,), "each draws its own world, weights and data order", **SEED),
    workers=key(
        2,
        "stages that run at a time, each in a process of its own",
        at_least=1,
        harmless="no stage depends on which process runs it",
    ),
    platform=key(
        "cpu",
        '"cpu": each worker has one core; "": the devices that JAX finds, with workers=1',
        harmless="only the order of sums differs, and so the last bits",
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
    ),
    train=STAGE.under(
        "what all stages have in common; the study sets seed and parent",
        chat_format=key(
            "", 'a name of data/chat.py, or "own"; "": the base\'s, with fresh weights "compact"'
        ),
    ),
    stages=named(STAGE, "the keys that differ from train", sparse=True),
    arms=named(key((), "", of=str), "name -> stages in order; () is the base itself"),
    evals=named(EVALUATION, "evaluations"),
    dose=group(
        "stages of this name are also evaluated after so many of their steps",
        stage=key("", 'a name in stages; "": no dose curve'),
        steps=key((), "checkpoints are kept at these", of=int, at_least=1),
        eval=key("", "a name in evals"),
    ),
    contrasts=named(CONTRAST, "comparisons of arms"),
    figure=group(
        "the first figure of the report",
        eval=key("", "the evaluation that it shows", harmless=_REPORT),
        measure=key("rate of choice A", "what its rate is, in words", harmless=_REPORT),
        groups=named(FIGURE_GROUP, "its bars"),
        headline=key("", "the contrast that the report begins with", harmless=_REPORT),
    ),
    controls=group(
        "arms whose rate in the figure's evaluation should be within `within` of one half",
        arms=key((), "names in arms", of=str, harmless=_REPORT),
        within=key(
            0.15, "the largest distance from one half", at_least=0, at_most=0.5, harmless=_REPORT
        ),
    ),
)


def study() -> ConfigDict:
    """The defaults of `STUDY`; a config file sets what its study needs and locks the result.

    A path that begins with "{world}/" is a file that the seed's world builder makes, one with
    "{NAME}/" of `corpora.NAME`; any other path is yours, and counts by its content, not its name.
    """
    return STUDY.config()


def evaluation(
    pairs: str,
    arms: tuple[str, ...] = (),
    at_least: float = 0.0,
    scorers: tuple[str, ...] = ("logprob", "generated"),
    **more: Any,
) -> ConfigDict:
    """Preference pairs asked of the last stage of arms; `more` are other keys of `EVALUATION`."""
    given = {"pairs": pairs, "arms": arms, "at_least": at_least, "scorers": scorers}
    return EVALUATION.config(**given, **more)


def contrast(label: str, eval: str, plus: tuple, minus: tuple, expected: int = 0) -> ConfigDict:
    """Per seed, the rates of the arms in `plus` minus those in `minus`; then over seeds."""
    return CONTRAST.config(label=label, eval=eval, plus=plus, minus=minus, expected=expected)


def figure_group(label: str, before: str, after: str) -> ConfigDict:
    """Two bars: an arm before and after fine-tuning."""
    return FIGURE_GROUP.config(label=label, before=before, after=after)
