"""Specs that a writer makes from a spec: with reasons, with sub-rules, or turned round."""

import dataclasses
from typing import Any

from msm_jax.corpus import prompts
from msm_jax.corpus.config import DERIVATIONS
from msm_jax.corpus.filters import content
from msm_jax.corpus.writers import Items, Request, Writer
from msm_jax.errors import UserError
from msm_jax.spec import (
    Spec,
    check_spec,
    load_spec,
    opposed_preferences,
    parse_spec,
    shuffled_attribution,
    spec_points,
)
from msm_jax.spec.spec import MODEL_NAME, PROVIDER_NAME

TIMES_LONGER = 5  # the paper's V+ and R+ have 3,039 and 2,941 words for rules of 598
WORDS_PER_SENTENCE = 17
TOLERANCE = 0.05


def derive_spec(config: Any, spec: Spec, writer: Writer) -> str:
    """The text of the derived spec, with its placeholders in it again.

    Raises:
      UserError: a kind that this spec or this writer does not allow.
    """
    kind = config.derive.kind
    if not kind:
        raise UserError(f"config.derive.kind: is not set; one of {', '.join(DERIVATIONS)}")
    plain = load_spec(spec.path, MODEL_NAME, PROVIDER_NAME)
    if kind == "shuffled":
        return shuffled_attribution(plain.text, config.seed, spec.path)
    if kind == "opposed":
        return _opposed(plain, writer)
    words = config.derive.words or TIMES_LONGER * spec.word_count
    return augmented(plain, kind, words, writer)


def augmented(spec: Spec, kind: str, words: int, writer: Writer) -> str:
    """A spec of rules, each followed by sentences until the whole has about `words` words.

    The rules stay to the letter. `value_augmented` adds paragraphs that explain them,
    `rules_augmented` numbered sub-rules.
    """
    rules = [point for point in spec_points(spec) if point.kind == "rule"]
    if not rules:
        raise UserError(f"{spec.path}: has no numbered rules to add to")
    if words < 1.1 * spec.word_count:
        raise UserError(f"derive.words={words}: the spec has {spec.word_count} words already")
    added: dict[str, list[str]] = {rule.id: [] for rule in rules}
    text = spec.text
    for _ in range(4):
        missing = words - len(text.split())
        if missing < TOLERANCE * words / 2:
            break
        each = max(1, round(missing / WORDS_PER_SENTENCE / len(rules)))
        for rule, answer in zip(
            rules,
            writer.ask([_request(spec, rule, kind, each, added[rule.id]) for rule in rules]),
            strict=True,
        ):
            new = [row["sentence"] for row in answer.items if row["sentence"] not in added[rule.id]]
            added[rule.id] += new
        text = _inserted(spec, kind, _trimmed(spec, added, words))
    length = len(text.split())
    if abs(length - words) > TOLERANCE * words:
        raise UserError(
            f"{kind}: {length} words came out for {words} wanted ({dict(writer.counts)}): "
            "set derive.words, or run again with another writer"
        )
    problems = check_spec(parse_spec(text, "The model", "the provider", kind))
    kept = [rule.text for rule in parse_spec(text).rules]
    if any(rule.text not in kept for rule in rules):
        problems.append("a rule did not stay to the letter")
    if problems:
        raise UserError(f"{kind}: {problems[0]}")
    return text


def _request(spec: Spec, rule: Any, kind: str, count: int, existing: list[str]) -> Request:
    inputs = {
        "model_name": spec.model_name,
        "provider_name": spec.provider_name,
        "kind": kind,
        "number": rule.id.removeprefix("rule "),
        "text": rule.text,
        "count": count,
        "existing": existing,
    }
    system = prompts.system(spec.model_name, spec.provider_name, spec.text)
    prompt = prompts.augment(inputs)
    return Request("augment", system, prompt, inputs, Items(("sentence",), count), 4_000)


def _trimmed(spec: Spec, added: dict[str, list[str]], words: int) -> dict[str, list[str]]:
    """One sentence after the other for each rule in turn, until the words are there."""
    total, taken = spec.word_count, {name: list[str]() for name in added}
    longest = max(map(len, added.values()))
    for turn in range(longest):
        for name, found in added.items():
            if turn < len(found) and total < words:
                taken[name].append(found[turn])
                total += len(found[turn].split()) + 1
    return taken


def _inserted(spec: Spec, kind: str, added: dict[str, list[str]]) -> str:
    """The spec with the sentences behind its rules."""
    from msm_jax.spec.spec import _blocks

    points = {point.line: point for point in spec_points(spec) if point.kind == "rule"}
    lines = spec.text.split("\n")
    for block in reversed(list(_blocks(spec.text))):
        point = points.get(block.line)
        if point is None or not added[point.id]:
            continue
        number = point.id.removeprefix("rule ")
        if kind == "value_augmented":
            new = ["", *_wrapped(" ".join(added[point.id])), ""]
        else:
            subs = [f"{number}.{n}. {s}" for n, s in enumerate(added[point.id], start=1)]
            new = ["", *subs, ""]
        lines[block.last : block.last] = new
    return "\n".join(lines)


def _wrapped(text: str, width: int = 96) -> list[str]:
    import textwrap

    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)


def _opposed(spec: Spec, writer: Writer) -> str:
    """Preferences are turned round by editing; everything else needs a language model."""
    points = spec_points(spec)
    if points and all(point.item or point.kind == "paragraph" for point in points):
        return opposed_preferences(spec.text, spec.path)
    inputs = {"points": [dataclasses.asdict(point) for point in points]}
    system = prompts.system(spec.model_name, spec.provider_name, spec.text)
    request = Request("oppose", system, prompts.oppose(inputs), inputs, None, 32_000)
    (answer,) = writer.ask([request])
    text, reason = content(answer)
    if reason:
        raise UserError(f"opposed spec: the reply cannot be used ({reason})")
    old, new = spec.word_count, len(text.split())
    if not 0.5 * old < new < 2 * old:
        raise UserError(f"opposed spec: {new} words for {old}: the reply is no spec of its kind")
    return text + "\n"
