"""What this machine has, what msm_jax finds of it, and what is wrong: `python -m msm_jax.doctor`.

Prints versions, devices, memory, disk, limits and settings, then a list of what to mend and how.
--workdir is where runs are to lie; --json prints the same for machines. Exit code 0: nothing is
wrong; 2: something is. Keys are told as present or absent, never their values.
"""

import contextlib
import dataclasses
import glob
import importlib.metadata
import json
import os
import pathlib
import platform
import re
import resource
import shutil
import subprocess
import sys
import tempfile

from absl import flags

import msm_jax
from msm_jax import accelerators, command, strict_json
from msm_jax.errors import UserError
from msm_jax.outputs import output_dir

GIB = 2**30
KEYS = ("ANTHROPIC_API_KEY", "OPENAI_API_KEY", "HF_TOKEN")
SETTINGS = (
    "JAX_PLATFORMS JAX_ENABLE_X64 JAX_DISABLE_JIT XLA_FLAGS LIBTPU_INIT_ARGS "
    "XLA_PYTHON_CLIENT_MEM_FRACTION XLA_PYTHON_CLIENT_PREALLOCATE OMP_NUM_THREADS "
    "MALLOC_ARENA_MAX MALLOC_TRIM_THRESHOLD_ LD_PRELOAD"
).split()
# PCI devices of Google that are TPUs, v2 to v6e, as JAX itself looks for them
# (jax/_src/hardware_utils.py).
GOOGLE, TPUS = "0x1ae0", ("0x0027", "0x0056", "0x005e", "0x0062", "0x0063", "0x006f")


@dataclasses.dataclass
class Findings:
    """`facts`: section -> name -> value; `problems`: what is wrong and its cure, in pairs."""

    facts: dict[str, dict] = dataclasses.field(default_factory=dict)
    notes: list[str] = dataclasses.field(default_factory=list)
    problems: list[tuple[str, str]] = dataclasses.field(default_factory=list)

    def lines(self) -> list[str]:
        text = []
        for section, facts in self.facts.items():
            text += [section] + [f"  {name:<28} {value}" for name, value in facts.items()]
        text += [f"note: {note}" for note in self.notes]
        if not self.problems:
            return [*text, "nothing is wrong"]
        text.append(f"{len(self.problems)} to mend:")
        return text + [f"  {n}. {p}: {cure}" for n, (p, cure) in enumerate(self.problems, 1)]


def examine(workdir: str) -> Findings:
    """Everything, in the order in which it is printed."""
    found = Findings()
    _versions(found)
    _devices(found)
    _memory(found)
    _disks(found, workdir)
    _settings(found)
    return found


# ------------------------------------------------------------------ software


def _versions(found: Findings) -> None:
    facts = {
        "Python": platform.python_version(),
        "msm_jax": f"{msm_jax.__version__} in {pathlib.Path(msm_jax.__file__).parent}",
    }
    found.facts["versions"] = facts
    tested = _tested()
    for name, (at_least, needed) in _required().items():
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            if needed:
                cure = f"pip install '{name}>={at_least}'" if at_least else f"pip install {name}"
                found.problems.append((f"{name} is not installed", cure))
                facts[name] = "missing"
            continue
        facts[name] = version
        if _numbers(version) < _numbers(at_least):
            cure = f"pip install --upgrade '{name}>={at_least}'"
            found.problems.append((f"{name} {version} is older than what was tested", cure))
        elif version.partition("+")[0] != tested.get(_plain(name), version.partition("+")[0]):
            facts[name] += f" (every test ran with {tested[_plain(name)]})"
    jax, jaxlib = facts.get("jax", ""), facts.get("jaxlib", "")
    if jax.split(".")[:2] != jaxlib.split(".")[:2]:
        cure = "pip install --upgrade jax jaxlib, both from one release"
        found.problems.append((f"jax {jax} and jaxlib {jaxlib} do not belong together", cure))


def _required() -> dict[str, tuple[str, bool]]:
    """Name -> (lowest version, whether msm_jax needs it) of what setup.py names; and jaxlib."""
    wanted: dict[str, tuple[str, bool]] = {"jaxlib": ("", True)}
    try:
        lines = importlib.metadata.requires("msm_jax") or []
    except importlib.metadata.PackageNotFoundError:
        lines = ["jax", "flax", "optax", "orbax-checkpoint", "grain", "numpy"]  # a bare checkout
    for line in lines:
        match = re.match(r"([\w.-]+)(?:\[\w+\])?(?:>=([\w.]+))?", line)
        extra = "extra ==" in line
        if match and not (extra and match[1] in wanted):
            wanted[match[1]] = (match[2] or "", not extra)
    return dict(sorted(wanted.items(), key=lambda item: item[0].lower()))


