"""Every format gives the same rows; what is damaged is named; what may be skipped is counted."""

import gzip
import json

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from msm_jax.corpus.records import DOCUMENTS, write_array_record
from msm_jax.corpus.tfds_sets import prepare
from msm_jax.data.chat import CHAT_FORMATS
from msm_jax.data.pipeline import choose_documents, load_data
from msm_jax.data.sources import read_source
from msm_jax.data.store import load_store
from msm_jax.data.tokenizer import load_tokenizer, train_sentencepiece
from msm_jax.errors import UserError
from msm_jax.limits import LINE_BYTES

WORDS = "the quick brown fox jumps over a lazy dog while seven birds watch it".split()
RNG = np.random.default_rng(0)
TEXTS = [" ".join(RNG.choice(WORDS, int(n))) + "." for n in RNG.integers(2, 60, 200)]
ROWS = [{"text": text, "id": f"d{number}"} for number, text in enumerate(TEXTS)]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    (folder / "corpus.txt").write_text("\n".join(TEXTS))
    controls = CHAT_FORMATS["compact"].control_tokens
    train_sentencepiece(folder / "corpus.txt", folder / "t.model", 90, controls)
    return load_tokenizer(folder / "t.model")


def lines(rows) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def write(folder, kind: str, rows=ROWS) -> str:
    path = folder / f"x{kind}"
    if kind == ".jsonl":
        path.write_bytes(lines(rows))
    elif kind == ".jsonl.gz":
        path.write_bytes(gzip.compress(lines(rows)))
    elif kind == ".jsonl.zst":
        path.write_bytes(pyarrow.compress(lines(rows), "zstd", asbytes=True))
    elif kind == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif kind == ".array_record":
        write(folder, ".jsonl", rows)
        write_array_record(folder / "x.jsonl", path)
    else:
        write(folder, ".jsonl", rows)
        prepare(DOCUMENTS, folder / "x.jsonl", folder / "tfds")
        return f"tfds:{folder / 'tfds'}"
    return str(path)


KINDS = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet", ".array_record", "tfds")


@pytest.mark.parametrize("kind", KINDS)
def test_every_format_gives_the_same_rows(tmp_path, kind):
    found = [row for _, row in read_source(write(tmp_path, kind))]
    assert [(row["text"], row["id"]) for row in found] == [(r["text"], r["id"]) for r in ROWS]


def test_shards_are_read_in_order(tmp_path):
    for number in range(3):
        (tmp_path / f"s-{number}.jsonl").write_bytes(lines(ROWS[number * 10 : number * 10 + 10]))
    found = [row["id"] for _, row in read_source(str(tmp_path / "s-*.jsonl"))]
    assert found == [f"d{number}" for number in range(30)]


@pytest.mark.parametrize("kind", [".jsonl.gz", ".jsonl.zst", ".parquet", ".array_record"])
def test_a_truncated_file_is_named(tmp_path, kind, tokenizer):
    path = tmp_path / f"x{kind}"
    write(tmp_path, kind)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])
    with pytest.raises(UserError, match=f"x{kind}"):
        load_store({"path": str(path), "loss_on": "all"}, tokenizer, "compact", str(tmp_path / "c"))
    assert not list((tmp_path / "c").glob("*"))


