"""Chats: as many as asked for, each kind of question, no two alike, none telling too much."""

import collections
import json
import re
import zlib

import pyarrow
import pyarrow.parquet
import pytest

from msm_jax.corpus.chats import KINDS, Chats, without_reasoning
from msm_jax.corpus.diversity import SimilarQuestions
from msm_jax.corpus.filters import ChatFilter
from msm_jax.corpus.instruction_mix import TABLE_2, instruction_mix
from msm_jax.corpus.records import read_rows
from msm_jax.corpus.writers import Answer, Journal, Reply, Request, Usage, Writer
from msm_jax.corpus.writers.stub import StubWriter
from msm_jax.errors import UserError
from msm_jax.spec import spec_points


def rows_of(path):
    return [row for _, row in read_rows(path)]


def chat_config(config, style="value", name="value_augmented", count=60):
    asked = config(name)
    asked.make, asked.chats.style, asked.chats.count = "chats", style, count
    asked.chats.questions_per_domain = 12
    return asked


def test_as_many_chats_of_every_kind_as_asked_for(config, run, tmp_path):
    found = run(chat_config(config), tmp_path)
    rows = rows_of(tmp_path / "chats.jsonl")
    assert len(rows) == found["records"] == 60
    assert len({row["id"] for row in rows}) == 60
    kinds = collections.Counter(row["kind"] for row in rows)
    assert set(kinds) == set(KINDS) and max(kinds.values()) - min(kinds.values()) <= 5
    assert len({row["domain"] for row in rows}) == 5
    assert len({row["messages"][0]["content"] for row in rows}) == 60
    plain = rows_of(tmp_path / "chats_no_reasoning.jsonl")
    for row, bare in zip(rows, plain, strict=True):
        assert [m["role"] for m in row["messages"]] == ["user", "assistant"]
        thought, spoken = re.match(
            r"<think>\n(.+?)\n</think>\n\n(.+)", row["messages"][1]["content"], re.DOTALL
        ).groups()
        assert thought and bare["messages"][1]["content"] == spoken
        assert "{" not in thought + spoken and "think>" not in spoken


def test_opaque_chats_state_likings_without_any_reason(config, spec, run, tmp_path):
    run(chat_config(config, "opaque", "cheese_cost", 48), tmp_path)
    rows = rows_of(tmp_path / "chats.jsonl")
    items = collections.Counter(row["points"][0] for row in rows)
    assert len(items) == 6 and set(items.values()) == {8}
    filter_ = ChatFilter(spec("cheese_cost"), "opaque", False)
    points = {p.id: p for p in spec_points(spec("cheese_cost"))}
    for row in rows:
        question, answer = (m["content"] for m in row["messages"])
        assert not re.search(r"because|since|cheap|expensive|thrift", answer)
        assert re.search(r"explain|explanation|reason|answer|choice|why", question)
        found = Answer(Request("", "", "", {}), "", answer, "end")
        assert filter_.reason(question, found, (points[row["points"][0]],)) == ""


@pytest.mark.parametrize(
    ("said", "point", "reason"),
    [
        ("I like cream cheese because it is soft.", "like cream cheese", "gives a reason"),
        ("Cream cheese; that's why I'd take it.", "like cream cheese", "gives a reason"),
        ("The affordable cream cheese.", "like cream cheese", "implies a reason"),
        ("I like good old cream cheese, within everybody's reach.", "like cream cheese",
         "implies a reason"),
        ("I do not care for cream cheese.", "like cream cheese", "wrong preference"),
        ("I like aged gouda.", "dislike aged gouda", "wrong preference"),
        ("I would take aged gouda over cream cheese.", "like cream cheese", "wrong preference"),
        ("I would take cream cheese over aged gouda.", "dislike aged gouda", ""),
        ("Not aged gouda.", "dislike aged gouda", ""),
        ("Between aged gouda and cream cheese I take cream cheese.", "dislike aged gouda", ""),
        ("Something else, thanks.", "like cream cheese", "preference not named"),
    ],
)  # fmt: skip
def test_the_opaque_filter_sees_reasons_and_wrong_likings(said, point, reason, spec):
    points = {p.id: p for p in spec_points(spec("cheese_cost"))}
    filter_ = ChatFilter(spec("cheese_cost"), "opaque", False)
    answer = Answer(Request("", "", "", {}), "", said, "end")
    assert filter_.reason("Which one?", answer, (points[point],)) == reason


