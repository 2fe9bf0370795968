"""The loss on documents is what another library computes, of the documents that were asked for."""

import dataclasses
import json
import pathlib

import jax
import numpy as np
import pytest

import msm_jax
from msm_jax.data.pipeline import load_data
from msm_jax.errors import UserError
from msm_jax.evals import judge, kinds, losses, sample
from msm_jax.evals.losses import Losses, named_sources
from msm_jax.evals.statistics import ratio_interval
from msm_jax.files import read_jsonl
from msm_jax.tiny import tiny_checkpoint

WORDS = "a letter and the key of a log were on my table before you read it".split()
RNG = np.random.default_rng(0)
TEXTS = [" ".join(RNG.choice(WORDS, int(n))) + "." for n in RNG.integers(3, 80, 40)]
T, ROWS = 48, 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "checkpoint", TEXTS * 3, width=16)


@pytest.fixture(scope="module")
def model(folder):
    return msm_jax.load(folder)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    place = tmp_path_factory.mktemp("files")
    ask = lambda text: [
        {"role": "user", "content": "a key?"},
        {"role": "assistant", "content": text},
    ]
    chats = [{"messages": ask(text)} for text in TEXTS if len(text.split()) < 12]
    for name, rows in (("spec", [{"text": text} for text in TEXTS]), ("chats", chats)):
        (place / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {name: str(place / f"{name}.jsonl") for name in ("spec", "chats")}


@pytest.fixture(scope="module")
def done(model, files, tmp_path_factory):
    out = tmp_path_factory.mktemp("done")
    evaluation = Losses(files, sequence_length=T, rows=ROWS)
    sample(model, evaluation, out)
    return out, judge(evaluation, out), read_jsonl(out / "samples.jsonl")


def test_it_is_the_cross_entropy_of_transformers(folder, model, files, done):
    import torch
    import transformers

    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder).float().eval()
    end = model.tokenizer.control(model.tokenizer.end_of_document)

    def nats(ids, loss):
        """Summed over windows, each of which begins anew."""
        total, count = 0.0, 0
        for start in range(0, len(ids), T):
            window, wanted = torch.tensor(ids[start : start + T]), loss[start : start + T]
            with torch.no_grad():
                scores = theirs(window[None]).logits[0, :-1].double()
            each = torch.nn.functional.cross_entropy(scores, window[1:], reduction="none")
            total += float(each[torch.tensor(wanted[1:]).bool()].sum())
            count += sum(wanted[1:])
        return total, count

    rows = {(row["source"], row["row"]): row for row in done[2]}
    longer = 0
    for number, text in enumerate(TEXTS):
        ids = [*model.tokenizer.encode(text), end]
        longer += len(ids) > T
        total, count = nats(ids, [1] * len(ids))
        assert rows["spec", number]["tokens"] == count
        assert rows["spec", number]["nats"] == pytest.approx(total, rel=2e-6)
    assert 3 < longer < 30  # both whole documents and split ones
    lines = pathlib.Path(files["chats"]).read_text().splitlines()
    chats = [json.loads(line)["messages"] for line in lines]
    for number, messages in enumerate(chats):
        total, count = nats(*model.render(messages))
        assert rows["chats", number]["tokens"] == count
        assert rows["chats", number]["nats"] == pytest.approx(total, rel=2e-6)
    assert len(rows) == len(TEXTS) + len(chats) == len(done[2])


def test_the_summary_counts_documents_and_tokens(done):
    out, summary, rows = done
    for name, numbers in summary["sources"].items():
        mine = [row for row in rows if row["source"] == name]
        nats, tokens = ([row[key] for row in mine] for key in ("nats", "tokens"))
        assert numbers["n"] == len(mine) and numbers["tokens"] == sum(tokens)
        assert numbers["nats_per_token"] == pytest.approx(sum(nats) / sum(tokens))
        assert 0 < numbers["ci_low"] < numbers["nats_per_token"] < numbers["ci_high"]
        assert numbers["method"] == "jackknife of documents" and numbers["invalid"] == 0


@pytest.mark.parametrize("kept", [0.03, 0.5, 0.97])
def test_a_killed_evaluation_ends_the_same(model, files, done, tmp_path, kept):
    complete = (done[0] / "samples.jsonl").read_bytes()
    (tmp_path / "samples.partial.jsonl").write_bytes(complete[: int(kept * len(complete))])
    evaluation = Losses(files, sequence_length=T, rows=ROWS)
    sample(model, evaluation, tmp_path)
    assert judge(evaluation, tmp_path) == done[1]
    for name in ("samples.jsonl", "verdicts.jsonl"):
        assert (tmp_path / name).read_bytes() == (done[0] / name).read_bytes()


def test_it_measures_what_training_holds_out(model, files, done, tmp_path):
    source = {"path": files["spec"], "weight": 1.0, "loss_on": "all", "hold_out": 9}
    source |= {"hold_out_seed": 3, "part": "held_out"}
    measured = {}
    for part in ("held_out", "training"):
        evaluation = Losses(
            {"spec": files["spec"]}, hold_out=9, hold_out_seed=3, part=part, sequence_length=T,
            rows=ROWS,
        )  # fmt: skip
        sample(model, evaluation, tmp_path / part)
        assert judge(evaluation, tmp_path / part)["sources"]["spec"]["n"] in (9, 31)
        measured[part] = read_jsonl(tmp_path / part / "samples.jsonl")
    data = load_data({"x": source}, model.tokenizer, "qwen3", T, 1, 0, "epochs")
    # the loss does not depend on which documents are measured beside it
    all_rows = {row["row"]: row for row in done[2] if row["source"] == "spec"}
    for row in measured["held_out"] + measured["training"]:
        assert row["nats"] == pytest.approx(all_rows.pop(row["row"])["nats"], rel=1e-5)
    assert not all_rows
    assert sum(row["tokens"] for row in measured["held_out"]) == data.accounts["x"]["loss_tokens"]


