"""`make miniature` and then `make test`, in one checkout, as the README has them."""

import subprocess

import pytest
from test_commands import RUN, words_of

STEPS = [step for step in RUN if step.command.startswith("make ")]


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.command)
def test_a_documented_make_works_where_the_tests_are_and_not_in_the_checkout(step, tmp_path):
    """Else the tests would find what a reader has run there, and would change it."""
    (tmp_path / "runs").mkdir()
    words = [*words_of(step.command), "--dry-run", *step.also.split()]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    [command] = [line for line in done.stdout.splitlines() if "msm_jax.study" in line]
    assert " --workdir=runs/" in command and not command.startswith("cd ")
    assert list(tmp_path.rglob("*")) == [tmp_path / "runs"]
