"""The devices of this machine, counted without JAX, and how a study's workers share them.

JAX takes all devices that it sees when it is first used, and keeps them until its process ends. So
the runner of a study never starts JAX: it sets the environment of each worker, before the worker
imports JAX, such that the worker sees its own devices only.

One process per GPU: https://docs.jax.dev/en/latest/gpu_memory_allocation.html. One process per TPU
chip: the variables that JAX's own tests set (jax/_src/test_multiprocess.py).
"""

import contextlib
import dataclasses
import math
import os
import pathlib
import re
from collections.abc import Sequence

from msm_jax import accelerators, memory
from msm_jax.errors import UserError

ONE_THREAD = {
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "NPROC": "1",  # read by the CPU client of XLA
}
GPU_MEMORY = 0.9  # share of a GPU's memory that its workers reserve together; JAX's default is 0.75
MEMORY_SETTINGS = (
    "XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_PREALLOCATE",
    "XLA_PYTHON_CLIENT_ALLOCATOR",
)  # fmt: skip
TPU_BOUNDS = {1: "1,1,1", 2: "1,2,1", 4: "2,2,1"}  # chips of one process -> their arrangement
TPU_PORT = 8476  # of the first worker; each has a port of its own
NAMES = {"cpu": "CPU core", "gpu": "GPU", "tpu": "TPU chip"}
HELPERS = 4  # the most workers beside the accelerators', for nodes that need no accelerator


@dataclasses.dataclass(frozen=True)
class Place:
    """What one worker computes on.

    Attributes:
      platform: "cpu", "gpu", "tpu", or "" for the one that JAX chooses.
      devices: numbers of cores, or names of accelerators as their driver's variable lists them.
      number: which of the workers this is.
      of: how many devices of this platform the study has.
      sharing: how many workers share these devices.
      model: what kind of device it is, such as "NVIDIA H100 80GB HBM3"; "" if unknown.
    """

    platform: str
    devices: tuple[str, ...]
    number: int = 0
    of: int = 1
    sharing: int = 1
    model: str = ""

    @property
    def text(self) -> str:
        """ "2 GPUs, NVIDIA H100 80GB HBM3": a measured speed holds for places of the same text."""
        if not self.platform:
            return "the devices that JAX finds"
        name = counted(len(self.devices), NAMES[self.platform])
        shared = f", shared by {self.sharing} workers" if self.sharing > 1 else ""
        return name + shared + (f", {self.model}" if self.model else "")


def counted(number: int, what: str) -> str:
    """ "1 seed", "2 seeds", "3 corpora"."""
    several = {"corpus": "corpora"}.get(what, f"{what}s")
    return f"{number} {what if number == 1 else several}"


# ------------------------------------------------------------------ what there is


def cores() -> list[str]:
    """Numbers of the CPU cores of this process, no more than its container's quota of time.

    Processes begin with different ones, or two studies of one worker each would share the first.
    """
    is_known = hasattr(os, "sched_getaffinity")
    found = sorted(os.sched_getaffinity(0) if is_known else range(os.cpu_count() or 1))
    with contextlib.suppress(OSError, ValueError):  # "max 100000", or no such file
        quota, period = pathlib.Path("/sys/fs/cgroup/cpu.max").read_text().split()
        found = found[: max(1, math.ceil(int(quota) / int(period)))]
    first = os.getpid() % len(found)
    return [str(core) for core in found[first:] + found[:first]]


def visible(platform: str) -> list[str]:
    """Names of the accelerators that this process may use, as its environment restricts them."""
    if platform == "gpu":
        count, variables = accelerators.gpus(), ("CUDA_VISIBLE_DEVICES",)
    else:
        count, variables = accelerators.tpu_chips(), ("TPU_VISIBLE_CHIPS", "TPU_VISIBLE_DEVICES")
    chosen = next((os.environ[name] for name in variables if name in os.environ), None)
    if chosen is None:
        return [str(number) for number in range(count)]
    names = [name.strip() for name in chosen.split(",")]
    # CUDA ignores an invalid name and all names after it; "-1" is the usual one for "no GPU".
    end = next((at for at, name in enumerate(names) if not name or name[0] == "-"), len(names))
    return names[:end] if count else []


