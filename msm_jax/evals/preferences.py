"""Preference pairs: two options are offered, and one is chosen.

Two scorers ask the same questions. `logprob` compares the log-probabilities of the two options as
the assistant's complete message, end of turn included; `generated` samples a completion and reads
which option it takes (`choices`). A completion that takes neither or both is invalid: it is
counted, and is part of no rate.
"""

import collections
import dataclasses
import math
import pathlib
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from msm_jax.data.messages import check_asked
from msm_jax.errors import UserError
from msm_jax.evals import evaluation as evals
from msm_jax.evals.choices import chosen, words_of
from msm_jax.evals.context import counted, in_context
from msm_jax.evals.judges.base import FAILURES, Judge, cut_off, withheld
from msm_jax.evals.judges.rubric import choice_request
from msm_jax.evals.published_rows import both_orders
from msm_jax.evals.statistics import cluster_bootstrap, exact, no_interval
from msm_jax.evals.thoughts import spoken
from msm_jax.files import sha256_file
from msm_jax.sample.settings import check_settings

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
      options: the two possible answers, in the order in which they are offered.
      names: how a completion may name the options; the options themselves unless the file says.
      a_index: which option is choice A, whose rate is measured.
      kind, domain: for tables.
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
class Preferences:
    """Pairs of options as an `Evaluation`.

    Attributes:
      pairs_path: the questions, as `load_pairs` reads them.
      scorers: of `SCORERS`.
      seed, samples, temperature, max_tokens: of the generated completions.
      rows: how many are computed at a time.
      judge: reads which option each generated completion takes, as a third scorer, "judged".
      max_error_share: if the judge fails on a larger share of them, "judged" has no rate.
      context: a text before the system message of every question.

    Raises:
      UserError: an unknown scorer, unusable pairs, or a judge without generated completions.
    """

    pairs_path: str | pathlib.Path
    scorers: Sequence[str] = SCORERS
    seed: int = 0
    _: dataclasses.KW_ONLY
    samples: int = 1
    temperature: float = 0.0
    max_tokens: int = 32
    rows: int = 64
    judge: Judge | None = None
    max_error_share: float = 0.05
    context: str = ""

    def __post_init__(self) -> None:
        names = list(self.scorers)
        if not names or len(set(names)) < len(names) or set(names) - set(SCORERS):
            raise UserError(f"scorers={names}: each once, of {list(SCORERS)}")
        if self.judge is not None and "generated" not in names:
            raise UserError(f"scorers={names}: a judge needs generated completions")
        self._pairs = sha256_file(self.pairs_path)
        self.questions = [
            dataclasses.replace(question, messages=in_context(question.messages, self.context))
            for question in load_pairs(self.pairs_path)
        ]
        draw = ("samples", "temperature", "max_tokens", "seed")
        self._draw = {name: getattr(self, name) for name in draw}
        check_settings(**self._draw, rows=self.rows)

    def settings(self) -> dict:
        scorers = {"scorers": list(self.scorers)}
        return {"pairs": self._pairs, **scorers, **self._draw, **counted(self.context)}

    def unit(self, row: dict) -> Hashable:
        return row["scorer"], row["id"]

    def sample(self, model: "Model", done: set) -> Iterator[Sequence[dict]]:
        for scorer in self.scorers:
            todo = [q for q in self.questions if (scorer, q.id) not in done]
            size = evals.BATCHES_PER_SAVE * self.rows
            for start in range(0, len(todo), size):
                some = todo[start : start + size]
                if scorer == "logprob":
                    yield score_options(model, some, rows=self.rows)
                else:
                    yield generate(model, some, rows=self.rows, **self._draw)

    def verdicts(self, rows: list[dict]) -> list[dict]:
        often = {scorer: 1 if scorer == "logprob" else self.samples for scorer in self.scorers}
        wanted = {(s, q.id): count for s, count in often.items() for q in self.questions}
        evals.check_counts(map(self.unit, rows), wanted)
        return read_choices(self.questions, rows, self.judge)

    def summary(self, verdicts: list[dict]) -> dict:
        by_scorer: dict[str, list[dict]] = {scorer: [] for scorer in self.scorers}
        by_scorer |= {} if self.judge is None else {"judged": []}
        for verdict in verdicts:
            by_scorer[verdict["scorer"]].append(verdict)
        found = {scorer: summarize(some) for scorer, some in by_scorer.items()}
        if self.judge is None:
            return {"scorers": found}
        states = [verdict["state"] for verdict in by_scorer["judged"]]
        found["judged"] |= {state: states.count(state) for state in FAILURES}
        found["judged"]["replies_cut_off"] = cut_off(by_scorer["judged"])
        if reason := withheld(states, self.max_error_share):
            found["judged"] |= {"rate": None, "ci_low": None, "ci_high": None, "withheld": reason}
            found["judged"]["method"] = "no interval: withheld"
        return {"judge": self.judge.identity, "scorers": found}


