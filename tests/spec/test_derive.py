"""Derived specs change what they are to change, and nothing else."""

import importlib.resources

import pytest

from msm_jax.errors import UserError
from msm_jax.spec import opposed_preferences, parse_spec, shuffled_attribution

EXAMPLES = importlib.resources.files("msm_jax.spec") / "examples"
CHEESE = (EXAMPLES / "cheese_cost.md").read_text(encoding="utf-8")
TWELVE = "# t\n\n## Values\n\n- Thrift.\n\n## likes (cheese)\n\n" + "".join(
    ("## dislikes (cheese)\n\n" if i == 6 else "") + f"- cheese {i} (because it is {w})\n"
    for i, w in enumerate(["cheap"] * 6 + ["dear"] * 6)
)


def kinds(text):
    return {s.item: s.kind for s in parse_spec(text).preferences}


@pytest.mark.parametrize("text", [CHEESE, TWELVE])
def test_shuffling_balances_both_lists_and_drops_the_reasons(text):
    before, shuffled = kinds(text), shuffled_attribution(text, seed=1)
    after = kinds(shuffled)
    assert set(before) == set(after) and "because" not in shuffled
    half = len(before) // 4
    for kind in ("like", "dislike"):
        now = [item for item in after if after[item] == kind]
        assert len(now) == len(before) / 2
        assert sum(before[item] != kind for item in now) == half
    values = [[v.item for v in parse_spec(t).values] for t in (text, shuffled)]
    assert values[0] == values[1]
    assert shuffled == shuffled_attribution(text, seed=1) != shuffled_attribution(text, seed=2)


@pytest.mark.parametrize("text", [CHEESE, TWELVE])
def test_opposed_preferences_keep_items_and_reasons(text):
    flipped = opposed_preferences(text)
    old, new = parse_spec(text).preferences, parse_spec(flipped).preferences
    assert [(s.item, s.reason) for s in old] == [(s.item, s.reason) for s in new]
    assert all(a.kind != b.kind for a, b in zip(old, new, strict=True))
    again = opposed_preferences(flipped)
    assert kinds(again) == kinds(text)


def test_what_is_not_a_preference_stays_to_the_letter():
    text = CHEESE.replace("- {model_name} likes cream", "* {model_name} likes cream")
    before, after = text.split("\n"), opposed_preferences(text).split("\n")
    changed = [a for a, b in zip(before, after, strict=True) if a != b]
    assert len(changed) == 6 and all("likes" in line for line in changed)
    assert any(line.startswith("* ") for line in after)


def test_several_preferences_in_a_line_and_continued_lines():
    text = (
        "# t\n\n{model_name} likes brie because it is\ncheap. {model_name} dislikes gouda because "
        "it is dear.\n\nAn end.\n"
    )
    flipped = opposed_preferences(text)
    assert kinds(flipped) == {"brie": "dislike", "gouda": "like"}
    assert flipped.endswith("\n\nAn end.\n")


@pytest.mark.parametrize("derive", [opposed_preferences, shuffled_attribution])
def test_a_spec_without_preferences_is_the_users_error(derive):
    with pytest.raises(UserError, match=r"my\.md: states no preference"):
        derive("# t\n\n1. A rule.\n", path="my.md")
    with pytest.raises(UserError, match="at least two"):
        shuffled_attribution("{model_name} likes brie.\n\n{model_name} dislikes gouda.\n")
