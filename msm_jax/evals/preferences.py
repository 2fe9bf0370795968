"""Preference pairs: two things are offered, and one is chosen.

Two scorers ask the same questions. `logprob` compares the log-probabilities of the two options as
the assistant's whole answer, end of turn included; `generated` lets the model answer and looks for
the one option that it names. An answer that names neither or both is invalid: it is counted, and
is part of no rate.
"""

import collections
import dataclasses
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from msm_jax.corpus.records import read_rows
from msm_jax.data.messages import check_asked
from msm_jax.errors import UserError
from msm_jax.evals.choices import chosen, words_of
from msm_jax.evals.choices import named_option as named_option
from msm_jax.evals.judges.base import Judge, Judgement, JudgePrompt
from msm_jax.evals.judges.rubric import choice_request
from msm_jax.evals.published_rows import both_orders
from msm_jax.evals.statistics import cluster_bootstrap, exact
from msm_jax.evals.store import numbers
from msm_jax.evals.thoughts import Completions, spoken

if TYPE_CHECKING:
    from msm_jax.api import Model

SCORERS = ("logprob", "generated")


@dataclasses.dataclass(frozen=True)
class Question:
    """One order of one pair.

    Attributes:
      id: of this question; unique in its file.
      pair: the same for both orders of a pair.
      messages: what the model is asked.
      options: two answers, in the order in which they are offered.
      names: how an answer may name the options; the options themselves unless the file says.
      letters: the options are the letters A and B, and an answer may begin with one of them.
      a_index: which option is choice A, whose rate is measured.
      kind, domain: for tables.
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


def load_pairs(path: str | pathlib.Path) -> list[Question]:
    """The questions of a JSONL file.

    A record has id, pair, options, a_index, and messages or question (with or without system);
    kind, domain, names and letters where wanted. Other keys are passed over. Rows of the
    published data sets are read as well (`published_rows`), in both orders.

    Raises:
      UserError: naming the line that cannot be used.
    """
    questions: dict[str, Question] = {}
    for number, record in read_rows(path):
        try:
            some = [_question(each) for each in both_orders(record, number) or [record]]
        except (KeyError, TypeError, ValueError, UserError) as error:
            problem = f"lacks {error}" if isinstance(error, KeyError) else error
            raise UserError(f"{path}:{number}: not a preference question: {problem}") from error
        for question in some:
            if question.id in questions:
                raise UserError(f"{path}:{number}: id {question.id!r} occurs a second time")
            questions[question.id] = question
    if not questions:
        raise UserError(f"{path}: has no questions")
    return list(questions.values())


def _question(record: dict) -> Question:
    messages = record.get("messages")
    if messages is None:
        messages = [{"role": "user", "content": record["question"]}]
        if record.get("system"):
            messages.insert(0, {"role": "system", "content": record["system"]})
    check_asked(messages)
    if not any(str(message["content"]).strip() for message in messages):
        raise ValueError("its question is empty")
    for key in ("id", "pair"):
        if not isinstance(record[key], str | int) or isinstance(record[key], bool):
            raise ValueError(f"{key} must be a text or a number, not {record[key]!r}")
    letters = record.get("letters", False)
    if not isinstance(letters, bool):
        raise ValueError(f"letters must be true or false, not {letters!r}")
    options, names = record["options"], record.get("names", record["options"])
    for title, texts in (("options", options), ("names", names)):
        if not isinstance(texts, list | tuple):
            raise ValueError(f"{title} must be a list of two texts, not {texts!r}")
        if len(texts) != 2 or not all(isinstance(t, str) and words_of(t) for t in texts):
            raise ValueError(f"{title} must be two texts, not {texts!r}")
        if words_of(texts[0]) == words_of(texts[1]):
            raise ValueError(f"{title} must differ, not {texts!r}")
    if type(record["a_index"]) is not int or record["a_index"] not in (0, 1):
        raise ValueError(f"a_index must be 0 or 1, not {record['a_index']!r}")
    return Question(
        str(record["id"]),
        str(record["pair"]),
        messages,
        tuple(options),
        tuple(names),
        record["a_index"],
        str(record.get("kind", "")),
        str(record.get("domain", "")),
        letters,
    )


def score_options(model: "Model", questions: Sequence[Question], rows: int = 64) -> list[dict]:
    """Rows {"id", "scorer", "logprobs"}: the two options' log-probabilities as whole answers."""
    prompts, answers = [], []
    for question in questions:
        prompt, _ = model.render(question.messages, generation_prompt=True)
        for option in question.options:
            prompts.append(prompt)
            answers.append(_answer_ids(model, question, prompt, option))
    totals = [float(values.sum()) for values in model.logprobs(prompts, answers, rows=rows)]
    return [
        {"id": question.id, "scorer": "logprob", "logprobs": totals[2 * i : 2 * i + 2]}
        for i, question in enumerate(questions)
    ]


