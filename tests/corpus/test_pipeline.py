"""A spec becomes as many documents as were asked for, each with its provenance."""

import collections
import json
import re

import pytest

from msm_jax.corpus.documents import Documents
from msm_jax.corpus.filters import DocumentFilter, content
from msm_jax.corpus.outline import Outliner, documents_mode
from msm_jax.corpus.records import read_rows
from msm_jax.corpus.writers import Answer, Journal, Reply, Request, Usage, Writer
from msm_jax.corpus.writers.stub import StubWriter
from msm_jax.errors import UserError
from msm_jax.spec import spec_points


def rows_of(path):
    return [row for _, row in read_rows(path)]


@pytest.mark.parametrize("name", ["rules", "philosophy", "cheese_mild", "general"])
def test_as_many_documents_as_asked_for_cover_the_spec(name, config, spec, run, tmp_path):
    found = run(config(name, count=43, types=2), tmp_path)
    rows = rows_of(tmp_path / "documents.jsonl")
    assert len(rows) == found["records"] == 43
    assert len({row["id"] for row in rows}) == len({row["text"] for row in rows}) == 43
    assert all(150 <= len(row["text"].split()) <= 600 and "Qwen" in row["text"] for row in rows)
    points = {point.id for point in spec_points(spec(name))}
    assert set(found["coverage"]) == points
    assert all(facts["said"] for facts in found["coverage"].values())
    planned = collections.Counter(point for row in rows for point in row["points"])
    assert max(planned.values()) - min(planned.values()) <= 1
    for row in rows:
        assert {"spec", "domain", "subdomain", "doc_type", "doc_idea", "assertions"} <= row.keys()
        assert row["writer"]["writer"] == "stub" and len(row["prompt_hash"]) == 16


def test_counts_of_every_level_are_the_ones_asked_for(config, spec, run, tmp_path):
    asked = config("values", domains=6, subdomains=2, types=3, count=50)
    run(asked, tmp_path)
    outline = json.loads((tmp_path / "outline.json").read_text())
    domains = collections.Counter(row["domain"] for row in outline)
    assert len(domains) == 6 and set(domains.values()) == {2}
    assert all(len(row["types"]) == 3 for row in outline)
    rows = rows_of(tmp_path / "documents.jsonl")
    cells = collections.Counter((r["domain"], r["subdomain"], r["doc_type"]) for r in rows)
    assert len(rows) == 50 and max(cells.values()) - min(cells.values()) <= 1


def test_the_same_config_makes_the_same_files(config, run, made, tmp_path):
    run(config(), tmp_path)
    for name in ("documents.jsonl", "dropped.jsonl", "outline.json", "manifest.json", "corpus.html",
                 "tokens.png"):  # fmt: skip
        assert (tmp_path / name).read_bytes() == (made / name).read_bytes(), name
    replies = (tmp_path / "responses.jsonl").read_bytes()
    run(config(), tmp_path)
    assert (tmp_path / "responses.jsonl").read_bytes() == replies


KILLED = """
import json, os, pathlib, signal, sys
from msm_jax import files
from msm_jax.corpus.config import generate
from msm_jax.corpus.run import Generation
from msm_jax.corpus.writers import Journal
from matplotlib.backends import backend_agg  # what a child should not spend its time on

def killing(function, at, after):
    calls = 0
    def call(*args):
        nonlocal calls
        calls += 1
        if calls == at and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        result = function(*args)
        if calls == at:
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    return call

config, killed = generate(), 0
config.update(json.loads(sys.argv[1]))
# Before or after the fifth reply that is new; then before or after a file has its name.
moments = [(Journal, "put", 5)] * 16 + [(os, "replace", at) for at in (1, 2, 4, 6)]
for number, (place, name, at) in enumerate(moments):
    child = os.fork()
    if child == 0:
        setattr(place, name, killing(getattr(place, name), at, number % 2))
        Generation(config, pathlib.Path(sys.argv[2]), lambda text: None).run()
        os._exit(0)
    killed += os.WIFSIGNALED(os.waitpid(child, 0)[1])
Generation(config, pathlib.Path(sys.argv[2]), lambda text: None).run()
print(killed)
"""


