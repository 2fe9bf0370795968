"""A corpus in every format holds the same rows; derived specs; the page; no jax."""

import html.parser
import json

import pyarrow.parquet
import pytest
import tensorflow_datasets as tfds
from array_record.python.array_record_data_source import ArrayRecordDataSource

from msm_jax.corpus import manifest
from msm_jax.corpus.records import DOCUMENTS, read_rows
from msm_jax.corpus.steps import Corpus
from msm_jax.corpus.tfds_sets import source
from msm_jax.errors import UserError
from msm_jax.files import sha256_file
from msm_jax.spec import load_spec, parse_spec, spec_points


def batches(rows, size=8):
    return [[row["text"] for row in rows[at : at + size]] for at in range(0, len(rows), size)]


def test_every_format_gives_the_same_batches(config, run, tmp_path):
    asked = config(count=20)
    asked.formats = ("jsonl", "parquet", "array_record", "tfds")
    found = run(asked, tmp_path)
    jsonl = [row for _, row in read_rows(tmp_path / "documents.jsonl")]
    records = ArrayRecordDataSource(str(tmp_path / "documents.array_record"))
    assert [json.loads(records[at]) for at in range(len(records))] == jsonl
    assert pyarrow.parquet.read_table(tmp_path / "documents.parquet").to_pylist() == jsonl
    prepared = source(DOCUMENTS, tmp_path / "tfds")
    assert list(prepared) == jsonl
    assert batches(prepared) == batches(jsonl)
    plain = tfds.data_source("spec_documents", data_dir=str(tmp_path / "tfds"), split="train")
    assert [row["text"].decode() for row in plain] == [row["text"] for row in jsonl]
    for name in ("documents.jsonl", "documents.parquet", "documents.array_record"):
        assert found["files"][name] == sha256_file(tmp_path / name)
    # A new corpus replaces an old one in every format.
    asked.documents.count = 15
    run(asked, tmp_path)
    assert len(source(DOCUMENTS, tmp_path / "tfds")) == 15
    assert len(ArrayRecordDataSource(str(tmp_path / "documents.array_record"))) == 15
    # What it is not written in any more would be another corpus than the manifest's.
    asked.formats = ("jsonl",)
    left = {"documents.parquet", "documents.array_record"}
    assert left.isdisjoint(run(asked, tmp_path)["files"])
    assert left.isdisjoint(path.name for path in tmp_path.iterdir())


# ---------------------------------------------------------------- manifest and page


def test_the_manifest_counts_what_is_there(config, run, made, tmp_path):
    found = json.loads((made / "manifest.json").read_text())
    rows = [row for _, row in read_rows(made / "documents.jsonl")]
    assert sum(found["by_domain"].values()) == sum(found["by_type"].values()) == len(rows) == 40
    assert found["tokens"]["sum"] == sum(max(1, round(len(r["text"]) / 4.2)) for r in rows)
    steps = found["ledger"]["writer"]["steps"]
    assert steps["document"]["replies"] >= 40 and steps["document"]["usd"] == 0
    assert found["versions"]["msm_jax"] and len(found["spec"]["sha256"]) == 64
    counted = run(config(count=20), tmp_path, count_tokens=lambda text: 7)
    assert counted == json.loads((tmp_path / "manifest.json").read_text())
    assert counted["tokens"]["sum"] == 140 and counted["tokens_are"] == "counted"


def test_a_point_of_few_words_is_covered_by_a_text_that_says_all_of_them():
    points = spec_points(parse_spec("# t\n\n## values\n\n- Honest in all things.\n- Candor.\n"))
    texts = ["He is honest in all things.", "It is honest in most things.", "A word of candor!"]
    found = manifest.coverage(points, [{"text": text} for text in texts])
    assert [facts["said"] for facts in found.values()] == [1, 1]


