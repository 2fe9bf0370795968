"""Several processes are one run: same losses, same bits after a kill, one decision to stop."""

import json
import shutil
import signal
import time

import jax
import numpy as np
import pytest
from processes import Command, finish, free_port, interrupt, losses, start, wait_until, write_config

from msm_jax.weights.checkpoints import load_params


@pytest.fixture
def divisible(config):
    """A stage that eight devices can share, with a checkpoint every seven steps."""
    config.rows, config.steps, config.checkpoint_every = 8, 40, 7
    config.model.update({"heads": 4, "kv_heads": 2, "vocab_size": 96})
    config.optimizer.learning_rate = 1e-3
    return config


@pytest.fixture
def shallow(divisible):
    """The same with one layer, which compiles in less time, where the point is when a run ends."""
    divisible.model.layers = 1
    return divisible


def same_weights(first, second) -> None:
    jax.tree.map(np.testing.assert_array_equal, load_params(first)[1], load_params(second)[1])


def test_eight_devices_killed_at_any_moment_end_with_the_same_bits(divisible, tmp_path):
    divisible.mesh.update({"data": 2, "fsdp": 2, "tensor": 2})
    stage, run = write_config(divisible, tmp_path), tmp_path / "killed"
    for steps in (7, 13):
        started = start(stage, run, 1, 8)
        interrupt(started, run, signal.SIGKILL, started, steps)
        assert finish(started)[0][0] == -signal.SIGKILL
    for where, every in ((run, 7), (tmp_path / "straight", 40)):
        saving = f"--config.checkpoint_every={every}"
        assert finish(start(stage, where, 1, 8, saving))[0][0] == 0
    assert losses(run) == losses(tmp_path / "straight")
    same_weights(run, tmp_path / "straight")


# Only the steps after the first one, which waits for the compiler, have to come in time.
PATIENT = """
import faulthandler, itertools, runpy
later, calls = faulthandler.dump_traceback_later, itertools.count()
def patient(seconds, **how):
    later(seconds if next(calls) else 1800.0, **how)
faulthandler.dump_traceback_later = patient
runpy.run_module("msm_jax.train", run_name="__main__")
"""


@pytest.mark.slow
def test_two_hosts_stop_together_and_survive_a_kill_and_another_number(shallow, tmp_path):
    stage, run, straight = (
        write_config(shallow, tmp_path),
        tmp_path / "run",
        tmp_path / "straight",
    )
    begun = time.monotonic()
    once = "--config.checkpoint_every=40"
    assert [code for code, _ in finish(start(stage, straight, 2, 2, once))] == [0, 0]
    seconds = time.monotonic() - begun
    # SIGTERM reaches one of the hosts: both save the same step, once, and say so by 75.
    started = start(stage, run, 2, 2)
    interrupt(started, run, signal.SIGTERM, started[1:], 8)
    found = finish(started)
    assert [code for code, _ in found] == [75, 75], found
    assert len({err.rpartition("saved step ")[2].split()[0] for _, err in found}) == 1
    # kill -9 of one: the watchdog ends the other, which would wait for it for ever. However busy
    # this machine is, one step takes much less than half of the start and the 40 steps above.
    (tmp_path / "patient.py").write_text(PATIENT)
    limit = f"--config.watchdog={min(seconds / 2, 45):.1f}"
    started = start(stage, run, 2, 2, limit, module="patient")
    interrupt(started, run, signal.SIGKILL, started[1:], 8)
    assert finish(started)[0][0] not in (0, 2, 75)
    shutil.copytree(run, tmp_path / "alone")
    assert [code for code, _ in finish(start(stage, run, 2, 2, once))] == [0, 0]
    assert losses(run) == losses(straight)
    same_weights(run, straight)
    # The same run goes on with another number of processes and devices.
    assert [code for code, _ in finish(start(stage, tmp_path / "alone", 1, 4, once))] == [0]
    found = losses(tmp_path / "alone")
    assert list(found) == list(losses(straight))
    np.testing.assert_allclose(list(found.values()), list(losses(straight).values()), rtol=1e-5)
    made = json.loads((tmp_path / "alone" / "config.json").read_text())["versions"]
    assert made["processes"] == 1


def test_ctrl_c_saves_and_says_so_and_a_second_signal_ends_at_once(shallow, tmp_path):
    shallow.steps, shallow.checkpoint_every = 100_000, 100_000
    stage, run = write_config(shallow, tmp_path), tmp_path / "run"
    started = start(stage, run)
    interrupt(started, run, signal.SIGINT, started, 5)
    ((code, err),) = finish(started)
    assert code == 75 and "Traceback" not in err and "saved step" in err
    assert load_params(run)[2]["step"] == max(losses(run))
    # While it trains, another one in the same directory is refused.
    first = start(stage, run)
    try:
        wait_until(lambda: len(losses(run)) > load_params(run)[2]["step"] + 3, first)
        ((code, err),) = finish(start(stage, run))
        assert code == 2 and "another process is training here" in err
        assert f"process {first[0].pid}" in err and first[0].poll() is None
        # A second signal while it saves: at once, by the number of the signal.
        first[0].send_signal(signal.SIGTERM)
        first[0].send_signal(signal.SIGTERM)
        assert first[0].finish()[0] in (128 + signal.SIGTERM, 75)
    finally:
        first[0].kill()


# The first batch never comes, in C and without letting any other Python thread run.
WATCHED = """
import ctypes, runpy
from msm_jax.train import hosts
def hangs_here(*given):
    ctypes.PyDLL(None).pause()
hosts.place_rows = hangs_here
runpy.run_module("msm_jax.train", run_name="__main__")
"""


def test_the_watchdog_dumps_stacks_and_exits(shallow, tmp_path):
    (tmp_path / "watched.py").write_text(WATCHED)
    shallow.watchdog = 0.5
    stage, run = write_config(shallow, tmp_path), tmp_path / "run"
    flags = f"--config={stage}", f"--workdir={run}"
    code, *_ = Command("watched", *flags, cwd=tmp_path).finish()
    assert code not in (0, 2, 75)
    assert "hangs_here" in (run / "hang.txt").read_text()


BARRIER = """
import sys
from msm_jax.errors import UserError
from msm_jax.train import hosts
number = int(sys.argv[1])
hosts.initialize(sys.argv[2], 2, number)
hosts.barrier("both", 600)
if number == 0:
    try:
        hosts.barrier("alone", 1.0)
    except UserError as error:
        print("refused:", error)
hosts.barrier("end", 600)
"""


def test_a_barrier_has_a_time_limit(tmp_path):
    (tmp_path / "barrier.py").write_text(BARRIER)
    address = f"127.0.0.1:{free_port()}"
    pair = [Command("barrier", str(n), address, cwd=tmp_path) for n in range(2)]
    found = [process.finish() for process in pair]
    assert [code for code, *_ in found] == [0, 0], found
    assert "process 0 waited 1 s for the others at 'alone'" in found[0][1]
