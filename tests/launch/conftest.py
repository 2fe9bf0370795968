"""The launch scripts with nothing real behind them: a copy of them, a fake cloud, fake machines."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parents[1]
NAMES = ("gcloud", "gsutil", "ssh", "scp", "uv", "program")
# Called most often, so in sh: the metadata server, which says which worker this is, and hostname.
SHORT = {"curl": '"${HOME##*-}"', "hostname": '"${HOME##*/}"'}
SETTINGS = """
NAME=msm
PROJECT=my-project
ZONE=us-east5-a
ACCELERATOR=v5p-16
PROVISION=spot
EXTRA=tpu
SHARED='[ -L shared ] || {{ rmdir shared && ln -s {fake}/shared shared; }}'
BUCKET=gs://my-bucket
SYNC=0.2
POLL=0.02
TRIES=3
BACKOFF=0
"""


@pytest.fixture(scope="session")
def repository(tmp_path_factory):
    """A small repository with the scripts as they stand, committed or not."""
    folder = tmp_path_factory.mktemp("repository")
    shutil.copytree(ROOT / "launch", folder / "launch")
    (folder / "launch" / "settings.sh").unlink(missing_ok=True)
    (folder / "msm_jax").mkdir()
    shutil.copy(ROOT / "msm_jax" / "accelerators.tsv", folder / "msm_jax")
    shutil.copy(ROOT / "constraints.txt", folder)
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@t", "-C", str(folder)]
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "all"]):
        subprocess.run([*git, *words], check=True)
    return folder


class Cloud:
    """Runs scripts of launch/ against a world that `script` describes (see fake.py)."""

    def __init__(self, repository, folder):
        self.repository, self.folder = repository, folder
        (folder / "bin").mkdir()
        (folder / "shared").mkdir()
        for name in NAMES:
            path = folder / "bin" / name
            path.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "{HERE}/fake.py" {name} "$@"\n')
            path.chmod(0o755)
        for name, answer in SHORT.items():
            path = folder / "bin" / name
            record = f"""echo '{{"argv": ["{name}"]}}' >>"$FAKE/calls.jsonl"\n"""
            path.write_text(f"#!/bin/sh\n{record}echo {answer}\n")
            path.chmod(0o755)
        self.environment = {
            "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
            "HOME": str(folder),
            "FAKE": str(folder),
            "SETTINGS": str(folder / "settings.sh"),
            "REAL_PYTHON": "",
            "REAL_PATH": "",
        }
        self.script()
        self.settings("")

    def script(self, **world):
        default = {"creations": [["ACTIVE"]], "workers": 2, "runs": [{}]}
        (self.folder / "script.json").write_text(json.dumps({**default, **world}))
        (self.folder / "world.json").unlink(missing_ok=True)

    def settings(self, more: str) -> None:
        text = SETTINGS.format(fake=self.folder) + more
        (self.folder / "settings.sh").write_text(text)

    def start(self, script: str, *arguments: str, **environment: str) -> subprocess.Popen:
        return subprocess.Popen(
            [str(self.repository / "launch" / script), *arguments],
            env={**self.environment, **environment},
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, script: str, *arguments: str, code: int = 0, **environment: str):
        """(stdout, stderr) of a script that has to end with `code`."""
        process = self.start(script, *arguments, **environment)
        out, err = process.communicate(timeout=300)
        assert process.returncode == code, f"{script} {arguments}: {out}\n{err}"
        return out, err

    def open_gate(self) -> None:
        """Lets programs whose plan has a gate end."""
        (self.folder / "open").touch()

    @property
    def world(self) -> dict:
        return json.loads((self.folder / "world.json").read_text())

    def records(self) -> list[dict]:
        path = self.folder / "calls.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def calls(self, *begin: str) -> list[list[str]]:
        """Every argv that was called and begins so."""
        return [one["argv"] for one in self.records() if one["argv"][: len(begin)] == list(begin)]

    def programs(self) -> list[dict]:
        """What the workers ran by python -m."""
        found = [one for one in self.records() if one["argv"][:2] == ["program", "-m"]]
        return found


@pytest.fixture
def cloud(repository, tmp_path):
    cloud = Cloud(repository, tmp_path)
    yield cloud
    for pid in tmp_path.glob("machines/*/*/run/*/pid"):
        subprocess.run(["kill", "-KILL", "--", f"-{pid.read_text().strip()}"], capture_output=True)


@pytest.fixture
def real_python(cloud):
    """Workers whose python is this one, with this checkout's package."""
    cloud.environment.update(REAL_PYTHON=sys.executable, REAL_PATH=str(ROOT))
    return cloud
