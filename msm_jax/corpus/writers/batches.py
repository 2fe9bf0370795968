"""Anthropic's batch API: half the price, within a day, and resumed after a kill.

The requests of a batch are noted before it is sent, its id after it was accepted. So the batch of a
process that was killed is found again, and its results are not paid for twice. Batches run one
after the other. Rows that expired or failed at the provider go into the next batch.
"""

import dataclasses
import datetime
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from msm_jax.corpus.writers import bodies
from msm_jax.corpus.writers.journal import Journal
from msm_jax.corpus.writers.providers import AnthropicClient
from msm_jax.corpus.writers.request import Failure, Price, Reply, Request, Usage
from msm_jax.errors import UserError
from msm_jax.files import sha256_json

STEPS = frozenset("document neutral critique revise rewrite answer judge".split())
MOST_REQUESTS = 10_000  # in one batch; the provider allows 100,000
MOST_BYTES = 100_000_000  # of 256 MB
SEARCH_BACK = datetime.timedelta(seconds=120)  # by which the provider's clock may differ from ours


class AnthropicBatches:
    """A `Backend` that sends the large steps in batches, and the others at once through `live`.

    Notes of batches are kept in `folder`; `poll` is the seconds between two checks of a batch.
    """

    def __init__(
        self, live: AnthropicClient, folder: pathlib.Path, price: Price, discount: float,
        say: Callable[[str], None] = lambda text: None, poll: float = 30.0,
    ):  # fmt: skip
        self.identity: Mapping[str, Any] = live.identity
        self.counts = live.counts
        self._live, self._price, self._discount = live, price, discount
        name = f"batches-{sha256_json(dict(live.identity))[:8]}.jsonl"
        self._notes = Journal(folder / name, say=say)  # rows as of `_note_of`
        self._say, self._poll = say, poll

    @property
    def lost(self) -> Usage:
        """See `Backend`."""
        return self._live.lost

    def replies(
        self, requests: Sequence[Request], go_on: Callable[[], bool]
    ) -> Iterator[tuple[int, Reply | Failure]]:
        at_once = [at for at, request in enumerate(requests) if request.step not in STEPS]
        if at_once:
            for number, outcome in self._live.replies([requests[at] for at in at_once], go_on):
                yield at_once[number], outcome
        waiting = {r.key(self.identity): at for at, r in enumerate(requests) if r.step in STEPS}
        if waiting:
            session = self._live.connected("Anthropic", "DefaultHttpxClient", bodies.check)
            with self._notes, session as client:
                yield from self._batches(client.messages.batches, requests, waiting, go_on)

    def _batches(
        self, api: Any, requests: Sequence[Request], waiting: dict[str, int],
        go_on: Callable[[], bool],
    ) -> Iterator[tuple[int, Reply | Failure]]:  # fmt: skip
        for number in self._notes:  # those of an earlier process
            note = self._note(number)
            if not note.get("done") and not set(waiting).isdisjoint(note.get("keys", ())):
                yield from self._collect(api, number, requests, waiting)
        for _ in range(self._live.pace.attempts):
            for chunk in self._chunks(requests, waiting):
                if not go_on():
                    return
                number = self._send(api, requests, chunk)
                yield from self._collect(api, number, requests, waiting)
        if go_on():
            for at in waiting.values():
                yield at, Failure("expired", "the batch ended without this row")

    def _chunks(
        self, requests: Sequence[Request], waiting: Mapping[str, int]
    ) -> Iterator[dict[str, int]]:
        """The waiting requests in parts that a batch can hold."""
        chunk: dict[str, int] = {}
        size = 0
        for key, at in list(waiting.items()):
            texts = requests[at].system + requests[at].prompt
            length = len(texts.encode()) + 1000
            if chunk and (len(chunk) == MOST_REQUESTS or size + length > MOST_BYTES):
                yield chunk
                chunk, size = {}, 0
            chunk[key] = at
            size += length
        if chunk:
            yield chunk

    def _send(self, api: Any, requests: Sequence[Request], chunk: Mapping[str, int]) -> str:
        """Sends a batch; returns the number of its note."""
        params = {key: self._live.params(requests[at]) for key, at in chunk.items()}
        rows = [{"custom_id": key, "params": value} for key, value in params.items()]
        number = str(1 + max(map(int, self._notes), default=-1))
        now = datetime.datetime.now(datetime.UTC)
        self._note(number, time=now.isoformat(), keys=list(chunk))
        batch = self._patiently(lambda: str(api.create(requests=rows).id), once=True)
        self._note(number, batch=batch)
        self._say(f"batch {batch}: {len(rows):,} requests")
        return number

    def _note(self, number: str, **facts: Any) -> dict[str, Any]:
        """The note of a batch, with more facts where there are some."""
        note = {**(self._notes.get(number, _note_of) or {}), **facts}
        if facts:
            self._notes.put(number, note)
        return note

    def _orphan(self, api: Any, number: str, note: Mapping[str, Any]) -> str | None:
        """The batch of a process that was killed before it could note the id."""
        since = datetime.datetime.fromisoformat(note["time"]) - SEARCH_BACK
        known = {self._note(other).get("batch") for other in self._notes}
        states = ("processing", "succeeded", "errored", "canceled", "expired")

        def found() -> str | None:
            for batch in api.list(limit=100).data:
                total = sum(getattr(batch.request_counts, name) for name in states)
                same = batch.created_at >= since and total == len(note["keys"])
                if same and batch.id not in known:
                    return str(batch.id)
            return None

        batch = self._patiently(found)
        if batch is not None:
            self._note(number, batch=batch)
        return batch

    def _collect(
        self, api: Any, number: str, requests: Sequence[Request], waiting: dict[str, int]
    ) -> Iterator[tuple[int, Reply | Failure]]:
        """Waits for a batch and yields its rows; what has no reply stays in `waiting`."""
        note = self._note(number)
        batch = note.get("batch") or self._orphan(api, number, note)
        if batch is None:
            return
        while self._patiently(lambda: api.retrieve(batch).processing_status) != "ended":
            time.sleep(self._poll)
        own = {key: requests[at] for key, at in waiting.items()}
        for key, outcome in self._patiently(lambda: self._results(api, batch, own)).items():
            yield waiting.pop(key), outcome
        self._note(number, done=True)

    def _results(
        self, api: Any, batch: str, own: Mapping[str, Request]
    ) -> dict[str, Reply | Failure]:
        """The results of a batch by the keys of our requests, without those to be sent again."""
        found: dict[str, Reply | Failure] = {}
        for row in api.results(batch):
            key, result = getattr(row, "custom_id", ""), getattr(row, "result", None)
            is_ours = isinstance(key, str) and key in own
            outcome = self._outcome(result, own[key]) if is_ours else None
            if outcome is not None:
                found[key] = outcome
        return found

    def _outcome(self, result: Any, request: Request) -> Reply | Failure | None:
        """None: to be sent again."""
        state = str(getattr(result, "type", ""))
        if state == "succeeded":
            try:
                reply = self._live.reply_of(result.message, request)
            except Exception as exception:
                error = self._live.error_of(exception)
                self._live.count(error, request)
                return None if error.retry else Failure(error.name, str(error))
            usage = self._price.of(reply.usage, self._discount)
            return dataclasses.replace(reply, usage=usage)
        error = getattr(result, "error", None)
        error = getattr(error, "error", error)
        if getattr(error, "type", "") == "invalid_request_error":
            self._live.counts["bad request"] += 1
            return Failure("bad request", str(getattr(error, "message", "")))
        self._live.counts["server error" if state == "errored" else state[:40]] += 1
        return None

    def _patiently(self, call: Callable[[], Any], once: bool = False) -> Any:
        """The call's result, with waits while errors pass.

        With `once` a call whose reply was lost is not repeated: it may have been accepted.
        """
        pace, number = self._live.pace, 0
        while True:
            try:
                return call()
            except Exception as exception:
                error = self._live.error_of(exception)
                self._live.counts[error.name] += 1
                lost = error.name in ("timeout", "connection lost", "broken response")
                if once and lost:
                    raise UserError(
                        f"{error.name} while a batch was sent: run the same command again; if "
                        "the batch was accepted it will be found and not paid for twice"
                    ) from None
                bounded = once or error.name == "broken response"
                if not error.retry or (bounded and number >= pace.attempts):
                    raise error.ends(self._live.where) from None
                number += 1
                time.sleep(pace.wait(number, error))


def _note_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """The note of a batch: its requests' "keys", the "time" when it was sent, "batch", "done".

    Raises:
      ValueError, LookupError, TypeError: the row is no such note.
    """
    keys, batch = row["keys"], row.get("batch")
    datetime.datetime.fromisoformat(row["time"])
    texts = isinstance(keys, list) and all(isinstance(key, str) for key in keys)
    if not texts or not isinstance(batch, str | None) or not row["key"].isdecimal():
        raise ValueError("no note of a batch")
    return dict(row)
