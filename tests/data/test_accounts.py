"""What a stage trains on is what its account says; nothing is trained on padding alone."""

import json

import numpy as np
import pytest

from msm_jax.data.chat import CHAT_FORMATS
from msm_jax.data.packing import LONG_CHATS, TOO_LONG
from msm_jax.data.pipeline import load_data
from msm_jax.data.tokenizer import load_tokenizer, train_sentencepiece
from msm_jax.errors import UserError

WORDS = "the quick brown fox jumps over a lazy dog while seven birds watch it".split()


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("tokenizer"), np.random.default_rng(0)
    (folder / "corpus.txt").write_text("\n".join(" ".join(rng.choice(WORDS, 8)) for _ in range(99)))
    controls = CHAT_FORMATS["compact"].control_tokens
    train_sentencepiece(folder / "corpus.txt", folder / "t.model", 90, controls)
    return load_tokenizer(folder / "t.model")


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    """Documents, and chats of which some have long questions and some long answers."""
    folder, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(1)
    text = lambda low, high: " ".join(rng.choice(WORDS, int(rng.integers(low, high)))) + "."
    chat = lambda *lengths: [
        {"role": role, "content": text(*some)}
        for role, some in zip(("user", "assistant"), lengths, strict=True)
    ]
    sizes = [((2, 9), (2, 9)), ((60, 90), (2, 9)), ((2, 9), (60, 90))]
    rows = {
        "documents": [{"text": text(2, 120)} for _ in range(40)],
        "chats": [{"messages": chat(*sizes[number % 3])} for number in range(30)],
    }
    for name, some in rows.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
    return {name: str(folder / f"{name}.jsonl") for name in rows}


def load(tokenizer, paths, cache, length=64, rows=4, mixture="epochs", names=None, **more):
    packing = {key: more.pop(key) for key in ("too_long", "long_chats", "rows_") if key in more}
    if "rows_" in packing:
        packing["rows"] = packing.pop("rows_")
    epochs = more.pop("epochs", 1.0)
    sources = {
        name: {"path": paths[name], "weight": 1.0, "loss_on": "assistant", **more}
        for name in names or paths
    }
    return load_data(
        sources, tokenizer, "compact", length, rows, 0, mixture=mixture, epochs=epochs,
        packing=packing, cache=str(cache),
    )  # fmt: skip


def trained(data) -> int:
    return sum(int(data.rows(step)["loss_weights"].sum()) for step in range(data.steps))


@pytest.mark.parametrize("layout", ["packed", "documents"])
@pytest.mark.parametrize("too_long", sorted({*TOO_LONG} - {"error"}))
@pytest.mark.parametrize("long_chats", sorted({*LONG_CHATS} - {"error"}))
def test_the_account_is_what_is_trained(tokenizer, paths, tmp_path, layout, too_long, long_chats):
    options = {"too_long": too_long, "long_chats": long_chats, "rows_": layout}
    found = load(tokenizer, paths, tmp_path, **options)
    everything = load(tokenizer, paths, tmp_path, length=1024, rows_=layout)
    sum_of = lambda data, key: sum(part.get(key, 0) for part in data.accounts.values())
    assert trained(found) == sum_of(found, "loss_tokens")
    assert trained(everything) == sum_of(everything, "loss_tokens")
    lost = trained(everything) - trained(found)
    assert lost == sum_of(found, "lost_loss_tokens") > 0
    long = {"documents": 0, "chats": 0}
    whole = load(tokenizer, paths, tmp_path, length=1024, mixture="weights")
    for name, packing in whole.packings.items():
        long[name] = int((packing._size > 64).sum())
    fate = {"split": "split", "cut": "cut", "drop": "dropped"}
    assert found.accounts["documents"][fate[too_long]] == long["documents"]
    assert found.accounts["chats"][fate[long_chats]] == long["chats"] >= 10
    for name, policy in (("documents", too_long), ("chats", long_chats)):
        (note,) = [note for note in found.notes if note.startswith(f"data.{name}: {long[name]} ")]
        assert fate[policy] in note and str(found.accounts[name]["lost_loss_tokens"]) in note
    assert not everything.notes