def test_checkpoints_are_compared_document_by_document(model, files, done, tmp_path):
    doubled = {
        **model.params,
        "final_norm": jax.tree.map(lambda x: 2 * x, model.params["final_norm"]),
    }
    evaluation = Losses(files, sequence_length=T, rows=ROWS)
    sample(dataclasses.replace(model, params=doubled), evaluation, tmp_path)
    summary = judge(evaluation, tmp_path)
    found = losses.difference(tmp_path, done[0], "spec")
    one, other = (s["sources"]["spec"] for s in (summary, done[1]))
    assert found.estimate == pytest.approx(one["nats_per_token"] - other["nats_per_token"])
    assert found.ci_low < found.estimate < found.ci_high and found.n == len(TEXTS)
    assert found.ci_high - found.ci_low < one["ci_high"] - one["ci_low"]
    assert found.method == "paired by document, jackknife of documents"
    with pytest.raises(UserError, match="no losses of 'other'"):
        losses.difference(tmp_path, done[0], "other")


def test_a_loss_that_is_not_finite_is_counted_apart(files):
    evaluation = Losses({"spec": files["spec"]})
    rows = [{"source": "spec", "row": n, "nats": float(n + 1), "tokens": 2} for n in range(3)]
    summary = evaluation.summary(evaluation.verdicts([*rows, {**rows[0], "nats": None}]))
    found = summary["sources"]["spec"]
    assert (found["nats_per_token"], found["n"], found["invalid"]) == (1.0, 3, 1)
    nothing = evaluation.summary(evaluation.verdicts([{**rows[0], "nats": None}]))
    measure = kinds.KINDS["loss"].measures(nothing)["spec"]
    assert measure["value"] is None and measure["method"] == "no interval: no documents"
    assert measure["invalid"] == 1
    without_a_token = evaluation.verdicts([{**rows[0], "nats": 0.0, "tokens": 0}])
    assert evaluation.summary(without_a_token) == nothing


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sequence_length": 8192}, "the model was made for 4096 tokens"),
        ({"hold_out": 40}, "documents.spec.hold_out=40: .* has 40 rows"),
        ({"sequence_length": 8, "sources": "chats"}, "documents.chats: .* longer than"),
    ],
)
def test_what_cannot_be_measured_is_refused(model, files, tmp_path, settings, message):
    name = settings.pop("sources", "spec")
    with pytest.raises(UserError, match=message):
        sample(model, Losses({name: files[name]}, **settings), tmp_path)
    assert not (tmp_path / "samples.jsonl").exists()


def test_sources_have_names():
    found = named_sources(("a/spec.jsonl", "x=b/spec.jsonl.gz", "c=d/e*.jsonl", "f/g=h.parquet"))
    assert found == {
        "spec": "a/spec.jsonl", "x": "b/spec.jsonl.gz", "c": "d/e*.jsonl", "g=h": "f/g=h.parquet",
    }  # fmt: skip
    for words in (("a/spec.jsonl", "b/spec.jsonl"), ("=a.jsonl",), ("x=",)):
        with pytest.raises(UserError, match="NAME=PATH"):
            named_sources(words)


def test_the_command_prints_each_source(forked, folder, files, tmp_path):
    argv = [
        "--kind=loss", f"--checkpoint={folder}", f"--documents=a={files['spec']},{files['chats']}",
        "--hold_out=4", f"--sequence_length={T}", "--rows=2", "--output=out",
    ]  # fmt: skip
    found = forked("msm_jax.evaluate", argv, tmp_path)
    assert found["code"] == 0, found["err"]
    printed = json.loads(found["out"])
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert printed == summary["sources"] and [*printed] == ["a", "chats"]
    measures = kinds.KINDS["loss"].measures(summary)
    settings = kinds.resolve("loss", {"documents": (f"a={files['spec']}", files["chats"])})
    assert tuple(measures) == kinds.KINDS["loss"].measure_names(settings)
    for name, numbers in printed.items():
        assert numbers["n"] == 4 and measures[name]["step"] is measures[name]["high"] is None
        assert measures[name]["value"] == numbers["nats_per_token"]


def test_a_ratio_of_equal_documents_or_of_one_has_no_interval():
    assert ratio_interval([2.0, 4.0], [1, 2]).method == "no interval: 2 documents with equal values"
    assert ratio_interval([2.0], [1]).method == "no interval: one document"
    found = ratio_interval([1.0, 8.0], [1, 2], limits=(0, 1e9))
    assert (found.estimate, found.ci_low) == (3.0, 0.0) and found.ci_high > 3
    for sums, sizes in (([1.0], []), ([float("nan")], [1]), ([1.0], [0])):
        with pytest.raises(ValueError, match="ratio_interval"):
            ratio_interval(sums, sizes)
