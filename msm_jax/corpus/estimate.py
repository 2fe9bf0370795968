"""What a corpus will take, before it is written: requests, tokens and money by step."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from msm_jax.corpus.outline import Outliner, Subdomain
from msm_jax.corpus.writers.request import Price, Request, Usage

WORDS_TO_TOKENS = 1.35
SCRATCHPAD_TOKENS = 400  # of planning in front of a document
ITEM_TOKENS = {"assertions": 120, "types": 40, "ideas": 70}


@dataclasses.dataclass(frozen=True)
class Step:
    """One row of the estimate."""

    name: str
    requests: int
    usage: Usage


def estimate_documents(
    outliner: Outliner, subdomains: Sequence[Subdomain], config: Any,
    count_tokens: Callable[[str], int], price: Price, discount: float, critic: Price | None,
) -> list[Step]:  # fmt: skip
    """The steps that follow the outline; prompts are measured, replies are assumed.

    All requests but the first of a step are taken to find the spec in the provider's cache;
    requests in a batch are not.
    """
    settings = config.documents
    kind = {"doc_type": "news report", "description": "an article about an event of the day"}
    facts = {**outliner._facts(subdomains[0]), "count": settings.types, "existing": []}
    words = sum(settings.words) / 2
    cells = min(settings.count, len(subdomains) * settings.types)
    per_cell = max(1, round(settings.count / cells))
    calls = max(1, -(-per_cell // settings.ideas_per_call))
    (ideas,) = [
        outliner.request(
            "ideas",
            None,
            {**facts, "doc_type": kind["doc_type"], "doc_type_description": kind["description"]},
        )
    ]
    document = outliner.request(
        "document",
        None,
        {
            **facts,
            "doc_type": kind["doc_type"],
            "doc_type_description": kind["description"],
            "idea": "An idea of about thirty words, " * 5,
            "name": "",
            "register": settings.register,
            "words": list(settings.words),
        },
    )
    text_tokens = round(words * WORDS_TO_TOKENS)
    row = lambda name, requests, request, out, batch: _step(
        name, requests, request, out, count_tokens, price, discount if batch else 1.0, batch
    )
    steps = []
    if outliner.mode == "prose":
        asked = outliner.request("assertions", None, facts)
        steps.append(
            row("assertions", len(subdomains), asked, 5 * ITEM_TOKENS["assertions"], False)
        )
    asked = outliner.request("types", None, {**facts, "register": settings.register})
    out = settings.types * ITEM_TOKENS["types"]
    steps.append(row("types", len(subdomains), asked, out, False))
    out = round(per_cell / calls) * ITEM_TOKENS["ideas"]
    steps.append(row("ideas", cells * calls, ideas, out, False))
    batch = config.writer.batch
    out = text_tokens + SCRATCHPAD_TOKENS
    steps.append(row("document", settings.count, document, out, batch))
    if critic is not None:
        steps.append(
            _step("critique", settings.count, document, 150, count_tokens, critic, 1.0, False)
        )
        steps.append(row("revise", settings.count // 2, document, out, batch))
    if settings.rewrite:
        steps.append(row("rewrite", settings.count, document, out, batch))
    return steps


def _step(
    name: str, requests: int, request: Request, out: int, count_tokens: Callable[[str], int],
    price: Price, discount: float, batch: bool,
) -> Step:  # fmt: skip
    system, prompt = count_tokens(request.system), count_tokens(request.prompt)
    cached = 0 if batch else (requests - 1) * system
    usage = Usage(
        input_tokens=requests * prompt + (requests * system if batch else 0),
        output_tokens=requests * out,
        cache_read_tokens=cached,
        cache_write_tokens=0 if batch else system,
    )
    return Step(name, requests, price.of(usage, discount))


def estimate_text(steps: Sequence[Step], documents: int, document_tokens: int, priced: bool) -> str:
    """The estimate as a table for a terminal."""
    lines = [f"{'step':<14}{'requests':>10}{'read':>14}{'cached':>14}{'written':>14}{'US$':>10}"]
    total = Usage()
    for step in steps:
        lines.append(_line(step.name, step.requests, step.usage, priced))
        total += step.usage
    lines.append(_line("all", sum(step.requests for step in steps), total, priced))
    lines.append(f"documents: {documents:,}, about {document_tokens:,} tokens to train on")
    if not priced:
        lines.append("money: unknown; give writer.price.input and .output (US$ per million tokens)")
    return "\n".join(lines)


def _line(name: str, requests: int, usage: Usage, priced: bool) -> str:
    usd = f"{usage.usd:,.2f}" if priced else "-"
    return (
        f"{name:<14}{requests:>10,}{usage.input_tokens:>14,}"
        f"{usage.cache_read_tokens + usage.cache_write_tokens:>14,}"
        f"{usage.output_tokens:>14,}{usd:>10}"
    )
