"""What the pipelines of documents and of chats share: requests, lists, and what is dropped."""

import collections
import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from msm_jax.corpus.prompts import prompt
from msm_jax.corpus.writers import Answer, Items, Request, Writer
from msm_jax.errors import UserError
from msm_jax.spec import Spec, spec_points

EMPTY_ROUNDS = 3  # rounds without anything new after which a list counts as exhausted

Record = dict[str, Any]
Row = dict[str, str]


@dataclasses.dataclass
class Corpus:
    """A corpus that was generated."""

    records: list[Record]  # in the order in which they are trained on
    dropped: list[Record]  # what the filters refused, with "reason" and the "text" if any
    reasons: dict[str, int]  # counts of the reasons
    outline: list[dict[str, Any]]  # subdomains with kinds of documents, or the cells of the chats
    shortages: list[str]  # where the writer gave fewer than requested, as sentences


class Steps:
    """The requests of one corpus about one spec, with a count of what went wrong.

    Args:
      writer: answers the requests.
      system: name of the prompt that all requests share.
      shared: inputs of all prompts, besides the names of the model and its provider.
    """

    def __init__(self, spec: Spec, writer: Writer, system: str, **shared: Any):
        self.spec, self.writer = spec, writer
        provider = spec.provider_name or "its developer"
        names = {"model_name": spec.model_name, "provider_name": provider}
        self.shared: dict[str, Any] = {**names, **shared}
        self.system = prompt(system, {**names, "spec": spec.text})
        self.points = spec_points(spec)
        self.dropped: list[Record] = []
        self.reasons: collections.Counter[str] = collections.Counter()
        self.shortages: list[str] = []

    def request(
        self, step: str, items: Items | None, inputs: Mapping[str, Any],
        max_tokens: int = 0, sample: int = 0, system: str = "",
    ) -> Request:  # fmt: skip
        """A request of a step; with `max_tokens` 0 the reply has room for `count` items.

        `system` names a prompt that takes the place of the shared one.
        """
        inputs = {**self.shared, **inputs}
        room = max_tokens or 2_000 + 200 * int(inputs.get("count") or 20)
        shared = prompt(system, {**inputs, "spec": self.spec.text}) if system else self.system
        return Request(step, shared, prompt(step, inputs), inputs, items, room, sample)

    def lists(
        self, counts: Sequence[int], wanted: Callable[[int, int, list[str]], Request],
        field: str, what: str = "", per_call: int = 100, existing: Sequence[Sequence[str]] = (),
        new: Callable[[list[tuple[int, Row]]], list[bool]] | None = None,
    ) -> list[list[Row]]:  # fmt: skip
        """A list of rows for each count, requested again until it is long enough.

        Args:
          counts: the length of each list; 0 takes what one reply gives.
          wanted: (number of the list, rows to ask for, names it has) -> request.
          field: the name of a row.
          what: the rows are, for the report of lists that stayed short; "" reports nothing.
          per_call: most rows asked for in one request.
          existing: names that each list already has.
          new: (number of the list, row) of one round -> whether the row is taken; by default
            those whose name differs from all before in more than case and punctuation.
        """
        taken = [set(map(_plain, names)) for names in existing or ((),) * len(counts)]

        def new_names(rows: list[tuple[int, Row]]) -> list[bool]:
            found = []
            for n, row in rows:
                name = _plain(row[field])
                found.append(name not in taken[n])
                taken[n].add(name)
            return found

        lists: list[list[Row]] = [[] for _ in counts]
        empty = [0] * len(counts)
        unfinished = list(range(len(counts)))
        while unfinished:
            requests = []
            for n in unfinished:
                missing = min(counts[n] - len(lists[n]), per_call) if counts[n] else 0
                request = wanted(n, missing, [row[field] for row in lists[n]])
                # After a reply without anything new, the same request draws another sample.
                requests.append(dataclasses.replace(request, sample=request.sample + empty[n]))
            pairs = zip(unfinished, self.writer.ask(requests), strict=True)
            rows = [(n, row) for n, answer in pairs for row in answer.items]
            before = [len(found) for found in lists]
            for (n, row), is_new in zip(rows, (new or new_names)(rows), strict=True):
                if is_new:
                    lists[n].append(row)
            for n in unfinished:
                empty[n] = 0 if len(lists[n]) > before[n] else empty[n] + 1
            short = [n for n in unfinished if len(lists[n]) < max(counts[n], 1)]
            unfinished = [n for n in short if empty[n] < EMPTY_ROUNDS]
        few = sum(len(found) < count for found, count in zip(lists, counts, strict=True))
        if few and what:
            one = f"{len(lists[0])} of {counts[0]} {what}"
            several = f"{few} of {len(counts)} lists of {what} stayed short"
            self.shortages.append(several if len(counts) > 1 else one)
        return lists

    def nothing(self, what: str) -> UserError:
        """The error that the writer gave nothing usable."""
        return UserError(
            f"the writer gave no {what} ({dict(self.writer.counts)}): read its replies in "
            f"{self.writer.journal.path}"
        )

    def drop(self, reason: str, record: Record, name: str = "") -> None:
        """Counts a reason under its `name` and keeps the record, its text shortened."""
        self.reasons[name or reason] += 1
        self.dropped.append({"reason": reason, **record, "text": record["text"][:2000]})

    def corpus(
        self, records: list[Record], outline: list[Record], config: Any, what: str
    ) -> Corpus:
        """The corpus of these records; fewer than `config.count` need `config.allow_short`."""
        if len(records) < config.count:
            self.shortages.append(f"{len(records)} of {config.count} {what}")
            reasons = (self.reasons + self.writer.counts).most_common(8)
            if not config.allow_short or not records:
                raise UserError(
                    f"only {len(records):,} of {config.count:,} {what} were produced in "
                    f"{config.rounds + 1} rounds "
                    f"({', '.join(f'{name} {count}' for name, count in reasons)}): run the same "
                    f"command again if the provider failed, raise {what}.rounds, or accept fewer "
                    f"with {what}.allow_short=True"
                )
        return Corpus(records, self.dropped, dict(self.reasons), outline, self.shortages)


def provenance(writer: Writer, answer: Answer) -> Record:
    """The keys of a record that say who wrote it, and in answer to what."""
    prompt_hash = answer.request.prompt_hash()
    return {"writer": dict(writer.identity), "prompt_hash": prompt_hash, "response": answer.key}


def spread(count: int, parts: int, first: int = 0) -> list[int]:
    """`count` as a sum of `parts` nearly equal numbers; the larger ones start at `first`."""
    base, more = divmod(count, parts)
    return [base + ((at - first) % parts < more) for at in range(parts)]


def _plain(name: str) -> str:
    return " ".join(re.findall(r"\w+", name.lower()))