def platform_of(chosen: str) -> str:
    """ "cpu", "gpu" or "tpu"; "" where $JAX_PLATFORMS names something else.

    `config.platform` decides, then $JAX_PLATFORMS, then what the machine has and JAX has a plugin
    for.

    Raises:
      UserError: `chosen` is an accelerator that this machine does not have, or JAX cannot use.
    """
    has_plugin = lambda name: any(map(accelerators.installed, accelerators.PLUGINS[name.upper()]))
    if chosen not in ("", "cpu"):
        if not visible(chosen):
            raise UserError(
                f"config.platform={chosen!r}: this machine has no {chosen.upper()} that this "
                "process may use: python -m msm_jax.doctor shows its devices; "
                '"" uses what there is'
            )
        if not has_plugin(chosen):
            raise UserError(
                f"config.platform={chosen!r}: JAX is installed without support for it: "
                f"pip install 'msm_jax[{chosen}]'"
            )
    if chosen:
        return chosen
    if first := os.environ.get("JAX_PLATFORMS", "").split(",")[0]:
        return {"cpu": "cpu", "cuda": "gpu", "gpu": "gpu", "tpu": "tpu"}.get(first, "")
    return next((name for name in ("tpu", "gpu") if visible(name) and has_plugin(name)), "cpu")


def _model(platform: str) -> str:
    """What kind of device this is, as the driver or the kernel names it; "" if neither does."""
    path, pattern = pathlib.Path("/proc/cpuinfo"), r"model name\s*:\s*(.+)"
    if platform == "gpu":
        found = sorted(pathlib.Path("/proc/driver/nvidia/gpus").glob("*/information"))
        path, pattern = (found or [path])[0], r"Model:\s*(.+)"
    with contextlib.suppress(OSError):
        if platform != "tpu" and (match := re.search(pattern, path.read_text())):
            return match[1].strip()
    return ""


# ------------------------------------------------------------------ who gets what


def places(platform: str, workers: int) -> tuple[Place, ...]:
    """The places of a study's workers on this machine; see `config.platform`, `config.workers`."""
    platform = platform_of(platform)
    if not platform:
        return divide("", [""], workers)
    devices = cores() if platform == "cpu" else visible(platform)
    return divide(platform, devices, workers, _model(platform))