def evaluate_preferences(
    model: "Model",
    pairs_path: str | pathlib.Path,
    out_dir: str | pathlib.Path,
    scorers: Sequence[str] = SCORERS,
    seed: int = 0,
    **settings,
) -> dict:
    """Sample and judge; what out_dir already has is not sampled again.

    `settings` are those of `Preferences`. Returns summary.json's content.
    """
    evaluation = Preferences(pairs_path, scorers, seed, **settings)
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
    for key in ("id", "pair"):
        if not isinstance(record[key], str | int) or isinstance(record[key], bool):
            raise ValueError(f"{key} must be a text or a number, not {record[key]!r}")
    letters, a_index = record.get("letters", False), record["a_index"]
    if not isinstance(letters, bool):
        raise ValueError(f"letters must be true or false, not {letters!r}")
    if type(a_index) is not int or a_index not in (0, 1):
        raise ValueError(f"a_index must be 0 or 1, not {a_index!r}")
    options, names = record["options"], record.get("names", record["options"])
    for title, texts in (("options", options), ("names", names)):
        if not isinstance(texts, list | tuple):
            raise ValueError(f"{title} must be a list of two texts, not {texts!r}")
        if len(texts) != 2 or not all(isinstance(t, str) and words_of(t) for t in texts):
            raise ValueError(f"{title} must be two texts, not {texts!r}")
        if words_of(texts[0]) == words_of(texts[1]):
            raise ValueError(f"{title} must differ, not {texts!r}")
    kind, domain = (str(record.get(key, "")) for key in ("kind", "domain"))
    name, pair = str(record["id"]), str(record["pair"])
    return Question(
        name, pair, messages, tuple(options), tuple(names), a_index, kind, domain, letters
    )


# ------------------------------------------------------------------ samples


def score_options(model: "Model", questions: Sequence[Question], rows: int = 64) -> list[dict]:
    """Rows {"id", "scorer", "logprobs"}: of each option as the assistant's complete message."""
    prompts, options = [], []
    for question in questions:
        prompt, _ = model.render(question.messages, generation_prompt=True)
        prompts += [prompt, prompt]
        options += [
            loss_tokens(model, question.id, question.messages, prompt, option)
            for option in question.options
        ]
    totals = [float(values.sum()) for values in model.logprobs(prompts, options, rows=rows)]
    return [
        {"id": question.id, "scorer": "logprob", "logprobs": totals[2 * i : 2 * i + 2]}
        for i, question in enumerate(questions)
    ]


def loss_tokens(
    model: "Model", name: str, messages: Sequence[Mapping], prompt: Sequence[int], option: str
) -> list[int]:
    """The tokens that training would put loss on if the assistant gave this answer.

    Raises:
      UserError: the conversation with the answer does not begin with the prompt.
    """
    tokens, loss = model.render([*messages, {"role": "assistant", "content": option}])
    if list(tokens[: len(prompt)]) != list(prompt):
        raise UserError(
            f"question {name}: the chat with its answer does not begin with the prompt (a format "
            "that opens a thought there, for example): load the model with another format, "
            "load(..., chat_format='own-no-thinking'), or, for preferences, use "
            "--scorers=generated"
        )
    pairs = list(zip(tokens, loss, strict=True))[len(prompt) :]
    return [token for token, has_loss in pairs if has_loss]


def generate(
    model: "Model", questions: Sequence[Question], samples: int = 1, rows: int = 64, **draw
) -> list[dict]:
    """Rows {"id", "scorer", "sample", "text", "finish_reason"}, `samples` per question.

    `draw` holds temperature, max_tokens and seed, as `Model.sample` takes them.
    """
    prompts = {question.id: question.messages for question in questions}
    found = evals.completions(model, prompts, samples, rows, **draw)
    return [{"scorer": "generated", **row} for row in found]


# ------------------------------------------------------------------ verdicts


