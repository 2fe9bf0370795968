"""Settings, each declared once: type, range, meaning and default.

Config files, flags, Python, studies and the documentation read the same form:

    PROBE = form(
        "probe",
        "Pairs asked while a stage trains.",
        path=key("", "JSONL of pairs"),
        at_least=key(0.9, "share of right answers from which on it holds", at_least=0, at_most=1),
    )
    PROBE.config(path="pairs.jsonl")       # a ConfigDict with every key, locked
    checked(STAGE, config)                 # the config, completed; or UserError with all problems
"""

import ctypes
import dataclasses
import difflib
import functools
import json
import math
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from msm_jax.errors import UserError

# A seed is folded into a JAX key as 32 bits.
SEED: dict[str, Any] = {"at_least": 0, "at_most": 2**32 - 1}
COUNT: dict[str, Any] = {"at_least": 1, "at_most": 2**30}  # of tokens, whose places are int32
SHARE: dict[str, Any] = {"at_least": 0, "at_most": 1}
_BOUNDS: dict[str, Callable[[Any, Any], bool]] = {
    "at_least": operator.ge, "above": operator.gt, "at_most": operator.le, "below": operator.lt,
}  # fmt: skip
_WORDS = {int: "a whole number", float: "a number", bool: "True or False", str: "a text"}


@dataclasses.dataclass(frozen=True)
class Key:
    """One setting; made by `key`.

    Attributes:
      default: its value where none is given; None only where None means "not given".
      meaning: in words, with units.
      kind: int, float, bool, str or tuple.
      item: of a tuple, what each of its values is.
      length: of a tuple, if it is always the same.
      at_least, above, at_most, below: bounds of a number; None is no bound.
      choices: what a text may be; () is anything.
      single: of a float, it has to be in range as float32 as well.
      harmless: why changing it does not change what is made; "" if it does.
      among: of a text that names something, the group of the config that must have this name.
    """

    default: Any
    meaning: str
    kind: type
    item: "Key | None" = None
    length: int | None = None
    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None
    choices: tuple[str, ...] = ()
    single: bool = True
    harmless: str = ""
    among: str = ""

    @property
    def allowed(self) -> str:
        """What it may be, in words."""
        if self.choices:
            return f"one of {', '.join(map(repr, self.choices))}"
        if self.item:
            count = "" if self.length is None else f"{self.length} values, "
            return f"a tuple, {count}each {self.item.allowed}"
        return f"{_WORDS[self.kind]} {self.bounds}".rstrip()

    @property
    def bounds(self) -> str:
        """Those of a number, in words; "" if there are none."""
        shown = lambda limit: f"{limit:,}" if abs(limit) > 1e6 else f"{limit:g}"
        limits = {name: getattr(self, name) for name in _BOUNDS}
        words = (f"{n.replace('_', ' ')} {shown(x)}" for n, x in limits.items() if x is not None)
        return " and ".join(words)

    def read(self, value: Any, where: str, found: "Problems") -> Any:
        """The value in the key's own type; what is wrong with it is added to `found`."""
        if value is None and self.default is None:
            return None
        if isinstance(value, list | tuple) and self.item and self.length in (None, len(value)):
            return tuple(
                self.item.read(each, f"{where}[{at}]", found) for at, each in enumerate(value)
            )
        same, lost = (None if self.item else _as_kind(self.kind, value)), ""
        if same is not None and self._fits(same) and not (lost := self._lost(same)):
            return same
        found.append(f"{where}={_shown(value)}: {lost}must be {self.allowed}")
        return self.default

    def _lost(self, value: Any) -> str:
        """What 32 bits, which devices count and compute in, make of a value; "" if it is kept."""
        if self.kind is int and self.at_most is None and not -(2**31) <= value < 2**31:
            return "does not fit 32 bits: "
        if self.kind is not float or not self.single:
            return ""
        single = _single(value)
        kept = math.isfinite(single) and bool(single) == bool(value) and self._fits(single, _single)
        return "" if kept else f"is {single:g} in 32 bits: "

    def _fits(self, value: Any, rounded: Callable[[float], float] = lambda limit: limit) -> bool:
        if self.choices and value not in self.choices:
            return False
        limits = ((holds, getattr(self, name)) for name, holds in _BOUNDS.items())
        return all(limit is None or holds(value, rounded(limit)) for holds, limit in limits)

    def fill(self, *given: Any) -> Any:
        """The last of the values given, or the default."""
        return given[-1] if given else self.default


