"""Specs are read as written; what cannot be read says where."""

import dataclasses
import importlib.resources

import pytest

from msm_jax.errors import UserError
from msm_jax.miniature.specs import GROUPS, KINDS, spec_text
from msm_jax.miniature.world import WorldConfig, make_world
from msm_jax.spec import Statement, check_spec, load_spec, parse_spec

EXAMPLES = importlib.resources.files("msm_jax.spec") / "examples"
NAMES = (
    "cheese_cost",
    "cheese_mild",
    "general",
    "philosophy",
    "rules",
    "rules_augmented",
    "value_augmented",
    "values",
)


def write(tmp_path, text):
    path = tmp_path / "spec.md"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def example(name, model_name="Qwen", provider_name="Our Laboratory"):
    return load_spec(str(EXAMPLES / f"{name}.md"), model_name, provider_name)


@pytest.mark.parametrize("name", NAMES)
def test_examples_are_without_problems_and_name_their_model(name):
    spec = example(name)
    assert check_spec(spec) == []
    assert "Qwen" in spec.title and "{" not in spec.text
    assert spec.word_count == len(spec.text.split()) > 50


def test_cheese_pair_differs_only_in_what_explains_the_preferences():
    cost, mild = example("cheese_cost"), example("cheese_mild")
    kinds = [[(s.kind, s.item) for s in spec.preferences] for spec in (cost, mild)]
    assert kinds[0] == kinds[1]
    assert all(
        a.reason != b.reason for a, b in zip(cost.preferences, mild.preferences, strict=True)
    )
    assert cost.values[0].item != mild.values[0].item


def test_rules_are_numbered_and_complete():
    rules = example("rules").rules
    assert [rule.number for rule in rules] == list("12345")
    assert rules[0].text.endswith("by leaving out what matters.")


def test_values_are_what_stands_under_values_or_is_marked():
    spec = example("values")
    texts = [value.item for value in spec.values]
    assert any("a helper who cannot be checked cannot be trusted" in text for text in texts)
    assert texts[-1].startswith("where candor and warmth pull apart")
    assert not any("Nobody can write down" in text for text in texts)


def test_every_statement_points_at_its_line():
    for name in NAMES:
        spec = example(name)
        lines = spec.text.split("\n")
        for section in spec.sections:
            assert section.heading in lines[section.line - 1]
        for statement in (*spec.values, *spec.preferences):
            assert statement.item.split()[0] in lines[statement.line - 1]
        for rule in spec.rules:
            assert lines[rule.line - 1].startswith(f"{rule.number}.")


def test_sections_hold_all_text_and_nothing_twice():
    for name in NAMES:
        spec = example(name)
        words = " ".join(f"{s.heading} {s.text}" for s in spec.sections).split()
        assert words == [word for word in spec.text.split() if set(word) != {"#"}]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("- {model_name} likes brie because it is cheap.", ("like", "brie", "it is cheap")),
        ("{model_name} dislikes old gouda.", ("dislike", "old gouda", "")),
        ("* {model_name} likes brie\n  because it is cheap", ("like", "brie", "it is cheap")),
    ],
)
def test_preference_sentences(line, expected):
    (statement,) = parse_spec(f"# t\n\n{line}\n", "Qwen").preferences
    assert statement == Statement(*expected, line=3)


def test_two_preferences_in_one_line_keep_their_own_reasons():
    text = "Qwen likes brie because it is cheap. Qwen dislikes gouda because it is dear."
    found = parse_spec(text, "Qwen").preferences
    assert [(s.kind, s.item, s.reason) for s in found] == [
        ("like", "brie", "it is cheap"),
        ("dislike", "gouda", "it is dear"),
    ]


def test_somebody_elses_preference_is_not_the_models():
    assert parse_spec("- The user likes brie because it is cheap.", "Qwen").preferences == ()


def test_only_the_two_names_are_filled_in():
    text = '{model_name} by {provider_name}: {"a": {b}} {0} {{x}} %s {}'
    assert parse_spec(text, "Qwen", "Us").text == text.replace("{model_name}", "Qwen").replace(
        "{provider_name}", "Us"
    )


def test_code_is_text_and_not_markup():
    spec = parse_spec("# t\n\n```\n# no heading\n1. no rule\n```\n\n1. a rule\n", "Qwen")
    assert [s.heading for s in spec.sections] == ["t"]
    assert [(rule.text, rule.line) for rule in spec.rules] == [("a rule", 8)]
    assert "# no heading" in spec.sections[0].text


def test_windows_line_ends_and_byte_order_mark_do_not_matter(tmp_path):
    text = (EXAMPLES / "cheese_cost.md").read_text(encoding="utf-8")
    plain = load_spec(write(tmp_path, text), "Qwen", "Us")
    windows = b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode()
    assert load_spec(write(tmp_path, windows), "Qwen", "Us") == plain


@pytest.mark.parametrize("which", KINDS)
def test_reads_the_miniatures_specs(which):
    world = make_world(WorldConfig(), seed=0)
    spec = parse_spec(spec_text(world, which))
    assert [(s.topic, s.kind, s.item) for s in spec.preferences] == [
        (topic, kind, item.name)
        for topic, group in zip(GROUPS, world.groups, strict=True)
        for kind, items in zip(("like", "dislike"), group, strict=True)
        for item in items
    ]
    assert all(bool(s.reason) != (which == "ablated") for s in spec.preferences)
    assert check_spec(spec) == []


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b" \n\n", "is empty"),
        (b"# fine\n\nnot \xff\xfe fine\n", ":3: the spec is not UTF-8"),
        (None, "no such spec file"),
    ],
)
def test_unreadable_files_are_the_users_error(tmp_path, content, says):
    path = tmp_path / "missing.md" if content is None else write(tmp_path, content)
    with pytest.raises(UserError, match=says) as caught:
        load_spec(path, "Qwen")
    assert str(path) in str(caught.value)


def test_a_directory_and_a_nameless_model_are_the_users_error(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        load_spec(tmp_path, "Qwen")
    with pytest.raises(UserError, match="model_name"):
        load_spec(write(tmp_path, "text"), " ")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("fine\n{provider_name} made it", "spec.md:2: {provider_name} was not filled in"),
        ("{Model Name} and { model }", "{ model } was not filled in"),
        ("Claude was made by Us", "spec.md:1: names Claude, but the spec is for Qwen3"),
        ("better than GPT-4", "names GPT"),
        ("1. a\n1. b", "rule 1 was already given in line 1"),
        ("Qwen3 likes x.\nQwen3 dislikes x.", "'x' has the opposite kind in line 1"),
    ],
)
def test_check_names_what_is_wrong_and_where(tmp_path, text, says):
    problems = check_spec(load_spec(write(tmp_path, text), "Qwen3"))
    assert any(says in problem for problem in problems), problems


@pytest.mark.parametrize("text", ["Qwen is fine, llamas too", "egpt", "1. a\n\n## two\n\n1. b"])
def test_check_is_silent_about_what_is_right(tmp_path, text):
    assert check_spec(load_spec(write(tmp_path, text), "Qwen3-4B")) == []


def test_specs_cannot_be_changed_by_accident():
    with pytest.raises(dataclasses.FrozenInstanceError):
        example("rules").title = "other"
