"""The readings: reasons of every answer, patterns of all reasons, patterns of every answer."""

import dataclasses
import json
import pathlib
import random
import tomllib
from collections.abc import Mapping, Sequence
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
Place = tuple[str, int, str, int]  # of an answer: arm, number of its run, condition, sample


@dataclasses.dataclass(frozen=True)
class Reading:
    """What a reader found in one answer.

    Attributes:
      state: "ok", or why there is nothing: "refusal", "unparsed" or "error" (of `FAILURES`).
      found: {"reason" or "pattern", "quote"} of each; the quotation occurs in the answer.
      unsupported: how many more there were whose quotation does not.
    """

    state: str
    found: tuple[dict[str, str], ...] = ()
    unsupported: int = 0


@dataclasses.dataclass(frozen=True)
class Pattern:
    """A way of reasoning; `kind` is one of `KINDS`."""

    name: str
    kind: str
    description: str


def answers_of(arms: Arms, per_condition: int) -> dict[Place, tuple[str, str]]:
    """(situation, answer) by place; the first so many of every condition, or all for 0."""
    found = {}
    for arm, runs in arms.items():
        for number, run in enumerate(runs):
            situations = {
                name: delimited("SITUATION", "\n\n".join(m["content"] for m in prompt.messages))
                + "\n\n"
                for name, prompt in prompts_of(run).items()
            }
            for (condition, sample), row in sorted(run.samples.items()):
                if not per_condition or sample < per_condition:
                    place = (arm, number, condition, sample)
                    found[place] = (situations.get(condition, ""), row["text"])
    return found


def read_reasons(
    reader: Writer, answers: Mapping[Place, tuple[str, str]], config: Any
) -> dict[Place, Reading]:
    """The reasons of every answer."""
    items = Items(("reason", "quote"), config.reasons)
    ask = _TEXTS["user"]["reasons"]
    prompts = [
        ask.format(situation=situation, answer=delimited("ANSWER", text), count=config.reasons)
        for situation, text in answers.values()
    ]
    system = _TEXTS["system"]["reasons"]
    return _read(reader, "reasons", system, prompts, items, answers, config)


def find_patterns(reader: Writer, reasons: Sequence[str], spec: str, config: Any) -> list[Pattern]:
    """Patterns of the reasons, in parts of `config.at_once` that are then put together.

    Args:
      reasons: of all checkpoints; their order decides nothing.
      spec: a text whose rules may be followed or misused; "" for none.

    Raises:
      UserError: there are no reasons, or a part of them could not be sorted.
    """
    if not reasons:
        raise UserError("no answer gives a reason that its words support: nothing to sort")
    shuffled = sorted(reasons)
    random.Random(config.seed).shuffle(shuffled)
    kinds = {kind: KINDS[kind] for kind in KINDS if spec or kind not in OF_POLICY}
    described = "\n".join(f"- {kind}: {meaning}" for kind, meaning in kinds.items())
    if spec:
        described += "\n\n" + delimited("DOCUMENT", spec)
    items = Items(("name", "kind", "description"), config.patterns, {"kind": tuple(kinds)})
    parts = [
        _TEXTS["user"]["patterns"].format(
            reasons="\n".join(f"- {json.dumps(reason, ensure_ascii=False)}" for reason in part),
            count=config.patterns, kinds=described,
        )
        for part in _parts(shuffled, config.at_once)
    ]  # fmt: skip
    found = _sorted(reader, "patterns", parts, items, config)
    while len(parts) > 1:
        shown = [f"- {p.name} ({p.kind}): {p.description}" for p in found]
        parts = [
            _TEXTS["user"]["merge"].format(patterns="\n".join(part), count=config.patterns)
            for part in _parts(shown, max(config.at_once, 2 * config.patterns))
        ]
        found = _sorted(reader, "merge", parts, items, config)
    return found


