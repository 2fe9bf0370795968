"""What this machine has, what msm_jax finds of it, and what is wrong: `python -m msm_jax.doctor`.

Prints versions, devices, memory, disk, limits and settings, then a list of problems and their
cures. --workdir is where runs will be stored; --json prints the same for machines. Exit code 0:
nothing is wrong; 2: something is. Of keys it reports whether they are set, never their values.
"""

import contextlib
import importlib.metadata
import itertools
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
from typing import Any

from absl import flags

import msm_jax
from msm_jax import accelerators, command, compile_cache
from msm_jax.errors import UserError
from msm_jax.files import dumps
from msm_jax.outputs import output_dir

GIB = 2**30
KEYS = ("ANTHROPIC_API_KEY", "OPENAI_API_KEY", "HF_TOKEN")
SETTINGS = (
    "JAX_PLATFORMS JAX_ENABLE_X64 JAX_DISABLE_JIT XLA_FLAGS LIBTPU_INIT_ARGS "
    "XLA_PYTHON_CLIENT_MEM_FRACTION XLA_PYTHON_CLIENT_PREALLOCATE OMP_NUM_THREADS "
    "MALLOC_ARENA_MAX MALLOC_TRIM_THRESHOLD_ GLIBC_TUNABLES MSM_JAX_KEEP_MEMORY LD_PRELOAD"
).split()
Problems = list[tuple[str, str]]  # (what is wrong, its cure)


def examine(workdir: str) -> tuple[dict[str, dict[str, Any]], Problems]:
    """Facts of this machine as section -> name -> value, and what is wrong with it."""
    problems: Problems = []
    facts = {
        "versions": _versions(problems),
        "devices": _devices(problems),
        "host": _host(problems),
        "disks": _disks(problems, workdir),
        "settings": _settings(problems),
        "keys": {name: "present" if os.environ.get(name) else "absent" for name in KEYS},
    }
    return facts, problems


def _versions(problems: Problems) -> dict[str, Any]:
    home = pathlib.Path(msm_jax.__file__).parent
    facts = {
        "Python": platform.python_version(),
        "msm_jax": f"{msm_jax.__version__} in {home}",
    }
    tested = _tested(home)
    numbers = lambda release: [int(part) for part in re.findall(r"\d+", release)]
    for name, (at_least, needed) in _required().items():
        version = accelerators.installed(name)
        wanted = f"'{name}>={at_least}'" if at_least else name
        release = (version or "").partition("+")[0]
        if version or needed:
            facts[name] = version or "missing"
        if not version:
            if needed:
                problems.append((f"{name} is not installed", f"pip install {wanted}"))
        elif numbers(release) < numbers(at_least):
            what = f"{name} {version} is older than what was tested"
            problems.append((what, f"pip install --upgrade {wanted}"))
        elif release != (known := tested.get(_plain(name), release)):
            facts[name] += f" (every test ran with {known})"
    jax, jaxlib = facts.get("jax", ""), facts.get("jaxlib", "")
    if jax.split(".")[:2] != jaxlib.split(".")[:2]:
        cure = "pip install --upgrade jax jaxlib, both from one release"
        problems.append((f"jax {jax} and jaxlib {jaxlib} do not belong together", cure))
    return facts


def _required() -> dict[str, tuple[str, bool]]:
    """Name -> (lowest version, whether msm_jax needs it) of setup.py's packages and jaxlib."""
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


def _tested(home: pathlib.Path) -> dict[str, str]:
    """Name -> version for this Python in constraints.txt, which wheels include."""
    pins = {}
    for path in (home / "constraints.txt", home.parent / "constraints.txt"):
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
            name, equals, rest = line.partition("==")
            version, _, marker = rest.partition(";")
            if equals and (not marker or ("<" in marker) == (sys.version_info < (3, 12))):
                pins[_plain(name)] = version.strip()
    return pins


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


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


def _devices(problems: Problems, seconds: float = 120) -> dict[str, Any]:
    names = itertools.chain(*accelerators.PLUGINS.values())
    plugins = [f"{name} {version}" for name in names if (version := accelerators.installed(name))]
    chips, gpus = accelerators.tpu_chips(), accelerators.gpus()
    facts = {"on the machine": f"{chips} TPU chips, {gpus} NVIDIA GPUs"}
    facts["plugins"] = ", ".join(plugins) or "none"
    try:
        done = subprocess.run(
            [sys.executable, "-c", LOOK], capture_output=True, text=True, timeout=seconds
        )
    except subprocess.TimeoutExpired:
        cure = "on a pod run this on all hosts at once; else look at JAX's settings"
        problems.append(("JAX hangs when it looks for devices", accelerators.holders() or cure))
        return facts | {"JAX": f"no answer in {seconds:.0f} s"}
    answer = next((line[1:] for line in done.stdout.splitlines() if line[:1] == "@"), "")
    if not answer:
        problems.append(accelerators.why_not(done.stderr))
        return facts | {"JAX": "cannot start"}
    seen = json.loads(answer)
    facts["JAX uses"] = f"{seen['local']} x {seen['kind']}, of {seen['all']} in all"
    if seen["limit"]:
        facts["memory of each"] = f"{seen['limit'] / GIB:.1f} GiB, {seen['used'] / GIB:.1f} in use"
    if one := accelerators.find(seen["kind"]):
        limit = f"{one.memory / GIB:.2f} GiB, " if one.memory else ""
        speed = f"{one.flops / 1e12:.0f} TFLOP/s bfloat16, {one.bandwidth / 1e12:.2f} TB/s"
        facts["limits of each"] = limit + speed
    if not seen["one"]:
        problems.append(("a sum of eight ones came out wrong", "change the device"))
    if seen["backend"] == "cpu":
        problems += accelerators.unused()
    return facts


