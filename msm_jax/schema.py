"""What a JSON file of ours must hold, and one message about the first place where it does not.

A form is one of

    int, float, str, bool    a value of this type: a whole number is also a float, true is no number
    None, "text"             exactly this value
    object                   anything
    (form, form)             one of them
    [form]                   a list of any length
    [form, form]             a list of exactly these
    {"key": form}            an object with this key; "key?" may be missing, other keys are ignored
    {str: form}              an object with any keys
"""

import reprlib
from collections.abc import Iterator, Mapping
from typing import Any

from msm_jax.errors import UserError

LARGEST, LARGEST_FLOAT = 2**63, 1e300  # so that no arithmetic on numbers out of a file overflows
NUMBER = (float, None)  # a file writes null where a number is not finite
_NAMES = {
    int: "a whole number",
    float: "a number",
    str: "a text",
    bool: "true or false",
    None: "null",
}
_SHORT = reprlib.Repr()
_SHORT.maxstring, _SHORT.maxlevel = 60, 3


def check(value: Any, form: Any, where: str) -> Any:
    """The value, if it has this form.

    Raises:
      UserError: `where`, the path of the first entry that is wrong, and what it must be.
    """
    if problem := mismatch(value, form):
        raise UserError(f"{where}: {problem}")
    return value


def mismatch(value: Any, form: Any, at: str = "") -> str:
    """The first problem, such as "summary.steps must be a whole number, not 'x'"; "" if none."""
    if isinstance(form, tuple):
        # Of an object the problem of the alternative that it is meant to be, by its constants.
        if meant := [each for each in form if _is_meant(value, each)]:
            problems = [mismatch(value, each, at) for each in meant]
            return "" if "" in problems else problems[0]
        if not all(mismatch(value, each, at) for each in form):
            return ""
        constants = filter(None, (mismatch(value, each, at) for each in _constants(value, form)))
        return next(constants, _wrong(value, form, at))
    if isinstance(form, Mapping) and isinstance(value, dict):
        return next(filter(None, _of_object(value, form, at)), "")
    if isinstance(form, list) and isinstance(value, list):
        if len(form) > 1 and len(form) != len(value):
            return f"{at or 'it'} must have {len(form)} entries, not {len(value)}"
        forms = form if len(form) > 1 else form * len(value)
        entries = enumerate(zip(value, forms, strict=True))
        found = (mismatch(each, inner, f"{at}[{n}]") for n, (each, inner) in entries)
        return next(filter(None, found), "")
    return "" if _fits(value, form) else _wrong(value, form, at)


def _of_object(value: dict, form: Mapping, at: str) -> Iterator[str]:
    inside = lambda key: f"{at}.{key}" if at else key
    if str in form:
        yield from (mismatch(each, form[str], inside(key[:60])) for key, each in value.items())
        return
    for name, inner in form.items():
        key = name.removesuffix("?")
        if key in value:
            yield mismatch(value[key], inner, inside(key))
        elif key == name:
            yield f"{inside(key)} is missing"


def _is_meant(value: Any, form: Any) -> bool:
    """Whether an object has the constants of a form."""
    if not isinstance(form, Mapping) or not isinstance(value, dict):
        return False
    return all(value.get(key) == each for key, each in form.items() if isinstance(each, str))


def _constants(value: Any, forms: tuple) -> list[dict]:
    """For an object that may have one of several forms: what its constants may be, by key."""
    objects = [form for form in forms if isinstance(form, Mapping) and isinstance(value, dict)]
    found: dict[str, tuple] = {}
    for key, each in ((key, each) for form in objects for key, each in form.items()):
        found[key] = (*found.get(key, ()), *([each] if isinstance(each, str) else []))
    return [{key: values} for key, values in found.items() if values]


def _fits(value: Any, form: Any) -> bool:
    if form is object:
        return True
    if form is None or isinstance(form, str):
        return value == form if isinstance(value, str) else value is form
    if not isinstance(form, type) or (isinstance(value, bool) and form is not bool):
        return False
    if isinstance(value, int | float) and abs(value) >= (LARGEST if form is int else LARGEST_FLOAT):
        return False
    return isinstance(value, int | float if form is float else form) and value == value


def _wrong(value: Any, form: Any, at: str) -> str:
    return f"{at or 'it'} must be {_words(form)}, not {_SHORT.repr(value)}"


def _words(form: Any) -> str:
    if isinstance(form, tuple):
        return " or ".join(dict.fromkeys(map(_words, form)))
    if isinstance(form, Mapping):
        return "an object"
    if isinstance(form, list):
        return "a list"
    return repr(form) if isinstance(form, str) else _NAMES[form]
