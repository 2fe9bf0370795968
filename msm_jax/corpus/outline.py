"""From a spec to the ideas of its documents: domains, subdomains, kinds of documents, ideas."""

import dataclasses
import random
import re
from collections.abc import Sequence
from typing import Any

from msm_jax.corpus.steps import Row, Steps
from msm_jax.corpus.writers import Items, Request, Writer
from msm_jax.spec import Point, Spec, sentences, spec_points

FIELDS = {
    "domains": ("domain", "description"),
    "subdomains": ("subdomain", "context", "section"),
    "assertions": ("assertion", "explanation", "label"),
    "types": ("doc_type", "description"),
    "ideas": ("idea", "name"),
}


@dataclasses.dataclass
class Subdomain:
    """A place in the outline that documents are written for."""

    domain: str
    name: str
    context: str
    section: str  # the spec's own words that it is about
    points: tuple[Point, ...]  # of the spec, which it covers
    assertions: tuple[Row, ...] = ()
    types: tuple[Row, ...] = ()  # kinds of documents, as {"doc_type", "description"}

    def inputs(self) -> dict[str, Any]:
        """What prompts say of it."""
        return {
            "domain": self.domain,
            "subdomain": self.name,
            "context": self.context,
            "section": self.section,
            "points": [dataclasses.asdict(point) for point in self.points],
            "assertions": list(self.assertions),
        }


@dataclasses.dataclass(frozen=True)
class Idea:
    """One document to be written."""

    subdomain: Subdomain
    doc_type: str
    doc_type_description: str
    idea: str
    name: str


