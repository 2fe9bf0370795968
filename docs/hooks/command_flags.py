"""The flags of a command as the command itself defines them, and whether a command line parses.

    python docs/hooks/command_flags.py msm_jax.train < argvs.json

The command is started up to where it would parse its flags, in a process of its own; then every
list of arguments that stdin has is parsed in a fork of it. Nothing of the command's work happens.
"""

import json
import os
import pathlib
import runpy
import subprocess
import sys
from collections.abc import Sequence

ROOT = pathlib.Path(__file__).resolve().parents[2]
# What config files import: once here instead of in every fork.
OF_CONFIGS = (
    "msm_jax.corpus.config", "msm_jax.miniature.world", "msm_jax.study.config",
    "msm_jax.train.config",
)  # fmt: skip


def probe(module: str, argvs: Sequence[Sequence[str]] = ()) -> dict:
    """{"doc": of the module, "flags": [...], "errors": per list of arguments, None if it parses}.

    A flag is {"name", "type", "default", "help", "required"}.
    """
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    done = subprocess.run(
        [sys.executable, __file__, module],
        input=json.dumps(list(map(list, argvs))),
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path},
    )
    if done.returncode:
        raise RuntimeError(f"{module}: its flags cannot be read:\n{done.stderr}")
    return json.loads(done.stdout)


def _main(module: str) -> None:
    from absl import app

    argvs = json.load(sys.stdin)
    app.run = lambda main, flags_parser=None, **_: _tell(module, argvs, flags_parser)
    sys.argv = [module]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _tell(module: str, argvs: list[list[str]], parse) -> None:
    import ast
    import importlib.util

    from absl import flags

    own = [
        flag
        for name, defined in flags.FLAGS.flags_by_module_dict().items()
        for flag in defined
        if not name.startswith("absl.")
    ]
    named = any(word.startswith("--config=") for argv in argvs for word in argv)
    for name in OF_CONFIGS if named else ():
        importlib.import_module(name)
    errors = [_in_fork(lambda argv=argv: _parse_error(parse, module, argv)) for argv in argvs]
    found = importlib.util.find_spec(module)
    if found.submodule_search_locations:
        found = importlib.util.find_spec(f"{module}.__main__")
    source = pathlib.Path(found.origin).read_text(encoding="utf-8")
    facts = {
        "doc": ast.get_docstring(ast.parse(source)) or "",
        "flags": [_facts(flag) for flag in own],
        "errors": errors,
    }
    json.dump(facts, sys.stdout)


def _in_fork(work) -> str | None:
    """What `work` returns in a child of this process: flags cannot be parsed twice in one."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.write(writer, json.dumps(work()).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        found = file.read()
    os.waitpid(child, 0)
    return json.loads(found) if found else "the process ended"


def _parse_error(parse, module: str, argv: list[str]) -> str | None:
    from absl import flags

    sys.argv = [module, *argv]  # where ml_collections looks for keys of the config
    try:
        rest = parse(sys.argv)
        if "config" in flags.FLAGS and flags.FLAGS.config is not None:
            flags.FLAGS.config.to_dict()  # the file is read when it is asked for
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return f"unexpected arguments {rest[1:]}" if rest[1:] else None


def _facts(flag) -> dict:
    choices = getattr(flag.parser, "enum_values", None)
    help = flag.help
    if choices and help.startswith("<"):
        help = help.partition(">: ")[2]
    kind = flag.flag_type().replace("string enum", "one of " + ", ".join(choices or ()))
    return {
        "name": flag.name,
        "type": {"config object": "path"}.get(kind, kind).replace("comma separated ", ""),
        "default": flag.default,
        "help": help,
        "required": any("must have a value" in check.message for check in flag.validators),
    }


if __name__ == "__main__":
    _main(sys.argv[1])
