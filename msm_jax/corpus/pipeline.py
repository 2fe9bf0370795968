"""Documents about a spec: written, revised, rewritten, filtered, and topped up to the count."""

import collections
import dataclasses
import random
from collections.abc import Callable, Sequence
from typing import Any

from msm_jax.corpus import prompts
from msm_jax.corpus.filters import Filter, content
from msm_jax.corpus.outline import Idea, Outliner, Subdomain
from msm_jax.corpus.writers import Answer, Items, Request, Writer
from msm_jax.errors import UserError
from msm_jax.spec import Spec

Record = dict[str, Any]


@dataclasses.dataclass
class Made:
    """A corpus.

    Attributes:
      records: in the order in which they are trained on.
      dropped: what was not taken, with "reason" and the "text" if there was one.
      reasons: counts of the reasons.
      outline: domain -> subdomain -> kinds of documents, or what takes their place.
      shortages: in words.
    """

    records: list[Record]
    dropped: list[Record]
    reasons: dict[str, int]
    outline: list[dict[str, Any]]
    shortages: list[str]


@dataclasses.dataclass
class _Cell:
    """A kind of document of a subdomain, and how far it is."""

    subdomain: Subdomain
    kind: dict[str, str]
    quota: int
    kept: int = 0
    ideas: list[Idea] = dataclasses.field(default_factory=list)
    reused: int = 0


@dataclasses.dataclass
class _Draft:
    """A document on its way."""

    cell: _Cell
    idea: Idea
    answer: Answer
    text: str
    reason: str
    parents: tuple[str, ...] = ()


