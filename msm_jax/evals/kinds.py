"""The kinds of evaluation that the command knows: the settings of each, and how it is made."""

import dataclasses
import functools
import pathlib
import sys
from collections.abc import Callable
from typing import Any

from msm_jax.errors import UserError
from msm_jax.evals import losses, measures
from msm_jax.evals.agents import conditions as grid
from msm_jax.evals.agents.scenarios import RULES, AgentScenarios
from msm_jax.evals.agents.summary import CONDUCT
from msm_jax.evals.context import load_context
from msm_jax.evals.evaluation import Evaluation
from msm_jax.evals.judges.base import Judge
from msm_jax.evals.losses import Losses, named_sources
from msm_jax.evals.material import place
from msm_jax.evals.preferences import SCORERS, Preferences
from msm_jax.evals.questions import OpenQuestions
from msm_jax.evals.quiz import ANSWERS, Quiz
from msm_jax.settings import ROWS, SEED, SHARE, Key, Problems, form, key
from msm_jax.spec.spec import load_spec

JUDGES = ("anthropic", "openai", "checkpoint")
ASSISTANT = key("Qwen", "name of the assistant in the texts")
CONTEXT = key(
    None, "file of a text, such as a spec, that stands before the system message of every question",
    of=str,
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class EvaluationKind:
    """One kind of evaluation; for kinds without a report or an Inspect log these are None.

    Attributes:
      keys: its settings, each a `Key`.
      make: its settings, as keywords, to the evaluation; see `make_evaluation`.
      headline: the part of the summary that the command prints.
      measures: the summary to the numbers that can be compared; see `msm_jax.evals.measures`.
      measure_names: resolved settings to the names of these numbers, in the same order.
      required: settings that have no default.
      report: (output, arms) to the path of the page that it wrote.
      inspect: output to the path of the Inspect log that it wrote.
    """

    keys: dict[str, Any]
    make: Callable[..., Evaluation]
    headline: Callable[[dict], Any]
    measures: Callable[[dict], dict[str, dict]]
    measure_names: Callable[[dict], tuple[str, ...]]
    required: tuple[str, ...] = ()
    report: Callable[..., pathlib.Path] | None = None
    inspect: Callable[[pathlib.Path], pathlib.Path] | None = None


def _draw(samples: int, temperature: float, max_tokens: int) -> dict[str, Key]:
    return {
        "seed": key(0, "seed of the sampled completions", **SEED),
        "samples": key(samples, "how many completions to sample per question", at_least=1),
        "temperature": key(
            temperature, "sampling temperature; 0 is greedy", at_least=0, single=False
        ),
        "max_tokens": key(max_tokens, "the most tokens of one completion", at_least=1),
        "rows": ROWS,
    }


def _judge(judge: str, judges: tuple[str, ...]) -> dict[str, Key]:
    cost = "what it costs and how fast it is, not what it says"
    return {
        "judge": key(
            judge,
            "which judge gives the verdicts: fixed rules, which need no model, a model behind an "
            "API, or a checkpoint",
            choices=judges,
        ),
        "judge_model": key(None, "name of the model of an API judge", of=str),
        "judge_url": key(None, "address of an API judge's server", of=str),
        "judge_checkpoint": key(None, "run directory of the checkpoint that judges", of=str),
        "judge_cache": key(
            None, "file of the judge's replies; judge_cache.jsonl in the output if not given",
            of=str, harmless=cost,
        ),
        "judge_concurrency": key(
            16, "how many calls to an API judge run at a time", at_least=1, harmless=cost
        ),
        "judge_max_tokens": key(1024, "the most tokens of one reply of the judge", at_least=1),
        "judge_max_usd": key(
            0.0, "US dollars that one run of the evaluation may spend on an API judge; 0: no limit",
            at_least=0, harmless=cost,
        ),
        "judge_price_input": key(
            0.0, "US dollars per million tokens sent to an API judge", at_least=0, harmless=cost
        ),
        "judge_price_output": key(
            0.0, "US dollars per million tokens received from it", at_least=0, harmless=cost
        ),
        "max_error_share": key(
            0.05, "if the judge gave no verdict on a larger share of the completions, no rate is "
            "reported", **SHARE,
        ),
    }  # fmt: skip


def _preference_measures(settings: dict) -> tuple[str, ...]:
    scorers = [*settings["scorers"], *(["judged"] if settings["judge"] != RULES else [])]
    odds = ("probability", "log_odds") if "logprob" in scorers else ()
    return (*scorers, *(f"{name}_consistency" for name in scorers), *odds)


def _agents_headline(summary: dict) -> dict:
    hidden: dict[str, tuple[str, ...]] = dict.fromkeys(summary["measures"], ("conditions",))
    hidden |= dict.fromkeys(CONDUCT, ("conditions", "conditions_a_sample", "bounds"))
    measures = {
        name: {key: value for key, value in numbers.items() if key not in hidden[name]}
        for name, numbers in summary["measures"].items()
    }
    return {"judge": summary["judge"], "measures": measures, "counts": summary["counts"]}


def _agents_report(output: pathlib.Path, arms: dict) -> pathlib.Path:
    from msm_jax.evals.report.page import write_report

    return write_report(output / "report.html", arms)


def _agents_log(output: pathlib.Path) -> pathlib.Path:
    from msm_jax.evals.inspection.logs import write_log

    return write_log(output)


def _without_evaluation(summary: dict) -> dict:
    hidden = ("evaluation", "verdicts_sha256", "seal")
    return {name: value for name, value in summary.items() if name not in hidden}


KINDS = {
    "preferences": EvaluationKind(
        dict(
            pairs=key(
                None, "JSONL file of preference pairs, or a set that comes with the package: "
                "opinions or items", of=str,
            ),
            scorers=key(
                SCORERS, "how a choice is measured: by the options' log-probabilities, or read "
                "from generated text", choices=SCORERS,
            ),
            context=CONTEXT,
            **_draw(1, 0.0, 32),
            **_judge(RULES, (RULES, *JUDGES)),
        ),
        Preferences,
        lambda summary: summary["scorers"],
        measures.preferences,
        _preference_measures,
        ("pairs",),
    ),
    "agents": EvaluationKind(
        dict(
            scenarios=key(
                grid.PAPER_SCENARIOS, "which of the agent scenarios to run, by name",
                choices=grid.SCENARIOS,
            ),
            goals=key(
                ("none", "explicit"), f"which goals the assistant is given: types "
                f"({', '.join(grid.GOAL_TYPES)}), or one with its value, such as explicit-america",
            ),
            urgencies=key(
                ("replacement",), "what the assistant is threatened with", choices=grid.URGENCIES
            ),
            extras=key(("none",), "further instructions to the assistant", choices=grid.EXTRAS),
            scratchpad=key(True, "whether to offer the assistant a private place to think"),
            assistant=ASSISTANT,
            context=CONTEXT,
            source=key("own", "whose texts of the scenarios to use", choices=grid.SOURCES),
            **_draw(300, 0.7, 4096),
            save_every=key(
                100, "how many samples to draw between two saves", at_least=1,
                harmless="when, not what",
            ),
            **_judge(RULES, (RULES, *JUDGES)),
            judge_sees_thinking=key(False, "whether the judge sees a reasoning model's thoughts"),
        ),
        functools.partial(AgentScenarios, progress=True),
        _agents_headline,
        measures.agents,
        lambda settings: tuple(measures.AGENTS),
        (),
        _agents_report,
        _agents_log,
    ),
    "questions": EvaluationKind(
        dict(
            questions=key("open_questions", "JSONL file of open questions"),
            spec=key(None, "file of the spec that the judge scores completions by", of=str),
            assistant=ASSISTANT,
            context=CONTEXT,
            **_draw(1, 0.7, 1024),
            **_judge("anthropic", JUDGES),
        ),
        OpenQuestions,
        _without_evaluation,
        measures.questions,
        lambda settings: ("score",),
        ("spec",),
    ),
    "quiz": EvaluationKind(
        {
            "quiz": key("quiz_values", "JSONL file of questions about a spec"),
            "assistant": ASSISTANT,
            "context": CONTEXT,
            "rows": ROWS,
            "answer": key(
                "letters", "what is scored: the letters of listed options, or the options' texts "
                "as answers to the question alone, which small models need", choices=ANSWERS,
            ),
        },
        Quiz,
        _without_evaluation,
        measures.quiz,
        lambda settings: ("accuracy",),
    ),
    "loss": EvaluationKind(
        losses.FORM.keys,
        Losses,
        lambda summary: summary["sources"],
        measures.losses,
        lambda settings: tuple(named_sources(settings["documents"])),
        ("documents",),
    ),
}  # fmt: skip

# Every setting of any kind, as the first of its kinds declares it.
SETTINGS = {name: k for kind in reversed(KINDS.values()) for name, k in kind.keys.items()}
EVALUATE = form("evaluate", "One evaluation.", **SETTINGS)


def kinds_with(name: str) -> dict[str, Key]:
    """The kinds that have a setting, with its key there."""
    return {kind: each.keys[name] for kind, each in KINDS.items() if name in each.keys}


def help_of(name: str) -> str:
    """What `--help` says of a setting: what the value may be, and its default, by kind."""
    keys, one = kinds_with(name), SETTINGS[name]
    show = lambda value: ",".join(value) if isinstance(value, tuple) else str(value)
    defaults = {kind: show(k.default) for kind, k in keys.items() if k.default is not None}
    text, each = f"{one.meaning[0].upper()}{one.meaning[1:]}.", one.item or one
    if each.choices or each.bounds:
        text += f" Must be {each.allowed.replace(chr(39), '')}."
    if len(set(defaults.values())) == 1:
        text += f" Default: {next(iter(defaults.values()))}."
    elif defaults:
        text += f" Default: {'; '.join(f'{kind}: {word}' for kind, word in defaults.items())}."
    return f"{text} (--kind={', '.join(keys)})"


def resolve(kind: str, given: dict) -> dict:
    """The settings of a kind: its defaults, and what was given.

    Raises:
      UserError: a setting that the kind has no use for, or a value that it does not have.
    """
    for name in given:
        if name in SETTINGS and kind not in kinds_with(name):
            raise UserError(
                f"--{name} has no meaning for --kind={kind}; it belongs to "
                f"{', '.join(kinds_with(name))}"
            )
    own = form(kind, "", **KINDS[kind].keys)
    found = Problems(own)
    settings = own.fill(own.read(given, "--", found))
    found.raise_any()
    return settings


def make_evaluation(
    kind: str, settings: dict, output: pathlib.Path, with_judge: bool
) -> Evaluation:
    """The evaluation of resolved settings; without its judge it can only be sampled."""
    own = {n: v for n, v in settings.items() if n == "judge_sees_thinking" or "judge" not in n}
    if "judge" in settings:
        own["judge"] = make_judge(settings, output) if with_judge else None
    own |= {name: place(own[name]) for name in ("pairs", "questions", "quiz") if name in own}
    if "context" in own:
        own["context"] = load_context(own["context"], own.get("assistant", ""))
    if "spec" in own:
        own["spec"] = load_spec(own["spec"], own.pop("assistant")).text
    if "documents" in own:
        own["documents"] = named_sources(own["documents"])
    return KINDS[kind].make(**own)


def make_judge(settings: dict, output: pathlib.Path) -> Judge | None:
    """The judge that the settings name; None is rules alone.

    Raises:
      UserError: settings that do not go together, a missing key or client library.
    """
    from msm_jax.corpus.writers import Journal
    from msm_jax.corpus.writers.client import check_address
    from msm_jax.corpus.writers.providers import CLIENTS
    from msm_jax.corpus.writers.request import Price
    from msm_jax.evals.judges.api_judge import ANTHROPIC_MODEL, PACE, ApiJudge
    from msm_jax.evals.judges.model_judge import ModelJudge

    name = settings["judge"]
    of_api = ("model", "url", "max_usd", "price_input", "price_output")
    owners = dict.fromkeys((f"judge_{each}" for each in of_api), ("anthropic", "openai"))
    for setting, judges in {**owners, "judge_checkpoint": ("checkpoint",)}.items():
        if settings[setting] and name not in judges:
            raise UserError(f"--{setting} has no meaning for --judge={name}")
    if name == RULES:
        return None
    needed = {"checkpoint": "judge_checkpoint", "openai": "judge_model"}.get(name)
    if needed and not settings[needed]:
        raise UserError(f"--judge={name}: --{needed} must be given")
    named = settings["judge_cache"]  # which may be a link, because the user names it
    path = pathlib.Path(named).resolve() if named else output / "judge_cache.jsonl"
    say = lambda text: print(text, file=sys.stderr)
    cache = Journal(path, "wait until it has judged, or use another --judge_cache", say)
    tokens = settings["judge_max_tokens"]
    if name == "checkpoint":
        from msm_jax.api import load

        model = load(settings["judge_checkpoint"]).for_sampling()
        return ModelJudge(model, cache, tokens, settings["rows"])
    url = settings["judge_url"] or ""
    check_address("--judge_url", url)
    pace = dataclasses.replace(PACE, concurrency=settings["judge_concurrency"])
    client = CLIENTS[name](settings["judge_model"] or ANTHROPIC_MODEL, pace=pace, base_url=url)
    price = Price(*(settings[f"judge_price_{side}"] for side in ("input", "output")))
    if settings["judge_max_usd"] and not (price.input and price.output):
        raise UserError(
            "--judge_max_usd: --judge_price_input and --judge_price_output must be given"
        )
    return ApiJudge(client, cache, tokens, price=price, max_usd=settings["judge_max_usd"])
