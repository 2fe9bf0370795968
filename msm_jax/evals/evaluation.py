"""An evaluation as files: its completions are sampled once and judged as often as wanted.

    evaluation.json        the model, and the settings that decide what it is asked
    samples.jsonl          the completions (samples.partial.jsonl until they are complete)
    verdicts.jsonl         how each completion was read or judged
    summary.json           the rates and their intervals, the SHA-256 of verdicts.jsonl, and a seal:
                           that of all else in it

`sample` needs the model and writes the first two; `judge` needs only them and writes the others.
Either may be killed and run again. An `Evaluation` says what goes into the files.
"""

import collections
import contextlib
import dataclasses
import math
import os
import pathlib
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from msm_jax.corpus.records import read_rows
from msm_jax.errors import UserError
from msm_jax.evals.judges.base import Judge, Judgement, JudgePrompt
from msm_jax.evals.thoughts import READING, Completions
from msm_jax.files import (
    append,
    delete,
    jsonl_line,
    lock,
    read_json,
    read_jsonl,
    rename,
    seal,
    sha256_file,
    write_json,
    write_jsonl,
)
from msm_jax.links import below
from msm_jax.progress import progress_bar
from msm_jax.sample.settings import check_settings
from msm_jax.schema import NUMBER, mismatch

if TYPE_CHECKING:
    from msm_jax.api import Model

BATCHES_PER_SAVE = 16
JUDGE_AGAIN = "run --phase=judge again (answers and paid replies are kept)"
# What evaluation.json must hold, and by kind a row of samples.jsonl.
RECORDED = {"model": {str: object}, "kind?": str}
_TEXT = {"id": str, "sample": int, "text": str, "finish_reason": str}
SAMPLES: dict[str, Any] = {
    "agents": {**_TEXT, "tokens": int},
    "preferences": (
        {**_TEXT, "scorer": "generated"},
        {"id": str, "scorer": "logprob", "logprobs": [NUMBER, NUMBER]},
    ),
    "questions": _TEXT,
    "quiz": {"id": str, "turn": int, "logprobs": [NUMBER]},
    "loss": {"source": str, "row": int, "nats": NUMBER, "tokens": int},
}
Question = TypeVar("Question")


class Evaluation(Protocol):
    """What is asked, how completions are judged, and how verdicts become rates."""

    def settings(self) -> dict:
        """The settings that the completions depend on beside the model, as JSON."""

    def unit(self, row: dict) -> Hashable:
        """The key of the rows of samples.jsonl that are sampled together with this one."""

    def sample(self, model: "Model", done: set) -> Iterator[Sequence[dict]]:
        """Rows of samples.jsonl in any order, some at a time, without the units in `done`."""

    def verdicts(self, rows: list[dict]) -> list[dict]:
        """Rows of verdicts.jsonl, from all rows of samples.jsonl."""

    def summary(self, verdicts: list[dict]) -> dict:
        """The numbers of summary.json."""


def sample(model: "Model", evaluation: Evaluation, out_dir: str | pathlib.Path) -> None:
    """Write samples.jsonl; a complete one is kept, and after a kill all that was saved.

    Raises:
      UserError: out_dir holds another evaluation, or another process works there.
    """
    out = pathlib.Path(out_dir)
    _check_settings(out, {**evaluation.settings(), "model": model.identity()})
    complete, partial = below(out, "samples.jsonl"), below(out, "samples.partial.jsonl")
    if not complete.exists():
        with _lock(out):
            rows = read_jsonl(partial, form=_form_of_samples(evaluation))
            last = evaluation.unit(rows[-1]) if rows else None  # may lack rows: is sampled again
            rows = [row for row in rows if evaluation.unit(row) != last]
            write_jsonl(partial, rows)
            for some in evaluation.sample(model, {evaluation.unit(row) for row in rows}):
                append(partial, "".join(map(jsonl_line, some)).encode())
            rename(partial, complete.name)
    delete(partial, inside=out)