def key(
    default: Any, meaning: str, *, of: type | None = None, harmless: str = "",
    length: int | None = None, choices: Sequence[str] = (), single: bool = True, **limits: Any,
) -> Key:  # fmt: skip
    """A `Key` of the default's type; the limits and choices of a tuple are those of its values.

    Args:
      of: the type, or that of a tuple's values, where the default does not show it.
    """
    limits["choices"] = tuple(choices)
    if isinstance(default, tuple):
        kind = of or type(default[0])
        item = Key(kind(), "", kind, **limits)  # with a default, as None is no value of a tuple
        return Key(default, meaning, tuple, item, length, harmless=harmless)
    return Key(default, meaning, of or type(default), single=single, harmless=harmless, **limits)


@dataclasses.dataclass(frozen=True)
class Named:
    """Entries under names that the user gives.

    Attributes:
      entry: what each is; None: anything.
      sparse: an entry holds only what was given: its defaults come from somewhere else.
      among: the group of the config that must have the names of the entries.
    """

    entry: "Form | Key | None"
    meaning: str
    sparse: bool = False
    harmless: str = ""
    among: str = ""

    def read(self, value: Any, where: str, found: "Problems") -> dict:
        """As of `Key`."""
        if not isinstance(value, Mapping):
            found.append(f"{where}={_shown(value)}: must be a group of entries, each with a name")
            return {}
        if wrong := [name for name in value if not isinstance(name, str) or "." in name]:
            found.append(f"{where}: {_shown(wrong[0])} is no name: a text without dots")
            return {}
        read = self.entry.read if self.entry else _as_json
        return {name: read(entry, f"{where}.{name}", found) for name, entry in value.items()}

    def fill(self, *given: dict) -> dict:
        """The entries of all that is given, each complete."""
        filled = {name: entries[name] for entries in given for name in entries}
        if self.entry is None or self.sparse:
            return filled
        return {n: self.entry.fill(*(layer[n] for layer in given if n in layer)) for n in filled}


named = Named


@dataclasses.dataclass(frozen=True)
class Form:
    """Keys that belong together; made by `form` and `group`, which has the name ""."""

    name: str
    meaning: str
    keys: "dict[str, Key | Named | Form]"

    def read(self, value: Any, where: str, found: "Problems") -> dict:
        """What is given, in its own types, without defaults; problems as of `Key`."""
        if not isinstance(value, Mapping):
            found.append(f"{where}={_shown(value)}: must be a group of: {', '.join(self.keys)}")
            return {}
        given = {}
        for name, inner in value.items():
            path = f"{where}{'.' if where.strip('-') else ''}{name}"
            if name in self.keys:
                given[name] = self.keys[name].read(inner, path, found)
            else:
                found.append(f"{path}: there is no such key; {self._nearest(str(name), found)}")
        return given

    def fill(self, *given: dict) -> dict:
        """Every key with its value: of the last one that gives it, or its default."""
        return {
            name: part.fill(*(layer[name] for layer in given if name in layer))
            for name, part in self.keys.items()
        }

    def config(self, /, **values: Any) -> ConfigDict:
        """Every key, with these values; locked, but for entries under names of the user's.

        Raises:
          UserError: a value that is out of range.
        """
        made = checked(self, values, self.name)
        _open(self, made)
        return made

    def under(self, meaning: str, /, **keys: Key) -> "Form":
        """The same form as the value of a key, with a meaning and some other keys there."""
        return Form(self.name, meaning, {**self.keys, **keys})

    def paths(self, prefix: str = "") -> dict[str, Key | Named]:
        """All keys by their path, such as "optimizer.eps"."""
        found: dict[str, Key | Named] = {}
        for name, part in self.keys.items():
            path = f"{prefix}{name}"
            found |= part.paths(f"{path}.") if isinstance(part, Form) else {path: part}
        return found

    def _nearest(self, name: str, found: "Problems") -> str:
        near = difflib.get_close_matches(name, self.keys, 1)
        # Or the same name in another group.
        near += [path for path in found.root.paths() if path.rpartition(".")[2] == name]
        return f"nearest: {near[0]}" if near else f"known: {', '.join(self.keys)}"


def form(name: str, meaning: str, /, **keys: "Key | Named | Form") -> Form:
    """The keys of one kind of config."""
    return Form(name, meaning, keys)


group = functools.partial(form, "")


def field(default: Any, meaning: str, **limits: Any) -> Any:
    """A field of a dataclass, declared as by `key`."""
    return dataclasses.field(default=default, metadata={"key": key(default, meaning, **limits)})


def form_of(dataclass: type) -> Form:
    """The form of a dataclass whose fields are made by `field`."""
    keys = {field.name: field.metadata["key"] for field in dataclasses.fields(dataclass)}
    about = (dataclass.__doc__ or "").partition("\n")[0]
    return Form(dataclass.__name__, about, keys)


class Problems(list[str]):
    """What is wrong with a config, one line each; `root` is the form that is read."""

    def __init__(self, root: Form):
        super().__init__()
        self.root = root

    def raise_any(self) -> None:
        """UserError that lists all of them, if there are any."""
        if len(self) == 1:
            raise UserError(self[0])
        if self:
            raise UserError(f"{len(self)} settings are wrong:\n  " + "\n  ".join(self))


