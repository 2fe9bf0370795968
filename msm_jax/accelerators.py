"""What accelerators are called, hold and can do at most: the table accelerators.tsv, read once."""

import dataclasses
import functools
import importlib.resources
import re

from msm_jax.errors import UserError

_ONE_HOST = 8  # chips that slices of v5e and v6e have on a single host


@dataclasses.dataclass(frozen=True)
class Accelerator:
    """A generation; the table's head tells units and sources. 0 and "": not known.

    Attributes:
      kinds: parts of JAX's `device_kind` that name it.
      type, counts: gcloud's accelerator type is `TYPE-N`, N of "cores" or "chips".
      memory: bytes of a chip that a program can use; `bandwidth` bytes/s of it; `link` bytes/s over
        one axis of the interconnect; `flops` dense bfloat16 FLOP/s.
      slices: N -> topology, such as {128: "4x4x4"}.
    """

    generation: str
    kinds: tuple[str, ...]
    type: str
    counts: str
    image: str
    chips_per_host: int
    memory: float
    flops: float
    bandwidth: float
    link: float
    slices: dict[int, str]


@dataclasses.dataclass(frozen=True)
class Slice:
    """Chips that are wired together: `type` as gcloud calls them, `topology` as JAX does."""

    accelerator: Accelerator
    type: str
    topology: str
    chips: int
    hosts: int


@functools.cache
def table() -> tuple[Accelerator, ...]:
    """All of them, in the order in which their kinds are to be tried."""
    text = importlib.resources.files("msm_jax").joinpath("accelerators.tsv").read_text("utf-8")
    lines = [line.split("\t") for line in text.splitlines() if line and not line.startswith("#")]
    return tuple(_accelerator(dict(zip(lines[0], line, strict=True))) for line in lines[1:])


def _accelerator(row: dict[str, str]) -> Accelerator:
    known = {name: "" if value == "-" else value for name, value in row.items()}
    number = lambda name: float(known[name] or 0)
    slices = (one.split("=") for one in known["slices"].split())
    return Accelerator(
        generation=known["generation"],
        kinds=tuple(known["kinds"].split("|")),
        type=known["type"],
        counts=known["counts"],
        image=known["image"],
        chips_per_host=int(number("chips_per_host")),
        memory=number("memory_gib") * 2**30,
        flops=number("flops"),
        bandwidth=number("memory_bytes"),
        link=number("link_bytes"),
        slices={int(size): topology for size, topology in slices},
    )


def find(device_kind: str) -> Accelerator | None:
    """Of a device that JAX calls so; None for one that is not in the table, as CPUs are."""
    is_one = lambda one: any(kind in device_kind for kind in one.kinds)
    return next((one for one in table() if is_one(one)), None)


def find_slice(name: str) -> Slice:
    """A slice by gcloud's name ("v5p-128", "v5litepod-256") or by its topology ("v5p:4x4x4").

    Raises:
      UserError: there is none of that name.
    """
    for one in table():
        for size, topology in one.slices.items():
            if name in (f"{one.type}-{size}", f"{one.generation}:{topology}"):
                chips = size // (2 if one.counts == "cores" else 1)
                single = one.counts == "chips" and chips <= _ONE_HOST
                hosts = 1 if single else max(1, chips // one.chips_per_host)
                return Slice(
                    one, f"{one.type}-{size}", f"{one.generation}:{topology}", chips, hosts
                )
    near = [one for one in table() if re.match(rf"({one.type or '-'}-|{one.generation}:)", name)]
    known = [f"{one.type}-{size}" for one in near or table() for size in one.slices]
    raise UserError(f"no slice {name}: accelerators.tsv has {', '.join(known)}")