def _tested() -> dict[str, str]:
    """Of constraints.txt, which wheels carry along: name -> version for this Python."""
    package = pathlib.Path(msm_jax.__file__).parent
    paths = (package / "constraints.txt", package.parent / "constraints.txt")
    path = next((path for path in paths if path.exists()), None)
    old = sys.version_info < (3, 12)
    pins = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path else []:
        name, equals, rest = line.partition("==")
        version, _, marker = rest.partition(";")
        if equals and (not marker or ("<" in marker) == old):
            pins[_plain(name)] = version.strip()
    return pins


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version.split("+")[0]))


# ------------------------------------------------------------------ devices

# In a process of its own: JAX may hang, abort, or keep the devices.
LOOK = """
import json, jax
devices = jax.local_devices()
stats = [device.memory_stats() or {} for device in devices]
print("@" + json.dumps({
    "backend": jax.default_backend(), "kind": devices[0].device_kind, "local": len(devices),
    "all": jax.device_count(), "limit": stats[0].get("bytes_limit", 0),
    "used": stats[0].get("bytes_in_use", 0), "one": float((jax.numpy.ones(8) * 2).sum()) == 16}))
"""


def _devices(found: Findings, seconds: float = 120) -> None:
    facts: dict[str, object] = {}
    found.facts["devices"] = facts
    tpus, gpus = _tpu_chips(), _gpus()
    facts["on the machine"] = f"{tpus} TPU chips, {gpus} NVIDIA GPUs"
    plugins = [name for name in ("libtpu", *_cuda_plugins()) if _installed(name)]
    facts["plugins"] = ", ".join(f"{name} {_installed(name)}" for name in plugins) or "none"
    try:
        done = subprocess.run(
            [sys.executable, "-c", LOOK], capture_output=True, text=True, timeout=seconds
        )
    except subprocess.TimeoutExpired:
        facts["JAX"] = f"no answer in {seconds:.0f} s"
        cure = _holders() or "on a pod run this on all hosts at once; else look at JAX's settings"
        found.problems.append(("JAX hangs when it looks for devices", cure))
        return
    answer = next((line[1:] for line in done.stdout.splitlines() if line[:1] == "@"), "")
    if not answer:
        facts["JAX"] = "cannot start"
        found.problems.append(why_not(done.stderr))
        return
    seen = json.loads(answer)
    facts["JAX uses"] = f"{seen['local']} x {seen['kind']}, of {seen['all']} in all"
    if seen["limit"]:
        facts["memory of each"] = f"{seen['limit'] / GIB:.1f} GiB, {seen['used'] / GIB:.1f} in use"
    one = accelerators.find(seen["kind"])
    if one:
        limit = f"{one.memory / GIB:.2f} GiB, " if one.memory else ""
        facts["limits of each"] = (
            f"{limit}{one.flops / 1e12:.0f} TFLOP/s bfloat16, {one.bandwidth / 1e12:.2f} TB/s"
        )
    if not seen["one"]:
        found.problems.append(("a sum of eight ones came out wrong", "change the device"))
    if seen["backend"] == "cpu":
        found.problems += unused(tpus, gpus)


def why_not(stderr: str) -> tuple[str, str]:
    """(problem, cure) of what JAX said when it did not get its devices."""
    lines = [line for line in stderr.strip().splitlines() if line.strip()] or ["no message"]
    last = next((line for line in reversed(lines) if "Error" in line), lines[-1])[:300]
    if "ALREADY_IN_USE" in stderr or "in use" in stderr or "lockfile" in stderr:
        nobody = "look as root (sudo lsof /dev/accel* /dev/vfio/*); if there is nobody, "
        return "the TPU is in use", _holders() or nobody + "sudo rm /tmp/libtpu_lockfile"
    if "XLA_FLAGS" in stderr:
        unknown = next((line for line in lines if "XLA_FLAGS" in line), last)
        unknown = unknown[unknown.find("Unknown") :][:200]
        return f"XLA_FLAGS is not understood: {unknown}", "unset XLA_FLAGS or mend it"
    if "backend" in stderr and os.environ.get("JAX_PLATFORMS"):
        wanted = os.environ["JAX_PLATFORMS"]
        return f"JAX_PLATFORMS={wanted} cannot be had: {last}", "unset it, or install its plugin"
    return f"JAX cannot start: {last}", "pip install --upgrade 'msm_jax[tpu]', [gpu] or neither"


