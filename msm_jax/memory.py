"""Variables with which a process that computes on a CPU keeps freed memory for its next step.

XLA frees the temporaries of a step and asks for them again in the next. With glibc's defaults they
are mapped anew each time, and the system zeroes every page at its first use: 443,000 page faults in
a step of 20M parameters on 4,096 tokens, a tenth of its processor time.

The thresholds alone do not help: XLA allocates in threads, whose arenas hold at most 64 MB, and
what is larger is mapped all the same. Hence one arena, which grows without that bound, and huge
pages. One arena of small pages is not used: its peak memory was 5.9 GiB instead of 2.6.
"""

import os
import pathlib

THRESHOLDS = {
    "MALLOC_MMAP_THRESHOLD_": "8000000000",
    "MALLOC_TRIM_THRESHOLD_": "8000000000",
    "MALLOC_TOP_PAD_": "100000000",
}
ONE_ARENA = {"MALLOC_ARENA_MAX": "1", "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
HUGE_PAGES = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")


def environment() -> dict[str, str]:
    """For a process that is to be started; what the user has set stays as it is.

    Only glibc reads them. One arena is used where the system has huge pages on request.
    """
    given = THRESHOLDS | (ONE_ARENA if _has_huge_pages() else {})
    return {name: os.environ.get(name, value) for name, value in given.items()}


def _has_huge_pages() -> bool:
    try:
        return "[never]" not in HUGE_PAGES.read_text(encoding="utf-8")
    except OSError:
        return False
