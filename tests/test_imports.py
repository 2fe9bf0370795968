"""Imports are fast, lazy and complete."""

import ast
import graphlib
import json
import re

import setuptools

import msm_jax

LOADING = ("msm_jax.evaluate", "msm_jax.sample")  # commands that load a model by shared flags
HEAVY = ("anthropic", "inspect_ai", "openai", "tensorflow", "torch", "transformers")


def _imported(run_python, *modules: str) -> tuple[float, set[str]]:
    """CPU seconds of importing in a fresh process, and the top-level modules it loaded."""
    program = (
        "import importlib, json, sys, time; start = time.process_time()\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
        "seconds = time.process_time() - start\n"
        "print(json.dumps([seconds, sorted({name.split('.')[0] for name in sys.modules})]))"
    )
    done = run_python("-c", program)
    assert done.returncode == 0, done.stderr
    seconds, loaded = json.loads(done.stdout.splitlines()[-1])
    return seconds, set(loaded)


def _modules(root, pattern: str) -> list[str]:
    paths = (root / "msm_jax").rglob(pattern)
    return sorted(".".join(path.relative_to(root).with_suffix("").parts) for path in paths)


def test_import_is_fast_and_light(run_python):
    seconds, loaded = _imported(run_python, "msm_jax")
    assert seconds <= 1.5
    assert not loaded & {*HEAVY, "jax"}


def test_no_module_needs_a_heavy_library_to_be_imported(root, run_python):
    modules = [name.removesuffix(".__init__") for name in _modules(root, "*.py")]
    _, loaded = _imported(run_python, *modules)
    assert not loaded & set(HEAVY)


def test_every_command_explains_itself(root, forked, tmp_path):
    sources = {name: root.joinpath(*name.split(".")) for name in _modules(root, "*.py")}
    commands = [
        name.removesuffix(".__main__")
        for name, path in sources.items()
        if '\nif __name__ == "__main__":' in path.with_suffix(".py").read_text(encoding="utf-8")
    ]
    for name in commands:
        done = forked(name, ["--help"], tmp_path)
        # absl prints help with exit code 1; what matters is that it is help and not a traceback.
        assert done["code"] in (0, 1), done["err"]
        assert "Traceback" not in done["out"] + done["err"]
        shared = ["compile_cache", *(("adapter", "dtype", "mesh") if name in LOADING else ())]
        assert all(f"\n  --{flag}: " in done["out"] for flag in shared), name


def test_unknown_attributes_are_errors_and_load_is_known():
    assert "load" in dir(msm_jax)
    assert not hasattr(msm_jax, "no_such_thing")


def test_every_directory_of_modules_is_installed(root):
    found = set(setuptools.find_packages(str(root), include=["msm_jax", "msm_jax.*"]))
    homes = {name.rpartition(".")[0] for name in _modules(root, "*.py")}
    assert homes == found


def test_dependencies_are_pinned_for_every_python(root):
    lines = (root / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    names: dict[str, list[str]] = {}
    for pin in pins:
        match = re.fullmatch(r'([\w.-]+)==[\w.]+(?:; python_version (<|>=) "3\.12")?', pin)
        assert match, pin
        names.setdefault(match[1], []).append(match[2])
    assert all(which in ([None], ["<", ">="]) for which in names.values())


def _imports(path, modules: set[str]) -> set[str]:
    """The package's modules that a file imports, at its top or in a function."""
    tree, found = ast.parse(path.read_text(encoding="utf-8")), set()
    checks = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"
    ]
    for_types = {id(node) for check in checks for node in ast.walk(check)}
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        if isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{name.name}" for name in node.names}
            found |= inner if inner <= modules else {node.module, *inner}
        elif isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
    return found & modules


def test_neither_modules_nor_rooms_import_each_other_in_circles(root):
    """The __main__ modules are commands, which may import everything."""
    paths = {
        name.removesuffix(".__init__"): root.joinpath(*name.split(".")).with_suffix(".py")
        for name in _modules(root, "*.py")
    }
    modules = {name for name in paths if name != "msm_jax" and not name.endswith("__main__")}
    imports, rooms = {}, {}
    for name in modules:
        needed = _imports(paths[name], modules) - {name}
        imports[name] = needed
        room = name.split(".")[1]
        rooms.setdefault(room, set()).update({each.split(".")[1] for each in needed} - {room})
    assert imports["msm_jax.api"] and rooms["api"]
    list(graphlib.TopologicalSorter(imports).static_order())  # CycleError names a circle
    list(graphlib.TopologicalSorter(rooms).static_order())
