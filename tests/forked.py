"""Many command lines of one command, each in a fork of a process that has imported what it needs.

    python tests/forked.py MODULE < cases.json

A case is {"argv": [...], "stdout": path or null}; for each the code, stdout and stderr are printed
as JSON. What an interpreter does at its end is done: stdout is flushed, a traceback printed.
"""

import importlib
import json
import os
import runpy
import sys
import tempfile
import traceback
import warnings

# What the commands import when they begin to work; JAX's devices are not touched before a fork.
NEEDED = {
    "msm_jax.study": ["msm_jax.study.graph", "msm_jax.study.runner", "msm_jax.study.display"],
    "msm_jax.train": ["msm_jax.train.loop"],
    "msm_jax.generate": ["msm_jax.corpus.run", "msm_jax.data.tokenizer"],
    "msm_jax.compile": ["msm_jax.train.aot"],
    "msm_jax.convert": ["msm_jax.api", "msm_jax.weights.huggingface"],
    "msm_jax.evaluate": ["msm_jax.evaluate", "msm_jax.api"],
    "msm_jax.sample": ["msm_jax.sample.__main__", "msm_jax.api"],
}
SECONDS = 120


def run(module: str, case: dict) -> dict:
    """{"code", "out", "err"} of one case."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        child = os.fork()
        if not child:
            target = os.open(case["stdout"], os.O_WRONLY) if case.get("stdout") else out.fileno()
            os.dup2(target, 1)
            os.dup2(err.fileno(), 2)
            os._exit(_in_child(module, case["argv"]))
        _, status = os.waitpid(child, 0)
        told = []
        for file in (out, err):
            file.seek(0)
            told.append(file.read())
        return {"code": os.waitstatus_to_exitcode(status), "out": told[0], "err": told[1]}


def _in_child(module: str, argv: list[str]) -> int:
    import signal

    signal.alarm(SECONDS)
    sys.argv = [module, *argv]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        code = 1
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            code = 120  # as an interpreter ends that cannot write what it has
    return code


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    for name in NEEDED.get(sys.argv[1], ()):
        importlib.import_module(name)
    # Not on stdout yet, which the children inherit.
    results = [run(sys.argv[1], case) for case in json.load(sys.stdin)]
    json.dump(results, sys.stdout)
