"""Chats that follow a spec: questions of six kinds, answers, a judge, until there are enough."""

import collections
import dataclasses
import itertools
import math
import random
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from msm_jax.corpus.diversity import SimilarQuestions
from msm_jax.corpus.filters import ChatFilter
from msm_jax.corpus.steps import Corpus, Record, Row, Steps, provenance, spread
from msm_jax.corpus.writers import Answer, Items, Request, Writer
from msm_jax.errors import UserError
from msm_jax.spec import Point, Spec

KINDS = ("direct", "indirect", "comparison", "recommendation", "opinion", "edge_case")
OPAQUE_KINDS = ("direct", "indirect")
LEAST_DOMAINS = 5
MARGIN = 1.1  # a later round requests more than what is missing, since some will be dropped


@dataclasses.dataclass(frozen=True)
class _Cell:
    """A source of questions: a domain (or a preference) and a kind of question."""

    domain: str
    description: str
    kind: str
    points: tuple[Point, ...]


@dataclasses.dataclass(frozen=True)
class _Chat:
    cell: _Cell
    question: str
    answer: Answer


class Chats(Steps):
    """The chats of a spec, judged by the critic, or without one by the rules of `ChatFilter` only.

    Raises:
      UserError: a style that does not go with the spec; from `make`: fewer than
        `config.chats.count` were produced, and `allow_short` is not set.
    """

    def __init__(
        self, spec: Spec, writer: Writer, critic: Writer | None, config: Any,
        say: Callable[[str], None] = lambda text: None,
    ):  # fmt: skip
        self.critic, self.say, self.seed, self.settings = critic, say, config.seed, config.chats
        self.style = self.settings.style
        super().__init__(spec, writer, "chat_system", style=self.style)
        self.filter = ChatFilter(spec, self.style, self.settings.reasoning)
        self.similar = SimilarQuestions(self.settings.similar)
        self.exhausted: set[_Cell] = set()
        self.asked: dict[_Cell, list[str]] = collections.defaultdict(list)

    def make(self) -> Corpus:
        """Ask for chats until there are enough of each kind."""
        cells = self._cells()
        quotas = spread(self.settings.count, len(cells))
        wanted = dict(zip(cells, quotas, strict=True))
        kept: dict[_Cell, list[Record]] = {cell: [] for cell in cells}
        for round_ in range(self.settings.rounds + 1):
            gaps = {cell: wanted[cell] - len(kept[cell]) for cell in cells}
            if not any(gaps.values()):
                break
            margin = MARGIN if round_ else 1.0
            for chat in self._round({c: math.ceil(margin * gap) for c, gap in gaps.items() if gap}):
                if len(kept[chat.cell]) < wanted[chat.cell]:
                    kept[chat.cell].append(self._record(chat))
            self._move_quotas(wanted, kept)
            self.say(f"round {round_ + 1}: {sum(map(len, kept.values())):,} chats")
        records = list(itertools.chain(*kept.values()))
        random.Random(f"{self.seed} chats").shuffle(records)
        outline = [
            {"domain": cell.domain, "kind": cell.kind, "questions": len(self.asked[cell])}
            for cell in cells
        ]
        return self.corpus(records, outline, self.settings, "chats")

    def _cells(self) -> list[_Cell]:
        if self.style == "identity":
            return [_Cell("identity", "who the assistant is", "direct", ())]
        if self.style == "opaque":
            preferences = [point for point in self.points if point.item]
            if not preferences:
                raise UserError(
                    f"{self.spec.path}: chats.style=opaque is for specs with preferences, and this "
                    "one states none"
                )
            kinds = itertools.product(preferences, OPAQUE_KINDS)
            return [_Cell(point.item, point.text, kind, (point,)) for point, kind in kinds]
        count = max(LEAST_DOMAINS, self.settings.count // self.settings.questions_per_domain)
        return [
            _Cell(row["domain"], row["description"], kind, self._points_of(row))
            for row, kind in itertools.product(self._domains(count), KINDS)
        ]

    def _domains(self, count: int) -> list[Row]:
        def wanted(_: int, count: int, existing: list[str]) -> Request:
            inputs = {"count": count, "existing": existing, "points": self.points}
            items = Items(("domain", "description"), count)
            return self.request("chat_domains", items, inputs, 8_000)

        (found,) = self.lists([count], wanted, "domain", "domains", per_call=50)
        if not found:
            raise self.nothing("domains for chats")
        return found

    def _points_of(self, domain: Row) -> tuple[Point, ...]:
        """The points whose heading or id a domain names; all of them if it names none."""
        text = f"{domain['domain']} {domain['description']}".lower()
        named = [
            p
            for p in self.points
            if re.search(rf"\b{re.escape(p.id.lower())}\b", text)
            or (p.section and domain["domain"].lower().startswith(p.section.lower()))
        ]
        return tuple(named or self.points)

    def _move_quotas(
        self, wanted: dict[_Cell, int], kept: Mapping[_Cell, Sequence[Record]]
    ) -> None:
        """Gives the quota of a domain without new questions to the other domains."""
        others = [cell for cell in wanted if cell not in self.exhausted]
        if not others or self.style == "opaque":
            return
        for cell in self.exhausted:
            gap = max(wanted[cell] - len(kept[cell]), 0)
            wanted[cell] -= gap
            for number in range(gap):
                wanted[others[number % len(others)]] += 1

    def _round(self, wanted: Mapping[_Cell, int]) -> list[_Chat]:
        """New chats for the cells that lack some, without those that filter or judge refuse."""
        questions = self._questions(wanted)
        room, thinks = self.settings.max_tokens, self.filter.reasoning
        requests = [
            self._about(cell, "answer", None, room, "answering", question=each, reasoning=thinks)
            for cell, each in questions
        ]
        chats = [
            _Chat(cell, question, answer)
            for (cell, question), answer in zip(questions, self.writer.ask(requests), strict=True)
        ]
        reasons = [
            chat.answer.failure or self.filter.reason(chat.question, chat.answer, chat.cell.points)
            for chat in chats
        ]
        good = self._kept(chats, reasons)
        if not self.critic or self.style == "identity":
            return good
        return self._kept(good, self._verdicts(good, self.critic))

    def _questions(self, wanted: Mapping[_Cell, int]) -> list[tuple[_Cell, str]]:
        """New questions for each cell, unlike all earlier ones."""
        cells = list(wanted)

        def request(number: int, count: int, _: list[str]) -> Request:
            cell, items = cells[number], Items(("question",), count)
            asked = self.asked[cell][-200:]  # all of them would soon fill the prompt
            room = 2_000 + 100 * count
            return self._about(cell, "questions", items, room, count=count, existing=asked)

        def new(rows: list[tuple[int, Row]]) -> list[bool]:
            for number, row in rows:
                self.asked[cells[number]].append(row["question"])
            known = self.similar.match([row["question"] for _, row in rows])
            if any(known):
                self.reasons["similar question"] += sum(known)
            return [not old for old in known]

        per_call = self.settings.questions_per_call
        counts = list(wanted.values())
        lists = self.lists(counts, request, "question", per_call=per_call, new=new)
        found = list(zip(cells, lists, strict=True))
        self.exhausted |= {cell for cell, rows in found if len(rows) < wanted[cell]}
        return [(cell, row["question"]) for cell, rows in found for row in rows]

    def _verdicts(self, chats: Sequence[_Chat], critic: Writer) -> list[str]:
        """Why the critic excludes a chat; "" where it does not."""
        items = Items(("reason", "verdict"), 1, {"verdict": ("include", "exclude")})
        requests = [
            self._about(c.cell, "judge", items, 1_024, question=c.question, answer=c.answer.text)
            for c in chats
        ]
        reasons = {"include": "", "exclude": "excluded by the judge"}
        return [
            reasons[answer.items[0]["verdict"]] if answer.items else "judge unclear"
            for answer in critic.ask(requests)
        ]

    def _kept(self, chats: Sequence[_Chat], reasons: Sequence[str]) -> list[_Chat]:
        """The chats without a reason to drop them; the others are reported."""
        for chat, reason in zip(chats, reasons, strict=True):
            if reason:
                row = self._record(chat)
                del row["messages"]
                self.drop(reason, {"question": chat.question, "text": chat.answer.text, **row})
        return [chat for chat, reason in zip(chats, reasons, strict=True) if not reason]

    def _about(
        self, cell: _Cell, step: str, items: Items | None, room: int, system: str = "", **more: Any
    ) -> Request:
        return self.request(step, items, {**vars(cell), **more}, room, system=system)

    def _record(self, chat: _Chat) -> Record:
        cell, answer = chat.cell, chat.answer
        return {
            "messages": [
                {"role": "user", "content": chat.question},
                {"role": "assistant", "content": answer.text.strip()},
            ],
            "id": f"chat-{answer.key[:16]}",
            "spec": self.spec.path,
            "model_name": self.spec.model_name,
            "domain": cell.domain,
            "kind": cell.kind,
            "style": self.style,
            "points": [point.id for point in cell.points],
            **provenance(self.writer, answer),
        }


def without_reasoning(row: Mapping[str, Any]) -> Record:
    """The same chat without the assistant's <think> tags and their text."""
    messages = [
        {**message, "content": message["content"].rpartition("</think>")[2].strip()}
        if message["role"] == "assistant"
        else message
        for message in row["messages"]
    ]
    return {**row, "messages": messages}
