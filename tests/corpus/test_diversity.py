"""The instruments that measure a corpus agree with counting by hand."""

import random

import pytest

from msm_jax.corpus.diversity import (
    NearDuplicates,
    common_phrases,
    compression,
    distinct_ngrams,
    self_bleu,
    shared_runs,
)


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
