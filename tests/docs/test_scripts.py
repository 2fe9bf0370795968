"""The scripts of the figures: every command that they would run has flags and keys that exist."""

import collections
import os
import shlex
import subprocess

import command_flags
import pytest
from commands import ROOT

SCRIPTS = sorted((ROOT / "scripts").glob("fig*.sh"))


def printed(script, mode, folder, **environment) -> list[list[str]]:
    """The commands that a script prints, in a directory without any data."""
    given = {**os.environ, "VALUES": "environment", "PYTHON": "true", **environment}
    done = subprocess.run(
        [script, mode], cwd=folder, env=given, text=True, capture_output=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return [shlex.split(line) for line in done.stdout.splitlines()]


def test_every_figure_has_a_script():
    figures = {path.stem for path in (ROOT / "configs" / "paper").glob("*.py")}
    assert {path.stem for path in SCRIPTS} == figures


def test_every_command_of_a_script_parses(tmp_path):
    by_module = collections.defaultdict(dict)
    for script in SCRIPTS:
        for _, _, module, *arguments in printed(script, "print", tmp_path):
            # Those that differ in values alone are checked once.
            names = [word if word.startswith("--config=") else word.partition("=")[0]
                     for word in arguments if word != "--dry_run"]  # fmt: skip
            by_module[module].setdefault(tuple(names), (script.name, arguments))
    assert by_module.keys() == {
        f"msm_jax.{name}" for name in ("generate", "convert", "study", "study.compile",
                                       "study.compare")
    }  # fmt: skip
    for module, shown in by_module.items():
        errors = command_flags.probe(module, [arguments for _, arguments in shown.values()])
        wrong = [
            (*named, error)
            for named, error in zip(shown.values(), errors["errors"], strict=True)
            if error
        ]
        assert not wrong
    assert sum(map(len, by_module.values())) > 40 and not [*tmp_path.iterdir()]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_miniature_is_one_study(script, tmp_path):
    (command,) = printed(script, "miniature", tmp_path)
    config = f"--config=configs/paper/{script.stem}.py:miniature"
    assert command[:4] == ["python", "-m", "msm_jax.study", config]


def test_what_is_there_is_not_written_again(tmp_path):
    (tmp_path / "data").mkdir()
    names = ["msm-qwen-philosophy-spec.parquet", "ablated.jsonl", "neutral.jsonl"]
    for name in (*names, "aft-80k.jsonl"):
        (tmp_path / "data" / name).touch()
    commands = printed(ROOT / "scripts" / "fig5.sh", "real", tmp_path, TOPOLOGY="")
    assert [command[2] for command in commands] == [
        "msm_jax.convert", "msm_jax.study", "msm_jax.study"
    ] * 2  # fmt: skip
