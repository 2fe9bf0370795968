"""The corpus as one page that needs nothing else: what is in it, what is not, and why."""

import base64
import html
import random
from collections.abc import Mapping, Sequence
from typing import Any

from msm_jax.corpus.manifest import PUBLISHED, histogram, text_of

SAMPLES = 12  # documents shown in full
DROPPED = 40  # dropped rows shown

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;
color:#1b1f24}table{border-collapse:collapse;margin:.5rem 0}td,th{padding:.15rem .7rem;
text-align:left;border-bottom:1px solid #ddd;vertical-align:top}td.n{text-align:right;
font-variant-numeric:tabular-nums}pre{white-space:pre-wrap;background:#f6f7f9;padding:.8rem;
border-radius:4px;font:13px/1.5 ui-monospace,monospace}details{margin:.3rem 0}summary{cursor:
pointer}.bad{color:#a40e26;font-weight:600}.faint{color:#667}h2{margin-top:2.2rem;border-bottom:
2px solid #3b6ea5}
"""


def render(
    found: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], made: Any, tokens: Sequence[int]
) -> str:
    """HTML of a corpus; every text in it is escaped.

    Args:
      found: the manifest.
      rows: the records.
      made: as of the pipelines: `dropped`, `outline`.
      tokens: of each record.
    """
    title = f"{len(rows):,} {found['make']}"
    spec = found.get("spec", {})
    parts = [
        f"<h1>{_text(title)}</h1>",
        f"<p>{_text(spec.get('title', 'no spec'))} · {_text(spec.get('model_name', ''))} · "
        f"{found['tokens'].get('sum', 0):,} tokens ({_text(found['tokens_are'])}) · spec sha256 "
        f"<code>{_text(spec.get('sha256', '-')[:16])}</code></p>",
        _section("What is in it", _tree(rows)),
        _section("Coverage of the spec", _coverage(found.get("coverage", {}))),
        _section("Length", _picture(tokens) + _table(found["tokens"].items())),
        _section("Diversity", _diversity(found["diversity"])),
        _section("Samples", "".join(_sample(row) for row in _drawn(rows, SAMPLES))),
        _section("Not taken, and why", _dropped(found, made.dropped)),
        _section("Who wrote it, and for how much", _ledger(found["ledger"])),
    ]
    if made.shortages:
        lines = "".join(f"<li>{_text(line)}</li>" for line in made.shortages)
        parts.insert(2, _section("Shortages", f"<ul class=bad>{lines}</ul>"))
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{_text(title)}</title>'
        f"<style>{_STYLE}</style><body>{''.join(parts)}</body></html>\n"
    )


def _text(value: Any) -> str:
    return html.escape(str(value))


def _section(title: str, body: str) -> str:
    return f"<h2>{_text(title)}</h2>{body}"


def _table(pairs: Any, head: Sequence[str] = ()) -> str:
    top = "".join(f"<th>{_text(name)}</th>" for name in head)
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in pairs)
    return f"<table>{f'<tr>{top}</tr>' if top else ''}{body}</table>"


def _cell(value: Any) -> str:
    if isinstance(value, int | float):
        return f"<td class=n>{value:,}</td>"
    return f"<td>{_text(value)}</td>"


def _tree(rows: Sequence[Mapping[str, Any]]) -> str:
    """Domains, their subdomains and their kinds of documents, each with its count."""
    tree: dict[str, dict[str, dict[str, int]]] = {}
    for row in rows:
        kinds = tree.setdefault(str(row.get("domain", "")), {}).setdefault(
            str(row.get("subdomain", "")), {}
        )
        kind = str(row.get("doc_type", row.get("kind", "")))
        kinds[kind] = kinds.get(kind, 0) + 1
    parts = []
    for domain, subdomains in sorted(tree.items()):
        total = sum(sum(kinds.values()) for kinds in subdomains.values())
        inner = ""
        for name, kinds in sorted(subdomains.items()):
            listed = ", ".join(f"{kind} {count}" for kind, count in sorted(kinds.items()))
            inner += (
                f"<details style='margin-left:1.5rem'><summary>{_text(name or '-')} "
                f"<span class=faint>{sum(kinds.values()):,}</span></summary>"
                f"<p style='margin-left:1.5rem'>{_text(listed)}</p></details>"
            )
        parts.append(
            f"<details open><summary><b>{_text(domain or '-')}</b> "
            f"<span class=faint>{total:,}</span></summary>{inner}</details>"
        )
    return "".join(parts)


def _coverage(points: Mapping[str, Mapping[str, Any]]) -> str:
    if not points:
        return "<p>No spec.</p>"
    untouched = [name for name, facts in points.items() if not facts["said"]]
    verdict = (
        f"<p class=bad>No text touches: {_text(', '.join(untouched))}.</p>"
        if untouched
        else f"<p>All {len(points)} points of the spec are touched.</p>"
    )
    rows = [(name, f["text"][:160], f["planned"], f["said"]) for name, f in points.items()]
    return verdict + _table(rows, ("point", "text", "planned", "in its words"))


def _picture(tokens: Sequence[int]) -> str:
    data = base64.b64encode(histogram(tokens, "tokens per record")).decode()
    return f'<img alt="histogram of lengths" src="data:image/png;base64,{data}">'


def _diversity(facts: Mapping[str, Any]) -> str:
    published = {name: " / ".join(map(str, values)) for name, values in PUBLISHED.items()}
    rows = [(name, value, published.get(name, "")) for name, value in facts.items()]
    return _table(rows, ("", "here", "published corpora")) + (
        "<p class=faint>distinct_3grams: over the first million words. self_bleu: BLEU-4 against "
        "60 others. zlib: compressed over plain size of single documents.</p>"
    )


def _drawn(rows: Sequence[Mapping[str, Any]], count: int) -> list[Mapping[str, Any]]:
    return random.Random(0).sample(list(rows), min(count, len(rows)))


def _sample(row: Mapping[str, Any]) -> str:
    about = " · ".join(
        str(row[key]) for key in ("domain", "subdomain", "doc_type", "kind") if row.get(key)
    )
    text = (
        "\n\n".join(f"[{message['role']}] {message['content']}" for message in row["messages"])
        if "messages" in row
        else text_of(row)
    )
    return (
        f"<details><summary>{_text(about)} <span class=faint>{_text(row.get('id', ''))}</span>"
        f"</summary><pre>{_text(text)}</pre></details>"
    )


def _dropped(found: Mapping[str, Any], dropped: Sequence[Mapping[str, Any]]) -> str:
    if not found["dropped"] and not dropped:
        return "<p>Nothing was dropped.</p>"
    shown = "".join(
        f"<details><summary>{_text(row['reason'])}</summary><pre>"
        f"{_text(str(row.get('text') or row.get('question', ''))[:1500])}</pre></details>"
        for row in _drawn(dropped, DROPPED)
    )
    return _table(found["dropped"].items(), ("reason", "rows")) + shown


def _ledger(ledger: Mapping[str, Any]) -> str:
    parts = []
    for name, facts in ledger.items():
        identity = ", ".join(f"{key} {value}" for key, value in facts["identity"].items())
        columns = ("replies", "input_tokens", "cache_read_tokens", "output_tokens", "usd")
        rows = [
            (step, *(used[column] for column in columns)) for step, used in facts["steps"].items()
        ]
        head = ("step", "replies", "read", "from cache", "written", "US$")
        parts.append(f"<p>{_text(name)}: {_text(identity)}</p>{_table(rows, head)}")
    return "".join(parts)
