"""How long a spec is and what was understood of it."""

import collections
from collections.abc import Callable
from typing import Any

from msm_jax.spec.points import spec_points
from msm_jax.spec.spec import Spec, check_spec

CHARACTERS_PER_TOKEN = 4.2
"""English prose in the vocabularies of Llama 3 and Qwen; only where no tokenizer is at hand."""


def estimated_tokens(text: str) -> int:
    """Tokens that a text has by its length."""
    return max(1, round(len(text) / CHARACTERS_PER_TOKEN))


def spec_report(spec: Spec, count_tokens: Callable[[str], int] | None = None) -> dict[str, Any]:
    """Words and tokens of a spec and its sections, points by kind, and what is wrong.

    Without `count_tokens` tokens are estimated, and `tokens_are` says so.
    """
    count = count_tokens or estimated_tokens
    points = spec_points(spec)
    return {
        "path": spec.path,
        "title": spec.title,
        "model_name": spec.model_name,
        "words": spec.word_count,
        "tokens": count(spec.text),
        "tokens_are": "counted" if count_tokens else "estimated",
        "sections": [
            {"heading": each.heading, "level": each.level, "words": len(each.text.split()),
             "tokens": count(each.text) if each.text else 0}
            for each in spec.sections
        ],
        "points": dict(collections.Counter(point.kind for point in points)),
        "problems": check_spec(spec),
    }  # fmt: skip


def report_text(report: dict[str, Any]) -> str:
    """The report for a terminal."""
    points = ", ".join(f"{number} {kind}s" for kind, number in report["points"].items())
    lines = [
        f"{report['path']}: {report['title']}",
        f"  {report['words']:,} words, {report['tokens']:,} tokens ({report['tokens_are']}); "
        f"{points or 'no points'}",
    ]
    for section in report["sections"]:
        name = "  " * max(section["level"], 1) + (section["heading"] or "(before any heading)")
        lines.append(f"  {name}: {section['words']:,} words")
    lines += [f"  check: {problem}" for problem in report["problems"]]
    return "\n".join(lines)
