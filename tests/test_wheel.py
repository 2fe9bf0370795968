"""What somebody gets who installs the wheel and has no checkout."""

import email
import importlib.metadata
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import zipfile
from importlib.util import cache_from_source

import pytest
from packaging.requirements import Requirement


def build(root, folder):
    """The wheel, built from a copy, so that nothing is left in the checkout."""
    source = folder / "source"
    kept = shutil.ignore_patterns(".*", "runs", "build", "dist", "*.egg-info", "__pycache__")
    shutil.copytree(root, source, ignore=kept)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    wheel = [*pip, "wheel", "--quiet", "--no-deps", "--wheel-dir", folder / "dist", source]
    subprocess.run(wheel, check=True)
    [path] = (folder / "dist").glob("*.whl")
    return path


@pytest.fixture(scope="module")
def wheel(root, tmp_path_factory):
    return build(root, tmp_path_factory.mktemp("wheel"))


def test_the_wheel_carries_all_that_the_package_reads(root, wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    ignored = {".pyc"}
    package = {
        str(path.relative_to(root))
        for path in (root / "msm_jax").rglob("*")
        if path.is_file() and path.suffix not in ignored and path.name != "README.md"
    }
    configs = {f"msm_jax/{p.relative_to(root)}" for p in (root / "configs").rglob("*.py")}
    assert len(configs) >= 5
    missing = (package | configs | {"msm_jax/constraints.txt"}) - names
    assert not missing


def test_configs_are_found_from_anywhere_but_a_file_of_ones_own_wins(forked, tmp_path):
    run = lambda name: forked(
        "msm_jax.study", [f"--config=configs/{name}", "--workdir=w", "--dry_run"], tmp_path
    )
    done = run("miniature.py:smoke")
    assert done["code"] == 0, done["err"]
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "miniature.py").write_text("raise ValueError('mine')")
    done = run("miniature.py:smoke")
    assert done["code"] == 2 and "mine" in done["err"]
    done = run("none.py")
    assert done["code"] == 2 and "configs/none.py" in done["err"]


def link_requirements(wheel, site):
    """Links into `site` what the wheel requires and what that requires, and nothing else.

    They are the installed distributions, so that nothing is downloaded, unpacked or compiled.
    """
    read = zipfile.ZipFile(wheel).read
    [name] = [one for one in zipfile.ZipFile(wheel).namelist() if one.endswith("/METADATA")]
    metadata = email.message_from_bytes(read(name))
    todo, seen = [(text, "") for text in metadata.get_all("Requires-Dist")], set()
    while todo:
        text, extra = todo.pop()
        wanted = Requirement(text)
        if wanted.marker and not wanted.marker.evaluate({"extra": extra}):
            continue
        found = importlib.metadata.distribution(wanted.name)
        for key in {(found.name, extra) for extra in ("", *wanted.extras)} - seen:
            seen.add(key)
            todo += [(text, key[1]) for text in found.requires or ()]
            for file in () if key[1] else found.files:
                target, source = site / file, file.locate()
                if ".." in file.parts or target.is_symlink():
                    continue
                target.parent.mkdir(parents=True, exist_ok=True)
                target.symlink_to(source)
                link_compiled(source, target)


def link_compiled(source, target):
    """The compiled form of a module, which pip lists only if it has compiled it itself."""
    if source.suffix == ".py":
        source, target = (pathlib.Path(cache_from_source(path)) for path in (source, target))
        if source.exists() and not target.is_symlink():
            target.parent.mkdir(exist_ok=True)
            target.symlink_to(source)


# One arm of the miniature: all six, which other tests run, read nothing more of the wheel.
ONE_ARM = """
from msm_jax.configs import miniature

def get_config():
    config = miniature.get_config("smoke").unlock()
    config.arms = {"a": ("base", "midtrain_a", "aft")}
    config.contrasts, config.controls.arms = {}, ()
    for control in config.design:
        config.design[control] = ()
    config.figure.groups, config.figure.headline, config.figure.summary = {}, "", ()
    for name in (*miniature.GATES, "evidence"):
        del config.evals[name]
    return config.lock()
"""


@pytest.mark.slow
def test_a_clean_environment_runs_the_miniature_from_an_empty_directory(root, wheel, tmp_path):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    [site] = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    link_requirements(wheel, site)
    empty = tmp_path / "empty"
    empty.mkdir()
    # Compiled programs, which have a test of their own, may be there already.
    kept = re.compile("PATH|HOME|TMPDIR|JAX_COMPILATION_CACHE_DIR|JAX_PERSISTENT_CACHE_.*")
    clean = {name: value for name, value in os.environ.items() if kept.fullmatch(name)}
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python]
    subprocess.run(
        [*pip, "install", "--quiet", "--no-compile", "--no-deps", wheel], env=clean, check=True
    )
    subprocess.run([*pip, "check"], env=clean, check=True)
    run = lambda *words: subprocess.run(
        [python, "-m", *words], cwd=empty, env=clean, capture_output=True, text=True
    )
    done = run("msm_jax.doctor", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    versions = json.loads(done.stdout)["facts"]["versions"]
    assert str(tmp_path) in versions["msm_jax"] and "every test ran" not in str(versions)
    (empty / "one_arm.py").write_text(ONE_ARM)
    done = run("msm_jax.study", "--config=one_arm.py", "--workdir=runs/smoke", "--config.workers=1")
    assert done.returncode == 0, done.stderr[-3000:]
    results = json.loads((empty / "runs" / "smoke" / "results.json").read_text())
    assert results["arms"] and (empty / "runs" / "smoke" / "report.html").stat().st_size > 10_000
