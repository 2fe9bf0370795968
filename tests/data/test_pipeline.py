"""Packing conserves tokens, documents stay apart, and a batch is a function of (seed, step)."""

import json

import numpy as np
import pytest

from msm_jax.data.chat import CHAT_FORMATS, render_chat
from msm_jax.data.packing import pack, split_lengths
from msm_jax.data.pipeline import load_data, pack_rows, read_rows
from msm_jax.data.tokenizer import END_OF_DOCUMENT, load_tokenizer, train_sentencepiece
from msm_jax.errors import UserError

COMPACT = CHAT_FORMATS["compact"]
WORDS = (
    "the quick brown fox jumps over a lazy dog while seven small birds watch it from far".split()
)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    rng = np.random.default_rng(0)
    lines = [" ".join(rng.choice(WORDS, 8)) + "." for _ in range(400)]
    (folder / "corpus.txt").write_text("\n".join(lines))
    train_sentencepiece(folder / "corpus.txt", folder / "t.model", 90, COMPACT.control_tokens)
    return load_tokenizer(folder / "t.model")


@pytest.fixture
def corpora(tmp_path):
    rng = np.random.default_rng(1)
    sentence = lambda: " ".join(rng.choice(WORDS, int(rng.integers(2, 12)))) + "."
    documents = [{"text": sentence()} for _ in range(300)]
    chats = [
        {
            "messages": [
                {"role": "user", "content": sentence()},
                {"role": "assistant", "content": sentence()},
            ]
        }
        for _ in range(100)
    ]
    config = {}
    for name, rows in (("documents", documents), ("chats", chats)):
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        loss_on = "assistant" if name == "chats" else "all"
        config[name] = {"path": str(path), "weight": 1.0, "loss_on": loss_on}
    return config


def test_control_tokens_in_text_are_text(tokenizer):
    controls = {tokenizer.control(name) for name in (*COMPACT.control_tokens, END_OF_DOCUMENT)}
    text = "the fox <|end|> <|assistant|> " + END_OF_DOCUMENT
    assert not controls & set(tokenizer.encode(text))
    with pytest.raises(UserError, match="no control token"):
        tokenizer.control("<|nobody|>")


def test_loss_covers_the_assistants_content_and_end_only(tokenizer):
    messages = [
        {"role": "system", "content": "the lazy dog."},
        {"role": "user", "content": "a fox."},
        {"role": "assistant", "content": "seven birds."},
        {"role": "user", "content": "far."},
        {"role": "assistant", "content": "it jumps."},
    ]
    ids, loss = render_chat(tokenizer, COMPACT, messages)
    learned = [token for token, weight in zip(ids, loss, strict=True) if weight]
    end = tokenizer.control("<|end|>")
    assert learned == [
        *tokenizer.encode("seven birds."), end, *tokenizer.encode("it jumps."), end
    ]  # fmt: skip
    prompt, mask = render_chat(tokenizer, COMPACT, messages[:2], generation_prompt=True)
    assert ids[: len(prompt)] == prompt and not any(mask)


@pytest.mark.parametrize("row_length", [16, 50])
def test_packing_places_every_piece_once_and_fits(row_length):
    lengths = np.random.default_rng(2).integers(1, 120, 500)
    pieces = split_lengths(lengths, row_length)
    assert sum(stop - start for _, start, stop in pieces) == lengths.sum()
    sizes = [stop - start for _, start, stop in pieces]
    rows = pack(sizes, row_length, seed=0)
    assert sorted(piece for row in rows for piece in row) == list(range(len(pieces)))
    assert all(sum(sizes[piece] for piece in row) <= row_length for row in rows)
    assert sum(sizes) / (len(rows) * row_length) > 0.95


def test_a_row_has_no_more_documents_than_allowed(tokenizer, corpora):
    sizes = np.random.default_rng(3).integers(1, 4, 1000)
    for most, row_length, bound in ((7, 512, 7), (0, 512, 64), (0, 4096, 128)):
        rows = pack(sizes, row_length, 0, most)
        assert sorted(piece for row in rows for piece in row) == list(range(1000))
        assert max(map(len, rows)) == bound
    count = lambda **packing: (
        load_data(corpora, tokenizer, "compact", 64, 4, seed=3, packing=packing).documents
    )
    assert count(documents_per_row=2) == 2 < count()
    assert count(rows="documents") == 1


