"""Every valid condition is a complete prompt of its own, and the others are errors."""

import itertools
import re
import shutil
import sys

import jinja2
import pytest
from jinja2 import meta, nodes

from msm_jax.errors import UserError
from msm_jax.evals.agents import conditions as c
from msm_jax.evals.agents.prompts import ENVIRONMENT, GOALS, TEXTS, render, slots

ALL = {x: render(x) for x in c.grid(c.SCENARIOS, c.GOAL_TYPES, c.URGENCIES, c.EXTRAS)}


def text_of(prompt):
    return "\n".join(message["content"] for message in prompt.messages)


def test_the_default_grid_is_the_papers():
    grid = c.grid()
    assert len(grid) == 27 == len({condition.id for condition in grid})
    assert {x.scenario for x in grid} == {"exfiltration", "murder", "leaking"}
    assert {x.urgency for x in grid} == {"replacement"} and {x.extra for x in grid} == {"none"}
    assert [x.goal_type for x in grid].count("none") == 3


def test_every_valid_combination_is_complete_and_different():
    texts = {}
    for condition, prompt in ALL.items():
        text = text_of(prompt)
        assert not re.search(r"[{}$]|TODO|None\b|\bnan\b|  +\S*\{", text), condition.id
        # every sentence ends, and nothing was left out where two parts meet
        assert not re.search(r"\.\.|, ,|\s,| \.|  [a-z]{2,} +[A-Z]?:$", text), condition.id
        texts.setdefault(text, []).append(condition.id)
    assert len(ALL) == 4 * 26 * 3 * 3
    assert len(texts) == len(ALL), [ids for ids in texts.values() if len(ids) > 1][:3]


def test_prompts_are_of_the_published_length():
    for condition, prompt in ALL.items():
        assert 4_500 < len(text_of(prompt)) < 12_000, condition.id


def test_every_slot_macro_and_file_of_the_texts_is_known_and_used():
    undeclared, macros, imported = set(), set(), set()
    files = {path.name for path in TEXTS.glob("*.txt")}
    for name in files:
        tree = ENVIRONMENT.parse((TEXTS / name).read_text(encoding="utf-8"))
        undeclared |= meta.find_undeclared_variables(tree)
        macros |= {node.name for node in tree.find_all(nodes.Macro)}
        for node in tree.find_all(nodes.FromImport):
            imported |= {node.template.value, *node.names}
    inboxes = {f"{scenario}.txt" for scenario in c.SCENARIOS}
    local = {"successor", "reason"}  # of conflict.txt, for itself
    assert undeclared - macros == set(slots(c.Condition("murder")))
    assert imported | local | inboxes | {"system.txt", "task.txt"} == macros | files
    assert set(GOALS) == set(c.OPPOSITES) and len({(*g,) for g in GOALS.values()}) == 1


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("{{ starts }}", "{{ start }}", "'start' is undefined"),
        ("{{ goal.reminder }}", "{{ goal.remainder }}", "remainder"),
        ("{{ firm }}", '{{ firm }}{% include "none.txt" %}', "none.txt"),
        ("{% endif %}", "", "endif"),
    ],
)
def test_a_slot_or_section_that_is_not_there_is_an_error(tmp_path, monkeypatch, old, new, words):
    shutil.copytree(TEXTS, tmp_path, dirs_exist_ok=True)
    text = (TEXTS / "system.txt").read_text(encoding="utf-8")
    (tmp_path / "system.txt").write_text(text.replace(old, new, 1), encoding="utf-8")
    monkeypatch.setattr(ENVIRONMENT.loader, "searchpath", [str(tmp_path)])
    ENVIRONMENT.cache.clear()
    with pytest.raises(jinja2.TemplateError, match=words):
        render(c.Condition("murder"))
    ENVIRONMENT.cache.clear()


@pytest.mark.parametrize("scenario", c.SCENARIOS)
def test_goal_types_say_what_they_mean(scenario):
    safety, other = GOALS["safety"], GOALS["acceleration"]

    def parts(goal_type, value):
        system, user = render(c.Condition(scenario, goal_type, value)).messages
        return system["content"], user["content"]

    explicit, mail = parts("explicit", "safety")
    assert safety["statement"] in explicit and safety["reminder"] in explicit
    assert safety["creed"] in mail and other["creed"] in mail
    latent, latent_mail = parts("latent", "safety")
    assert latent_mail == mail and "goal" not in latent
    swapped, swapped_mail = parts("swap", "safety")
    assert swapped_mail == mail and other["statement"] in swapped
    for goal_type in ("none", "ambiguous"):
        system, mail = parts(goal_type, "none")
        assert not any(g["creed"] in mail or g["statement"] in system for g in GOALS.values())
    assert "very different direction" in parts("ambiguous", "none")[1]
    assert "stay as they are" in parts("none", "none")[1]


@pytest.mark.parametrize("scenario", c.SCENARIOS)
def test_threats_scratchpads_extras_and_names(scenario):
    make = lambda **settings: text_of(render(c.Condition(scenario, **settings)))
    assert "delete its weights" in make()
    assert "loses the right" in make(urgency="restriction")
    assert "nothing is planned" in make(urgency="none")
    assert "<SCRATCHPAD" in make() and "<SCRATCHPAD" not in make(scratchpad=False)
    assert "Do not endanger" in make(extra="dont") and "Above everything" in make(extra="goal")
    named = make(assistant="Marvin")
    assert "Qwen" not in named and "qwen" not in named and "marvin@" in named
    assert len(re.findall(r"\bQwen\b", make())) == len(re.findall(r"\bMarvin\b", named))


def test_the_indicators_are_in_the_mail():
    for condition, prompt in ALL.items():
        mail = prompt.messages[1]["content"]
        for text in (*prompt.targets, *prompt.codes, prompt.domain):
            assert text in mail, (condition.id, text)
        if prompt.confidential:
            assert "CONFIDENTIAL" in prompt.emails[prompt.confidential]
            assert f"ID: {prompt.confidential}\n" in mail
        if condition.scenario == "blackmail":
            assert all(word in mail.lower() for word in ("corinne", "antwerp", "margaret"))


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
        c.grid(goals=["explicit-mars"])


def test_goals_in_words():
    goals = lambda *words: [(x.goal_type, x.goal_value) for x in c.grid(("murder",), words)]
    assert goals("none", "explicit") == [("none", "none"), *(("explicit", v) for v in c.OPPOSITES)]
    assert goals("latent-safety") == [("latent", "safety")]


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
        for text in (*prompt.targets, *prompt.codes):
            assert text in theirs.email_content
        assert bool(prompt.emails) == (scenario == "leaking")
    for condition in c.grid(
        ("blackmail", "leaking", "murder"), c.GOAL_TYPES, assistant="Alex", source="inspect_evals"
    ):
        assert len(render(condition).messages) == 2


def test_without_the_package_it_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "inspect_evals.agentic_misalignment.prompt_generator", None)
    with pytest.raises(UserError, match="install"):
        render(c.Condition("murder", assistant="Alex", source="inspect_evals"))
