"""The outline of a spec: domains, subdomains, what they assert, and kinds of documents."""

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

from msm_jax.corpus.steps import Row, Steps
from msm_jax.corpus.writers import Items, Request, Writer
from msm_jax.spec import Point, Spec, sentences, spec_points


@dataclasses.dataclass
class Subdomain:
    """A place in the outline that documents are written for."""

    domain: str
    subdomain: str  # its name
    context: str
    section: str  # the spec's own words that it is about
    points: tuple[Point, ...]  # of the spec, which it covers
    assertions: tuple[Row, ...] = ()
    types: tuple[Row, ...] = ()  # kinds of documents, as {"doc_type", "description"}


class Outliner(Steps):
    """Requests the outline of a spec, level by level; `settings` is `config.documents`."""

    def __init__(self, spec: Spec, writer: Writer, settings: Any):
        super().__init__(spec, writer, "system", mode=documents_mode(spec, settings.mode))
        self.settings = settings
        self.rules = self.shared["mode"] == "rules"

    def outline(self) -> list[Subdomain]:
        """Domains and subdomains; every point of the spec is in at least one of them."""
        fields = ("domain", "description", *(["points"] if self.rules else []))

        def wanted(_: int, count: int, existing: list[str]) -> Request:
            inputs = {"points": self.points, "count": count, "existing": existing}
            return self.request("domains", Items(fields, count), inputs)

        (domains,) = self.lists([self.settings.domains], wanted, "domain", "domains")
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
            items = Items(("assertion", "explanation", "label"))
            requests = [self.request("assertions", items, vars(each)) for each in subdomains]
            for subdomain, answer in zip(subdomains, self.writer.ask(requests), strict=True):
                subdomain.assertions = answer.items
                if not answer.items:
                    self.shortages.append(f"no assertions for {subdomain.subdomain!r}")

        def wanted(number: int, count: int, existing: list[str]) -> Request:
            inputs = {**vars(subdomains[number]), "count": count, "existing": existing}
            return self.request("types", Items(("doc_type", "description"), count), inputs)

        counts = [self.settings.types] * len(subdomains)
        lists = self.lists(counts, wanted, "doc_type", "kinds of documents")
        for subdomain, found in zip(subdomains, lists, strict=True):
            subdomain.types = tuple(found)
            if not found:
                raise self.nothing(f"kinds of documents for {subdomain.subdomain!r}")

    def _by_rules(self, domains: Sequence[Row]) -> list[Subdomain]:
        """Every rule is a subdomain of the first domain that lists it."""
        found: list[Subdomain] = []
        left = {point.id: point for point in self.points}
        several = self.settings.domains > len({point.section for point in self.points})
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
            more = {"points": self.points, "count": count, "existing": existing}
            items = Items(("subdomain", "context", "section"), count)
            return self.request("subdomains", items, {**domains[number], **more}, 32_000)

        counts = [self.settings.subdomains] * len(domains)
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


def _flat(text: str) -> str:
    return " ".join(text.lower().split()).rstrip(".")
