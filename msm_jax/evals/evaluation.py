"""An evaluation as files: asked once, judged as often as wanted, continued where it was killed.

    evaluation.json        what was asked of whom; another question in the same place is an error
    samples.jsonl          the model's answers (samples.partial.jsonl while they come in)
    verdicts.jsonl         what they were taken to mean
    summary.json           the numbers

These are the files of an evaluation's directory; each appears only when it is complete. What is
asked, and how the answers are judged, is an `Evaluation`: preference pairs (here), agent
scenarios, open questions.
"""

import json
import pathlib
from collections.abc import Hashable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from msm_jax.corpus.records import file_hash, read_rows
from msm_jax.errors import UserError
from msm_jax.evals import preferences, store
from msm_jax.evals.judges.base import FAILURES, Judge, cut_off, withheld
from msm_jax.evals.preferences import SCORERS
from msm_jax.evals.thoughts import READING
from msm_jax.sample.settings import check_settings

if TYPE_CHECKING:
    from msm_jax.api import Model

_BATCHES_BETWEEN_SAVES = 16


class Evaluation(Protocol):
    """A set of questions, and what is made of the answers."""

    def asked(self) -> dict:
        """What decides the answers, beside the model, as JSON."""

    def unit(self, row: dict) -> Hashable:
        """What a row of samples.jsonl is a part of: the smallest thing that is asked at once."""

    def answers(self, model: "Model", done: set) -> Iterator[Sequence[dict]]:
        """Rows of samples.jsonl, in whatever order, without the units that are done."""

    def judge(self, rows: list[dict], out: pathlib.Path) -> tuple[list[dict], dict]:
        """(verdicts, summary without "evaluation") of complete samples. May keep files in out."""


def sample(model: "Model", evaluation: Evaluation, out_dir: str | pathlib.Path) -> None:
    """Write samples.jsonl; a killed run goes on where it was, a complete one returns at once.

    Raises:
      UserError: out_dir holds other answers.
    """
    out = pathlib.Path(out_dir)
    store.lock(out / "evaluation.json", {**evaluation.asked(), "model": model.identity()})
    answers = lambda done: evaluation.answers(model, done)
    store.collect(out / "samples.jsonl", evaluation.unit, answers)


def judge(evaluation: Evaluation, out_dir: str | pathlib.Path) -> dict:
    """Turn samples.jsonl into verdicts.jsonl and summary.json, whose content is returned.

    Raises:
      UserError: samples that are missing, incomplete, or answer something else; another process
        that judges them.
    """
    out = pathlib.Path(out_dir)
    if not (out / "samples.jsonl").exists():
        raise UserError(f"{out}: has no complete samples.jsonl; run --stage=sample first")
    asked = json.loads((out / "evaluation.json").read_text(encoding="utf-8"))
    store.lock(out / "evaluation.json", {**evaluation.asked(), "model": asked["model"]})
    with store.alone(out):
        rows = [row for _, row in read_rows(out / "samples.jsonl")]
        verdicts, numbers = evaluation.judge(rows, out)
        summary = {"evaluation": asked, "reading": READING, **numbers}
        store.write(out / "verdicts.jsonl", store.as_jsonl(verdicts))
        store.write(out / "summary.json", store.as_json(summary))
    return summary


class Preferences:
    """Pairs of options, asked by the scorers of `preferences`."""

    def __init__(
        self,
        pairs_path: str | pathlib.Path,
        scorers: Sequence[str] = SCORERS,
        seed: int = 0,
        *,
        samples: int = 1,
        temperature: float = 0.0,
        max_tokens: int = 32,
        rows: int = 64,
        judge: Judge | None = None,
        max_error_share: float = 0.05,
    ):
        """Read the pairs.

        Args:
          pairs_path: questions, as `preferences.load_pairs` reads them.
          scorers: of `SCORERS`.
          seed, samples, temperature, max_tokens: of the generated answers.
          rows: how many are computed at a time.
          judge: says what the generated answers choose, as a scorer of its own, "judged".
          max_error_share: of answers that the judge fails on, above which it gives no rate.

        Raises:
          UserError: an unknown scorer, unusable pairs, or a judge without generated answers.
        """
        if not scorers or len(set(scorers)) < len(scorers) or set(scorers) - set(SCORERS):
            raise UserError(f"scorers={list(scorers)}: each once, of {list(SCORERS)}")
        if judge is not None and "generated" not in scorers:
            raise UserError(f"scorers={list(scorers)}: a judge needs generated answers")
        self._judge, self._share = judge, max_error_share
        self._questions = preferences.load_pairs(pairs_path)
        self._pairs, self._scorers, self._rows = file_hash(pairs_path), list(scorers), rows
        self._generation: dict[str, Any] = {
            "samples": samples,
            "temperature": temperature,
            "max_tokens": max_tokens,
            "seed": seed,
        }

        check_settings(**self._generation, rows=rows)

    def asked(self) -> dict:
        return {"pairs": self._pairs, "scorers": self._scorers, **self._generation}

    def unit(self, row: dict) -> Hashable:
        return row["scorer"], row["id"]

    def answers(self, model: "Model", done: set) -> Iterator[Sequence[dict]]:
        for scorer in self._scorers:
            todo = [q for q in self._questions if (scorer, q.id) not in done]
            at_once = _BATCHES_BETWEEN_SAVES * self._rows
            for start in range(0, len(todo), at_once):
                some = todo[start : start + at_once]
                if scorer == "logprob":
                    yield preferences.score_options(model, some, rows=self._rows)
                else:
                    yield preferences.generate_answers(
                        model, some, rows=self._rows, **self._generation
                    )

    def judge(self, rows: list[dict], out: pathlib.Path) -> tuple[list[dict], dict]:
        verdicts = preferences.judge(self._questions, rows, self._judge)
        scorers = [*self._scorers, *(["judged"] if self._judge else [])]
        by_scorer = {
            scorer: preferences.summarize([v for v in verdicts if v["scorer"] == scorer])
            for scorer in scorers
        }
        if self._judge is None:
            return verdicts, {"scorers": by_scorer}
        rows = [verdict for verdict in verdicts if verdict["scorer"] == "judged"]
        states = [row["state"] for row in rows]
        reason = withheld(states, self._share)
        judged = by_scorer["judged"] | {state: states.count(state) for state in FAILURES}
        judged["replies_cut_off"] = cut_off(rows)
        if reason:
            judged |= {"rate": None, "ci_low": None, "ci_high": None}
            judged |= {"method": "no interval: withheld", "withheld": reason}
        return verdicts, {"judge": self._judge.identity, "scorers": by_scorer | {"judged": judged}}


def evaluate_preferences(
    model: "Model",
    pairs_path: str | pathlib.Path,
    out_dir: str | pathlib.Path,
    scorers: Sequence[str] = SCORERS,
    seed: int = 0,
    **settings,
) -> dict:
    """Ask and judge; what out_dir already has is not asked again.

    `settings` are those of `Preferences`. Returns summary.json's content.
    """
    evaluation = Preferences(pairs_path, scorers, seed, **settings)
    sample(model, evaluation, out_dir)
    return judge(evaluation, out_dir)
