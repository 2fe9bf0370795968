"""Freed memory is used again without a page fault."""

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
    monkeypatch.setenv("MALLOC_ARENA_MAX", "8")
    assert memory.environment()["MALLOC_ARENA_MAX"] == "8"