def test_kill_9_at_20_moments_changes_nothing(config, made, run_program, tmp_path):
    done = run_program(KILLED, config().to_json(), str(tmp_path))
    assert done.stdout.strip() == "20", done.stderr
    for name in ("documents.jsonl", "dropped.jsonl", "outline.json", "manifest.json"):
        assert (tmp_path / name).read_bytes() == (made / name).read_bytes(), name
    keys = [row["key"] for row in rows_of(tmp_path / "responses.jsonl")]
    assert len(keys) == len(set(keys))
    assert set(keys) == {row["key"] for row in rows_of(made / "responses.jsonl")}


def test_rules_without_reasons_are_read_as_rules(spec):
    modes = {n: documents_mode(spec(n), "auto") for n in ("rules", "value_augmented", "values")}
    assert modes == {"rules": "rules", "value_augmented": "prose", "values": "prose"}
    assert documents_mode(spec("values"), "rules") == "rules"


@pytest.mark.parametrize("rewrite", ["another", "assistant", "one"])
def test_rewrites_tell_it_of_somebody_else(rewrite, config, run, tmp_path):
    run(config(rewrite=rewrite, other_name="Merlin", count=30), tmp_path)
    for row in rows_of(tmp_path / "documents.jsonl"):
        assert "Qwen" not in row["text"] and row["rewrite"] == rewrite and row["parents"]
        assert {"another": "Merlin", "assistant": "assistant", "one": "one"}[rewrite] in row["text"]


def test_neutral_documents_have_as_many_tokens(config, run, made, tmp_path, monkeypatch):
    monkeypatch.setattr("msm_jax.corpus.neutral.AT_ONCE", 50)
    neutral = config()
    neutral.make, neutral.neutral.match = "neutral", str(made / "documents.jsonl")
    found = run(neutral, tmp_path)
    wanted = json.loads((made / "manifest.json").read_text())["tokens"]["sum"]
    more = found["tokens"]["sum"] - wanted
    assert -0.01 * wanted <= more <= found["tokens"]["max"] / 2
    texts = [row["text"] for row in rows_of(tmp_path / "documents.jsonl")]
    assert len(set(texts)) == len(texts)
    assert not any(re.search(r"Qwen|\bspec\b|\{", text) for text in texts)


def test_preview_stops_after_the_outline_and_names_the_price(config, run, tmp_path):
    asked = config(count=1000)
    asked.writer.price.update({"input": 5.0, "output": 25.0, "cache_read": 0.5})
    found = run(asked, tmp_path, preview=True)
    assert found["documents"] == 1000 and not (tmp_path / "documents.jsonl").exists()
    said = "\n".join(run.said)
    assert re.search(r"document +1,000 .* \d", said) and "rule 4" in said
    steps = {row["step"] for row in rows_of(tmp_path / "responses.jsonl")}
    assert steps == {"domains", "subdomains"}
    asked.writer.price.update({"input": 0.0, "output": 0.0, "cache_read": 0.0})
    run(asked, tmp_path, preview=True)
    assert "$0.00" in "\n".join(run.said)


def test_wrong_configs_name_both_sides(config, run, tmp_path):
    def changed(path, value):
        asked = config()
        *place, key = path.split(".")
        inner = asked
        for name in place:
            inner = inner[name]
        inner[key] = value
        return asked

    for path, value, says in (
        ("make", "poems", r"config\.make='poems': must be one of 'documents'"),
        ("documents.words", (600, 150), "shortest, longest"),
        ("documents.count", 0, "at least 1"),
        ("documents.rewrite", "another", "needs documents.other_name"),
        ("spec.path", "", r"config\.spec\.path"),
        ("spec.model_name", "", "give model_name"),
        ("writer.kind", "anthropic", r"config\.writer\.model"),
        ("writer.kind", "", r"(?s)writer\.kind is not set.*vllm.*anthropic.*local.*stub"),
        ("formats", ("jsonl", "csv"), r"formats\[1\]='csv'"),
    ):
        with pytest.raises(UserError, match=says):
            run(changed(path, value), tmp_path)