def judge(evaluation: Evaluation, out_dir: str | pathlib.Path) -> dict:
    """Turn samples.jsonl into verdicts.jsonl and summary.json, whose content is returned.

    Raises:
      UserError: samples that are missing, incomplete, or of another evaluation; another process
        works there.
    """
    out = pathlib.Path(out_dir)
    samples = below(out, "samples.jsonl")
    recorded = read_recorded(out)
    if not recorded or not samples.exists():
        raise UserError(f"{out}: has no complete samples.jsonl; run --phase=sample first")
    _check_settings(out, {**evaluation.settings(), "model": recorded["model"]})
    with _lock(out):
        form, rows = _form_of_samples(evaluation), list(read_rows(samples))
        for number, row in rows:
            if problem := mismatch(row, form):
                raise UserError(f"{samples}:{number}: {problem}: delete the file and sample again")
        verdicts = evaluation.verdicts([row for _, row in rows])
        summary = {"evaluation": recorded, "reading": READING, **evaluation.summary(verdicts)}
        write_jsonl(out / "verdicts.jsonl", verdicts)
        summary["verdicts_sha256"] = sha256_file(out / "verdicts.jsonl")
        summary["seal"] = seal(summary)
        write_json(out / "summary.json", summary)
    return summary


def read_recorded(out: pathlib.Path) -> dict | None:
    """evaluation.json of an evaluation's directory; None if it has none."""
    return read_json(below(out, "evaluation.json"), RECORDED, "sample into another directory")


def read_summary(out: pathlib.Path) -> dict:
    """summary.json, as `judge` wrote it.

    Raises:
      UserError: it is missing, made by other rules of reading, or was changed since, or the
        verdicts beside it were.
    """
    file = below(out, "summary.json")
    summary = read_json(file, {"evaluation": RECORDED, "reading?": int}, JUDGE_AGAIN)
    if summary is None:
        raise UserError(f"{out}: has no summary.json: {JUDGE_AGAIN}")
    if summary.get("reading") != READING:
        raise UserError(
            f"{out}: its verdicts were made by version {summary.get('reading', 1)} of the rules "
            f"by which answers are read, this is version {READING}: {JUDGE_AGAIN}"
        )
    # Evaluations that were judged before these two were recorded have neither.
    if summary.get("seal", "") not in ("", seal(summary)):
        raise UserError(f"{file}: is not what the evaluation wrote: {JUDGE_AGAIN}")
    verdicts = below(out, "verdicts.jsonl")
    if summary.get("verdicts_sha256", "") not in ("", sha256_file(verdicts)):
        raise UserError(f"{verdicts}: is not what summary.json was made from: {JUDGE_AGAIN}")
    return summary


def check_counts(found: Iterable[Hashable], wanted: Mapping[Any, int]) -> None:
    """UserError if samples.jsonl has other rows, or more or fewer of them, than are wanted."""
    counts = collections.Counter(found)
    for name in [*wanted, *counts]:
        if counts[name] != wanted.get(name, 0):
            raise UserError(
                f"samples.jsonl has {counts[name]} rows of {name!r:.200}, not "
                f"{wanted.get(name, 0)}: delete it and sample again"
            )


def read_verdicts(out: pathlib.Path) -> list[dict]:
    """The rows of verdicts.jsonl, as `judge` wrote them; raises as `read_summary`."""
    read_summary(out)
    return read_jsonl(out / "verdicts.jsonl")


def _form_of_samples(evaluation: Evaluation) -> Any:
    return SAMPLES.get(evaluation.settings().get("kind", "preferences"), {str: object})


def _lock(out: pathlib.Path) -> contextlib.AbstractContextManager[None]:
    busy = f"{out}: another process is sampling or judging there: wait, or use another --output"
    return lock(out / ".lock", busy)


