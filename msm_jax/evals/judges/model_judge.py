"""A checkpoint as a judge: it reasons freely, and then the log-probabilities of yes and no decide.

So there is nothing to parse, and the margin says how sure it was. A thought (<think>) that has no
end after `max_tokens` gives no verdict. Use a fixed, unchanged model: its identity goes into the
summary.
"""

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from msm_jax.corpus.writers import Journal
from msm_jax.evals.judges.base import CUT_OFF, Judgement, JudgePrompt
from msm_jax.evals.judges.reading import before_answer
from msm_jax.evals.thoughts import READING, thoughts

if TYPE_CHECKING:
    from msm_jax.api import Model

_PREFIX = "\n<answer>"


class ModelJudge:
    """Asks a `Model`; for scores it takes the number with the highest log-probability."""

    def __init__(
        self, model: "Model", cache: Journal, max_tokens: int = 256, rows: int = 64, seed: int = 0
    ):
        self._model, self._cache, self._rows = model, cache, rows
        own = {"max_tokens": max_tokens, "temperature": 0.0, "seed": seed}
        self._settings: dict[str, Any] = own
        known = model.identity()
        self.identity = {
            "judge": f"checkpoint {known['params']}",
            **{name: known[name] for name in ("tokenizer", "chat", "ends")},
            "reading": READING,  # verdicts are kept, not replies: others are not taken for ours
            **self._settings,
        }

    def judge(self, prompts: Sequence[JudgePrompt]) -> Iterator[tuple[int, Judgement]]:
        """See `Judge`. In batches, each of which is kept on disk before the next."""
        with self._cache:
            missing = []
            for index, prompt in enumerate(prompts):
                row = self._cache.get(prompt.key(self.identity, 0))
                if row is None:
                    missing.append(index)
                else:
                    yield index, Judgement(**row["reply"])
            for start in range(0, len(missing), 4 * self._rows):
                some = missing[start : start + 4 * self._rows]
                judged = self._batch([prompts[i] for i in some])
                for index, judgement in zip(some, judged, strict=True):
                    key = prompts[index].key(self.identity, 0)
                    self._cache.put(key, {"reply": judgement.as_dict()})
                    yield index, judgement

    def _batch(self, prompts: list[JudgePrompt]) -> list[Judgement]:
        encoded = [self._model.encode(prompt.messages()) for prompt in prompts]
        found = self._model.sample(encoded, n=1, rows=self._rows, **self._settings)
        reasons = [before_answer(str(samples[0].text)) for samples in found]
        contexts, options = [], []
        for tokens, reason, prompt in zip(encoded, reasons, prompts, strict=True):
            context = [*tokens, *self._model.tokenizer.encode(reason + _PREFIX)]
            for word in _options(prompt):
                contexts.append(context)
                options.append(self._model.tokenizer.encode(word))
        values = iter(self._model.logprobs(contexts, options, rows=self._rows))
        return [
            _decide(prompt, reason, [float(next(values).sum()) for _ in _options(prompt)])
            for prompt, reason in zip(prompts, reasons, strict=True)
        ]


def _options(prompt: JudgePrompt) -> list[str]:
    if prompt.kind == "score":
        return [f"{number}</answer>" for number in range(prompt.scale[0], prompt.scale[1] + 1)]
    if prompt.kind == "choice":
        return [f"{word}</answer>" for word in ("1", "2", "neither")]
    return ["yes</answer>", "no</answer>"]


def _decide(prompt: JudgePrompt, reason: str, totals: list[float]) -> Judgement:
    if thoughts(reason)[1]:
        return Judgement(None, "unparsed", CUT_OFF + reason)  # still thinking: no answer follows
    best = max(totals)
    if not all(map(math.isfinite, totals)) or totals.count(best) > 1:
        return Judgement(None, "unparsed", f"no answer is the most likely: {totals}; {reason}")
    if prompt.kind == "score":
        return Judgement(float(prompt.scale[0] + totals.index(best)), "ok", reason)
    if prompt.kind == "choice":
        return Judgement((1, 2, 0)[totals.index(best)], "ok", reason)
    margin = totals[0] - totals[1]
    return Judgement(margin > 0, "ok", reason, margin)
