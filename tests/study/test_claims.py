"""A claim is held by one process; a dead one's is taken over by one; nothing here waits."""

import json
import os
import random
import signal

import pytest
from forks import forks

from msm_jax.study.claims import STALE, Claims, _started

ELSEWHERE = {"machine": "m", "host": "h", "pid": 1, "started": "1", "token": "t"}


@pytest.fixture
def foreign(tmp_path):
    """The file of a claim "a" that a process on another machine holds."""
    path = tmp_path / "claims" / "a.0"
    path.parent.mkdir()
    path.write_text(json.dumps(ELSEWHERE))
    return path


def test_a_process_that_has_ended_holds_nothing(tmp_path):
    assert forks(lambda _: int(Claims(tmp_path).take("a")), 1) == [1]
    assert (tmp_path / "claims" / "a.0").exists()
    claims = Claims(tmp_path)
    assert claims.take("a") and not Claims(tmp_path).take("a") and Claims(tmp_path).take("b")
    assert claims.holder("a") == f"process {os.getpid()} on host {os.uname().nodename}"
    claims.release("a")
    assert Claims(tmp_path).take("a")


@pytest.mark.parametrize("content", [json.dumps(ELSEWHERE), "", "[]", '{"machine": 1}'])
def test_a_claim_is_dead_if_its_time_does_not_change(tmp_path, foreign, content):
    foreign.write_text(content)
    now = [1000.0]
    claims = Claims(tmp_path, lambda: now[0])
    assert not claims.take("a")  # however old the file is: clocks of machines may differ
    now[0] += STALE
    assert not claims.take("a")
    os.utime(foreign, ns=(7, 7))  # a beat
    now[0] += 1
    assert not claims.take("a")
    now[0] += STALE + 1
    assert claims.take("a")
    assert [path.name for path in foreign.parent.iterdir()] == ["a.1"]


def test_one_of_many_takes_over_a_dead_claim(tmp_path, foreign):
    """All find it dead before the first one acts; those who are late find it taken."""
    now = [0.0]
    many = [Claims(tmp_path, lambda: now[0]) for _ in range(8)]
    assert not any(claims.take("a") for claims in many)
    now[0] += STALE + 1
    late = many[0]._look("a")
    for claims in many:  # each acts on what it saw before the others acted
        claims._look = Looks(late, claims._look)
    assert [claims.take("a") for claims in many].count(True) == 1


def test_who_is_late_by_a_whole_round_takes_nothing(tmp_path):
    """The dead claim is taken over and released, and another one has the first number again."""
    forks(lambda _: int(Claims(tmp_path).take("a")), 1)
    late, second, third = (Claims(tmp_path) for _ in range(3))
    late._look = Looks(late._look("a"), late._look)
    assert second.take("a")
    second.release("a")
    assert third.take("a")
    assert not late.take("a")
    third.beat()
    assert not third.lost


class Looks:
    """What a process sees that looks once, and then nothing for a while."""

    def __init__(self, first, later):
        self._first, self._later = [first], later

    def __call__(self, name):
        return self._first.pop() if self._first else self._later(name)


def test_who_has_lost_a_claim_notices_and_leaves_the_new_one_alone(tmp_path):
    first = Claims(tmp_path)
    assert first.take("a")
    first.beat()
    path = tmp_path / "claims" / "a.0"
    path.write_text(json.dumps(ELSEWHERE))  # another one's, under the same number
    first.beat()
    assert first.lost == {"a"}
    first.release("a")
    assert path.exists()


def test_no_two_are_inside_however_they_come_go_and_die(tmp_path):
    inside = tmp_path / "inside"

    def visit(number: int) -> int:
        rng, claims = random.Random(number), Claims(tmp_path)
        for _ in range(25):
            with claims.hold("a"):
                if inside.exists() and not _started(int(inside.read_text())):
                    inside.unlink()  # of one that was killed there
                with inside.open("x") as file:  # an error if another one is inside
                    file.write(str(os.getpid()))
                if number >= 4 and rng.random() < 0.2:
                    os.kill(os.getpid(), signal.SIGKILL)
                inside.unlink()
        return 0

    ends = forks(visit, 8)
    assert ends[:4] == [0] * 4 and set(ends[4:]) <= {0, -signal.SIGKILL}
    assert -signal.SIGKILL in ends
