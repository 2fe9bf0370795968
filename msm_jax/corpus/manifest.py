"""What a corpus is: counts, lengths, diversity, coverage, cost, hashes and versions."""

import collections
import hashlib
import importlib.metadata
import io
import json
import pathlib
import platform
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

import msm_jax
from msm_jax.corpus import diversity, prompts
from msm_jax.corpus.records import file_hash
from msm_jax.corpus.writers import Writer
from msm_jax.spec import Point, Spec

# Measured on the published corpora (13.2M and 9.8M tokens) by others with these instruments:
# self-BLEU-4 at 60 references, zlib by document, near-duplicates at Jaccard .8.
PUBLISHED: dict[str, list[float]] = {
    "self_bleu": [0.40, 0.385],
    "zlib": [0.365, 0.390],
    "near_duplicates": [0, 0],
}
LIBRARIES = ("numpy", "ml_collections", "anthropic", "openai")


def text_of(row: Mapping[str, Any]) -> str:
    """The text of a document, or what is said in a chat."""
    if "messages" in row:
        return "\n\n".join(message["content"] for message in row["messages"])
    return row["text"]


def lengths(rows: Sequence[Mapping[str, Any]], count_tokens: Callable[[str], int]) -> list[int]:
    """Tokens of each row."""
    return [count_tokens(text_of(row)) for row in rows]


def length_facts(tokens: Sequence[int]) -> dict[str, Any]:
    """Sum, mean and quantiles."""
    if not tokens:
        return {"sum": 0}
    at = {
        name: int(np.percentile(tokens, q)) for name, q in (("p10", 10), ("p50", 50), ("p90", 90))
    }
    return {
        "sum": int(sum(tokens)),
        "mean": round(float(np.mean(tokens)), 1),
        "min": int(min(tokens)),
        "max": int(max(tokens)),
        **at,
    }


def diversity_facts(texts: Sequence[str], own: str) -> dict[str, Any]:
    """The instruments of `corpus.diversity`, rounded."""
    finder = diversity.NearDuplicates()
    near = sum(finder.match(text) is not None for text in texts)
    return {
        "documents": len(texts),
        "words": sum(len(text.split()) for text in texts),
        "exact_duplicates": len(texts) - len(set(texts)),
        "near_duplicates": near,
        "shared_50_word_runs": len(diversity.shared_runs(texts, own)),
        "distinct_3grams": round(diversity.distinct_ngrams(texts), 4),
        "self_bleu": round(diversity.self_bleu(texts), 4),
        "zlib": round(diversity.compression(texts), 4),
    }


def coverage(points: Sequence[Point], rows: Sequence[Mapping[str, Any]]) -> dict[str, dict]:
    """Of each point of the spec: documents planned for it, and documents that say its words.

    A document says them if it has five words in a row of the point, or its item.
    """
    table = diversity.Words()
    grams = {p.id: np.unique(diversity.ngram_hashes(table.ids(p.text), 5)) for p in points}
    planned: collections.Counter[str] = collections.Counter()
    said: collections.Counter[str] = collections.Counter()
    for row in rows:
        text = text_of(row)
        planned.update(row.get("points", ()))
        found = diversity.ngram_hashes(table.ids(text), 5)
        for point in points:
            if point.item:
                said[point.id] += point.item.lower() in text.lower()
            else:
                said[point.id] += bool(np.isin(grams[point.id], found).any())
    return {p.id: {"planned": planned[p.id], "said": said[p.id], "text": p.text} for p in points}


def ledger(writers: Mapping[str, Writer]) -> dict[str, Any]:
    """Tokens and money of every reply that the corpus is made of, by writer and step."""
    found: dict[str, Any] = {}
    for name, writer in writers.items():
        replies = writer.replies_used()
        steps = {
            step: {"replies": replies[step], **_usage(usage)}
            for step, usage in sorted(writer.used().items())
        }
        found[name] = {"identity": dict(writer.identity), "steps": steps}
    return found


def _usage(usage: Any) -> dict[str, Any]:
    return {
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "cache_read_tokens": usage.cache_read_tokens,
        "cache_write_tokens": usage.cache_write_tokens,
        "usd": round(usage.usd, 6),
    }


def spec_facts(spec: Spec) -> dict[str, Any]:
    """Which spec a corpus is about."""
    return {
        "path": spec.path,
        "title": spec.title,
        "model_name": spec.model_name,
        "provider_name": spec.provider_name,
        "words": spec.word_count,
        "sha256": hashlib.sha256(spec.text.encode("utf-8")).hexdigest(),
    }


def versions() -> dict[str, str]:
    """Of this package and of what a corpus depends on."""
    found = {"msm_jax": msm_jax.__version__, "python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {**found, "prompts": prompts.template_hash()}


def file_hashes(workdir: pathlib.Path, names: Sequence[str]) -> dict[str, str]:
    return {name: file_hash(workdir / name) for name in names if (workdir / name).is_file()}


def config_hash(config: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:16]


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
