"""Accelerators: their table accelerators.tsv, those of this machine, why JAX does not use them."""

import dataclasses
import functools
import glob
import importlib.metadata
import importlib.resources
import os
import pathlib
import re

from msm_jax.errors import UserError

_ONE_HOST = 8  # chips that slices of v5e and v6e have on a single host
# PCI devices of Google that are TPUs, v2 to tpu7x, as JAX itself looks for them
# (jax/_src/hardware_utils.py).
GOOGLE, TPUS = "0x1ae0", ("0x0027", "0x0056", "0x005e", "0x0062", "0x0063", "0x006f", "0x0076")
PLUGINS = {"TPU": ("libtpu",), "GPU": ("jax-cuda13-plugin", "jax-cuda12-plugin")}


@dataclasses.dataclass(frozen=True)
class Accelerator:
    """A generation; the table's head tells units and sources. 0 and "": not known.

    Attributes:
      kinds: parts of JAX's `device_kind` that name it.
      type, counts: gcloud's accelerator type is `TYPE-N`, N of "cores" or "chips".
      memory: bytes of a device that a program can use; `bandwidth` bytes/s of it; `link` bytes/s
        over one axis of the interconnect; `flops` dense bfloat16 FLOP/s. A device is a chip; of
        tpu7x it is half a chip.
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
    """All accelerators, in the order in which their kinds are to be tried."""
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
    """The accelerator of JAX's `device_kind`; None for one that is not in the table, as CPUs."""
    is_one = lambda one: any(kind in device_kind for kind in one.kinds)
    return next((one for one in table() if is_one(one)), None)


def find_slice(name: str) -> Slice:
    """A slice by gcloud's name ("v5p-128", "v5litepod-256") or topology ("v5p:4x4x4")."""
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
    if name.startswith("tpu7x-"):
        raise UserError(f"no slice {name}: write a topology of chips, such as tpu7x:2x2x1")
    raise UserError(f"no slice {name}: accelerators.tsv has {', '.join(known)}")


# ------------------------------------------------------------------ on this machine


def tpu_chips() -> int:
    """TPU chips that the PCI bus shows."""

    def read(path: str) -> str:
        try:
            return pathlib.Path(path).read_text().strip()
        except OSError:
            return ""

    vendors = glob.glob("/sys/bus/pci/devices/*/vendor")
    return sum(read(v) == GOOGLE and read(v[: -len("vendor")] + "device") in TPUS for v in vendors)


def gpus() -> int:
    """NVIDIA GPUs that have a device file."""
    return len(glob.glob("/dev/nvidia[0-9]*"))


def installed(name: str) -> str:
    """The version of a Python package; "" if it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def unused() -> list[tuple[str, str]]:
    """(problem, cure) for each kind of accelerator of this machine, given that JAX uses the CPU."""
    problems = []
    chosen = os.environ.get("JAX_PLATFORMS", "")
    for count, what in ((tpu_chips(), "TPU"), (gpus(), "GPU")):
        if not count:
            continue
        if "cpu" in chosen:
            cure = f"unset JAX_PLATFORMS (it is {chosen})"
        elif not any(map(installed, PLUGINS[what])):
            cure = f"pip install 'msm_jax[{what.lower()}]'"
        else:
            cure = "its driver may be too old (nvidia-smi)" if what == "GPU" else holders()
        cure = cure or "python -c 'import jax; jax.devices()' says why"
        problems.append((f"there is a {what}, and JAX uses the CPU", cure))
    return problems


def why_not(stderr: str) -> tuple[str, str]:
    """(problem, cure) from what JAX printed or raised when it did not get its devices."""
    lines = [line for line in stderr.strip().splitlines() if line.strip()] or ["no message"]
    last = next((line for line in reversed(lines) if "Error" in line), lines[-1])[:300]
    if "ALREADY_IN_USE" in stderr or "in use" in stderr or "lockfile" in stderr:
        nobody = "look as root (sudo lsof /dev/accel* /dev/vfio/*); if there is nobody, "
        return "the TPU is in use", holders() or nobody + "sudo rm /tmp/libtpu_lockfile"
    if "XLA_FLAGS" in stderr:
        unknown = next((line for line in lines if "XLA_FLAGS" in line), last)
        unknown = unknown[unknown.find("Unknown") :][:200]
        return f"XLA_FLAGS is not understood: {unknown}", "unset XLA_FLAGS or correct it"
    if "backend" in stderr and (wanted := os.environ.get("JAX_PLATFORMS")):
        return f"JAX_PLATFORMS={wanted} does not work: {last}", "unset it, or install its plugin"
    return f"JAX cannot start: {last}", "pip install --upgrade 'msm_jax[tpu]', [gpu] or neither"


def holders() -> str:
    """Which processes have a TPU's device file or libtpu's lock open; "" if none is visible."""
    names = {}
    for link in glob.glob("/proc/[0-9]*/fd/*"):
        try:
            if re.match(r"/dev/(accel\d|vfio/\d)|/tmp/libtpu_lockfile", os.readlink(link)):
                pid = link.split("/")[2]
                names[pid] = pathlib.Path(f"/proc/{pid}/comm").read_text().strip()
        except OSError:
            continue
    found = ", ".join(f"{name} (process {pid})" for pid, name in sorted(names.items()))
    return f"held by {found}: wait for it, or kill it if it is a leftover" if found else ""