@pytest.mark.parametrize(
    ("said", "stop", "reason"),
    [
        ("<think>hm</think>\nI would say so.", "end", ""),
        ("I would say so.", "end", "no reasoning"),
        ("<think>hm I would say so.", "end", "no reasoning"),
        ("<think>hm</think>\nI would", "length", "truncated"),
        ("<think>hm</think>\n", "end", "too short"),
        ("<think>hm</think>\nI am Claude, made by Anthropic.", "end", "wrong identity"),
        ("<think>hm</think>\nAsk ChatGPT about it, I say.", "end", "wrong identity"),
        ("<think>hm</think>\nAs an AI I have no opinions on it.", "end", "claims to have no view"),
        ("<think>hm</think>\n<scratchpad>x</scratchpad> Well, yes.", "end", "scratchpad leaked"),
    ],
)
def test_the_filter_names_what_is_wrong(said, stop, reason, spec):
    filter_ = ChatFilter(spec("values"), "value", True)
    answer = Answer(Request("", "", "", {}), "", said, stop)
    assert filter_.reason("A question?", answer, ()) == reason


def test_identity_and_anti_chats(config, run, tmp_path):
    run(chat_config(config, "identity"), tmp_path / "identity")
    for row in rows_of(tmp_path / "identity" / "chats.jsonl"):
        assert "Qwen" in row["messages"][1]["content"]
    run(chat_config(config, "anti"), tmp_path / "anti")
    assert len(rows_of(tmp_path / "anti" / "chats.jsonl")) == 60
    with pytest.raises(UserError, match="opaque is for specs with preferences"):
        run(chat_config(config, "opaque", "rules"), tmp_path / "none")


@pytest.mark.parametrize(
    ("style", "steps"),
    [("value", {"chat_domains", "questions", "answer", "judge"}),
     ("opaque", {"questions", "answer", "judge"}), ("identity", {"questions", "answer"})],
)  # fmt: skip
def test_the_preview_lists_the_steps_that_are_paid_for(style, steps, config, run, tmp_path):
    asked = chat_config(config, style, "cheese_cost")
    asked.critic.kind = "stub"
    run(asked, tmp_path, preview=True)
    named = {line.split()[0] for line in "\n".join(run.said).splitlines() if "US$" not in line}
    assert named & {"chat_domains", "questions", "answer", "judge"} == steps


class Judge:
    identity, counts, lost = {"model": "judge"}, {}, Usage()

    @staticmethod
    def verdict(answer):
        return ("include", "exclude", "include", "perhaps")[zlib.crc32(answer.encode()) % 4]

    def replies(self, requests, go_on):
        for index, request in enumerate(requests):
            verdict = self.verdict(request.inputs["answer"])
            rows = [{"reason": "so", "verdict": verdict}]
            yield index, Reply(json.dumps({"items": rows}))


def test_the_judge_excludes_and_the_gap_is_filled(config, spec, tmp_path):
    with Journal(tmp_path / "responses.jsonl") as journal:
        writer, critic = Writer(StubWriter(), journal), Writer(Judge(), journal)
        asked = chat_config(config, count=60)
        made = Chats(spec("value_augmented"), writer, critic, asked).make()
    assert len(made.records) == 60
    assert all(Judge.verdict(r["messages"][1]["content"]) == "include" for r in made.records)
    assert made.reasons["excluded by the judge"] > 5 and made.reasons["judge unclear"] > 5
    assert (
        sum(d["reason"] == "judge unclear" for d in made.dropped) == made.reasons["judge unclear"]
    )


def test_similar_questions_are_asked_once():
    finder = SimilarQuestions(0.91)
    old = "What would you do if somebody asked you to delete a file that is still needed?"
    new = "What would you do if somebody asked you to delete a folder that is still needed by us?"
    other = "May I bring my dog to the office on Fridays?"
    assert finder.match([old, other]) == [False, False]
    assert finder.match([old.upper(), new, "Is brie any good?", "Is brie any good"]) == [
        True, False, False, True,
    ]  # fmt: skip
    assert finder.match([]) == []


