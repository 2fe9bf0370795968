"""An evaluation's directory: complete, the same however it came about, and nobody else's."""

import json
import shutil

import pytest

from msm_jax.errors import UserError
from msm_jax.evals import Preferences, evaluate_preferences, judge, sample
from msm_jax.evals.evaluation import BATCHES_PER_SAVE, read_summary, read_verdicts
from msm_jax.files import lock

ROWS = 2
SETTINGS = {"max_tokens": 4, "rows": ROWS, "samples": 2, "temperature": 1.0}
OUTPUTS = ("samples.jsonl", "verdicts.jsonl", "summary.json")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """More questions than are asked between two saves."""
    things = ["lamp", "box", "cup", "hat", "pen"]
    count = BATCHES_PER_SAVE * ROWS // 2 + 2
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    with path.open("w") as file:
        for index in range(count):
            ours, theirs = f"red {things[index % 5]}", f"tin {things[index // 5]}"
            for a_index, (one, two) in enumerate(((ours, theirs), (theirs, ours))):
                record = {
                    "id": f"{index}-{a_index}",
                    "pair": str(index),
                    "question": f"{one} or {two}?",
                    "options": [f"{one}.", f"{two}."],
                    "a_index": a_index,
                    "domain": things[index % 5],
                }
                file.write(json.dumps(record) + "\n")
    return path


@pytest.fixture(scope="module")
def done(model, pairs, tmp_path_factory):
    out = tmp_path_factory.mktemp("done")
    evaluate_preferences(model, pairs, out, **SETTINGS)
    return out


def contents(out):
    return {name: (out / name).read_text() for name in OUTPUTS}


def test_every_question_is_answered_by_every_scorer(done, pairs):
    rows = [json.loads(line) for line in (done / "samples.jsonl").read_text().splitlines()]
    questions = len(pairs.read_text().splitlines())
    assert len({(r["scorer"], r["id"], r.get("sample")) for r in rows}) == len(rows)
    assert len(rows) == questions + 2 * questions
    summary = json.loads((done / "summary.json").read_text())
    assert set(summary["scorers"]) == {"logprob", "generated"}
    for part in summary["scorers"].values():
        assert part["n"] + part["invalid"] in (questions, 2 * questions)
    assert {p.name for p in done.iterdir()} == {*OUTPUTS, "evaluation.json", ".lock"}


@pytest.mark.parametrize("kept", [0.02, 0.3, 0.75, 0.98])
def test_a_killed_evaluation_ends_the_same(model, pairs, done, tmp_path, kept):
    whole = (done / "samples.jsonl").read_bytes()
    (tmp_path / "samples.partial.jsonl").write_bytes(whole[: int(kept * len(whole))])
    (tmp_path / "evaluation.json").write_bytes((done / "evaluation.json").read_bytes())
    evaluate_preferences(model, pairs, tmp_path, **SETTINGS)
    assert contents(tmp_path) == contents(done)


def test_what_is_complete_is_not_asked_again(model, pairs, done):
    before = (done / "samples.jsonl").stat().st_mtime_ns
    evaluate_preferences(model, pairs, done, **SETTINGS)
    assert (done / "samples.jsonl").stat().st_mtime_ns == before


def test_sampling_and_judging_apart_give_the_same(model, pairs, done, tmp_path):
    asked = Preferences(pairs, **SETTINGS)
    with pytest.raises(UserError, match="--phase=sample first"):
        judge(asked, tmp_path)
    sample(model, asked, tmp_path)
    assert not (tmp_path / "summary.json").exists()
    assert judge(asked, tmp_path) == json.loads((done / "summary.json").read_text())
    assert contents(tmp_path) == contents(done)


def test_what_was_edited_after_the_judging_is_noticed(pairs, done, tmp_path):
    out = shutil.copytree(done, tmp_path / "out")
    assert read_verdicts(out) and read_summary(out)["seal"]
    for name, old, new in (
        ("summary.json", '"invalid": ', '"invalid": 1'),
        ("verdicts.jsonl", '"choice": "a"', '"choice": "b"'),
        ("verdicts.jsonl", "\n", "\n\n"),
    ):
        content = (out / name).read_text()
        assert old in content
        (out / name).write_text(content.replace(old, new, 1))
        with pytest.raises(UserError, match=f"{name}: is not what .*--phase=judge again"):
            read_verdicts(out)
        judge(Preferences(pairs, **SETTINGS), out)
        assert contents(out) == contents(done)


