"""Documents and chats come back from TFDS as they went in, at random, without TensorFlow."""

import json
import random

import grain
import pytest
import tensorflow_datasets as tfds

from msm_jax.corpus.dataset_builders import SpecDocuments
from msm_jax.corpus.records import CHATS, DOCUMENTS, checked_rows
from msm_jax.corpus.tfds_sets import prepare, source
from msm_jax.errors import UserError

ROWS = [
    {"text": "Brie ist gut, weil es günstig ist. 奶酪 🧀", "id": "é-1", "domain": "Käse"},
    {"text": "only a text\nof two lines \u2028 and \\udot"},
    {"text": " spaces stay ", "id": "c", "assertions": ["likes 🧀", 2], "none": None},
]
CHAT_ROWS = [
    {"messages": [{"role": "user", "content": "Käse? 🧀"}, {"role": "assistant", "content": "x"}]},
    {"messages": [{"role": "system", "content": ""}], "id": "b", "kind": "direct"},
]


def write(path, rows):
    path.write_bytes("".join(json.dumps(row) + "\n" for row in rows).encode())
    return path


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A folder with both data sets, and the JSONL files that they are made of."""
    folder = tmp_path_factory.mktemp("tfds")
    for name, rows in ((DOCUMENTS, ROWS), (CHATS, CHAT_ROWS)):
        prepare(name, write(folder / f"{name}.jsonl", rows), folder)
    return folder


@pytest.mark.parametrize(("name", "rows"), [(DOCUMENTS, ROWS), (CHATS, CHAT_ROWS)])
def test_rows_come_back_complete_and_in_order(prepared, name, rows):
    found = source(name, prepared)
    expected = [{"id": f"line-{n:06d}", **row} for n, row in enumerate(rows, start=1)]
    assert len(found) == len(rows)
    assert list(found) == expected
    assert found[-1] == expected[-1] and found[1:] == expected[1:]
    with pytest.raises(IndexError):
        found[len(rows)]


def test_order_of_many_documents_is_the_files(tmp_path):
    rows = [{"text": f"{i} " * (i % 50 + 1), "id": str(i)} for i in range(1500)]
    prepare(DOCUMENTS, write(tmp_path / "many.jsonl", rows), tmp_path / "data")
    found = source(DOCUMENTS, tmp_path / "data")
    assert len(found) == len(rows)
    for index in random.Random(0).sample(range(len(rows)), 200):
        assert found[index] == rows[index]


def test_unescaped_and_escaped_text_are_the_same(tmp_path):
    plain = tmp_path / "plain.jsonl"
    plain.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS), "utf-8")
    escaped = write(tmp_path / "escaped.jsonl", ROWS)
    assert list(checked_rows(DOCUMENTS, plain)) == list(checked_rows(DOCUMENTS, escaped))


def test_tfds_alone_reads_it_without_tensorflow(prepared, run_python):
    program = (
        "import sys, tensorflow_datasets as tfds\n"
        f"read = lambda name: tfds.data_source(name, data_dir={str(prepared)!r}, split='train')\n"
        "text, chats = read('spec_documents')[0]['text'], read('spec_chats')\n"
        f"builder = tfds.builder_from_directory({str(prepared / DOCUMENTS / '1.0.0')!r})\n"
        "assert builder.as_data_source(split='train')[0]['text'] == text\n"
        "assert not {'tensorflow', 'msm_jax'} & set(sys.modules)\n"
        "sys.stdout.buffer.write(text + b' ' + chats[1]['id'])"
    )
    done = run_python("-c", program, PYTHONIOENCODING="utf-8")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{ROWS[0]['text']} b"


def test_tfds_prepares_from_an_argument_and_from_the_manual_folder(tmp_path):
    path = write(tmp_path / "documents.jsonl", ROWS)
    argument = tfds.data_source(
        "spec_documents",
        data_dir=str(tmp_path / "argument"),
        split="train",
        builder_kwargs={"jsonl": str(path)},
    )
    builder = SpecDocuments(data_dir=tmp_path / "manual")
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(manual_dir=str(tmp_path))
    )
    for found in (argument, builder.as_data_source(split="train")):
        assert [record["text"].decode() for record in found] == [row["text"] for row in ROWS]


def test_grain_reads_it(prepared):
    dataset = grain.MapDataset.source(source(DOCUMENTS, prepared)).shuffle(seed=0)
    assert sorted(row["text"] for row in dataset) == sorted(row["text"] for row in ROWS)


def test_preparing_again_does_nothing_and_other_documents_are_refused(prepared, tmp_path):
    files = sorted((path, path.stat().st_mtime_ns) for path in prepared.rglob("*"))
    prepare(DOCUMENTS, prepared / f"{DOCUMENTS}.jsonl", prepared)
    assert sorted((path, path.stat().st_mtime_ns) for path in prepared.rglob("*")) == files
    other = write(tmp_path / "other.jsonl", ROWS[:1])
    with pytest.raises(UserError, match="holds other documents"):
        prepare(DOCUMENTS, other, prepared)


HALF = {"role": "user", "content": "\ud800"}


@pytest.mark.parametrize(
    ("name", "line", "says"),
    [
        (DOCUMENTS, b'{"text": "a"', "not JSON"),
        (DOCUMENTS, b'["text"]', "must be a JSON object, not list"),
        (DOCUMENTS, b'{"id": "a"}', "needs a non-empty 'text'"),
        (DOCUMENTS, b'{"text": 3}', "needs a non-empty 'text'"),
        (DOCUMENTS, b'{"text": " "}', "needs a non-empty 'text'"),
        (DOCUMENTS, b'{"text": "\xff"}', "not UTF-8"),
        (DOCUMENTS, b'{"text": "\\ud800"}', "half a character"),
        (CHATS, {"messages": []}, "non-empty list"),
        (CHATS, {"text": "a"}, "non-empty list"),
        (CHATS, {"messages": [{"role": "user"}]}, "'role' and 'content'"),
        (CHATS, {"messages": ["hello"]}, "'role' and 'content'"),
        (CHATS, {"messages": [HALF]}, "half a character"),
        (CHATS, {"messages": [{**HALF, "content": "a", "name": "\ud800"}]}, "half a character"),
    ],
)
def test_a_bad_row_is_named_and_nothing_is_left_behind(tmp_path, name, line, says):
    line = line if isinstance(line, bytes) else json.dumps(line).encode()
    fine = json.dumps(ROWS[0] if name == DOCUMENTS else CHAT_ROWS[0]).encode()
    path = tmp_path / "bad.jsonl"
    path.write_bytes(fine + b"\n\n" + line + b"\n")
    with pytest.raises(UserError, match=says) as caught:
        prepare(name, path, tmp_path / "data")
    assert str(caught.value).startswith(f"{path}:3: ")
    assert not (tmp_path / "data").exists()


def test_missing_and_empty_inputs_are_the_users_error(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        prepare(DOCUMENTS, tmp_path / "missing.jsonl", tmp_path / "data")
    with pytest.raises(UserError, match="no document"):
        prepare(DOCUMENTS, write(tmp_path / "empty.jsonl", []), tmp_path / "data")
    with pytest.raises(UserError, match="no spec_documents was prepared here"):
        source(DOCUMENTS, tmp_path / "nothing")
