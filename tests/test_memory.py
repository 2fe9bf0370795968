"""Freed memory is used again without a page fault, by workers and by commands."""

import json
import os
import re
import subprocess
import sys

import pytest

from msm_jax import memory

FAULTS = """
import ctypes, resource, threading
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]

def use():  # in a thread, as XLA allocates
    for _ in range(2):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        ctypes.memset(block := libc.malloc(2**28), 1, 2**28)
        libc.free(block)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

thread = threading.Thread(target=use)
thread.start()
thread.join()
"""

# A config file: says what the command's process is, and interrupts it.
PROBE = """
import json, os, signal, sys

def get_config():
    given = {name: os.environ.get(name) for name in NAMES}
    print(json.dumps([os.getpid(), given, sys.stdin.read()]), flush=True)
    os.kill(os.getpid(), signal.SIGINT)
    signal.pause()
"""


@pytest.fixture(autouse=True)
def on(monkeypatch):
    """The suite turns the setting off for the commands that it starts."""
    for name in (memory.VARIABLE, *memory.THRESHOLDS, *memory.ONE_ARENA):
        monkeypatch.delenv(name, raising=False)
    if not memory.environment():
        pytest.skip("the C library is not glibc")


@pytest.fixture
def probe(tmp_path):
    path = tmp_path / "probe.py"
    names = [*memory.THRESHOLDS, *memory.ONE_ARENA]
    path.write_text(f"NAMES = {names}\n{PROBE}")
    return f"--config={path}"


def test_a_large_block_is_used_again_without_page_faults(run_python):
    given = memory.environment()
    if "MALLOC_ARENA_MAX" not in given:
        pytest.skip("no huge pages on this system")
    second = lambda **variables: int(run_python("-c", FAULTS, **variables).stdout.split()[1])
    assert second() > 10_000
    assert second(**given) < 100


def test_without_huge_pages_arenas_stay_as_they_are_and_the_users_settings_win(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(memory, "HUGE_PAGES", tmp_path / "enabled")
    assert memory.environment().keys() == memory.THRESHOLDS.keys()
    (tmp_path / "enabled").write_text("always madvise [never]")
    assert "GLIBC_TUNABLES" not in memory.environment()
    (tmp_path / "enabled").write_text("always [madvise] never")
    monkeypatch.setattr(memory, "_glibc", lambda: (2, 31))
    assert "GLIBC_TUNABLES" not in memory.environment()
    monkeypatch.setattr(memory, "_glibc", lambda: (2, 35))
    monkeypatch.setenv("MALLOC_ARENA_MAX", "8")
    assert memory.environment()["MALLOC_ARENA_MAX"] == "8"
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.check=1")  # no huge pages
    assert memory.environment().keys() == memory.THRESHOLDS.keys()
    monkeypatch.setenv(memory.VARIABLE, "off")
    assert memory.environment() == {}


@pytest.mark.parametrize(
    ("variables", "is_set"),
    [
        ({"JAX_PLATFORMS": "cpu"}, True),
        ({"JAX_PLATFORMS": "cpu", memory.VARIABLE: "off"}, False),
        ({"JAX_PLATFORMS": "cuda,cpu"}, False),
    ],
)
def test_a_command_on_the_cpu_has_the_variables_and_is_the_process_that_was_started(
    probe, root, tmp_path, variables, is_set
):
    """Also its standard input, and what Ctrl-C does, are those of the process before."""
    command = [sys.executable, "-m", "msm_jax.train", probe, "--workdir=run"]
    with subprocess.Popen(
        command,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(root), **variables},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        out, err = process.communicate("a line", timeout=300)
    pid, found, line = json.loads(out)
    wanted = memory.environment() if is_set else {}
    assert {name: value for name, value in found.items() if value is not None} == wanted
    assert (pid, line, process.returncode) == (process.pid, "a line", 130)
    assert err == "stopped: run the same command again to go on\n"


def test_a_fork_does_not_start_anything_again(probe, forked, tmp_path):
    on = {"JAX_PLATFORMS": "cpu", memory.VARIABLE: "on"}
    done = forked("msm_jax.train", [probe, "--workdir=run"], tmp_path, env=on)
    assert done["code"] == 130, done["err"]
    assert set(json.loads(done["out"])[1].values()) == {None}


@pytest.mark.parametrize("name", ["train", "evaluate", "sample"])
def test_commands_start_again_before_slow_imports(root, name):
    files = (root / "msm_jax" / f"{name}.py", root / "msm_jax" / name / "__main__.py")
    text = next(file for file in files if file.exists()).read_text(encoding="utf-8")
    before, call, _ = text.partition(f'memory.restart("msm_jax.{name}")')
    assert call and re.findall(r"^(?:import|from) .*", before, re.M) == [
        "from msm_jax import memory"
    ]
