"""The one way in which the pipelines ask: cached, validated, repaired, counted."""

import collections
import dataclasses
from collections.abc import Callable, Mapping, Sequence

from msm_jax.corpus.writers.journal import Journal
from msm_jax.corpus.writers.request import (
    Backend,
    Failure,
    InvalidReply,
    Price,
    Reply,
    Request,
    Usage,
)
from msm_jax.errors import UserError

REPAIRS = 2
LONGEST_REPLY = 64_000  # tokens; a reply that was cut off is asked for again with twice the room


@dataclasses.dataclass(frozen=True)
class Answer:
    """The outcome of a request.

    Attributes:
      request: as it was asked in the end (a repair is another request).
      key: names the reply in the journal.
      text, stop: of the reply.
      items: of a structured reply that is valid.
      failure: name of what went wrong; "" when nothing did.
    """

    request: Request
    key: str = ""
    text: str = ""
    stop: str = ""
    items: tuple[dict[str, str], ...] = ()
    failure: str = ""


class Writer:
    """A backend with its journal.

    Args:
      backend: who writes.
      journal: where replies are kept.
      price: of its tokens; only replies without a cost of their own are priced here.
      max_usd: no more requests are sent once this writer's new replies cost so much; 0: no limit.
      on_reply: called with the step after each new reply.

    Attributes:
      counts: what went wrong, by name, of those requests that were asked here.
      used: step -> usage of the replies used by this run, new or not.
      paid: usage of the replies that are new.
    """

    def __init__(
        self,
        backend: Backend,
        journal: Journal,
        price: Price = Price(),  # noqa: B008 - frozen
        max_usd: float = 0.0,
        on_reply: Callable[[str, int], None] | None = None,
    ):
        self.backend, self.journal, self.price = backend, journal, price
        self.max_usd, self._on_reply = max_usd, on_reply
        self.counts: collections.Counter[str] = collections.Counter()
        self._used: dict[str, tuple[str, Usage]] = {}
        self.paid = Usage()

    @property
    def identity(self) -> Mapping:
        return self.backend.identity

    def used(self) -> dict[str, Usage]:
        """Step -> usage of all replies that this run looked at, whenever they were paid for."""
        found: dict[str, Usage] = collections.defaultdict(Usage)
        for step, usage in self._used.values():
            found[step] += usage
        return dict(found)

    def replies_used(self) -> dict[str, int]:
        """Step -> number of replies that this run looked at."""
        return dict(collections.Counter(step for step, _ in self._used.values()))

    def ask(self, requests: Sequence[Request]) -> list[Answer]:
        """The answers in the order of the requests; what fails is an answer with its reason.

        Raises:
          UserError: the writer cannot go on at all, or the money is spent. What was written
            until then is kept.
        """
        answers: list[Answer | None] = [None] * len(requests)
        open_now = dict(enumerate(requests))
        for repair in range(REPAIRS + 1):
            replies = self._replies(list(open_now.values()))
            again: dict[int, Request] = {}
            for (index, request), (key, outcome) in zip(open_now.items(), replies, strict=True):
                answer, better = _judge(request, key, outcome)
                if better is not None and repair < REPAIRS:
                    self.counts[f"repaired: {answer.failure}"] += 1
                    again[index] = better
                else:
                    answers[index] = answer
                    if answer.failure:
                        self.counts[answer.failure] += 1
            open_now = again
            if not open_now:
                break
        return [answer for answer in answers if answer is not None]

    def _replies(self, requests: Sequence[Request]) -> list[tuple[str, Reply | Failure]]:
        """Key and outcome of each; the backend sees only what the journal lacks, once."""
        keys = [request.key(self.identity) for request in requests]
        missing = {k: r for k, r in zip(keys, requests, strict=True) if k not in self.journal}
        failures = self._fetch(missing)
        found: list[tuple[str, Reply | Failure]] = []
        for key in keys:
            reply = self.journal.get(key)
            if reply is not None:
                self._used[key] = self.journal.usage(key)
            found.append((key, reply if reply is not None else failures[key]))
        return found

    def _fetch(self, missing: Mapping[str, Request]) -> dict[str, Failure]:
        """Has the missing replies written and kept; returns those that could not be had."""
        failures: dict[str, Failure] = {}
        order = list(missing)
        if not order:
            return failures
        self._check_money()
        asked = [missing[key] for key in order]
        for index, outcome in self.backend.replies(asked, self._has_money):
            key, step = order[index], missing[order[index]].step
            if isinstance(outcome, Failure):
                failures[key] = outcome
            else:
                if not outcome.usage.usd:
                    outcome = dataclasses.replace(outcome, usage=self.price.of(outcome.usage))
                self.journal.put(key, step, outcome)
                self.paid += outcome.usage
            if self._on_reply:
                self._on_reply(step, len(order))
        self._check_money()
        return failures

    def _has_money(self) -> bool:
        return not self.max_usd or self.paid.usd < self.max_usd

    def _check_money(self) -> None:
        if not self._has_money():
            raise UserError(
                f"max_usd={self.max_usd:g} is spent (${self.paid.usd:.2f} by this run): nothing is "
                "lost; run the same command with a larger max_usd to go on"
            )


def _judge(request: Request, key: str, outcome: Reply | Failure) -> tuple[Answer, Request | None]:
    """The answer, and a better request where a repair may help."""
    if isinstance(outcome, Failure):
        return Answer(request, failure=outcome.name), None
    answer = Answer(request, key, outcome.text, outcome.stop)
    if outcome.stop == "refusal":
        return dataclasses.replace(answer, failure="refusal"), None
    if request.items is None:
        return answer, None
    try:
        items = request.items.parse(outcome.text)
        return dataclasses.replace(answer, items=tuple(items)), None
    except InvalidReply as error:
        cut = outcome.stop == "length"
        name = "truncated" if cut else "invalid structure"
        room = min(2 * request.max_tokens, LONGEST_REPLY) if cut else request.max_tokens
        prompt = request.prompt if cut else _repair_prompt(request.prompt, outcome.text, error)
        better = dataclasses.replace(request, prompt=prompt, max_tokens=room)
        if better == request:
            return dataclasses.replace(answer, failure=name), None
        return dataclasses.replace(answer, failure=name), better


def _repair_prompt(prompt: str, text: str, error: InvalidReply) -> str:
    return (
        f"{prompt}\n\n<previous_reply>\n{text[:8000]}\n</previous_reply>\n\nThat reply cannot be "
        f"used: {error}. Reply again with the corrected JSON value and nothing else."
    )