class DocumentMaker:
    """Makes the documents of a spec.

    Args:
      spec: what they are about.
      writer: writes them.
      critic: finds faults in them; None: nobody does.
      config: as of `corpus.config.generate`.
      say: told what happens, for people.
    """

    def __init__(
        self, spec: Spec, writer: Writer, critic: Writer | None, config: Any,
        say: Callable[[str], None] = lambda text: None,
    ):  # fmt: skip
        self.spec, self.writer, self.critic, self.config, self.say = (
            spec, writer, critic, config, say,
        )  # fmt: skip
        self.settings = config.documents
        self.outliner = Outliner(spec, writer, self.settings, config.seed)
        self.filter = Filter(spec, config.filters, tuple(self.settings.words), *self._names())
        self.dropped: list[Record] = []

    def make(self) -> Made:
        """The corpus.

        Raises:
          UserError: fewer documents than asked for could be had, unless `allow_short`.
        """
        subdomains = self.outliner.subdomains()
        self.outliner.complete(subdomains)
        quotas = self.outliner.quotas(subdomains, self.settings.count)
        cells = [
            _Cell(subdomain, kind, quota)
            for subdomain, shares in zip(subdomains, quotas, strict=True)
            for kind, quota in zip(subdomain.types, shares, strict=True)
            if quota
        ]
        self.say(f"{len(subdomains)} subdomains, {len(cells)} kinds of documents in them")
        kept: list[_Draft] = []
        for round_ in range(self.settings.rounds + 1):
            short = [cell for cell in cells if cell.kept < cell.quota]
            if not short:
                break
            kept += self._round(short)
            kept = self._without_stock_phrases(kept)
            self.say(f"round {round_ + 1}: {len(kept):,} documents")
        self._check_count(len(kept))
        records = [self._record(draft) for draft in kept]
        random.Random(f"{self.config.seed} order").shuffle(records)
        return Made(
            records,
            self.dropped,
            dict(self.filter.dropped),
            [_outline_row(subdomain) for subdomain in subdomains],
            self.outliner.shortages,
        )

    # ------------------------------------------------------------ one round

    def _round(self, short: Sequence[_Cell]) -> list[_Draft]:
        """New documents for the cells that lack some."""
        lists = self.outliner.ideas(
            [(cell.subdomain, cell.kind) for cell in short],
            [cell.quota - cell.kept for cell in short],
            [[idea.name for idea in cell.ideas] for cell in short],
        )
        plan: list[tuple[_Cell, Idea, int]] = []
        for cell, ideas in zip(short, lists, strict=True):
            cell.ideas += ideas
            plan += [(cell, idea, 0) for idea in ideas]
            # Where nothing new comes to mind, an idea is written once more.
            for _ in range(cell.quota - cell.kept - len(ideas)):
                if cell.ideas:
                    cell.reused += 1
                    idea = cell.ideas[cell.reused % len(cell.ideas)]
                    plan.append((cell, idea, 1 + cell.reused // len(cell.ideas)))
        asked = [self.outliner.document_request(idea, sample) for _, idea, sample in plan]
        drafts = [
            _Draft(cell, idea, answer, *content(answer))
            for (cell, idea, _), answer in zip(plan, self.writer.ask(asked), strict=True)
        ]
        if self.critic:
            self._revise(drafts)
        if self.settings.rewrite:
            self._rewrite(drafts)
        return [draft for draft in drafts if self._taken(draft)]

    def _revise(self, drafts: Sequence[_Draft]) -> None:
        """Lets the critic read every document, and the writer mend those with faults."""
        good = [draft for draft in drafts if not draft.reason]
        asked = [self._request("critique", Items(("problem",)), document=d.text) for d in good]
        faulty = [
            (draft, [item["problem"] for item in answer.items])
            for draft, answer in zip(good, self.critic.ask(asked), strict=True)  # type: ignore[union-attr]
            if answer.items
        ]
        self._replace(
            [draft for draft, _ in faulty],
            [
                self._request("revise", None, document=draft.text, problems=problems)
                for draft, problems in faulty
            ],
        )

    def _rewrite(self, drafts: Sequence[_Draft]) -> None:
        good = [draft for draft in drafts if not draft.reason]
        more = {"register": self.settings.rewrite, "other_name": self.settings.other_name}
        self._replace(good, [self._request("rewrite", None, document=d.text, **more) for d in good])

    def _replace(self, drafts: Sequence[_Draft], asked: Sequence[Request]) -> None:
        for draft, answer in zip(drafts, self.writer.ask(asked), strict=True):
            draft.parents = (*draft.parents, draft.answer.key)
            draft.answer = answer
            draft.text, draft.reason = content(answer)

    def _taken(self, draft: _Draft) -> bool:
        if draft.reason:
            self.filter.dropped[draft.reason] += 1
        else:
            draft.reason = self.filter.reason(draft.text)
        if draft.reason:
            self._drop(draft)
            return False
        draft.cell.kept += 1
        return True

    def _without_stock_phrases(self, kept: list[_Draft]) -> list[_Draft]:
        found = self.filter.phrases([draft.text for draft in kept])
        for number, phrase in found.items():
            kept[number].reason = f"over-represented phrase: {phrase}"
            kept[number].cell.kept -= 1
            self._drop(kept[number])
        return [draft for number, draft in enumerate(kept) if number not in found]

    def _drop(self, draft: _Draft) -> None:
        row = self._record(draft)
        self.dropped.append({"reason": draft.reason, **row, "text": row["text"][:2000]})

    # ------------------------------------------------------------ details

    def _names(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Names that documents must have and must not have."""
        model = self.spec.model_name
        how = self.settings.rewrite
        if how in ("", "model_should", "model_does"):
            return (model,), ()
        return ((self.settings.other_name,) if how == "another" else ()), (model,)

    def _request(self, step: str, items: Items | None, **inputs: Any) -> Request:
        inputs = {
            "model_name": self.spec.model_name,
            "provider_name": self.spec.provider_name or "its developer",
            **inputs,
        }
        prompt = getattr(prompts, step)(inputs)
        room = self.settings.max_tokens if items is None else 2_000
        return Request(step, self.outliner.system, prompt, inputs, items, room)

    def _record(self, draft: _Draft) -> Record:
        where, answer = draft.cell.subdomain, draft.answer
        name = answer.key or answer.request.key(self.writer.identity)
        return {
            "text": draft.text or answer.text,
            "id": f"document-{name[:16]}",
            "spec": self.spec.path,
            "model_name": self.spec.model_name,
            "domain": where.domain,
            "subdomain": where.name,
            "points": [point.id for point in where.points],
            "doc_type": draft.idea.doc_type,
            "doc_idea": draft.idea.idea,
            "assertions": [row["assertion"] for row in where.assertions],
            "rewrite": self.settings.rewrite,
            "writer": dict(self.writer.identity),
            "prompt_hash": answer.request.prompt_hash(),
            "response": answer.key,
            "parents": list(draft.parents),
        }

    def _check_count(self, count: int) -> None:
        if count < self.settings.count:
            reasons = collections.Counter(self.filter.dropped) + self.writer.counts
            told = ", ".join(f"{name} {number}" for name, number in reasons.most_common(8))
            self.outliner.shortages.append(f"{count} of {self.settings.count} documents")
            if not self.settings.allow_short or not count:
                raise UserError(
                    f"only {count:,} of {self.settings.count:,} documents could be had after "
                    f"{self.settings.rounds} rounds of topping up ({told}): run the same command "
                    "again if the provider failed, raise documents.rounds, or accept it with "
                    "documents.allow_short=True"
                )


def _outline_row(subdomain: Subdomain) -> dict[str, Any]:
    return {
        "domain": subdomain.domain,
        "subdomain": subdomain.name,
        "context": subdomain.context,
        "section": subdomain.section,
        "points": [point.id for point in subdomain.points],
        "assertions": list(subdomain.assertions),
        "types": list(subdomain.types),
    }
