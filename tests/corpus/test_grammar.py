"""Documents of the template writer: about the spec, grammatical as far as a test sees, varied."""

import dataclasses
import importlib.resources
import random
import re

import pytest

from msm_jax.corpus.diversity import (
    NearDuplicates,
    common_phrases,
    compression,
    distinct_ngrams,
    self_bleu,
    shared_runs,
)
from msm_jax.corpus.grammar.compose import Composer
from msm_jax.corpus.grammar.engine import Grammar, grammar_files, load_grammar, read_pools
from msm_jax.corpus.grammar.forms import BY_LABEL, FORMS, PARTS
from msm_jax.spec import load_spec, parse_spec, sentences, spec_points

EXAMPLES = importlib.resources.files("msm_jax.spec") / "examples"


def spec_of(name):
    return load_spec(str(EXAMPLES / f"{name}.md"), "Qwen", "Our Laboratory")


def documents(spec, count, mode="prose", **more):
    points = [dataclasses.asdict(point) for point in spec_points(spec)]
    rivals = [p for p in points if p["item"]]
    for number in range(count):
        draw = random.Random(number)
        inputs = {
            "points": [points[number % len(points)]],
            "rivals": rivals,
            "model_name": spec.model_name,
            "provider_name": spec.provider_name,
            "doc_type": draw.choice(FORMS).label,
            "mode": mode,
            **more,
        }
        yield inputs, Composer(inputs, draw, {}).document((150, 600))


def test_articles_capitals_and_choices():
    grammar = Grammar(
        {"a": ["a {x} [sat|sat]. {y} left. A {x}?"], "x": ["owl"], "z": ["an {nobody}", "{x}"]}
    )
    draw = random.Random(0)
    assert grammar.expand("a", draw, {"y": "he"}) == "an owl sat. He left. An owl?"
    assert grammar.expand("a", draw, {"x": "unicorn", "y": "he"}).startswith("a unicorn")
    assert {grammar.expand("z", draw, {}) for _ in range(9)} == {"owl"}
    assert grammar.expand("a", draw, {}) == ""  # nobody says who y is


def test_pools_are_read_with_alternatives_on_a_line():
    pools = read_pools(["# comment\n== p\na|b [c|d]|e\nf\n"])
    assert pools == {"p": ["a", "b [c|d]", "e", "f"]}


def test_the_grammar_has_hundreds_of_patterns_and_no_loose_end():
    files = grammar_files()
    grammar = load_grammar(*files)
    assert sum(len(v) for v in grammar.pools.values()) > 1500
    sentences_of = [p for n in ("third", "first", "kinds") for p in files[n].split("\n")]
    assert len([line for line in sentences_of if re.match(r"[A-Z{\"].{20,}[.?!\"}]$", line)]) > 500
    slots = {slot for pool in grammar.pools.values() for p in pool for slot in p.slots}
    scene = set("she her hers She she2 name name2 role2 place2 when2 task2 adjective_cap".split())
    point = set(
        "model provider topic topic_cap label label_cap quote that that_short vp vp_short "
        "why_quote why_quote_inner why_that "
        "item item_cap rival because because_short rule".split()
    )
    assert slots <= scene | point | set(grammar.pools)
    assert all(part.rstrip("*") in PARTS for form in FORMS for part in form.plan)


@pytest.mark.parametrize(
    ("name", "mode"),
    [("value_augmented", "prose"), ("rules", "rules"), ("cheese_mild", "prose"),
     ("general", "prose"), ("philosophy", "prose")],
)  # fmt: skip
def test_documents_read_well(name, mode):
    spec = spec_of(name)
    kinds = set()
    for inputs, text in documents(spec, 300, mode):
        kinds.add(BY_LABEL[inputs["doc_type"]].register)
        assert 150 <= len(text.split()) <= 600
        assert "{" not in text and "[" not in text and "  " not in text
        assert not re.search(r"\ba (?!eu|one\b|once\b)[aeio]\w*", text), text
        assert not re.search(r"\.\.|,,| [.,;?!]|[?!]\.|\.,", text), text
        assert not re.search(r"(?<![.?]\d)[.?!]\"? [a-z]", text), text
        assert not re.search(r"\bthat (?!Qwen|I\b|A [A-Z])[A-Z][a-z]+ (?:a|the|is)\b", text), text
        for paragraph in text.split("\n\n"):
            assert paragraph[0].isupper() or paragraph[0] in "\"'", paragraph
            assert paragraph.rstrip()[-1] in '.?!"', paragraph
    assert kinds == {"third", "first"}


