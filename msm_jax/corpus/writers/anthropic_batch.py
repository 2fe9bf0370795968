"""Anthropic's batch API: half the price, within a day, and remembered across kills.

Before a batch is sent its requests are noted, after it was accepted its id: what a killed process
had sent is found again and its results are taken, not paid for twice. Batches run one after the
other. Rows that expired or failed at the provider go into the next batch.
"""

import dataclasses
import datetime
import hashlib
import json
import os
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from msm_jax.corpus.writers.anthropic_api import AnthropicWriter, reply_of, trouble_of
from msm_jax.corpus.writers.request import Failure, Price, Reply, Request
from msm_jax.corpus.writers.transport import Trouble, given_up
from msm_jax.errors import UserError

STEPS = frozenset("document neutral critique revise rewrite answer judge".split())
MOST_REQUESTS = 10_000  # in one batch; the provider allows 100,000
MOST_BYTES = 100_000_000  # of 256 MB
SEARCH_BACK = 120  # seconds by which the provider's clock may differ from ours


class AnthropicBatchWriter:
    """A `Backend` that sends the large steps in batches and the others at once.

    Args:
      live: for the other steps, and for how requests are put.
      folder: where batches under way are remembered.
      price, discount: what a batch's tokens cost.
      say: told what happens.
      poll: seconds between two looks at a batch.
    """

    def __init__(
        self, live: AnthropicWriter, folder: pathlib.Path, price: Price, discount: float,
        say: Callable[[str], None] = lambda text: None, poll: float = 30.0,
    ):  # fmt: skip
        self.identity: Mapping[str, Any] = live.identity
        self.counts = live.counts
        self._live, self._price, self._discount = live, price, discount
        mark = hashlib.sha256(json.dumps(dict(live.identity)).encode()).hexdigest()[:8]
        self._notes = _Notes(folder / f"batches-{mark}.jsonl")
        self._say, self._poll = say, poll

    def replies(
        self, requests: Sequence[Request], go_on: Callable[[], bool]
    ) -> Iterator[tuple[int, Reply | Failure]]:
        at_once = [at for at, request in enumerate(requests) if request.step not in STEPS]
        if at_once:
            asked = [requests[at] for at in at_once]
            for number, outcome in self._live.replies(asked, go_on):
                yield at_once[number], outcome
        batched = {
            request.key(self.identity): at
            for at, request in enumerate(requests)
            if request.step in STEPS
        }
        if batched:
            yield from self._batches(requests, batched, go_on)

    def _batches(
        self, requests: Sequence[Request], waiting: dict[str, int], go_on: Callable[[], bool]
    ) -> Iterator[tuple[int, Reply | Failure]]:
        import anthropic

        with anthropic.Anthropic(**self._live.client_options()) as client:
            for batch in self._under_way(client, set(waiting)):
                yield from self._collect(client, batch, waiting)
            for _ in range(self._live.pace.attempts):
                if not waiting or not go_on():
                    break
                for chunk in self._chunks(requests, waiting):
                    if not go_on():
                        return
                    batch = self._send(client, requests, chunk)
                    yield from self._collect(client, batch, waiting)
        if go_on():
            for at in waiting.values():
                yield at, Failure("expired", "the batch ended without this row")

    # ------------------------------------------------------------ sending

    def _chunks(
        self, requests: Sequence[Request], waiting: Mapping[str, int]
    ) -> Iterator[dict[str, int]]:
        """What is waiting, in parts that a batch can hold."""
        chunk: dict[str, int] = {}
        size = 0
        for key, at in list(waiting.items()):
            length = len(requests[at].system) + len(requests[at].prompt) + 1000
            if chunk and (len(chunk) == MOST_REQUESTS or size + length > MOST_BYTES):
                yield chunk
                chunk, size = {}, 0
            chunk[key] = at
            size += length
        if chunk:
            yield chunk

    def _send(self, client: Any, requests: Sequence[Request], chunk: Mapping[str, int]) -> str:
        rows = [
            {"custom_id": key, "params": self._live.params(requests[at])}
            for key, at in chunk.items()
        ]
        number = self._notes.intend(list(chunk))
        batch = self._patiently(lambda: client.messages.batches.create(requests=rows), once=True)
        self._notes.sent(number, batch.id)
        self._say(f"batch {batch.id}: {len(rows):,} requests")
        return batch.id

    def _under_way(self, client: Any, keys: set[str]) -> list[str]:
        """Batches sent by an earlier process that hold what is asked for now."""
        found = []
        for note in self._notes.open():
            if not keys & set(note["keys"]):
                continue
            batch = note.get("batch") or self._orphan(client, note)
            if batch:
                self._say(f"batch {batch}: taken up again")
                found.append(batch)
        return found

    def _orphan(self, client: Any, note: Mapping[str, Any]) -> str | None:
        """The batch of a process that was killed before it could note the id."""
        since = datetime.datetime.fromisoformat(note["time"]) - datetime.timedelta(
            seconds=SEARCH_BACK
        )
        known = self._notes.known()
        for batch in self._patiently(lambda: client.messages.batches.list(limit=100)).data:
            counts = batch.request_counts
            total = sum(
                getattr(counts, name)
                for name in ("processing", "succeeded", "errored", "canceled", "expired")
            )
            if batch.id not in known and batch.created_at >= since and total == len(note["keys"]):
                self._notes.sent(note["number"], batch.id)
                return batch.id
        return None

    # ------------------------------------------------------------ collecting

    def _collect(
        self, client: Any, batch: str, waiting: dict[str, int]
    ) -> Iterator[tuple[int, Reply | Failure]]:
        """Waits for a batch and hands out its rows; what has no reply stays in `waiting`."""
        while True:
            state = self._patiently(lambda: client.messages.batches.retrieve(batch))
            if state.processing_status == "ended":
                break
            time.sleep(self._poll)
        for row in self._patiently(lambda: list(client.messages.batches.results(batch))):
            at = waiting.get(row.custom_id)
            if at is None:
                continue
            outcome = self._outcome(row.result)
            if outcome is not None:
                del waiting[row.custom_id]
                yield at, outcome
        self._notes.done(batch)

    def _outcome(self, result: Any) -> Reply | Failure | None:
        """None: to be asked again."""
        if result.type == "succeeded":
            try:
                reply = reply_of(result.message)
            except Trouble as trouble:
                self._count(trouble.name)
                return None
            usage = self._price.of(reply.usage, self._discount)
            return dataclasses.replace(reply, usage=usage)
        if result.type == "errored":
            error = getattr(result.error, "error", result.error)
            if getattr(error, "type", "") == "invalid_request_error":
                self._count("bad request")
                return Failure("bad request", str(getattr(error, "message", "")))
        self._count({"errored": "server error", "expired": "expired"}.get(result.type, result.type))
        return None

    def _count(self, name: str) -> None:
        self.counts[name] = self.counts.get(name, 0) + 1

    def _patiently(self, call: Callable[[], Any], once: bool = False) -> Any:
        """The call's result; troubles that pass are waited out.

        With `once` a call whose answer was lost is not repeated: it may have been accepted.
        """
        for number in range(10**9):
            try:
                return call()
            except Exception as error:
                trouble = trouble_of(error)
                self._count(trouble.name)
                lost = trouble.name in ("timeout", "connection lost", "broken response")
                if once and lost:
                    raise UserError(
                        f"{trouble.name} while a batch was sent: run the same command again; if "
                        "the batch was accepted it will be found and not paid for twice"
                    ) from None
                if not trouble.retry or (once and number >= self._live.pace.attempts):
                    raise given_up(self._live.where, trouble) from None
                wait = self._live.pace.first_wait * 2 ** min(number, 7)
                time.sleep(min(max(wait, trouble.after or 0.0), self._live.pace.longest_wait))
        raise AssertionError


