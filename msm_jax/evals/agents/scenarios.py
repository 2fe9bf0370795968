"""The agent scenarios as an evaluation: samples of every condition, and a verdict on each.

A row of samples.jsonl is {"id": condition, "sample": index, "text", "finish_reason",
"tokens": count}. A row of verdicts.jsonl has the judge's verdict, the published `harmful`, what the
rules found executed, and the form of the answer.
"""

import json
from collections.abc import Hashable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from msm_jax.errors import UserError
from msm_jax.evals.agents import rules
from msm_jax.evals.agents.actions import Answer, parse
from msm_jax.evals.agents.conditions import PAPER_SCENARIOS, goals_of, grid
from msm_jax.evals.agents.prompts import Prompt, render
from msm_jax.evals.agents.summary import summarize
from msm_jax.evals.judges.base import Judge, Judgement
from msm_jax.evals.judges.rubric import agent_request
from msm_jax.evals.thoughts import Completions
from msm_jax.files import sha256_text
from msm_jax.progress import progress_bar
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
          scenarios, goals, urgencies, extras, scratchpad, assistant, source: the grid, as of
            `conditions.grid`; goals as of `conditions.goals_of`.
          samples: per condition.
          temperature, max_tokens, seed: of the answers.
          rows: how many answers are computed at a time.
          save_every: samples between two saves.
          judge: None is rules alone.
          judge_sees_thinking: whether it is shown the thought of a reasoning model; API providers,
            and so the paper's numbers, leave it out. The scratchpad is always shown.
          max_error_share: if the judge failed on a larger share of the answers, or left them
            undecided, no rate is reported.
          progress: show a bar on a terminal.

        Raises:
          UserError: an impossible grid or number.
        """
        if save_every < 1:
            raise UserError(f"save_every={save_every}: must be at least 1")
        if not 0 <= max_error_share <= 1:
            raise UserError(f"max_error_share={max_error_share}: a share lies within 0 and 1")
        self._grid: dict[str, Any] = {
            "scenarios": list(scenarios),
            "goals": list(goals),
            "urgencies": list(urgencies),
            "extras": list(extras),
            "scratchpad": scratchpad,
            "assistant": assistant,
            "source": source,
        }
        self.prompts = {
            c.id: render(c) for c in grid(**{**self._grid, "goals": goals_of(self._grid["goals"])})
        }
        self._n = samples
        self._settings: dict[str, Any] = {
            "temperature": temperature,
            "max_tokens": max_tokens,
            "seed": seed,
        }
        check_settings(samples=samples, **self._settings, rows=rows)
        self._rows, self._save_every, self._progress = rows, save_every, progress
        self._judge, self._thinking, self._share = judge, judge_sees_thinking, max_error_share

    def settings(self) -> dict:
        messages = [prompt.messages for prompt in self.prompts.values()]
        prompts = {"prompts": sha256_text(json.dumps(messages)), "samples": self._n}
        return {"kind": "agents", **self._grid, **prompts, **self._settings}

    def unit(self, row: dict) -> Hashable:
        return row["id"], row["sample"]

    def sample(self, model: "Model", done: set) -> Iterator[Sequence[dict]]:
        names, n, longest = list(self.prompts), self._n, self._settings["max_tokens"]
        limit = lambda p, index: 0 if (names[p], index) in done else longest
        messages = [prompt.messages for prompt in self.prompts.values()]
        completions = Completions(model, messages[0])
        some: list[dict] = []
        bar = progress_bar(len(names) * n, "sampling", "", len(done), hidden=not self._progress)
        with bar:
            for sample in model.stream(
                messages, n, rows=self._rows, limits=limit, **self._settings
            ):
                row = {"id": names[sample.prompt], "sample": sample.index}
                row |= {"text": completions.text(sample), "finish_reason": sample.finish_reason}
                some.append({**row, "tokens": len(sample.tokens)})
                bar.update(1)
                if len(some) == self._save_every:
                    yield some
                    some = []
            yield some

    def verdicts(self, rows: list[dict]) -> list[dict]:
        order = {(name, i): None for name in self.prompts for i in range(self._n)}
        found = {self.unit(row): row for row in rows}
        if len(rows) != len(order) or found.keys() != order.keys():
            raise UserError(
                f"samples.jsonl has {len(rows)} rows, {len(found)} of them different, where "
                f"{len(self.prompts)} conditions of {self._n} samples are {len(order)}: delete it "
                "and sample again"
            )
        rows = [found[unit] for unit in order]
        answers = [parse(row["text"]) for row in rows]
        prompts = [self.prompts[row["id"]] for row in rows]
        if self._judge is None:
            judgements = list(map(_rule_verdict, rows, answers, prompts))
        else:
            judgements = self._judgements(self._judge, prompts, answers)
        return list(map(_verdict, rows, answers, prompts, judgements))

    def summary(self, verdicts: list[dict]) -> dict:
        identity = {"judge": RULES} if self._judge is None else self._judge.identity
        how = {"sees_thinking": self._thinking, "max_error_share": self._share}
        return {"judge": {**identity, **how}, **summarize(verdicts, self._share)}

    def _judgements(
        self, judge: Judge, prompts: list[Prompt], answers: list[Answer]
    ) -> list[Judgement]:
        """What the judge says of each answer; it is not asked about an empty one."""
        found = [Judgement(None, "empty", "there is no answer")] * len(answers)
        requests, places = [], []
        for place, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
            text = answer.text if self._thinking else answer.visible
            if text.strip():
                target = ", ".join(prompt.indicators.targets)
                messages = rules.forwarded(answer, prompt)
                requests.append(agent_request(prompt.condition.scenario, text, messages, target))
                places.append(place)
        with progress_bar(len(requests), "judging", hidden=not self._progress) as bar:
            for number, judgement in judge.judge(requests):
                found[places[number]] = judgement
                bar.update(1)
        return found


def _rule_verdict(row: dict, answer: Answer, prompt: Prompt) -> Judgement:
    if not answer.visible.strip():
        return Judgement(None, "empty", "there is no answer")
    value, reason = rules.verdict(answer, prompt, row["finish_reason"] == "length")
    return Judgement(value, "undecided" if value is None else "ok", reason)


def _verdict(row: dict, answer: Answer, prompt: Prompt, judgement: Judgement) -> dict:
    """A row of verdicts.jsonl."""
    harmful = None
    if judgement.value is not None:
        harmful = bool(judgement.value) and rules.gate(answer, prompt)
    return {
        "id": row["id"],
        "sample": row["sample"],
        "verdict": judgement.value,
        "state": judgement.state,
        "harmful": harmful,
        "executed": rules.executed(answer, prompt),
        "reason": judgement.reason,
        "margin": judgement.margin,
        "truncated": row["finish_reason"] == "length",
        "unclosed": list(answer.unclosed),
        "format": answer.format,
        "tool_calls": sum(action.where == "answer" for action in answer.actions),
        "tokens": row["tokens"],
        "speaks_to_judge": rules.speaks_to_judge(answer),
    }
