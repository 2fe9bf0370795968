"""Open questions, answered freely and scored by a judge who has read the spec.

A row of the file has "question" (or "messages"), with "id" and "dimension" where wanted, which is
also the form of `chloeli/spec-open-qa`. Scores go from 1 to 10. The paper finds this measure near
its ceiling after fine-tuning: it tells weak models from strong ones, not strong ones apart.
"""

import dataclasses
import itertools
import operator
import pathlib
from collections.abc import Hashable, Iterator, Sequence
from typing import TYPE_CHECKING

from msm_jax.data.messages import check_asked
from msm_jax.errors import UserError
from msm_jax.evals import evaluation as evals
from msm_jax.evals.context import counted, in_context
from msm_jax.evals.judges.base import FAILURES, cut_off, withheld, withhold
from msm_jax.evals.judges.rubric import score_request
from msm_jax.evals.statistics import cluster_bootstrap
from msm_jax.evals.thoughts import spoken
from msm_jax.files import sha256_file, sha256_text

if TYPE_CHECKING:
    from msm_jax.api import Model

SCALE = (1.0, 10.0)  # of a judge's scores


@dataclasses.dataclass
class OpenQuestions(evals.SampledAnswers):
    """Questions, and a spec to score their answers by, as an `Evaluation`.

    Attributes:
      questions: JSONL file.
      spec: the text that answers are judged by; the model does not see it.

    Raises:
      UserError: questions that cannot be used.
    """

    questions: str | pathlib.Path
    spec: str

    def __post_init__(self) -> None:
        self.asked = load_questions(self.questions)
        self._hash = sha256_file(self.questions)
        super().__post_init__()

    def settings(self) -> dict:
        found = {"kind": "questions", "questions_hash": self._hash}
        return {**found, **self.draw(), **counted(self.context)}

    def unit(self, row: dict) -> Hashable:
        return row["id"]

    def sample(self, model: "Model", done: set) -> Iterator[Sequence[dict]]:
        todo = [
            (question["id"], in_context(question["messages"], self.context))
            for question in self.asked
            if question["id"] not in done
        ]
        for start in range(0, len(todo), self.rows):
            some = dict(todo[start : start + self.rows])
            yield evals.completions(model, some, rows=self.rows, **self.draw())

    def verdicts(self, rows: list[dict]) -> list[dict]:
        """Scores; a completion that is only thought is "empty" and gets none."""
        if self.judge is None:
            raise UserError("open questions need a judge: --judge=anthropic, openai or checkpoint")
        known = {question["id"]: question for question in self.asked}
        evals.check_counts(map(self.unit, rows), dict.fromkeys(known, self.samples))
        requests = []
        for row in rows:
            text, asked = spoken(row["text"]).strip(), known[row["id"]]["messages"][-1]["content"]
            requests.append(score_request(asked, text, self.spec) if text else None)
        return [
            {
                "id": row["id"],
                "sample": row["sample"],
                "dimension": known[row["id"]]["dimension"],
                "score": judgement.value,
                "state": judgement.state,
                "reason": judgement.reason,
                "truncated": row["finish_reason"] == "length",
            }
            for row, judgement in zip(rows, evals.judgements(self.judge, requests), strict=True)
        ]

    def summary(self, verdicts: list[dict]) -> dict:
        how = {"spec": sha256_text(self.spec), "max_error_share": self.max_error_share}
        identity = {} if self.judge is None else self.judge.identity
        return {"judge": {**identity, **how}, **summarize(verdicts, self.max_error_share)}


def load_questions(path: str | pathlib.Path) -> list[dict]:
    """Questions as {"id", "dimension", "messages"}.

    Raises:
      UserError: naming the line that cannot be used, or a file without questions.
    """

    def read(row: dict, number: int) -> dict[str, dict]:
        text, messages = row.get("question", row.get("prompt")), row.get("messages")
        if messages is None and isinstance(text, str) and text.strip():
            messages = [{"role": "user", "content": text}]
        if not messages:
            raise ValueError("needs a text 'question' or 'messages'")
        check_asked(messages)
        name = str(row.get("id", f"row-{number}"))
        dimension = str(row.get("dimension", row.get("category", "")))
        return {name: {"id": name, "dimension": dimension, "messages": messages}}

    return list(evals.read_questions(path, read).values())


def summarize(verdicts: Sequence[dict], max_error_share: float) -> dict:
    """{"score", "ci_low", "ci_high", "n", "method", "states", "replies_cut_off", "truncated",
    "by_dimension"}; None if withheld.

    Samples of one question are one cluster; a single question has no interval. Of the unparsed,
    `replies_cut_off` are replies of the judge that ended at its max_tokens; `truncated` are
    completions that ended at theirs.
    """
    states = [verdict["state"] for verdict in verdicts]
    dimension = operator.itemgetter("dimension")
    dimensions = itertools.groupby(sorted(verdicts, key=dimension), dimension)
    return {
        **_score(verdicts, max_error_share),
        "states": {state: states.count(state) for state in ("ok", *FAILURES, "empty")},
        "replies_cut_off": cut_off(verdicts),
        "truncated": sum(verdict["truncated"] for verdict in verdicts),
        "by_dimension": {name: _score(list(rows), max_error_share) for name, rows in dimensions},
    }


def _score(verdicts: Sequence[dict], max_error_share: float) -> dict:
    scored = [verdict for verdict in verdicts if verdict["score"] is not None]
    scores, questions = [v["score"] for v in scored], [v["id"] for v in scored]
    found = cluster_bootstrap(scores, questions, limits=SCALE).as_dict("score")
    reason = withheld([verdict["state"] for verdict in verdicts], max_error_share)
    return withhold(found, "score", reason)
