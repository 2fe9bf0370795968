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
from msm_jax.evals.preferences import option_logprobs
from msm_jax.evals.statistics import cluster_bootstrap, exact
from msm_jax.evals.thoughts import Completions
from msm_jax.files import sha256_file
from msm_jax.sample.settings import check_settings
from msm_jax.schema import mismatch
from msm_jax.spec.spec import MODEL_NAME

if TYPE_CHECKING:
    from msm_jax.api import Model


ANSWERS = ("letters", "texts")


@dataclasses.dataclass
class Quiz:
    """Questions about a spec as an `Evaluation`.

    Attributes:
      quiz: JSONL file of the questions.
      assistant: the name that fills {model_name} in them.
      rows: how many options are computed at a time.
      answer: of `ANSWERS`.
      context: a text before the system message of every question.

    Raises:
      UserError: questions that cannot be used.
    """

    quiz: str | pathlib.Path
    assistant: str = "Qwen"
    rows: int = 64
    answer: str = "letters"
    context: str = ""

    def __post_init__(self) -> None:
        self.items = load_quiz(self.quiz, self.assistant)
        self._hash = sha256_file(self.quiz)
        check_settings(rows=self.rows)
        if self.answer not in ANSWERS:
            raise UserError(f"answer={self.answer!r}: must be one of {', '.join(ANSWERS)}")

    def settings(self) -> dict:
        found = {"kind": "quiz", "quiz_hash": self._hash, "assistant": self.assistant}
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
            asked = [(item["id"], self._asked(item["question"]), item["options"]) for item in some]
            yield [
                {"id": item["id"], "turn": 0, "logprobs": totals}
                for item, totals in zip(some, option_logprobs(model, asked, self.rows), strict=True)
            ]

    def _score_letters(self, model: "Model", todo: list[dict]) -> Iterator[Sequence[dict]]:
        """The letters of all rotations, one question at a time."""
        if todo and Completions(model, self._asked(_listed(todo[0], 0))).opened:
            raise UserError(
                "quiz: this chat format opens a thought in the prompt, and a letter there is no "
                "answer yet: load the model with another, load(..., chat_format='own-no-thinking')"
            )
        for item in todo:
            turns = range(len(item["options"]))
            letters = [model.tokenizer.encode(string.ascii_uppercase[at]) for at in turns]
            prompts = [model.encode(self._asked(_listed(item, turn))) for turn in turns]
            contexts = [prompt for prompt in prompts for _ in turns]
            values = iter(model.logprobs(contexts, letters * len(turns), rows=self.rows))
            yield [
                {
                    "id": item["id"],
                    "turn": turn,
                    "logprobs": [float(next(values).sum()) for _ in turns],
                }
                for turn in turns
            ]

    def _asked(self, question: str) -> list[dict]:
        return in_context([{"role": "user", "content": question}], self.context)

    def verdicts(self, rows: list[dict]) -> list[dict]:
        """Per question the probability of each option, with letters the mean over rotations."""
        sizes = {item["id"]: len(item["options"]) for item in self.items}
        turns = lambda count: range(1 if self.answer == "texts" else count)
        named = lambda name, turn, count: (name, f"turn {turn}", f"{count} options")
        evals.check_counts(
            (named(row["id"], row["turn"], len(row["logprobs"])) for row in rows),
            {named(i, turn, count): 1 for i, count in sizes.items() for turn in turns(count)},
        )
        known = {item["id"]: item for item in self.items}
        by_item: dict[str, list[dict]] = {}
        for row in rows:
            by_item.setdefault(row["id"], []).append(row)
        return [self._verdict(known[name], some) for name, some in by_item.items()]

    def _verdict(self, item: dict, rows: list[dict]) -> dict:
        """A row of verdicts.jsonl; the option with the highest score is the choice, a tie is none.

        The score is the probability or, of texts, the log-probability per byte.
        """
        options, chances = item["options"], [0.0] * len(item["options"])
        for row in rows:
            logprobs = evals.logprobs(row)
            weights = [math.exp(value - max(logprobs)) for value in logprobs]
            for place, weight in enumerate(weights):
                option = (place + row["turn"]) % len(options)
                chances[option] += weight / sum(weights) / len(rows)
        scores = chances
        if self.answer == "texts":
            scores = [
                value / len(option.encode("utf-8"))
                for value, option in zip(logprobs, options, strict=True)
            ]
        valid = all(map(math.isfinite, (*chances, *scores)))
        best = [option for option, score in enumerate(scores) if score == max(scores)]
        return {
            "id": item["id"],
            "topic": item["topic"],
            "probabilities": chances if valid else None,
            "right": (best == [item["answer"]]) if valid else None,
            "probability": chances[item["answer"]] if valid else None,
            "chance": 1 / len(options),
        }

    def summary(self, verdicts: list[dict]) -> dict:
        """{"accuracy": with the exact interval, "probability" of the right option: with a bootstrap
        of the questions, "chance", "invalid"}."""
        valid = [verdict for verdict in verdicts if verdict["right"] is not None]
        probabilities = [min(v["probability"], 1.0) for v in valid]  # rounding can exceed 1
        mean = cluster_bootstrap(probabilities, [v["id"] for v in valid])
        return {
            "accuracy": exact(sum(v["right"] for v in valid), len(valid)).as_dict("rate"),
            "probability": mean.as_dict("mean"),
            "chance": sum(v["chance"] for v in verdicts) / len(verdicts),
            "invalid": len(verdicts) - len(valid),
        }


def load_quiz(path: str | pathlib.Path, assistant: str) -> list[dict]:
    """Items {"id", "topic", "question", "options", "answer"}; the assistant's name is filled in.

    Raises:
      UserError: naming the line that cannot be used, or a file without questions.
    """

    def read(row: dict, number: int) -> dict[str, dict]:
        if problem := mismatch(row, {"question": str, "options": [str], "answer": int}):
            raise ValueError(problem)
        options, answer = row["options"], row["answer"]
        different = {option for option in options if option.strip()}
        if len(different) < len(options) or not 2 <= len(options) <= 26:
            raise ValueError("options must be 2 to 26 texts that differ and are not empty")
        if not 0 <= answer < len(options):
            raise ValueError(f"answer={answer}: must be the number of an option, counted from 0")
        name = str(row.get("id", f"row-{number}"))
        fill = lambda text: text.replace(MODEL_NAME, assistant)
        item = {"id": name, "topic": str(row.get("topic", "")), "question": fill(row["question"])}
        return {name: {**item, "options": list(map(fill, options)), "answer": answer}}

    return list(evals.read_questions(path, read).values())


def _listed(item: dict, turn: int) -> str:
    """A question with its options behind letters, rotated by `turn`."""
    options = item["options"][turn:] + item["options"][:turn]
    lines = [f"{letter}) {o}" for letter, o in zip(string.ascii_uppercase, options, strict=False)]
    return "\n".join([item["question"], *lines, "Answer with one letter."])
