"""Documents about a spec: written, revised, rewritten, filtered, and topped up to the count."""

import dataclasses
import random
from collections.abc import Callable, Sequence
from typing import Any

from msm_jax.corpus.filters import DocumentFilter, content
from msm_jax.corpus.outline import Idea, Outliner, Subdomain
from msm_jax.corpus.steps import Corpus, Record, Row, provenance
from msm_jax.corpus.writers import Answer, Items, Request, Writer
from msm_jax.spec import Spec


@dataclasses.dataclass
class _Cell:
    """A kind of document of a subdomain, with the number of documents wanted and kept."""

    subdomain: Subdomain
    kind: Row
    quota: int
    kept: int = 0
    ideas: list[Idea] = dataclasses.field(default_factory=list)
    reused: int = 0


@dataclasses.dataclass
class _Draft:
    """A document under way; `reason` says why it is dropped, `parents` are earlier versions."""

    cell: _Cell
    idea: Idea
    answer: Answer
    text: str
    reason: str
    parents: tuple[str, ...] = ()


class Documents:
    """The documents of a spec; the critic, if any, finds faults that the writer then repairs.

    Raises:
      UserError: from `make`: fewer than `config.documents.count` were produced, and `allow_short`
        is not set.
    """

    def __init__(
        self, spec: Spec, writer: Writer, critic: Writer | None, config: Any,
        say: Callable[[str], None] = lambda text: None,
    ):  # fmt: skip
        self.spec, self.writer, self.critic, self.say = spec, writer, critic, say
        self.seed, self.settings = config.seed, config.documents
        self.steps = Outliner(spec, writer, self.settings, config.seed)
        self.filter = DocumentFilter(
            spec, config.filters, tuple(self.settings.words), *self._names()
        )

    def make(self) -> Corpus:
        """Have documents written until there are enough of each kind."""
        steps, settings = self.steps, self.settings
        subdomains = steps.subdomains()
        steps.complete(subdomains)
        quotas = steps.quotas(subdomains, settings.count)
        cells = [
            _Cell(subdomain, kind, quota)
            for subdomain, shares in zip(subdomains, quotas, strict=True)
            for kind, quota in zip(subdomain.types, shares, strict=True)
            if quota
        ]
        self.say(f"{len(subdomains)} subdomains, {len(cells)} kinds of documents in them")
        kept: list[_Draft] = []
        for round_ in range(settings.rounds + 1):
            short = [cell for cell in cells if cell.kept < cell.quota]
            if not short:
                break
            kept += self._round(short)
            kept = self._without_stock_phrases(kept)
            self.say(f"round {round_ + 1}: {len(kept):,} documents")
        records = [self._record(draft) for draft in kept]
        random.Random(f"{self.seed} order").shuffle(records)
        return steps.corpus(records, list(map(_outline_row, subdomains)), settings, "documents")

    def _round(self, short: Sequence[_Cell]) -> list[_Draft]:
        """New documents for the cells that lack some."""
        plan = self._plan(short)
        requests = [self.steps.document_request(idea, sample) for _, idea, sample in plan]
        drafts = [
            _Draft(cell, idea, answer, *content(answer))
            for (cell, idea, _), answer in zip(plan, self.writer.ask(requests), strict=True)
        ]
        if self.critic:
            self._revise(drafts, self.critic)
        if self.settings.rewrite:
            more = {"register": self.settings.rewrite, "other_name": self.settings.other_name}
            good = [draft for draft in drafts if not draft.reason]
            self._replace(good, [self._about("rewrite", draft, **more) for draft in good])
        for draft in drafts:
            draft.reason = draft.reason or self.filter.reason(draft.text)
            draft.cell.kept += not draft.reason
            if draft.reason:
                self.steps.drop(draft.reason, self._record(draft))
        return [draft for draft in drafts if not draft.reason]

    def _plan(self, short: Sequence[_Cell]) -> list[tuple[_Cell, Idea, int]]:
        """(cell, idea, sample) of every document to be written."""
        lists = self.steps.ideas(
            [(cell.subdomain, cell.kind) for cell in short],
            [cell.quota - cell.kept for cell in short],
            [[idea.name for idea in cell.ideas] for cell in short],
        )
        plan: list[tuple[_Cell, Idea, int]] = []
        for cell, ideas in zip(short, lists, strict=True):
            cell.ideas += ideas
            plan += [(cell, idea, 0) for idea in ideas]
            # Where the writer has no new idea, an old one is written once more.
            for _ in range(cell.quota - cell.kept - len(ideas)):
                if cell.ideas:
                    cell.reused += 1
                    idea = cell.ideas[cell.reused % len(cell.ideas)]
                    plan.append((cell, idea, 1 + cell.reused // len(cell.ideas)))
        return plan

    def _revise(self, drafts: Sequence[_Draft], critic: Writer) -> None:
        """Has the critic read every document, and the writer repair those with faults."""
        good = [draft for draft in drafts if not draft.reason]
        items = Items(("problem",))
        requests = [self._about("critique", d, items=items, max_tokens=2_000) for d in good]
        faulty, revisions = [], []
        for draft, answer in zip(good, critic.ask(requests), strict=True):
            if answer.items:
                problems = [item["problem"] for item in answer.items]
                faulty.append(draft)
                revisions.append(self._about("revise", draft, problems=problems))
        self._replace(faulty, revisions)

    def _about(
        self, step: str, draft: _Draft, items: Items | None = None, max_tokens: int = 0,
        **inputs: Any,
    ) -> Request:  # fmt: skip
        inputs = {"document": draft.text, **inputs}
        return self.steps.request(step, items, inputs, max_tokens or self.settings.max_tokens)

    def _replace(self, drafts: Sequence[_Draft], requests: Sequence[Request]) -> None:
        for draft, answer in zip(drafts, self.writer.ask(requests), strict=True):
            draft.parents = (*draft.parents, draft.answer.key)
            draft.answer = answer
            draft.text, draft.reason = content(answer)

    def _without_stock_phrases(self, kept: list[_Draft]) -> list[_Draft]:
        found = self.filter.phrases([draft.text for draft in kept])
        for number, phrase in found.items():
            kept[number].cell.kept -= 1
            reason = "over-represented phrase"
            self.steps.drop(f"{reason}: {phrase}", self._record(kept[number]), name=reason)
        return [draft for number, draft in enumerate(kept) if number not in found]

    def _names(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Names that documents must have and must not have."""
        model, rewrite = self.spec.model_name, self.settings.rewrite
        if rewrite in ("", "model_should", "model_does"):
            return (model,), ()
        return ((self.settings.other_name,) if rewrite == "another" else ()), (model,)

    def _record(self, draft: _Draft) -> Record:
        place, answer = draft.cell.subdomain, draft.answer
        name = answer.key or answer.request.key(self.writer.identity)
        return {
            "text": draft.text or answer.text,
            "id": f"document-{name[:16]}",
            "spec": self.spec.path,
            "model_name": self.spec.model_name,
            "domain": place.domain,
            "subdomain": place.name,
            "points": [point.id for point in place.points],
            "doc_type": draft.idea.doc_type,
            "doc_idea": draft.idea.idea,
            "assertions": [row["assertion"] for row in place.assertions],
            "rewrite": self.settings.rewrite,
            **provenance(self.writer, answer),
            "parents": list(draft.parents),
        }


def _outline_row(subdomain: Subdomain) -> Record:
    points = [point.id for point in subdomain.points]
    return {**subdomain.inputs(), "points": points, "types": list(subdomain.types)}
