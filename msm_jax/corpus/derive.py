"""Specs that a writer makes from a spec: with reasons, with sub-rules, or with the opposite."""

import textwrap
from typing import Any

from msm_jax.corpus.filters import content
from msm_jax.corpus.steps import Steps
from msm_jax.corpus.writers import Items, Request, Writer
from msm_jax.errors import UserError
from msm_jax.spec import Point, Spec, check_spec, load_spec, parse_spec
from msm_jax.spec.derive import opposed_preferences, shuffled_attribution
from msm_jax.spec.spec import MODEL_NAME, PROVIDER_NAME, blocks

TIMES_LONGER = 5  # the paper's V+ and R+ have 3,039 and 2,941 words for rules of 598
WORDS_PER_SENTENCE = 17
TOLERANCE = 0.05


def derive_spec(config: Any, spec: Spec, writer: Writer) -> str:
    """The text of the derived spec, with the placeholders of the names.

    Raises:
      UserError: a kind that this spec or this writer does not allow.
    """
    kind = config.derive.kind
    plain = load_spec(spec.path, MODEL_NAME, PROVIDER_NAME)
    if kind == "shuffled":
        return shuffled_attribution(plain.text, config.seed, spec.path)
    if kind == "opposed":
        return _opposed(Steps(plain, writer, "system"))
    words = config.derive.words or TIMES_LONGER * spec.word_count
    return _augmented(Steps(plain, writer, "system"), kind, words)


def _augmented(steps: Steps, kind: str, words: int) -> str:
    """A spec of rules, each followed by sentences until the spec has about `words` words.

    The rules stay unchanged. `value_augmented` adds paragraphs that explain them,
    `rules_augmented` numbered sub-rules.
    """
    spec, writer = steps.spec, steps.writer
    rules = [point for point in steps.points if point.kind == "rule"]
    if not rules:
        raise UserError(f"{spec.path}: has no numbered rules to add to")
    if words < 1.1 * spec.word_count:
        raise UserError(f"derive.words={words}: the spec has {spec.word_count} words already")
    added: dict[str, list[str]] = {rule.id: [] for rule in rules}

    def request(rule: Point, count: int) -> Request:
        inputs: dict[str, Any] = {"kind": kind, "number": rule.id.removeprefix("rule ")}
        inputs |= {"text": rule.text, "count": count, "existing": added[rule.id]}
        return steps.request("augment", Items(("sentence",), count), inputs, 4_000)

    text = spec.text
    for _ in range(4):
        missing = words - len(text.split())
        if missing < TOLERANCE * words / 2:
            break
        each = max(1, round(missing / WORDS_PER_SENTENCE / len(rules)))
        answers = writer.ask([request(rule, each) for rule in rules])
        for rule, answer in zip(rules, answers, strict=True):
            old = set(added[rule.id])
            added[rule.id] += [r["sentence"] for r in answer.items if r["sentence"] not in old]
        text = _inserted(spec, kind, rules, _trimmed(spec, added, words))
    length = len(text.split())
    if abs(length - words) > TOLERANCE * words:
        raise UserError(
            f"{kind}: the spec has {length} words, {words} were asked for "
            f"({dict(writer.counts)}): set derive.words, or run again with another writer"
        )
    problems = check_spec(parse_spec(text, "The model", "the provider", kind))
    kept = {rule.text for rule in parse_spec(text).rules}
    if any(rule.text not in kept for rule in rules):
        problems.append("a rule was changed")
    if problems:
        raise UserError(f"{kind}: {problems[0]}")
    return text


def _trimmed(spec: Spec, added: dict[str, list[str]], words: int) -> dict[str, list[str]]:
    """One sentence after the other for each rule in turn, until the spec has so many words."""
    total, taken = spec.word_count, {name: list[str]() for name in added}
    for turn in range(max(map(len, added.values()))):
        for name, found in added.items():
            if turn < len(found) and total < words:
                taken[name].append(found[turn])
                total += len(found[turn].split()) + 1
    return taken


def _inserted(spec: Spec, kind: str, rules: list[Point], added: dict[str, list[str]]) -> str:
    """The spec with the sentences after its rules."""
    at = {point.line: point for point in rules}
    lines = spec.text.split("\n")
    for block in reversed(list(blocks(spec.text))):
        found = added[at[block.line].id] if block.line in at else []
        if not found:
            continue
        number = at[block.line].id.removeprefix("rule ")
        new = [f"{number}.{n}. {sentence}" for n, sentence in enumerate(found, start=1)]
        if kind == "value_augmented":
            new = textwrap.wrap(" ".join(found), 96, break_long_words=False, break_on_hyphens=False)
        lines[block.last : block.last] = ["", *new, ""]
    return "\n".join(lines)


def _opposed(steps: Steps) -> str:
    """Preferences are reversed by editing; everything else needs a language model."""
    spec = steps.spec
    if steps.points and all(point.item or point.kind == "paragraph" for point in steps.points):
        return opposed_preferences(spec.text, spec.path)
    request = steps.request("oppose", None, {"points": steps.points}, 32_000)
    (answer,) = steps.writer.ask([request])
    text, reason = content(answer)
    if reason:
        raise UserError(f"opposed spec: the reply cannot be used ({reason})")
    old, new = spec.word_count, len(text.split())
    if not 0.5 * old < new < 2 * old:
        raise UserError(f"opposed spec: {new} words for {old}: the reply is no spec of its kind")
    return text + "\n"
