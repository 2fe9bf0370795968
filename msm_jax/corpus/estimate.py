"""What a corpus will take, before it is written: requests, tokens and money by step."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from msm_jax.corpus.backends import price_of
from msm_jax.corpus.chats import KINDS, LEAST_DOMAINS
from msm_jax.corpus.documents import Cell, Documents
from msm_jax.corpus.outline import Subdomain
from msm_jax.corpus.writers.request import Price, Usage
from msm_jax.spec import Spec

WORDS_TO_TOKENS = 1.35
SCRATCHPAD_TOKENS = 400  # of planning in front of a document
ITEM_TOKENS = {"assertions": 120, "types": 40, "ideas": 70}

CountTokens = Callable[[str], int]


@dataclasses.dataclass(frozen=True)
class Step:
    """One row of the estimate."""

    name: str
    requests: int
    usage: Usage


def estimate_documents(
    documents: Documents, subdomains: Sequence[Subdomain], config: Any, count_tokens: CountTokens
) -> list[Step]:
    """The steps that follow the outline; prompts are measured, lengths of replies are assumed."""
    settings, first = config.documents, subdomains[0]
    cell = Cell(
        first, {"doc_type": "news report", "description": "an article about an event of the day"}
    )
    cells = min(settings.count, len(subdomains) * settings.types)
    per_cell = max(1, round(settings.count / cells))
    calls = max(1, -(-per_cell // settings.ideas_per_call))
    idea = {"idea": "An idea of about thirty words, " * 5, "name": ""}
    inputs = {**vars(first), "count": settings.types, "existing": []}
    tokens = lambda request: count_tokens(request.prompt)
    document = tokens(documents.document_request(cell, idea))
    text = document_tokens(config) + SCRATCHPAD_TOKENS
    of_ideas = round(per_cell / calls) * ITEM_TOKENS["ideas"]
    rows = [
        ("assertions", 0 if documents.rules else len(subdomains),
         tokens(documents.request("assertions", None, inputs)), 5 * ITEM_TOKENS["assertions"]),
        ("types", len(subdomains), tokens(documents.request("types", None, inputs)),
         settings.types * ITEM_TOKENS["types"]),
        ("ideas", cells * calls, tokens(documents.ideas_request(cell, settings.types, [])),
         of_ideas),
        ("document", settings.count, document, text),
        ("critique", settings.count if config.critic.kind else 0, document, 150),
        ("revise", settings.count // 2 if config.critic.kind else 0, document, text),
        ("rewrite", settings.count if settings.rewrite else 0, document, text),
    ]  # fmt: skip
    return _steps(rows, config, count_tokens(documents.system))


def estimate_chats(spec: Spec, config: Any, count_tokens: CountTokens) -> list[Step]:
    """The steps of the chats, by assumed lengths; no request is sent."""
    settings, count = config.chats, config.chats.count
    domains = max(LEAST_DOMAINS, count // settings.questions_per_domain)
    calls = max(domains * len(KINDS), count // settings.questions_per_call)
    answer = chat_tokens(config)
    rows = [
        ("chat_domains", 1 + domains // 50, 500, 60 * domains),
        ("questions", calls, 600, round(40 * count / calls)),
        ("answer", count, 150, answer),
        ("judge", count if config.critic.kind else 0, answer + 300, 80),
    ]
    return _steps(rows, config, count_tokens(spec.text) + 300)


def document_tokens(config: Any) -> int:
    """Tokens of a document of middle length."""
    return round(sum(config.documents.words) / 2 * WORDS_TO_TOKENS)


def chat_tokens(config: Any) -> int:
    """Tokens of an answer."""
    return 700 if config.chats.reasoning else 350


def _steps(
    rows: Sequence[tuple[str, int, int, int]], config: Any, system_tokens: int
) -> list[Step]:
    """Rows of (step, requests, tokens of a prompt, tokens of a reply), with their cost.

    All requests but the first of a step find the spec in the provider's cache; requests in a
    batch do not.
    """
    steps = []
    for name, requests, prompt, reply in rows:
        critic = name in ("critique", "judge")
        settings = config.critic if critic else config.writer
        batch = settings.batch and name in ("document", "revise", "rewrite", "answer")
        usage = Usage(
            input_tokens=requests * (prompt + (system_tokens if batch else 0)),
            output_tokens=requests * reply,
            cache_read_tokens=0 if batch else (requests - 1) * system_tokens,
            cache_write_tokens=0 if batch else system_tokens,
        )
        discount = settings.price.batch_discount if batch else 1.0
        if requests:
            steps.append(Step(name, requests, price_of(settings).of(usage, discount)))
    return steps


def estimate_text(steps: Sequence[Step], config: Any, tokens: int) -> str:
    """The estimate as a table for a terminal; `tokens` are those of all documents or chats."""
    free = config.writer.kind in ("stub", "local")
    priced = free or price_of(config.writer) != Price()
    lines = [f"{'step':<14}{'requests':>10}{'read':>14}{'cached':>14}{'written':>14}{'US$':>10}"]
    total = sum((step.usage for step in steps), Usage())
    for step in (*steps, Step("all", sum(step.requests for step in steps), total)):
        used = step.usage
        lines.append(
            f"{step.name:<14}{step.requests:>10,}{used.input_tokens:>14,}"
            f"{used.cache_read_tokens + used.cache_write_tokens:>14,}"
            f"{used.output_tokens:>14,}{f'{used.usd:,.2f}' if priced else '-':>10}"
        )
    count = config[config.make].count
    lines.append(f"{config.make}: {count:,}, about {tokens:,} tokens to train on")
    if not priced:
        lines.append("money: unknown; give writer.price.input and .output (US$ per million tokens)")
    return "\n".join(lines)
