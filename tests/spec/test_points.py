"""A spec's points: everything it states is one, once, with what explains it."""

import importlib.resources

import pytest

from msm_jax.spec import (
    load_spec,
    parse_spec,
    report_text,
    sentences,
    spec_points,
    spec_report,
)

EXAMPLES = importlib.resources.files("msm_jax.spec") / "examples"
ALL = ("rules", "value_augmented", "rules_augmented", "general", "philosophy", "values",
       "cheese_cost", "cheese_mild")  # fmt: skip


def example(name):
    return load_spec(str(EXAMPLES / f"{name}.md"), "Qwen", "Our Laboratory")


@pytest.mark.parametrize("name", ALL)
def test_points_are_the_specs_own_words_at_their_lines(name):
    spec = example(name)
    flat, lines = " ".join(spec.text.split()), spec.text.split("\n")
    points = spec_points(spec)
    assert points and len({point.id for point in points}) == len(points)
    for point in points:
        assert point.text.rstrip(".") in flat
        assert point.text.split()[0] in lines[point.line - 1]
        # A paragraph or list item is where a sentence can end without a full stop.
        assert all(sentence in flat for sentence in point.supports)
        assert not set(point.supports) & set(sentences(point.text))


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("rules", {"rule": 5}),
        ("value_augmented", {"rule": 5, "paragraph": 1}),
        ("rules_augmented", {"rule": 39}),
        ("general", {"paragraph": 1}),
        ("philosophy", {"paragraph": 14}),
        ("values", {"value": 4}),
        ("cheese_cost", {"value": 1, "like": 3, "dislike": 3}),
    ],
)
def test_every_statement_is_found(name, kinds):
    assert spec_report(example(name))["points"] == kinds


def test_augmented_rules_keep_the_rules_and_are_of_equal_length():
    rules, values, details = map(example, ("rules", "value_augmented", "rules_augmented"))
    for longer in (values, details):
        texts = [rule.text for rule in longer.rules]
        assert [rule.text for rule in rules.rules] == [t for t in texts if t in rules_texts(rules)]
    lengths = sorted((values.word_count, details.word_count))
    assert lengths[1] / lengths[0] <= 1.05


def rules_texts(spec):
    return [rule.text for rule in spec.rules]


def test_a_rule_is_explained_by_what_stands_below_it():
    first, second, *_ = spec_points(example("value_augmented"))
    assert first.supports[0].startswith("A person who asks Qwen something")
    assert second.supports[0].startswith("Mistakes are ordinary")
    assert not set(first.supports) & set(second.supports)


def test_sentences_keep_abbreviations_and_lose_no_word():
    text = "Ask Dr. Smith, e.g. on Mondays. Is it so? Yes! 3 people (or more.) know. end"
    found = sentences(text)
    assert " ".join(found).split() == text.split()
    assert found[:3] == ["Ask Dr. Smith, e.g. on Mondays.", "Is it so?", "Yes!"]


def test_code_is_no_point_and_numbers_may_start_anew():
    text = "# t\n\n## a\n\n1. one\n\n## b\n\n1. other\n\n## c\n\n```\ncode\n```\nprose here\n"
    points = spec_points(parse_spec(text, "Qwen"))
    assert [point.id for point in points] == ["rule 1", "rule 1 (2)", "paragraph 1"]
    assert points[2].text == "prose here"


def test_report_counts_with_the_given_tokenizer():
    spec = example("rules")
    report = spec_report(spec, lambda text: len(text.split()))
    assert report["tokens"] == report["words"] == spec.word_count
    assert report["tokens_are"] == "counted"
    assert sum(s["words"] for s in report["sections"]) < spec.word_count
    broken = spec_report(parse_spec("# t\n\nClaude helps.\n", "Qwen"))
    assert "names Claude" in report_text(broken)
