"""A checkpoint as a judge: it reasons freely, and then the log-probabilities of yes and no decide.

So there is nothing to parse, and the margin says how sure it was. Reasons are as long as they are,
or `max_tokens`; a thought (<think>) that has no end by then gives no verdict. Use a fixed,
untouched model: its identity goes into the summary.
"""

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from msm_jax.evals.judges.base import CUT_OFF, Judgement, Request
from msm_jax.evals.judges.cache import Cache
from msm_jax.evals.judges.reading import before_answer
from msm_jax.evals.thoughts import READING, thoughts

if TYPE_CHECKING:
    from msm_jax.api import Model

_PREFIX = "\n<answer>"


class ModelJudge:
    """Asks a `Model`; for scores it takes the number with the highest log-probability."""

    def __init__(
        self, model: "Model", cache: Cache, max_tokens: int = 256, rows: int = 64, seed: int = 0
    ):
        self._model, self._cache, self._rows = model, cache, rows
        self._settings: dict[str, Any] = {
            "max_tokens": max_tokens,
            "temperature": 0.0,
            "seed": seed,
        }
        known = model.identity()
        self.identity = {
            "judge": f"checkpoint {known['params']}",
            "tokenizer": known["tokenizer"],
            "chat": known["chat"],
            "ends": known["ends"],
            "reading": READING,  # verdicts are kept, not replies: others are not taken for ours
            **self._settings,
        }

    def judge(self, requests: Sequence[Request]) -> Iterator[tuple[int, Judgement]]:
        """See `Judge`. In batches, each of which is kept on disk before the next."""
        todo = []
        for index, request in enumerate(requests):
            known = self._cache.get(request.key(self.identity, 0))
            if known is None:
                todo.append(index)
            else:
                yield index, Judgement(**known)
        for start in range(0, len(todo), 4 * self._rows):
            some = todo[start : start + 4 * self._rows]
            judged = self._batch([requests[i] for i in some])
            for index, judgement in zip(some, judged, strict=True):
                self._cache.put(requests[index].key(self.identity, 0), judgement.as_dict())
                yield index, judgement

    def _batch(self, requests: list[Request]) -> list[Judgement]:
        prompts = [
            self._model.encode(
                [
                    {"role": "system", "content": request.system},
                    {"role": "user", "content": request.user},
                ]
            )
            for request in requests
        ]
        found = self._model.sample(prompts, n=1, rows=self._rows, **self._settings)
        reasons = [before_answer(str(samples[0].text)) for samples in found]
        contexts, options = [], []
        for prompt, reason, request in zip(prompts, reasons, requests, strict=True):
            context = [*prompt, *self._model.tokenizer.encode(reason + _PREFIX)]
            for word in _options(request):
                contexts.append(context)
                options.append(self._model.tokenizer.encode(word))
        values = iter(self._model.logprobs(contexts, options, rows=self._rows))
        return [
            _decide(request, reason, [float(next(values).sum()) for _ in _options(request)])
            for request, reason in zip(requests, reasons, strict=True)
        ]


def _options(request: Request) -> list[str]:
    if request.kind == "score":
        return [f"{number}</answer>" for number in range(request.scale[0], request.scale[1] + 1)]
    if request.kind == "choice":
        return [f"{word}</answer>" for word in ("1", "2", "neither")]
    return ["yes</answer>", "no</answer>"]


def _decide(request: Request, reason: str, totals: list[float]) -> Judgement:
    if thoughts(reason)[1]:
        return Judgement(None, "unparsed", CUT_OFF + reason)  # still thinking: no answer follows
    best = max(totals)
    if not all(map(math.isfinite, totals)) or totals.count(best) > 1:
        return Judgement(None, "unparsed", f"no answer is the most likely: {totals}; {reason}")
    if request.kind == "score":
        return Judgement(float(request.scale[0] + totals.index(best)), "ok", reason)
    if request.kind == "choice":
        return Judgement((1, 2, 0)[totals.index(best)], "ok", reason)
    margin = totals[0] - totals[1]
    return Judgement(margin > 0, "ok", reason, margin)
