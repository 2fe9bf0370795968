"""Environment variables by which glibc keeps freed memory for the next step of training on a CPU.

XLA frees a step's temporaries and allocates them again in the next step. By default glibc maps them
anew each time, and the system zeroes every page at its first use: 443,000 page faults in a step of
20M parameters on 4,096 tokens, a tenth of its processor time.

Thresholds alone do not help, because XLA allocates in threads, whose arenas hold at most 64 MB.
Hence one arena, and huge pages: one arena of small pages had a peak of 5.9 GiB instead of 2.6.

glibc reads the variables when a program starts. So a study sets them for its workers, and `train`,
`evaluate` and `sample` start themselves again (`restart`). MSM_JAX_KEEP_MEMORY=off turns both off.
"""

import itertools
import os
import pathlib
import platform
import re
import sys

from msm_jax import accelerators

VARIABLE = "MSM_JAX_KEEP_MEMORY"
THRESHOLDS = {
    "MALLOC_MMAP_THRESHOLD_": "8000000000",
    "MALLOC_TRIM_THRESHOLD_": "8000000000",
    "MALLOC_TOP_PAD_": "100000000",
}
ONE_ARENA = {"MALLOC_ARENA_MAX": "1", "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
HUGE_PAGES = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")
KNOWS_HUGE_PAGES = (2, 35)  # the first glibc with that tunable


def environment() -> dict[str, str]:
    """For a process that is to be started; what the user has set stays as it is.

    Empty without glibc, or if $MSM_JAX_KEEP_MEMORY is off. One arena is used where glibc can ask
    the system for huge pages.
    """
    version = _glibc()
    if not version or os.environ.get(VARIABLE) == "off":
        return {}
    given = THRESHOLDS | (ONE_ARENA if version >= KNOWS_HUGE_PAGES and _has_huge_pages() else {})
    return {name: os.environ.get(name, value) for name, value in given.items()}


def restart(command: str) -> None:
    """Start `python -m COMMAND` again with `environment()`, if it will compute on a CPU.

    The new program replaces this one, which keeps its process id, files, terminal and signals. To
    be called before JAX and other slow imports. Nothing happens in a process that was started in
    another way, such as a fork or a test, or where the variables are set already.
    """
    given = environment()
    is_command = ("-m", command) in itertools.pairwise(sys.orig_argv)
    if given.items() <= os.environ.items() or not is_command or not computes_on_cpu():
        return
    try:
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, **given})
    except OSError:  # it works without them, only slower
        return


def _glibc() -> tuple[int, ...]:
    """(2, 36), or () where the C library is another."""
    name, version = platform.libc_ver()
    return tuple(map(int, re.findall(r"\d+", version))) if name == "glibc" else ()


def _has_huge_pages() -> bool:
    """Whether the system gives huge pages on request, and the user's tunables allow to ask."""
    tunable = ONE_ARENA["GLIBC_TUNABLES"]
    try:
        given = "[never]" not in HUGE_PAGES.read_text(encoding="utf-8")
    except OSError:
        return False
    return given and tunable in os.environ.get("GLIBC_TUNABLES", tunable)


def computes_on_cpu() -> bool:
    """Known without JAX: $JAX_PLATFORMS says so, or there is no accelerator."""
    first = os.environ.get("JAX_PLATFORMS", "").split(",")[0]
    return first == "cpu" if first else not (accelerators.gpus() or accelerators.tpu_chips())