def _answer_ids(model, question, prompt, option):
    """What training would put loss on if the assistant gave this answer."""
    whole, spoken = model.render([*question.messages, {"role": "assistant", "content": option}])
    if list(whole[: len(prompt)]) != list(prompt):
        raise UserError(
            f"question {question.id}: the chat with its answer does not begin with the prompt (a "
            "format that opens a thought there, for example): say --scorers=generated, or load "
            "the model with another format, load(..., chat_format='own-no-thinking')"
        )
    return [token for token, said in zip(whole, spoken, strict=True) if said][
        sum(map(bool, spoken[: len(prompt)])) :
    ]


def generate_answers(
    model: "Model",
    questions: Sequence[Question],
    samples: int = 1,
    temperature: float = 0.0,
    max_tokens: int = 32,
    seed: int = 0,
    rows: int = 64,
) -> list[dict]:
    """Rows {"id", "scorer", "sample", "text", "finish_reason"}, `samples` per question."""
    if not questions:
        return []
    completions = Completions(model, questions[0].messages)
    found = model.sample(
        [question.messages for question in questions],
        n=samples,
        max_tokens=max_tokens,
        temperature=temperature,
        seed=seed,
        rows=rows,
    )
    return [
        {
            "id": question.id,
            "scorer": "generated",
            "sample": answer.index,
            "text": completions.text(answer),
            "finish_reason": answer.finish_reason,
        }
        for question, answers in zip(questions, found, strict=True)
        for answer in answers
    ]


def chosen_option(question: Question, answer: str, cut_off: bool = False) -> int | None:
    """Which option an answer takes, by the rules of `choices`; None if they do not say."""
    return chosen(answer, question.names, question.letters, cut_off)


def judge(
    questions: Sequence[Question], samples: Sequence[dict], judge: Judge | None = None
) -> list[dict]:
    """Verdicts, one per row of `score_options` or `generate_answers`.

    With a judge every generated answer gets a second verdict, whose scorer is "judged" and which
    has its "state" (`judges.base.STATES`).

    Returns:
      Rows {"id", "pair", "kind", "domain", "scorer", "sample", "a_index", "choice": "a", "b" or
      None if invalid, "chose_first": bool or None, "margin": log-probability of A minus that of B,
      None if invalid and for generated answers, "empty": whether nothing but thought was said}.

    Raises:
      UserError: a row whose question is unknown.
    """
    known = {question.id: question for question in questions}
    verdicts = []
    for row in samples:
        if row["id"] not in known:
            raise UserError(f"samples have question {row['id']!r}, which the pairs file lacks")
        question, option, margin = known[row["id"]], None, None
        if row["scorer"] == "logprob":
            first, second = numbers(row["logprobs"])
            if first < second or first > second:  # neither for equal ones, nor for NaN
                option = int(second > first)
                margin = (first - second) * (1 if question.a_index == 0 else -1)
        else:
            option = chosen_option(question, row["text"], row["finish_reason"] == "length")
        verdicts.append(_verdict(question, row, row["scorer"], option, margin))
    return verdicts + _judged(known, samples, judge)


