"""What a user gets wrong ends in one message and exit code 2, and nothing is lost."""

import json
import os
import shutil
import subprocess

import pytest

CONFIG = """
import json
from ml_collections import ConfigDict

def get_config():
    return ConfigDict(json.loads({json!r})).lock()
"""


@pytest.fixture
def run_train(config, tmp_path, run_python):
    """Runs the command with the tiny stage and further flags."""
    file = tmp_path / "stage.py"
    file.write_text(CONFIG.format(json=config.to_json()))

    def run(*flags: str, workdir=tmp_path / "run"):
        return run_python("-m", "msm_jax.train", f"--config={file}", f"--workdir={workdir}", *flags)

    return run


def is_one_message(done, *parts: str) -> None:
    assert done.returncode == 2, (done.returncode, done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) <= 6, done.stderr
    for part in parts:
        assert part in done.stderr


def losses(run) -> dict[int, float]:
    rows = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return {row["step"]: row["loss"] for row in rows if "loss" in row}


@pytest.mark.parametrize(
    ("flag", "parts"),
    [
        ("--config.learning_rat=1", ("learning_rat",)),
        ("--config.mesh.tensor=3", ("mesh.tensor=3", "impossible mesh", "has 1")),
        ("--config.data.documents.path=/no/documents.jsonl", ("/no/documents.jsonl",)),
        ("--config.parent=/no/run", ("/no/run",)),
        ("--config.rows=zero", ("rows",)),
    ],
)
def test_wrong_flags(run_train, tmp_path, flag, parts):
    is_one_message(run_train(flag), *parts)
    assert not (tmp_path / "run").exists()


def test_a_corrupt_row_is_named_by_file_and_line(run_train, material, tmp_path):
    broken = tmp_path / "broken.jsonl"
    lines = (material / "documents.jsonl").read_text().splitlines()
    lines[6] = lines[6][:-4]
    broken.write_text("\n".join(lines) + "\n")
    is_one_message(run_train(f"--config.data.documents.path={broken}"), f"{broken}:7")


def test_another_tokenizer_is_refused_and_the_run_is_unharmed(run_train, material, tmp_path):
    assert run_train("--config.steps=4").returncode == 0
    from msm_jax.data.chat import CHAT_FORMATS
    from msm_jax.data.tokenizer import train_sentencepiece

    other = tmp_path / "other.model"
    control = (*CHAT_FORMATS["compact"].control_tokens, "<|another|>")
    train_sentencepiece(material / "corpus.txt", other, 80, control)
    before = (tmp_path / "run" / "tokenizer.model").read_bytes()
    wrong = run_train("--config.steps=4", f"--config.tokenizer={other}")
    is_one_message(wrong, "tokenizer", "another run's")
    assert (tmp_path / "run" / "tokenizer.model").read_bytes() == before
    assert run_train("--config.steps=4").returncode == 0


@pytest.fixture
def small_disk(tmp_path):
    """A directory on a file system with room for the first checkpoints only."""
    where = tmp_path / "disk"
    where.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=160k", "none", str(where)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root")
    yield where
    subprocess.run(["umount", "-l", str(where)], check=True)


def test_a_full_disk_costs_no_checkpoint(run_train, small_disk, tmp_path):
    keep = "--config.keep=100"
    full = run_train(keep, workdir=small_disk / "run")
    is_one_message(full, "free some space and run the same command again")
    os.system(f"mount -o remount,size=16m {small_disk}")
    assert run_train(keep, workdir=small_disk / "run").returncode == 0
    assert run_train(keep, workdir=tmp_path / "straight").returncode == 0
    assert losses(small_disk / "run") == losses(tmp_path / "straight")
