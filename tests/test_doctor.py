"""The doctor, shown machines with real faults."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from msm_jax.tiny import tiny_checkpoint

LIBTPU = pathlib.Path(sys.prefix, "tpu")  # where the Makefile puts it, apart from all else


@pytest.fixture
def doctor(run_python):
    """(exit code, JSON or None, text) of `python -m msm_jax.doctor`."""

    def run(*arguments, **environment):
        done = run_python("-m", "msm_jax.doctor", "--json", *arguments, **environment)
        assert done.returncode in (0, 2) and not done.stderr, done.stderr
        return done.returncode, json.loads(done.stdout), done.stdout

    return run


def test_a_sound_machine_has_nothing_wrong(doctor, tmp_path):
    code, found, _ = doctor("--workdir=new/place", JAX_COMPILATION_CACHE_DIR=str(tmp_path / "c"))
    assert (code, found["problems"]) == (0, [])
    facts = found["facts"]
    assert facts["devices"]["JAX uses"] == "1 x cpu, of 1 in all"
    assert {"jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain"} <= set(facts["versions"])
    assert "GiB free" in facts["disks"]["--workdir"] and not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "variable, value, words",
    [
        ("JAX_PLATFORMS", "nonsense", "JAX_PLATFORMS=nonsense does not work"),
        ("XLA_FLAGS", "--no_such_flag=1", "Unknown flag in XLA_FLAGS: --no_such_flag=1"),
    ],
)
def test_a_setting_that_keeps_jax_from_starting_is_named(doctor, variable, value, words):
    code, found, _ = doctor(**{variable: value})
    [problem] = found["problems"]
    assert code == 2 and words in problem["what"] and "unset" in problem["cure"]


def test_every_problem_is_listed_with_its_cure(doctor, root, tmp_path):
    """Of settings, keys and versions; a key is never shown."""
    (tmp_path / "file").touch()
    for name, version in (("optax", "0.0.1"), ("tqdm", "4.999")):
        folder = tmp_path / f"{name}-{version}.dist-info"
        folder.mkdir()
        text = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        (folder / "METADATA").write_text(text)
    code, found, text = doctor(
        JAX_DISABLE_JIT="1",
        JAX_COMPILATION_CACHE_DIR="file/cache",
        ANTHROPIC_API_KEY="sk-ant-0123\n",
        OPENAI_API_KEY="",
        HF_TOKEN="hf_x",
        PYTHONPATH=f"{tmp_path}{os.pathsep}{root}",
    )
    wanted = [
        ("optax 0.0.1 is older than what was tested", "pip install --upgrade 'optax>="),
        ("compilation cache file/cache: Not a directory", "unset it"),
        ("JAX_DISABLE_JIT is set: nothing is compiled", "unset it"),
        ("ANTHROPIC_API_KEY begins or ends with a blank or a new line", "set it again"),
    ]
    assert code == 2 and len(found["problems"]) == len(wanted)
    for problem, (what, cure) in zip(found["problems"], wanted, strict=True):
        assert problem["what"] == what and cure in problem["cure"]
    assert found["facts"]["versions"]["tqdm"].startswith("4.999 (every test ran with 4.")
    assert found["facts"]["keys"] == {
        "ANTHROPIC_API_KEY": "present",
        "OPENAI_API_KEY": "absent",
        "HF_TOKEN": "present",
    }
    assert "0123" not in text and "hf_x" not in text


def test_small_limits_are_found(root, tmp_path):
    """A limit that is too small, and one that a write runs into; as text."""
    command = f'ulimit -S -n 256; ulimit -S -f 100; exec "{sys.executable}" -m msm_jax.doctor'
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2, done.stdout + done.stderr
    assert "the limit of open files is 256: ulimit" in done.stdout
    assert "--workdir .: File too large" in done.stdout


def test_a_full_disk_is_found(doctor, tmp_path):
    full = tmp_path / "full"
    full.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", full])
    if mounted.returncode:
        pytest.skip("needs the right to mount")
    try:
        code, found, _ = doctor(f"--workdir={full}")
    finally:
        subprocess.run(["umount", full], check=True)
    assert code == 2 and "No space left on device" in found["problems"][0]["what"]


HOLD = """
import os, sys
from jax.experimental import topologies
topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2")
print("held", flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(not LIBTPU.is_dir(), reason="needs libtpu: make .venv/.installed-test")
def test_who_holds_the_tpu_is_named(doctor, root, run_python, tmp_path):
    path = f"{root}{os.pathsep}{LIBTPU}"
    quiet = {"TPU_SKIP_MDS_QUERY": "1", "TPU_ACCELERATOR_TYPE": "v5litepod-8"}
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD],
        env={**os.environ, **quiet, "PYTHONPATH": path, "TPU_WORKER_HOSTNAMES": "localhost"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        if holder.stdout.readline() != "held\n":
            pytest.skip("another process of this machine has libtpu loaded")
        code, found, _ = doctor(PYTHONPATH=path, JAX_PLATFORMS="tpu")
        other = run_python(
            "-m", "msm_jax.sample", f"--checkpoint={tiny_checkpoint(tmp_path / 'm', ['one two'])}",
            "--prompt=one", PYTHONPATH=path, JAX_PLATFORMS="tpu", **quiet,
        )  # fmt: skip
    finally:
        holder.communicate("")
    [problem] = found["problems"]
    assert code == 2 and problem["what"] == "the TPU is in use"
    assert f"(process {holder.pid})" in problem["cure"]
    # So does any command that needs it, without a traceback.
    assert other.returncode == 2 and other.stderr.count("\n") == 1, other.stderr
    assert f"error: the TPU is in use: held by python (process {holder.pid})" in other.stderr
