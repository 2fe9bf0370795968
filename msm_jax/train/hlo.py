"""Reads compiled programs (HLO text): which collectives run, how often, over how many bytes."""

import dataclasses
import math
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
_OP = re.compile(r"^\s*(?:ROOT )?%?[\w.\-]+ = (.+?) ([a-z][\w\-]*)\(")
_CALLED = re.compile(r"(?:calls|to_apply|body)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"(?:branch_computations|called_computations)=\{([^}]*)\}")
_CONDITION = re.compile(r"condition=%?([\w.\-]+)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_INTEGER = re.compile(r"= [su]32\[\]\S* constant\((\d+)\)")
_SHAPE = re.compile(r"\b([a-z]\w*)\[([\d,]*)\]")


@dataclasses.dataclass
class Collective:
    """All collectives of one kind in one run of a program on one device, loops unrolled.

    `bytes` are of their results (of a reduce-scatter: of its input), summed over the runs.
    """

    count: int = 0
    bytes: int = 0


@dataclasses.dataclass
class _Computation:
    collectives: list[tuple[str, int]] = dataclasses.field(default_factory=list)  # kind, bytes
    calls: list[tuple[str, int, str]] = dataclasses.field(default_factory=list)  # trips, condition
    integers: set[int] = dataclasses.field(default_factory=set)


def collectives(text: str) -> dict[str, Collective]:
    """kind -> Collective of a compiled program.

    Follows calls, fusions and loops. A loop counts as often as XLA says that it runs; where it
    does not say, up to the only number in its condition, which is how loops over layers look;
    otherwise once.
    """
    computations, entry = _parse(text)
    found: dict[str, Collective] = defaultdict(Collective)

    def visit(name: str, times: int) -> None:
        one = computations.get(name, _Computation())
        for kind, size in one.collectives:
            found[kind].count += times
            found[kind].bytes += times * size
        for called, trips, condition in one.calls:
            limits = computations[condition].integers if condition in computations else ()
            visit(called, times * (max(limits) if len(limits) == 1 else trips))

    visit(entry, 1)
    return dict(found)


def _parse(text: str) -> tuple[dict[str, _Computation], str]:
    """Computations by name, and the name of the one that the program starts with."""
    found: dict[str, _Computation] = {}
    current, entry = _Computation(), ""
    for line in text.splitlines():
        if head := _HEAD.match(line):
            current = found.setdefault(head[2], _Computation())
            entry = head[2] if head[1] else entry
        elif integer := _INTEGER.search(line):
            current.integers.add(int(integer[1]))
        elif op := _OP.match(line):
            kind = op[2].removesuffix("-start")
            if kind in COLLECTIVES:
                current.collectives.append((kind, _moved(op[1], kind, line)))
            if kind in ("all-reduce", "reduce-scatter"):  # what they call is an addition
                continue
            names = _CALLED.findall(line)
            for branches in _BRANCHES.findall(line):
                names += re.findall(r"[\w.\-]+", branches)
            trips, condition = _TRIPS.search(line), _CONDITION.search(line)
            limit = condition[1] if condition and not trips else ""
            current.calls += [(name, int(trips[1]) if trips else 1, limit) for name in names]
    return found, entry


def _moved(shape: str, kind: str, line: str) -> int:
    """Bytes of a collective's result, or of a reduce-scatter's input."""
    sizes = [
        math.prod(int(dim) for dim in dims.split(",") if dim) * _BYTES.get(dtype, 4)
        for dtype, dims in _SHAPE.findall(shape)
    ]
    if kind == "reduce-scatter":
        return sum(sizes) * _group(line)
    # The start of an asynchronous one returns its input too.
    return max(sizes, default=0) if "-start(" in line else sum(sizes)


def _group(line: str) -> int:
    """Devices that take part in a collective together, in the three ways that HLO writes it."""
    if found := re.search(r"replica_groups=\[(\d+),(\d+)\]", line):
        return int(found[2])
    if found := re.search(r"replica_groups=\{\{([\d,]+)\}", line):
        return len(found[1].split(","))
    if found := re.search(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}", line):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", found[1]))
        return math.prod(int(sizes.get(axis, 1)) for axis in re.findall(r"'(\w+)'", found[2]))
    return 1
