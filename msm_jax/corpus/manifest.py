"""manifest.json and corpus.html: what a corpus holds, what it cost, what was dropped and why."""

import collections
import io
import json
import pathlib
import platform
import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

import msm_jax
from msm_jax import page
from msm_jax.accelerators import installed
from msm_jax.corpus import diversity
from msm_jax.corpus.prompts import prompts_hash
from msm_jax.corpus.steps import Corpus
from msm_jax.corpus.writers import Writer
from msm_jax.files import sha256_file, sha256_json, sha256_text
from msm_jax.spec import Point, Spec, spec_points

# Measured on the published corpora (13.2M and 9.8M tokens) by others with these instruments:
# self-BLEU-4 at 60 references, zlib by document, near-duplicates at Jaccard .8.
PUBLISHED: dict[str, list[float]] = {
    "self_bleu": [0.40, 0.385],
    "zlib": [0.365, 0.390],
    "near_duplicates": [0, 0],
}
LIBRARIES = ("numpy", "ml_collections", "anthropic", "openai")
SAMPLES = 12  # records shown in full on the page
DROPPED = 40  # dropped records shown


def text_of(row: Mapping[str, Any]) -> str:
    """The text of a document, or all messages of a chat."""
    if "messages" in row:
        return "\n\n".join(message["content"] for message in row["messages"])
    return row["text"]


def corpus_manifest(
    config: ConfigDict, spec: Spec | None, writers: Mapping[str, Writer], corpus: Corpus,
    tokens: Sequence[int], counted: bool, files: Iterable[pathlib.Path],
) -> dict[str, Any]:  # fmt: skip
    """The manifest of documents or chats, which may be about no spec.

    `writers` are by role, `tokens` of each record, `counted` says that a tokenizer counted them.
    """
    plain = json.loads(config.to_json_best_effort())
    texts = list(map(text_of, corpus.records))
    chats = any("messages" in row for row in corpus.records)
    found = {
        "make": config.make,
        "records": len(texts),
        "tokens": length_facts(tokens),
        "tokens_are": "counted" if counted else "estimated",
        "by_domain": _counts(corpus.records, "domain"),
        "by_type": _counts(corpus.records, "kind" if chats else "doc_type"),
        "dropped": dict(sorted(corpus.reasons.items())),
        "shortages": corpus.shortages,
        "failures": failures(writers),
        "diversity": diversity_facts(texts, spec.text if spec else ""),
        "diversity_published": PUBLISHED,
        "ledger": ledger(writers),
        "config": plain,
        "config_hash": sha256_json(plain)[:16],
        "versions": versions(),
        "files": {file.name: sha256_file(file) for file in files},
    }
    if config.writer.kind == "stub":
        found["only_for"] = "pipeline checks: this is the stub's placeholder text"
    if spec is not None:
        found["spec"] = spec_facts(spec)
        found["coverage"] = coverage(spec_points(spec), corpus.records)
    return found


def _counts(rows: Sequence[Mapping[str, Any]], key: str) -> dict[str, int]:
    return dict(sorted(collections.Counter(str(row.get(key, "")) for row in rows).items()))


def length_facts(tokens: Sequence[int]) -> dict[str, Any]:
    """Sum, mean and quantiles."""
    if not tokens:
        return {"sum": 0}
    found = {"sum": int(sum(tokens)), "mean": round(float(np.mean(tokens)), 1)}
    found |= {"min": int(min(tokens)), "max": int(max(tokens))}
    return found | {f"p{q}": int(np.percentile(tokens, q)) for q in (10, 50, 90)}


def diversity_facts(texts: Sequence[str], own: str) -> dict[str, Any]:
    """The instruments of `corpus.diversity`, rounded."""
    finder = diversity.NearDuplicates()
    return {
        "documents": len(texts),
        "words": sum(len(text.split()) for text in texts),
        "exact_duplicates": len(texts) - len(set(texts)),
        "near_duplicates": sum(finder.match(text) is not None for text in texts),
        "shared_50_word_runs": len(diversity.shared_runs(texts, own)),
        "distinct_3grams": round(diversity.distinct_ngrams(texts), 4),
        "self_bleu": round(diversity.self_bleu(texts), 4),
        "zlib": round(diversity.compression(texts), 4),
    }