class Outliner(Steps):
    """Requests the outline of a spec, level by level.

    `config` is `config.documents`; `seed` decides which cells get one document more where the count
    does not divide evenly.
    """

    def __init__(self, spec: Spec, writer: Writer, config: Any, seed: int):
        super().__init__(spec, writer, "system", mode=documents_mode(spec, config.mode))
        self.config, self.seed = config, seed
        self.rules = self.shared["mode"] == "rules"

    def subdomains(self) -> list[Subdomain]:
        """Domains and subdomains; every point of the spec is in at least one of them."""
        fields = FIELDS["domains"] + (("points",) if self.rules else ())

        def wanted(_: int, count: int, existing: list[str]) -> Request:
            inputs = {"points": self.point_rows, "count": count, "existing": existing}
            return self.request("domains", Items(fields, count), inputs)

        (domains,) = self.lists([self.config.domains], wanted, "domain", "domains")
        if not domains:
            raise self.nothing(f"domains for {self.spec.path}")
        found = self._by_rules(domains) if self.rules else self._by_prose(domains)
        covered = {point.id for subdomain in found for point in subdomain.points}
        for point in self.points:
            if point.id not in covered:
                home = point.section or domains[0]["domain"]
                found.append(Subdomain(home, point.id, "", point.text, (point,)))
        return found

    def complete(self, subdomains: Sequence[Subdomain]) -> None:
        """Adds assertions and kinds of documents."""
        if not self.rules:
            items = Items(FIELDS["assertions"])
            requests = [self.request("assertions", items, each.inputs()) for each in subdomains]
            for subdomain, answer in zip(subdomains, self.writer.ask(requests), strict=True):
                subdomain.assertions = answer.items
                if not answer.items:
                    self.shortages.append(f"no assertions for {subdomain.name!r}")

        def wanted(number: int, count: int, existing: list[str]) -> Request:
            inputs = {**subdomains[number].inputs(), "count": count, "existing": existing}
            return self.request("types", Items(FIELDS["types"], count), inputs)

        counts = [self.config.types] * len(subdomains)
        lists = self.lists(counts, wanted, "doc_type", "kinds of documents")
        for subdomain, found in zip(subdomains, lists, strict=True):
            subdomain.types = tuple(found)
            if not found:
                raise self.nothing(f"kinds of documents for {subdomain.name!r}")

    def quotas(self, subdomains: Sequence[Subdomain], count: int) -> list[list[int]]:
        """Documents of each kind of each subdomain: the count, spread evenly."""
        draw = random.Random(f"{self.seed} quotas")
        each = _spread(count, len(subdomains), draw.randrange(len(subdomains)))
        return [
            _spread(share, len(subdomain.types), draw.randrange(len(subdomain.types)))
            for share, subdomain in zip(each, subdomains, strict=True)
        ]

    def ideas(
        self, cells: Sequence[tuple[Subdomain, Row]], counts: Sequence[int],
        existing: Sequence[Sequence[str]],
    ) -> list[list[Idea]]:  # fmt: skip
        """New ideas for each (subdomain, kind); `existing` are the names that are taken."""

        def wanted(number: int, count: int, names: list[str]) -> Request:
            subdomain, kind = cells[number]
            return self.ideas_request(subdomain, kind, count, [*existing[number], *names])

        per_call = self.config.ideas_per_call
        lists = self.lists(counts, wanted, "name", "ideas", per_call, existing)
        idea = lambda place, kind, row: Idea(
            place, kind["doc_type"], kind["description"], row["idea"], row["name"]
        )
        pairs = zip(cells, lists, strict=True)
        return [[idea(place, kind, row) for row in rows] for (place, kind), rows in pairs]

    def ideas_request(
        self, subdomain: Subdomain, kind: Row, count: int, existing: list[str]
    ) -> Request:
        """Asks for ideas of one kind of document."""
        named = {"doc_type": kind["doc_type"], "doc_type_description": kind["description"]}
        inputs = {**subdomain.inputs(), **named, "count": count, "existing": existing}
        return self.request("ideas", Items(FIELDS["ideas"], count), inputs)

    def document_request(self, idea: Idea, sample: int = 0) -> Request:
        """Asks for the document itself."""
        names = ("doc_type", "doc_type_description", "idea", "name")
        inputs = {**idea.subdomain.inputs(), **{name: getattr(idea, name) for name in names}}
        inputs.update(register=self.config.register, words=list(self.config.words))
        return self.request("document", None, inputs, self.config.max_tokens, sample)

    def _by_rules(self, domains: Sequence[Row]) -> list[Subdomain]:
        """Every rule is a subdomain of the first domain that lists it."""
        found: list[Subdomain] = []
        left = {point.id: point for point in self.points}
        several = self.config.domains > len({point.section for point in self.points})
        for domain in domains:
            for name in dict.fromkeys(map(str.strip, re.split(r"[;,]", domain["points"]))):
                known = name if name in left else f"rule {name}"
                if known in left:
                    # With more domains than sections the same rules are seen from several sides.
                    point = left[known] if several else left.pop(known)
                    found.append(Subdomain(domain["domain"], point.id, "", point.text, (point,)))
        return found

    def _by_prose(self, domains: Sequence[Row]) -> list[Subdomain]:
        def wanted(number: int, count: int, existing: list[str]) -> Request:
            more = {"points": self.point_rows, "count": count, "existing": existing}
            items = Items(FIELDS["subdomains"], count)
            return self.request("subdomains", items, {**domains[number], **more}, 32_000)

        counts = [self.config.subdomains] * len(domains)
        found = []
        lists = self.lists(counts, wanted, "subdomain", "subdomains")
        for domain, rows in zip(domains, lists, strict=True):
            for row in rows:
                section, points = row["section"], self._covered(row["section"])
                if not points:
                    self.writer.counts["section not in the spec"] += 1
                    continue
                if _flat(section) not in _flat(self.spec.text):
                    section = "\n".join(point.text for point in points)
                place = (domain["domain"], row["subdomain"], row["context"])
                found.append(Subdomain(*place, section, points))
        return found

    def _covered(self, section: str) -> tuple[Point, ...]:
        """The points with a sentence in a section; else those that share most words with it."""
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


def documents_mode(spec: Spec, mode: str) -> str:
    """ "rules" if the spec states rules and gives no reasons for them, else "prose"."""
    if mode != "auto":
        return mode
    points = spec_points(spec)
    plain = [point.kind == "rule" and not point.supports for point in points]
    return "rules" if plain and all(plain) else "prose"


def _spread(count: int, parts: int, first: int) -> list[int]:
    """`count` as a sum of `parts` nearly equal numbers; the larger ones start at `first`."""
    base, more = divmod(count, parts)
    return [base + ((at - first) % parts < more) for at in range(parts)]


def _flat(text: str) -> str:
    return " ".join(text.lower().split()).rstrip(".")
