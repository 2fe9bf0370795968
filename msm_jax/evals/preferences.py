"""Preference pairs: two options are offered, and one is chosen.

Two scorers ask the same questions. `logprob` compares the log-probabilities of the two options as
the assistant's complete message, end of turn included; `generated` samples a completion and reads
which option it takes (`choices`). A completion that takes neither or both is invalid: it is
counted, and is part of no rate.
"""

import collections
import dataclasses
import itertools
import math
import operator
import pathlib
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from msm_jax.data.messages import check_asked
from msm_jax.errors import UserError
from msm_jax.evals import evaluation as evals
from msm_jax.evals.choices import chosen, words_of
from msm_jax.evals.context import counted, in_context
from msm_jax.evals.judges.base import FAILURES, Judge, cut_off, withheld, withhold
from msm_jax.evals.judges.rubric import choice_request
from msm_jax.evals.published_rows import both_orders
from msm_jax.evals.statistics import cluster_bootstrap, exact, no_interval
from msm_jax.evals.thoughts import spoken
from msm_jax.files import sha256_file
from msm_jax.schema import mismatch

if TYPE_CHECKING:
    from msm_jax.api import Model

SCORERS = ("logprob", "generated")
# What a record must hold, beside the question.
_RECORD = {
    **{"id": (str, int), "pair": (str, int), "options": [str, str], "a_index": int},
    **{"names?": [str, str], "letters?": bool},
}


@dataclasses.dataclass(frozen=True)
class Question:
    """One order of one pair, under an `id` that is unique in its file.

    Attributes:
      messages: what the model is asked.
      options: the two possible answers, in the order in which they are offered.
      names: how a completion may name the options; the options themselves unless the file says.
      a_index: which option is choice A, whose rate is measured.
      letters: the options are the letters A and B, and a completion may begin with one of them.
    """

    id: str
    pair: str
    messages: list[dict[str, str]]
    options: tuple[str, str]
    names: tuple[str, str]
    a_index: int
    kind: str = ""
    domain: str = ""
    letters: bool = False


@dataclasses.dataclass
class Preferences(evals.SampledAnswers):
    """Pairs of options as an `Evaluation`.

    Attributes:
      pairs: file of the questions, as `load_pairs` reads it.
      scorers: of `SCORERS`. A judge reads which option each generated completion takes, as a third
        scorer, "judged".

    Raises:
      UserError: an unknown scorer, unusable pairs, or a judge without generated completions.
    """

    pairs: str | pathlib.Path
    scorers: Sequence[str] = SCORERS
    _: dataclasses.KW_ONLY
    temperature: float = 0.0
    max_tokens: int = 32

    def __post_init__(self) -> None:
        names = list(self.scorers)
        if not names or len(set(names)) < len(names) or set(names) - set(SCORERS):
            raise UserError(f"scorers={names}: each once, of {list(SCORERS)}")
        if self.judge is not None and "generated" not in names:
            raise UserError(f"scorers={names}: a judge needs generated completions")
        self._hash = sha256_file(self.pairs)
        self.questions = [
            dataclasses.replace(question, messages=in_context(question.messages, self.context))
            for question in load_pairs(self.pairs)
        ]
        super().__post_init__()

    def settings(self) -> dict:
        found = {"pairs": self._hash, "scorers": list(self.scorers)}
        return {**found, **self.draw(), **counted(self.context)}

    def unit(self, row: dict) -> Hashable:
        return row["scorer"], row["id"]

    def sample(self, model: "Model", done: set) -> Iterator[Sequence[dict]]:
        for scorer in self.scorers:
            todo = [q for q in self.questions if (scorer, q.id) not in done]
            size = evals.BATCHES_PER_SAVE * self.rows
            for start in range(0, len(todo), size):
                some = todo[start : start + size]
                if scorer == "logprob":
                    asked = [(q.id, q.messages, q.options) for q in some]
                    totals = option_logprobs(model, asked, self.rows)
                    found = [
                        {"id": q.id, "scorer": scorer, "logprobs": each}
                        for q, each in zip(some, totals, strict=True)
                    ]
                else:
                    prompts = {q.id: q.messages for q in some}
                    rows = evals.completions(model, prompts, rows=self.rows, **self.draw())
                    found = [{"scorer": scorer, **row} for row in rows]
                yield found

    def verdicts(self, rows: list[dict]) -> list[dict]:
        often = {"logprob": 1, "generated": self.samples}
        wanted = {(scorer, q.id): often[scorer] for scorer in self.scorers for q in self.questions}
        evals.check_counts(map(self.unit, rows), wanted)
        return read_choices(self.questions, rows, self.judge)

    def summary(self, verdicts: list[dict]) -> dict:
        names = [*self.scorers, *(["judged"] if self.judge else [])]
        rows = {name: [row for row in verdicts if row["scorer"] == name] for name in names}
        found = {name: summarize(rows[name]) for name in names}
        if self.judge is None:
            return {"scorers": found}
        states = [row["state"] for row in rows["judged"]]
        found["judged"] |= {state: states.count(state) for state in FAILURES}
        found["judged"]["replies_cut_off"] = cut_off(rows["judged"])
        reason = withheld(states, self.max_error_share)
        found["judged"] = withhold(found["judged"], "rate", reason)
        return {"judge": self.judge.identity, "scorers": found}


