"""Compiled programs are kept between commands; a damaged or unwritable cache is harmless."""

import json
import os
import pathlib
import subprocess
import sys

from msm_jax.tiny import tiny_checkpoint


def test_the_second_process_reads_what_the_first_compiled(run_python, tmp_path):
    checkpoint, cache = tiny_checkpoint(tmp_path / "tiny", ["one two three"]), tmp_path / "cache"
    command = ["-m", "msm_jax.sample", f"--checkpoint={checkpoint}", "--prompt=one"]
    command += ["--max_tokens=2", f"--compile_cache={cache}"]
    environment = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    environment["XLA_FLAGS"] = "--xla_backend_optimization_level=0"  # a third of the time
    first = run_python(*command, **environment)
    assert first.returncode == 0 and not first.stderr, first.stderr
    programs = {path: path.read_bytes() for path in cache.glob("*/*-cache")}
    # One of them as a process leaves it that is killed while it writes.
    broken = max(programs, key=lambda path: len(programs[path]))
    broken.write_bytes(programs[broken][:100])
    second = run_python(*command, **environment)
    assert second.returncode == 0 and second.stdout == first.stdout
    assert second.stderr.count("Error reading persistent compilation cache entry") == 1
    assert {*cache.glob("*/*-cache")} == {*programs}


CASES = """
import json, os, sys
from msm_jax import compile_cache
inherited = dict(os.environ)
for where, environment in json.load(sys.stdin):
    os.environ.clear()
    os.environ.update(inherited | environment)
    problem = compile_cache.enable(where, most_bytes=250)
    found = os.environ.get("JAX_COMPILATION_CACHE_DIR", "")
    enabled, flags = map(os.environ.get, ("JAX_ENABLE_COMPILATION_CACHE", "XLA_FLAGS"), ("", ""))
    print(json.dumps([found, enabled, problem, flags]))
assert "jax" not in sys.modules
"""


def test_where_programs_are_kept_and_when_not(root, tmp_path):

    (tmp_path / "file").touch()
    at = lambda name: str(tmp_path / name)
    cases = [
        ("", {"XDG_CACHE_HOME": at("home")}, at("home/msm_jax/programs")),
        ("", {"HOME": at("me")}, at("me/.cache/msm_jax/programs")),
        ("", {"MSM_JAX_CACHE": at("ours")}, at("ours/programs")),
        ("", {"MSM_JAX_CACHE": at("ours"), "JAX_COMPILATION_CACHE_DIR": at("jax")}, at("jax")),
        (at("flag"), {"JAX_COMPILATION_CACHE_DIR": at("jax")}, at("flag")),
        ("", {"MSM_JAX_CACHE": "off"}, None),
        ("off", {"MSM_JAX_CACHE": at("ours")}, None),
        (at("file"), {}, None),
    ]
    # LLVM's level is lowered on a CPU, where the user has not chosen one.
    level, other = "--xla_backend_optimization_level", "--xla_cpu_multi_thread_eigen=false"
    levels = [
        ({"JAX_PLATFORMS": "cpu"}, f"{level}=1"),
        ({"JAX_PLATFORMS": "cpu", "XLA_FLAGS": other}, f"{other} {level}=1"),
        ({"JAX_PLATFORMS": "cpu", "XLA_FLAGS": f"{level}=3"}, f"{level}=3"),
        ({"JAX_PLATFORMS": "cuda,cpu"}, ""),
    ]
    cases += [("off", environment, None) for environment, _ in levels]
    ours = ("JAX_COMPILATION_CACHE_DIR", "HOME", "XDG_CACHE_HOME", "XLA_FLAGS")
    clean = {name: value for name, value in os.environ.items() if name not in ours}
    done = subprocess.run(
        [sys.executable, "-c", CASES],
        input=json.dumps([(where, environment) for where, environment, _ in cases]),
        env={**clean, "PYTHONPATH": str(root), "MSM_JAX_CACHE": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    replies = [json.loads(line) for line in done.stdout.splitlines()]
    assert [flags for *_, flags in replies[-len(levels) :]] == [wanted for _, wanted in levels]
    for (where, _, wanted), (found, enabled, problem, _) in zip(cases, replies, strict=True):
        assert enabled == ("" if wanted else "False")
        assert (at("file") in problem) if where == at("file") else not problem
        if wanted and wanted != at("jax"):
            assert str(pathlib.Path(found).parent) == wanted and pathlib.Path(found).is_dir()
            assert pathlib.Path(found).name.startswith("jax-")
        else:
            assert not wanted or found == wanted
    assert not pathlib.Path(at("jax")).exists()  # JAX's own variable is left to JAX


def test_the_programs_that_were_not_used_for_longest_go(tmp_path):
    from msm_jax.compile_cache import _shrink

    for number in range(4):
        path = tmp_path / f"jax-{number % 2}-jaxlib-1-cpu" / f"jit_{number}-cache"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x" * 100)
        os.utime(path, (number, number))
    other = tmp_path / "photos" / "old-cache"  # in a directory that the user named
    other.parent.mkdir()
    other.write_bytes(b"x" * 1000)
    os.utime(other, (0, 0))
    _shrink(tmp_path, 250)
    other.unlink()
    assert sorted(path.name for path in tmp_path.rglob("*-cache")) == ["jit_2-cache", "jit_3-cache"]
