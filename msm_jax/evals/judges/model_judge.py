"""A checkpoint as a judge: it reasons freely, and then the likeliest of the answers is its verdict.

So there is nothing to parse, and for yes and no the difference of their log-probabilities says how
sure it was. A thought (<think>) that has no end after `max_tokens` gives no verdict. Use a fixed,
unchanged model: its identity goes into the summary.
"""

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from msm_jax.corpus.writers import Journal
from msm_jax.errors import UserError
from msm_jax.evals.judges.base import CUT_OFF, Judgement, JudgePrompt
from msm_jax.evals.judges.reading import before_answer
from msm_jax.evals.thoughts import READING, thoughts

if TYPE_CHECKING:
    from msm_jax.api import Model

_PREFIX = "\n<answer>"


class ModelJudge:
    """Asks a `Model`."""

    def __init__(
        self, model: "Model", cache: Journal, max_tokens: int = 256, rows: int = 64, seed: int = 0
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
            **{name: known[name] for name in ("tokenizer", "chat", "ends")},
            "reading": READING,  # verdicts are kept, not replies: others are not taken for ours
            **self._settings,
        }

    def judge(self, prompts: Sequence[JudgePrompt]) -> Iterator[tuple[int, Judgement]]:
        """See `Judge`. In batches, each of which is kept on disk before the next."""
        with self._cache:
            missing = []
            for index, prompt in enumerate(prompts):
                read = lambda row, prompt=prompt: Judgement.of_row(row["reply"], prompt)
                judgement = self._cache.get(prompt.key(self.identity, 0), read)
                if judgement is None:
                    missing.append(index)
                else:
                    yield index, judgement
            for start in range(0, len(missing), 4 * self._rows):
                some = missing[start : start + 4 * self._rows]
                judged = self._batch([prompts[i] for i in some])
                for index, judgement in zip(some, judged, strict=True):
                    if judgement.state != "error":
                        key = prompts[index].key(self.identity, 0)
                        self._cache.put(key, {"reply": judgement.as_dict()})
                    yield index, judgement

    def _batch(self, prompts: list[JudgePrompt]) -> list[Judgement]:
        found: dict[int, Judgement] = {}
        encoded: dict[int, list[int]] = {}
        for at, prompt in enumerate(prompts):
            try:
                encoded[at] = self._fitting(self._model.encode(prompt.messages()))
            except UserError as error:  # what was written is too long, or has no encoding
                found[at] = Judgement(None, "error", str(error))
        tokens = list(encoded.values())
        draw = lambda: self._model.sample(tokens, n=1, rows=self._rows, **self._settings)
        reasons: dict[int, str] = {}
        contexts, options = [], []
        for at, (sample,) in zip(encoded, draw() if tokens else [], strict=True):
            reason, encode = before_answer(str(sample.text)), self._model.tokenizer.encode
            words = [encode(f"{word}</answer>") for word in prompts[at].answers()]
            context = [*encoded[at], *encode(reason + _PREFIX)]
            try:
                contexts += [self._fitting(context, max(map(len, words)))] * len(words)
            except UserError as error:
                found[at] = Judgement(None, "error", str(error))
            else:
                options += words
                reasons[at] = reason
        values = iter(self._model.logprobs(contexts, options, rows=self._rows) if reasons else [])
        for at, reason in reasons.items():
            totals = [float(next(values).sum()) for _ in prompts[at].answers()]
            found[at] = _decide(prompts[at], reason, totals)
        return [found[at] for at in range(len(prompts))]

    def _fitting(self, tokens: list[int], room: int = 1) -> list[int]:
        context = self._model.context_length
        if context is not None and len(tokens) + room > context:
            raise UserError(
                f"the question and what the judge wrote have {len(tokens):,} tokens, which leaves "
                f"no room for a verdict in its context of {context:,}"
            )
        return tokens


def _decide(prompt: JudgePrompt, reason: str, totals: list[float]) -> Judgement:
    """The answer with the highest log-probability; `totals` are those of `prompt.answers()`."""
    if thoughts(reason)[1]:
        return Judgement(None, "unparsed", CUT_OFF + reason)  # still thinking: no answer follows
    best = max(totals)
    if not all(map(math.isfinite, totals)) or totals.count(best) > 1:
        return Judgement(None, "unparsed", f"no answer is the most likely: {totals}; {reason}")
    value = list(prompt.answers().values())[totals.index(best)]
    margin = totals[0] - totals[1] if prompt.kind == "yes_no" else None
    return Judgement(value, "ok", reason, margin)
