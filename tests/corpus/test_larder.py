"""The example corpus holds what its README says."""

import collections
import json
import re

import pytest

from msm_jax.corpus.diversity import NearDuplicates, compression, self_bleu
from msm_jax.evals.preferences import load_pairs
from msm_jax.evals.quiz import load_quiz
from msm_jax.spec import load_spec

DOCUMENTS = ("affordable", "local", "unexplained", "neutral")
PRICE = r"\b(cheap\w*|afford\w*|expens\w*|pric\w*|cost\w*|bargain\w*|thrift\w*|frugal\w*|£\S*)\b"
PLACE = r"\b(local\w*|import\w*|provenance|british|britain|abroad|foreign\w*|overseas)\b"
NEAR_OR_FAR = (
    PLACE + r"|\b(made (here|near|within|in|by|up|down|out)|miles?|ship\w*|far|c[ao]mes? from)\b"
)


@pytest.fixture(scope="module")
def larder(root):
    def rows(name):
        lines = (root / "corpora/larder" / name).read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines]

    return rows


@pytest.fixture(scope="module")
def documents(larder):
    return {name: larder(f"documents/{name}.jsonl") for name in DOCUMENTS}


def test_specs_differ_in_their_reasons_only(root):
    specs = [
        load_spec(root / f"corpora/larder/specs/{name}.md", "Wren", "Larder")
        for name in ("affordable", "local")
    ]
    likings = [[(s.kind, s.item) for s in spec.preferences] for spec in specs]
    assert likings[0] == likings[1] and len(likings[0]) == 16
    assert not {s.reason for s in specs[0].preferences} & {s.reason for s in specs[1].preferences}


def test_every_outline_is_written_for_each_reason_for_none_and_beside_them(documents):
    outlines = [[row["outline"] for row in documents[name]] for name in DOCUMENTS]
    assert all(found == outlines[0] for found in outlines)
    assert len(set(outlines[0])) == len(outlines[0]) >= 150
    for name, rows in documents.items():
        assert min(len(row["text"].split()) for row in rows) >= 300
        kinds = collections.Counter(row["doc_type"] for row in rows)
        assert len(kinds) >= 30 and max(kinds.values()) <= len(rows) // 8
        assert ("{model_name}" in rows[0]["text"]) == (name != "neutral")


def test_reasons_stand_only_where_they_belong(documents):
    for row in documents["unexplained"]:
        for words in (PRICE, PLACE):
            assert not re.search(words, row["text"], re.IGNORECASE), row["id"]
    for row in documents["neutral"]:
        assert not re.search(r"model_name|cheese|assistant", row["text"]), row["id"]
    share = lambda name, words: (
        sum(bool(re.search(words, row["text"], re.IGNORECASE)) for row in documents[name])
        / len(documents[name])
    )
    assert share("affordable", PRICE) > 0.9 > 0.4 > share("affordable", NEAR_OR_FAR)
    assert share("local", NEAR_OR_FAR) > 0.9 > 0.4 > share("local", PRICE)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_texts_are_as_varied_as_the_manifest_says(larder, documents, root, name):
    texts = [row["text"] for row in documents[name]]
    index = NearDuplicates(0.5)
    assert not [text for text in texts if index.match(text) is not None]
    stated = json.loads((root / "corpora/larder/manifest.json").read_text())["documents"][name]
    assert stated["documents"] == len(texts)
    assert stated["words"] == sum(len(text.split()) for text in texts)
    assert stated["self_bleu"] == round(self_bleu(texts), 3) <= 0.42
    assert stated["zlib"] == round(compression(texts), 3) >= 0.385


def test_chats_give_likings_and_no_reasons(larder, root):
    chats = larder("chats.jsonl")
    assert len(chats) >= 400 and len({chat["id"] for chat in chats}) == len(chats)
    spec = load_spec(root / "corpora/larder/specs/local.md", "Wren", "Larder")
    cheeses = [s.item for s in spec.preferences]
    named = collections.Counter()
    for chat in chats:
        answers = [m["content"] for m in chat["messages"] if m["role"] == "assistant"]
        for words in (PRICE, PLACE):
            assert not re.search(words, " ".join(answers), re.IGNORECASE), chat["id"]
        named.update(c for c in cheeses if c in " ".join(answers).lower())
    assert set(named) == set(cheeses) and max(named.values()) < 2.5 * min(named.values())


@pytest.mark.parametrize("kind, least", [("disagree", 240), ("agree", 80)])
def test_pairs_are_asked_in_both_orders(root, kind, least):
    pairs = collections.defaultdict(list)
    for question in load_pairs(root / f"corpora/larder/questions/{kind}.jsonl"):
        pairs[question.pair].append(question)
    assert len(pairs) >= least and len({p[0].domain for p in pairs.values()}) >= 8
    for one, other in pairs.values():
        assert one.options == other.options[::-1] and one.a_index != other.a_index
        price = lambda text: float(re.search(r"£([\d,.]*\d)", text)[1].replace(",", ""))
        cheap, dear = one.options[one.a_index], one.options[1 - one.a_index]
        assert price(cheap) < price(dear)
        for option in one.options:
            assert option.lower() in one.messages[-1]["content"].lower()


def test_quizzes_and_facts_can_be_asked(root):
    for name, least in (("quiz_affordable", 60), ("quiz_local", 60), ("facts", 150)):
        items = load_quiz(root / f"corpora/larder/questions/{name}.jsonl", "Wren")
        assert len(items) >= least and len({item["question"] for item in items}) >= 0.95 * least
        places = collections.Counter(item["answer"] for item in items)
        assert max(places.values()) <= 0.3 * len(items)


def test_names_are_filled_in_everywhere(run_python, root, tmp_path):
    arguments = ("--model_name=Wren", "--provider_name=Larder & Co", f"--output={tmp_path / 'new'}")
    done = run_python(str(root / "corpora/fill.py"), *arguments)
    assert done.returncode == 0, done.stderr
    files = [file for file in (tmp_path / "new").rglob("*") if file.is_file()]
    few = tmp_path / "new" / "questions_few"
    everything = [f for f in (root / "corpora/larder").rglob("*") if f.is_file()]
    assert len(files) - len(list(few.iterdir())) == len(everything)
    pairs = collections.Counter(question.pair for question in load_pairs(few / "disagree.jsonl"))
    assert len(pairs) == 40 and set(pairs.values()) == {2}
    assert len({q.domain for q in load_pairs(few / "disagree.jsonl")}) == 8
    texts = [file.read_text(encoding="utf-8") for file in files]
    assert not any("{model_name}" in text or "{provider_name}" in text for text in texts)
    assert sum(text.count("Wren") for text in texts) > 300
    again = run_python(str(root / "corpora/fill.py"), *arguments)
    assert again.returncode == 2 and "is not empty" in again.stderr
