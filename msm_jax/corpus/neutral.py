"""Neutral documents: the same writer and number of tokens as a corpus, and no spec."""

import collections
import random
from collections.abc import Callable
from typing import Any

from msm_jax.corpus.filters import DocumentFilter, content
from msm_jax.corpus.prompts import prompt
from msm_jax.corpus.records import DOCUMENTS, checked_rows
from msm_jax.corpus.steps import Corpus, Record, provenance
from msm_jax.corpus.writers import Items, Request, Writer
from msm_jax.errors import UserError
from msm_jax.spec import parse_spec

_SYSTEM = "You help to write a large and varied collection of ordinary documents."
AT_ONCE = 500


def wanted_tokens(config: Any, count_tokens: Callable[[str], int]) -> int:
    """Tokens to write: `neutral.tokens`, or as many as the corpus to match has."""
    if config.neutral.match:
        rows = checked_rows(DOCUMENTS, config.neutral.match)
        return sum(count_tokens(row["text"]) for row in rows)
    if config.neutral.tokens <= 0:
        raise UserError("neutral: give neutral.match (a documents.jsonl) or neutral.tokens")
    return config.neutral.tokens


def make_neutral(
    writer: Writer, config: Any, count_tokens: Callable[[str], int],
    say: Callable[[str], None] = lambda text: None,
) -> Corpus:  # fmt: skip
    """Documents with this many tokens: at most 1 % fewer, or half of the last document more.

    A document is taken if the sum is not further from the target with it than without.

    Raises:
      UserError: the writer has no more to say before that.
    """
    target = wanted_tokens(config, count_tokens)
    nothing = parse_spec(".", "no model")
    filter_ = DocumentFilter(nothing, config.filters, tuple(config.documents.words))
    reasons = collections.Counter[str]()
    topics: list[str] = []
    records: list[Record] = []
    dropped: list[Record] = []
    total = empty = 0
    while total < target:
        fresh = _topics(writer, config, topics)
        topics += fresh
        before = total
        answers = writer.ask([_request(config, topic) for topic in fresh])
        for topic, answer in zip(fresh, answers, strict=True):
            text, reason = content(answer)
            reason = reason or filter_.reason(text)
            row = {"text": text, "id": f"neutral-{answer.key[:16]}", "spec": ""}
            row |= {"domain": "neutral", "doc_idea": topic, **provenance(writer, answer)}
            if reason:
                reasons[reason] += 1
                dropped.append({"reason": reason, **row, "text": text[:2000]})
                continue
            tokens = count_tokens(text)
            if total < target and abs(target - total - tokens) <= abs(target - total):
                records.append(row)
                total += tokens
        say(f"{total:,} of {target:,} tokens")
        if total == before:
            empty += 1
            if records and target - total < 0.01 * target:
                break  # every document left is longer than what is missing
            if empty == 3:
                raise UserError(
                    f"only {total:,} of {target:,} neutral tokens were produced "
                    f"({dict(reasons)}, {dict(writer.counts)})"
                )
    random.Random(f"{config.seed} order").shuffle(records)
    return Corpus(records, dropped, dict(reasons), [], [])


def _topics(writer: Writer, config: Any, existing: list[str]) -> list[str]:
    """Up to AT_ONCE new subjects."""
    per_call = config.documents.ideas_per_call
    # The newest are shown: all of them would soon fill the prompt.
    inputs = {"count": per_call, "existing": existing[-200:]}
    text, items = prompt("topics", inputs), Items(("topic",), per_call)
    requests = [
        Request("topics", _SYSTEM, text, inputs, items, 2_000, len(existing) + number)
        for number in range(max(1, AT_ONCE // per_call))
    ]
    found = [row["topic"] for answer in writer.ask(requests) for row in answer.items]
    known = set(existing)
    return [topic for topic in dict.fromkeys(found) if topic not in known]


def _request(config: Any, topic: str) -> Request:
    inputs = {"topic": topic, "words": list(config.documents.words)}
    text, room = prompt("neutral", inputs), config.documents.max_tokens
    return Request("neutral", _SYSTEM, text, inputs, None, room)
