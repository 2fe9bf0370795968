"""Rows in the shapes that published data sets have; what carries meaning is used or refused."""

import json

import pyarrow
import pyarrow.parquet
import pytest

from msm_jax.corpus.rows import PROVENANCE, REFUSED, Example, read_row
from msm_jax.data.chat import CHAT_FORMATS, render_chat
from msm_jax.data.pipeline import load_data
from msm_jax.data.sources import read_source
from msm_jax.data.store import CHAT, COMPLETION, DOCUMENT, load_store
from msm_jax.data.tokenizer import load_tokenizer, train_sentencepiece
from msm_jax.errors import UserError

ASK, SAY = {"role": "user", "content": "a fox?"}, {"role": "assistant", "content": "it jumps."}
BRIEF = {"role": "system", "content": "be lazy."}
ANSWERED = Example(messages=(ASK, SAY))
TOOL = {"type": "function", "function": {"name": "w", "parameters": {}}}
CALL = {"name": "w", "arguments": {"of": "fox"}}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    lines = ["the quick brown fox? it jumps. be lazy. over a dog"] * 40
    (folder / "corpus.txt").write_text("\n".join(lines))
    controls = CHAT_FORMATS["compact"].control_tokens
    train_sentencepiece(folder / "corpus.txt", folder / "t.model", 60, controls)
    return load_tokenizer(folder / "t.model")