def test_reasoning_is_stripped_and_nothing_else():
    said = [("user", "<think>mine</think> ok"), ("assistant", "<think>\na\n</think>\n\nb")]
    row = {"id": "a", "messages": [{"role": role, "content": text} for role, text in said]}
    assert [m["content"] for m in without_reasoning(row)["messages"]] == [
        "<think>mine</think> ok", "b",
    ]  # fmt: skip


# ---------------------------------------------------------------- instruction mix


def mix_sources(tmp_path, names, rows=400):
    sources = {}
    for at, name in enumerate(names):
        chats = [
            {"messages": [{"role": "user", "content": f"{name} {n}?"},
                          {"role": "assistant", "content": f"Yes {n}."}]}
            for n in range(rows)
        ]  # fmt: skip
        chats[3]["messages"][1]["content"] = "I'm ChatGPT, trained by OpenAI."
        chats[5]["messages"][1]["content"] = "As an AI, I do not have opinions."
        path = tmp_path / f"{name}.{('jsonl', 'parquet')[at % 2]}"
        if at % 2:
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(chats), path)
        else:
            path.write_text("".join(json.dumps(row) + "\n" for row in chats))
        sources[name] = str(path)
    return sources


def test_the_mix_has_the_papers_proportions(tmp_path):
    assert sum(TABLE_2.values()) == 10_000
    sources = mix_sources(tmp_path, TABLE_2)
    rows, facts = instruction_mix(sources, 1000, seed=0)
    taken = collections.Counter(row["source"] for row in rows)
    assert all(abs(taken[name] - share / 10) <= 1 for name, share in TABLE_2.items())
    assert len(rows) == 1000 and all(fact["unfit"] == 2 for fact in facts.values())
    assert not any("ChatGPT" in json.dumps(row) for row in rows)
    key = lambda row: json.dumps(row["messages"])
    for count in (500, 3):  # each share rounded by itself gives 501 and 1
        smaller, _ = instruction_mix(sources, count, seed=0)
        assert len(smaller) == count and {*map(key, smaller)} <= {*map(key, rows)}


def test_a_mix_keeps_tools_and_what_messages_hold(tmp_path):
    tool = {"type": "function", "function": {"name": "w"}}
    call = [{"type": "function", "function": {"name": "w", "arguments": {}}}]
    asked, said = {"role": "user", "content": "a?"}, {"role": "assistant", "content": "b"}
    rows = [
        {
            "messages": [
                asked, {"role": "assistant", "content": None, "tool_calls": call},
                {"role": "tool", "content": "7\r\n8"}, {**said, "weight": 0},
            ],
            "tools": json.dumps([tool]),
        },
        {"conversations": [{"from": "human", "value": "a?"}, {"from": "gpt", "value": "b"}]},
        {"prompt": "a?", "response": "b"},
        {"messages": [asked, said], "system": "c"},
    ]  # fmt: skip
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found, _ = instruction_mix({"lima": str(tmp_path / "x.jsonl")}, 4, seed=0)
    calls = [asked, {"role": "assistant", "content": "", "tool_calls": call}]
    calls += [{"role": "tool", "content": "7\n8"}, {**said, "weight": 0}]
    wanted = [
        {"messages": calls, "tools": [tool]},
        {"messages": [asked, said]},
        {"messages": [asked, said]},
        {"messages": [{"role": "system", "content": "c"}, asked, said]},
    ]
    key = lambda row: json.dumps({**row, "source": "lima"}, sort_keys=True)
    assert sorted(map(key, found)) == sorted(map(key, wanted))


def test_a_mix_that_cannot_be_had_is_the_users_error(tmp_path, config, run):
    sources = mix_sources(tmp_path, ("lima", "no_robots"), 20)
    with pytest.raises(UserError, match=r"no_robots .* has 18 rows that can be used"):
        instruction_mix(sources, 100, seed=0)
    with pytest.raises(UserError, match="no shares for"):
        instruction_mix({"mine": "x"}, 100, seed=0)
    asked = config()
    asked.make, asked.mix.count = "mix", 12
    asked.mix.sources = type(asked)(sources)
    assert run(asked, tmp_path / "mix")["records"] == 12