def test_a_chat_is_never_split(tokenizer, paths, tmp_path):
    """By default a chat longer than a row is an error before anything is trained."""
    with pytest.raises(UserError) as error:
        load(tokenizer, paths, tmp_path)
    message = str(error.value)
    assert "data.chats: 20 of 30 chats are longer than a row of 64 tokens" in message
    assert all(
        word in message for word in ("sequence_length", "'drop'", "'cut'", "the longest has")
    )
    data = load(tokenizer, paths, tmp_path, long_chats="drop", names=["chats"])
    header = tokenizer.control("<|user|>")
    rows = np.concatenate([data.rows(step)["tokens"] for step in range(data.steps)])
    segments = np.concatenate([data.rows(step)["segment_ids"] for step in range(data.steps)])
    each = zip(rows, segments, strict=True)
    found = [row[part == number] for row, part in each for number in set(part) - {0}]
    assert len(found) == 10 and all(chat[0] == header for chat in found)


def test_completions_of_prompts_are_not_split_either(tokenizer, tmp_path):
    row = {"prompt": " ".join(WORDS * 3), "completion": " a fox."}
    (tmp_path / "x.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(UserError, match="1 of 1 chats are longer"):
        load(tokenizer, {"x": str(tmp_path / "x.jsonl")}, tmp_path / "c", length=16)


def test_steps_are_those_that_the_epochs_give(tokenizer, paths, tmp_path):
    data = load(tokenizer, paths, tmp_path, names=["documents"], epochs=2.5)
    assert data.stage_steps(0) == data.stage_steps(data.steps) == data.steps
    assert data.stage_steps(3) == 3
    for step in range(data.steps):
        assert data.rows(step)["loss_weights"].any()
    assert not data.rows(data.steps)["loss_weights"].any()
    with pytest.raises(UserError, match=rf"steps={data.steps + 1}: .* {data.steps} steps only"):
        data.stage_steps(data.steps + 1)
    endless = load(tokenizer, paths, tmp_path, names=["documents"], mixture="weights")
    assert endless.stage_steps(10_000) == 10_000
    with pytest.raises(UserError, match="has no end: set steps"):
        endless.stage_steps(0)


NOTHING = {
    "epochs of no row": ({"epochs": 1e-3}, "make not one row: raise epochs"),
    "rows of one token": ({"length": 1}, "no row of 1 tokens has a token with loss"),
    "fewer tokens than any document": ({"take_tokens": 1}, r"take_tokens=1: the first .* has \d+"),
    "all dropped": ({"too_long": "drop", "length": 2}, "no row of 2 tokens"),
    "a tag as long as a row": (
        {"tag": " ".join(WORDS * 9), "too_long": "cut"}, "no row of 64 tokens has a token",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", NOTHING)
def test_a_stage_that_would_learn_nothing_is_refused(tokenizer, paths, tmp_path, kind):
    options, message = NOTHING[kind]
    for mixture in ("epochs",) if "epochs" in options else ("epochs", "weights"):
        with pytest.raises(UserError, match=message):
            load(tokenizer, paths, tmp_path, names=["documents"], mixture=mixture, **options)


def test_a_step_of_rows_without_a_learned_token_is_refused(tokenizer, tmp_path):
    """Documents whose length is one more than a row's leave a row of one token each."""
    text = "a fox."
    length = len(tokenizer.encode(text))
    (tmp_path / "x.jsonl").write_text((json.dumps({"text": text}) + "\n") * 6)
    paths = {"x": str(tmp_path / "x.jsonl")}
    data = load(tokenizer, paths, tmp_path / "c", length=length, rows=1, rows_="documents")
    assert data.accounts["all"]["empty_rows"] == 6
    assert "6 of 12 rows have no token with loss" in data.notes[-1]
    with pytest.raises(UserError, match=r"step \d: none of its 1 rows has a token with loss"):
        data.stage_steps(0)
    whole = load(tokenizer, paths, tmp_path / "c", length=length, rows=12, rows_="documents")
    assert whole.stage_steps(0) == 1


def test_changed_data_changes_what_a_run_compares(tokenizer, tmp_path):
    path = tmp_path / "x.jsonl"
    found = []
    for text in ("a fox.", "a dog.", "a fox."):
        path.write_text(json.dumps({"text": text}) + "\n")
        found.append(load(tokenizer, {"x": str(path)}, tmp_path / "c").contents)
    assert found[0] == found[2] != found[1]
