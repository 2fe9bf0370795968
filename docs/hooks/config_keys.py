"""Every key of every config: its type, range, default and meaning, as the code declares it."""

import ast
import dataclasses
import pathlib
import re
import sys

from ml_collections import ConfigDict

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from msm_jax.corpus.config import GENERATE, WRITER  # noqa: E402
from msm_jax.evals.kinds import EVALUATE  # noqa: E402
from msm_jax.evals.reasons.config import REASONS  # noqa: E402
from msm_jax.miniature.agents import OPTIONS as MAIL_AGENTS  # noqa: E402
from msm_jax.miniature.world import WORLD  # noqa: E402
from msm_jax.settings import Form, Key, Named  # noqa: E402
from msm_jax.study.config import (  # noqa: E402
    ABSORPTION,
    CONTRAST,
    EVALUATION,
    FIGURE_GROUP,
    STUDY,
    TARGET,
)
from msm_jax.train.config import PROBE, SOURCE, STAGE  # noqa: E402

FORMS = {
    form.name: form
    for form in (STUDY, EVALUATION, CONTRAST, ABSORPTION, FIGURE_GROUP, TARGET, STAGE, SOURCE,
                 PROBE, GENERATE, WRITER, WORLD, MAIL_AGENTS, REASONS)
}  # fmt: skip
# The command that takes a config -> the form of that config; evaluate's page has flags instead.
COMMANDS = {
    "study": STUDY, "train": STAGE, "compile": STAGE, "generate": GENERATE, "evaluate": EVALUATE,
    "evals.reasons": REASONS,
}  # fmt: skip


def rows(form: Form, prefix: str = "") -> list[tuple[str, Key | Named | Form]]:
    """(path, what is there) of a form, groups before what is in them, other forms by themselves."""
    found: list[tuple[str, Key | Named | Form]] = []
    for name, part in form.keys.items():
        found.append((f"{prefix}{name}", part))
        if isinstance(part, Form) and not part.name:
            found += rows(part, f"{prefix}{name}.")
    return found


def find(form: Form, path: str) -> Key | Named | Form | None:
    """What stands at a path of a config, such as "stages.aft.data.chats.path"; None: nothing.

    Of an entry that may be anything, such as a builder's options, what holds it.
    """
    part: Key | Named | Form | None = form
    for name in path.split("."):
        if isinstance(part, Named):
            part = part.entry or part
        elif isinstance(part, Form):
            part = part.keys.get(name)
        else:
            return None
    return part


def leaves(config: ConfigDict, prefix: str = "") -> dict[str, object]:
    """Path with dots -> value of everything in a config that is no group."""
    found: dict[str, object] = {}
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            found |= leaves(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = value
    return found


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
        command = re.search(rf"msm_jax\.([\w.]+)[\s\\]+--config={re.escape(path)}", text)
        arguments = re.findall(r"`(?:configs/[\w/.]+)?:([\w,.-]+)`", text)
        arguments += re.findall(rf"{re.escape(path)}:([\w,.-]+)", text)
        found.append(
            Shipped(path, text, command[1] if command else "", tuple(dict.fromkeys(arguments)))
        )
    return found