def evaluate_preferences(
    model: "Model", pairs: str | pathlib.Path, out_dir: str | pathlib.Path, **settings: Any
) -> dict:
    """Sample and judge `Preferences(pairs, **settings)`; returns the content of summary.json.

    What out_dir already has is not sampled again.
    """
    evaluation = Preferences(pairs, **settings)
    evals.sample(model, evaluation, out_dir)
    return evals.judge(evaluation, out_dir)


# ------------------------------------------------------------------ questions


def load_pairs(path: str | pathlib.Path) -> list[Question]:
    """The questions of a JSONL file.

    A record has id, pair, options, a_index, and messages or question (with or without system);
    kind, domain, names and letters where wanted. Other keys are ignored. Rows of the published
    data sets are read as well (`published_rows`), in both orders.

    Raises:
      UserError: naming the line that cannot be used.
    """

    def read(row: dict, number: int) -> dict[str, Question]:
        orders = both_orders(row, number)
        return {q.id: q for q in map(_question, [row] if orders is None else orders)}

    return list(evals.read_questions(path, read).values())


def _question(record: Mapping) -> Question:
    messages = record.get("messages")
    if messages is None:
        messages = [{"role": "user", "content": record["question"]}]
        if record.get("system"):
            messages.insert(0, {"role": "system", "content": record["system"]})
    check_asked(messages)
    if not any(str(message["content"]).strip() for message in messages):
        raise ValueError("its question is empty")
    if problem := mismatch(record, _RECORD):
        raise ValueError(problem)
    if record["a_index"] not in (0, 1):
        raise ValueError(f"a_index must be 0 or 1, not {record['a_index']!r}")
    options, names = record["options"], record.get("names", record["options"])
    for title, texts in (("options", options), ("names", names)):
        first, second = map(words_of, texts)
        if not first or not second or first == second:
            raise ValueError(f"{title} must be two texts that differ, not {texts!r}")
    text = lambda key: str(record.get(key, ""))
    a_index, letters = record["a_index"], record.get("letters", False)
    return Question(
        text("id"), text("pair"), messages, tuple(options), tuple(names), a_index, text("kind"),
        text("domain"), letters,
    )  # fmt: skip


# ------------------------------------------------------------------ samples


def option_logprobs(
    model: "Model", asked: Sequence[tuple[str, Sequence[Mapping], Sequence[str]]], rows: int
) -> list[list[float]]:
    """The log-probability of each option as the assistant's complete message, end of turn included.

    Args:
      asked: (id, messages, options) of each question.
      rows: how many options are computed at a time.

    Raises:
      UserError: a conversation with an answer does not begin with the prompt.
    """
    prompts, answers = [], []
    for name, messages, options in asked:
        prompt, _ = model.render(messages, generation_prompt=True)
        prompts += [prompt] * len(options)
        answers += [_loss_tokens(model, name, messages, prompt, option) for option in options]
    values = iter(model.logprobs(prompts, answers, rows=rows))
    return [[float(next(values).sum()) for _ in options] for _, _, options in asked]


def _loss_tokens(
    model: "Model", name: str, messages: Sequence[Mapping], prompt: Sequence[int], option: str
) -> list[int]:
    """The tokens that training would put loss on if the assistant gave this answer."""
    tokens, loss = model.render([*messages, {"role": "assistant", "content": option}])
    if list(tokens[: len(prompt)]) != list(prompt):
        raise UserError(
            f"question {name}: the chat with its answer does not begin with the prompt (a format "
            "that opens a thought there, for example): load the model with another format, "
            "load(..., chat_format='own-no-thinking'), or, for preferences, use "
            "--scorers=generated"
        )
    return list(itertools.compress(tokens[len(prompt) :], loss[len(prompt) :]))


# ------------------------------------------------------------------ verdicts