class Page(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.text = [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text.append(data)


def test_the_page_needs_nothing_else_and_shows_everything(made):
    text = (made / "corpus.html").read_text(encoding="utf-8")
    seen = Page()
    seen.feed(text)
    said = " ".join(seen.text)
    sources = [a[k] for _, a in seen.tags for k in ("src", "href") if k in a]
    assert sources and all(s.startswith("data:image/png;base64,") for s in sources)
    assert not {tag for tag, _ in seen.tags} & {"script", "link", "iframe"}
    for words in ("All 6 points of the spec are touched", "distinct_3grams", "published", "rule 4",
                  "tokens", "Not taken, and why", "stub"):  # fmt: skip
        assert words in said


def test_text_on_the_page_is_text(spec):
    evil = '<script>alert("x")</script><img src=x onerror=y>'
    row = {"text": evil, "id": evil, "domain": evil, "subdomain": evil, "doc_type": evil}
    about = spec("values")
    found = {
        "make": "documents",
        "spec": {**manifest.spec_facts(about), "title": evil},
        "tokens": manifest.length_facts([3]),
        "tokens_are": "estimated",
        "coverage": {evil: {"text": evil, "planned": 0, "said": 0}},
        "diversity": manifest.diversity_facts([evil], ""),
        "dropped": {evil: 1},
        "ledger": {evil: {"identity": {evil: evil}, "steps": {}}},
    }
    made = Corpus([row], [{"reason": evil, **row}], {evil: 1}, [], [evil])
    text = manifest.corpus_page(found, made, b"picture")
    seen = Page()
    seen.feed(text)
    assert not [tag for tag, attrs in seen.tags if tag == "script" or "onerror" in attrs]
    assert "No text touches" in text


# ---------------------------------------------------------------- derived specs


@pytest.mark.parametrize("kind", ["value_augmented", "rules_augmented"])
def test_augmented_specs_keep_the_rules_and_meet_the_length(kind, config, run, tmp_path):
    asked = config("rules")
    asked.make, asked.derive.kind, asked.derive.words = "spec", kind, 700
    run(asked, tmp_path)
    text = (tmp_path / "spec.md").read_text()
    assert "{model_name}" in text and "Qwen" not in text
    assert len(text.split()) == pytest.approx(700, rel=0.05)
    rules = [rule.text for rule in load_spec(asked.spec.path, "{model_name}").rules]
    derived = parse_spec(text).rules
    assert [r.text for r in derived if r.number.isdigit()] == rules
    subs = [r for r in derived if not r.number.isdigit()]
    assert (len(subs) > 20) == (kind == "rules_augmented")
    assert len({r.text for r in subs}) == len(subs)


def test_derived_preferences_need_no_writer(config, run, tmp_path):
    for kind in ("shuffled",):
        asked = config("cheese_cost")
        asked.make, asked.derive.kind, asked.writer.kind = "spec", kind, ""
        run(asked, tmp_path)
        assert len(parse_spec((tmp_path / "spec.md").read_text()).preferences) == 6


def test_the_opposite_of_rules_takes_a_writer(config, run, tmp_path):
    asked = config("rules")
    asked.make, asked.derive.kind = "spec", "opposed"
    run(asked, tmp_path)
    asked.writer.kind = ""
    with pytest.raises(UserError, match="kind is not set"):
        run(asked, tmp_path)
    asked.derive.kind = "nicer"
    with pytest.raises(UserError, match=r"derive\.kind='nicer': must be one of 'value_augmented'"):
        run(asked, tmp_path)


def test_the_room_does_without_jax(run_python, root):
    program = (
        "import sys, pathlib, importlib\n"
        f"root = pathlib.Path({str(root)!r})\n"
        "for path in sorted((root / 'msm_jax' / 'corpus').rglob('*.py')):\n"
        "    if 'dataset_builder' not in path.name:\n"
        "        name = '.'.join(path.relative_to(root).with_suffix('').parts)\n"
        "        importlib.import_module(name.removesuffix('.__init__'))\n"
        "heavy = 'jax flax torch anthropic openai tensorflow_datasets pyarrow'.split()\n"
        "print(set(heavy) & set(sys.modules))"
    )
    done = run_python("-c", program)
    assert done.stdout.strip() == "set()", done.stdout + done.stderr


def test_the_command_end_to_end(root, tmp_path, forked):
    flags = [
        f"--config={root / 'configs/corpus/example.py'}:cheese_mild", f"--workdir={tmp_path / 'w'}",
        "--config.documents.count=30", "--config.documents.types=3", "--config.writer.kind=stub",
    ]  # fmt: skip
    more = ["--preview"], [], ["--config.documents.counts=3"], ["--config.spec.path=missing.md"]
    found = [forked("msm_jax.generate", [*flags, *each], root) for each in more]
    preview, run, key, file = found
    assert preview["code"] == 0 and "documents: 30" in preview["out"], preview["err"]
    assert run["code"] == 0 and "30 records" in run["out"], run["err"]
    assert (tmp_path / "w" / "corpus.html").exists()
    assert key["code"] == 2 and "counts" in key["err"]
    assert file["code"] == 2 and "no such spec file" in file["err"]
