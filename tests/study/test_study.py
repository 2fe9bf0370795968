"""A study does what is missing, ends with the same numbers however often it is killed."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest


def results(workdir) -> dict:
    """results.json without when and how fast."""
    found = json.loads((workdir / "results.json").read_text())
    del found["created"], found["seconds"]
    return found


def marks(workdir) -> dict[str, int]:
    """When each stage and evaluation was done."""
    found = [*workdir.glob("stages/*/stage.json"), *workdir.glob("evals/*/evals.json")]
    return {str(path.relative_to(workdir)): path.stat().st_mtime_ns for path in found}


@pytest.fixture(scope="module")
def finished(tmp_path_factory, root, make_tiny):
    """(config, workdir, what was printed) of a tiny study that has run."""
    folder = tmp_path_factory.mktemp("study")
    config = make_tiny(folder)
    done = run(root, config, folder / "out")
    assert done.returncode == 0, done.stderr
    return config, folder / "out", done.stdout


def command(config, workdir, *more: str) -> list[str]:
    return [
        sys.executable,
        "-m",
        "msm_jax.study",
        f"--config={config}",
        f"--workdir={workdir}",
        *more,
    ]


def run(root, config, workdir, *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(config, workdir, *more),
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_ends_with_the_table_and_the_paths(finished):
    _, out, printed = finished
    assert "x - y" in printed
    assert str(out / "results.json") in printed
    assert str(out / "report.html") in printed


def test_arms_share_the_stages_that_they_have_in_common(finished):
    _, out, _ = finished
    arms = {row["name"]: row["stages"] for row in results(out)["arms"]}
    assert arms["x"][0] == arms["y"][0]
    assert arms["x"][1] != arms["y"][1]
    assert len(list(out.glob("stages/*/checkpoints"))) == 3


def test_a_second_run_does_nothing(finished, root):
    config, out, _ = finished
    before = marks(out)
    again = run(root, config, out)
    assert again.returncode == 0, again.stderr
    assert marks(out) == before


def test_two_runs_agree_to_the_last_bit(finished, root, tmp_path):
    config, out, _ = finished
    assert run(root, config, tmp_path / "other").returncode == 0
    assert results(tmp_path / "other") == results(out)
    losses = lambda folder: {
        path.parent.name: [
            (row["step"], row["loss"], row["grad_norm"])
            for row in map(json.loads, path.read_text().splitlines())
        ]
        for path in folder.glob("stages/*/metrics.jsonl")
    }
    assert len(losses(out)) == 3
    assert losses(tmp_path / "other") == losses(out)


def test_killed_at_random_moments_it_ends_with_the_same_results(finished, root, tmp_path):
    config, out, _ = finished
    files = lambda folder: sum(len(names) for _, _, names in os.walk(folder))
    rng, workdir = random.Random(0), tmp_path / "killed"
    for _ in range(3):
        wanted = files(workdir) + rng.randint(1, files(out) // 5)
        process = subprocess.Popen(
            command(config, workdir),
            env={**os.environ, "PYTHONPATH": str(root)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        while process.poll() is None and files(workdir) < wanted:
            time.sleep(0.002)
        assert process.poll() is None, "it ended before it could be killed"
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    ended = run(root, config, tmp_path / "killed")
    assert ended.returncode == 0, ended.stderr
    assert results(tmp_path / "killed") == results(out)


def test_a_change_runs_only_what_follows_from_it(finished, root, tmp_path):
    config, out, _ = finished
    moved = tmp_path / "moved"
    shutil.copytree(out, moved)
    plan = run(root, config, moved, "--dry_run")
    assert "to do: 0 stages" in plan.stdout
    plan = run(root, config, moved, "--dry_run", "--config.stages.x.data.red.weight=2.0")
    assert "to do: 1 stages" in plan.stdout
    plan = run(root, config, moved, "--dry_run", "--config.train.optimizer.learning_rate=0.5")
    assert "to do: 3 stages" in plan.stdout


def test_the_report_is_one_file_and_escapes_its_texts(finished):
    _, out, _ = finished
    html = (out / "report.html").read_text()
    assert "&lt;b&gt;things" in html
    assert "<b>things" not in html
    assert "http://" not in html.replace("http://www.w3.org", "")
    assert "https://" not in html
    assert 'src="data:image' in html or "<svg" in html


@pytest.mark.parametrize(
    ("flag", "says"),
    [
        ("--config.nonsense=1", "nonsense"),
        ("--config.stages.base.data.docs.path=/no/such.jsonl", "/no/such.jsonl"),
        ("--config.evals.which.pairs=/no/pairs.jsonl", "/no/pairs.jsonl"),
        ("--config.contrasts.gap.plus=('z',)", "'z'"),
        ("--config.workers=0", "workers"),
        ("--config.seeds=(1,1)", "seeds"),
    ],
)
def test_a_users_mistake_is_one_message(root, tmp_path, make_tiny, flag, says):
    wrong = run(root, make_tiny(tmp_path), tmp_path / "out", "--dry_run", flag)
    assert wrong.returncode == 2, wrong.stdout + wrong.stderr
    assert says in wrong.stderr
    assert "Traceback" not in wrong.stderr
    assert len(wrong.stderr.strip().splitlines()) <= 3


def test_a_corrupt_row_is_named_with_its_line(root, tmp_path, make_tiny):
    config = make_tiny(tmp_path)
    with (tmp_path / "files" / "red.jsonl").open("a") as file:
        file.write('{"text": "cut off\n')
    wrong = run(root, config, tmp_path / "out")
    assert wrong.returncode == 2, wrong.stdout + wrong.stderr
    assert "red.jsonl:4" in wrong.stderr
    assert "Traceback" not in wrong.stderr


def test_help_is_fast_and_says_how(root):
    started = time.time()
    shown = subprocess.run(
        [sys.executable, "-m", "msm_jax.study", "--help"],
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
    )
    assert "--dry_run" in shown.stdout + shown.stderr
    assert "--workdir" in shown.stdout + shown.stderr
    assert time.time() - started < 10