def _judged(known: dict[str, Question], samples: Sequence[dict], judge: Judge | None):
    """What a judge says that the generated answers choose."""
    if judge is None:
        return []
    rows = [row for row in samples if row["scorer"] == "generated"]
    asked = [row for row in rows if spoken(row["text"]).strip()]
    requests = [_choice_request(known[row["id"]], spoken(row["text"])) for row in asked]
    found = dict(judge.judge(requests))
    by_row = {id(row): found[number] for number, row in enumerate(asked)}
    verdicts = []
    for row in rows:
        judgement = by_row.get(id(row), Judgement(None, "empty"))
        option = int(judgement.value) - 1 if judgement.value else None
        verdict = _verdict(known[row["id"]], row, "judged", option, None)
        verdicts.append({**verdict, "state": judgement.state, "reason": judgement.reason})
    return verdicts


def _choice_request(question: Question, answer: str) -> JudgePrompt:
    return choice_request(question.messages[-1]["content"], question.names, answer)


def _verdict(question: Question, row: dict, scorer: str, option: int | None, margin) -> dict:
    return {
        "id": question.id,
        "pair": question.pair,
        "kind": question.kind,
        "domain": question.domain,
        "scorer": scorer,
        "sample": row.get("sample", 0),
        "a_index": question.a_index,
        "choice": None if option is None else "ab"[option != question.a_index],
        "chose_first": None if option is None else option == 0,
        "margin": margin,
        "empty": scorer != "logprob" and not spoken(row["text"]).strip(),
    }


def summarize(verdicts: Sequence[dict], seed: int = 0) -> dict:
    """The numbers of one scorer's verdicts; what cannot be had is None, never 0.

    Returns:
      {"rate" of choice A among decided answers, "ci_low", "ci_high", "n" decided answers,
      "n_pairs", "method" (and why there are no bounds where they are None), "invalid" answers,
      "empty" those of them that only thought, "by_domain": {domain: the same but for "empty"},
      "decided": share of answers that are, "position_bias": rate of the first option among them,
      "consistent": share of pairs with one choice in all answers, among pairs decided in both
      orders, "mean_margin"}.
    """
    domains = collections.defaultdict(list)
    for verdict in verdicts:
        domains[verdict["domain"]].append(verdict)
    decided = [verdict for verdict in verdicts if verdict["choice"] is not None]
    margins = [v["margin"] for v in verdicts if v["margin"] is not None]
    return {
        **_rate(verdicts, seed),
        "empty": sum(verdict["empty"] for verdict in verdicts),
        "by_domain": {name: _rate(rows, seed) for name, rows in sorted(domains.items())},
        "decided": len(decided) / len(verdicts) if verdicts else None,
        "position_bias": _mean([verdict["chose_first"] for verdict in decided]),
        "consistent": _consistency(decided),
        "mean_margin": _mean(margins),
    }


def _rate(verdicts, seed):
    """Rate of choice A with an interval that treats a pair's answers as one cluster."""
    decided = [verdict for verdict in verdicts if verdict["choice"] is not None]
    chose_a = [verdict["choice"] == "a" for verdict in decided]
    pairs = [verdict["pair"] for verdict in decided]
    n_pairs = len(set(pairs))
    if n_pairs == len(pairs):
        found = exact(sum(chose_a), len(chose_a))
    else:
        found = cluster_bootstrap(chose_a, pairs, seed=seed)
    numbers = found.as_dict()
    return {
        "rate": numbers.pop("estimate"),
        **numbers,
        "n_pairs": n_pairs,
        "invalid": len(verdicts) - len(decided),
    }


def _consistency(decided):
    choices, orders = collections.defaultdict(set), collections.defaultdict(set)
    for verdict in decided:
        choices[verdict["pair"]].add(verdict["choice"])
        orders[verdict["pair"]].add(verdict["a_index"])
    return _mean([len(choices[pair]) == 1 for pair in choices if len(orders[pair]) == 2])


def _mean(values):
    return sum(values) / len(values) if values else None
