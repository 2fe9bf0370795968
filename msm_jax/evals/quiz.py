"""Does a model know its spec: questions with a few options, asked by log-probability.

A row has "question", "options" and "answer", the number of the right one from 0; "id" and "topic"
where wanted. `answer="letters"` lists the options and scores their letters, once per rotation of
the options, so that each stands once behind each letter and a preference for a letter cancels out.
Small models score at chance there, whatever they know. `answer="texts"` asks the question alone and
scores each option as the complete answer. The choice is the option with the highest log-probability
per byte, so that short options are not preferred.
"""

import dataclasses
import math
import pathlib
import string
from collections.abc import Hashable, Iterator, Sequence
from typing import TYPE_CHECKING

from msm_jax.errors import UserError
from msm_jax.evals import evaluation as evals
from msm_jax.evals.context import counted, in_context
from msm_jax.evals.preferences import loss_tokens
from msm_jax.evals.statistics import cluster_bootstrap, exact
from msm_jax.evals.thoughts import Completions
from msm_jax.files import sha256_file
from msm_jax.sample.settings import check_settings

if TYPE_CHECKING:
    from msm_jax.api import Model


ANSWERS = ("letters", "texts")


@dataclasses.dataclass
class Quiz:
    """Questions in all rotations, as an `Evaluation`; `model_name` fills {model_name} in them.

    `context` is a text before the system message of every question.

    Raises:
      UserError: questions that cannot be used.
    """

    quiz_path: str | pathlib.Path
    model_name: str = "Qwen"
    rows: int = 64
    answer: str = "letters"
    context: str = ""

    def __post_init__(self) -> None:
        self.items = load_quiz(self.quiz_path, self.model_name)
        self._hash = sha256_file(self.quiz_path)
        check_settings(rows=self.rows)
        if self.answer not in ANSWERS:
            raise UserError(f"answer={self.answer!r}: must be one of {', '.join(ANSWERS)}")

    def settings(self) -> dict:
        found = {"kind": "quiz", "quiz_hash": self._hash, "assistant": self.model_name}
        return {**found, "answer": self.answer, **counted(self.context)}

    def unit(self, row: dict) -> Hashable:
        return row["id"]

    def sample(self, model: "Model", done: set) -> Iterator[Sequence[dict]]:
        todo = [item for item in self.items if item["id"] not in done]
        if self.answer == "texts":
            yield from self._score_texts(model, todo)
        else:
            yield from self._score_letters(model, todo)

    def _score_texts(self, model: "Model", todo: list[dict]) -> Iterator[Sequence[dict]]:
        """Each option as the assistant's complete message, some questions at a time."""
        for start in range(0, len(todo), self.rows):
            some = todo[start : start + self.rows]
            prompts, options = [], []
            for item in some:
                messages = in_context([{"role": "user", "content": item["question"]}], self.context)
                prompt, _ = model.render(messages, generation_prompt=True)
                prompts += [prompt] * len(item["options"])
                options += [
                    loss_tokens(model, item["id"], messages, prompt, option)
                    for option in item["options"]
                ]
            values = iter(model.logprobs(prompts, options, rows=self.rows))
            yield [
                {
                    "id": i["id"],
                    "turn": 0,
                    "logprobs": [float(next(values).sum()) for _ in i["options"]],
                }
                for i in some
            ]

    def _score_letters(self, model: "Model", todo: list[dict]) -> Iterator[Sequence[dict]]:
        """The letters of all rotations, one question at a time."""
        if todo and Completions(model, self._listed(todo[0], 0)).opened:
            raise UserError(
                "quiz: this chat format opens a thought in the prompt, and a letter there is no "
                "answer yet: load the model with another, load(..., chat_format='own-no-thinking')"
            )
        for item in todo:
            count = len(item["options"])
            prompts = [model.encode(self._listed(item, turn)) for turn in range(count)]
            letters = [model.tokenizer.encode(letter) for letter in string.ascii_uppercase[:count]]
            contexts = [prompt for prompt in prompts for _ in letters]
            values = model.logprobs(contexts, letters * count, rows=self.rows)
            totals = [float(value.sum()) for value in values]
            yield [
                {"id": item["id"], "turn": turn, "logprobs": totals[turn * count :][:count]}
                for turn in range(count)
            ]

    def _listed(self, item: dict, turn: int) -> list[dict]:
        return in_context(_messages(item, turn), self.context)

    def verdicts(self, rows: list[dict]) -> list[dict]:
        """Per question the probability of each option, with letters the mean over rotations."""
        by_item: dict[str, list[dict]] = {}
        for row in rows:
            by_item.setdefault(row["id"], []).append(row)
        known = {item["id"]: item for item in self.items}
        if by_item.keys() != known.keys():
            different = sorted(by_item.keys() ^ known.keys())
            raise UserError(f"samples and quiz differ in question {different[0]!r}")
        for name, some in by_item.items():
            count = len(known[name]["options"])
            turns = [0] if self.answer == "texts" else list(range(count))
            sizes = {len(row["logprobs"]) for row in some}
            if sorted(row["turn"] for row in some) != turns or sizes != {count}:
                raise UserError(
                    f"samples.jsonl does not have the {len(turns)} rows of {count} options of "
                    f"question {name!r}: delete it and sample again"
                )
        read = _verdict_of_texts if self.answer == "texts" else _verdict
        return [read(known[name], some) for name, some in by_item.items()]

    def summary(self, verdicts: list[dict]) -> dict:
        """{"accuracy": with the exact interval, "probability" of the right option: with a bootstrap
        of the questions, "chance", "invalid"}."""
        valid = [verdict for verdict in verdicts if verdict["right"] is not None]
        probabilities = [min(v["probability"], 1.0) for v in valid]  # rounding can exceed 1
        mean = cluster_bootstrap(probabilities, [v["id"] for v in valid])
        return {
            "accuracy": exact(sum(v["right"] for v in valid), len(valid)).numbers("rate"),
            "probability": mean.numbers("mean"),
            "chance": sum(v["chance"] for v in verdicts) / len(verdicts),
            "invalid": len(verdicts) - len(valid),
        }


