"""Chat templates: Jinja for programs of strangers, with what `transformers` adds to it.

A chat template comes with a checkpoint, and is a program. Jinja's sandbox keeps it away from
Python's internals; it does not end a template that loops, calls itself or builds text without end.
Here loops and calls are counted, the size of what operators, filters and methods make is computed
before it is made, and `Exceeded` names the limit.
"""

import datetime
import functools
import json
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from msm_jax.data.messages import GENERATION, Messages
from msm_jax.errors import UserError

# (messages, generation prompt wanted, tools) -> text with the names of control tokens in it.
Write = Callable[..., str]
# What `strftime_now` says in a template: the date that those of Llama 3.1 and 3.2 fall back to.
# The day on which a run is started decides neither its tokens nor its prompts.
TODAY = datetime.datetime(2024, 7, 26)
# What a template can run into, as any program can; Jinja makes Python of it, such as a `break`
# outside of a loop.
_FAILURES = (
    ArithmeticError, AttributeError, LookupError, MemoryError, RecursionError, SyntaxError,
    TypeError, ValueError, jinja2.TemplateError,
)  # fmt: skip
_HOLDERS = (dict, list, tuple, Namespace)

# Of one rendering. A conversation of 1,000 messages takes about 20 steps for each in the templates
# of Qwen3 and Llama 3.1.
STEPS = 1_000_000  # rounds of loops, calls, filters and pieces of output
SECONDS = 30.0
CHARACTERS = 2**25  # of any text that is made
ENTRIES = 2**20  # of any list or dict, with those of what it holds
_BITS = 4096  # of a whole number
_WIDTH = 10_000  # the largest number that a filter or method that pads or rounds may be given
_PADS = frozenset("expandtabs format indent ljust rjust center round tojson zfill".split())
# Where a format has widths and precisions: "%-5.2f", and "{:>5}" with what may be nested in it.
_PERCENT = re.compile(r"%[-+ #0]*(\d*)(?:\.(\d*))?")
_BRACES = re.compile(r"\{[^{}:]*:([^{}]*(?:\{[^{}]*\}[^{}]*)*)\}")
# Filters that pad, wrap or invent text, which no chat template needs, and one that is random.
_WITHOUT = (
    "center", "filesizeformat", "pprint", "random", "slice", "batch", "truncate", "urlize",
    "wordcount", "wordwrap", "xmlattr",
)  # fmt: skip
# Filters that take values as they are. All others may turn one into text.
_KEEP_VALUES = frozenset(
    "attr count d default dictsort first groupby items last length list map max min reject "
    "rejectattr reverse select selectattr sort sum unique".split()
)


def writer(template: str, names: Mapping[str, Any]) -> Write:
    """The function that renders a template, which may use `names` such as {"bos_token": ...}.

    UserError if it is no template; and from the function, when it refuses a conversation.
    """
    try:
        compiled = _sandbox().from_string(template)
    except _FAILURES as error:
        raise UserError(f"chat template: {error}") from error

    def write(
        messages: Messages, generation_prompt: bool, tools: Sequence[Mapping] | None = None
    ) -> str:
        try:
            return _sandbox().render(
                compiled,
                messages=list(messages),
                add_generation_prompt=generation_prompt,
                tools=list(tools) if tools else None,
                documents=None,
                **names,
            )
        except _FAILURES as error:
            why = str(error) or type(error).__name__
            raise UserError(f"chat template: refuses this conversation: {why}") from error

    return write


class Exceeded(jinja2.TemplateError):
    """A template went beyond a limit."""


class _Generation(Extension):
    """{% generation %} ... {% endgeneration %} marks the tokens with loss."""

    tags = {"generation"}

    def parse(self, parser: Any) -> Any:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("mark"), [], [], body).set_lineno(line)

    def mark(self, caller: Callable[[], str]) -> str:
        return GENERATION[0] + caller() + GENERATION[1]


def _refuse(message: str) -> None:
    raise jinja2.TemplateError(message)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    options: Any = {"indent": indent, "separators": separators, "sort_keys": sort_keys}
    return json.dumps(value, ensure_ascii=ensure_ascii, **options)