def test_samples_that_are_not_what_was_sampled_are_refused_with_their_line(pairs, done, tmp_path):
    out = shutil.copytree(done, tmp_path / "out")
    lines = (done / "samples.jsonl").read_text().splitlines(keepends=True)
    first = json.loads(lines[0])
    row = lambda **changes: json.dumps({**first, **changes}) + "\n"
    for wrong, says in (
        (lines[1:], "has 0 rows of .*, not 1: delete it"),
        ([*lines, lines[-1]], "has 3 rows of .*, not 2: delete it"),
        ([row(logprobs=[0.5]), *lines[1:]], "jsonl:1: logprobs must have 2 entries, not 1"),
        ([*lines, row(logprobs="x")], rf"jsonl:{len(lines) + 1}: logprobs must be a list"),
        ([row(scorer="x")], "jsonl:1: scorer must be 'generated' or 'logprob', not 'x'"),
        (['{"scorer": "generated"}\n'], "jsonl:1: id is missing"),
    ):
        (out / "samples.jsonl").write_text("".join(wrong))
        with pytest.raises(UserError, match=says):
            judge(Preferences(pairs, **SETTINGS), out)
    for content in ("[]", '{"model": 3}', "{"):
        (out / "evaluation.json").write_text(content)
        with pytest.raises(UserError, match=r"evaluation\.json: .*sample into another directory"):
            judge(Preferences(pairs, **SETTINGS), out)


@pytest.mark.parametrize("name", ["samples.partial.jsonl", ".lock", "evaluation.json"])
def test_nothing_is_written_through_a_link(model, pairs, tmp_path, name):
    private, out = tmp_path / "private", tmp_path / "out"
    private.write_text("mine\n")
    out.mkdir()
    (out / name).symlink_to(private)
    with pytest.raises(UserError, match=f"{name}: is a link to"):
        sample(model, Preferences(pairs, **SETTINGS), out)
    assert private.read_text() == "mine\n" and not (out / "samples.jsonl").exists()


def test_two_processes_do_not_write_the_same_answers(model, pairs, tmp_path):
    with lock(tmp_path / ".lock", "held"), pytest.raises(UserError, match="another process"):
        sample(model, Preferences(pairs, **SETTINGS), tmp_path)
    assert not (tmp_path / "samples.jsonl").exists()


def test_two_processes_do_not_judge_the_same_answers(pairs, done, tmp_path):
    """A judge may be paid for every answer; who comes second finds what the first has paid for."""
    folder = tmp_path / "out"
    shutil.copytree(done, folder)
    held = lock(folder / ".lock", "held")  # as another process does
    with held, pytest.raises(UserError, match=r"is sampling or judging .* \(process \d+\)"):
        judge(Preferences(pairs, **SETTINGS), folder)
    judge(Preferences(pairs, **SETTINGS), folder)


def test_a_directory_holds_one_evaluation(model, other_model, pairs, done, tmp_path):
    with pytest.raises(UserError, match="seed: was 0, now 1"):
        evaluate_preferences(model, pairs, done, seed=1, **SETTINGS)
    with pytest.raises(UserError, match=r"model\.params: was"):
        evaluate_preferences(other_model, pairs, done, **SETTINGS)
    fewer = tmp_path / "fewer.jsonl"
    fewer.write_text("".join(pairs.read_text().splitlines(keepends=True)[:2]))
    with pytest.raises(UserError, match="pairs: was"):
        evaluate_preferences(model, fewer, done, **SETTINGS)
    with pytest.raises(UserError, match="pairs: was"):
        judge(Preferences(fewer, **SETTINGS), done)
    with pytest.raises(UserError, match="scorers"):
        evaluate_preferences(model, pairs, tmp_path, scorers=["luck"])