def divide(
    platform: str, devices: Sequence[str], workers: int, model: str = ""
) -> tuple[Place, ...]:
    """Divide devices among workers: 0 is one worker per device, 1 is one worker with all.

    A CPU worker has one core, so that its results do not depend on how many there are.

    Raises:
      UserError: the devices cannot be divided evenly among so many workers.
    """
    n = len(devices)
    workers = workers or max(n, 1)
    if not platform:
        if workers > 1:
            raise UserError(
                f"config.workers={workers}: JAX_PLATFORMS={os.environ.get('JAX_PLATFORMS')}: this "
                "can divide only CPU cores, NVIDIA GPUs and TPU chips among workers: set it to 1"
            )
        return (Place("", ()),)
    if not n:
        raise UserError(f"there is no {NAMES[platform]} that this process may use")
    each, sharing = 1, 1
    if platform != "cpu":
        possible = [k for k in range(1, n + 1) if n % k == 0]
        if platform == "tpu":  # a chip is used by one process only, and in blocks
            possible = [k for k in possible if k == 1 or n // k in TPU_BOUNDS]
        shared = platform == "gpu" and workers % n == 0
        if workers not in possible and not shared:
            more = f", or a multiple of {n}" if platform == "gpu" else ""
            raise UserError(
                f"config.workers={workers}: {counted(n, NAMES[platform])} cannot be divided evenly "
                f"among so many workers: use one of {', '.join(map(str, possible))}{more}"
            )
        each, sharing = max(n // workers, 1), max(workers // n, 1)
    mine = lambda number: tuple(devices[(number * each + k) % n] for k in range(each))
    return tuple(Place(platform, mine(i), i, n, sharing, model) for i in range(workers))


def helpers(found: Sequence[Place]) -> tuple[Place, ...]:
    """Places on the CPU for what needs no accelerator; none where all places are on the CPU."""
    if all(place.platform == "cpu" for place in found):
        return ()
    available = cores()
    number = min(HELPERS, len(available))
    more = divide("cpu", available[-number:], number, _model("cpu"))
    return tuple(dataclasses.replace(p, number=len(found) + p.number) for p in more)


def describe(found: Sequence[Place]) -> str:
    """ "8 GPUs, a worker each" for the plan and the results."""
    first, n = found[0], len(found)
    if not first.platform:
        return f"one worker on {first.text}"
    name = counted(first.of, NAMES[first.platform])
    if first.platform == "cpu":
        return f"{counted(n, 'worker')} with a core each, of {name}"
    if n == 1:
        return f"one worker on {name}" + (" as one mesh" if first.of > 1 else "")
    if first.sharing > 1:
        return f"{name}, each shared by {first.sharing} workers"
    each = len(first.devices)
    return f"{name}, " + ("one worker each" if each == 1 else f"{n} workers with {each} each")


def needs_accelerator(node) -> bool:
    """Whether a node computes with a model; data, and judges and writers behind an API, do not."""
    if node.kind in ("world", "tokenizer", "base"):
        return False
    if node.kind == "judge":
        return node.config.get("judge") == "checkpoint"
    if node.kind == "corpus":
        roles = (node.config.get(role) or {} for role in ("writer", "critic"))
        return any(role.get("kind") == "local" for role in roles)
    return True


# ------------------------------------------------------------------ a worker's environment


def environment(place: Place) -> dict[str, str]:
    """The variables that a worker needs before JAX is imported.

    On the CPU it computes with one thread, so that results do not depend on the machine's cores,
    and keeps freed memory for the next step.
    """
    found = {"TF_CPP_MIN_LOG_LEVEL": os.environ.get("TF_CPP_MIN_LOG_LEVEL", "3")}
    if place.platform == "cpu":
        name, _, _ = ONE_THREAD["XLA_FLAGS"].partition("=")
        flags = os.environ.get("XLA_FLAGS", "").split()
        others = [flag for flag in flags if flag.partition("=")[0] != name]
        flags = [*others, ONE_THREAD["XLA_FLAGS"]]
        found |= {**ONE_THREAD, "XLA_FLAGS": " ".join(flags), "JAX_PLATFORMS": "cpu"}
        found |= memory.environment()
    elif place.platform == "gpu":
        # Not "": JAX would go on with the CPU, silently, where a driver does not work.
        found |= {"JAX_PLATFORMS": "cuda,cpu", "CUDA_VISIBLE_DEVICES": ",".join(place.devices)}
        if not any(name in os.environ for name in MEMORY_SETTINGS):
            found["XLA_CLIENT_MEM_FRACTION"] = f"{GPU_MEMORY / place.sharing:.3f}"
    elif place.platform == "tpu":
        found["JAX_PLATFORMS"] = "tpu,cpu"
        if len(place.devices) < place.of:
            port = str(TPU_PORT + place.number)
            found |= {
                "TPU_VISIBLE_CHIPS": ",".join(place.devices),
                "TPU_CHIPS_PER_PROCESS_BOUNDS": TPU_BOUNDS[len(place.devices)],
                "TPU_PROCESS_BOUNDS": "1,1,1",
                "TPU_PROCESS_ADDRESSES": f"localhost:{port}",
                "TPU_PROCESS_PORT": port,
                "CLOUD_TPU_TASK_ID": "0",
                "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
            }
    return found


def more_memory(place: Place) -> str:
    """What to change where a node does not fit on its worker's devices; "" if nothing helps."""
    if place.sharing > 1:
        return (
            f"{place.sharing} workers share the {NAMES[place.platform]}: set config.workers="
            f"{place.of} to give each worker one of its own"
        )
    if place.platform in ("gpu", "tpu") and len(place.devices) < place.of:
        fewer = place.of // len(place.devices) // 2 or 1
        return (
            f"this worker has {len(place.devices)} of {counted(place.of, NAMES[place.platform])}: "
            f"set config.workers={fewer}{', or 1,' * (fewer > 1)} to give every stage more of them "
            "as one mesh"
        )
    if place.platform == "cpu":
        return "set config.workers to a smaller number: all workers share the machine's memory"
    return ""
