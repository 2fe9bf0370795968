"""A study does what is missing, ends with the same numbers however often it is killed."""

import json
import os
import random
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from model_server import Server
from tampering import tampered

from msm_jax.data.sources import source_hash
from msm_jax.errors import UserError
from msm_jax.files import seal, write_json
from msm_jax.study import (
    compare,
    display,
    files,
    plots,
    records,
    report,
    runner,
    steps,
    sweep,
    tables,
    times,
)
from msm_jax.study.graph import make_study
from msm_jax.study.results import collect


def timeless(found: dict) -> dict:
    """results.json without when, how fast and at what price."""
    config = {k: v for k, v in found["config"].items() if k not in ("platform", "price_per_hour")}
    return {k: v for k, v in found.items() if k not in ("created", "seconds", "seal")} | {
        "config": config
    }


def results(workdir) -> dict:
    return timeless(json.loads((workdir / "results.json").read_text()))


def marks(workdir) -> dict[str, int]:
    """When each stage and evaluation was done."""
    found = [*workdir.glob("stages/*/stage.json"), *workdir.glob("evals/*/evals.json")]
    return {str(path.relative_to(workdir)): path.stat().st_mtime_ns for path in found}


def python(root, *words, **environment) -> str:
    """What a Python process printed that ended well."""
    environment = {**os.environ, "PYTHONPATH": str(root), **environment}
    done = subprocess.run(
        [sys.executable, *map(str, words)], env=environment, text=True, capture_output=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def finished(tmp_path_factory, root, make_tiny):
    """(path of the config, workdir, what was printed) of a tiny study that has run.

    Its runner would fail if it started JAX.
    """
    folder = tmp_path_factory.mktemp("study")
    config, out = make_tiny(folder), folder / "out"
    words = ("-m", "msm_jax.study", f"--config={config}", f"--workdir={out}")
    words += ("--config.platform=cpu", "--config.price_per_hour=3600")
    return config, out, python(root, *words, JAX_PLATFORMS="none_for_the_runner")


@pytest.fixture(scope="module")
def killed(finished, run_killed):
    """(workdir, how it was ended) of the same study, ended ten times and then finished."""
    config, out, _ = finished
    workdir = out.with_name("killed")
    return workdir, run_killed(config, workdir)


def test_ends_with_the_table_and_the_paths(finished):
    _, out, printed = finished
    assert "[9/9]" in printed and "x - y" in printed and "\r" not in printed
    assert str(out / "results.json") in printed
    assert str(out / "report.html") in printed


def test_arms_share_the_stages_that_they_have_in_common(finished):
    _, out, _ = finished
    arms = {row["name"]: row["stages"] for row in results(out)["arms"]}
    assert arms["x"][0] == arms["y"][0]
    assert arms["x"][1] != arms["y"][1]
    assert len(list(out.glob("stages/*/checkpoints"))) == 3


def test_a_second_run_does_nothing(finished, load_config):
    config, out, _ = finished
    study, before = make_study(load_config(config)), marks(out)
    waiting = runner.run(study, out)
    assert marks(out) == before
    again = json.loads(json.dumps(collect(study, out, 1.0, waiting)))
    assert timeless(again) == results(out)


def test_killed_at_random_moments_it_ends_with_the_same_results(finished, killed):
    workdir, ended = killed
    assert len(ended) == 11
    for who, how, code in ended:
        expected = {"": 0, "SIGTERM": 75, "SIGKILL": -9 if who == "runner" else 1}[how]
        assert code == expected, (who, how, code)
    assert results(workdir) == results(finished[1])


def test_two_runs_agree_to_the_last_bit(finished, killed):
    losses = lambda folder: {
        path.parent.name: [
            (row["step"], row["loss"], row["grad_norm"])
            for row in map(json.loads, path.read_text().splitlines())
        ]
        for path in folder.glob("stages/*/metrics.jsonl")
    }
    assert len(losses(killed[0])) == 3
    assert losses(killed[0]) == losses(finished[1])


MESH = """
import runpy

def get_config():
    config = runpy.run_path({config!r})["get_config"]().unlock()
    config.arms, config.contrasts, config.figure.groups = {{"x": ("base", "x")}}, {{}}, {{}}
    config.figure.headline = ""
    config.evals.which.scorers = ("logprob",)
    return config.lock()
"""


def test_a_mesh_of_all_devices_gives_what_one_device_gives(finished, forked):
    config, out, _ = finished
    workdir, one_arm = out.with_name("mesh"), config.with_name("mesh.py")
    one_arm.write_text(MESH.format(config=str(config)))
    words = [f"--config={one_arm}", f"--workdir={workdir}", "--config.workers=1"]
    two = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    done = forked("msm_jax.study", words, out.parent, env=two)
    assert done["code"] == 0, done["err"]
    read = lambda path: [json.loads(line) for line in path.read_text().splitlines()]
    runs = [path.parent for path in workdir.glob("stages/*/metrics.jsonl")]
    assert len(runs) == 2
    for run in runs:
        assert json.loads((run / "config.json").read_text())["versions"]["mesh"]["fsdp"] == 2
        losses = [
            [row["loss"] for row in read(folder / "metrics.jsonl")]
            for folder in (run, out / "stages" / run.name)
        ]
        np.testing.assert_allclose(*losses, rtol=2e-5)
    (verdicts,) = workdir.glob("evals/*/which/verdicts.jsonl")
    alone = read(out / verdicts.relative_to(workdir))
    alone = [row for row in alone if row["scorer"] == "logprob"]
    for a, b in zip(read(verdicts), alone, strict=True):
        assert a["choice"] == b["choice"]
        np.testing.assert_allclose(a["margin"], b["margin"], atol=1e-4)


def test_a_change_runs_only_what_follows_from_it(finished, load_config):
    config, out, _ = finished
    plan = lambda tiny: display.plan(make_study(tiny), out)
    assert "to do: 0 stages" in plan(load_config(config))
    tiny = load_config(config)
    tiny.stages.x.data.red.weight = 2.0
    assert "to do: 1 stages" in plan(tiny)
    tiny = load_config(config)
    tiny.train.optimizer.learning_rate = 0.5
    assert "to do: 3 stages" in plan(tiny)


def test_the_report_is_one_file_and_escapes_its_texts(finished):
    _, out, _ = finished
    html = (out / "report.html").read_text()
    assert "&lt;b&gt;things" in html
    assert "<b>things" not in html
    assert "http://" not in html.replace("http://www.w3.org", "")
    assert "https://" not in html
    assert 'src="data:image' in html


def test_two_clicks_lead_from_a_number_to_the_hashes_of_its_data(finished):
    config, out, _ = finished
    html = (out / "report.html").read_text()
    row = next(row for row in results(out)["arms"] if row["name"] == "x")
    value = f"{row['evals']['which']['value']:.2f}"
    places = re.findall(rf'<a href="#(\w+)">{value}[ <]', html)
    clicked = [html.partition(f'id="{place}"')[2].partition("</tr>")[0] for place in places]
    number = next(text for text in clicked if text.startswith("><td>x</td>"))
    assert re.findall(r'href="#s-(\w+)"', number) == row["stages"]
    assert f'href="evals/{row["stages"][-1]}/which/verdicts.jsonl"' in number
    for stage, name in zip(row["stages"], ("docs", "red"), strict=True):
        data = html.partition(f'id="s-{stage}"')[2].partition("</section>")[0]
        assert source_hash(str(config.parent / "files" / f"{name}.jsonl")) in data
        assert "learning_rate" in data
    for table in ("<h2>Absorption", "<h3>Retention"):
        assert '<a href="#e' in html.partition(table)[2].partition("</table>")[0]
    anchors = {*re.findall(r'id="([\w-]+)"', html)}
    assert {*re.findall(r'href="#([\w-]+)"', html)} <= anchors
    assert all((out / place).exists() for place in re.findall(r'href="([^#"]+)"', html))
    assert (out / "tables" / "evaluations.csv").read_text().count("\n") > 10


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.mark.skipif(not CHROMIUM, reason="no chromium, which opens the report")
def test_the_report_opens_in_a_browser(finished, tmp_path):
    from matplotlib.image import imread

    picture = tmp_path / "report.png"
    words = (CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1100,6000")
    page = (finished[1] / "report.html").as_uri()
    more = (f"--user-data-dir={tmp_path / 'profile'}", f"--screenshot={picture}", page)
    subprocess.run([*words, *more], check=True, capture_output=True, timeout=300)
    seen = (imread(picture)[..., :3] * 255).round().astype(int)
    assert seen.shape == (6000, 1100, 3)
    is_of = lambda color: (abs(seen - [int(color[i : i + 2], 16) for i in (1, 3, 5)]) < 3).all(-1)
    shades = [*plots._SHADES[2], plots.COLORS[2]]  # bars, and points of contrasts
    assert all(is_of(color).sum() > 500 for color in shades)
    assert is_of("#1f2328").sum() > 2000  # text
    assert 0.5 < is_of("#ffffff").mean() < 0.99


def test_a_users_mistake_is_named(tmp_path, make_tiny, load_config):
    path = make_tiny(tmp_path)
    for key, value, says in (
        ("stages.base.data.docs.path", "/no/such.jsonl", "/no/such.jsonl"),
        ("evals.which.pairs", "/no/pairs.jsonl", "/no/pairs.jsonl"),
        ("contrasts.gap.plus", ("z",), "'z'"),
        ("workers", -1, "at least 0"),
        ("seeds", (1, 1), "each once"),
    ):
        config = place = load_config(path)
        *groups, name = key.split(".")
        for group in groups:
            place = place[group]
        place[name] = value
        with pytest.raises(UserError, match=f"config.{key.partition('.')[0]}.*{says}"):
            make_study(config)


def test_a_corrupt_row_is_named_with_its_line(finished, load_config, tmp_path):
    config, out, _ = finished
    files = config.parent / "files"
    shutil.copy(files / "red.jsonl", tmp_path / "red.jsonl")
    with (tmp_path / "red.jsonl").open("a") as file:
        file.write('{"text": "cut off\n')
    tiny = load_config(config)
    tiny.stages.x.data.red.path = str(tmp_path / "red.jsonl")
    with pytest.raises(UserError, match=r"base > x, seed 0: .*red\.jsonl:4"):
        runner.run(make_study(tiny), out)


def arm_of(found, name):
    return next(row for row in found["arms"] if row["name"] == name)["evals"]


def again(config, workdir) -> dict:
    """The results of a study that is run from here."""
    study = make_study(config)
    waiting = runner.run(study, workdir)
    found = collect(study, workdir, 1.0, waiting)
    report.write(found, study, workdir)
    return json.loads(json.dumps(found, allow_nan=False))


def test_a_judge_without_its_key_waits_and_the_same_command_goes_on(
    finished, load_config, tmp_path, monkeypatch
):
    config, out, printed = finished
    assert "waiting: OPENAI_API_KEY is not set" in printed and "judge said of base > x" in printed
    before = json.loads((out / "results.json").read_text())
    assert [entry["kind"] for entry in before["waiting"]] == ["judge", "judge"]
    assert "said" not in arm_of(before, "x") and "value" in arm_of(before, "x")["which"]
    html = (out / "report.html").read_text()
    assert "OPENAI_API_KEY is not set" in html and "not known yet" in html

    workdir = shutil.copytree(out, tmp_path / "out", symlinks=True)
    evaluated = (workdir / "evals").rglob("samples.jsonl")
    samples = {path: path.stat().st_mtime_ns for path in evaluated}
    with Server(script=lambda number, request: (200, {}, "<answer>1</answer>")) as server:
        monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
        monkeypatch.setenv("OPENAI_BASE_URL", f"{server.url}/v1")
        after = again(load_config(config), workdir)
        asked = server.number
        assert not after["waiting"] and asked > 0
        again(load_config(config), workdir)
        assert server.number == asked  # a second time there is nothing to do
    assert samples == {path: path.stat().st_mtime_ns for path in samples}
    said = arm_of(after, "x")["said"]
    assert said["measure"] == "judged" and said["measures"]["judged"]["n"] + said["invalid"] > 0
    assert "waiting" not in tables.table(after)
    drop = lambda found: {k: v for k, v in found.items() if k in ("absorption", "retention")}
    assert drop(after) == drop(before)


@pytest.fixture(scope="module")
def swept(finished, load_config):
    """(workdir, results) of the same study in a copy of its directory, with a sweep."""
    config, out, _ = finished
    workdir = shutil.copytree(out, out.with_name("swept"), symlinks=True)
    over = ["config.stages.x.steps=1,12"]
    found = again(sweep.added(load_config(config), over), workdir)
    write_json(workdir / "results.json", {**found, "seal": seal(found)})
    return workdir, found


def test_a_sweep_adds_runs_and_a_curve_with_intervals(finished, swept):
    (_, out, _), (workdir, found) = finished, swept
    before = {row["name"]: row["stages"] for row in results(out)["arms"]}
    after = {row["name"]: row["stages"] for row in found["arms"]}
    assert before.items() < after.items() and len([*workdir.glob("stages/*/checkpoints")]) == 4
    (curve,) = found["curves"]
    points = [point for point in curve["points"] if point["eval"] == "held"]
    assert [(p["line"], p["value"], p["arm"]) for p in points] == [
        ("x", 12, "x"), ("x", 1, "x steps=1")
    ]  # fmt: skip
    for point in points:
        own = arm_of(found, point["arm"])["held"]
        assert (point["mean"], point["over_items"]["n"]) == (own["value"], own["n"])
    html = (workdir / "report.html").read_text()
    assert f'<h2>By steps</h2>\n<p class="note">{", ".join(curve["keys"])}. Points' in html


def test_studies_side_by_side(finished, swept, tmp_path):
    _, out, _ = finished
    studies = {"one": compare.read(out), "two": compare.read(swept[0])}
    found = compare.compare(studies)
    compare.write(found, tmp_path)
    assert json.loads((tmp_path / "compare.json").read_text()) == json.loads(json.dumps(found))
    assert [(run["arm"], run["studies"]) for run in found["same_runs"]] == [
        ("x", ["one", "two"]), ("y", ["one", "two"])
    ]  # fmt: skip
    assert not any(entry["differences"] for entry in found["evals"])
    held = next(entry for entry in found["evals"] if entry["eval"] == "held")
    of_x = [m for m in held["means"] if (m["arm"], m["measure"]) == ("x", "red")]
    assert [m["study"] for m in of_x] == ["one", "two"]
    assert of_x[0]["mean"] == of_x[1]["mean"] == arm_of(results(out), "x")["held"]["value"]
    assert {each["key"] for each in found["config"]} >= {"config.arms.x steps=1"}
    html = (tmp_path / "compare.html").read_text()
    assert "x steps=1" in html and "Not comparable" not in html and "https://" not in html
    lines = (tmp_path / "compare.csv").read_text().splitlines()
    assert len(lines) == 1 + sum(len(entry["means"]) for entry in found["evals"])

    changed = {"the content of pairs": "another", "temperature": 2.0, "max_error_share": 0.5}
    for (eval, _), settings in studies["two"]["settings"].items():
        if eval == "which":
            settings.update(changed)
    which, *others = compare.compare(studies)["evals"]
    assert {each["key"] for each in which["differences"]} == changed.keys()
    assert not any(entry["differences"] for entry in others)
    compare.write(compare.compare(studies), tmp_path)
    html = (tmp_path / "compare.html").read_text()
    assert "Not comparable: the content of pairs" in html
    assert html.count("<figure>") == len(others)


def test_a_study_that_was_edited_is_not_compared(finished, tmp_path):
    workdir = shutil.copytree(finished[1], tmp_path / "out", symlinks=True)
    before, stage = compare.read(workdir), arm_of_study(workdir, "x")
    for path in (workdir / "results.json", workdir / "evals" / stage / "evals.json"):
        content = path.read_bytes()
        for other in tampered(content, random.Random(1), 8):
            path.write_bytes(other)
            try:
                assert compare.read(workdir) == before
            except UserError as error:
                assert path.name in str(error)
        path.unlink()
        with pytest.raises(UserError, match=path.name):
            compare.read(workdir)
        path.symlink_to(finished[1] / path.relative_to(workdir))
        with pytest.raises(UserError, match="is a link to"):
            compare.read(workdir)
        path.unlink()
        path.write_bytes(content)
    compare.read(workdir)


def arm_of_study(workdir, name):
    return next(row["stages"][-1] for row in results(workdir)["arms"] if row["name"] == name)


# ------------------------------------------------------------------ directories from strangers


def read_again(study, workdir, changed="") -> dict | None:
    """What the command reads of a study that is done; None if something is to be made again.

    Also None for a changed file that results.json is not made from.
    """
    files.check_links(workdir)
    steps.with_steps(study, workdir)
    times.Speeds(workdir)
    [display.last_step(workdir, node) for node in study.stages.values()]
    marks = {node.id: files.read_mark(workdir, node) for node in study.nodes.values()}
    open_nodes = [name for name, mark in marks.items() if mark is None]
    if {study.nodes[name].kind for name in open_nodes} != {"judge"}:
        return None
    for stage in study.stages.values():
        records.read_metrics(files.model_dir(workdir, stage.id))
    report._chats(study, workdir, 0)
    report._corpora(study, workdir, 0)
    if changed in ("metrics.jsonl", "chats.jsonl", "config.json"):
        return None
    return collect(study, workdir, 1.0, dict.fromkeys(open_nodes, "its key"))


def test_a_file_that_was_tampered_with_is_named_or_made_again(finished, load_config, tmp_path):
    config, out, _ = finished
    workdir = shutil.copytree(out, tmp_path / "out", symlinks=True)
    study, rng = make_study(load_config(config)), random.Random(0)
    (tmp_path / "precious").write_text("mine")
    stage, evaluated = study.arms["x", 0][-1], workdir / "evals" / study.arms["x", 0][-1]
    before = json.dumps(timeless(read_again(study, workdir)))
    paths = [workdir / "stages" / stage / n for n in ("stage.json", "metrics.jsonl", "config.json")]
    paths += [evaluated / "evals.json", evaluated / "chats.jsonl", workdir / "spent.json"]
    paths += [evaluated / "which" / name for name in ("summary.json", "verdicts.jsonl")]
    for path in paths:
        content = path.read_bytes()
        for other in tampered(content, rng, 6):
            path.write_bytes(other)
            try:
                found = read_again(study, workdir, path.name)
            except UserError as error:
                assert path.name in str(error) and len(str(error)) < 600
            else:  # what was measured, or nothing
                assert found is None or json.dumps(timeless(found)) == before
        path.write_bytes(content)
    assert json.dumps(timeless(read_again(study, workdir))) == before
    assert [p.name for p in tmp_path.iterdir() if p != workdir] == ["precious"]


@pytest.mark.parametrize(
    "place", ["stages", "stages/ID", "stages/ID/log.txt", "stages/ID/checkpoints/4", "evals/ID",
              "evals/ID/which", "evals/ID/which/verdicts.jsonl", "cache", "bases", "arms",
              "claims"],
)  # fmt: skip
def test_a_link_in_a_studys_directory_leads_nowhere(place, tiny_study, tmp_path):
    study, outside, workdir = tiny_study, tmp_path / "outside", tmp_path / "out"
    outside.mkdir()
    (outside / "file").write_text("mine")
    link = workdir / place.replace("ID", study.arms["x", 0][0])
    link.parent.mkdir(parents=True)
    link.symlink_to(outside)
    with pytest.raises(UserError, match=f"{link.name}: is a link to .*outside"):
        files.check_links(workdir)
    assert [p.name for p in outside.iterdir()] == ["file"]


def test_links_of_arms_are_made_anew_and_a_file_is_no_directory(tiny_study, tmp_path):
    study, outside, workdir = tiny_study, tmp_path / "outside", tmp_path / "out"
    outside.mkdir()
    (workdir / "arms" / "y").mkdir(parents=True)
    for place in ("x", "y/seed0"):
        (workdir / "arms" / place).symlink_to(outside)
    files.link_arms(study, workdir)
    assert not [*outside.iterdir()] and (workdir / "arms" / "x" / "seed0" / "2-x").is_symlink()
    for kind in ("stages", "evals"):
        (workdir / kind).mkdir()
        (workdir / kind / study.arms["x", 0][0]).write_text("x")
    for node in (study.nodes[study.arms["x", 0][0]], study.evaluations[study.arms["x", 0][0]]):
        with pytest.raises(UserError, match="is a file where a study has a directory"):
            files.read_mark(workdir, node)


@pytest.fixture
def tiny_study(tmp_path, make_tiny, load_config):
    return make_study(load_config(make_tiny(tmp_path)))
