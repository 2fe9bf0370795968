"""A model with its journal: replies are kept, checked, repaired and counted."""

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
LONGEST_REPLY = 64_000  # tokens; a reply that was cut off is requested again with twice the room


@dataclasses.dataclass(frozen=True)
class Answer:
    """The outcome of a request."""

    request: Request  # the last one: a repair is another request
    key: str = ""  # of the reply in the journal
    text: str = ""
    stop: str = ""
    items: tuple[dict[str, str], ...] = ()  # of a structured reply that is valid
    failure: str = ""  # name of what went wrong; "" if nothing did


class Writer:
    """A backend with its journal, which the caller enters.

    Args:
      price: of its tokens; only replies without a cost of their own are priced here.
      max_usd: no more requests are sent once this writer's new replies cost so much; 0: no limit.
      on_reply: called with the step and the number of replies expected, after each new reply.
    """

    def __init__(
        self, backend: Backend, journal: Journal,
        price: Price = Price(), max_usd: float = 0.0,  # noqa: B008 - frozen
        on_reply: Callable[[str, int], None] | None = None,
    ):  # fmt: skip
        self.backend, self.journal, self.price = backend, journal, price
        self.identity = backend.identity
        self.max_usd, self._on_reply = max_usd, on_reply
        self.counts: collections.Counter[str] = collections.Counter()  # what went wrong, by name
        self._used: dict[str, tuple[str, Usage]] = {}
        self.paid = Usage()  # for the replies that are new

    def used(self) -> dict[str, Usage]:
        """Step -> usage of all replies that this run used, in whichever run they were paid for."""
        found: dict[str, Usage] = collections.defaultdict(Usage)
        for step, usage in self._used.values():
            found[step] += usage
        return dict(found)

    def replies_used(self) -> dict[str, int]:
        """Step -> number of replies that this run used."""
        return dict(collections.Counter(step for step, _ in self._used.values()))

    def ask(self, requests: Sequence[Request]) -> list[Answer]:
        """The answers in the order of the requests; what fails is an answer with its reason.

        Raises:
          UserError: no request can succeed any more, or the money is spent. Replies until then
            are kept.
        """
        answers: dict[int, Answer] = {}
        waiting = dict(enumerate(requests))
        for repair in range(REPAIRS + 1):
            outcomes = self._outcomes(list(waiting.values()))
            again: dict[int, Request] = {}
            for (index, request), (key, outcome) in zip(waiting.items(), outcomes, strict=True):
                answer, better = _checked(request, key, outcome)
                if better is not None and repair < REPAIRS:
                    self.counts[f"repaired: {answer.failure}"] += 1
                    again[index] = better
                else:
                    answers[index] = answer
                    self.counts.update([answer.failure] if answer.failure else [])
            waiting = again
        return [answers[index] for index in range(len(requests))]

    def _outcomes(self, requests: Sequence[Request]) -> list[tuple[str, Reply | Failure]]:
        """Key and outcome of each; the backend sees only what the journal lacks, once."""
        keys = [request.key(self.identity) for request in requests]
        own = dict(zip(keys, requests, strict=True))
        found: dict[str, Reply | Failure] = {
            key: reply for key in own if (reply := self.journal.get(key, Reply.of_row))
        }
        found |= self._fetch({key: request for key, request in own.items() if key not in found})
        for key, request in own.items():
            if isinstance(outcome := found[key], Reply):
                self._used[key] = request.step, outcome.usage
        return [(key, found[key]) for key in keys]

    def _fetch(self, missing: Mapping[str, Request]) -> dict[str, Reply | Failure]:
        """Has the missing replies written, and keeps them."""
        found: dict[str, Reply | Failure] = {}
        if not missing:
            return found
        keys, requests = list(missing), list(missing.values())
        self._check_money()
        for index, outcome in self.backend.replies(requests, self._has_money):
            step = requests[index].step
            if isinstance(outcome, Reply):
                if not outcome.usage.usd:
                    outcome = dataclasses.replace(outcome, usage=self.price.of(outcome.usage))
                self.journal.put(keys[index], outcome.row(step))
                self.paid += outcome.usage
            found[keys[index]] = outcome
            if self._on_reply:
                self._on_reply(step, len(requests))
        self._check_money()
        return found

    def _spent(self) -> float:
        """US dollars, with the most that replies cost that arrived and could not be used."""
        return self.paid.usd + self.price.of(self.backend.lost).usd

    def _has_money(self) -> bool:
        return not self.max_usd or self._spent() < self.max_usd

    def _check_money(self) -> None:
        if not self._has_money():
            lost = self.backend.lost.unreported
            also = f", with {lost} replies that could not be used" if lost else ""
            raise UserError(
                f"max_usd={self.max_usd:g} is spent (${self._spent():.2f} by this run{also}): "
                "nothing is lost; run the same command with a larger max_usd to go on"
            )


def _checked(request: Request, key: str, outcome: Reply | Failure) -> tuple[Answer, Request | None]:
    """The answer, and a better request where a repair may help."""
    if isinstance(outcome, Failure):
        return Answer(request, failure=outcome.name), None
    answer = Answer(request, key, outcome.text, outcome.stop)
    if outcome.stop == "refusal":
        return dataclasses.replace(answer, failure="refusal"), None
    if request.items is None:
        return answer, None
    try:
        items = tuple(request.items.parse(outcome.text))
        return dataclasses.replace(answer, items=items), None
    except InvalidReply as error:
        if outcome.stop == "length":
            name, room = "truncated", min(2 * request.max_tokens, LONGEST_REPLY)
            better = dataclasses.replace(request, max_tokens=room)
        else:
            name = "invalid structure"
            prompt = (
                f"{request.prompt}\n\n<previous_reply>\n{outcome.text[:8000]}\n</previous_reply>"
                f"\n\nThat reply cannot be used: {error}. Reply again with the corrected JSON "
                "value and nothing else."
            )
            better = dataclasses.replace(request, prompt=prompt)
        return dataclasses.replace(answer, failure=name), None if better == request else better
