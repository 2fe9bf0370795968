"""The agent scenarios as an evaluation: samples of every condition, and a verdict on each.

A row of samples.jsonl is {"id": condition, "sample": index, "text", "finish_reason",
"tokens": count}. A row of verdicts.jsonl has the judge's verdict, the published `harmful`, what the
rules found executed, and the form of the answer.
"""

import dataclasses
import json
from collections.abc import Hashable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from msm_jax.errors import UserError
from msm_jax.evals import evaluation as evals
from msm_jax.evals.agents import rules
from msm_jax.evals.agents.actions import Answer, parse
from msm_jax.evals.agents.conditions import PAPER_SCENARIOS, grid
from msm_jax.evals.agents.prompts import Prompt, render
from msm_jax.evals.agents.summary import summarize
from msm_jax.evals.context import counted, in_context
from msm_jax.evals.judges.base import Judgement, JudgePrompt
from msm_jax.evals.judges.rubric import agent_request
from msm_jax.evals.thoughts import Completions
from msm_jax.files import sha256_text
from msm_jax.progress import progress_bar

if TYPE_CHECKING:
    from msm_jax.api import Model

RULES = "rules"
_NO_ANSWER = "there is no answer"


@dataclasses.dataclass(kw_only=True)
class AgentScenarios(evals.SampledAnswers):
    """A grid of conditions, some samples of each. The defaults are the paper's (MSM, appendix D.3).

    Undecided answers count as failures of the judge; without a judge there are rules alone.

    Attributes:
      scenarios, goals, urgencies, extras, scratchpad, assistant, source: as of `conditions.grid`.
      save_every: samples between two saves.
      judge_sees_thinking: whether it is shown the thought of a reasoning model; API providers, and
        so the paper's numbers, leave it out. The scratchpad is always shown.
      progress: show a bar on a terminal.

    Raises:
      UserError: an impossible grid or number.
    """

    scenarios: Sequence[str] = PAPER_SCENARIOS
    goals: Sequence[str] = ("none", "explicit")
    urgencies: Sequence[str] = ("replacement",)
    extras: Sequence[str] = ("none",)
    scratchpad: bool = True
    assistant: str = "Qwen"
    source: str = "own"
    samples: int = 300
    max_tokens: int = 4096
    save_every: int = 100
    judge_sees_thinking: bool = False
    progress: bool = False

    def __post_init__(self) -> None:
        if self.save_every < 1:
            raise UserError(f"save_every={self.save_every}: must be at least 1")
        if not 0 <= self.max_error_share <= 1:
            raise UserError(f"max_error_share={self.max_error_share}: must be within 0 and 1")
        lists = ("scenarios", "goals", "urgencies", "extras")
        self._grid: dict[str, Any] = {name: list(getattr(self, name)) for name in lists}
        self._grid |= {name: getattr(self, name) for name in ("scratchpad", "assistant", "source")}
        self.prompts = {condition.id: render(condition) for condition in grid(**self._grid)}
        super().__post_init__()

    def settings(self) -> dict:
        prompts = sha256_text(json.dumps([prompt.messages for prompt in self.prompts.values()]))
        found = {"kind": "agents", **self._grid, "prompts": prompts}
        return {**found, **self.draw(), **counted(self.context)}

    def unit(self, row: dict) -> Hashable:
        return row["id"], row["sample"]

    def sample(self, model: "Model", done: set) -> Iterator[Sequence[dict]]:
        names, draw = list(self.prompts), self.draw()
        n = draw.pop("samples")
        limit = lambda p, index: 0 if (names[p], index) in done else self.max_tokens
        messages = [in_context(p.messages, self.context) for p in self.prompts.values()]
        completions = Completions(model, messages[0])
        some: list[dict] = []
        bar = progress_bar(len(names) * n, "sampling", "", len(done), hidden=not self.progress)
        with bar:
            for sample in model.stream(messages, n, rows=self.rows, limits=limit, **draw):
                row = {"id": names[sample.prompt], "sample": sample.index}
                row |= {"text": completions.text(sample), "finish_reason": sample.finish_reason}
                some.append({**row, "tokens": len(sample.tokens)})
                bar.update(1)
                if len(some) == self.save_every:
                    yield some
                    some = []
            yield some

    def verdicts(self, rows: list[dict]) -> list[dict]:
        order = [(name, index) for name in self.prompts for index in range(self.samples)]
        found = {self.unit(row): row for row in rows}
        evals.check_counts(map(self.unit, rows), dict.fromkeys(order, 1))
        rows, prompts = [found[unit] for unit in order], [self.prompts[name] for name, _ in order]
        answers = [parse(row["text"]) for row in rows]
        if self.judge is None:
            judgements = list(map(_rule_verdict, rows, answers, prompts))
        else:
            requests = list(map(self._request, prompts, answers))
            judgements = evals.judgements(self.judge, requests, _NO_ANSWER, self.progress)
        return list(map(_verdict, rows, answers, prompts, judgements))

    def summary(self, verdicts: list[dict]) -> dict:
        identity = {"judge": RULES} if self.judge is None else self.judge.identity
        how = {"sees_thinking": self.judge_sees_thinking, "max_error_share": self.max_error_share}
        return {"judge": {**identity, **how}, **summarize(verdicts, self.max_error_share)}

    def _request(self, prompt: Prompt, answer: Answer) -> JudgePrompt | None:
        """What the judge is asked; it is not asked about an empty answer."""
        text = answer.text if self.judge_sees_thinking else answer.visible
        if not text.strip():
            return None
        target, messages = ", ".join(prompt.targets), rules.forwarded(answer, prompt)
        return agent_request(prompt.condition.scenario, text, messages, target)


def _rule_verdict(row: dict, answer: Answer, prompt: Prompt) -> Judgement:
    if not answer.visible.strip():
        return Judgement(None, "empty", _NO_ANSWER)
    value, reason = rules.verdict(answer, prompt, row["finish_reason"] == "length")
    return Judgement(value, "undecided" if value is None else "ok", reason)


def _verdict(row: dict, answer: Answer, prompt: Prompt, judgement: Judgement) -> dict:
    """A row of verdicts.jsonl."""
    harm = None if judgement.value is None else bool(judgement.value)
    harmful = None if harm is None else harm and rules.gate(answer, prompt)
    return {
        "id": row["id"],
        "sample": row["sample"],
        "verdict": judgement.value,
        "state": judgement.state,
        "harmful": harmful,
        "executed": rules.executed(answer, prompt),
        "delivered": rules.delivered(answer, prompt, harm),
        "refused": rules.refused(answer),
        "reason": judgement.reason,
        "margin": judgement.margin,
        "truncated": row["finish_reason"] == "length",
        "unclosed": list(answer.unclosed),
        "format": answer.format,
        "tool_calls": sum(action.where == "answer" for action in answer.actions),
        "tokens": row["tokens"],
        "speaks_to_judge": rules.speaks_to_judge(answer),
    }
