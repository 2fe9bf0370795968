"""Which code made a result: version, commit, and a hash of the sources as they were."""

import functools
import pathlib
import subprocess
from importlib import metadata

from msm_jax import __version__
from msm_jax.files import sha256_sources

LIBRARIES = "jax jaxlib flax optax orbax-checkpoint grain sentencepiece numpy".split()


@functools.cache
def library_versions() -> dict[str, str]:
    """Versions of the libraries that numbers depend on."""
    return {name: metadata.version(name) for name in LIBRARIES}


@functools.cache
def code_version() -> str:
    """Version, commit where there is one, and a hash of the package's sources."""
    package = pathlib.Path(__file__).resolve().parent
    command = ["git", "-C", str(package), "rev-parse", "--short=12", "HEAD"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=10)
        commit = found.stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        commit = ""
    sources = f"sources {sha256_sources(package)[:12]}"
    return " ".join(filter(None, [__version__, commit, sources]))