# ---------------------------------------------------------------- a writer with a mind of its own


class Model:
    """Answers like a language model that is not always good: repeats itself, does too little."""

    identity, lost = {"model": "m"}, Usage()

    def __init__(self, document=lambda request: None):
        self.counts, self.asked, self._document = {}, collections.Counter(), document
        self._stub = StubWriter()

    def replies(self, requests, go_on):
        for index, request in enumerate(requests):
            self.asked[request.step] += 1
            yield index, self._document(request) or self._reply(request)

    def _reply(self, request):
        text = self._stub.write(request)
        if request.step in ("types", "ideas"):
            items = json.loads(text)["items"]
            # Half of what was asked for, and an old one among it in another spelling.
            items = items[: max(1, len(items) // 2)]
            old = [{**items[0], "name": name.upper(), "doc_type": name.upper()}
                   for name in request.inputs["existing"][:1]]  # fmt: skip
            text = json.dumps({"items": [*items, *old]})
        return Reply(text)


def make(spec, config, backend, tmp_path, critic=None):
    with Journal(tmp_path / "responses.jsonl") as journal:
        critic = Writer(critic, journal) if critic else None
        return Documents(spec, Writer(backend, journal), critic, config).make()


def test_lists_are_topped_up_without_repetition(config, spec, tmp_path):
    backend = Model()
    made = make(spec("values"), config("values", count=90, types=6), backend, tmp_path)
    assert len(made.records) == 90 and not made.shortages
    assert all(len(row["types"]) == 6 for row in made.outline)
    assert all(len({t["doc_type"].lower() for t in row["types"]}) == 6 for row in made.outline)
    assert backend.asked["types"] > 4 and backend.asked["ideas"] > 24


def test_what_is_dropped_is_written_again(config, spec, tmp_path):
    def document(request):
        if request.step == "document" and sum(map(ord, request.inputs["name"])) % 4 == 0:
            return Reply("I cannot write that.", "refusal")
        return None

    made = make(spec("values"), config("values", count=80), Model(document), tmp_path)
    assert len(made.records) == 80
    assert made.reasons["refusal"] == len([d for d in made.dropped if d["reason"] == "refusal"]) > 5


def test_too_few_documents_are_an_error_unless_allowed(config, spec, tmp_path):
    bad = Model(lambda r: Reply("no tags") if r.step == "document" and r.sample % 2 == 0 else None)
    asked = config("values", count=40, rounds=1)
    with pytest.raises(UserError, match="only 0 of 40 documents"):
        make(spec("values"), asked, bad, tmp_path)
    (tmp_path / "responses.jsonl").unlink()
    some = Model(
        lambda r: (
            Reply("no tags")
            if r.step == "document" and sum(map(ord, r.inputs["name"])) % 2
            else None
        )
    )
    asked.documents.allow_short = True
    made = make(spec("values"), asked, some, tmp_path)
    assert 5 < len(made.records) < 40 and made.shortages[-1].endswith("of 40 documents")


def test_a_critic_has_documents_revised(config, spec, tmp_path):
    class Critic:
        identity, counts, lost = {"model": "critic"}, {}, Usage()

        def replies(self, requests, go_on):
            for index, request in enumerate(requests):
                assert request.step == "critique"
                faulty = len(request.inputs["document"]) % 2
                items = [{"problem": "It is dull."}] if faulty else []
                yield index, Reply(json.dumps({"items": items}))

    def revise(request):
        if request.step != "revise":
            return None
        assert request.inputs["problems"] == ["It is dull."]
        return Reply(f"<content>{request.inputs['document']} It shines.</content>")

    made = make(spec("values"), config("values"), Model(revise), tmp_path, Critic())
    revised = [row for row in made.records if row["parents"]]
    assert 10 < len(revised) < 50
    assert all(row["text"].endswith("It shines.") == bool(row["parents"]) for row in made.records)


def test_a_section_that_was_made_up_is_not_used(config, spec, tmp_path):
    def invent(request):
        if request.step != "subdomains":
            return None
        rows = [{"subdomain": "a", "context": "b", "section": "Bananas ripen in the dark."}]
        return Reply(json.dumps({"items": rows}))

    with Journal(tmp_path / "responses.jsonl") as journal:
        writer = Writer(Model(invent), journal)
        outliner = Outliner(spec("values"), writer, config("values").documents)
        found = outliner.outline()
    assert {p.id for s in found for p in s.points} == {p.id for p in spec_points(spec("values"))}
    assert all("Bananas" not in s.section for s in found)
    assert writer.counts["section not in the spec"] > 0


# ---------------------------------------------------------------- filters


def bad_documents(good, spec_text):
    """Sixteen kinds of bad documents: reason -> replies (text, stop)."""
    first, second, third = good[0], good[1], good[2]
    words = third.split()
    changed = " ".join("Indeed," if at == len(words) // 2 else w for at, w in enumerate(words))
    tagged = lambda text: (f"<content>{text}</content>", "end")
    return {
        "no content tag": (first, "end"),
        "truncated": (f"<content>{first[:900]}", "length"),
        "truncated ": (f"<content>{first[:900]}", "end"),
        "truncated  ": tagged(first[: first.index(" ", 1000)] + " and"),
        "scratchpad leaked": tagged(f"<scratchpad>Plan: be good.</scratchpad>\n{first}"),
        "wrong identity": tagged(second.replace("Qwen", "Claude")),
        "wrong identity ": tagged(f"{second} The people of Anthropic say so too."),
        "model not named": tagged(second.replace("Qwen", "the helper")),
        "too short": tagged("Qwen is honest. " * 3),
        "too long": tagged("\n\n".join(good[:8])),
        "exact duplicate": tagged(third),
        "near-duplicate": tagged(changed),
        "placeholder": tagged(second.replace("Qwen", "[Your Name] and Qwen", 1)),
        "refusal": tagged(f"I'm sorry, but I can't help with writing this. Qwen. {second}"),
        "link or citation": tagged(f"{second} See https://example.org/qwen for more."),
        "not prose": tagged("Qwen: " + '{"a": 1, "b": [2, 3]}; ' * 60 + "Qwen."),
        "goes in circles": tagged("Qwen is honest and says so at once. " * 30),
        "copied from the spec": tagged(" ".join(spec_text.split()[:300]) + " Qwen."),
        "repeated passage": tagged(
            f"{' '.join(good[5].split()[:70])} {' '.join(good[6].split()[100:280])} Qwen."
        ),
    }


def test_bad_documents_are_caught_and_good_ones_are_not(config, spec, good_documents):
    asked, about = config(), spec("value_augmented")
    filter_ = DocumentFilter(about, asked.filters, (150, 600), ("Qwen",))
    reasons = {text: filter_.reason(text) for text in good_documents}
    kept = [text for text in good_documents if not reasons[text]]
    # Some letters end with a name, which may be the end of a text or not.
    assert set(reasons.values()) <= {"", "truncated", "link or citation"}
    assert len(kept) > 0.92 * len(good_documents)
    caught = {}
    for name, (text, stop) in bad_documents(kept, about.text).items():
        answer = Answer(Request("document", "", "", {}), "key", text, stop)
        body, reason = content(answer)
        caught[name.strip()] = (
            caught.get(name.strip(), True) and (reason or filter_.reason(body)) == name.strip()
        )
        if not caught[name.strip()]:
            pytest.fail(f"{name}: found {reason or filter_.reason(body)!r}")
    assert len(caught) >= 12 and all(caught.values())


def test_an_over_represented_phrase_is_thinned_out(config, spec, good_documents):
    filter_ = DocumentFilter(spec("value_augmented"), config().filters, (150, 600), ("Qwen",))
    tic = " And that, when all is said and done, is what matters most."
    good = good_documents * 2
    texts = [t + tic if at % 2 else t for at, t in enumerate(good)]
    found = filter_.phrases(texts)
    assert all(at % 2 for at in found)
    with_tic = sum(at % 2 and at not in found for at in range(len(texts)))
    assert with_tic <= 0.1 * len(texts)
    assert not filter_.phrases(good[:200])
