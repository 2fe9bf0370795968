"""The package is built as docs/architecture.md says: rooms, sizes, and one way per thing."""

import ast
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "msm_jax"
LONGEST = 500
# Room -> what it may import beside itself and SHARED.
ROOMS = {
    "model": "",
    "spec": "",
    "corpus": "spec",
    "data": "corpus",
    "miniature": "evals spec",
    "weights": "data model",
    "sample": "data model weights",
    "train": "corpus data model sample weights",
    "evals": "api corpus data model sample spec weights",
    "study": "api corpus data evals generate loading miniature model sample spec train weights",
}
# Modules that any room may import; they import no room.
SHARED = (
    "accelerators", "command", "compile_cache", "errors", "files", "limits", "links", "memory",
    "outputs", "page", "patterns", "progress", "provenance", "schema", "settings",
)  # fmt: skip
# Modules that, as every __main__, may import all rooms but `study`.
ABOVE = ("api", "compile", "convert", "doctor", "evaluate", "generate", "loading", "tiny")


def modules() -> dict[str, ast.Module]:
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts).removesuffix(".__init__")
        found[name] = ast.parse(path.read_text(encoding="utf-8"))
    return found


MODULES = modules()


def imports(name: str) -> set[str]:
    """Modules of the package that a module imports anywhere, also inside of functions."""
    found = set()
    for node in ast.walk(MODULES[name]):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {each if each in MODULES else node.module for each in inner}
    return (found & MODULES.keys()) - {name}


IMPORTS = {name: imports(name) for name in MODULES}


def room(module: str) -> str:
    return (module.split(".") + [""])[1]


def circles(graph: dict[str, set[str]]) -> list[set[str]]:
    """Groups of more than one node that reach each other."""
    reach = {}
    for start in graph:
        seen, todo = set(), [start]
        while todo:
            new = graph.get(todo.pop(), set()) - seen
            seen |= new
            todo += new
        reach[start] = seen
    groups = {frozenset(b for b in graph if b in reach[a] and a in reach[b]) for a in graph}
    return [set(group) for group in groups if len(group) > 1]


def test_no_modules_import_each_other_in_a_circle():
    assert not circles(IMPORTS)


def test_rooms_import_only_what_is_below_them():
    wrong = set()
    for name, used in IMPORTS.items():
        own = room(name)
        may = ROOMS.get(own, "").split()
        if own in ABOVE or name.endswith(".__main__"):
            may = {*ROOMS, *ABOVE} - {"study"}
        others = {room(module) for module in used} - {own, "", *SHARED, *may}
        wrong |= {f"{name} -> {other}" for other in others if own}
    assert not wrong


def test_every_module_has_a_place_on_the_page_of_the_architecture():
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    places = {room(name) for name in MODULES} - {"", "__main__"}
    missing = {
        place for place in places if f"`{place}`" not in page and f"`{place}.py`" not in page
    }
    assert not missing


def files(*folders: str) -> dict[str, str]:
    paths = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    return {path.relative_to(ROOT).as_posix(): path.read_text("utf-8") for path in paths}


def test_no_file_is_longer_than_a_reader_can_hold():
    long = {
        name: text.count("\n")
        for name, text in files("msm_jax", "tests").items()
        if text.count("\n") > LONGEST
    }
    assert not long


ONE_PLACE = {
    "locks": (r"\bfcntl\b", ["msm_jax/files.py"]),
    "escape HTML": (r"\bhtml\.escape\b|\bmarkupsafe\b|import html\b", ["msm_jax/page/"]),
    "progress bars": (r"\btqdm\b", ["msm_jax/progress.py"]),
}  # fmt: skip


@pytest.mark.parametrize("what", ONE_PLACE)
def test_there_is_one_place_for(what):
    pattern, homes = ONE_PLACE[what]
    found = {
        name
        for name, text in files("msm_jax").items()
        if re.search(pattern, text) and not name.startswith(tuple(homes))
    }
    assert not found


# What changes the file system, as functions of modules and as methods of paths.
OF_MODULES = {
    "os": "link remove removedirs rename renames replace rmdir symlink truncate unlink".split(),
    "shutil": "copy copy2 copyfile copyfileobj copymode copystat copytree move rmtree".split(),
}
OF_PATHS = "hardlink_to rename rmdir symlink_to touch unlink write_bytes write_text".split()
MAY_OPEN = {
    "msm_jax.command": "standard output",
    "msm_jax.limits": "to read",
    "msm_jax.notebook": "a terminal",
    "msm_jax.data.store": "in a new directory",
    "msm_jax.data.tokenizer": "in a new file",
    "msm_jax.weights.writing": "in a new file",
}


def changes_of_files(name: str) -> set[str]:
    """Calls of a module that write, rename or delete files themselves."""
    found = set()
    for node in ast.walk(MODULES[name]):
        if not isinstance(node, ast.Call):
            continue
        called, text = node.func, f"{name}: {ast.unparse(node)[:60]}"
        if isinstance(called, ast.Attribute):
            owner = getattr(called.value, "id", "")
            is_path_replace = called.attr == "replace" and len(node.args) == 1 and not node.keywords
            if (
                called.attr in OF_MODULES.get(owner, ())
                or (owner == "os" and called.attr == "open")
                or owner not in ("files", "dataclasses")
                and (called.attr in OF_PATHS or is_path_replace)
            ):
                found.add(text)
        opened = getattr(called, "attr", getattr(called, "id", "")) == "open"
        words = [*node.args, *(word.value for word in node.keywords if word.arg == "mode")]
        modes = [w.value for w in words if isinstance(w, ast.Constant) and isinstance(w.value, str)]
        if opened and any(re.fullmatch(r"[rbt]*[wax+][wax+bt]*", mode) for mode in modes):
            found.add(text)
    return found


def test_files_are_written_and_deleted_in_one_place():
    assert changes_of_files("msm_jax.files")
    others = MODULES.keys() - MAY_OPEN.keys() - {"msm_jax.files"}
    assert not set().union(*map(changes_of_files, others))


@pytest.mark.parametrize("name", ["data", "model", "sample", "train"])
def test_every_public_function_has_a_docstring(name):
    lacking = set()
    for module, tree in MODULES.items():
        if room(module) != name:
            continue
        nodes = [(module, node) for node in tree.body]
        nodes += [
            (f"{module}.{node.name}", inner)
            for node in tree.body
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
            for inner in node.body
        ]
        lacking |= {
            f"{where}.{node.name}"
            for where, node in nodes
            if isinstance(node, ast.FunctionDef | ast.ClassDef)
            and not node.name.startswith("_")
            and not ast.get_docstring(node)
        }
    # What the two tokenizers do is said by their Protocol.
    lacking = {each for each in lacking if not re.search(r"(?:HF|Piece)Tokenizer\.\w+$", each)}
    assert not lacking


@pytest.mark.parametrize("walk", ["A document's way to a gradient", "A prompt's way to a rate"])
def test_a_readers_walk_is_short_and_leads_past_things_that_exist(walk):
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    section = page.partition(f"## {walk}\n")[2].partition("\n## ")[0]
    hops = re.findall(r"^\d+\. `([\w/]+\.py)` `(\w+)`", section, re.MULTILINE)
    assert 10 <= len(hops) <= 15 and len(hops) == len(re.findall(r"^\d+\.", section, re.MULTILINE))
    for file, name in hops:
        tree = ast.parse((PACKAGE / file).read_text(encoding="utf-8"))
        assert name in {getattr(node, "name", "") for node in tree.body}, f"{file}: no {name}"
