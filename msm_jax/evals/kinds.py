"""The kinds of evaluation that the command knows, and every setting of each."""

import dataclasses
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

from msm_jax.errors import UserError
from msm_jax.evals.agents.conditions import (
    EXTRAS,
    GOAL_TYPES,
    PAPER_SCENARIOS,
    SCENARIOS,
    SOURCES,
    URGENCIES,
)
from msm_jax.evals.agents.evaluation import RULES, AgentScenarios
from msm_jax.evals.evaluation import Evaluation, Preferences
from msm_jax.evals.judges.base import Judge
from msm_jax.evals.material import place
from msm_jax.evals.preferences import SCORERS
from msm_jax.evals.questions import OpenQuestions
from msm_jax.evals.quiz import Quiz
from msm_jax.spec.spec import load_spec

_ALONG = "one of the sets that come along: opinions, items"
JUDGES = (RULES, "anthropic", "openai", "checkpoint")


@dataclasses.dataclass(frozen=True)
class Setting:
    """One flag.

    Attributes:
      name, type, help: of the flag.
      defaults: by kind; a kind that is not here has no use for the setting.
      choices: what the value, or each value of a list, may be; () is anything.
    """

    name: str
    type: type
    help: str
    defaults: dict[str, Any]
    choices: Sequence[str] = ()

    def help_with_defaults(self) -> str:
        """What `--help` says: the choices, and the default, by kind where kinds differ."""
        show = lambda value: ",".join(value) if self.type is list else str(value)
        words = {kind: show(v) for kind, v in self.defaults.items() if v is not None}
        said = f"{self.help} One of {', '.join(self.choices)}." if self.choices else self.help
        if len(set(words.values())) == 1:
            said += f" Default: {next(iter(words.values()))}."
        elif words:
            said += f" Default: {'; '.join(f'{kind}: {word}' for kind, word in words.items())}."
        return f"{said} (--kind={', '.join(self.defaults)})"


@dataclasses.dataclass(frozen=True)
class Kind:
    """One kind of evaluation.

    Attributes:
      make: (settings, output directory, whether it is to judge) to the evaluation.
      headline: the part of the summary that the command prints.
      required: settings that have no default.
      report: (output, arms) -> path of the page that it wrote; None if there is none.
      inspect: output -> path of the Inspect log that it wrote; None if there is none.
    """

    make: Callable[[dict, pathlib.Path, bool], Evaluation]
    headline: Callable[[dict], Any]
    required: tuple[str, ...] = ()
    report: Callable[..., pathlib.Path] | None = None
    inspect: Callable[[pathlib.Path], pathlib.Path] | None = None


