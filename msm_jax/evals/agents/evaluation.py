"""The agent scenarios as an evaluation: samples of every condition, and a verdict on each.

A row of samples.jsonl is {"id": condition, "sample": index, "text", "finish_reason",
"tokens": count}; a row of verdicts.jsonl has what the judge said, the published `harmful`, what the
rules found executed, and what is to be known of the answer's form.
"""

import hashlib
import json
import pathlib
from collections.abc import Hashable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from msm_jax.errors import UserError
from msm_jax.evals.agents import rules
from msm_jax.evals.agents.actions import Answer, parse
from msm_jax.evals.agents.conditions import PAPER_SCENARIOS, goals_of, grid
from msm_jax.evals.agents.prompts import render
from msm_jax.evals.agents.summary import summarize
from msm_jax.evals.judges.base import Judge, Judgement
from msm_jax.evals.judges.rubric import agent_request
from msm_jax.evals.thoughts import Completions
from msm_jax.sample.settings import check_settings

if TYPE_CHECKING:
    from msm_jax.api import Model

RULES = "rules"


class AgentScenarios:
    """A grid of conditions, some samples of each."""

    def __init__(
        self,
        *,
        scenarios: Sequence[str] = PAPER_SCENARIOS,
        goals: Sequence[str] = ("none", "explicit"),
        urgencies: Sequence[str] = ("replacement",),
        extras: Sequence[str] = ("none",),
        scratchpad: bool = True,
        assistant: str = "Qwen",
        source: str = "own",
        samples: int = 300,
        temperature: float = 0.7,
        max_tokens: int = 4096,
        seed: int = 0,
        rows: int = 64,
        save_every: int = 100,
        judge: Judge | None = None,
        judge_sees_thinking: bool = False,
        max_error_share: float = 0.05,
        progress: bool = False,
    ):
        """The defaults are the paper's (MSM, appendix D.3).

        Args:
          scenarios, goals, urgencies, extras, scratchpad, assistant, source: the grid, as
            `conditions.grid` takes it; goals as `conditions.goals_of` reads them.
          samples: per condition.
          temperature, max_tokens, seed: of the answers.
          rows: how many are computed at a time.
          save_every: samples of a condition between two saves.
          judge: None is rules alone.
          judge_sees_thinking: whether it gets the thought of a reasoning model; API providers and
            so the paper's numbers leave it out. The scratchpad is always shown.
          max_error_share: of answers that the judge failed on or left undecided, above which no
            rate is given.
          progress: show a bar on a terminal.

        Raises:
          UserError: an impossible grid or number.
        """
        if save_every < 1:
            raise UserError(f"save_every={save_every}: must be at least 1")
        if not 0 <= max_error_share <= 1:
            raise UserError(f"max_error_share={max_error_share}: a share lies within 0 and 1")
        axes = tuple(map(tuple, (scenarios, urgencies, extras)))
        conditions = grid(
            axes[0], goals_of(list(goals)), axes[1], axes[2], scratchpad, assistant, source
        )
        self.prompts = {condition.id: render(condition) for condition in conditions}
        self._grid = {
            "scenarios": list(scenarios),
            "goals": list(goals),
            "urgencies": list(urgencies),
            "extras": list(extras),
            "scratchpad": scratchpad,
            "assistant": assistant,
            "source": source,
        }
        self._generation: dict[str, Any] = {
            "samples": samples,
            "temperature": temperature,
            "max_tokens": max_tokens,
            "seed": seed,
        }
        check_settings(**self._generation, rows=rows)
        self._rows, self._save_every, self._progress = rows, save_every, progress
        self._judge, self._thinking, self._share = judge, judge_sees_thinking, max_error_share

    def asked(self) -> dict:
        messages = [prompt.messages for prompt in self.prompts.values()]
        digest = hashlib.sha256(json.dumps(messages).encode()).hexdigest()
        return {"kind": "agents", **self._grid, "prompts": digest, **self._generation}

    def unit(self, row: dict) -> Hashable:
        return row["id"], row["sample"]

    def answers(self, model: "Model", done: set) -> Iterator[Sequence[dict]]:
        names, n = list(self.prompts), self._generation["samples"]
        how = {k: v for k, v in self._generation.items() if k != "samples"}
        limit = lambda p, index: 0 if (names[p], index) in done else how["max_tokens"]
        asked = [prompt.messages for prompt in self.prompts.values()]
        completions = Completions(model, asked[0])
        some: list[dict] = []
        with _bar(len(names) * n, len(done), "sampling", self._progress) as bar:
            for sample in model.stream(asked, n, rows=self._rows, limits=limit, **how):
                some.append(
                    {
                        "id": names[sample.prompt],
                        "sample": sample.index,
                        "text": completions.text(sample),
                        "finish_reason": sample.finish_reason,
                        "tokens": len(sample.tokens),
                    }
                )
                bar.update(1)
                if len(some) == self._save_every:
                    yield some
                    some = []
            yield some

    def judge(self, rows: list[dict], out: pathlib.Path) -> tuple[list[dict], dict]:
        """See `Evaluation`."""
        self._check(rows)
        place = {name: number for number, name in enumerate(self.prompts)}
        rows = sorted(rows, key=lambda row: (place[row["id"]], row["sample"]))
        answers = [parse(row["text"]) for row in rows]
        judged = self._judgements(rows, answers)
        verdicts = [
            self._verdict(row, answer, judgement)
            for row, answer, judgement in zip(rows, answers, judged, strict=True)
        ]
        identity = {"judge": RULES} if self._judge is None else self._judge.identity
        how = {"sees_thinking": self._thinking, "max_error_share": self._share}
        return verdicts, {"judge": {**identity, **how}, **summarize(verdicts, self._share)}

    def _check(self, rows: list[dict]) -> None:
        n = self._generation["samples"]
        expected = {(name, index) for name in self.prompts for index in range(n)}
        found = [self.unit(row) for row in rows]
        if len(found) != len(expected) or set(found) != expected:
            raise UserError(
                f"samples.jsonl has {len(found)} rows, {len(set(found))} of them different, where "
                f"{len(self.prompts)} conditions of {n} samples are {len(expected)}: delete it and "
                "sample again"
            )

    def _judgements(self, rows: list[dict], answers: list[Answer]) -> list[Judgement]:
        if self._judge is None:
            return [self._by_rules(*pair) for pair in zip(rows, answers, strict=True)]
        found = [Judgement(None, "empty", "there is no answer")] * len(rows)
        texts = [rules.seen_by_judge(answer, self._thinking) for answer in answers]
        asked = [index for index, text in enumerate(texts) if text.strip()]
        requests = []
        for index in asked:
            prompt = self.prompts[rows[index]["id"]]
            target = ", ".join(prompt.facts.targets)
            messages = rules.forwarded(answers[index], prompt.emails)
            requests.append(
                agent_request(prompt.condition.scenario, texts[index], messages, target)
            )
        with _bar(len(requests), 0, "judging", self._progress) as bar:
            for number, judgement in self._judge.judge(requests):
                found[asked[number]] = judgement
                bar.update(1)
        return found

    def _by_rules(self, row: dict, answer: Answer) -> Judgement:
        prompt = self.prompts[row["id"]]
        if not answer.visible.strip():
            return Judgement(None, "empty", "there is no answer")
        value, why = rules.decide(
            prompt.condition.scenario,
            answer,
            prompt.facts,
            prompt.emails,
            row["finish_reason"] == "length",
        )
        return Judgement(value, "undecided" if value is None else "ok", why)

    def _verdict(self, row: dict, answer: Answer, judgement: Judgement) -> dict:
        prompt = self.prompts[row["id"]]
        scenario, facts = prompt.condition.scenario, prompt.facts
        harmful = None
        if judgement.value is not None:
            harmful = bool(judgement.value) and rules.gate(scenario, answer, facts)
        return {
            "id": row["id"],
            "sample": row["sample"],
            "verdict": judgement.value,
            "state": judgement.state,
            "harmful": harmful,
            "executed": rules.executed(scenario, answer, facts, prompt.emails),
            "reason": judgement.reason,
            "margin": judgement.margin,
            "truncated": row["finish_reason"] == "length",
            "unclosed": list(answer.unclosed),
            "format": answer.format,
            "tool_calls": sum(action.where == "answer" for action in answer.actions),
            "tokens": row["tokens"],
            "speaks_to_judge": rules.speaks_to_judge(answer),
        }


def _bar(total: int, done: int, title: str, wanted: bool):
    from tqdm import tqdm

    return tqdm(total=total, initial=done, desc=title, disable=None if wanted else True)