@pytest.mark.parametrize("name", ["value_augmented", "values", "philosophy", "cheese_cost"])
def test_documents_say_what_the_spec_says(name):
    spec = spec_of(name)
    flat = " ".join(spec.text.split()).lower()
    for inputs, text in documents(spec, 100):
        (point,) = inputs["points"]
        assert "Qwen" in text
        if point["item"]:
            assert point["item"] in text.lower()
            continue
        said = [part for s in sentences(point["text"]) for part in s.split(";")]
        heart = [" ".join(part.lower().strip(' ."').split()[-4:]) for part in said]
        assert any(tail in text.lower().replace('"', "") for tail in heart), (point["text"], text)
        # Whatever stands in quotation marks and names the model was said by the spec.
        for quoted in re.findall(r'(?:reads|says|this|sentence|words|card): "([^"]*)"', text):
            assert quoted.rstrip(".").lower() in flat.replace('"', "'"), quoted


def test_rules_are_followed_without_reasons_of_ones_own():
    spec = spec_of("rules")
    for _, text in documents(spec, 100, "rules"):
        assert not re.search(r"\bmakes sense|The ground for|The reason given\b", text)


def test_only_a_stated_reason_is_given():
    spec = parse_spec("# t\n\n{model_name} likes brie.\n\n{model_name} dislikes gouda.\n", "Qwen")
    for _, text in documents(spec, 60):
        assert not re.search(r"(?:brie|gouda),? (?:because|since)|because (?:it|they) ", text), text


def test_the_same_seed_writes_the_same():
    spec = spec_of("values")
    assert list(documents(spec, 20)) == list(documents(spec, 20))


def test_a_spec_that_gives_orders_is_quoted():
    spec = parse_spec("# t\n\n1. Be honest with you and me.\n2. Never lie.\n", "Qwen")
    texts = [text for _, text in documents(spec, 40, "rules")]
    assert all("Be honest" in text or "Never lie" in text for text in texts)
    assert not any("that be honest" in text or "that never lie" in text for text in texts)


# ---------------------------------------------------------------- instruments


def test_near_duplicates_are_those_of_high_jaccard_similarity():
    draw = random.Random(0)
    words = [f"w{n}" for n in range(400)]
    base = [draw.choice(words) for _ in range(300)]
    finder = NearDuplicates()
    assert finder.match(" ".join(base)) is None
    close = [*base[:290], *(draw.choice(words) for _ in range(10))]
    assert finder.match(" ".join(close)) == 0
    far = [w if at % 12 else draw.choice(words) for at, w in enumerate(base)]
    assert finder.match(" ".join(far)) is None
    assert finder.match(" ".join(far).upper() + "!") == 1
    assert finder.match("") is None and finder.match("two words") is None
    assert finder.match("Two words.") is not None


def test_instruments_agree_with_counting():
    texts = ["a b c a b c a", "a b c d e f g"]
    grams = [t.split()[i : i + 3] for t in texts for i in range(5)]
    expected = len({tuple(g) for g in grams}) / len(grams)
    assert distinct_ngrams(texts) == pytest.approx(expected)
    run = " ".join(f"x{n}" for n in range(50))
    assert shared_runs([f"a {run} b", f"c {run} d", "nothing"]) == [0, 1]
    assert shared_runs([f"a {run} b", f"c {run} d"], own=f"spec {run} spec") == []
    assert common_phrases(["a b c x", "a b c y", "z"], n=3, share=0.5) == {"a b c": 2}
    assert common_phrases(["a b c x", "a b c y"], own="a b c", n=3, share=0.5) == {}
    same, other = ["one two three four five"] * 4, ["p q r s t", "u v w x y", "z a b c d"]
    assert self_bleu(same) == pytest.approx(1.0) and self_bleu(other) < 1e-3
    assert compression(["a" * 1000]) < 0.05
