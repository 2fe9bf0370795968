"""Regular expressions that are kept in TOML files beside the code that uses them."""

import pathlib
import re
import tomllib
import types


def load_patterns(path: str | pathlib.Path, **parts: str) -> types.SimpleNamespace:
    """The compiled patterns of a file by their names.

    Line breaks are no part of a pattern. {NAME} stands for one of `parts`, or for the text of that
    name further up in the file; texts in capitals are only parts of others.
    """
    found = types.SimpleNamespace()
    for name, text in tomllib.loads(pathlib.Path(path).read_text("utf-8")).items():
        text = re.sub(r"\{([A-Z_]+)\}", lambda slot: parts[slot[1]], text.replace("\n", ""))
        if name.isupper():
            parts[name] = text
        else:
            setattr(found, name, re.compile(text))
    return found
