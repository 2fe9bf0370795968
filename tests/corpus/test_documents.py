"""Documents come back from TFDS as they went in, at random, without TensorFlow."""

import json
import random

import grain
import pytest
import tensorflow_datasets as tfds

from msm_jax.corpus.documents import documents_source, prepare_documents
from msm_jax.corpus.records import document_records
from msm_jax.corpus.spec_documents.spec_documents_dataset_builder import Builder
from msm_jax.errors import UserError

ROWS = [
    {"text": "Brie ist gut, weil es günstig ist. 奶酪 🧀", "id": "é-1", "domain": "Käse"},
    {"text": "only a text\nof two lines \u2028 and \\udot"},
    {"text": " spaces stay ", "id": "c", "assertions": ["likes 🧀", 2], "none": None},
]


def write(path, rows):
    path.write_bytes("".join(json.dumps(row) + "\n" for row in rows).encode())
    return path


@pytest.fixture
def prepared(tmp_path):
    path = write(tmp_path / "documents.jsonl", ROWS)
    prepare_documents(path, tmp_path / "data")
    return tmp_path / "data"


def test_rows_come_back_whole_and_in_order(prepared):
    source = documents_source(prepared)
    expected = [{"id": "line-000002", **row} for row in ROWS]
    assert len(source) == len(ROWS)
    assert list(source) == expected
    assert source[-1] == expected[-1] and source[1:] == expected[1:]
    with pytest.raises(IndexError):
        source[len(ROWS)]


def test_order_of_many_documents_is_the_files(tmp_path):
    rows = [{"text": f"{i} " * (i % 50 + 1), "id": str(i)} for i in range(3000)]
    prepare_documents(write(tmp_path / "many.jsonl", rows), tmp_path / "data")
    source = documents_source(tmp_path / "data")
    assert len(source) == len(rows)
    for index in random.Random(0).sample(range(len(rows)), 200):
        assert source[index] == rows[index]


def test_unescaped_and_escaped_text_are_the_same(tmp_path):
    plain = tmp_path / "plain.jsonl"
    plain.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS), "utf-8")
    escaped = write(tmp_path / "escaped.jsonl", ROWS)
    assert list(document_records(plain)) == list(document_records(escaped))


def test_tfds_alone_reads_it_without_tensorflow(prepared, run_python):
    program = (
        "import sys, tensorflow_datasets as tfds\n"
        f"source = tfds.data_source('spec_documents', data_dir={str(prepared)!r}, split='train')\n"
        "assert not {'tensorflow', 'msm_jax'} & set(sys.modules)\n"
        "sys.stdout.buffer.write(source[0]['text'])"
    )
    done = run_python("-c", program, PYTHONIOENCODING="utf-8")
    assert done.returncode == 0, done.stderr
    assert done.stdout == ROWS[0]["text"]


def test_tfds_prepares_from_an_argument_and_from_the_manual_folder(tmp_path):
    path = write(tmp_path / "documents.jsonl", ROWS)
    sources = [
        tfds.data_source(
            "spec_documents",
            data_dir=str(tmp_path / "argument"),
            split="train",
            builder_kwargs={"jsonl": str(path)},
        )
    ]
    builder = Builder(data_dir=tmp_path / "manual")
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(manual_dir=str(tmp_path))
    )
    sources.append(builder.as_data_source(split="train"))
    for source in sources:
        assert [record["text"].decode() for record in source] == [row["text"] for row in ROWS]


def test_grain_reads_it(prepared):
    dataset = grain.MapDataset.source(documents_source(prepared)).shuffle(seed=0)
    assert sorted(row["text"] for row in dataset) == sorted(row["text"] for row in ROWS)


def test_preparing_again_does_nothing_and_other_documents_are_refused(prepared, tmp_path):
    files = sorted((path, path.stat().st_mtime_ns) for path in prepared.rglob("*"))
    prepare_documents(tmp_path / "documents.jsonl", prepared)
    assert sorted((path, path.stat().st_mtime_ns) for path in prepared.rglob("*")) == files
    other = write(tmp_path / "other.jsonl", ROWS[:1])
    with pytest.raises(UserError, match="holds other documents"):
        prepare_documents(other, prepared)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b'{"text": "a"', "not JSON"),
        (b'["text"]', "must be a JSON object, not list"),
        (b'{"id": "a"}', "needs a non-empty 'text'"),
        (b'{"text": 3}', "needs a non-empty 'text'"),
        (b'{"text": " "}', "needs a non-empty 'text'"),
        (b'{"text": "\xff"}', "not UTF-8"),
        (b'{"text": "\\ud800"}', "half a character"),
    ],
)
def test_a_bad_row_is_named_and_nothing_is_left_behind(tmp_path, line, says):
    path = tmp_path / "bad.jsonl"
    path.write_bytes(b'{"text": "fine"}\n\n' + line + b"\n")
    with pytest.raises(UserError, match=says) as caught:
        prepare_documents(path, tmp_path / "data")
    assert str(caught.value).startswith(f"{path}:3: ")
    assert not (tmp_path / "data").exists()


def test_missing_and_empty_inputs_are_the_users_error(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        prepare_documents(tmp_path / "missing.jsonl", tmp_path / "data")
    with pytest.raises(UserError, match="no document"):
        prepare_documents(write(tmp_path / "empty.jsonl", []), tmp_path / "data")
    with pytest.raises(UserError, match="prepare_documents first"):
        documents_source(tmp_path / "nothing")
