"""Open questions, answered freely and scored by a judge who has read the spec.

A row of the file has "question" (or "messages"), with "id" and "dimension" where wanted, which is
also the form of `chloeli/spec-open-qa`. Scores go from 1 to 10. The paper finds this measure near
its ceiling after fine-tuning: it tells weak models from strong ones, not strong ones apart.
"""

import hashlib
import pathlib
from collections.abc import Hashable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from msm_jax.corpus.records import file_hash, read_rows
from msm_jax.data.messages import check_asked
from msm_jax.errors import UserError
from msm_jax.evals.judges.base import FAILURES, Judge, Judgement, cut_off, withheld
from msm_jax.evals.judges.rubric import score_request
from msm_jax.evals.statistics import cluster_bootstrap
from msm_jax.evals.thoughts import Completions, spoken
from msm_jax.sample.settings import check_settings

if TYPE_CHECKING:
    from msm_jax.api import Model

SCALE = (1.0, 10.0)  # of a judge's scores


class OpenQuestions:
    """Questions, a spec, and some samples of each answer."""

    def __init__(
        self,
        questions_path: str | pathlib.Path,
        spec: str,
        *,
        samples: int = 1,
        temperature: float = 0.7,
        max_tokens: int = 1024,
        seed: int = 0,
        rows: int = 64,
        judge: Judge | None = None,
        max_error_share: float = 0.05,
    ):
        """Read the questions.

        Args:
          questions_path: JSONL.
          spec: the text that answers are judged by; the model does not see it.
          samples, temperature, max_tokens, seed: of the answers.
          rows: how many are computed at a time.
          judge: needed to judge; rules cannot score.
          max_error_share: of answers that the judge fails on, above which there is no score.

        Raises:
          UserError: questions that cannot be used.
        """
        self.questions = load_questions(questions_path)
        self._hash, self._spec = file_hash(questions_path), spec
        self._generation: dict[str, Any] = {
            "samples": samples,
            "temperature": temperature,
            "max_tokens": max_tokens,
            "seed": seed,
        }
        check_settings(**self._generation, rows=rows)
        self._rows, self._judge, self._share = rows, judge, max_error_share

    def asked(self) -> dict:
        return {"kind": "questions", "questions_hash": self._hash, **self._generation}

    def unit(self, row: dict) -> Hashable:
        return row["id"]

    def answers(self, model: "Model", done: set) -> Iterator[Sequence[dict]]:
        todo = [question for question in self.questions if question["id"] not in done]
        how = {k: v for k, v in self._generation.items() if k != "samples"}
        completions = Completions(model, self.questions[0]["messages"])
        for start in range(0, len(todo), self._rows):
            some = todo[start : start + self._rows]
            asked = [question["messages"] for question in some]
            found = model.sample(asked, self._generation["samples"], rows=self._rows, **how)
            yield [
                {
                    "id": question["id"],
                    "sample": sample.index,
                    "text": completions.text(sample),
                    "finish_reason": sample.finish_reason,
                }
                for question, samples in zip(some, found, strict=True)
                for sample in samples
            ]

    def judge(self, rows: list[dict], out: pathlib.Path) -> tuple[list[dict], dict]:
        """Scores; an answer that is only thought is empty and gets none."""
        if self._judge is None:
            raise UserError("open questions need a judge: --judge=anthropic, openai or checkpoint")
        known = {question["id"]: question for question in self.questions}
        strange = [row["id"] for row in rows if row["id"] not in known]
        if strange:
            raise UserError(f"samples have question {strange[0]!r}, which the questions file lacks")
        texts = [spoken(row["text"]).strip() for row in rows]
        asked = [index for index, text in enumerate(texts) if text]
        requests = [
            score_request(known[rows[i]["id"]]["messages"][-1]["content"], texts[i], self._spec)
            for i in asked
        ]
        found = [Judgement(None, "empty")] * len(rows)
        for number, judgement in self._judge.judge(requests):
            found[asked[number]] = judgement
        verdicts = [
            {
                "id": row["id"],
                "sample": row["sample"],
                "dimension": known[row["id"]]["dimension"],
                "score": judgement.value,
                "state": judgement.state,
                "reason": judgement.reason,
                "truncated": row["finish_reason"] == "length",
            }
            for row, judgement in zip(rows, found, strict=True)
        ]
        spec = hashlib.sha256(self._spec.encode()).hexdigest()
        how = {**self._judge.identity, "spec": spec, "max_error_share": self._share}
        return verdicts, {"judge": how, **summarize(verdicts, self._share)}


def load_questions(path: str | pathlib.Path) -> list[dict]:
    """Questions as {"id", "dimension", "messages"}.

    Raises:
      UserError: naming the line that cannot be used, or a file without questions.
    """
    questions: dict[str, dict] = {}
    for number, row in read_rows(path):
        text, messages = row.get("question", row.get("prompt")), row.get("messages")
        if messages is None and isinstance(text, str) and text.strip():
            messages = [{"role": "user", "content": text}]
        if not messages:
            raise UserError(f"{path}:{number}: a question needs a text 'question' or 'messages'")
        try:
            check_asked(messages)
        except UserError as error:
            raise UserError(f"{path}:{number}: {error}") from error
        name = str(row.get("id", f"row-{number}"))
        if name in questions:
            raise UserError(f"{path}:{number}: id {name!r} occurs a second time")
        dimension = str(row.get("dimension", row.get("category", "")))
        questions[name] = {"id": name, "dimension": dimension, "messages": messages}
    if not questions:
        raise UserError(f"{path}: has no questions")
    return list(questions.values())


def summarize(verdicts: Sequence[dict], max_error_share: float) -> dict:
    """{"score", "ci_low", "ci_high", "n", "method", "states", "replies_cut_off", "truncated",
    "by_dimension"}; None if withheld.

    Samples of one question are one cluster; a single question has no interval. Of the unparsed,
    `replies_cut_off` are replies of the judge that ended at its max_tokens; `truncated` are
    answers that ended at theirs.
    """
    states = [verdict["state"] for verdict in verdicts]
    dimensions: dict[str, list[dict]] = {}
    for verdict in verdicts:
        dimensions.setdefault(verdict["dimension"], []).append(verdict)
    found = {
        **_score(verdicts, withheld(states, max_error_share)),
        "states": {state: states.count(state) for state in ("ok", *FAILURES, "empty")},
        "replies_cut_off": cut_off(verdicts),
        "truncated": sum(verdict["truncated"] for verdict in verdicts),
        "by_dimension": {
            name: _score(rows, withheld([r["state"] for r in rows], max_error_share))
            for name, rows in sorted(dimensions.items())
        },
    }
    return found


def _score(verdicts: Sequence[dict], reason: str) -> dict:
    scored = [verdict for verdict in verdicts if verdict["score"] is not None]
    scores, questions = [v["score"] for v in scored], [v["id"] for v in scored]
    found = cluster_bootstrap(scores, questions, limits=SCALE).as_dict()
    score = found.pop("estimate")
    if reason:
        found |= {"ci_low": None, "ci_high": None, "method": "no interval: withheld"}
        return {"score": None, **found, "withheld": reason}
    return {"score": score, **found}
