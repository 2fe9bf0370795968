"""Documents about a spec: written, revised, rewritten, filtered, and topped up to the count."""

import dataclasses
import random
from collections.abc import Callable, Sequence
from typing import Any

from msm_jax.corpus.filters import DocumentFilter, content
from msm_jax.corpus.outline import Outliner, Subdomain
from msm_jax.corpus.steps import Corpus, Record, Row, provenance, spread
from msm_jax.corpus.writers import Answer, Items, Request, Writer
from msm_jax.spec import Spec

OWN_NAME = ("", "model_should", "model_does")  # rewrites that are still about the model


@dataclasses.dataclass
class Cell:
    """A kind of document of a subdomain, with the number of documents wanted and kept."""

    subdomain: Subdomain
    kind: Row  # {"doc_type", "description"}
    quota: int = 0
    kept: int = 0
    ideas: list[Row] = dataclasses.field(default_factory=list)  # {"idea", "name"}
    reused: int = 0

    def inputs(self) -> dict[str, Any]:
        """What prompts say of it."""
        kind = {"doc_type": self.kind["doc_type"], "doc_type_description": self.kind["description"]}
        return {**vars(self.subdomain), **kind}


@dataclasses.dataclass
class _Draft:
    """A document under way; `reason` says why it is dropped, `parents` are earlier versions."""

    cell: Cell
    idea: Row
    answer: Answer
    text: str
    reason: str
    parents: tuple[str, ...] = ()


class Documents(Outliner):
    """The documents of a spec; the critic, if any, finds faults that the writer then repairs.

    Raises:
      UserError: from `make`: fewer than `config.documents.count` were produced, and `allow_short`
        is not set.
    """

    def __init__(
        self, spec: Spec, writer: Writer, critic: Writer | None, config: Any,
        say: Callable[[str], None] = lambda text: None,
    ):  # fmt: skip
        super().__init__(spec, writer, config.documents)
        self.critic, self.say, self.seed = critic, say, config.seed
        model, rewrite = spec.model_name, self.settings.rewrite
        names, forbidden = ((model,), ()) if rewrite in OWN_NAME else ((), (model,))
        if rewrite == "another":
            names = (self.settings.other_name,)
        words = tuple(self.settings.words)
        self.filter = DocumentFilter(spec, config.filters, words, names, forbidden)

    def make(self) -> Corpus:
        """Have documents written until there are enough of each kind."""
        settings, subdomains = self.settings, self.outline()
        self.complete(subdomains)
        cells = self._cells(subdomains)
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
        rows = [{**vars(each), "points": _ids(each)} for each in subdomains]
        return self.corpus(records, rows, settings, "documents")

    def ideas_request(self, cell: Cell, count: int, existing: list[str]) -> Request:
        """Asks for ideas of one kind of document."""
        inputs = {**cell.inputs(), "count": count, "existing": existing}
        return self.request("ideas", Items(("idea", "name"), count), inputs)

    def document_request(self, cell: Cell, idea: Row, sample: int = 0) -> Request:
        """Asks for the document itself."""
        settings = self.settings
        inputs = {**cell.inputs(), **idea, "register": settings.register, "words": settings.words}
        return self.request("document", None, inputs, settings.max_tokens, sample)

    def _cells(self, subdomains: Sequence[Subdomain]) -> list[Cell]:
        """The kinds of documents of all subdomains, among which the count is spread evenly."""
        draw = random.Random(f"{self.seed} quotas")
        count = self.settings.count
        shares = spread(count, len(subdomains), draw.randrange(len(subdomains)))
        cells = []
        for subdomain, share in zip(subdomains, shares, strict=True):
            kinds = subdomain.types
            quotas = spread(share, len(kinds), draw.randrange(len(kinds)))
            cells += [Cell(subdomain, *each) for each in zip(kinds, quotas, strict=True)]
        return [cell for cell in cells if cell.quota]

    def _round(self, short: Sequence[Cell]) -> list[_Draft]:
        """New documents for the cells that lack some."""
        plan = self._plan(short)
        answers = self.writer.ask([self.document_request(*each) for each in plan])
        drafts = [
            _Draft(cell, idea, answer, *content(answer))
            for (cell, idea, _), answer in zip(plan, answers, strict=True)
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
                self.drop(draft.reason, self._record(draft))
        return [draft for draft in drafts if not draft.reason]

    def _plan(self, short: Sequence[Cell]) -> list[tuple[Cell, Row, int]]:
        """(cell, idea, sample) of every document to be written."""
        known = [[idea["name"] for idea in cell.ideas] for cell in short]

        def wanted(number: int, count: int, names: list[str]) -> Request:
            return self.ideas_request(short[number], count, [*known[number], *names])

        counts = [cell.quota - cell.kept for cell in short]
        per_call = self.settings.ideas_per_call
        lists = self.lists(counts, wanted, "name", "ideas", per_call, known)
        plan: list[tuple[Cell, Row, int]] = []
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
        return self.request(step, items, inputs, max_tokens or self.settings.max_tokens)

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
            self.drop(f"{reason}: {phrase}", self._record(kept[number]), name=reason)
        return [draft for number, draft in enumerate(kept) if number not in found]

    def _record(self, draft: _Draft) -> Record:
        place, answer = draft.cell.subdomain, draft.answer
        name = answer.key or answer.request.key(self.writer.identity)
        return {
            "text": draft.text or answer.text,
            "id": f"document-{name[:16]}",
            "spec": self.spec.path,
            "model_name": self.spec.model_name,
            "domain": place.domain,
            "subdomain": place.subdomain,
            "points": _ids(place),
            "doc_type": draft.cell.kind["doc_type"],
            "doc_idea": draft.idea["idea"],
            "assertions": [row["assertion"] for row in place.assertions],
            "rewrite": self.settings.rewrite,
            **provenance(self.writer, answer),
            "parents": list(draft.parents),
        }


def _ids(subdomain: Subdomain) -> list[str]:
    return [point.id for point in subdomain.points]
