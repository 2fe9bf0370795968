"""The kinds of evaluation that the command knows, and every setting of each."""

import dataclasses
import pathlib
from collections.abc import Callable
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
from msm_jax.evals.agents.scenarios import RULES, AgentScenarios
from msm_jax.evals.evaluation import Evaluation, Preferences
from msm_jax.evals.judges.base import Judge
from msm_jax.evals.material import place
from msm_jax.evals.preferences import SCORERS
from msm_jax.evals.questions import OpenQuestions
from msm_jax.evals.quiz import Quiz
from msm_jax.settings import ROWS, SEED, SHARE, Key, Problems, form, key
from msm_jax.spec.spec import load_spec

_ALONG = "one of the sets that come along: opinions, items"
JUDGES = (RULES, "anthropic", "openai", "checkpoint")


@dataclasses.dataclass(frozen=True)
class Setting:
    """One flag.

    Attributes:
      key: what its value may be, and what it means.
      defaults: by kind; a kind that is not here has no use for the setting.
    """

    key: Key
    defaults: dict[str, Any]

    def help(self) -> str:
        """What `--help` says: what the value may be, and the default, by kind where they differ."""
        show = lambda value: ",".join(value) if isinstance(value, tuple) else str(value)
        words = {kind: show(v) for kind, v in self.defaults.items() if v is not None}
        said = f"{self.key.meaning[0].upper()}{self.key.meaning[1:]}."
        each = self.key.item or self.key
        if each.choices or each.bounds:
            said += f" Must be {each.allowed.replace(chr(39), '')}."
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


def _setting(defaults: dict[str, Any], meaning: str, **limits: Any) -> Setting:
    default = None if None in defaults.values() else next(iter(defaults.values()))
    if default is None:
        limits["of"] = str
    return Setting(key(default, meaning, **limits), defaults)


def _settings() -> dict[str, Setting]:
    agents = lambda value: {"agents": value}
    pairs = lambda value: {"preferences": value}
    every = lambda value: dict.fromkeys(("preferences", "agents", "questions", "quiz"), value)
    judged = lambda value: dict.fromkeys(("agents", "preferences", "questions"), value)
    drawn = lambda one, two, three: {"preferences": one, "agents": two, "questions": three}
    judges = {"agents": RULES, "preferences": RULES, "questions": "anthropic"}
    named = {"agents": "Qwen", "questions": "Qwen", "quiz": "Qwen"}
    goals = f"types ({', '.join(GOAL_TYPES)}), or with a value: explicit-america"
    cost = "what it costs and how fast it is, not what it says"
    return {
        "pairs": _setting(pairs(None), f"JSONL of preference pairs, or {_ALONG}"),
        "scorers": _setting(pairs(tuple(SCORERS)), "how pairs are asked", choices=SCORERS),
        "questions": _setting({"questions": "open_questions"}, "JSONL of open questions"),
        "spec": _setting({"questions": None}, "the spec that open answers are judged by"),
        "quiz": _setting({"quiz": "quiz_values"}, "JSONL of questions about a spec"),
        "seed": _setting(drawn(0, 0, 0), "of the generated answers", **SEED),
        "samples": _setting(drawn(1, 300, 1), "answers per question", at_least=1),
        "temperature": _setting(drawn(0.0, 0.7, 0.7), "0 is greedy", at_least=0, single=False),
        "max_tokens": _setting(drawn(32, 4096, 1024), "of one answer", at_least=1),
        "rows": Setting(ROWS, every(64)),
        "scenarios": _setting(agents(PAPER_SCENARIOS), "of the agents", choices=SCENARIOS),
        "goals": _setting(agents(("none", "explicit")), goals),
        "urgencies": _setting(agents(("replacement",)), "the threat", choices=URGENCIES),
        "extras": _setting(agents(("none",)), "further instructions", choices=EXTRAS),
        "scratchpad": _setting(agents(True), "offer a private place to think"),
        "assistant": _setting(named, "what the assistant is called"),
        "source": _setting(agents("own"), "whose texts", choices=SOURCES),
        "save_every": _setting(
            agents(100), "samples between two saves", at_least=1, harmless="when, not what"
        ),
        "judge": _setting(judges, "who judges; rules need no model", choices=JUDGES),
        "judge_model": _setting(judged(None), "model of an API judge"),
        "judge_url": _setting(judged(None), "address of an API judge"),
        "judge_checkpoint": _setting(judged(None), "run directory of a judge of ours"),
        "judge_cache": _setting(
            judged(None), "file of paid replies; in the output if unset", harmless=cost
        ),
        "judge_concurrency": _setting(judged(16), "calls at a time", at_least=1, harmless=cost),
        "judge_max_tokens": _setting(judged(1024), "of one judgement", at_least=1),
        "judge_sees_thinking": _setting(agents(False), "show it a model's thought"),
        "max_error_share": _setting(judged(0.05), "above it no rate is given", **SHARE),
    }


SETTINGS = _settings()
EVALUATE = form("evaluate", "One evaluation.", **{n: s.key for n, s in SETTINGS.items()})


def resolve(kind: str, given: dict) -> dict:
    """The settings of a kind: defaults and what was given.

    Raises:
      UserError: a setting that the kind has no use for, or a value that it does not have.
    """
    for name in given:
        if name in SETTINGS and kind not in SETTINGS[name].defaults:
            raise UserError(
                f"--{name} has no meaning for --kind={kind}; it belongs to "
                f"{', '.join(SETTINGS[name].defaults)}"
            )
    found = Problems(EVALUATE)
    given = EVALUATE.read(given, "--", found)
    found.raise_any()
    defaults = {n: s.defaults[kind] for n, s in SETTINGS.items() if kind in s.defaults}
    as_list = lambda value: list(value) if isinstance(value, tuple) else value
    return {name: as_list(value) for name, value in {**defaults, **given}.items()}


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
    from msm_jax.corpus.writers import Journal
    from msm_jax.corpus.writers.client import check_address
    from msm_jax.corpus.writers.providers import CLIENTS
    from msm_jax.evals.judges.api_judge import ANTHROPIC_MODEL, PACE, ApiJudge
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
    path = settings["judge_cache"] or output / "judge_cache.jsonl"
    cache = Journal(path, "wait until it has judged, or use another --judge_cache")
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
    pace = dataclasses.replace(PACE, concurrency=settings["judge_concurrency"])
    model = settings["judge_model"] or ANTHROPIC_MODEL
    client = CLIENTS[name](model, pace=pace, base_url=url)
    return ApiJudge(client, cache, tokens)


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