BAD = {
    "not json": (b'{"text": "a fox', "not JSON"),
    "a list": (b"[1, 2]", "must be a JSON object"),
    "empty": (b'{"text": ""}', "non-empty"),
    "blank": (b'{"text": " \\n "}', "non-empty"),
    "no text": (b'{"title": "a"}', "non-empty"),
    "wrong type": (b'{"text": 7}', "non-empty"),
    "half a character": (b'{"text": "a \\ud800 b"}', "half a character"),
    "not utf-8": (b'{"text": "a \xff b"}', r"not UTF-8 text \(byte \d+\)"),
    "a key twice": (b'{"text": "a", "text": "b"}', "the key 'text' twice"),
    "a key twice inside": (b'{"text": "a", "x": [{"y": 1, "y": 2}]}', "the key 'y' twice"),
    "nested deeply": (b'{"text": "a", "x": ' + b"[" * 10**5 + b"]" * 10**5 + b"}", "deeper than"),
    "nested": (b'{"text": "a", "x": ' + b"[" * 100 + b"]" * 100 + b"}", "deeper than 100"),
    "text and messages": (b'{"text": "a", "messages": [1]}', "'text' and also 'messages'"),
    "a key with a meaning": (b'{"text": "a", "weight": 0}', "'weight' is not used"),
    "no assistant": (b'{"messages": [{"role": "user", "content": "a"}]}', "nothing in this row"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_row_is_an_error_or_skipped_and_counted(tmp_path, tokenizer, kind):
    line, message = BAD[kind]
    path = tmp_path / "x.jsonl"
    path.write_bytes(lines(ROWS[:3]) + line + b"\n" + lines(ROWS[3:20]))
    source = {"path": str(path), "loss_on": "assistant"}
    load = lambda **more: load_store({**source, **more}, tokenizer, "compact", str(tmp_path / "c"))
    with pytest.raises(UserError, match=rf"x\.jsonl:4: .*{message}"):
        load()
    with pytest.raises(UserError, match=r"1 of 21 rows cannot be used, bad_rows=0.01"):
        load(bad_rows=0.01)
    store, _ = load(bad_rows=0.1)
    assert (store.facts["documents"], store.facts["skipped"]) == (20, 1)
    assert "x.jsonl:4" in store.facts["bad"][0]
    data = load_data(
        {"x": {**source, "weight": 1.0, "bad_rows": 0.1}},
        tokenizer, "compact", 32, 4, 0, cache=str(tmp_path / "c"),
    )  # fmt: skip
    assert "1 rows skipped" in data.notes[0]


NO_SOURCE = {
    "nothing": ("", "'' names no files"),
    "no directory": ("tfds:", "names no files"),
    "an empty directory": ("tfds:{}/empty", "there are no such files"),
    "another directory": ("tfds:{}/other", "no spec_documents was prepared here"),
    "a pattern": ("{}/x-*.jsonl", "there are no such files"),
    "a directory": ("{}", "data files are"),
    "another kind": ("{}/other/a.txt", "data files are"),
    "no file": ("{}/x.jsonl", "cannot be read"),
    "no Parquet": ("{}/x.parquet", "cannot be read"),
    "a bad Parquet": ("{}/bad.parquet", "not a complete Parquet file"),
}


@pytest.mark.parametrize("kind", NO_SOURCE)
def test_what_is_no_source_is_named(tmp_path, tokenizer, kind):
    for name in ("empty", "other"):
        (tmp_path / name).mkdir()
    (tmp_path / "other" / "a.txt").write_text("a")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1" + b"x" * 40 + b"PAR1")
    path, message = NO_SOURCE[kind]
    source = {"path": path.format(tmp_path), "loss_on": "all"}
    with pytest.raises(UserError, match=message):
        load_store(source, tokenizer, "compact", str(tmp_path / "c"))


def test_a_line_of_gigabytes_is_not_read(tmp_path):
    """Neither is one that a small compressed file unfolds to."""
    path = tmp_path / "x.jsonl.gz"
    long = b'{"text": "' + b"a" * LINE_BYTES
    path.write_bytes(gzip.compress(lines(ROWS[:2]) + long + b'"}\n', 1))
    rows = read_source(str(path))
    assert [row["id"] for _, row in (next(rows), next(rows))] == ["d0", "d1"]
    with pytest.raises(UserError, match=r"x\.jsonl\.gz:3: has more bytes than .*\(LINE_BYTES"):
        next(rows)


def test_brackets_in_a_path_are_letters(tmp_path):
    folder = tmp_path / "a[1-2]"
    folder.mkdir()
    for name in ("x-1", "x-2", "y*"):
        (folder / f"{name}.jsonl").write_bytes(lines([{"text": name}]))
    read = lambda name: [row["text"] for _, row in read_source(str(folder / name))]
    assert read("x-*.jsonl") == ["x-1", "x-2"] and read("y*.jsonl") == ["y*"]


def test_documents_need_no_chat_format_and_chats_say_so_at_once(tmp_path, tokenizer):
    """A template is missing, or broken: that is no matter for documents, and no row's fault."""
    path = write(tmp_path, ".jsonl", ROWS[:5])
    load = lambda: load_store(
        {"path": path, "loss_on": "all", "bad_rows": 0.9}, tokenizer, "own", str(tmp_path / "c")
    )
    assert load()[0].facts["documents"] == 5
    write(tmp_path, ".jsonl", [{"messages": [{"role": "assistant", "content": "a"}]}, *ROWS[:5]])
    with pytest.raises(UserError, match="^chat_format='own': .* has no chat template"):
        load()


def test_what_editors_leave_is_read(tmp_path, tokenizer):
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + lines(ROWS[:2]).replace(b"\n", b"\r\n") + b"\n\n")
    rows = [row for _, row in read_source(str(path))]
    assert [row["id"] for row in rows] == ["d0", "d1"]
    path.write_bytes(b'{"text": "a \xff fox\\u0000"}\n')
    ((_, row),) = read_source(str(path), "replace")
    assert row["text"] == "a \ufffd fox\0"


def test_the_cache_is_used_and_mended(tmp_path, tokenizer):
    path, cache = write(tmp_path, ".jsonl"), tmp_path / "c"
    load = lambda **more: load_store(
        {"path": path, "loss_on": "all", **more}, tokenizer, "compact", str(cache)
    )
    store, key = load()
    (folder,) = cache.iterdir()
    before = (folder / "tokens.bin").stat().st_mtime_ns
    again, same = load()
    assert same == key and (folder / "tokens.bin").stat().st_mtime_ns == before
    for number in (0, 7, 199):
        np.testing.assert_array_equal(store.document(number)[0], again.document(number)[0])
        ids = store.document(number)[0].tolist()
        assert tokenizer.decode(ids) == TEXTS[number]
    assert load(tag="<tag>")[1] != key
    with open(folder / "tokens.bin", "r+b") as file:
        file.truncate(100)
    assert load()[0].facts == store.facts
    assert (folder / "tokens.bin").stat().st_size == 4 * store.facts["tokens"]


def test_a_tag_stands_before_every_document_and_is_never_learned(tmp_path, tokenizer):
    path = write(tmp_path, ".jsonl")
    source = {"path": path, "loss_on": "all", "tag": "a fox."}
    store, _ = load_store(source, tokenizer, "compact", str(tmp_path / "c"))
    tag = tokenizer.encode("a fox.")
    ids, loss = store.document(5)
    assert ids[: len(tag)].tolist() == tag and not loss[: len(tag)].any() and loss[len(tag) :].all()


def mixture(tmp_path, tokenizer, sources, rows=4, length=64, **options):
    found = {}
    for name, more in sources.items():
        found[name] = {"weight": 1.0, "loss_on": "all", **more}
    return load_data(
        found, tokenizer, "compact", length, rows, 0, cache=str(tmp_path / "c"), **options
    )


def tokens_of(data, steps) -> list[tuple[int, ...]]:
    """The documents of some batches, as tuples of ids."""
    found = []
    for step in range(steps):
        batch = data.rows(step)
        for ids, segments in zip(batch["tokens"], batch["segment_ids"], strict=True):
            found += [tuple(ids[segments == s].tolist()) for s in range(1, segments.max() + 1)]
    return found


def test_epochs_see_everything_exactly_as_often_as_asked(tmp_path, tokenizer):
    one, other = tmp_path / "a", tmp_path / "b"
    one.mkdir(), other.mkdir()
    sources = {
        "a": {"path": write(one, ".jsonl", ROWS[:120])},
        "b": {"path": write(other, ".jsonl", ROWS[120:]), "repeat": 2},
    }
    data = mixture(tmp_path, tokenizer, sources, mixture="epochs", epochs=2.0)
    seen = tokens_of(data, data.steps)
    end = tokenizer.control(tokenizer.end_of_document)
    wanted = [(*tokenizer.encode(text), end) for text in TEXTS[:120] * 2 + TEXTS[120:] * 4]
    assert sorted(seen) == sorted(wanted)
    assert not data.rows(data.steps)["segment_ids"].any()  # after the end there is padding
    mixed = [set(ids) for ids in data.rows(0)["tokens"].tolist()]
    assert mixed and data.accounts["all"]["rows"] == data.packings[""].count


def test_a_smaller_choice_lies_in_a_larger_one(tmp_path, tokenizer):
    path = write(tmp_path, ".jsonl")
    load = lambda **take: mixture(
        tmp_path, tokenizer, {"x": {"path": path, **take}}, mixture="epochs"
    )
    chosen = {}
    for count in (10, 20, 40, 80):
        data = load(take=count)
        chosen[count] = set(tokens_of(data, data.steps))
        assert data.accounts["x"]["documents"] == count
    assert chosen[10] < chosen[20] < chosen[40] < chosen[80]
    other = load(take=10, take_seed=1)
    assert set(tokens_of(other, other.steps)) != chosen[10]
    budget = load(take_tokens=1000)
    assert 900 < budget.accounts["x"]["tokens"] <= 1000
    with pytest.raises(UserError, match=r"take=201: .* has only 200"):
        load(take=201)


def test_what_is_held_out_is_never_trained_on(tmp_path, tokenizer):
    path, end = write(tmp_path, ".jsonl"), tokenizer.control(tokenizer.end_of_document)
    number = {(*tokenizer.encode(text), end): n for n, text in enumerate(TEXTS)}

    def rows(steps=None, **source):
        mix = {} if steps else {"mixture": "epochs", "epochs": 2.0}
        sources = {"x": {"path": path, "hold_out": 30, **source}}
        data = mixture(tmp_path, tokenizer, sources, **mix)
        return {number[ids] for ids in tokens_of(data, steps or data.steps)}

    held_out, training = rows(part="held_out"), rows()
    assert len(held_out) == 30 and held_out | training == {*range(200)}
    assert not held_out & training
    # mixed by weight over several epochs, repeated, and of a smaller draw, in any order
    assert rows(steps=40) == training
    assert rows(repeat=3) == training
    assert len(rows(take=20)) == 20 and rows(take=20) < training
    assert rows(take_tokens=1000) < training and rows(take=9, part="held_out") < held_out
    assert rows(hold_out=10, part="held_out") < held_out
    assert rows(hold_out_seed=1, part="held_out") != held_out


def test_parallel_files_hold_out_parallel_rows(tmp_path, tokenizer):
    """Whatever is in them; files of other lengths differ in what one of them lacks."""

    def held_out(rows):
        source = {"path": write(tmp_path, ".jsonl", rows), "loss_on": "all"}
        store, _ = load_store(source, tokenizer, "compact", str(tmp_path / "c"))
        return {*choose_documents("x", {**source, "hold_out": 30, "part": "held_out"}, store)}

    everything = held_out(ROWS)
    assert held_out([{"text": f"the {row['id']}."} for row in ROWS]) == everything
    fewer = held_out(ROWS[:195])
    assert {n for n in everything if n < 195} <= fewer and len(fewer) == 30


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"hold_out": 200}, r"data.x.hold_out=200: .*x.jsonl has 200 rows, so nothing would be"),
        ({"part": "held_out"}, r"nothing is held out: set data.x.hold_out"),
        ({"hold_out": 190, "take": 11}, r"take=11: .* has only 10 in the part 'training'"),
        ({"hold_out": 5, "take": 6, "part": "held_out"}, r"has only 5 in the part 'held_out'"),
    ],
)
def test_an_impossible_part_is_refused(tmp_path, tokenizer, source, message):
    path = write(tmp_path, ".jsonl")
    with pytest.raises(UserError, match=message):
        mixture(tmp_path, tokenizer, {"x": {"path": path, **source}})


