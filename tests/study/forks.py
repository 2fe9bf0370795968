"""Processes for tests: forks of the one that runs them."""

import os
import traceback
from collections.abc import Callable


def forks(function: Callable[[int], int], count: int) -> list[int]:
    """How `count` forks ended that call a function of their number: exit codes, or -signal."""
    children = []
    for number in range(count):
        if child := os.fork():
            children.append(child)
            continue
        code = 99
        try:
            code = function(number)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
