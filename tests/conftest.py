"""What every test runs under: the CPU, strict shapes, quiet libraries.

Tests of several devices set XLA_FLAGS in a process of their own, because the number of devices
cannot change once JAX has started.
"""

import os
import sys
import tempfile

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("MPLBACKEND", "agg")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# What the user has is neither read nor written: tokens, keys of providers, settings of other tools.
os.environ["MSM_JAX_CACHE"] = tempfile.mkdtemp(prefix="msm_jax_tests_")
# Most of the suite's time is XLA compiling small programs, many of them alike in several processes.
# Without a bound on its size: a bounded cache has a second file per program, and a process that is
# killed between the two (tests do that) makes every later writer warn.
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR",
    os.path.join(tempfile.gettempdir(), f"msm_jax_test_programs_{os.getuid()}"),
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES", "none")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.05")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

import atexit
import json
import pathlib
import shutil
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
atexit.register(shutil.rmtree, os.environ["MSM_JAX_CACHE"], ignore_errors=True)
for name in [*os.environ]:
    if name in ("ANTHROPIC_API_KEY", "OPENAI_API_KEY") or name.startswith("INSPECT_"):
        del os.environ[name]


@pytest.fixture(scope="session")
def root() -> pathlib.Path:
    """The repository's root."""
    return ROOT


@pytest.fixture(scope="session")
def forked():
    """Runs commands in forks of one process, which spares them seconds of imports.

    `forked("msm_jax.study", ["--help"], tmp_path)` gives {"code", "out", "err"}; for more see
    tests/forked.py.
    """
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    server = subprocess.Popen(
        [sys.executable, str(ROOT / "tests" / "forked.py")],
        env={**os.environ, "PYTHONPATH": path},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def run(module: str, argv: list[str], cwd: pathlib.Path, **more) -> dict:
        print(json.dumps({"module": module, "argv": argv, "cwd": str(cwd), **more}),
              file=server.stdin, flush=True)  # fmt: skip
        return json.loads(server.stdout.readline())

    with server:
        yield run
        server.stdin.close()


@pytest.fixture
def run_python(tmp_path):
    """Runs Python in a process of its own, in an empty directory, with this checkout's package.

    `run_python("-m", "msm_jax.study", "--help")` gives the finished process, its output as text.
    """

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": path, **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=600,
        )

    return run