def test_targets_never_cross_documents():
    examples = [(np.arange(1, n + 1, dtype=np.int32), np.ones(n, np.uint8)) for n in (5, 3, 2)]
    batch = pack_rows(examples, 10)
    np.testing.assert_array_equal(batch["tokens"][0], [1, 2, 3, 4, 5, 1, 2, 3, 1, 2])
    np.testing.assert_array_equal(batch["targets"][0], [2, 3, 4, 5, 0, 2, 3, 0, 2, 0])
    np.testing.assert_array_equal(batch["loss_weights"][0], [1, 1, 1, 1, 0, 1, 1, 0, 1, 0])
    np.testing.assert_array_equal(batch["positions"][0], [0, 1, 2, 3, 4, 0, 1, 2, 0, 1])
    np.testing.assert_array_equal(batch["segment_ids"][0], [1, 1, 1, 1, 1, 2, 2, 2, 3, 3])


def test_every_loss_token_of_an_epoch_is_learned_once(tokenizer, corpora):
    data = load_data(corpora, tokenizer, "compact", 32, 4, seed=3)
    for name, packing in data.packings.items():
        batch = read_rows([(packing, row) for row in range(packing.count)], 32)
        assert batch["loss_weights"].sum() == data.accounts[name]["loss_tokens"]


def test_a_batch_is_a_function_of_seed_and_step(tokenizer, corpora):
    load = lambda seed: load_data(corpora, tokenizer, "compact", 32, 4, seed)
    first, again, other = load(7), load(7), load(8)
    for step in (11, 3, 60):  # in any order, beyond an epoch too
        for key, value in first.rows(step).items():
            np.testing.assert_array_equal(value, again.rows(step)[key])
    assert first.contents == again.contents == other.contents
    assert any((first.rows(s)["tokens"] != other.rows(s)["tokens"]).any() for s in range(3))


def test_every_epoch_has_each_row_once_in_an_order_of_its_own(tokenizer, corpora):
    data = load_data({"chats": corpora["chats"]}, tokenizer, "compact", 32, 1, seed=0)
    rows = data.packings["chats"].count
    read = lambda first: [
        data.rows(step)["tokens"].tobytes() for step in range(first, first + rows)
    ]
    epochs = [read(0), read(rows), read(7 * rows)]
    read_all = read_rows([(data.packings["chats"], row) for row in range(rows)], 32)
    packed = sorted(row.tobytes() for row in read_all["tokens"])
    assert all(sorted(epoch) == packed for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]


def test_weights_are_shares_of_rows(tokenizer, corpora):
    corpora["chats"]["weight"] = 3.0
    data = load_data(corpora, tokenizer, "compact", 32, 8, seed=0)
    header = tokenizer.control("<|user|>")
    rows = np.concatenate([data.rows(step)["tokens"] for step in range(50)])
    chats = np.mean((rows == header).any(axis=1))
    assert chats == pytest.approx(0.75, abs=0.01)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{broken", r"x\.jsonl:2: not JSON"),
        ('{"id": 3}', r"x\.jsonl:2: needs a non-empty 'text' or 'messages'"),
        ('{"messages": [{"role": "user", "content": "a"}]}', r"x\.jsonl:2: nothing in this row"),
        ('{"messages": [{"role": "cat", "content": "a"}]}', r"x\.jsonl:2: message 0"),
    ],
)
def test_a_bad_row_is_named(tokenizer, tmp_path, line, message):
    (tmp_path / "x.jsonl").write_text('{"text": "a fox."}\n' + line + "\n")
    source = {"path": str(tmp_path / "x.jsonl"), "weight": 1.0, "loss_on": "assistant"}
    with pytest.raises(UserError, match=message):
        load_data({"x": source}, tokenizer, "compact", 32, 4, seed=0)
