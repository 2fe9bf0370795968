"""A judge behind an API: many requests at a time, each paid for once."""

from collections.abc import Iterator, Sequence

from msm_jax.corpus.writers import Failure, Journal, Reply, Request
from msm_jax.corpus.writers.client import ApiClient, Pace
from msm_jax.evals.judges.base import Judgement, JudgePrompt, read_reply

ANTHROPIC_MODEL = "claude-sonnet-4-6"  # the paper's judge (MSM, appendix D.3)
# A request that is refused as such costs one verdict, be it the first or the last.
PACE = Pace(16, timeout=120.0, attempts=8, longest_wait=600.0, seconds=600.0, bad_requests=0)


class ApiJudge:
    """Asks a model behind an API.

    A reply without an answer, or cut off, is requested again, `asks` times in all; then it is
    "unparsed". A refusal stands. What could not be reached is an "error", is not kept, and is
    tried again by the next run. Neither is ever a no.
    """

    def __init__(self, client: ApiClient, cache: Journal, max_tokens: int = 1024, asks: int = 3):
        self.identity = {"judge": client.where, "max_tokens": max_tokens, "asks": asks}
        self._client, self._cache = client, cache
        self._max_tokens, self._asks = max_tokens, asks

    def judge(self, prompts: Sequence[JudgePrompt]) -> Iterator[tuple[int, Judgement]]:
        """See `Judge`. A UserError of one request ends the run; the others' replies are kept."""
        with self._cache:
            waiting = list(range(len(prompts)))
            for attempt in range(self._asks):
                alike: dict[str, list[int]] = {}
                for index in waiting:
                    key = prompts[index].key(self.identity, attempt)
                    alike.setdefault(key, []).append(index)
                waiting = []
                for key, outcome in self._outcomes(prompts, alike, attempt):
                    for index in alike[key]:
                        judgement = _judgement(prompts[index], outcome)
                        if judgement.state == "unparsed" and attempt + 1 < self._asks:
                            waiting.append(index)
                        else:
                            yield index, judgement

    def _outcomes(
        self, prompts: Sequence[JudgePrompt], alike: dict[str, list[int]], attempt: int
    ) -> Iterator[tuple[str, Reply | Failure]]:
        """Key and outcome of each; only what the cache lacks is sent."""
        missing = []
        for key in alike:
            reply = self._cache.get(key, Reply.of_row)
            if reply is None:
                missing.append(key)
            else:
                yield key, reply
        first = [prompts[alike[key][0]] for key in missing]
        requests = [
            Request("judge", p.system, p.user, max_tokens=self._max_tokens, sample=attempt)
            for p in first
        ]
        if not requests:
            return
        # A reply is kept as it arrives, whatever becomes of the reader: it is paid for.
        keep = lambda index, reply: self._cache.put(missing[index], reply.row("judge"))
        for index, outcome in self._client.replies(requests, lambda: True, keep):
            yield missing[index], outcome


def _judgement(prompt: JudgePrompt, outcome: Reply | Failure) -> Judgement:
    if isinstance(outcome, Failure):
        return Judgement(None, "error", f"{outcome.name}: {outcome.message}")
    return read_reply(outcome.text, outcome.stop, prompt)