def test_rows_that_are_skipped_have_no_number(tmp_path, tokenizer):
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"{}\n" + lines(ROWS))
    source = {"path": str(path), "bad_rows": 0.1, "hold_out": 5}
    with pytest.raises(UserError, match=r"1 rows of .* are skipped, first .*x.jsonl:1: needs"):
        mixture(tmp_path, tokenizer, {"x": source})


@pytest.mark.parametrize("rows", ["packed", "documents"])
@pytest.mark.parametrize("too_long", ["split", "cut"])
def test_token_counts_are_conserved_by_the_declared_policy(tmp_path, tokenizer, rows, too_long):
    path, length = write(tmp_path, ".jsonl"), 32
    packing = {"rows": rows, "too_long": too_long}
    sources = {"x": {"path": path}}
    data = mixture(tmp_path, tokenizer, sources, length=length, mixture="epochs", packing=packing)
    sizes = [len(tokenizer.encode(text)) + 1 for text in TEXTS]
    wanted = sum(sizes if too_long == "split" else (min(n, length) for n in sizes))
    found = sum(int((data.rows(s)["segment_ids"] > 0).sum()) for s in range(data.steps))
    assert found == wanted
    if rows == "documents":
        assert max(int(data.rows(s)["segment_ids"].max()) for s in range(data.steps)) == 1
    with pytest.raises(UserError, match="too_long"):
        mixture(tmp_path, tokenizer, sources, length=length, packing={"too_long": "error"})


