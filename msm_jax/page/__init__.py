"""Every HTML page and fragment: Jinja templates in this directory with one style sheet.

Each value that a template shows is escaped, control characters and half surrogates appear as
backslash escapes, and a name that a template does not get is an error. Pages are single files that
load nothing.
"""

import base64
import functools
import io
import os
import pathlib
from typing import Any

import jinja2
from markupsafe import Markup

from msm_jax.files import write_text

_CONTROL = {code: f"\\x{code:02x}" for code in range(32) if code not in (9, 10)}


def render(template: str, **values: Any) -> str:
    """The HTML of a template, such as "corpus.html", with these values."""
    return _environment().get_template(template).render(values)


def fragment(template: str, **values: Any) -> Markup:
    """As `render`, for a part of a page, which its template does not escape again."""
    return Markup(render(template, **values))


def write(path: str | os.PathLike, template: str, **values: Any) -> None:
    """Replace `path` by the page that `render` returns."""
    write_text(path, render(template, **values))


def data_uri(content: bytes, kind: str) -> str:
    """A file inside of a page; `kind` is its MIME type, such as "image/png"."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def svg_uri(figure: Any) -> str:
    """A figure of matplotlib inside of a page."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return data_uri(buffer.getvalue(), "image/svg+xml")


@functools.cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_printable,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _printable(value: Any) -> Any:
    if isinstance(value, str) and not isinstance(value, Markup):
        return value.encode("utf-8", "backslashreplace").decode("utf-8").translate(_CONTROL)
    return value
