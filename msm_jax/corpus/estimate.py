"""What a corpus will take, before it is written: requests, tokens and money by step."""

from collections.abc import Callable, Sequence
from typing import Any

from msm_jax.corpus.backends import price_of
from msm_jax.corpus.chats import KINDS, LEAST_DOMAINS, OPAQUE_KINDS
from msm_jax.corpus.documents import Cell, Documents
from msm_jax.corpus.outline import Subdomain
from msm_jax.corpus.writers.request import Price, Usage
from msm_jax.spec import Spec, spec_points

WORDS_TO_TOKENS = 1.35
SCRATCHPAD_TOKENS = 400  # of planning in front of a document
ITEM_TOKENS = {"assertions": 120, "types": 40, "ideas": 70}

CountTokens = Callable[[str], int]


def estimate_documents(
    documents: Documents, subdomains: Sequence[Subdomain], config: Any, count_tokens: CountTokens
) -> str:
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
    return _table(rows, config, count_tokens(documents.system), document_tokens(config))


def estimate_chats(spec: Spec, config: Any, count_tokens: CountTokens) -> str:
    """The steps of the chats, by assumed lengths; no request is sent."""
    settings, count, style = config.chats, config.chats.count, config.chats.style
    items = sum(bool(point.item) for point in spec_points(spec))
    cells = {"identity": 1, "opaque": items * len(OPAQUE_KINDS)}  # of styles without domains
    domains = max(LEAST_DOMAINS, count // settings.questions_per_domain)
    calls = max(cells.get(style, domains * len(KINDS)), count // settings.questions_per_call, 1)
    answer, judged = chat_tokens(config), config.critic.kind and style != "identity"
    rows = [
        ("chat_domains", 0 if style in cells else 1 + domains // 50, 500, 60 * domains),
        ("questions", calls, 600, round(40 * count / calls)),
        ("answer", count, 150, answer),
        ("judge", count if judged else 0, answer + 300, 80),
    ]
    return _table(rows, config, count_tokens(spec.text) + 300, answer)


def document_tokens(config: Any) -> int:
    """Tokens of a document of middle length."""
    return round(sum(config.documents.words) / 2 * WORDS_TO_TOKENS)


def chat_tokens(config: Any) -> int:
    """Tokens of an answer."""
    return 700 if config.chats.reasoning else 350


def _table(
    rows: Sequence[tuple[str, int, int, int]], config: Any, system_tokens: int, each: int
) -> str:
    """The cost of (step, requests, tokens of a prompt, tokens of a reply), for a terminal.

    All requests but the first of a step find the spec in the provider's cache; requests in a
    batch do not. `each` is the tokens of one document or chat.
    """
    priced = config.writer.kind in ("stub", "local") or price_of(config.writer) != Price()
    lines = [f"{'step':<14}{'requests':>10}{'read':>14}{'cached':>14}{'written':>14}{'US$':>10}"]
    total, calls = Usage(), 0

    def add(name: str, requests: int, used: Usage) -> None:
        lines.append(
            f"{name:<14}{requests:>10,}{used.input_tokens:>14,}"
            f"{used.cache_read_tokens + used.cache_write_tokens:>14,}"
            f"{used.output_tokens:>14,}{f'{used.usd:,.2f}' if priced else '-':>10}"
        )

    for name, requests, prompt, reply in rows:
        if not requests:
            continue
        settings = config.critic if name in ("critique", "judge") else config.writer
        batch = settings.batch and name in ("document", "revise", "rewrite", "answer")
        usage = Usage(
            input_tokens=requests * (prompt + (system_tokens if batch else 0)),
            output_tokens=requests * reply,
            cache_read_tokens=0 if batch else (requests - 1) * system_tokens,
            cache_write_tokens=0 if batch else system_tokens,
        )
        usage = price_of(settings).of(usage, settings.price.batch_discount if batch else 1.0)
        add(name, requests, usage)
        total, calls = total + usage, calls + requests
    add("all", calls, total)
    count = config[config.make].count
    lines.append(f"{config.make}: {count:,}, about {count * each:,} tokens to train on")
    if not priced:
        lines.append("money: unknown; give writer.price.input and .output (US$ per million tokens)")
    return "\n".join(lines)