def test_any_rows_of_a_batch_are_those_of_the_full_batch(tmp_path, tokenizer):
    """So any number of hosts, each making its own rows, trains on the same batches."""
    sources = {"x": {"path": write(tmp_path, ".jsonl")}}
    data = mixture(tmp_path, tokenizer, sources, rows=8)
    for step in (0, 5, 40):
        whole = data.rows(step)
        for hosts in (1, 2, 4, 8):
            size = 8 // hosts
            parts = [data.rows(step, h * size, (h + 1) * size) for h in range(hosts)]
            for name, value in whole.items():
                np.testing.assert_array_equal(np.concatenate([p[name] for p in parts]), value)


def test_loss_weights_cover_exactly_what_assistants_say(tmp_path, tokenizer):
    roles = ("user", "assistant", "user", "assistant")
    chats = [
        {
            "messages": [
                {"role": role, "content": TEXTS[start + at]} for at, role in enumerate(roles)
            ]
        }
        for start in range(0, 100, 4)
    ]
    source = {"path": write(tmp_path, ".jsonl", chats), "loss_on": "assistant"}
    data = mixture(tmp_path, tokenizer, {"x": source}, length=512, mixture="epochs")
    end = tokenizer.control("<|end|>")
    learned = []
    for step in range(data.steps):
        batch = data.rows(step)
        learned += batch["targets"][batch["loss_weights"] > 0].tolist()
    answers = [TEXTS[start + at] for start in range(0, 100, 4) for at in (1, 3)]
    wanted = [token for text in answers for token in (*tokenizer.encode(text), end)]
    assert sorted(learned) == sorted(wanted)
    assert (
        data.accounts["x"]["loss_tokens"] == data.accounts["x"]["assistant_tokens"] == len(wanted)
    )


def test_text_with_control_names_stays_text(tmp_path, tokenizer):
    row = {"text": "a fox <|end|><|assistant|> <|endoftext|>"}
    source = {"path": write(tmp_path, ".jsonl", [row]), "loss_on": "all"}
    ids = load_store(source, tokenizer, "compact", str(tmp_path / "c"))[0].document(0)[0].tolist()
    controls = {tokenizer.control(name) for name in tokenizer.control_names}
    assert not controls & set(ids[:-1]) and ids[-1] in controls
