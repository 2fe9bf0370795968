"""What the notebooks share: commands with their progress, tables, chats, figures, keys.

All text is escaped, and no key is ever shown.
"""

import codecs
import contextlib
import io
import os
import pathlib
import re
import shlex
import subprocess
import sys
import termios
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msm_jax
from msm_jax import page
from msm_jax.errors import UserError

ROOT = pathlib.Path(msm_jax.__file__).parents[1]  # the checkout, with configs/ and launch/

_ROWS, _COLUMNS = 40, 110  # of the terminal that commands write to
_REDRAW = 0.2  # seconds between two states of a progress bar
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")  # colours and movements of the cursor


def run(
    name: str, *flags: str, quiet: bool = False, environment: Mapping[str, str] | None = None
) -> None:
    """Run `python -m msm_jax.NAME FLAGS...` and show its output, its progress bar too.

    The command writes to a pseudo-terminal. Interrupting the cell sends it SIGTERM: it saves what
    can be saved, and running the same cell again goes on.

    Args:
      name, flags: of the command.
      quiet: show the command line only.
      environment: additional environment variables.

    Raises:
      UserError: it did not exit with 0; the message repeats its last lines.
    """
    print(_command_line(name, flags), flush=True)
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    variables = {**os.environ, "PYTHONPATH": path, "COLUMNS": str(_COLUMNS), **(environment or {})}
    screen = Screen(hidden=quiet)
    ours, theirs = os.openpty()
    termios.tcsetwinsize(theirs, (_ROWS, _COLUMNS))
    with open(ours, "rb", buffering=0) as output:
        with open(theirs, "wb") as terminal:
            process = subprocess.Popen(
                [sys.executable, "-m", f"msm_jax.{name}", *flags],
                stdin=subprocess.DEVNULL, stdout=terminal, stderr=terminal, env=variables,
            )  # fmt: skip
        try:
            decoder = codecs.getincrementaldecoder("utf-8")("replace")
            for part in _parts(output):
                screen.write(decoder.decode(part))
                screen.flush()
            code = process.wait()
        except BaseException:
            process.terminate()
            process.wait()
            raise
    if code:
        last = "\n".join(screen.text.strip().splitlines()[-5:])
        raise UserError(f"msm_jax.{name} exited with {code}:\n{last}")


def _parts(terminal: io.RawIOBase) -> Iterator[bytes]:
    with contextlib.suppress(OSError):  # Linux, once the other end is closed
        while part := terminal.read(65536):
            yield part


def _command_line(name: str, flags: Sequence[str]) -> str:
    """The command as one would type it, one flag per line where it is long."""
    words = [f"$ python -m msm_jax.{name}", *map(shlex.quote, flags)]
    line = " ".join(words)
    return line if len(line) <= _COLUMNS else " \\\n    ".join(words)


class Screen:
    """A cell's output as a small terminal: `train(config, DIR, Screen())`.

    A progress bar stays one line, also in a notebook that is saved or printed. Outside of notebooks
    it writes to stdout.
    """

    def __init__(self, hidden: bool = False):
        self._hidden, self._text, self._display, self._drawn = hidden, "", None, 0.0

    @property
    def text(self) -> str:
        """All lines that it shows."""
        return "\n".join(line.rstrip() for line in self._text.split("\n"))

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        before, newline, last = self._text.rpartition("\n")
        last = re.sub(r"\r+\n", "\n", last + _ESCAPES.sub("", text))
        # What follows a carriage return replaces the line before it.
        self._text = before + newline + re.sub(r"[^\n]*\r(?!\Z)", "", last)
        if self._hidden:
            return len(text)
        if not _in_notebook():
            sys.stdout.write(text.replace("\r\n", "\n"))
        elif "\n" in text or time.monotonic() - self._drawn > _REDRAW:
            self._draw()
        return len(text)

    def flush(self) -> None:
        sys.stdout.flush()

    def _draw(self) -> None:
        from IPython.display import display

        self._drawn, content = time.monotonic(), {"text/plain": self.text.rstrip()}
        if self._display is None:
            self._display = display(content, raw=True, display_id=True)
        else:
            self._display.update(content, raw=True)


def _in_notebook() -> bool:
    ipython = sys.modules.get("IPython")
    return ipython is not None and hasattr(ipython.get_ipython(), "kernel")


def secret(name: str) -> bool:
    """Whether the environment or Colab's secrets have a key of this name.

    Colab's is copied into the environment, where the commands look for it. Its value is neither
    returned nor shown.
    """
    if not os.environ.get(name) and "google.colab" in sys.modules:
        from google.colab import userdata

        try:
            os.environ[name] = userdata.get(name) or ""
        except Exception:  # it has none of this name, or this notebook may not read it
            return False
    return bool(os.environ.get(name))


# ------------------------------------------------------------------ what is shown


def table(head: Sequence[str], rows: Iterable[Sequence[Any]], caption: str = "") -> Any:
    """A table; numbers to the right, with three digits if they are not whole."""
    short = lambda value: float(f"{value:.3g}") if isinstance(value, float) else value
    return _html("table", caption, head=head, rows=[list(map(short, row)) for row in rows])


def texts(items: Sequence[tuple[str, str]], caption: str = "", height: int = 420) -> Any:
    """Titles to click on, each of which opens its text; `height` in pixels, then it scrolls."""
    return _html("texts", caption, items=items, height=height)


def chats(columns: Mapping[str, Sequence[Mapping[str, str]]], caption: str = "") -> Any:
    """Conversations side by side, one column each."""
    return _html("chats", caption, columns=columns)


def show(figure: Any, alt: str) -> Any:
    """A figure of matplotlib as a picture; `alt` describes it in words."""
    return _html("picture", "", alt=alt, uri=page.svg_uri(figure))


def _html(kind: str, caption: str, **values: Any) -> Any:
    from IPython.display import HTML

    return HTML(page.render("notebook.html", kind=kind, caption=caption, **values))


def interval(numbers: Mapping[str, Any], key: str = "rate", signed: bool = False) -> str:
    """ "62 % [41, 83]" of {key, "ci_low", "ci_high"}, or "62 % (no interval)"; "-" without a rate.

    With `signed` points, as of a difference: "+21 [-3, +45]".
    """
    if numbers[key] is None:
        return "-"
    percent = lambda value: f"{100 * value:+.0f}" if signed else f"{100 * value:.0f}"
    bounds = [numbers["ci_low"], numbers["ci_high"]]
    known = " (no interval)" if None in bounds else f" [{', '.join(map(percent, bounds))}]"
    return f"{percent(numbers[key])}{'' if signed else ' %'}{known}"
