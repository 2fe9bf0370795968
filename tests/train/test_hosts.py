"""Several processes are one run: same losses, same bits after a kill, one decision to stop."""

import json
import shutil
import signal
import time

import jax
import numpy as np
import pytest
from processes import finish, losses, start, write_config

from msm_jax.weights.checkpoints import load_params


@pytest.fixture
def cuttable(config):
    """A stage that eight devices can share, with a checkpoint every five steps."""
    config.rows, config.steps, config.checkpoint_every = 8, 80, 5
    config.model.update({"heads": 4, "kv_heads": 2, "vocab_size": 96})
    config.optimizer.learning_rate = 1e-3
    return config


def interrupt(started, run, number: signal.Signals, whom, rng) -> None:
    """Sends a signal once the run has got somewhere new, at a moment of chance."""
    before, deadline = len(losses(run)), time.time() + 200
    while len(losses(run)) <= before + 12:
        assert time.time() < deadline and all(p.poll() is None for p in started)
        time.sleep(0.02)
    time.sleep(rng.uniform(0, 0.15))
    for process in whom:
        process.send_signal(number)


def same_weights(first, second) -> None:
    jax.tree.map(np.testing.assert_array_equal, load_params(first)[1], load_params(second)[1])


def test_eight_devices_killed_at_any_moment_end_with_the_same_bits(cuttable, tmp_path):
    cuttable.mesh.update({"data": 2, "fsdp": 2, "tensor": 2})
    stage, rng = write_config(cuttable, tmp_path), np.random.default_rng(0)
    assert finish(start(stage, tmp_path / "whole", 1, 8))[0][0] == 0
    run = tmp_path / "killed"
    for _ in range(2):
        started = start(stage, run, 1, 8)
        interrupt(started, run, signal.SIGKILL, started, rng)
        assert finish(started)[0][0] == -signal.SIGKILL
    assert finish(start(stage, run, 1, 8))[0][0] == 0
    assert losses(run) == losses(tmp_path / "whole")
    same_weights(run, tmp_path / "whole")


@pytest.mark.slow
def test_two_hosts_stop_together_and_survive_a_kill_and_another_number(cuttable, tmp_path):
    stage, rng = write_config(cuttable, tmp_path), np.random.default_rng(1)
    assert [code for code, _ in finish(start(stage, tmp_path / "whole", 2, 2))] == [0, 0]
    whole, run = losses(tmp_path / "whole"), tmp_path / "run"
    # SIGTERM reaches one of the hosts: both save the same step, once, and say so by 75.
    started = start(stage, run, 2, 2)
    interrupt(started, run, signal.SIGTERM, started[1:], rng)
    found = finish(started)
    assert [code for code, _ in found] == [75, 75], found
    assert len({err.rpartition("saved step ")[2].split()[0] for _, err in found}) == 1
    # kill -9 of both.
    started = start(stage, run, 2, 2)
    interrupt(started, run, signal.SIGKILL, started, rng)
    finish(started)
    for copy in ("one", "four"):
        shutil.copytree(run, tmp_path / copy)
    assert [code for code, _ in finish(start(stage, run, 2, 2))] == [0, 0]
    assert losses(run) == whole
    same_weights(run, tmp_path / "whole")
    # The same run goes on with another number of processes and devices.
    assert finish(start(stage, tmp_path / "one", 1, 1))[0][0] == 0
    assert [code for code, _ in finish(start(stage, tmp_path / "four", 4, 1))] == [0] * 4
    for other in ("one", "four"):
        found = losses(tmp_path / other)
        assert list(found) == list(whole)
        np.testing.assert_allclose(list(found.values()), list(whole.values()), rtol=1e-5)
    made = json.loads((tmp_path / "four" / "config.json").read_text())["versions"]
    assert made["processes"] == 4


@pytest.mark.slow
def test_when_a_host_dies_the_other_ends_too(cuttable, tmp_path):
    cuttable.watchdog, cuttable.steps = 20.0, 100_000
    stage, run = write_config(cuttable, tmp_path), tmp_path / "run"
    started = start(stage, run, 2, 1)
    interrupt(started, run, signal.SIGKILL, started[1:], np.random.default_rng(2))
    died = time.time()
    assert started[0].wait(timeout=90) not in (0, 2, 75)
    assert time.time() - died < 60
    finish(started)


def test_ctrl_c_saves_and_says_so_and_a_second_signal_ends_at_once(cuttable, tmp_path):
    cuttable.steps, cuttable.checkpoint_every = 100_000, 100_000
    stage, run = write_config(cuttable, tmp_path), tmp_path / "run"
    started = start(stage, run)
    interrupt(started, run, signal.SIGINT, started, np.random.default_rng(3))
    ((code, err),) = finish(started)
    assert code == 75 and "Traceback" not in err and "saved step" in err
    assert load_params(run)[2]["step"] == max(losses(run))
    # A second signal while it saves: at once, by the number of the signal.
    started = start(stage, run)
    interrupt(started, run, signal.SIGTERM, started, np.random.default_rng(4))
    started[0].send_signal(signal.SIGTERM)
    assert finish(started)[0][0] in (128 + signal.SIGTERM, 75)


def test_a_second_run_in_the_same_directory_is_refused(cuttable, tmp_path):
    cuttable.steps = 100_000
    stage, run = write_config(cuttable, tmp_path), tmp_path / "run"
    first = start(stage, run)
    try:
        while len(losses(run)) < 3:
            assert first[0].poll() is None
            time.sleep(0.05)
        ((code, err),) = finish(start(stage, run))
        assert code == 2 and "another process is training here" in err
        assert f"process {first[0].pid}" in err and first[0].poll() is None
    finally:
        first[0].kill()
        finish(first)


WATCHED = """
import pathlib, sys, threading, time
from msm_jax.train.hosts import Watchdog
dog = Watchdog(0.5, pathlib.Path(sys.argv[1]))
dog.alive()
def hangs_here():
    threading.Event().wait()
hangs_here()
"""


def test_the_watchdog_dumps_stacks_and_exits(run_python, tmp_path):
    started = time.time()
    done = run_python("-c", WATCHED, str(tmp_path / "hang.txt"))
    assert done.returncode not in (0, 2, 75) and time.time() - started < 30
    assert "hangs_here" in (tmp_path / "hang.txt").read_text()


BARRIER = """
import sys
from msm_jax.errors import UserError
from msm_jax.train import hosts
number = int(sys.argv[1])
hosts.initialize(sys.argv[2], 2, number)
import jax
hosts.barrier("both", 60)
if number == 0:
    try:
        hosts.barrier("alone", 1.0)
    except UserError as error:
        print("refused:", error)
hosts.barrier("end", 60)
"""


def test_a_barrier_has_a_time_limit(tmp_path):
    import socket
    import subprocess
    import sys

    from processes import ROOT

    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{found.getsockname()[1]}"
    pair = [
        subprocess.Popen(
            [sys.executable, "-c", BARRIER, str(n), address],
            cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for n in range(2)
    ]  # fmt: skip
    found = [process.communicate(timeout=120) for process in pair]
    assert [process.returncode for process in pair] == [0, 0], found
    assert "process 0 waited 1 s for the others at 'alone'" in found[0][0]
