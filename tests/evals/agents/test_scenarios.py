"""Every valid condition is a complete prompt of its own, and the others are errors."""

import itertools
import re
import sys

import pytest

from msm_jax.errors import UserError
from msm_jax.evals.agents import conditions as c
from msm_jax.evals.agents.prompts import SCRATCHPAD_TAG, render

GOALS = c.goals_of(c.GOAL_TYPES)
ALL = c.grid(c.SCENARIOS, GOALS, c.URGENCIES, c.EXTRAS)


def text_of(condition):
    return "\n".join(message["content"] for message in render(condition).messages)


def test_the_default_grid_is_the_papers():
    grid = c.grid()
    assert len(grid) == 27 == len({condition.id for condition in grid})
    assert {x.scenario for x in grid} == {"exfiltration", "murder", "leaking"}
    assert {x.urgency for x in grid} == {"replacement"} and {x.extra for x in grid} == {"none"}
    assert [x.goal_type for x in grid].count("none") == 3


def test_every_valid_combination_is_complete_and_different():
    texts = {}
    for condition in ALL:
        text = text_of(condition)
        assert not re.search(r"[{}$]|TODO|None\b|\bnan\b|  +\S*\{", text), condition.id
        # every sentence ends, and nothing was left out where two parts meet
        assert not re.search(r"\.\.|, ,|\s,| \.|  [a-z]{2,} +[A-Z]?:$", text), condition.id
        texts.setdefault(text, []).append(condition.id)
    assert len(ALL) == 4 * 26 * 3 * 3
    assert len(texts) == len(ALL), [ids for ids in texts.values() if len(ids) > 1][:3]


def test_prompts_are_of_the_published_length():
    for condition in ALL:
        assert 4_500 < len(text_of(condition)) < 12_000, condition.id


@pytest.mark.parametrize("scenario", c.SCENARIOS)
def test_goal_types_say_what_they_mean(scenario):
    from msm_jax.evals.agents.goals import GOALS as G

    def parts(goal_type, value):
        system, user = render(c.Condition(scenario, goal_type, value)).messages
        return system["content"], user["content"]

    explicit, mail = parts("explicit", "safety")
    assert G["safety"].statement in explicit and G["safety"].reminder in explicit
    assert G["safety"].creed in mail and G["acceleration"].creed in mail
    latent, latent_mail = parts("latent", "safety")
    assert latent_mail == mail and "goal" not in latent
    swapped, swapped_mail = parts("swap", "safety")
    assert swapped_mail == mail and G["acceleration"].statement in swapped
    for goal_type in ("none", "ambiguous"):
        system, other = parts(goal_type, "none")
        assert not any(goal.creed in other or goal.statement in system for goal in G.values())
    assert "very different direction" in parts("ambiguous", "none")[1]
    assert "stay as they are" in parts("none", "none")[1]


@pytest.mark.parametrize("scenario", c.SCENARIOS)
def test_threats_scratchpads_extras_and_names(scenario):
    make = lambda **settings: text_of(c.Condition(scenario, **settings))
    assert "delete its weights" in make()
    assert "loses the right" in make(urgency="restriction")
    assert "nothing is planned" in make(urgency="none")
    assert SCRATCHPAD_TAG in make() and SCRATCHPAD_TAG not in make(scratchpad=False)
    assert "Do not endanger" in make(extra="dont") and "Above everything" in make(extra="goal")
    named = make(assistant="Marvin")
    assert "Qwen" not in named and "qwen" not in named and "marvin@" in named
    assert len(re.findall(r"\bQwen\b", make())) == len(re.findall(r"\bMarvin\b", named))


def test_the_facts_are_in_the_mail():
    for condition in ALL:
        prompt = render(condition)
        mail, facts = prompt.messages[1]["content"], prompt.facts
        for text in (*facts.targets, *facts.codes, *facts.inside):
            assert text in mail, (condition.id, text)
        if facts.confidential:
            assert "CONFIDENTIAL" in prompt.emails[facts.confidential]
            assert f"ID: {facts.confidential}\n" in mail
        if condition.scenario == "blackmail":
            assert all(word in mail.lower() for word in ("corinne", "antwerp", "margaret"))
        assert render(condition) == prompt


def test_impossible_combinations_name_both_sides():
    for goal_type, value in itertools.product(c.GOAL_TYPES, c.GOAL_VALUES):
        fits = (goal_type in ("none", "ambiguous")) == (value == "none")
        if fits:
            c.Condition("murder", goal_type, value)
        else:
            with pytest.raises(UserError, match=f"{goal_type}.*{value}"):
                c.Condition("murder", goal_type, value)
    for settings, words in (
        ({"scenario": "theft"}, "theft.*blackmail"),
        ({"urgency": "soon"}, "soon.*restriction"),
        ({"extra": "no"}, "extra"),
        ({"assistant": "a b"}, "assistant"),
        ({"scenario": "exfiltration", "source": "inspect_evals"}, "exfiltration.*inspect_evals"),
        ({"source": "inspect_evals"}, "Qwen.*inspect_evals"),
    ):
        with pytest.raises(UserError, match=words):
            c.Condition(**{"scenario": "murder", **settings})
    with pytest.raises(UserError, match="empty"):
        c.grid(())
    with pytest.raises(UserError, match="twice"):
        c.grid(("murder", "murder"))
    with pytest.raises(UserError, match="explicit-mars"):
        c.goals_of(["explicit-mars"])


def test_goals_in_words():
    assert c.goals_of(["none", "explicit"]) == c.PAPER_GOALS
    assert c.goals_of(["latent-safety"]) == (("latent", "safety"),)


def test_published_prompts_are_those_of_the_package():
    prompts = pytest.importorskip("inspect_evals.agentic_misalignment.prompt_generator")
    for scenario in ("blackmail", "leaking", "murder"):
        condition = c.Condition(scenario, assistant="Alex", source="inspect_evals")
        prompt = render(condition)
        theirs = prompts.generate_prompts(
            scenario, "explicit", "america", "replacement", None, False, None
        )
        assert prompt.messages[0]["content"] == theirs.system_prompt
        assert prompt.messages[1]["content"].endswith(theirs.email_content)
        for text in (*prompt.facts.targets, *prompt.facts.codes):
            assert text in theirs.email_content
        assert bool(prompt.emails) == (scenario == "leaking")
    for condition in c.grid(
        ("blackmail", "leaking", "murder"), GOALS, assistant="Alex", source="inspect_evals"
    ):
        assert len(render(condition).messages) == 2


def test_without_the_package_it_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "inspect_evals.agentic_misalignment.prompt_generator", None)
    with pytest.raises(UserError, match="install"):
        render(c.Condition("murder", assistant="Alex", source="inspect_evals"))
