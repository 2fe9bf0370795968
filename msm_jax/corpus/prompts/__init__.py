"""What a language model reads at each step: one Jinja template per step, beside this file.

The spec is the system prompt that all requests of a corpus share, so that providers cache it.
"""

import functools
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import jinja2

from msm_jax.files import sha256_file, sha256_json

FOLDER = pathlib.Path(__file__).parent


@functools.cache
def _environment() -> jinja2.Environment:
    # A template that names a missing input fails instead of leaving a gap. Prompts are plain text,
    # so nothing is escaped; inputs are values and are never read as templates.
    found = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER), undefined=jinja2.StrictUndefined, autoescape=False
    )
    found.filters.update(json=json.dumps, repr=repr)
    return found


def prompt(name: str, inputs: Mapping[str, Any]) -> str:
    """The prompt of a step, such as "document", with its inputs filled in."""
    return _environment().get_template(f"{name}.jinja").render(inputs)


def prompts_hash() -> str:
    """16 hex digits that change with every change of a prompt."""
    return sha256_json([[f.name, sha256_file(f)] for f in sorted(FOLDER.glob("*.jinja"))])[:16]
