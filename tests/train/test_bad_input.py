"""What a user gets wrong ends in one message and exit code 2, and nothing is lost."""

import os
import re
import shutil
import subprocess

import pytest
from processes import finish, losses, start, write_config

from msm_jax.weights.checkpoints import directory, steps


@pytest.fixture
def run_train(config, tmp_path):
    """Runs the command with the tiny stage and further flags: (exit code, stderr)."""
    file = write_config(config, tmp_path)

    def run(*flags: str, workdir=tmp_path / "run") -> tuple[int, str]:
        ((code, err),) = finish(start(file, workdir, 1, 1, *flags))
        return code, err

    return run


def is_one_message(done: tuple[int, str], *parts: str) -> None:
    code, err = done
    assert code == 2, done
    assert "Traceback" not in err
    assert len(err.strip().splitlines()) <= 6, err
    for part in parts:
        assert part in err


@pytest.mark.parametrize(
    ("flag", "parts"),
    [
        ("--config.learning_rat=1", ("learning_rat",)),
        ("--config.mesh.tensor=3", ("mesh.tensor=3", "impossible mesh", "has 1")),
        ("--config.data.documents.path=/no/documents.jsonl", ("/no/documents.jsonl",)),
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
    assert run_train()[0] == 0
    from msm_jax.data.chat import CHAT_FORMATS
    from msm_jax.data.tokenizer import train_sentencepiece

    other = tmp_path / "other.model"
    control = (*CHAT_FORMATS["compact"].control_tokens, "<|another|>")
    train_sentencepiece(material / "corpus.txt", other, 80, control)
    before = (tmp_path / "run" / "tokenizer.model").read_bytes()
    wrong = run_train(f"--config.tokenizer={other}")
    is_one_message(wrong, "tokenizer", "another run's")
    assert (tmp_path / "run" / "tokenizer.model").read_bytes() == before
    assert run_train()[0] == 0


@pytest.mark.parametrize("name", ["checkpoints", "checkpoints/4", "tensorboard", "log.txt"])
def test_a_run_is_not_written_through_a_link(tmp_path, name):
    from msm_jax.errors import UserError
    from msm_jax.train.stage import check_place

    (tmp_path / "run" / name).parent.mkdir(parents=True)
    (tmp_path / "run" / name).symlink_to(tmp_path / "outside")
    with pytest.raises(UserError, match=f"run/{name}: is a link to .*outside"):
        check_place(tmp_path / "run", "")


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
    keep = "--config.keep=100", "--config.checkpoint_every=4"
    full = run_train(*keep, workdir=small_disk / "run")
    is_one_message(full, "free some space and run the same command again")
    # A checkpoint counts as saved when it is on the disk, and not before.
    said = [int(step) for step in re.findall(r"step (\d+): saved", full[1])]
    assert said == steps(directory(small_disk / "run"))
    os.system(f"mount -o remount,size=16m {small_disk}")
    assert run_train(*keep, workdir=small_disk / "run")[0] == 0
    assert run_train(*keep, workdir=tmp_path / "straight")[0] == 0
    assert losses(small_disk / "run") == losses(tmp_path / "straight")
