"""corpus.html: what is in a corpus, what is not, and why."""

import random
from collections.abc import Mapping, Sequence
from typing import Any

from msm_jax import page
from msm_jax.corpus.manifest import PUBLISHED, text_of

SAMPLES = 12  # documents shown in full
DROPPED = 40  # dropped rows shown


def render(
    found: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], made: Any, histogram: bytes
) -> str:
    """HTML of a corpus with its manifest `found`, and a PNG of the lengths of its records."""
    draw = lambda some, count: random.Random(0).sample(list(some), min(count, len(some)))
    points = found.get("coverage", {})
    published = {name: " / ".join(map(str, values)) for name, values in PUBLISHED.items()}
    return page.render(
        "corpus.html",
        title=f"{len(rows):,} {found['make']}",
        found=found,
        shortages=made.shortages,
        domains=_domains(rows),
        coverage=[(name, p["text"][:160], p["planned"], p["said"]) for name, p in points.items()],
        untouched=[name for name, p in points.items() if not p["said"]],
        histogram=page.data_uri(histogram, "image/png"),
        diversity=[(name, v, published.get(name, "")) for name, v in found["diversity"].items()],
        samples=[_sample(row) for row in draw(rows, SAMPLES)],
        dropped=[
            (row["reason"], str(row.get("text") or row.get("question", ""))[:1500])
            for row in draw(made.dropped, DROPPED)
        ],
    )


def _domains(rows: Sequence[Mapping[str, Any]]) -> dict[str, tuple[int, dict]]:
    """Domains in order, each with its count and {subdomain: {kind of document: count}}."""
    tree: dict[str, dict[str, dict[str, int]]] = {}
    for row in rows:
        domain, subdomain = (str(row.get(key, "")) for key in ("domain", "subdomain"))
        kinds = tree.setdefault(domain, {}).setdefault(subdomain, {})
        kind = str(row.get("doc_type", row.get("kind", "")))
        kinds[kind] = kinds.get(kind, 0) + 1
    return {
        domain: (sum(sum(kinds.values()) for kinds in inner.values()), inner)
        for domain, inner in sorted(tree.items())
    }


def _sample(row: Mapping[str, Any]) -> tuple[str, str, str]:
    """Title, id and text."""
    keys = ("domain", "subdomain", "doc_type", "kind")
    text = (
        "\n\n".join(f"[{message['role']}] {message['content']}" for message in row["messages"])
        if "messages" in row
        else text_of(row)
    )
    return " · ".join(str(row[key]) for key in keys if row.get(key)), str(row.get("id", "")), text