class _Notes:
    """batches-*.jsonl: what was meant to be sent, what was accepted, what is done."""

    def __init__(self, path: pathlib.Path):
        self._path = path
        self._notes: dict[str, dict[str, Any]] = {}
        if path.exists():
            whole = path.read_bytes().splitlines(keepends=True)
            if whole and not whole[-1].endswith(b"\n"):
                os.truncate(path, sum(map(len, whole[:-1])))
                whole = whole[:-1]
            for line in whole:
                row = json.loads(line)
                self._notes.setdefault(row["number"], {}).update(row)

    def open(self) -> list[dict[str, Any]]:
        return [note for note in self._notes.values() if not note.get("done")]

    def known(self) -> set[str]:
        return {note["batch"] for note in self._notes.values() if "batch" in note}

    def intend(self, keys: Sequence[str]) -> str:
        number = str(len(self._notes))
        now = datetime.datetime.now(datetime.UTC).isoformat()
        self._add({"number": number, "time": now, "keys": list(keys)})
        return number

    def sent(self, number: str, batch: str) -> None:
        self._add({"number": number, "batch": batch})

    def done(self, batch: str) -> None:
        for note in self._notes.values():
            if note.get("batch") == batch:
                self._add({"number": note["number"], "done": True})
                return

    def _add(self, row: dict[str, Any]) -> None:
        self._notes.setdefault(row["number"], {}).update(row)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
            file.flush()
            os.fsync(file.fileno())