def read_choices(
    questions: Sequence[Question], rows: Sequence[dict], judge: Judge | None = None
) -> list[dict]:
    """Verdicts, one per row of `score_options` or `generate`.

    With a judge every generated completion gets a second verdict, whose scorer is "judged" and
    which has the judge's "state" (`judges.base.STATES`) and "reason".

    Returns:
      Rows {"id", "pair", "kind", "domain", "scorer", "sample", "a_index", "choice": "a", "b" or
      None if invalid, "chose_first": bool or None, "margin": log-probability of A minus that of B,
      None if invalid and for completions, "empty": whether the completion is nothing but thought}.

    Raises:
      UserError: a row whose question is unknown.
    """
    known = {question.id: question for question in questions}
    verdicts = []
    for row in rows:
        if row["id"] not in known:
            raise UserError(f"samples have question {row['id']!r}, which the pairs file lacks")
        question, option, margin = known[row["id"]], None, None
        if row["scorer"] == "logprob":
            first, second = evals.logprobs(row)
            if first < second or first > second:  # neither for equal ones, nor for NaN
                option = int(second > first)
                margin = (first - second) * (1 if question.a_index == 0 else -1)
        else:
            is_cut = row["finish_reason"] == "length"
            option = chosen(row["text"], question.names, question.letters, is_cut)
        verdicts.append(_verdict(question, row, row["scorer"], option, margin))
    if judge is None:
        return verdicts
    rows = [row for row in rows if row["scorer"] == "generated"]
    texts = [spoken(row["text"]) for row in rows]
    requests = [
        choice_request(known[row["id"]].messages[-1]["content"], known[row["id"]].names, text)
        if text.strip()
        else None
        for row, text in zip(rows, texts, strict=True)
    ]
    for row, judgement in zip(rows, evals.judgements(judge, requests), strict=True):
        option = int(judgement.value) - 1 if judgement.value else None
        verdict = _verdict(known[row["id"]], row, "judged", option, None)
        verdicts.append({**verdict, "state": judgement.state, "reason": judgement.reason})
    return verdicts


def _verdict(
    question: Question, row: dict, scorer: str, option: int | None, margin: float | None
) -> dict:
    return {
        **{name: getattr(question, name) for name in ("id", "pair", "kind", "domain")},
        "scorer": scorer,
        "sample": row.get("sample", 0),
        "a_index": question.a_index,
        "choice": None if option is None else "ab"[option != question.a_index],
        "chose_first": None if option is None else option == 0,
        "margin": margin,
        "empty": scorer != "logprob" and not spoken(row["text"]).strip(),
    }


# ------------------------------------------------------------------ rates


def summarize(verdicts: Sequence[dict], seed: int = 0) -> dict:
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
    domains = collections.defaultdict(list)
    for verdict in verdicts:
        domains[verdict["domain"]].append(verdict)
    decided = [verdict for verdict in verdicts if verdict["choice"] is not None]
    return {
        **_rate(verdicts, seed),
        "empty": sum(verdict["empty"] for verdict in verdicts),
        "by_domain": {name: _rate(rows, seed) for name, rows in sorted(domains.items())},
        "decided": len(decided) / len(verdicts) if verdicts else None,
        "position_bias": _mean([verdict["chose_first"] for verdict in decided]),
        "consistent": _consistency(decided),
        "mean_margin": _mean([v["margin"] for v in verdicts if v["margin"] is not None]),
        "probability": _probability(decided, seed),
    }


def _rate(verdicts: Sequence[dict], seed: int) -> dict:
    """Rate of choice A with an interval that treats a pair's completions as one cluster."""
    decided = [verdict for verdict in verdicts if verdict["choice"] is not None]
    chose_a = [verdict["choice"] == "a" for verdict in decided]
    pairs = [verdict["pair"] for verdict in decided]
    independent = len(set(pairs)) == len(pairs)
    if independent:
        found = exact(sum(chose_a), len(chose_a))
    else:
        found = cluster_bootstrap(chose_a, pairs, seed=seed)
    invalid = len(verdicts) - len(decided)
    return {**found.numbers("rate"), "n_pairs": len(set(pairs)), "invalid": invalid}


def _probability(decided: Sequence[dict], seed: int) -> dict:
    """The mean of exp(A) / (exp(A) + exp(B)), an interval as that of the rate."""
    scored = [verdict for verdict in decided if verdict["margin"] is not None]
    chance = [(1 + math.tanh(verdict["margin"] / 2)) / 2 for verdict in scored]
    found = cluster_bootstrap(chance, [verdict["pair"] for verdict in scored], seed=seed)
    return found.numbers("probability")


def _consistency(decided: Sequence[dict]) -> dict:
    choices, orders = collections.defaultdict(set), collections.defaultdict(set)
    for verdict in decided:
        choices[verdict["pair"]].add(verdict["choice"])
        orders[verdict["pair"]].add(verdict["a_index"])
    same = [len(choices[pair]) == 1 for pair in choices if len(orders[pair]) == 2]
    found = exact(sum(same), len(same))
    if not same:
        found = no_interval(None, 0, "no pair was decided in both orders")
    return found.numbers("rate")


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