def checked(form: Form, config: ConfigDict | Mapping, where: str = "config") -> ConfigDict:
    """A config with every key of its form, in the form's types, locked.

    Raises:
      UserError: lists all unknown keys and all values of a wrong type or out of range, by their
        paths, which begin with `where`.
    """
    return ConfigDict(values(form, config, where)).lock()


def values(form: Form, config: ConfigDict | Mapping, where: str = "config") -> dict[str, Any]:
    """As `checked`, as plain dictionaries."""
    found = Problems(form)
    given = form.read(_plain(config), where, found)
    found.raise_any()
    return form.fill(given)


ROWS = key(64, "answers computed at a time", **COUNT, harmless="no answer depends on it")


def identity(form: Form, given: Mapping) -> dict[str, Any]:
    """The values whose change changes what is made: of all keys that are not declared harmless."""
    kept: dict[str, Any] = {}
    for name, value in given.items():
        part = form.keys[name]
        if isinstance(part, Form):
            kept[name] = identity(part, value)
        elif isinstance(part, Named) and isinstance(entry := part.entry, Form):
            kept[name] = {key: identity(entry, each) for key, each in value.items()}
        elif not part.harmless:
            kept[name] = value
    return kept


def check_names(form: Form, config: Mapping) -> None:
    """Refuse names of what the config does not have; "" names nothing.

    Raises:
      UserError: the key, and the names that there are.
    """
    for where, group, names in _names(form, config, "config"):
        check_known(where, names, group, config)


def check_known(where: str, names: Iterable[str], group: str, config: Mapping) -> None:
    """As `check_names`, of the names at one key; any name is right where no group is given."""
    for name in names if group else ():
        if name not in config[group]:
            known = sorted(config[group])
            raise UserError(f"{where}: {name!r} is not one of config.{group}: {known}")


def _names(part: Any, value: Any, where: str) -> Iterator[tuple[str, str, Iterable[str]]]:
    """(key, the group that must have the names there, these names) of all keys with `among`."""
    if isinstance(part, Key):
        names = value if part.item else [value] * bool(value)
        yield where, (part.item or part).among, names
    elif isinstance(part, Form):
        for name in (name for name in part.keys if name in value):
            yield from _names(part.keys[name], value[name], f"{where}.{name}")
    elif isinstance(part, Named):
        yield where, part.among, value
        for name, entry in value.items():
            yield from _names(part.entry, entry, f"{where}.{name}")


SAMPLING = form(
    "sampling",
    "How answers are drawn, wherever they are.",
    n=key(1, "answers per prompt", **COUNT),
    max_tokens=key(256, "of one answer", **COUNT),
    temperature=key(0.7, "0 is greedy", at_least=0, single=False),
    top_k=key(0, "draw among the k likeliest tokens; 0: all", at_least=0),
    top_p=key(1.0, "draw among the likeliest tokens of this mass; 1: all", above=0, at_most=1),
    min_p=key(0.0, "draw among tokens at least this likely beside the best", **SHARE),
    seed=key(0, "of the draw", **SEED),
    context_length=key(
        None, "tokens of prompt and answer, in place of the model's own", of=int,
        at_least=2, at_most=2**30,
    ),
    rows=ROWS,
)  # fmt: skip


def _as_kind(kind: type, value: Any) -> Any:
    """The value as this kind; None if it is of another one. A bool is no number."""
    if isinstance(value, bool) and kind is not bool:
        return None
    if kind in (int, float) and not isinstance(value, str):
        try:
            same = operator.index(value) if kind is int else float(value)
        except (TypeError, ValueError, OverflowError):
            return None
        return same if kind is int or math.isfinite(same) else None
    return value if isinstance(value, kind) else None


def _single(value: float) -> float:
    """As float32, with 0 for what is too small for a normal one."""
    single = ctypes.c_float(value).value
    return single if abs(single) >= 2.0**-126 else 0.0


def _as_json(value: Any, where: str, found: Problems) -> Any:
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError):
        found.append(f"{where}={_shown(value)}: must be a number, a text, or a tuple of them")
        return None


def _plain(value: Any) -> Any:
    """A config as plain dictionaries; its own `to_dict` sorts the names that the user gave."""
    names = value._fields if isinstance(value, ConfigDict) else value
    return {n: _plain(value[n]) for n in names} if isinstance(names, Mapping) else value


def _shown(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:  # a whole number of thousands of digits
        return "a number of too many digits"
    return text if len(text) <= 200 else f"{text[:200]}..."


def _open(form: Form, made: ConfigDict) -> None:
    for name, part in form.keys.items():
        if isinstance(part, Named):
            made[name].unlock()
        elif isinstance(part, Form):
            _open(part, made[name])
