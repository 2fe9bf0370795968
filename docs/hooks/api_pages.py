"""The API reference: every public function and class of a room, from signatures and docstrings.

Nothing is imported: the sources are read, so that a page costs no JAX.
"""

import ast
import pathlib
import re

ROOT = pathlib.Path(__file__).resolve().parents[2]
ROOMS = {
    "spec": "Model Specs as text",
    "corpus": "Documents and chats about a spec",
    "data": "From text to batches",
    "model": "The decoder",
    "weights": "Weights in and out of files",
    "train": "One step, one loop",
    "sample": "Answers, drawn or scored",
    "evals": "What a model prefers and does",
    "study": "Whole experiments",
    "miniature": "The small world",
}
SECTION = re.compile(r"^(Args|Attributes|Returns|Yields|Raises):\s*(.*)$")
NAMED = re.compile(r"^([\w*]+(?:[,/ ]+[\w*]+)*): (.*)$")
WIDTH = 88


def front_page() -> str:
    """What a notebook uses: `load`, `Model`, `Sample`, and the rooms' pages."""
    rooms = "\n".join(
        f"| [{room}]({room}.md) | {what} | {len(_modules(room))} |" for room, what in ROOMS.items()
    )
    return (
        "# API reference\n\nMade from the signatures and docstrings of the code. Notebooks and "
        "scripts need this page alone; the rooms are listed in the order in which data runs "
        "through them (see [Architecture](../architecture.md)).\n\n"
        f"| room | what | modules |\n|---|---|---|\n{rooms}\n\n"
        + _entries(ROOT / "msm_jax/api.py", only=("load", "Model"), called="msm_jax")
        + _entries(ROOT / "msm_jax/sample/sampler.py", only=("Sample",), called="msm_jax.sample")
        + _entries(ROOT / "msm_jax/errors.py", called="msm_jax.errors")
    )


def room_page(room: str) -> str:
    """All public names of a room, module by module."""
    parts = [f"# {room}: {ROOMS[room][0].lower()}{ROOMS[room][1:]}\n"]
    for path in _modules(room):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        entries = _entries(path)
        about = markdown(ast.get_docstring(tree) or "")
        if entries or path.name == "__init__.py" and about:
            parts.append(f"## {_name(path)} {{ #{_name(path)} }}\n\n{about}\n\n{entries}")
    return "\n".join(parts)


def _modules(room: str) -> list[pathlib.Path]:
    """The room's own face first, then its modules, then those of its folders."""
    files = (ROOT / "msm_jax" / room).rglob("*.py")
    files = [path for path in files if path.name != "__main__.py"]
    key = lambda path: (len(path.parts), path.parent, path.name != "__init__.py", path.name)
    return sorted(files, key=key)


def _name(path: pathlib.Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def _entries(path: pathlib.Path, only: tuple[str, ...] = (), called: str = "") -> str:
    """The public functions and classes of a module that have a docstring."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = [
        node
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
        and not node.name.startswith("_")
        and ast.get_docstring(node)
        and (not only or node.name in only)
    ]
    found.sort(key=lambda node: only.index(node.name) if only else 0)
    return "\n".join(_entry(node, called or _name(path)) for node in found)


def _entry(node: ast.FunctionDef | ast.ClassDef, module: str) -> str:
    anchor = f"{module}.{node.name}"
    if isinstance(node, ast.FunctionDef):
        head, methods = signature(node), ""
    else:
        bases = ", ".join(map(ast.unparse, node.bases))
        head = f"class {node.name}({bases})" if bases else f"class {node.name}"
        methods = "\n".join(
            f'<div class="method" markdown>\n\n```python\n{signature(method, node.name)}\n```\n\n'
            f"{markdown(ast.get_docstring(method) or '')}\n\n</div>\n"
            for method in node.body
            if isinstance(method, ast.FunctionDef)
            and not method.name.startswith("_")
            and ast.get_docstring(method)
        )
    about = markdown(ast.get_docstring(node) or "")
    return f"### {node.name} {{ #{anchor} }}\n\n```python\n{head}\n```\n\n{about}\n\n{methods}\n"


def signature(node: ast.FunctionDef, of: str = "") -> str:
    """As in the source, one argument a line where it is long; of a method without self."""
    properties = [ast.unparse(d) for d in node.decorator_list]
    if any(name.endswith("property") for name in properties):
        returns = f": {ast.unparse(node.returns)}" if node.returns else ""
        return f"{of}.{node.name}{returns}"
    arguments = node.args
    if of and "staticmethod" not in properties:
        arguments.args = arguments.args[1:]
    name = f"{of}.{node.name}" if of else node.name
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    written = ast.unparse(arguments)
    line = f"{name}({written}){returns}"
    if len(line) <= WIDTH:
        return line
    parts = _split(written)
    return f"{name}(\n" + "".join(f"    {part},\n" for part in parts) + f"){returns}"


def _split(arguments: str) -> list[str]:
    """At the commas that no bracket holds."""
    parts, depth, start = [], 0, 0
    for place, letter in enumerate(arguments):
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and not depth:
            parts.append(arguments[start:place].strip())
            start = place + 1
    return [*parts, arguments[start:].strip()]


# ------------------------------------------------------------------ docstrings


def markdown(docstring: str) -> str:
    """A docstring as markdown: its sections as lists, its indented parts as code."""
    out: list[str] = []
    section = ""
    for line in docstring.splitlines():
        head = SECTION.match(line)
        indent = len(line) - len(line.lstrip())
        if head:
            section = head[1]
            out += ["", f"**{section}:** {escape(head[2])}", ""]
        elif not line.strip():
            out.append("")
        elif section and indent == 2:
            named = NAMED.match(line.strip())
            text = line.strip()
            said = f"`{named[1]}`: {escape(named[2])}" if named else escape(text)
            out.append(f"- {said}")
        elif section and indent > 2:
            out.append(f"    {escape(line.strip())}")
        else:
            section = "" if indent == 0 else section
            code = indent >= 4 and (not out or not out[-1].strip() or out[-1].startswith("    "))
            out.append(line if code else escape(line))
    return "\n".join(out)


def escape(text: str) -> str:
    """Text that says in markdown what it says as it is; what stands in backticks stays."""
    parts = re.split(r"(``?[^`]+``?)", text)
    for place, part in enumerate(parts):
        if not part.startswith("`"):
            part = re.sub(r"([\\*_\[\]])", r"\\\1", part)
            parts[place] = part.replace("<", "&lt;").replace(">", "&gt;")
    joined = "".join(parts)
    return re.sub(r"^(\s*)#", r"\1\\#", joined)
