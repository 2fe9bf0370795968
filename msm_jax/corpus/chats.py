"""Chats that follow a spec: questions of six kinds, answers, a judge, until there are enough."""

import collections
import dataclasses
import math
import random
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from msm_jax.corpus import chat_prompts
from msm_jax.corpus.chat_filters import ChatFilter, SimilarQuestions
from msm_jax.corpus.pipeline import Made, Record
from msm_jax.corpus.writers import Answer, Items, Request, Writer
from msm_jax.errors import UserError
from msm_jax.spec import Point, Spec, spec_points

KINDS = ("direct", "indirect", "comparison", "recommendation", "opinion", "edge_case")
OPAQUE_KINDS = ("direct", "indirect")
LEAST_DOMAINS = 5
MARGIN = 1.1  # more than what is missing is asked for, since some will be dropped
EMPTY_ROUNDS = 3
_THINK = re.compile(r"\s*<think>.*?</think>\s*", re.DOTALL)


@dataclasses.dataclass(frozen=True)
class _Cell:
    """Where questions come from: a domain (or a preference) and a kind of question."""

    domain: str
    description: str
    kind: str
    points: tuple[Point, ...]


class ChatMaker:
    """Makes the chats of a spec.

    Args:
      spec: what they follow.
      writer: asks and answers.
      critic: judges the answers; None: only the rules of `chat_filters` do.
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
        self.settings = config.chats
        self.points = spec_points(spec)
        self.system = chat_prompts.system(spec.model_name, spec.provider_name, spec.text)
        self.filter = ChatFilter(spec, self.settings.style, self.settings.reasoning)
        self.similar = SimilarQuestions(self.settings.similar)
        self.dropped: list[Record] = []
        self.reasons: collections.Counter[str] = collections.Counter()
        self.shortages: list[str] = []
        self._exhausted: set[_Cell] = set()
        self._asked: dict[_Cell, list[str]] = collections.defaultdict(list)

    def make(self) -> Made:
        """The chats.

        Raises:
          UserError: fewer than asked for could be had, unless `allow_short`; a style that does
            not go with the spec.
        """
        cells = self._cells()
        draw = random.Random(f"{self.config.seed} chats")
        wanted = dict(zip(cells, self._quotas(len(cells)), strict=True))
        kept: dict[_Cell, list[Record]] = {cell: [] for cell in cells}
        for round_ in range(self.settings.rounds + 1):
            gaps = {cell: wanted[cell] - len(kept[cell]) for cell in cells}
            if not any(gaps.values()):
                break
            margin = MARGIN if round_ else 1.0
            asked = {cell: math.ceil(margin * gap) for cell, gap in gaps.items() if gap}
            for cell, row in self._round(asked):
                if len(kept[cell]) < wanted[cell]:
                    kept[cell].append(row)
            self._move_what_is_exhausted(wanted, kept)
            self.say(f"round {round_ + 1}: {sum(map(len, kept.values())):,} chats")
        records = [row for rows in kept.values() for row in rows]
        self._check_count(len(records))
        draw.shuffle(records)
        outline = [
            {"domain": cell.domain, "kind": cell.kind, "questions": len(self._asked[cell])}
            for cell in cells
        ]
        return Made(records, self.dropped, dict(self.reasons), outline, self.shortages)

    # ------------------------------------------------------------ where questions come from

    def _cells(self) -> list[_Cell]:
        style = self.settings.style
        if style == "identity":
            return [_Cell("identity", "who the assistant is", "direct", ())]
        if style == "opaque":
            wishes = [point for point in self.points if point.item]
            if not wishes:
                raise UserError(
                    f"{self.spec.path}: chats.style=opaque is for specs with preferences, and this "
                    "one states none"
                )
            return [
                _Cell(wish.item, wish.text, kind, (wish,))
                for wish in wishes
                for kind in OPAQUE_KINDS
            ]
        count = max(LEAST_DOMAINS, self.settings.count // self.settings.questions_per_domain)
        return [
            _Cell(row["domain"], row["description"], kind, self._points_of(row))
            for row in self._domains(count)
            for kind in KINDS
        ]

    def _domains(self, count: int) -> list[dict[str, str]]:
        """Domains, fifty at a time, each time with those that there are."""
        found: dict[str, dict[str, str]] = {}
        empty = 0
        while len(found) < count and empty < EMPTY_ROUNDS:
            inputs = {
                **self._names(),
                "count": min(count - len(found), 50),
                "existing": list(found),
                "points": [dataclasses.asdict(point) for point in self.points],
            }
            items = Items(("domain", "description"), inputs["count"])
            request = self._request("chat_domains", items, inputs, 8_000)
            (answer,) = self.writer.ask([dataclasses.replace(request, sample=empty)])
            fresh = [row for row in answer.items if row["domain"] not in found]
            found.update({row["domain"]: row for row in fresh})
            empty = 0 if fresh else empty + 1
        if not found:
            raise UserError(f"no domains for chats could be had ({dict(self.writer.counts)})")
        if len(found) < count:
            self.shortages.append(f"{len(found)} of {count} domains")
        return list(found.values())

    def _points_of(self, domain: Mapping[str, str]) -> tuple[Point, ...]:
        """The points whose heading or id a domain names; all of them if it names none."""
        text = f"{domain['domain']} {domain['description']}".lower()
        named = [
            p
            for p in self.points
            if re.search(rf"\b{re.escape(p.id.lower())}\b", text)
            or (p.section and domain["domain"].lower().startswith(p.section.lower()))
        ]
        return tuple(named or self.points)

    def _quotas(self, cells: int) -> list[int]:
        base, more = divmod(self.settings.count, cells)
        return [base + (at < more) for at in range(cells)]

    def _move_what_is_exhausted(
        self, wanted: dict[_Cell, int], kept: Mapping[_Cell, Sequence[Record]]
    ) -> None:
        """A domain without new questions hands its number to the others."""
        for cell in self._exhausted:
            gap = wanted[cell] - len(kept[cell])
            others = [c for c in wanted if c not in self._exhausted]
            if gap <= 0 or not others or self.settings.style == "opaque":
                continue
            wanted[cell] -= gap
            for number in range(gap):
                wanted[others[number % len(others)]] += 1

    # ------------------------------------------------------------ one round

    def _round(self, asked: Mapping[_Cell, int]) -> list[tuple[_Cell, Record]]:
        questions = self._questions(asked)
        requests = [self._answer_request(cell, question) for cell, question in questions]
        answers = self.writer.ask(requests)
        good: list[tuple[_Cell, str, Answer]] = []
        for (cell, question), answer in zip(questions, answers, strict=True):
            reason = answer.failure or self.filter.reason(question, answer, cell.points)
            if reason:
                self._drop(reason, cell, question, answer)
            else:
                good.append((cell, question, answer))
        verdicts = self._judged(good)
        taken = []
        for (cell, question, answer), reason in zip(good, verdicts, strict=True):
            if reason:
                self._drop(reason, cell, question, answer)
            else:
                taken.append((cell, self._record(cell, question, answer)))
        return taken

    def _questions(self, asked: Mapping[_Cell, int]) -> list[tuple[_Cell, str]]:
        """So many new questions for each cell, unlike all earlier ones."""
        found: list[tuple[_Cell, str]] = []
        left, empty = dict(asked), collections.Counter[_Cell]()
        while left:
            order = list(left)
            requests = [
                dataclasses.replace(self._question_request(c, left[c]), sample=empty[c])
                for c in order
            ]
            rows = [
                (cell, row["question"])
                for cell, answer in zip(order, self.writer.ask(requests), strict=True)
                for row in answer.items[: left[cell]]
            ]
            fresh = collections.Counter[_Cell]()
            known = self.similar.match([question for _, question in rows])
            for (cell, question), old in zip(rows, known, strict=True):
                self._asked[cell].append(question)
                if old:
                    self.reasons["similar question"] += 1
                else:
                    found.append((cell, question))
                    fresh[cell] += 1
            for cell in order:
                left[cell] -= fresh[cell]
                empty[cell] = 0 if fresh[cell] else empty[cell] + 1
            self._exhausted |= {cell for cell in left if empty[cell] >= EMPTY_ROUNDS}
            left = {c: n for c, n in left.items() if n > 0 and empty[c] < EMPTY_ROUNDS}
        return found

    def _question_request(self, cell: _Cell, count: int) -> Request:
        count = min(count, self.settings.questions_per_call)
        inputs = {
            **self._facts(cell),
            "count": count,
            # The newest are shown: all of them would soon fill the prompt.
            "existing": self._asked[cell][-200:],
            "asked_before": len(self._asked[cell]),
        }
        items = Items(("question",), count)
        return self._request("questions", items, inputs, 2_000 + 100 * count)

    def _answer_request(self, cell: _Cell, question: str) -> Request:
        inputs = {
            **self._facts(cell),
            "question": question,
            "reasoning": self.filter.reasoning,
        }
        return self._request("answer", None, inputs, self.settings.max_tokens)

    def _judged(self, good: Sequence[tuple[_Cell, str, Answer]]) -> list[str]:
        """Why the critic excludes an answer; "" where it does not."""
        if not self.critic or self.settings.style == "identity":
            return [""] * len(good)
        choices = {"verdict": ("include", "exclude")}
        items = Items(("reason", "verdict"), 1, choices)
        requests = [
            self._request(
                "judge", items, {**self._facts(c), "question": q, "answer": a.text}, 1_024
            )
            for c, q, a in good
        ]
        found = []
        for answer in self.critic.ask(requests):
            if not answer.items:
                found.append("judge unclear")
            else:
                excluded = answer.items[0]["verdict"] == "exclude"
                found.append("excluded by the judge" if excluded else "")
        return found

    # ------------------------------------------------------------ details

    def _names(self) -> dict[str, Any]:
        return {
            "model_name": self.spec.model_name,
            "provider_name": self.spec.provider_name or "its developer",
            "style": self.settings.style,
            "mode": "rules" if self.settings.style == "rule" else "prose",
        }

    def _facts(self, cell: _Cell) -> dict[str, Any]:
        wishes = [dataclasses.asdict(point) for point in self.points if point.item]
        return {
            **self._names(),
            "domain": cell.domain,
            "description": cell.description,
            "kind": cell.kind,
            "points": [dataclasses.asdict(point) for point in cell.points],
            "rivals": wishes,
        }

    def _request(
        self, step: str, items: Items | None, inputs: dict[str, Any], room: int
    ) -> Request:
        # An answer is given as the assistant: the spec and the style are its system prompt.
        system = chat_prompts.answering(self.system, inputs) if step == "answer" else self.system
        return Request(step, system, getattr(chat_prompts, step)(inputs), inputs, items, room)

    def _record(self, cell: _Cell, question: str, answer: Answer) -> Record:
        return {
            "messages": [
                {"role": "user", "content": question},
                {"role": "assistant", "content": answer.text.strip()},
            ],
            "id": f"chat-{answer.key[:16]}",
            "spec": self.spec.path,
            "model_name": self.spec.model_name,
            "domain": cell.domain,
            "kind": cell.kind,
            "style": self.settings.style,
            "points": [point.id for point in cell.points],
            "writer": dict(self.writer.identity),
            "prompt_hash": answer.request.prompt_hash(),
            "response": answer.key,
        }

    def _drop(self, reason: str, cell: _Cell, question: str, answer: Answer) -> None:
        self.reasons[reason] += 1
        row = self._record(cell, question, answer)
        row.pop("messages")
        self.dropped.append(
            {"reason": reason, "question": question, "text": answer.text[:2000], **row}
        )

    def _check_count(self, count: int) -> None:
        if count >= self.settings.count:
            return
        told = ", ".join(f"{n} {c}" for n, c in (self.reasons + self.writer.counts).most_common(8))
        self.shortages.append(f"{count} of {self.settings.count} chats")
        if not self.settings.allow_short or not count:
            raise UserError(
                f"only {count:,} of {self.settings.count:,} chats could be had after "
                f"{self.settings.rounds} rounds of backfill ({told}): run the same command again "
                "if the provider failed, raise chats.rounds, or accept it with "
                "chats.allow_short=True"
            )


def without_reasoning(row: Mapping[str, Any]) -> Record:
    """The same chat without what stands in <think> tags."""
    messages = [
        {**message, "content": _THINK.sub("", message["content"]).strip()}
        if message["role"] == "assistant"
        else message
        for message in row["messages"]
    ]
    return {**row, "messages": messages}


def preview(
    config: Any, spec: Spec | None, count_tokens: Callable[[str], int], say: Callable[[str], None]
) -> dict[str, Any]:
    """What the chats will take, by the lengths of their prompts; nothing is asked."""
    from msm_jax.corpus.estimate import Step, estimate_text
    from msm_jax.corpus.writers.request import Price, Usage

    assert spec is not None
    settings = config.chats
    count, system = settings.count, count_tokens(spec.text) + 300
    p = config.writer.price
    price = Price(p.input, p.output, p.cache_read, p.cache_write)
    discount = p.batch_discount if config.writer.batch else 1.0
    domains = max(LEAST_DOMAINS, count // settings.questions_per_domain)
    calls = max(domains * len(KINDS), count // settings.questions_per_call)
    out = 700 if settings.reasoning else 350
    rows = [
        ("chat_domains", 1 + domains // 50, 500, 60 * domains, 1.0),
        ("questions", calls, 600, round(40 * count / calls), 1.0),
        ("answer", count, 150, out, discount),
        *((("judge", count, out + 300, 80, 1.0),) if config.critic.kind else ()),
    ]
    steps = [
        Step(name, n, price.of(Usage(n * own, n * made, (n - 1) * system, system), rate))
        for name, n, own, made, rate in rows
    ]
    free = config.writer.kind in ("stub", "local")
    say(estimate_text(steps, count, count * out, free or price != Price()))
    return {"chats": count, "tokens": count * out}