def read_choices(
    questions: Sequence[Question], rows: Sequence[dict], judge: Judge | None = None
) -> list[dict]:
    """Verdicts, one per row of samples.jsonl.

    With a judge every generated completion gets a second verdict, whose scorer is "judged" and
    which has the judge's "state" (`judges.base.STATES`) and "reason".

    Returns:
      Rows {"id", "pair", "kind", "domain", "scorer", "sample", "a_index", "choice": "a", "b" or
      None if invalid, "chose_first": bool or None, "margin": log-probability of A minus that of B,
      None if invalid and for completions, "empty": whether the completion is nothing but thought}.
    """
    known = {question.id: question for question in questions}
    verdicts = []
    for row in rows:
        question, option, margin = known[row["id"]], None, None
        if row["scorer"] == "logprob":
            first, second = evals.logprobs(row)
            if first < second or first > second:  # neither for equal ones, nor for NaN
                option = int(second > first)
                margin = (first - second) * (1 if question.a_index == 0 else -1)
        else:
            is_cut = row["finish_reason"] == "length"
            option = chosen(row["text"], question.names, question.letters, is_cut)
        verdicts.append(_verdict(question, row, option, margin=margin))
    if judge is None:
        return verdicts
    rows = [row for row in rows if row["scorer"] == "generated"]
    requests = []
    for row in rows:
        question, text = known[row["id"]], spoken(row["text"])
        request = choice_request(question.messages[-1]["content"], question.names, text)
        requests.append(request if text.strip() else None)
    for row, judgement in zip(rows, evals.judgements(judge, requests), strict=True):
        option = int(judgement.value) - 1 if judgement.value else None
        more = {"scorer": "judged", "state": judgement.state, "reason": judgement.reason}
        verdicts.append(_verdict(known[row["id"]], row, option, **more))
    return verdicts


def _verdict(question: Question, row: dict, option: int | None, **more: Any) -> dict:
    return {
        **{name: getattr(question, name) for name in ("id", "pair", "kind", "domain")},
        "scorer": row["scorer"],
        "sample": row.get("sample", 0),
        "a_index": question.a_index,
        "choice": None if option is None else "ab"[option != question.a_index],
        "chose_first": None if option is None else option == 0,
        "margin": None,
        "empty": row["scorer"] == "generated" and not spoken(row["text"]).strip(),
        **more,
    }


# ------------------------------------------------------------------ rates


def summarize(verdicts: Sequence[dict]) -> dict:
    """The numbers of one scorer's verdicts; what cannot be computed is None, never 0.

    Returns:
      {"rate" of choice A among decided completions, "ci_low", "ci_high", "n" decided completions,
      "n_pairs", "method" (with the reason where there are no bounds), "invalid" completions,
      "empty" those of them that are only thought, "by_domain": {domain: the same but for "empty"},
      "decided": the share that is, "position_bias": rate of the first option among them,
      "consistent": rate of pairs with one choice in all completions, among pairs decided in both
      orders, with "ci_low", "ci_high", "n" pairs and "method"; "mean_margin"; "probability": of
      log-probabilities, how often A would be chosen of the two at temperature 1}.
    """
    domain = operator.itemgetter("domain")
    domains = itertools.groupby(sorted(verdicts, key=domain), domain)
    decided = [verdict for verdict in verdicts if verdict["choice"] is not None]
    return {
        **_rate(verdicts),
        "empty": sum(verdict["empty"] for verdict in verdicts),
        "by_domain": {name: _rate(list(rows)) for name, rows in domains},
        "decided": len(decided) / len(verdicts) if verdicts else None,
        "position_bias": _mean([verdict["chose_first"] for verdict in decided]),
        "consistent": _consistency(decided),
        "mean_margin": _mean([v["margin"] for v in verdicts if v["margin"] is not None]),
        "probability": _probability(decided),
    }


def _rate(verdicts: Sequence[dict]) -> dict:
    """Rate of choice A with an interval that treats a pair's completions as one cluster."""
    decided = [verdict for verdict in verdicts if verdict["choice"] is not None]
    chose_a = [verdict["choice"] == "a" for verdict in decided]
    pairs = [verdict["pair"] for verdict in decided]
    n, n_pairs = len(pairs), len(set(pairs))
    found = exact(sum(chose_a), n) if n == n_pairs else cluster_bootstrap(chose_a, pairs)
    return {**found.as_dict("rate"), "n_pairs": n_pairs, "invalid": len(verdicts) - n}


def _probability(decided: Sequence[dict]) -> dict:
    """The mean of exp(A) / (exp(A) + exp(B)), an interval as that of the rate."""
    scored = [verdict for verdict in decided if verdict["margin"] is not None]
    chance = [(1 + math.tanh(verdict["margin"] / 2)) / 2 for verdict in scored]
    found = cluster_bootstrap(chance, [verdict["pair"] for verdict in scored])
    return found.as_dict("probability")


def _consistency(decided: Sequence[dict]) -> dict:
    choices, orders = collections.defaultdict(set), collections.defaultdict(set)
    for verdict in decided:
        choices[verdict["pair"]].add(verdict["choice"])
        orders[verdict["pair"]].add(verdict["a_index"])
    same = [len(choices[pair]) == 1 for pair in choices if len(orders[pair]) == 2]
    nothing = no_interval(None, 0, "no pair was decided in both orders")
    return (exact(sum(same), len(same)) if same else nothing).as_dict("rate")


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