def _check_settings(out: pathlib.Path, settings: dict) -> None:
    """Write evaluation.json, or compare with the one that is there and name every difference."""
    recorded = read_recorded(out)
    if recorded is None:
        return write_json(out / "evaluation.json", settings)
    before, now = _flat(recorded), _flat(settings)
    differences = "; ".join(
        f"{name}: was {before.get(name)!r}, now {now.get(name)!r}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    )
    if differences:
        raise UserError(
            f"{out}: holds another evaluation ({differences}); choose another output directory"
        )


def _flat(tree: dict, prefix: str = "") -> dict:
    """{"a": {"b": 1}} -> {"a.b": 1}."""
    found = {}
    for name, value in tree.items():
        path = f"{prefix}{name}"
        found |= _flat(value, f"{path}.") if isinstance(value, dict) else {path: value}
    return found


# ------------------------------------------------------------------ parts of evaluations


@dataclasses.dataclass(kw_only=True)
class SampledAnswers:
    """The settings of an evaluation whose answers are sampled.

    Attributes:
      samples: answers to each question.
      temperature, max_tokens, seed: of an answer, as `Model.sample` takes them.
      rows: how many answers are computed at a time; none depends on it.
      judge: reads the answers; without one they are sampled only, or read by rules.
      max_error_share: if the judge fails on a larger share of the answers, no rate is reported.
      context: a text before the system message of every question.

    Raises:
      UserError: a number that is out of range.
    """

    samples: int = 1
    temperature: float = 0.7
    max_tokens: int = 1024
    seed: int = 0
    rows: int = 64
    judge: Judge | None = None
    max_error_share: float = 0.05
    context: str = ""

    def __post_init__(self) -> None:
        check_settings(**self.draw(), rows=self.rows)

    def draw(self) -> dict[str, Any]:
        """The settings that the answers depend on."""
        names = ("samples", "temperature", "max_tokens", "seed")
        return {name: getattr(self, name) for name in names}


def read_questions(
    path: str | os.PathLike, read: Callable[[dict, int], Mapping[str, Question]]
) -> dict[str, Question]:
    """The questions of a JSONL file by their ids.

    Args:
      path: the file.
      read: (row, line number) to the questions of a row by their ids.

    Raises:
      UserError: a line that cannot be used, an id that occurs twice, or no questions.
    """
    found: dict[str, Question] = {}
    for number, row in read_rows(path):
        try:
            some = read(row, number)
        except (KeyError, TypeError, ValueError, UserError) as error:
            problem = f"lacks {error}" if isinstance(error, KeyError) else error
            raise UserError(f"{path}:{number}: not a usable question: {problem}") from error
        for name, question in some.items():
            if name in found:
                raise UserError(f"{path}:{number}: id {name!r} occurs a second time")
            found[name] = question
    if not found:
        raise UserError(f"{path}: has no questions")
    return found


def completions(
    model: "Model", prompts: Mapping[str, Any], samples: int, rows: int, **draw: Any
) -> list[dict]:
    """Rows {"id", "sample", "text", "finish_reason"}: `samples` completions of each prompt.

    Args:
      prompts: messages by id.
      rows: how many are sampled at a time; no completion depends on it.
      draw: temperature, max_tokens and seed, as `Model.sample` takes them.
    """
    if not prompts:
        return []
    asked = list(prompts.values())
    texts, found = Completions(model, asked[0]), model.sample(asked, samples, rows=rows, **draw)
    row = lambda sample: {"text": texts.text(sample), "finish_reason": sample.finish_reason}
    return [
        {"id": name, "sample": sample.index, **row(sample)}
        for name, some in zip(prompts, found, strict=True)
        for sample in some
    ]


def judgements(
    judge: Judge, requests: Sequence[JudgePrompt | None], reason: str = "", progress: bool = False
) -> list[Judgement]:
    """A judge's answer to each request; "empty" for this reason where there is None."""
    found = [Judgement(None, "empty", reason)] * len(requests)
    places = [place for place, request in enumerate(requests) if request]
    with progress_bar(len(places), "judging", hidden=not progress) as bar:
        for number, judgement in judge.judge([request for request in requests if request]):
            found[places[number]] = judgement
            bar.update(1)
    return found


def logprobs(row: dict) -> list[float]:
    """The log-probabilities of a row of samples.jsonl, where null stands for NaN or infinity."""
    return [math.nan if value is None else value for value in row["logprobs"]]