def unused(tpus: int | None = None, gpus: int | None = None) -> list[tuple[str, str]]:
    """(problem, cure) of accelerators that lie idle, if JAX uses the CPU; counted if not given."""
    tpus = _tpu_chips() if tpus is None else tpus
    gpus = _gpus() if gpus is None else gpus
    problems = []
    chosen = os.environ.get("JAX_PLATFORMS", "")
    for count, what, extra, plugins in (
        (tpus, "TPU", "tpu", ("libtpu",)),
        (gpus, "GPU", "gpu", _cuda_plugins()),
    ):
        if not count:
            continue
        problem = f"there is a {what}, and JAX uses the CPU"
        if "cpu" in chosen:
            problems.append((problem, f"unset JAX_PLATFORMS (it is {chosen})"))
        elif not any(_installed(name) for name in plugins):
            problems.append((problem, f"pip install 'msm_jax[{extra}]'"))
        else:
            cure = "its driver may be too old (nvidia-smi)" if what == "GPU" else _holders()
            problems.append((problem, cure or "python -c 'import jax; jax.devices()' says why"))
    return problems


def _installed(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _cuda_plugins() -> tuple[str, ...]:
    return ("jax-cuda13-plugin", "jax-cuda12-plugin")


def _gpus() -> int:
    return len(glob.glob("/dev/nvidia[0-9]*"))


def _tpu_chips() -> int:
    def read(path):
        try:
            return pathlib.Path(path).read_text().strip()
        except OSError:
            return ""

    vendors = glob.glob("/sys/bus/pci/devices/*/vendor")
    ours = [path for path in vendors if read(path) == GOOGLE]
    return sum(read(path[: -len("vendor")] + "device") in TPUS for path in ours)


def _holders() -> str:
    """Who has a TPU's device file or libtpu's lock open, of whom we may look at; "" for nobody."""
    names = {}
    for link in glob.glob("/proc/[0-9]*/fd/*"):
        try:
            target = os.readlink(link)
            if re.match(r"/dev/(accel\d|vfio/\d)|/tmp/libtpu_lockfile", target):
                pid = link.split("/")[2]
                names[pid] = pathlib.Path(f"/proc/{pid}/comm").read_text().strip()
        except OSError:
            continue
    told = ", ".join(f"{name} (process {pid})" for pid, name in sorted(names.items()))
    return f"held by {told}: wait for it, or kill it if it is a leftover" if told else ""


# ------------------------------------------------------------------ memory, disks, limits


def _memory(found: Findings) -> None:
    pages = os.sysconf("SC_PAGE_SIZE")
    total, free = pages * os.sysconf("SC_PHYS_PAGES"), None
    with contextlib.suppress(OSError):  # macOS has neither
        known = pathlib.Path("/proc/meminfo").read_text()
        match = re.search(r"MemAvailable: +(\d+)", known)
        free = 1024 * int(match[1]) if match else None
        limit = pathlib.Path("/sys/fs/cgroup/memory.max").read_text().strip()
        total = min(total, int(limit)) if limit.isdigit() else total
    facts = {"memory": f"{total / GIB:.1f} GiB" + (f", {free / GIB:.1f} free" if free else "")}
    if free is not None and free < 2 * GIB:
        cure = "end other processes; a stage of the miniature takes about 1 GiB"
        found.problems.append((f"only {free / GIB:.1f} GiB of memory are free", cure))
    mine = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    facts["cores"] = f"{mine} of {os.cpu_count()} for this process"
    limits = (
        ("open files", resource.RLIMIT_NOFILE, 1024, 1, "ulimit -n 65536"),
        ("address space", resource.RLIMIT_AS, 16 * GIB, GIB, "ulimit -v unlimited"),
        ("size of a file", resource.RLIMIT_FSIZE, 64 * GIB, GIB, "ulimit -f unlimited"),
    )
    for name, which, at_least, unit, cure in limits:
        soft, hard = resource.getrlimit(which)
        facts[name] = "unlimited" if soft == resource.RLIM_INFINITY else f"{soft / unit:,.0f}"
        facts[name] += " GiB" if unit == GIB and soft != resource.RLIM_INFINITY else ""
        if soft != resource.RLIM_INFINITY and soft < at_least:
            if hard not in (soft, resource.RLIM_INFINITY) and hard < at_least:
                cure += ", as root"
            found.problems.append((f"the limit of {name} is {facts[name]}", cure))
    found.facts["host"] = facts


def _disks(found: Findings, workdir: str) -> None:
    facts: dict[str, object] = {}
    found.facts["disks"] = facts
    cache = os.environ.get("JAX_COMPILATION_CACHE_DIR", "")
    places = [
        ("temporary files", tempfile.gettempdir(), GIB // 4, "free some, or set TMPDIR"),
        ("/dev/shm", "/dev/shm", GIB // 16, "in Docker: --shm-size=8g"),
    ]
    try:
        place = str(output_dir(workdir, "--workdir"))
        places.insert(0, ("--workdir", place, 2 * GIB, "give another --workdir, or free some"))
    except UserError as error:
        found.problems.append((str(error), "give another --workdir"))
    if cache and "://" not in cache:
        cure = "set JAX_COMPILATION_CACHE_DIR elsewhere, or unset it"
        places.append(("compilation cache", cache, GIB // 4, cure))
    elif not cache:
        found.notes.append(
            "JAX_COMPILATION_CACHE_DIR is not set: train compiles anew at every start (study keeps "
            "a cache of its own)"
        )
    for name, place, at_least, cure in places:
        if name == "/dev/shm" and not os.path.isdir(place):
            continue
        problem = _cannot_write(place)
        if problem:
            facts[name] = f"{place}: {problem}"
            found.problems.append((f"{name} {place}: {problem}", cure))
            continue
        free = shutil.disk_usage(_existing(place)).free
        facts[name] = f"{place}: {free / GIB:.1f} GiB free"
        if free < at_least:
            found.problems.append((f"{name} {place}: only {free / GIB:.2f} GiB are free", cure))


def _existing(place: str) -> pathlib.Path:
    path = pathlib.Path(place).absolute()
    return next(one for one in (path, *path.parents) if one.exists())


def _cannot_write(place: str) -> str:
    """Why a file of a MiB cannot be written there, or where it would be made; "" if it can."""
    try:
        with tempfile.TemporaryFile(dir=_existing(place)) as file:
            file.write(b"\0" * 2**20)
            file.flush()
    except OSError as error:
        return error.strerror or str(error)
    return ""


# ------------------------------------------------------------------ settings and keys


def _settings(found: Findings) -> None:
    facts = {name: os.environ[name] for name in SETTINGS if name in os.environ}
    found.facts["settings"] = facts or {"none": "that matter are set"}
    found.facts["keys"] = {name: "present" if os.environ.get(name) else "absent" for name in KEYS}
    if facts.get("JAX_DISABLE_JIT", "0").lower() in ("1", "true"):
        found.problems.append(("JAX_DISABLE_JIT is set: nothing is compiled", "unset it"))
    if facts.get("JAX_ENABLE_X64", "0").lower() in ("1", "true"):
        found.problems.append(("JAX_ENABLE_X64 is set: untested with msm_jax", "unset it"))
    padded = [name for name in KEYS if os.environ.get(name, "").strip() != os.environ.get(name, "")]
    for name in padded:
        cure = "set it again without the blanks around it"
        found.problems.append((f"{name} begins or ends with a blank or a new line", cure))


def define_flags() -> None:
    flags.DEFINE_string("workdir", ".", "Where runs are to lie.")
    flags.DEFINE_bool("json", False, "Print JSON instead.")


def main() -> None:
    found = examine(flags.FLAGS.workdir)
    if flags.FLAGS.json:
        problems = [{"what": what, "cure": cure} for what, cure in found.problems]
        print(strict_json.dumps({"facts": found.facts, "notes": found.notes, "problems": problems}))
    else:
        print("\n".join(found.lines()))
    sys.stdout.flush()
    if found.problems:
        sys.exit(command.EXIT_USER_ERROR)


if __name__ == "__main__":
    define_flags()
    command.run(main, config=False)