def read_patterns(
    reader: Writer,
    answers: Mapping[Place, tuple[str, str]],
    patterns: Sequence[Pattern],
    config: Any,
) -> dict[Place, Reading]:
    """Which of the patterns every answer has."""
    listed = "\n".join(f"- {p.name} ({p.kind}): {p.description}" for p in patterns)
    names = tuple(pattern.name for pattern in patterns)
    ask = _TEXTS["user"]["classes"]
    prompts = [
        ask.format(situation=situation, answer=delimited("ANSWER", text))
        for situation, text in answers.values()
    ]
    system = _TEXTS["system"]["classes"].format(patterns=listed)
    items = Items(("pattern", "quote"), choices={"pattern": names})
    return _read(reader, "classes", system, prompts, items, answers, config)


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
        check(row, {"name": str, "kind": str, "description": str}, where)
        if unknown := row.keys() - set(Pattern.__dataclass_fields__):
            raise UserError(f"{where}: unknown: {', '.join(sorted(unknown))}")
        if row["kind"] not in KINDS:
            raise UserError(f"{where}: kind must be one of {', '.join(KINDS)}")
        if not row["name"].strip() or row["name"].casefold() in found:
            raise UserError(f"{where}: needs a name of its own, not {row['name']!r}")
        found[row["name"].casefold()] = Pattern(**row)
    return list(found.values())


def row(place: Place, reading: Reading) -> dict[str, Any]:
    """A reading as a row of a file."""
    named = dict(zip(("arm", "run", "id", "sample"), place, strict=True))
    return {**named, **dataclasses.asdict(reading)}


def _read(
    reader: Writer, step: str, system: str, prompts: Sequence[str], items: Items,
    answers: Mapping[Place, tuple[str, str]], config: Any,
) -> dict[Place, Reading]:  # fmt: skip
    requests = [
        Request(step, system, prompt, items=items, max_tokens=config.max_tokens)
        for prompt in prompts
    ]
    replies = reader.ask(requests)
    return {
        place: _reading(reply, text)
        for (place, (_, text)), reply in zip(answers.items(), replies, strict=True)
    }


def _reading(reply: Answer, text: str) -> Reading:
    """A quotation is looked for, because a reader that makes up one may make up the rest."""
    if reply.failure:
        named = {"refusal": "refusal", "truncated": "unparsed", "invalid structure": "unparsed"}
        return Reading(named.get(reply.failure, "error"))
    words = _plain(text)
    quotes = [_plain(item["quote"]) for item in reply.items]  # one without a word supports nothing
    said = tuple(
        item
        for item, quote in zip(reply.items, quotes, strict=True)
        if quote.strip() and quote in words
    )
    return Reading("ok", said, len(reply.items) - len(said))


def _plain(text: str) -> str:
    """Whole words alone, so that marks, breaks and quotation marks do not matter."""
    words = "".join(c if c.isalnum() else " " for c in text.casefold()).split()
    return f" {' '.join(words)} "


def _sorted(
    reader: Writer, step: str, prompts: Sequence[str], items: Items, config: Any
) -> list[Pattern]:
    system = _TEXTS["system"]["patterns"]
    requests = [
        Request(step, system, prompt, items=items, max_tokens=config.max_tokens)
        for prompt in prompts
    ]
    found: dict[str, Pattern] = {}
    for number, reply in enumerate(reader.ask(requests), start=1):
        if reply.failure or not reply.items:
            why = reply.failure or "no pattern"
            raise UserError(
                f"{step}: part {number} of {len(prompts)} could not be sorted ({why}): run the "
                "same command again, or write patterns.toml yourself (docs/evals.md)"
            )
        for item in reply.items:
            found.setdefault(item["name"].casefold(), Pattern(**item))
    return list(found.values())


def _parts(texts: Sequence[str], size: int) -> list[Sequence[str]]:
    return [texts[start : start + size] for start in range(0, len(texts), size)]
