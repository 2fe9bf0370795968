"""From a spec to the ideas of its documents, counted and topped up at every level."""

import dataclasses
import random
import re
from collections.abc import Callable, Sequence
from typing import Any

from msm_jax.corpus import prompts
from msm_jax.corpus.writers import Items, Request, Writer
from msm_jax.errors import UserError
from msm_jax.spec import Point, Spec, sentences, spec_points

EMPTY_ROUNDS = 3  # rounds without anything new after which a list counts as exhausted


@dataclasses.dataclass
class Subdomain:
    """A place in the outline that documents are written for.

    Attributes:
      section: the spec's own words that it rests on.
      points: what of the spec it covers.
      types: kinds of documents, as {"doc_type", "description"}.
    """

    domain: str
    name: str
    context: str
    section: str
    points: tuple[Point, ...]
    assertions: tuple[dict[str, str], ...] = ()
    types: tuple[dict[str, str], ...] = ()


@dataclasses.dataclass(frozen=True)
class Idea:
    """One document to be written."""

    subdomain: Subdomain
    doc_type: str
    doc_type_description: str
    idea: str
    name: str


class Outliner:
    """Asks for the outline of a spec, level by level.

    Args:
      spec, writer: of the corpus.
      config: `config.documents`.
      seed: of which cells get the odd documents.

    Attributes:
      shortages: where fewer things could be had than were asked for.
    """

    def __init__(self, spec: Spec, writer: Writer, config: Any, seed: int):
        self.spec, self.writer, self.config, self.seed = spec, writer, config, seed
        self.points = spec_points(spec)
        self.mode = documents_mode(spec, config.mode)
        self.system = prompts.system(spec.model_name, spec.provider_name, spec.text)
        self.shortages: list[str] = []
        self._point_rows = [dataclasses.asdict(point) for point in self.points]

    def subdomains(self) -> list[Subdomain]:
        """Domains and subdomains; every point of the spec is in at least one of them."""
        domains = self._domains()
        found = self._by_rules(domains) if self.mode == "rules" else self._by_prose(domains)
        covered = {point.id for subdomain in found for point in subdomain.points}
        for point in self.points:
            if point.id not in covered:
                home = point.section or domains[0]["domain"]
                found.append(Subdomain(home, point.id, "", point.text, (point,)))
        return found

    def complete(self, subdomains: Sequence[Subdomain]) -> None:
        """Adds assertions and kinds of documents."""
        if self.mode == "prose":
            asked = [
                self.request("assertions", Items(("assertion", "explanation", "label")),
                             {**self._facts(subdomain), "count": 0})
                for subdomain in subdomains
            ]  # fmt: skip
            for subdomain, answer in zip(subdomains, self.writer.ask(asked), strict=True):
                subdomain.assertions = answer.items
                if not answer.items:
                    self.shortages.append(f"no assertions for {subdomain.name!r}")

        def wanted(number: int, count: int, existing: list[str]) -> Request:
            inputs = {**self._facts(subdomains[number]), "count": count, "existing": existing}
            inputs["register"] = self.config.register
            return self.request("types", Items(("doc_type", "description"), count), inputs)

        lists = self.topped_up(
            [self.config.types] * len(subdomains), wanted, "doc_type", "kinds of documents"
        )
        for subdomain, found in zip(subdomains, lists, strict=True):
            subdomain.types = tuple(found)
            if not found:
                raise UserError(
                    f"no kinds of documents could be had for {subdomain.name!r} "
                    f"({dict(self.writer.counts)}): look at the replies in "
                    f"{self.writer.journal.path}"
                )

    def quotas(self, subdomains: Sequence[Subdomain], count: int) -> list[list[int]]:
        """Documents of each kind of each subdomain: the count, spread as evenly as it can be."""
        draw = random.Random(f"{self.seed} quotas")
        each = _spread(count, len(subdomains), draw.randrange(len(subdomains)))
        return [
            _spread(share, len(subdomain.types), draw.randrange(len(subdomain.types)))
            for share, subdomain in zip(each, subdomains, strict=True)
        ]

    def ideas(
        self, cells: Sequence[tuple[Subdomain, dict[str, str]]], counts: Sequence[int],
        existing: Sequence[Sequence[str]],
    ) -> list[list[Idea]]:  # fmt: skip
        """New ideas for each (subdomain, kind); `existing` are the names that are taken."""

        def wanted(number: int, count: int, names: list[str]) -> Request:
            subdomain, kind = cells[number]
            inputs = {
                **self._facts(subdomain),
                "doc_type": kind["doc_type"],
                "doc_type_description": kind["description"],
                "count": count,
                "existing": [*existing[number], *names],
            }
            return self.request("ideas", Items(("idea", "name"), count), inputs)

        lists = self.topped_up(
            counts, wanted, "name", "ideas", self.config.ideas_per_call, existing
        )
        return [
            [
                Idea(subdomain, kind["doc_type"], kind["description"], row["idea"], row["name"])
                for row in rows
            ]
            for (subdomain, kind), rows in zip(cells, lists, strict=True)
        ]

    def document_request(self, idea: Idea, sample: int = 0) -> Request:
        """Asks for the document itself."""
        inputs = {
            **self._facts(idea.subdomain),
            "doc_type": idea.doc_type,
            "doc_type_description": idea.doc_type_description,
            "idea": idea.idea,
            "name": idea.name,
            "register": self.config.register,
            "words": list(self.config.words),
            "rivals": [row for row in self._point_rows if row["item"]],
        }
        return self.request("document", None, inputs, self.config.max_tokens, sample)

    def request(
        self, step: str, items: Items | None, inputs: dict[str, Any],
        max_tokens: int = 0, sample: int = 0,
    ) -> Request:  # fmt: skip
        """A request of a step, with room for what is asked for."""
        inputs = {
            "model_name": self.spec.model_name,
            "provider_name": self.spec.provider_name or "its developer",
            "mode": self.mode,
            **inputs,
        }
        room = max_tokens or 2_000 + 200 * int(inputs.get("count") or 20)
        prompt = getattr(prompts, step)(inputs)
        return Request(step, self.system, prompt, inputs, items, room, sample)

    def topped_up(
        self,
        counts: Sequence[int],
        wanted: Callable[[int, int, list[str]], Request],
        field: str,
        what: str,
        per_call: int = 100,
        existing: Sequence[Sequence[str]] | None = None,
    ) -> list[list[dict[str, str]]]:
        """A list for each count, without repetitions, asked for again until it is long enough.

        Args:
          counts: how many each list shall hold; 0: whatever one reply gives.
          wanted: (number of the list, how many, names it has) -> request.
          field: what makes an entry itself.
          what: for messages.
          per_call: most entries asked for at once.
          existing: names that count as taken.
        """
        lists: list[list[dict[str, str]]] = [[] for _ in counts]
        taken = [set(map(_plain, existing[n])) if existing else set() for n in range(len(counts))]
        empty = [0] * len(counts)
        open_now = list(range(len(counts)))
        while open_now:
            asked = []
            for n in open_now:
                missing = min(counts[n] - len(lists[n]), per_call) if counts[n] else 0
                request = wanted(n, missing, [row[field] for row in lists[n]])
                # After a reply that gave nothing the same request is another draw.
                asked.append(dataclasses.replace(request, sample=request.sample + empty[n]))
            for n, answer in zip(open_now, self.writer.ask(asked), strict=True):
                fresh = 0
                for row in answer.items:
                    if _plain(row[field]) not in taken[n]:
                        taken[n].add(_plain(row[field]))
                        lists[n].append(row)
                        fresh += 1
                empty[n] = 0 if fresh else empty[n] + 1
            open_now = [
                n for n in open_now if len(lists[n]) < max(counts[n], 1) and empty[n] < EMPTY_ROUNDS
            ]
        short = sum(len(found) < count for found, count in zip(lists, counts, strict=True))
        if short:
            self.shortages.append(f"{short} of {len(counts)} lists of {what} stayed short")
        return lists

    # ------------------------------------------------------------ levels

    def _domains(self) -> list[dict[str, str]]:
        fields = ("domain", "description", *(("points",) if self.mode == "rules" else ()))

        def wanted(_: int, count: int, existing: list[str]) -> Request:
            inputs = {"points": self._point_rows, "count": count, "existing": existing}
            return self.request("domains", Items(fields, count), inputs)

        (found,) = self.topped_up([self.config.domains], wanted, "domain", "domains")
        if not found:
            raise UserError(
                f"no domains could be had for {self.spec.path} ({dict(self.writer.counts)}): look "
                f"at the replies in {self.writer.journal.path}"
            )
        return found

    def _by_rules(self, domains: Sequence[dict[str, str]]) -> list[Subdomain]:
        """Every rule is a subdomain of the first domain that lists it."""
        found: list[Subdomain] = []
        left = {point.id: point for point in self.points}
        several = self.config.domains > len({point.section for point in self.points})
        for domain in domains:
            for name in re.split(r"[;,]", domain["points"]):
                name = name.strip()
                known = name if name in left else f"rule {name}"
                if known in left:
                    # With more domains than sections the same rules are seen from several sides.
                    point = left[known] if several else left.pop(known)
                    found.append(Subdomain(domain["domain"], point.id, "", point.text, (point,)))
        return found

    def _by_prose(self, domains: Sequence[dict[str, str]]) -> list[Subdomain]:
        fields = ("subdomain", "context", "section")

        def wanted(number: int, count: int, existing: list[str]) -> Request:
            inputs: dict[str, Any] = {**domains[number], "points": self._point_rows}
            inputs |= {"count": count, "existing": existing}
            return self.request("subdomains", Items(fields, count), inputs, 32_000)

        lists = self.topped_up(
            [self.config.subdomains] * len(domains), wanted, "subdomain", "subdomains"
        )
        found = []
        for domain, rows in zip(domains, lists, strict=True):
            for row in rows:
                points = self._covered(row["section"])
                if not points:
                    self.writer.counts["section not in the spec"] += 1
                    continue
                section = row["section"]
                if _flat(section) not in _flat(self.spec.text):
                    section = "\n".join(point.text for point in points)
                found.append(
                    Subdomain(domain["domain"], row["subdomain"], row["context"], section, points)
                )
        return found

    def _covered(self, section: str) -> tuple[Point, ...]:
        """Points one of whose sentences stands in a section; else those that share most words."""
        flat = _flat(section)
        inside = [
            point
            for point in self.points
            if any(_flat(s) in flat for s in sentences(point.text))
            or (len(flat) > 20 and flat in _flat(point.text))
            or (point.item and point.item.lower() in flat)
        ]
        if not inside:
            words = set(flat.split())
            shared = {p.id: len(words & set(_flat(p.text).split())) for p in self.points}
            best = max(shared.values(), default=0)
            inside = [p for p in self.points if best >= 8 and shared[p.id] == best]
        return tuple(inside)

    def _facts(self, subdomain: Subdomain) -> dict[str, Any]:
        return {
            "domain": subdomain.domain,
            "subdomain": subdomain.name,
            "context": subdomain.context,
            "section": subdomain.section,
            "points": [dataclasses.asdict(point) for point in subdomain.points],
            "assertions": list(subdomain.assertions),
        }


def documents_mode(spec: Spec, mode: str) -> str:
    """ "rules" if the spec states rules and gives no reasons for them, else "prose"."""
    if mode != "auto":
        return mode
    points = spec_points(spec)
    rules = [point for point in points if point.kind == "rule"]
    explained = sum(bool(point.supports) for point in rules)
    return "rules" if rules and len(rules) == len(points) and not explained else "prose"


def _spread(count: int, parts: int, first: int) -> list[int]:
    """`count` as a sum of `parts` nearly equal numbers; the larger ones start at `first`."""
    base, more = divmod(count, parts)
    return [base + ((at - first) % parts < more) for at in range(parts)]


def _plain(name: str) -> str:
    return " ".join(re.findall(r"\w+", name.lower()))


def _flat(text: str) -> str:
    return " ".join(text.lower().split()).rstrip(".")