def coverage(points: Sequence[Point], rows: Sequence[Mapping[str, Any]]) -> dict[str, dict]:
    """For each point of the spec: records planned for it, and records that say its words.

    A record says them if it has five words in a row of the point (all of them, of a shorter one),
    or its item.
    """
    table = diversity.Words()
    of_points = [table.ids(point.text) for point in points]
    sizes = [min(5, max(1, len(ids))) for ids in of_points]
    grams = [diversity.ngram_hashes(*each) for each in zip(of_points, sizes, strict=True)]
    planned: collections.Counter[str] = collections.Counter()
    said: collections.Counter[str] = collections.Counter()
    for row in rows:
        text = text_of(row)
        planned.update(row.get("points", ()))
        ids = table.ids(text)
        found = {size: diversity.ngram_hashes(ids, size) for size in set(sizes)}
        for point, own, size in zip(points, grams, sizes, strict=True):
            if point.item:
                said[point.id] += point.item.lower() in text.lower()
            else:
                said[point.id] += bool(np.isin(own, found[size]).any())
    return {p.id: {"planned": planned[p.id], "said": said[p.id], "text": p.text} for p in points}


def failures(writers: Mapping[str, Writer]) -> dict[str, dict[str, int]]:
    """What went wrong, by name, of each writer and of the journal that they share."""
    found = {role: dict(sorted(writer.counts.items())) for role, writer in writers.items()}
    unreadable = max((writer.journal.unreadable for writer in writers.values()), default=0)
    return found | ({"journal": {"unreadable rows": unreadable}} if unreadable else {})


def ledger(writers: Mapping[str, Writer]) -> dict[str, Any]:
    """Tokens and money of every reply that the corpus is made of, by writer and step."""
    found: dict[str, Any] = {}
    for role, writer in writers.items():
        replies = writer.replies_used()
        steps = {}
        for step, usage in sorted(writer.used().items()):
            facts = {**usage.as_dict(), "usd": round(usage.usd, 6)}
            steps[step] = {"replies": replies[step], **facts}
        found[role] = {"identity": dict(writer.identity), "steps": steps}
    return found


def spec_facts(spec: Spec) -> dict[str, Any]:
    """Which spec a corpus is about."""
    names = ("path", "title", "model_name", "provider_name")
    facts = {name: getattr(spec, name) for name in names}
    return {**facts, "words": spec.word_count, "sha256": sha256_text(spec.text)}


def versions() -> dict[str, str]:
    """Of this package and of what a corpus depends on."""
    found = {"msm_jax": msm_jax.__version__, "python": platform.python_version()}
    found |= {name: version for name in LIBRARIES if (version := installed(name))}
    return {**found, "prompts": prompts_hash()}


def histogram(tokens: Sequence[int], title: str) -> bytes:
    """A PNG of the lengths."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 2.6), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    axes.hist(tokens, bins=40, color="#3b6ea5")
    axes.set_xlabel("tokens")
    axes.set_ylabel("records")
    axes.set_title(title, fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    FigureCanvasAgg(figure)
    data = io.BytesIO()
    figure.savefig(data, format="png", metadata={"Software": None})
    return data.getvalue()


def corpus_page(found: Mapping[str, Any], corpus: Corpus, histogram: bytes) -> str:
    """corpus.html of a corpus with its manifest `found` and a PNG of the lengths of its records."""
    draw = lambda some, count: random.Random(0).sample(list(some), min(count, len(some)))
    points = found.get("coverage", {})
    published = {name: " / ".join(map(str, values)) for name, values in PUBLISHED.items()}
    return page.render(
        "corpus.html",
        title=f"{len(corpus.records):,} {found['make']}",
        found=found,
        shortages=corpus.shortages,
        domains=_domains(corpus.records),
        coverage=[(name, p["text"][:160], p["planned"], p["said"]) for name, p in points.items()],
        untouched=[name for name, p in points.items() if not p["said"]],
        histogram=page.data_uri(histogram, "image/png"),
        diversity=[(name, v, published.get(name, "")) for name, v in found["diversity"].items()],
        samples=[_sample(row) for row in draw(corpus.records, SAMPLES)],
        dropped=[
            (row["reason"], str(row.get("text") or row.get("question", ""))[:1500])
            for row in draw(corpus.dropped, DROPPED)
        ],
    )


def _domains(rows: Sequence[Mapping[str, Any]]) -> dict[str, tuple[int, dict]]:
    """Domains in order, each with its count and {subdomain: {kind of document: count}}."""
    tree: dict[str, dict[str, collections.Counter[str]]] = {}
    for row in rows:
        domain, subdomain = (str(row.get(key, "")) for key in ("domain", "subdomain"))
        kinds = tree.setdefault(domain, {}).setdefault(subdomain, collections.Counter())
        kinds[str(row.get("doc_type", row.get("kind", "")))] += 1
    return {
        domain: (sum(kinds.total() for kinds in inner.values()), inner)
        for domain, inner in sorted(tree.items())
    }


def _sample(row: Mapping[str, Any]) -> tuple[str, str, str]:
    """Title, id and text."""
    said = (f"[{message['role']}] {message['content']}" for message in row.get("messages", ()))
    names = (str(row[key]) for key in ("domain", "subdomain", "doc_type", "kind") if row.get(key))
    return " · ".join(names), str(row.get("id", "")), "\n\n".join(said) or text_of(row)
