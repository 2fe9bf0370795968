"""The one progress bar: on a terminal a line that is drawn again, elsewhere nothing."""

import sys
from typing import TextIO

from tqdm import tqdm


def progress_bar(
    total: int | None,
    title: str,
    unit: str = "",
    done: int = 0,
    out: TextIO | None = None,
    hidden: bool = False,
) -> tqdm:
    """A bar to `update(count)`, `set_postfix_str(text)` and `close()`; also a context manager.

    Args:
      total: how many units there are; None if nobody knows.
      title: what is being done.
      unit: what is counted, such as "rows".
      done: how many units were there from an earlier run.
      out: where to draw, standard error by default; nothing is drawn where it is no terminal.
      hidden: draw nothing.
    """
    return tqdm(
        desc=title,
        total=total,
        initial=done,
        unit=f" {unit}" if unit else "",
        file=out or sys.stderr,
        disable=True if hidden else None,
        dynamic_ncols=True,
        leave=False,
    )
