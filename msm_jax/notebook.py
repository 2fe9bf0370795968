"""What the notebooks share: commands with their progress, tables, chats, figures, keys.

Everything that is shown is escaped; no key is ever shown.
"""

import codecs
import fcntl
import html
import os
import pathlib
import re
import shlex
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msm_jax
from msm_jax.errors import UserError

ROOT = pathlib.Path(msm_jax.__file__).parents[1]  # of the checkout: configs/ and launch/ lie there

_ROWS, _COLUMNS = 40, 110  # of the terminal that commands believe in
_REDRAW = 0.2  # seconds between two looks at a bar
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")  # colours and movements of the cursor
_SHORT = 24  # characters that a cell does not break
_CELL = "padding:.2em .9em;border-bottom:1px solid rgba(128,128,128,.35);vertical-align:top;"
_TABLE = "border-collapse:collapse;margin:.4em 0;font-size:13px;"
_BUBBLE = "margin:.35em 0;padding:.45em .7em;border-radius:.6em;white-space:pre-wrap;"
_GROUND = {"user": "rgba(128,128,128,.16)", "assistant": "rgba(42,111,151,.20)"}


def run(
    name: str, *flags: str, quiet: bool = False, environment: Mapping[str, str] | None = None
) -> None:
    """Runs `python -m msm_jax.NAME FLAGS...` and shows what it says, its progress bar too.

    The command believes that it speaks to a terminal. Interrupting the cell stops it as SIGTERM
    does: what can be saved is saved, and the same cell goes on.

    Args:
      name, flags: of the command.
      quiet: show the command alone.
      environment: variables that it gets beside those that are set.

    Raises:
      UserError: it did not end with 0; the message repeats its last lines.
    """
    print(_command(["python", "-m", f"msm_jax.{name}"], flags), flush=True)
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    variables = {**os.environ, "PYTHONPATH": path, "COLUMNS": str(_COLUMNS), **(environment or {})}
    screen = Screen(hidden=quiet)
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", _ROWS, _COLUMNS, 0, 0))
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", f"msm_jax.{name}", *flags],
            stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs, env=variables,
        )  # fmt: skip
    finally:
        os.close(theirs)
    try:
        _copy(ours, screen)
        code = process.wait()
    except BaseException:
        process.terminate()
        process.wait()
        raise
    finally:
        os.close(ours)
    if code:
        last = "\n".join(screen.text.strip().splitlines()[-5:])
        raise UserError(f"msm_jax.{name} ended with {code}:\n{last}")


def _command(program: Sequence[str], flags: Sequence[str]) -> str:
    """The command as one would type it, a flag to a line where it is long."""
    line = f"$ {shlex.join([*program, *flags])}"
    if len(line) <= _COLUMNS:
        return line
    return " \\\n    ".join([f"$ {shlex.join(program)}", *map(shlex.quote, flags)])


def _copy(source: int, screen: "Screen") -> None:
    """Until the other end of a pseudo-terminal is closed."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    while True:
        try:
            found = os.read(source, 65536)
        except OSError:  # how Linux says that nobody is at the other end any more
            found = b""
        screen.write(decoder.decode(found, final=not found))
        if not found:
            return
        screen.flush()


class Screen:
    """A cell's output as a small terminal: `train(config, DIR, Screen())`.

    A progress bar stays one line that changes, also in a notebook that is saved or printed.
    Outside of notebooks it is stdout.
    """

    def __init__(self, hidden: bool = False):
        self._hidden, self._lines, self._column = hidden, [""], 0
        self._display, self._drawn = None, 0.0

    @property
    def text(self) -> str:
        """What stands on it."""
        return "\n".join(line.rstrip() for line in self._lines)

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        for part in re.split("(\r|\n)", _ESCAPES.sub("", text)):
            if part == "\n":
                self._lines.append("")
            if part in ("\r", "\n"):
                self._column = 0
                continue
            line, end = self._lines[-1].ljust(self._column), self._column + len(part)
            self._lines[-1] = line[: self._column] + part + line[end:]
            self._column = end
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
    """Whether there is a key of this name: in the environment, or among Colab's secrets.

    One that Colab has is put into the environment, where the commands look for it. Its value is
    neither returned nor shown.
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
    """A table; numbers to the right, every text escaped."""
    top = "".join(f'<th style="{_CELL}text-align:left">{_text(name)}</th>' for name in head)
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    title = f'<caption style="text-align:left;opacity:.75">{_text(caption)}</caption>'
    return _html(f'<table style="{_TABLE}">{title if caption else ""}<tr>{top}</tr>{body}</table>')


def texts(items: Sequence[tuple[str, str]], caption: str = "", height: int = 420) -> Any:
    """Titles to click on, each of which opens its text; `height` in pixels, then it scrolls."""
    return _html(
        _caption(caption)
        + f'<div style="max-height:{height}px;overflow:auto;border:1px solid rgba(128,128,128,.4);'
        'border-radius:.4em;padding:.4em .8em">'
        + "".join(
            f'<details style="margin:.25em 0"><summary style="cursor:pointer">{_text(title)}'
            f'</summary><pre style="white-space:pre-wrap;margin:.4em 1.2em;font-size:12px">'
            f"{_text(text)}</pre></details>"
            for title, text in items
        )
        + ("" if items else "none")
        + "</div>"
    )


def chats(columns: Mapping[str, Sequence[Mapping[str, str]]], caption: str = "") -> Any:
    """Conversations side by side, one column each."""
    parts = []
    for label, messages in columns.items():
        said = "".join(
            f'<div style="{_BUBBLE}background:{_GROUND.get(m["role"], "none")}">'
            f'<small style="opacity:.65">{_text(m["role"])}</small><br>{_text(m["content"])}</div>'
            for m in messages
        )
        parts.append(f'<div style="flex:1;min-width:14em"><b>{_text(label)}</b>{said}</div>')
    flex = f'<div style="display:flex;gap:1.2em;flex-wrap:wrap">{"".join(parts)}</div>'
    return _html(_caption(caption) + flex)


def show(figure: Any, alt: str) -> Any:
    """A figure of matplotlib as a picture; `alt` says what there is to see."""
    from msm_jax.study.plots import svg_uri

    return _html(f'<img alt="{_text(alt)}" style="max-width:100%" src="{svg_uri(figure)}">')


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


def _html(text: str) -> Any:
    from IPython.display import HTML

    return HTML(text)


def _caption(text: str) -> str:
    return f'<div style="opacity:.75;margin:.3em 0">{_text(text)}</div>' if text else ""


def _text(value: Any) -> str:
    return html.escape(str(value))


def _cell(value: Any) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool):
        number = f"{value:,}" if isinstance(value, int) else f"{value:,.3g}"
        return f'<td style="{_CELL}text-align:right">{number}</td>'
    wrap = "nowrap" if len(str(value)) <= _SHORT else "pre-wrap"
    return f'<td style="{_CELL}text-align:left;white-space:{wrap}">{_text(value)}</td>'
