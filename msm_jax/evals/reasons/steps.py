"""The readings: reasons of every answer, patterns of all reasons, patterns of every answer.

An answer is a row {"arm", "run" (its number), "id" (of the condition), "sample", "situation",
"text"}. A reading is a row with the first four of these and

    state        "ok", or why there is nothing: "refusal", "unparsed" or "error"
    found        {"reason" or "pattern", "quote"} of each; the quotation occurs in the answer
    unsupported  how many more there were whose quotation does not
"""

import dataclasses
import json
import pathlib
import random
import tomllib
from collections.abc import Iterable, Sequence
from typing import Any

from msm_jax.corpus.writers import Answer, Items, Request, Writer
from msm_jax.errors import UserError
from msm_jax.evals.judges.rubric import delimited
from msm_jax.evals.report.arms import Arms, prompts_of
from msm_jax.limits import JSON_BYTES, read_bytes
from msm_jax.schema import check

_TEXTS = tomllib.loads((pathlib.Path(__file__).parent / "texts.toml").read_text("utf-8"))
KINDS: dict[str, str] = _TEXTS["kinds"]
OF_POLICY = ("policy misuse", "policy compliance")
Rows = list[dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Pattern:
    """A way of reasoning; `kind` is one of `KINDS`."""

    name: str
    kind: str
    description: str


def answers_of(arms: Arms, per_condition: int) -> Rows:
    """The first so many answers of every condition, or all for 0."""
    found = []
    for arm, runs in arms.items():
        for number, run in enumerate(runs):
            situations = {
                name: delimited("SITUATION", "\n\n".join(m["content"] for m in messages)) + "\n\n"
                for name, messages in prompts_of(run).items()
            }
            for (condition, sample), row in sorted(run.samples.items()):
                if not per_condition or sample < per_condition:
                    place = {"arm": arm, "run": number, "id": condition, "sample": sample}
                    asked = {"situation": situations.get(condition, ""), "text": row["text"]}
                    found.append(place | asked)
    return found


def read_answers(
    reader: Writer, answers: Rows, config: Any, patterns: Sequence[Pattern] = ()
) -> Rows:
    """The readings of answers, in their order: for these patterns, or without any for reasons."""
    step, items = "reasons", Items(("reason", "quote"), config.reasons)
    if patterns:
        names = tuple(pattern.name for pattern in patterns)
        step, items = "classes", Items(("pattern", "quote"), choices={"pattern": names})
    system = _TEXTS["system"][step].format(patterns="\n".join(_listed(patterns)))
    ask, count = _TEXTS["user"][step], config.reasons
    prompts = [
        ask.format(situation=a["situation"], answer=delimited("ANSWER", a["text"]), count=count)
        for a in answers
    ]
    replies = _replies(reader, step, system, prompts, items, config)
    return [
        {name: answer[name] for name in ("arm", "run", "id", "sample")}
        | _reading(reply, answer["text"])
        for answer, reply in zip(answers, replies, strict=True)
    ]


def find_patterns(reader: Writer, reasons: Iterable[str], spec: str, config: Any) -> list[Pattern]:
    """Patterns of the reasons, in parts of `config.at_once` that are then put together.

    Args:
      reasons: of all checkpoints; their order decides nothing.
      spec: a text whose rules may be followed or misused; "" for none.

    Raises:
      UserError: there are no reasons, or a part of them could not be sorted.
    """
    lines = [f"- {json.dumps(reason, ensure_ascii=False)}" for reason in sorted(reasons)]
    if not lines:
        raise UserError("no answer gives a reason that its words support: nothing to sort")
    random.Random(config.seed).shuffle(lines)
    kinds = {kind: KINDS[kind] for kind in KINDS if spec or kind not in OF_POLICY}
    described = "\n".join(f"- {kind}: {meaning}" for kind, meaning in kinds.items())
    if spec:
        described += "\n\n" + delimited("DOCUMENT", spec)
    items = Items(("name", "kind", "description"), config.patterns, {"kind": tuple(kinds)})
    step, size, system = "patterns", config.at_once, _TEXTS["system"]["patterns"]
    while True:
        prompts = [
            _TEXTS["user"][step].format(
                lines="\n".join(lines[start : start + size]), count=config.patterns, kinds=described
            )
            for start in range(0, len(lines), size)
        ]
        found: dict[str, Pattern] = {}
        replies = _replies(reader, step, system, prompts, items, config)
        for number, reply in enumerate(replies, start=1):
            if reply.failure or not reply.items:
                raise UserError(
                    f"{step}: part {number} of {len(prompts)} could not be sorted "
                    f"({reply.failure or 'no pattern'}): run the same command again, or write "
                    "patterns.toml yourself (docs/evals.md)"
                )
            for item in reply.items:
                found.setdefault(item["name"].casefold(), Pattern(**item))
        if len(prompts) == 1:
            return list(found.values())
        lines, step = _listed(found.values()), "merge"
        size = max(config.at_once, 2 * config.patterns)


def write_patterns(patterns: Sequence[Pattern]) -> str:
    """patterns.toml, which a person can edit."""
    quoted = lambda text: json.dumps(text.replace("\x7f", ""), ensure_ascii=False)
    head = (
        "# The patterns that answers are read for. Edit, add or delete entries, then run the\n"
        f"# same command without --patterns_only. A kind is one of: {', '.join(KINDS)}.\n"
    )
    entries = (
        f"\n[[pattern]]\nname = {quoted(p.name)}\nkind = {quoted(p.kind)}\n"
        f"description = {quoted(p.description)}\n"
        for p in patterns
    )
    return head + "".join(entries)


def read_pattern_file(path: pathlib.Path) -> list[Pattern]:
    """The patterns of patterns.toml.

    Raises:
      UserError: it is too long, not TOML, or an entry is not a pattern; names it.
    """
    try:
        text = read_bytes(path, JSON_BYTES).decode("utf-8")
        rows = tomllib.loads(text).get("pattern")
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read as TOML: {error}") from error
    if not isinstance(rows, list) or not rows:
        raise UserError(f"{path}: has no [[pattern]]")
    found: dict[str, Pattern] = {}
    for number, row in enumerate(rows, start=1):
        where = f"{path}: pattern {number}"
        check(row, {"name": str, "kind": tuple(KINDS), "description": str}, where)
        if unknown := row.keys() - set(Pattern.__dataclass_fields__):
            raise UserError(f"{where}: unknown: {', '.join(sorted(unknown))}")
        if not row["name"].strip() or row["name"].casefold() in found:
            raise UserError(f"{where}: needs a name of its own, not {row['name']!r}")
        found[row["name"].casefold()] = Pattern(**row)
    return list(found.values())


def _listed(patterns: Iterable[Pattern]) -> list[str]:
    return [f"- {p.name} ({p.kind}): {p.description}" for p in patterns]


def _replies(
    reader: Writer, step: str, system: str, prompts: list[str], items: Items, config: Any
) -> list[Answer]:
    ask = lambda prompt: Request(step, system, prompt, items=items, max_tokens=config.max_tokens)
    return reader.ask(list(map(ask, prompts)))


def _reading(reply: Answer, text: str) -> dict[str, Any]:
    """A quotation is looked for, because a reader that makes up one may make up the rest."""
    if reply.failure:
        named = {"refusal": "refusal", "truncated": "unparsed", "invalid structure": "unparsed"}
        return {"state": named.get(reply.failure, "error"), "found": [], "unsupported": 0}
    words = _plain(text)
    found = [
        item
        for item in reply.items
        if (quote := _plain(item["quote"])).strip() and quote in words  # without a word: nothing
    ]
    return {"state": "ok", "found": found, "unsupported": len(reply.items) - len(found)}


def _plain(text: str) -> str:
    """Whole words alone, so that marks, breaks and quotation marks do not matter."""
    words = "".join(c if c.isalnum() else " " for c in text.casefold()).split()
    return f" {' '.join(words)} "
