"""A judge behind an API: many requests at a time, each paid for once."""

import dataclasses
from collections.abc import Iterator, Sequence

from msm_jax.corpus.writers import Failure, Journal, Reply, Request, Usage
from msm_jax.corpus.writers.client import ApiClient, Pace
from msm_jax.corpus.writers.request import Price
from msm_jax.errors import UserError
from msm_jax.evals.judges.base import Judgement, JudgePrompt
from msm_jax.evals.judges.reading import read_reply

ANTHROPIC_MODEL = "claude-sonnet-4-6"  # the paper's judge (MSM, appendix D.3)
# A request that is refused as such costs one verdict, be it the first or the last.
PACE = Pace(16, timeout=120.0, attempts=8, longest_wait=600.0, seconds=600.0, bad_requests=0)


class ApiJudge:
    """Asks a model behind an API.

    A reply without an answer, or cut off, is requested again, `asks` times in all; then it is
    "unparsed". A refusal stands. What could not be reached is an "error", is not kept, and is
    tried again by the next run. Neither is ever a no.

    Args:
      price: of the client's tokens; those read from or written to its cache cost as much as others.
      max_usd: no more is asked once the new replies cost so much; 0: no limit.
    """

    def __init__(
        self, client: ApiClient, cache: Journal, max_tokens: int = 1024, asks: int = 3,
        price: Price = Price(), max_usd: float = 0.0,  # noqa: B008 - frozen
    ):  # fmt: skip
        self.identity = {"judge": client.where, "max_tokens": max_tokens, "asks": asks}
        self._client, self._cache = client, cache
        self._max_tokens, self._asks = max_tokens, asks
        self._price = dataclasses.replace(price, cache_read=price.input, cache_write=price.input)
        self._max_usd, self._paid = max_usd, Usage()

    def judge(self, prompts: Sequence[JudgePrompt]) -> Iterator[tuple[int, Judgement]]:
        """See `Judge`. A UserError of one request ends the run; the others' replies are kept.

        Raises:
          UserError: also when `max_usd` is spent, with what has been asked for received and kept.
        """
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
        """(key, outcome) of each prompt; only those that the cache lacks are sent."""
        missing = []
        for key in alike:
            reply = self._cache.get(key, Reply.of_row)
            if reply is None:
                missing.append(key)
            else:
                yield key, reply
        request = lambda prompt: Request(
            "judge", prompt.system, prompt.user, max_tokens=self._max_tokens, sample=attempt
        )
        requests = [request(prompts[alike[key][0]]) for key in missing]
        if not requests:
            return

        def keep(index: int, reply: Reply) -> None:
            """Keeps a reply as it arrives, even if nobody reads on: it is paid for."""
            self._cache.put(missing[index], reply.row("judge"))
            self._paid += reply.usage

        left = len(requests)
        for index, outcome in self._client.replies(requests, self._has_money, keep):
            left -= 1
            yield missing[index], outcome
        if left and not self._has_money():
            raise UserError(
                f"--judge_max_usd={self._max_usd:g} is spent (${self._spent():.2f} by this run): "
                f"{left} calls were not made; nothing is lost; run the same command with a larger "
                "limit to go on"
            )

    def _spent(self) -> float:
        """US dollars, with what arrived and could not be used."""
        return self._price.of(self._paid + self._client.lost).usd

    def _has_money(self) -> bool:
        return not self._max_usd or self._spent() < self._max_usd


def _judgement(prompt: JudgePrompt, outcome: Reply | Failure) -> Judgement:
    if isinstance(outcome, Failure):
        return Judgement(None, "error", f"{outcome.name}: {outcome.message}")
    return read_reply(outcome.text, outcome.stop, prompt)