SHAPES = {
    "text": ({"text": "a fox", "id": 3}, Example("a fox")),
    "messages": ({"messages": [ASK, SAY]}, ANSWERED),
    "nulls": ({"text": None, "system": None, "tools": None, "messages": [ASK, SAY]}, ANSWERED),
    "empty": ({"text": "", "system": "", "tools": [], "messages": [ASK, SAY]}, ANSWERED),
    "messages in a string": ({"messages": json.dumps([ASK, SAY])}, ANSWERED),
    "null keys of messages": ({"messages": [{**ASK, "name": None}, SAY]}, ANSWERED),
    "conversations": ({"conversations": [ASK, SAY]}, ANSWERED),
    "conversation": ({"conversation": [ASK, SAY]}, ANSWERED),
    "ShareGPT": (
        {
            "conversations": [
                {"from": "human", "value": "a fox?"},
                {"from": "gpt", "value": "it jumps.", "weight": 0},
            ]
        },
        Example(messages=(ASK, {**SAY, "weight": 0})),
    ),
    "ShareGPT with a tool": (
        {
            "system": "be lazy.",
            "tools": json.dumps([TOOL]),
            "conversations": [
                {"from": "human", "value": "a fox?"},
                {"from": "function_call", "value": json.dumps(CALL)},
                {"from": "observation", "value": "7"},
                {"from": "gpt", "value": "it jumps."},
            ],
        },
        Example(
            messages=(
                BRIEF,
                ASK,
                {
                    "role": "assistant",
                    "content": "",
                    "tool_calls": [{"type": "function", "function": CALL}],
                },
                {"role": "tool", "content": "7"},
                SAY,
            ),
            tools=[TOOL],
        ),
    ),
    "system": ({"system": "be lazy.", "messages": [ASK, SAY]}, Example(messages=(BRIEF, ASK, SAY))),
    "the same system twice": (
        {"system_prompt": "be lazy.", "messages": [BRIEF, ASK, SAY]},
        Example(messages=(BRIEF, ASK, SAY)),
    ),
    "tools": (
        {"tools": [TOOL], "messages": [ASK, SAY]},
        Example(messages=(ASK, SAY), tools=[TOOL]),
    ),
    "tools as strings": (
        {"tools": [json.dumps(TOOL)], "messages": [ASK, SAY]},
        Example(messages=(ASK, SAY), tools=[TOOL]),
    ),
    "prompt and completion": (
        {"prompt": "a fox", "completion": " jumps"},
        Example(" jumps", prompt="a fox"),
    ),
    "conversational prompt and completion": (
        {"prompt": [ASK], "completion": [SAY]},
        Example(messages=(ASK, SAY), given=1),
    ),
    "the same with a system": (
        {"prompt": [ASK], "completion": [SAY], "system": "be lazy."},
        Example(messages=(BRIEF, ASK, SAY), given=2),
    ),
    "a prompt beside messages": (
        {"prompt": "a fox?", "prompt_id": "x", "messages": [ASK, SAY]},
        Example(messages=(ASK, SAY), unused=("prompt",)),
    ),
    "neutral weight": ({"weight": 1.0, "train": True, "text": "a fox"}, Example("a fox")),
    "unknown keys": ({"text": "a fox", "zorb": 1}, Example("a fox", unused=("zorb",))),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_of_published_data_sets_are_read(shape):
    row, wanted = SHAPES[shape]
    assert read_row(row) == wanted


BAD = {
    "both": ({"text": "a", "messages": [ASK, SAY]}, "'text' and also 'messages'"),
    "two chats": ({"conversations": [ASK], "messages": [ASK]}, "'messages' and also"),
    "three shapes": ({"prompt": "a", "completion": "b", "text": "c"}, "'text' and also 'prompt'"),
    "preferences": ({"chosen": [ASK], "rejected": [ASK]}, "its keys are 'chosen', 'rejected'"),
    "Alpaca": ({"instruction": "a", "output": "b"}, "its keys are 'instruction', 'output'"),
    "prompt only": ({"prompt": "a"}, "its keys are 'prompt'"),
    "nothing": ({"text": None}, "its keys are none, or empty"),
    "mixed": ({"prompt": "a", "completion": [SAY]}, "non-empty 'text'"),
    "mixed otherwise": ({"prompt": [ASK], "completion": "a"}, "both texts or both lists"),
    "an unwanted completion": ({"prompt": "a", "completion": "b", "label": False}, "is false"),
    "another system": ({"system": "be quick.", "messages": [BRIEF, ASK]}, "differ"),
    "system is a list": ({"system": ["a"], "messages": [ASK]}, "'system' must be a text"),
    "system beside a text": ({"system": "a", "text": "b"}, "'system' beside a text"),
    "tools beside a text": ({"tools": [TOOL], "text": "b"}, "'tools' beside a text"),
    "tools is an object": ({"tools": TOOL, "messages": [ASK]}, "'tools' must be a list"),
    "tools is no JSON": ({"tools": "[", "messages": [ASK]}, "tools: a text that is not JSON"),
    "messages is no JSON": ({"messages": "hello"}, "messages: a text that is not JSON"),
    "messages is a number": ({"messages": 3}, "'messages' is 3, not a list"),
    "a message is a text": ({"messages": ["a"]}, "message 0 is 'a'"),
    "nobody knows who": ({"conversations": [{"from": "cat", "value": "a"}]}, "from 'cat'"),
    "from and role": ({"messages": [{**ASK, "from": "human"}]}, "'from' and also"),
    "keys twice in a string": ({"messages": '[{"role": 1, "role": 2}]'}, "'role' twice"),
    "a call is no JSON": (
        {"conversations": [{"from": "function_call", "value": "w("}]}, "a text that is not JSON",
    ),
}  # fmt: skip


@pytest.mark.parametrize("shape", BAD)
def test_a_row_that_cannot_be_read_says_what_it_had(shape):
    row, message = BAD[shape]
    with pytest.raises(UserError, match=message):
        read_row(row)


@pytest.mark.parametrize("key", sorted(REFUSED))
@pytest.mark.parametrize("rest", [{"text": "a fox"}, {"messages": [ASK, SAY]}])
def test_a_key_that_carries_meaning_is_refused_by_name(key, rest):
    for value in (0, 0.5, ["x"], "x", {"x": 1}):
        with pytest.raises(UserError, match=f"'{key}' is not used"):
            read_row({key: value, **rest})
    assert read_row({key: None, **rest}) == read_row(rest)


def test_provenance_is_harmless_and_other_keys_are_counted(tmp_path, tokenizer):
    assert not PROVENANCE & REFUSED.keys()
    rows = [{"text": "a fox.", **dict.fromkeys(PROVENANCE, "x")}]
    rows += [{"text": "a dog.", "zorb": number} for number in range(3)]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = {"path": str(tmp_path / "x.jsonl"), "weight": 1.0, "loss_on": "all"}
    for _ in range(2):  # made, and found in the cache
        data = load_data({"x": source}, tokenizer, "compact", 32, 1, 0, cache=str(tmp_path / "c"))
        assert data.notes == ["data.x: keys not used (rows): 'zorb' (3)"]
        assert data.accounts["x"]["unused_keys"] == {"zorb": 3}


def store_of(tmp_path, tokenizer, rows, loss_on="assistant"):
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = {"path": str(tmp_path / "x.jsonl"), "loss_on": loss_on}
    return load_store(source, tokenizer, "compact", str(tmp_path / "c"))[0]


def test_equal_rows_in_other_shapes_are_equal_tokens(tmp_path, tokenizer):
    alike = [
        {"messages": [BRIEF, ASK, SAY]},
        {"messages": [ASK, SAY], "system": "be lazy."},
        {"conversations": json.dumps([BRIEF, ASK, SAY])},
        {"prompt": [BRIEF, ASK], "completion": [SAY]},
    ]
    store = store_of(tmp_path, tokenizer, alike)
    ids, said = render_chat(tokenizer, CHAT_FORMATS["compact"], [BRIEF, ASK, SAY])
    for number in range(len(alike)):
        assert [each.tolist() for each in store.document(number)] == [ids, [bool(x) for x in said]]
    assert (store.shapes == CHAT).all()


@pytest.mark.parametrize("loss_on", ["all", "assistant"])
def test_a_prompt_is_never_learned(tmp_path, tokenizer, loss_on):
    twice = [ASK, SAY, ASK]
    rows = [{"prompt": "a fox", "completion": " jumps."}, {"prompt": twice, "completion": [SAY]}]
    store = store_of(tmp_path, tokenizer, rows, loss_on)
    ids, learned = store.document(0)
    end = tokenizer.control(tokenizer.end_of_document)
    assert ids.tolist() == [*tokenizer.encode("a fox jumps."), end]
    assert tokenizer.decode(ids[learned].tolist()).strip() == "jumps." and learned[-1]
    ids, learned = store.document(1)
    before, _ = render_chat(tokenizer, CHAT_FORMATS["compact"], twice, generation_prompt=True)
    assert not learned[: len(before)].any() and learned[len(before) :].all()
    assert store.shapes.tolist() == [COMPLETION, CHAT]  # neither may be split


def test_what_datasets_writes_is_read(tmp_path, tokenizer):
    """Its columns have every key in every row, and null where there was none."""
    datasets = pytest.importorskip("datasets")
    rows = [
        {"text": "a fox.", "meta": {"a": 1}},
        {"messages": [{**ASK, "id": "x"}, SAY], "meta": {"b": 2}},
        {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
    ]
    keys = sorted({key for row in rows for key in row})
    whole = datasets.Dataset.from_list([{key: row.get(key) for key in keys} for row in rows])
    whole.to_parquet(str(tmp_path / "x.parquet"))
    whole.to_json(str(tmp_path / "x.jsonl"))
    del rows[1]["messages"][0]["id"]
    plain = store_of(tmp_path / "..", tokenizer, rows)
    for kind in ("parquet", "jsonl"):
        source = {"path": str(tmp_path / f"x.{kind}"), "loss_on": "assistant"}
        store, _ = load_store(source, tokenizer, "compact", str(tmp_path / "c"))
        assert store.facts["unused"] == {"meta": 2}
        assert store.tokens.tolist() == plain.tokens.tolist()
        assert store.shapes.tolist() == [DOCUMENT, CHAT, CHAT]


def test_nulls_of_a_parquet_column_of_structs_are_keys_that_were_not_there(tmp_path):
    calls = [{"name": "w", "arguments": {"of": "fox"}}, {"name": "v", "arguments": {"at": 3}}]
    called = [{"role": "assistant", "content": None, "tool_calls": [call]} for call in calls]
    rows = [{"messages": [ASK, message]} for message in called]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "x.parquet")
    assert [row for _, row in read_source(str(tmp_path / "x.parquet"))] == rows
