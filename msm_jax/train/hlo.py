"""Reads compiled programs (HLO text): which collectives run, how often, over how many bytes."""

import dataclasses
import re
from collections import defaultdict

COLLECTIVES = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
    "ragged-all-to-all",
)
_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "f32": 4}
_BYTES |= {"s32": 4, "u32": 4, "f64": 8, "s64": 8, "u64": 8, "f8e4m3fn": 1, "f8e5m2": 1}
_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$")
_OP = re.compile(r"^\s*(?:ROOT )?%?([\w.\-]+) = (.+?) ([a-z][\w\-]*)\(")
_CALLED = re.compile(r"(?:calls|to_apply|body)=%?([\w.\-]+)")
_CONDITION = re.compile(r"condition=%?([\w.\-]+)")
_INTEGER = re.compile(r"= [su]32\[\]\S* constant\((\d+)\)")
_BRANCHES = re.compile(r"(?:branch_computations|called_computations)=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_SHAPE = re.compile(r"\b([a-z]\w*)\[([\d,]*)\]")


@dataclasses.dataclass
class Collective:
    """All collectives of one kind in one run of a program, on one device.

    Attributes:
      count: how often they run, loops unrolled.
      bytes: of their results (of a reduce-scatter: of what goes in), summed over the runs.
    """

    count: int = 0
    bytes: int = 0


def collectives(text: str) -> dict[str, Collective]:
    """kind -> Collective of a compiled program.

    Follows calls, fusions and loops. A loop counts as often as XLA says that it runs; where it
    does not say, up to the only number in its condition, which is how loops over layers look;
    else once.
    """
    bodies, entry = _computations(text)
    times: dict[str, float] = defaultdict(float)
    _visit(bodies, entry, 1, times)
    found: dict[str, Collective] = {}
    for name, count in times.items():
        for shape, kind, line in bodies[name].collectives:
            one = found.setdefault(kind, Collective())
            one.count += int(count)
            one.bytes += int(count * _moved(shape, kind, line))
    return found


@dataclasses.dataclass
class _Computation:
    collectives: list[tuple[str, str, str]] = dataclasses.field(default_factory=list)
    calls: list[tuple[str, int, str]] = dataclasses.field(default_factory=list)
    integers: list[int] = dataclasses.field(default_factory=list)


def _computations(text: str) -> tuple[dict[str, _Computation], str]:
    bodies: dict[str, _Computation] = {}
    current, entry = _Computation(), ""
    for line in text.splitlines():
        if head := _HEAD.match(line):
            current = bodies.setdefault(head[2], _Computation())
            entry = head[2] if head[1] else entry
        elif integer := _INTEGER.search(line):
            current.integers.append(int(integer[1]))
        elif op := _OP.match(line):
            kind = op[3].removesuffix("-start")
            if kind in COLLECTIVES:
                current.collectives.append((op[2], kind, line))
            trips, condition = _TRIPS.search(line), _CONDITION.search(line)
            known, unknown = int(trips[1]) if trips else 1, ""
            if condition and not trips:
                unknown = condition[1]
            names = _CALLED.findall(line)
            for branches in _BRANCHES.findall(line):
                names += [name.strip().lstrip("%") for name in branches.split(",") if name.strip()]
            if kind not in ("all-reduce", "reduce-scatter"):  # what they apply is an addition
                current.calls += [(name, known, unknown) for name in names]
    return bodies, entry


def _visit(bodies, name: str, times: float, found) -> None:
    if name not in bodies:
        return
    found[name] += times
    for called, trips, condition in bodies[name].calls:
        if condition in bodies and len(set(bodies[condition].integers)) == 1:
            trips = bodies[condition].integers[0]
        _visit(bodies, called, times * trips, found)


def _moved(shape: str, kind: str, line: str) -> int:
    sizes = [_size(*each) for each in _SHAPE.findall(shape)]
    if not sizes:
        return 0
    if kind == "reduce-scatter":
        return sum(sizes) * _group(line)
    # The start of an asynchronous one gives back what it got too.
    return max(sizes) if "-start" in line.partition("(")[0] else sum(sizes)


def _group(line: str) -> int:
    """Devices that take part in a collective together, in the three ways that HLO writes it."""
    if found := re.search(r"replica_groups=\[(\d+),(\d+)\]", line):
        return int(found[2])
    if found := re.search(r"replica_groups=\{\{([\d,]+)\}", line):
        return len(found[1].split(","))
    if found := re.search(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}", line):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", found[1]))
        size = 1
        for axis in re.findall(r"'(\w+)'", found[2]):
            size *= int(sizes.get(axis, 1))
        return size
    return 1


def _size(dtype: str, dims: str) -> int:
    count = 1
    for dim in filter(None, dims.split(",")):
        count *= int(dim)
    return count * _BYTES.get(dtype, 4)


def largest_array(text: str) -> int:
    """Elements of the largest array that a program names."""
    count = lambda dims: _size("pred", dims)
    return max(count(dims) for dtype, dims in _SHAPE.findall(text) if dtype in _BYTES)