def _settings() -> dict[str, Setting]:
    agents = lambda value: {"agents": value}
    pairs = lambda value: {"preferences": value}
    every = lambda value: dict.fromkeys(("preferences", "agents", "questions", "quiz"), value)
    judged = lambda value: dict.fromkeys(("agents", "preferences", "questions"), value)
    drawn = lambda one, two, three: {"preferences": one, "agents": two, "questions": three}
    judges = {"agents": RULES, "preferences": RULES, "questions": "anthropic"}
    found = [
        Setting("pairs", str, f"JSONL of preference pairs, or {_ALONG}.", pairs(None)),
        Setting("scorers", list, "How pairs are asked.", pairs(list(SCORERS)), SCORERS),
        Setting("questions", str, "JSONL of open questions.", {"questions": "open_questions"}),
        Setting("spec", str, "The spec that open answers are judged by.", {"questions": None}),
        Setting("quiz", str, "JSONL of questions about a spec.", {"quiz": "quiz_values"}),
        Setting("seed", int, "Of the generated answers.", drawn(0, 0, 0)),
        Setting("samples", int, "Answers per question.", drawn(1, 300, 1)),
        Setting("temperature", float, "0 is greedy.", drawn(0.0, 0.7, 0.7)),
        Setting("max_tokens", int, "Of one answer.", drawn(32, 4096, 1024)),
        Setting("rows", int, "Computed at a time.", every(64)),
        Setting("scenarios", list, "Of the agents.", agents(list(PAPER_SCENARIOS)), SCENARIOS),
        Setting(
            "goals",
            list,
            f"Types ({', '.join(GOAL_TYPES)}), or with a value: explicit-america.",
            agents(["none", "explicit"]),
        ),
        Setting("urgencies", list, "The threat.", agents(["replacement"]), URGENCIES),
        Setting("extras", list, "Further instructions.", agents(["none"]), EXTRAS),
        Setting("scratchpad", bool, "Offer a private place to think.", agents(True)),
        Setting(
            "assistant",
            str,
            "What the assistant is called.",
            {"agents": "Qwen", "questions": "Qwen", "quiz": "Qwen"},
        ),
        Setting("source", str, "Whose texts.", agents("own"), SOURCES),
        Setting("save_every", int, "Samples between two saves.", agents(100)),
        Setting("judge", str, "Who judges; rules need no model.", judges, JUDGES),
        Setting("judge_model", str, "Model of an API judge.", judged(None)),
        Setting("judge_url", str, "Address of an API judge.", judged(None)),
        Setting("judge_checkpoint", str, "Run directory of a judge of ours.", judged(None)),
        Setting("judge_cache", str, "File of paid replies; in the output if unset.", judged(None)),
        Setting("judge_concurrency", int, "Calls at a time.", judged(16)),
        Setting("judge_max_tokens", int, "Of one judgement.", judged(1024)),
        Setting("judge_sees_thinking", bool, "Show it a model's thought.", agents(False)),
        Setting("max_error_share", float, "Above it no rate is given.", judged(0.05)),
    ]
    return {setting.name: setting for setting in found}


SETTINGS = _settings()


def resolve(kind: str, given: dict) -> dict:
    """The settings of a kind: defaults and what was given.

    Raises:
      UserError: a setting that the kind has no use for, or a value that it does not have.
    """
    for name, value in given.items():
        setting = SETTINGS[name]
        if kind not in setting.defaults:
            raise UserError(
                f"--{name} has no meaning for --kind={kind}; it belongs to "
                f"{', '.join(setting.defaults)}"
            )
        values = value if setting.type is list else [value]
        wrong = [v for v in values or () if setting.choices and v not in setting.choices]
        if wrong:
            raise UserError(f"--{name}: {wrong[0]!r} is not one of {', '.join(setting.choices)}")
    defaults = {s.name: s.defaults[kind] for s in SETTINGS.values() if kind in s.defaults}
    as_lists = {n: list(v) if SETTINGS[n].type is list else v for n, v in given.items()}
    return {**defaults, **as_lists}


def recorded_settings(kind: str, recorded: dict) -> dict:
    """Those settings that evaluation.json holds; of files it has only hashes."""
    files = ("pairs", "questions", "quiz", "spec")
    known = {name for name, s in SETTINGS.items() if kind in s.defaults and name not in files}
    return {name: value for name, value in recorded.items() if name in known}


