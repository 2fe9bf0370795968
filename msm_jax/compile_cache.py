"""Compiled programs are kept on disk, so that no command compiles what an earlier one did.

The directory is the first of these that is given; "off" in its place turns the cache off:

1. the flag --compile_cache, which every command has
2. $JAX_COMPILATION_CACHE_DIR, JAX's own variable, used exactly as it is
3. $MSM_JAX_CACHE/programs
4. $XDG_CACHE_HOME/msm_jax/programs, or ~/.cache/msm_jax/programs

In 1, 3 and 4 there is one directory per version of JAX and kind of processor below it, since XLA's
programs for one CPU can crash on another. JAX itself adds device, flags and program to every key.
Python code that uses `msm_jax` as a library turns it on by `compile_cache.enable()`.

On a CPU, LLVM also optimizes less than XLA asks for by default: at level 1 instead of 3. Where it
was measured, programs compute the same bits at the same speed, and fresh weights compile in a third
of the time (`benchmarks/llvm_level.py`). A level in $XLA_FLAGS counts instead.
"""

import contextlib
import hashlib
import importlib.metadata
import os
import pathlib
import platform
import sys
import tempfile

from msm_jax import memory
from msm_jax.errors import UserError
from msm_jax.files import delete

VARIABLE = "JAX_COMPILATION_CACHE_DIR"
LLVM_LEVEL = "--xla_backend_optimization_level=1"
MOST_BYTES = 8 * 2**30
SETTINGS = {
    "jax_persistent_cache_min_compile_time_secs": 0.2,
    "jax_persistent_cache_min_entry_size_bytes": -1,
    # Else the directory's own path is part of every key, and a study that moved compiles anew.
    "jax_persistent_cache_enable_xla_caches": "none",
}


def enable(where: str = "", most_bytes: int = MOST_BYTES) -> str:
    """Turn the cache on for this process and those it starts; better before JAX compiles anything.

    LLVM's level is lowered if JAX has not started yet and will compute on a CPU.
    `where` is a directory, "off", or "" for the first of 2 to 4 above. The programs that were not
    used for the longest time are deleted until the rest takes no more than `most_bytes`; not in a
    directory that JAX's own variable names. Returns "", or why programs are not kept.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if LLVM_LEVEL.partition("=")[0] not in flags and memory.computes_on_cpu():
        os.environ["XLA_FLAGS"] = f"{flags} {LLVM_LEVEL}".strip()
    if os.environ.get(VARIABLE) and not where:
        return ""
    where = where or default_directory()
    if where == "off":
        _set({"jax_enable_compilation_cache": False})
        return ""
    directory = pathlib.Path(where)
    try:
        directory = directory.expanduser().absolute() / _version()
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except (OSError, RuntimeError) as error:  # the second where nobody knows the home directory
        _set({"jax_enable_compilation_cache": False})
        return f"compiled programs are not kept: {directory}: {error}"
    chosen = {name: value for name, value in SETTINGS.items() if name.upper() not in os.environ}
    _set({"jax_compilation_cache_dir": str(directory), **chosen})
    _shrink(directory.parent, most_bytes)
    return ""


def default_directory() -> str:
    """Where programs are kept, without the version, if nobody says otherwise; or "off"."""
    chosen = os.environ.get("MSM_JAX_CACHE", "")
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return "off" if chosen == "off" else f"{chosen or f'{home}/msm_jax'}/programs"


def _version() -> str:
    cpu = platform.processor() + platform.machine()
    with contextlib.suppress(OSError):
        lines = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        cpu += next((line for line in lines if line.startswith(("flags", "Features"))), "")
    jax, jaxlib = (importlib.metadata.version(name) for name in ("jax", "jaxlib"))
    return f"jax-{jax}-jaxlib-{jaxlib}-{hashlib.sha256(cpu.encode()).hexdigest()[:8]}"


def _set(settings: dict[str, object]) -> None:
    """By the environment, which JAX reads when it is imported; later by its own config."""
    for name, value in settings.items():
        os.environ[name.upper()] = str(value)
        if "jax" in sys.modules:
            sys.modules["jax"].config.update(name, value)


def _shrink(directory: pathlib.Path, most_bytes: int) -> None:
    """JAX's own bound writes a second file per program, and a process that is killed between the
    two makes every later one fail. Other processes may delete the same files at the same time.
    """
    found = []
    for path in directory.glob("jax-*-jaxlib-*/*-cache"):  # nothing else in a user's directory
        with contextlib.suppress(OSError):
            facts = path.stat()
            found.append((max(facts.st_atime, facts.st_mtime), facts.st_size, path))
    excess = sum(size for _, size, _ in found) - most_bytes
    for _, size, path in sorted(found):
        if excess <= 0:
            return
        with contextlib.suppress(OSError, UserError):  # the latter of a link to somewhere else
            delete(path, directory)
        excess -= size