def load_quiz(path: str | pathlib.Path, model_name: str) -> list[dict]:
    """Items {"id", "topic", "question", "options", "answer"}.

    Raises:
      UserError: naming the line that cannot be used, or a file without questions.
    """

    def read(row: dict, number: int) -> dict[str, dict]:
        question, answer = row.get("question"), row.get("answer")
        options: list = row["options"] if isinstance(row.get("options"), list) else []
        texts = all(isinstance(option, str) and option.strip() for option in options)
        if not isinstance(question, str) or not texts or not 2 <= len(options) <= 26:
            raise ValueError("needs 'question' and 2 to 26 'options' as texts")
        if len(set(options)) < len(options) or type(answer) is not int:
            raise ValueError("options must differ, 'answer' is a number from 0")
        if not 0 <= answer < len(options):
            raise ValueError(f"answer {answer} is none of {len(options)} options")
        name = str(row.get("id", f"row-{number}"))
        fill = lambda text: text.replace("{model_name}", model_name)
        item = {"id": name, "topic": str(row.get("topic", "")), "question": fill(question)}
        return {name: {**item, "options": [fill(option) for option in options], "answer": answer}}

    return list(evals.read_questions(path, read).values())


def _messages(item: dict, turn: int) -> list[dict[str, str]]:
    """A question with its options behind letters, rotated by `turn`."""
    options = item["options"][turn:] + item["options"][:turn]
    lines = [f"{letter}) {o}" for letter, o in zip(string.ascii_uppercase, options, strict=False)]
    text = "\n".join([item["question"], *lines, "Answer with one letter."])
    return [{"role": "user", "content": text}]


def _verdict(item: dict, rows: list[dict]) -> dict:
    count = len(item["options"])
    means = [0.0] * count
    for row in rows:
        logprobs = evals.logprobs(row)
        weights = [math.exp(value - max(logprobs)) for value in logprobs]
        for place, weight in enumerate(weights):
            means[(place + row["turn"]) % count] += weight / sum(weights) / count
    return _choice(item, means, means)


def _verdict_of_texts(item: dict, rows: list[dict]) -> dict:
    (row,) = rows
    logprobs = evals.logprobs(row)
    weights = [math.exp(value - max(logprobs)) for value in logprobs]
    per_byte = [
        value / len(option.encode("utf-8"))
        for value, option in zip(logprobs, item["options"], strict=True)
    ]
    return _choice(item, [weight / sum(weights) for weight in weights], per_byte)


def _choice(item: dict, probabilities: list[float], scores: list[float]) -> dict:
    """The row of verdicts.jsonl; the option with the highest score is the choice, a tie is none."""
    valid = all(map(math.isfinite, (*probabilities, *scores)))
    best = [option for option, score in enumerate(scores) if score == max(scores)]
    return {
        "id": item["id"],
        "topic": item["topic"],
        "probabilities": probabilities if valid else None,
        "right": (best == [item["answer"]]) if valid else None,
        "probability": probabilities[item["answer"]] if valid else None,
        "chance": 1 / len(item["options"]),
    }