def _host(problems: Problems) -> dict[str, Any]:
    total, free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), None
    with contextlib.suppress(OSError):  # macOS has neither
        match = re.search(r"MemAvailable: +(\d+)", pathlib.Path("/proc/meminfo").read_text())
        free = 1024 * int(match[1]) if match else None
        limit = pathlib.Path("/sys/fs/cgroup/memory.max").read_text().strip()
        total = min(total, int(limit)) if limit.isdigit() else total
    mine = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    facts = {
        "memory": f"{total / GIB:.1f} GiB" + (f", {free / GIB:.1f} free" if free else ""),
        "cores": f"{mine} of {os.cpu_count()} for this process",
    }
    if free is not None and free < 2 * GIB:
        cure = "end other processes; a stage of the miniature takes about 1 GiB"
        problems.append((f"only {free / GIB:.1f} GiB of memory are free", cure))
    for name, which, at_least, unit, cure in (
        ("open files", resource.RLIMIT_NOFILE, 1024, 1, "ulimit -n 65536"),
        ("address space", resource.RLIMIT_AS, 16 * GIB, GIB, "ulimit -v unlimited"),
        ("size of a file", resource.RLIMIT_FSIZE, 64 * GIB, GIB, "ulimit -f unlimited"),
    ):
        soft, hard = resource.getrlimit(which)
        if soft == resource.RLIM_INFINITY:
            facts[name] = "unlimited"
            continue
        facts[name] = f"{soft / unit:,.0f}" + (" GiB" if unit == GIB else "")
        if soft < at_least:
            root = hard not in (soft, resource.RLIM_INFINITY) and hard < at_least
            problems.append((f"the limit of {name} is {facts[name]}", cure + ", as root" * root))
    return facts


def _disks(problems: Problems, workdir: str) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    places = [("temporary files", tempfile.gettempdir(), GIB // 4, "free some, or set TMPDIR")]
    if os.path.isdir("/dev/shm"):
        places.append(("/dev/shm", "/dev/shm", GIB // 16, "in Docker: --shm-size=8g"))
    cache = os.environ.get(compile_cache.VARIABLE) or compile_cache.default_directory()
    if cache != "off" and "://" not in cache:
        cure = f"set {compile_cache.VARIABLE} or MSM_JAX_CACHE to another directory, or unset it"
        places.append(("compilation cache", os.path.expanduser(cache), GIB // 4, cure))
    try:
        place = str(output_dir(workdir, "--workdir"))
        places.insert(0, ("--workdir", place, 2 * GIB, "give another --workdir, or free some"))
    except UserError as error:
        problems.append((str(error), "give another --workdir"))
    for name, place, at_least, cure in places:
        path = pathlib.Path(place).absolute()
        existing = next(one for one in (path, *path.parents) if one.exists())
        try:
            with tempfile.TemporaryFile(dir=existing) as file:
                file.write(b"\0" * 2**20)
                file.flush()
        except OSError as error:
            facts[name] = f"{place}: {error.strerror or error}"
            problems.append((f"{name} {facts[name]}", cure))
            continue
        free = shutil.disk_usage(existing).free
        facts[name] = f"{place}: {free / GIB:.1f} GiB free"
        if free < at_least:
            problems.append((f"{name} {place}: only {free / GIB:.2f} GiB are free", cure))
    return facts


def _settings(problems: Problems) -> dict[str, Any]:
    facts = {name: os.environ[name] for name in SETTINGS if name in os.environ}
    harmful = {"JAX_DISABLE_JIT": "nothing is compiled", "JAX_ENABLE_X64": "untested with msm_jax"}
    for name, what in harmful.items():
        if facts.get(name, "0").lower() in ("1", "true"):
            problems.append((f"{name} is set: {what}", "unset it"))
    for name in KEYS:
        if (value := os.environ.get(name, "")) != value.strip():
            cure = "set it again without the blanks around it"
            problems.append((f"{name} begins or ends with a blank or a new line", cure))
    return facts or {"none": "that matter are set"}


def main() -> None:
    facts, problems = examine(flags.FLAGS.workdir)
    if flags.FLAGS.json:
        listed = [{"what": what, "cure": cure} for what, cure in problems]
        print(dumps({"facts": facts, "problems": listed}))
    else:
        for section, found in facts.items():
            print(section, *(f"  {name:<28} {value}" for name, value in found.items()), sep="\n")
        print(f"{len(problems)} to fix:" if problems else "nothing is wrong")
        for number, (what, cure) in enumerate(problems, 1):
            print(f"  {number}. {what}: {cure}")
    sys.stdout.flush()
    if problems:
        sys.exit(command.EXIT_USER_ERROR)


if __name__ == "__main__":
    flags.DEFINE_string("workdir", ".", "Directory in which runs will be stored.")
    flags.DEFINE_bool("json", False, "Print JSON.")
    command.run(main, config=False)