class _Counted(NodeTransformer):
    """Puts a filter that counts around what a template loops over, joins, and lists."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        node.iter = _filtered(node.iter, _ROUNDS)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        node.nodes = [_filtered(nodes.List(node.nodes, lineno=node.lineno), _TEXT)]
        return node

    def visit_List(self, node: Any) -> nodes.Node:
        self.generic_visit(node)
        return _filtered(node, _SMALL) if getattr(node, "ctx", "load") == "load" else node

    visit_Tuple = visit_Dict = visit_List


# No template can name a filter with a space.
_ROUNDS, _TEXT, _SMALL = "counted rounds", "bounded text", "small value"


def _filtered(node: Any, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


@functools.cache
def _sandbox() -> "Sandbox":
    return Sandbox()


class Sandbox(ImmutableSandboxedEnvironment):
    """An environment whose templates end, in bounded memory."""

    intercepted_binops = frozenset("+*%") | {"**"}

    def __init__(self) -> None:
        extensions = [_Generation, "jinja2.ext.loopcontrols"]
        super().__init__(
            finalize=_small, trim_blocks=True, lstrip_blocks=True, extensions=extensions
        )
        self._spent = threading.local()
        filters = {**self.filters, "tojson": _tojson}
        self.filters = {
            name: self._bounded(name, f) for name, f in filters.items() if name not in _WITHOUT
        }
        own = {"join": self._join, _ROUNDS: self._rounds, _TEXT: self._text, _SMALL: _small}
        self.filters |= own
        self.globals = {name: self.globals[name] for name in ("range", "namespace", "dict")}
        self.globals |= {"raise_exception": _refuse, "strftime_now": TODAY.strftime}

    def render(self, template: jinja2.Template, **names: Any) -> str:
        """The text of a template; Exceeded where it goes beyond a limit, and whatever else a
        template can run into."""
        self._spent.steps, self._spent.since = 0, time.monotonic()
        return template.render(**names)

    # ------------------------------------------------------------------ what Jinja calls

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        return _Counted().visit(super()._parse(source, name, filename))

    def concat(self, parts: Iterable[str]) -> str:
        """Join the parts of an output, or of a macro's."""
        return "".join(self._pieces(parts))

    def call(self, context: Any, function: Any, /, *arguments: Any, **named: Any) -> Any:
        """Call a method, macro or global."""
        self._step()
        owner = getattr(function, "__self__", None)
        if isinstance(owner, str):
            _check_method(owner, function.__name__, (*arguments, *named.values()))
        found = _checked(super().call(context, function, *arguments, **named))
        return _small(found) if function in (dict, Namespace) else found

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """The method `format` of a text."""
        found = super().wrap_str_format(value)
        if found is None:
            return None

        def formatted(*arguments: Any, **named: Any) -> str:
            values = (*arguments, *named.values())
            specs = _BRACES.findall(value.__self__)
            widths = [digits for spec in specs for digits in re.findall(r"\d+", spec)]
            count = value.__self__.count("{")
            _check_format(value.__self__, widths, count, values, any("{" in s for s in specs))
            return found(*arguments, **named)

        return formatted

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Compute left + right, and so on."""
        if operator == "+":
            if isinstance(left, str | list | tuple) and isinstance(right, str | list | tuple):
                _check_size(len(left) + len(right), _limit(left))
        elif operator == "%" and isinstance(left, str):
            _check_percent(left, right if isinstance(right, tuple) else (right,))
        elif operator != "%":
            _check_product(operator, left, right)
        return _checked(super().call_binop(context, operator, left, right))

    # ------------------------------------------------------------------ counting

    def _step(self) -> None:
        self._spent.steps += 1
        if self._spent.steps > STEPS:
            raise Exceeded(f"takes more than {STEPS:,} rounds of loops and calls")
        late = self._spent.steps % 64 == 0 and time.monotonic() - self._spent.since > SECONDS
        if late:
            raise Exceeded(f"takes more than {SECONDS:.0f} seconds")

    def _rounds(self, values: Iterable) -> Iterator:
        for value in values:
            self._step()
            yield value

    def _pieces(self, parts: Iterable[str]) -> Iterator[str]:
        size = 0
        for part in parts:
            self._step()
            size += len(part)
            _check_size(size)
            yield part

    def _text(self, values: list) -> str:
        return "".join(self._pieces(str(_small(value)) for value in values))

    def _join(self, values: Iterable, separator: str = "", attribute: Any = None) -> str:
        if attribute is not None:
            values = (self.getitem(value, attribute) for value in values)
        pieces: list[str] = []
        for value in self._rounds(values):
            pieces += [str(separator), str(_small(value))] if pieces else [str(_small(value))]
        return self._text(pieces)

    def _bounded(self, name: str, function: Callable) -> Callable:
        """A filter that is counted, and given and gives nothing too large."""

        def bounded(*arguments: Any, **named: Any) -> Any:
            self._step()
            plain = arguments[1:] if hasattr(function, "jinja_pass_arg") else arguments
            more = (*plain[1:], *named.values())
            if plain and isinstance(plain[0], str):
                _check_method(plain[0], name, more)
            else:
                _check_numbers(more if name in _PADS else ())
                _small(plain[0] if plain and name not in _KEEP_VALUES else None)
            return _checked(function(*arguments, **named))

        if mark := getattr(function, "jinja_pass_arg", None):
            bounded.jinja_pass_arg = mark  # type: ignore[attr-defined]
        return bounded


def _check_size(size: float, limit: int = CHARACTERS) -> None:
    if size > limit:
        what = "characters" if limit == CHARACTERS else "entries"
        raise Exceeded(f"makes more than {limit:,} {what}")


def _limit(value: Any) -> int:
    return CHARACTERS if isinstance(value, str) else ENTRIES


def _checked(value: Any) -> Any:
    if isinstance(value, str):
        _check_size(len(value))
    elif isinstance(value, list | tuple | dict):
        _check_size(len(value), ENTRIES)
    return value


def _small(value: Any) -> Any:
    """The value, if it is small with all that it holds: forty lines nest 2**40 entries."""
    if not isinstance(value, _HOLDERS):
        return value
    characters, entries, rest = 0, 0, [value]
    while rest:
        held = rest.pop()
        if isinstance(held, str):
            characters += len(held)
            _check_size(characters)
            continue
        if isinstance(held, Namespace):
            held = held._Namespace__attrs
        parts = [*held.keys(), *held.values()] if isinstance(held, dict) else held
        if isinstance(held, _HOLDERS):
            entries += 1 + len(held)
            _check_size(entries, ENTRIES)
            rest += parts
    return value


def _check_numbers(values: Iterable) -> None:
    for value in values:
        if isinstance(value, int) and abs(value) > _WIDTH and not isinstance(value, bool):
            raise Exceeded(f"gives {value:.0e} to a filter or method, the most is {_WIDTH:,}")


def _check_product(operator: str, left: Any, right: Any) -> None:
    for number, other in ((left, right), (right, left)):
        if isinstance(other, str | list | tuple) and isinstance(number, int):
            _check_size(number * len(other), _limit(other))
    if isinstance(left, int) and isinstance(right, int):
        bits = left.bit_length()
        if (bits * right if operator == "**" else bits + right.bit_length()) > _BITS:
            raise Exceeded(f"makes a number of more than {_BITS:,} bits")


def _check_percent(form: str, values: tuple) -> None:
    widths = [digits for pair in _PERCENT.findall(form) for digits in pair if digits]
    _check_format(form, widths, form.count("%"), values, "*" in form)


def _check_format(
    form: str, widths: list[str], places: int, values: tuple, widths_given: bool
) -> None:
    """The size of a formatted text: each place may hold the longest value, or pad to a width."""
    given = [abs(v) for v in values if isinstance(v, int)] if widths_given else []
    longest = max((len(value) for value in values if isinstance(value, str)), default=0)
    padded = sum(int(digits[:9]) for digits in widths) + places * max(given, default=0)
    _check_size(len(form) + padded + places * longest)


def _check_method(owner: str, name: str, arguments: tuple) -> None:
    """The size of what a method of a text makes, before it is made."""
    _check_numbers(arguments if name in _PADS - {"format"} else ())
    texts = [argument for argument in arguments if isinstance(argument, str)]
    if name == "replace" and len(texts) == 2:
        count = owner.count(texts[0]) if texts[0] else len(owner) + 1
        _check_size(len(owner) + count * len(texts[1]))
    elif name == "join" and arguments and isinstance(arguments[0], list | tuple):
        parts = [part for part in arguments[0] if isinstance(part, str)]
        _check_size(sum(map(len, parts)) + len(owner) * len(parts))
    elif name == "indent":
        width = next((a for a in arguments if isinstance(a, int | str)), 4)
        _check_size((owner.count("\n") + 1) * (len(width) if isinstance(width, str) else width))
    elif name == "format":  # the filter, which formats as % does
        _check_percent(owner, arguments)
    elif name == "translate" and arguments and isinstance(arguments[0], dict):
        longest = max((len(v) for v in arguments[0].values() if isinstance(v, str)), default=1)
        _check_size(len(owner) * longest)
    elif name == "expandtabs":
        _check_size(len(owner) + owner.count("\t") * (arguments[0] if arguments else 8))
