"""Every key of every config: its type, its default and its explanation, read from the code.

The functions that make configs (`stage()`, `study()`, ...) give a key per line. Its explanation is
the comment behind it, or else the comment right above it, or else the docstring's line `key: ...`.
A comment `name -> source()` says that the dictionary takes entries of that form under any name.
"""

import ast
import dataclasses
import functools
import io
import pathlib
import re
import tokenize

from ml_collections import ConfigDict

ROOT = pathlib.Path(__file__).resolve().parents[2]
# What is documented: name of the form -> (file, function or class that makes it).
FORMS = {
    "study": "msm_jax/study/config.py",
    "evaluation": "msm_jax/study/config.py",
    "contrast": "msm_jax/study/config.py",
    "figure_group": "msm_jax/study/config.py",
    "stage": "msm_jax/train/config.py",
    "source": "msm_jax/train/config.py",
    "probe": "msm_jax/train/config.py",
    "generate": "msm_jax/corpus/config.py",
    "writer": "msm_jax/corpus/config.py",
    "WorldConfig": "msm_jax/miniature/world.py",
}
# The command that takes a config -> the form of that config; evaluate's settings are its flags.
COMMANDS = {"study": "study", "train": "stage", "compile": "stage", "generate": "generate"}
ENTRIES = re.compile(r"name -> (\w+)\(\)")
INSIDE = re.compile(r"^(\w+)\(\)")
LINE_OF_DOCSTRING = re.compile(r"^ *(\w+): (.+(?:\n {2,}.+)*)", re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class Key:
    """One key of a form.

    Attributes:
      path: with dots.
      default: its value where nothing else is said.
      text: the explanation; "" if there is none.
      inside: the form that stands in it, if any; `named`: under names of the user's.
    """

    path: str
    default: object
    text: str
    inside: str = ""
    named: bool = False

    @property
    def type(self) -> str:
        """In words; of a tuple also what it holds."""
        value = self.default
        if self.inside:
            return self.inside
        if isinstance(value, ConfigDict):
            return "group" if value else "by name"
        if isinstance(value, tuple) and value:
            return f"tuple of {', '.join(sorted({type(item).__name__ for item in value}))}"
        return type(value).__name__


@functools.cache
def keys(form: str) -> list[Key]:
    """The keys of a form in the order of its source, groups before what is in them."""
    source = (ROOT / FORMS[form]).read_text(encoding="utf-8")
    node = next(n for n in ast.parse(source).body if getattr(n, "name", "") == form)
    said, described = _comments(source), _described(ast.get_docstring(node) or "")
    defaults = _defaults(form)
    found, seen = [], set()
    for path, line, inside in _lines(node):
        # Of several keys on one line the comment is the first one's.
        text = (said(line) if line not in seen else "") or described.get(path, "")
        seen.add(line)
        named = ENTRIES.search(text)
        within = named or INSIDE.match(text)
        inside = within[1] if within else inside
        found.append(Key(path, _at(defaults, path), text, inside, bool(named)))
    return found


def summary(form: str) -> str:
    """The first sentence of a form's docstring."""
    tree = ast.parse((ROOT / FORMS[form]).read_text(encoding="utf-8"))
    node = next(n for n in tree.body if getattr(n, "name", "") == form)
    return re.split(r"(?<=\.)\s|\n\n", ast.get_docstring(node) or "")[0]


def explain(form: str, path: str) -> str | None:
    """The explanation of a key as configs have it, such as "stages.aft.data.chats.path".

    None: there is no such key.
    """
    known = {key.path: key for key in keys(form)}
    if path in known:
        return known[path].text
    for key in known.values():
        if key.inside and path.startswith(f"{key.path}."):
            rest = path.removeprefix(f"{key.path}.")
            if key.named:
                rest = rest.partition(".")[2]
            return explain(key.inside, rest) if rest else key.text
        # A dictionary of the user's own, such as arms: its entries are explained with it.
        free = isinstance(key.default, ConfigDict) and not key.default and not key.inside
        if free and path.startswith(f"{key.path}."):
            return key.text
    return None


def leaves(config: ConfigDict, prefix: str = "") -> dict[str, object]:
    """Path with dots -> value of everything in a config that is no group."""
    found: dict[str, object] = {}
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            found |= leaves(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = value
    return found


def default_of(form: str, path: str) -> object:
    """The default of a key of a config; None where the user gives the name and the value."""
    for key in keys(form):
        if key.path == path:
            return key.default
        if key.inside and path.startswith(f"{key.path}."):
            rest = path.removeprefix(f"{key.path}.")
            return default_of(key.inside, rest.partition(".")[2] if key.named else rest)
    return None


def _defaults(form: str):
    """The form as its function makes it."""
    import importlib

    module = importlib.import_module(FORMS[form].removesuffix(".py").replace("/", "."))
    made = getattr(module, form)()
    return made if isinstance(made, ConfigDict) else ConfigDict(vars(made))


def _at(config, path: str):
    for name in path.split("."):
        config = config[name]
    return config


def _lines(node: ast.AST) -> list[tuple[str, int, str]]:
    """(path, line of the key, form that a call puts there) of every key."""
    found: list[tuple[str, int, str]] = []
    for part in ast.walk(node):
        if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name):
            found.append((part.target.id, part.lineno, ""))  # a field of a dataclass
        elif isinstance(part, ast.Assign) and isinstance(part.targets[0], ast.Attribute):
            path = ast.unparse(part.targets[0]).partition(".")[2]
            called = ast.unparse(part.value.func) if isinstance(part.value, ast.Call) else ""
            found.append((path, part.lineno, called if called in FORMS else ""))
            found += _in_dict(part.value, f"{path}.")
        elif isinstance(part, ast.Return):
            found += _in_dict(part.value, "")
    return sorted(found, key=lambda entry: entry[1])


def _in_dict(value: ast.AST | None, prefix: str) -> list[tuple[str, int, str]]:
    """The keys of `ConfigDict({...})`, and of those in it."""
    if not (isinstance(value, ast.Call) and value.args and isinstance(value.args[0], ast.Dict)):
        return []
    found = []
    literal = value.args[0]
    for name, inner in zip(literal.keys, literal.values, strict=True):
        assert name is not None, f"{prefix}: keys are given one by one, not as **others"
        path = f"{prefix}{ast.literal_eval(name)}"
        found.append((path, name.lineno, ""))
        found += _in_dict(inner, f"{path}.")
    return found


def _comments(source: str):
    """A function of a line: the comment behind it, or the lines of comment right above it."""
    behind: dict[int, str] = {}
    alone: dict[int, str] = {}
    lines = source.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            number, column = token.start
            where = behind if lines[number - 1][:column].strip() else alone
            where[number] = token.string.lstrip("# ").rstrip()

    def said(line: int) -> str:
        if line in behind:
            return behind[line]
        above = []
        while (line := line - 1) in alone:
            above.insert(0, alone[line])
        return " ".join(above)

    return said


def _described(docstring: str) -> dict[str, str]:
    """What a docstring says of names: lines `name: text`, gone on with by deeper ones."""
    return {
        match[1]: re.sub(r"\s+", " ", match[2]) for match in LINE_OF_DOCSTRING.finditer(docstring)
    }


# ------------------------------------------------------------------ the shipped configs


@dataclasses.dataclass(frozen=True)
class Shipped:
    """A file under configs/: its docstring, the command it is for, the arguments it names."""

    path: str
    docstring: str
    command: str
    arguments: tuple[str, ...]

    def load(self, argument: str = "") -> ConfigDict:
        """The config that the file makes."""
        import importlib.util

        spec = importlib.util.spec_from_file_location("shipped_config", ROOT / self.path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module.get_config(argument) if argument else module.get_config()


def shipped() -> list[Shipped]:
    """All files under configs/ that make a config."""
    found = []
    for file in sorted((ROOT / "configs").rglob("*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        if not any(getattr(node, "name", "") == "get_config" for node in tree.body):
            continue
        text, path = ast.get_docstring(tree) or "", file.relative_to(ROOT).as_posix()
        command = re.search(rf"msm_jax\.(\w+) --config={re.escape(path)}", text)
        arguments = re.findall(r"`(?:configs/[\w/.]+)?:([\w,.-]+)`", text)
        arguments += re.findall(rf"{re.escape(path)}:([\w,.-]+)", text)
        found.append(
            Shipped(path, text, command[1] if command else "", tuple(dict.fromkeys(arguments)))
        )
    return found
