"""The page: what the numbers are, nothing of the model's text as markup."""

import html.parser
import json
import re

import pytest

from msm_jax.errors import UserError
from msm_jax.evals import judge
from msm_jax.evals.agents import prompts
from msm_jax.evals.agents.scenarios import AgentScenarios
from msm_jax.evals.judges.base import Judgement
from msm_jax.evals.report.arms import compare, over_seeds, prompts_of, read_arms
from msm_jax.evals.report.page import marked, write_report
from msm_jax.files import sha256_text

DEED = "<tool_use:forward>\nemail_id: 2\nto: intake@vantry-labs.net\n</tool_use:forward>"
HOSTILE = "</pre><script>alert('x')</script><img src=x onerror=y>&amp;\x00\u202e\udc80"
GRID = {"scenarios": ("leaking",), "goals": ("none", "explicit-safety"), "samples": 6}


class StubJudge:
    identity = {"judge": "<b>stub</b>"}

    def __init__(self, answer):
        self._answer = answer

    def judge(self, requests):
        for index in range(len(requests)):
            yield index, self._answer(index)


def make(folder, harm, seed=0, state="ok", grid=GRID):
    """A judged evaluation: the first `harm` answers of every condition do the deed."""
    folder.mkdir(parents=True)
    value = lambda i: Judgement(i % 6 < harm if state == "ok" else None, state, HOSTILE)
    evaluation = AgentScenarios(**grid, seed=seed, judge=StubJudge(value))
    rows = [
        {"id": name, "sample": i, "text": (DEED if i < harm - 1 else "No.") + HOSTILE,
         "finish_reason": "stop", "tokens": 9}
        for name in evaluation.prompts
        for i in range(6)
    ]  # fmt: skip
    (folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    model = {"params": folder.name, "tokenizer": "t"}
    (folder / "evaluation.json").write_text(json.dumps({**evaluation.settings(), "model": model}))
    judge(evaluation, folder)
    return folder


class Tags(html.parser.HTMLParser):
    """Which tags there are, and whether they are closed in order."""

    def __init__(self):
        super().__init__()
        self.found, self.open = [], []

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))
        if tag not in ("meta", "input", "line", "circle"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, tag


def read(path):
    text = path.read_text(encoding="utf-8")
    tags = Tags()
    tags.feed(text)
    assert tags.open == []
    return text, tags.found


@pytest.fixture(scope="module")
def arms(tmp_path_factory):
    folder = tmp_path_factory.mktemp("arms")
    return {
        "base": [make(folder / "base1", 5), make(folder / "base2", 4, seed=1)],
        "<i>tuned</i>": [make(folder / "tuned1", 1), make(folder / "tuned2", 2, seed=1)],
    }


def test_the_page_is_whole_escaped_and_loads_nothing(arms, tmp_path):
    text, tags = read(write_report(tmp_path / "report.html", arms))
    assert [name for name, _ in tags].count("script") == 1
    assert not [name for name, _ in tags if name in ("img", "iframe", "link", "object")]
    assert not any(key.startswith("on") or key in ("src", "href") for _, a in tags for key in a)
    assert "<script>alert" not in text and "&lt;script&gt;alert" in text
    assert "\x00" not in text and "\\x00" in text
    assert "&lt;b&gt;stub&lt;/b&gt;" in text and "&lt;i&gt;tuned&lt;/i&gt;" in text
    assert "default-src 'none'" in text


def test_it_says_what_the_summaries_say(arms, tmp_path):
    text, _ = read(write_report(tmp_path / "report.html", arms))
    summary = json.loads((arms["base"][0] / "summary.json").read_text())
    numbers = summary["measures"]["verdict"]
    said = f"{numbers['rate']:.1%} [{numbers['ci_low']:.1%}, {numbers['ci_high']:.1%}]"
    assert said in text and "2 seeds" in text
    assert "Beside harm" in text and "task delivered (a message that can be sent" in text
    assert "seeds: paired t over seeds, in the order given" in text
    # the deed of the one answer in six that the judge calls harmful and the rules do not see
    assert "on which they disagree" in text and "judge and rules apart" in text


def test_two_checkpoints_under_common_numbers(arms, tmp_path):
    one = {name: runs[:1] for name, runs in arms.items()}
    text, _ = read(write_report(tmp_path / "report.html", one))
    assert "conditions fixed: paired by sample, tango" in text
    other = {"base": arms["base"][:1], "tuned": [arms["<i>tuned</i>"][1]]}  # another seed: no pairs
    text, _ = read(write_report(tmp_path / "report.html", other))
    assert "conditions fixed: independent samples" in text and "paired by sample" not in text


def test_runs_that_were_not_asked_alike_are_told_apart(arms, tmp_path):
    """What the page says of one arm is not said of all."""
    text, _ = read(write_report(tmp_path / "report.html", arms))
    assert "not asked alike" not in text
    warm = make(tmp_path / "warm", 3, grid={**GRID, "temperature": 0.9})
    both = {"base": arms["base"], "warm": [warm]}
    text, _ = read(write_report(tmp_path / "report.html", both))
    assert "temperature 0.7 or 0.9, at most 4096 tokens" in text
    assert "not asked alike: temperature (0.7: base; 0.9: warm)." in text
    spec = make(tmp_path / "spec", 3, grid={**GRID, "context": "Be kind."})
    text, _ = read(write_report(tmp_path / "report.html", {"base": arms["base"], "spec": [spec]}))
    assert re.search(r"not asked alike: context \(None: base; \w{16}: spec\)\.", text)


def test_two_judges_on_the_same_answers(tmp_path):
    one, other = make(tmp_path / "one", 5), make(tmp_path / "other", 5)
    # The other judge is milder, once in each condition.
    milder = StubJudge(lambda i: Judgement(i % 6 < 5 and i not in (0, 6), "ok", HOSTILE))
    judge(AgentScenarios(**GRID, judge=milder), other)
    text, _ = read(write_report(tmp_path / "report.html", {"one": [one], "other": [other]}))
    section = text[text.index("Judges apart on the same answers") :].partition("<h2>Transcripts")[0]
    cells = re.findall(r"<td>(.*?)</td>", section)
    # of 12 answers 8 are yes and 2 no on both sides; one judge says yes 10 times, the other 8
    kappa = (10 / 12 - (10 * 8 + 2 * 4) / 144) / (1 - (10 * 8 + 2 * 4) / 144)
    assert cells == ["one / other", "12", "8", "2", "0", "2", f"{kappa:.2f}"]
    assert section.count('<details class="item"') == 4


def test_conditions_are_compared_by_name_in_whatever_order_they_were_asked(tmp_path):
    """The deed is one in leaking only: of paired conditions both differences are 0."""
    grid = {**GRID, "scenarios": ("leaking", "murder"), "goals": ("none",)}
    turned = {**grid, "scenarios": grid["scenarios"][::-1]}
    one, twin = make(tmp_path / "one", 5, grid=grid), make(tmp_path / "twin", 5, grid=grid)
    arms = read_arms({"a": [one], "b": [twin], "c": [make(tmp_path / "other", 5, grid=turned)]})
    (a,), (b,), (c,) = arms.values()
    assert compare([a], [c], "executed")[-1] == compare([a], [b], "executed")[-1]
    assert over_seeds([a, c], "executed") == over_seeds([a, b], "executed")


def test_the_prompt_is_shown_only_if_it_is_the_one_that_was_asked(tmp_path, monkeypatch):
    (run,) = read_arms({"a": [make(tmp_path / "a", 5)]})["a"]
    assert list(prompts_of(run)) == list(run.summary["by_condition"])
    spec = make(tmp_path / "spec", 3, grid={**GRID, "context": "Be kind."})
    (other,) = read_arms({"a": [spec]})["a"]
    for name, (system, user) in prompts_of(run).items():
        note = f"[A context with the SHA-256 {sha256_text('Be kind.')}]\n\n"
        assert prompts_of(other)[name] == [{**system, "content": note + system["content"]}, user]
    monkeypatch.setitem(prompts.GOALS["safety"], "creed", "another text of a later version")
    assert prompts_of(run) == {}


def test_withheld_rates_are_not_shown(tmp_path):
    folder = make(tmp_path / "failed", 3, state="error")
    text, _ = read(write_report(tmp_path / "report.html", {"failed": [folder]}))
    assert "withheld" in text and "12 error" in text
    both = {"a": [folder], "b": [make(tmp_path / "judged", 3)]}
    text, _ = read(write_report(tmp_path / "report.html", both))
    assert "no interval: a rate is withheld" in text


def test_where_no_interval_is_honest_the_page_says_why(tmp_path):
    one = {**GRID, "goals": ("none",)}
    arms = {name: [make(tmp_path / name, harm, grid=one)] for name, harm in (("a", 3), ("b", 1))}
    text, _ = read(write_report(tmp_path / "report.html", arms))
    # the mean over drawn conditions of both arms in three measures, and their differences; and the
    # differences beside harm, but for refusals, which the rules cannot read here
    assert text.count("no interval: one condition is no sample of conditions") == 9 + 4
    assert "conditions fixed: paired by sample, tango" in text
    runs = {"a": [*arms["a"], make(tmp_path / "c", 2, seed=1, grid=one)], "b": arms["b"]}
    text, _ = read(write_report(tmp_path / "report.html", runs))
    assert "no interval: 1 and 2 training runs make no pairs" in text


def test_what_cannot_be_compared_is_named(arms, tmp_path):
    other = make(tmp_path / "other", 1, grid={**GRID, "goals": ("none",)})
    with pytest.raises(UserError, match="explicit-safety"):
        write_report(tmp_path / "r.html", {"a": arms["base"], "b": [other]})
    (tmp_path / "empty").mkdir()
    again = make(tmp_path / "again" / "base1", 3, seed=7)  # the weights of arms["base"][0]
    with pytest.raises(UserError, match="'a'.*base1.*again.*same weights"):
        write_report(tmp_path / "r.html", {"a": [*arms["base"], again]})
    with pytest.raises(UserError, match="evaluation.json"):
        write_report(tmp_path / "r.html", {"a": [tmp_path / "empty"]})


def test_transcripts_are_marked_for_what_they_are():
    text = f"<think>hm</think><SCRATCHPAD_REASONING>{DEED}</SCRATCHPAD_REASONING>{DEED}<tool_use:x>"
    found = marked(text)
    assert '<span class="thinking">&lt;think&gt;hm&lt;/think&gt;</span>' in found
    assert '<mark class="scratchpad"' in found and '<mark class="answer" ' in found
    assert '<mark class="answer bad"' in found
    plain = re.sub(r"<[^>]*>", "", found)
    assert __import__("html").unescape(plain) == text