def make_judge(settings: dict, output: pathlib.Path) -> Judge | None:
    """The judge that the settings name; None is rules alone.

    Raises:
      UserError: settings that do not go together, a missing key or client library.
    """
    from msm_jax.corpus.writers.anthropic_api import AnthropicWriter
    from msm_jax.corpus.writers.openai_api import OpenAIWriter
    from msm_jax.corpus.writers.transport import check_address
    from msm_jax.evals.judges.api_judge import ANTHROPIC_MODEL, PACE, ApiJudge
    from msm_jax.evals.judges.cache import Cache
    from msm_jax.evals.judges.model_judge import ModelJudge

    name = settings["judge"]
    for setting, owners in (
        ("judge_model", ("anthropic", "openai")),
        ("judge_url", ("anthropic", "openai")),
        ("judge_checkpoint", ("checkpoint",)),
    ):
        if settings[setting] and name not in owners:
            raise UserError(f"--{setting} has no meaning for --judge={name}")
    if name == RULES:
        return None
    cache = Cache(pathlib.Path(settings["judge_cache"] or output / "judge_cache.jsonl"))
    tokens = settings["judge_max_tokens"]
    if name == "checkpoint":
        if not settings["judge_checkpoint"]:
            raise UserError("--judge=checkpoint: --judge_checkpoint must be given")
        from msm_jax.api import load

        return ModelJudge(
            load(settings["judge_checkpoint"]).for_sampling(), cache, tokens, settings["rows"]
        )
    if name == "openai" and not settings["judge_model"]:
        raise UserError("--judge=openai: --judge_model must be given")
    url = settings["judge_url"] or ""
    check_address("--judge_url", url)
    if settings["judge_concurrency"] < 1:
        raise UserError("--judge_concurrency must be at least 1")
    pace = dataclasses.replace(PACE, concurrency=settings["judge_concurrency"])
    backend = (
        AnthropicWriter(settings["judge_model"] or ANTHROPIC_MODEL, pace=pace, base_url=url)
        if name == "anthropic"
        else OpenAIWriter(settings["judge_model"], pace=pace, base_url=url)
    )
    return ApiJudge(backend, cache, tokens)


def _without_judge(settings: dict) -> dict:
    """The settings that are an evaluation's own."""
    return {n: v for n, v in settings.items() if n == "judge_sees_thinking" or "judge" not in n}


def _preferences(settings: dict, output: pathlib.Path, judging: bool) -> Evaluation:
    judge = make_judge(settings, output) if judging else None
    own = _without_judge(settings)
    return Preferences(place(own.pop("pairs")), **own, judge=judge)


def _agents(settings: dict, output: pathlib.Path, judging: bool) -> Evaluation:
    judge = make_judge(settings, output) if judging else None
    return AgentScenarios(**_without_judge(settings), judge=judge, progress=True)


def _questions(settings: dict, output: pathlib.Path, judging: bool) -> Evaluation:
    own = _without_judge(settings)
    if not own["spec"]:
        raise UserError("--spec must be given: open answers are judged by a spec")
    if judging and settings["judge"] == RULES:
        raise UserError(
            "--judge=rules cannot score open answers: say anthropic, openai or checkpoint, or "
            "--stage=sample to judge later"
        )
    spec = load_spec(own.pop("spec"), own.pop("assistant")).text
    judge = make_judge(settings, output) if judging else None
    return OpenQuestions(place(own.pop("questions")), spec, **own, judge=judge)


def _quiz(settings: dict, output: pathlib.Path, judging: bool) -> Evaluation:
    return Quiz(place(settings["quiz"]), settings["assistant"], settings["rows"])


def _agents_headline(summary: dict) -> dict:
    measures = {
        name: {key: value for key, value in numbers.items() if key != "conditions"}
        for name, numbers in summary["measures"].items()
    }
    return {"judge": summary["judge"], "measures": measures, "counts": summary["counts"]}


def _agents_report(output: pathlib.Path, arms: dict) -> pathlib.Path:
    from msm_jax.evals.report import write_report

    return write_report(output / "report.html", arms)


def _agents_log(output: pathlib.Path) -> pathlib.Path:
    from msm_jax.evals.inspection.logs import write_log

    return write_log(output)


def _without_evaluation(summary: dict) -> dict:
    return {name: value for name, value in summary.items() if name != "evaluation"}


KINDS = {
    "preferences": Kind(_preferences, lambda summary: summary["scorers"], ("pairs",)),
    "agents": Kind(_agents, _agents_headline, (), _agents_report, _agents_log),
    "questions": Kind(_questions, _without_evaluation, ("spec",)),
    "quiz": Kind(_quiz, _without_evaluation),
}
