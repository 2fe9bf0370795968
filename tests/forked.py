"""Command lines, each in a fork of a process that has imported what they need.

    python tests/forked.py < cases.jsonl

A case is a line {"module": ..., "argv": [...], "cwd": ...}, and maybe "env", variables; "stdin", a
text; and "stdout", a path. It is killed after SECONDS. With the module "-c" the first argument is a
program, as of `python -c`. Its answer is a line {"code", "out", "err"}. As at the end of an
interpreter, stdout is flushed and a traceback printed. The workers of a study are forks as well.
"""

import gc
import importlib
import json
import multiprocessing
import os
import runpy
import signal
import sys
import tempfile
import traceback
import warnings

# What the commands import when they begin to work; JAX's devices are not touched before a fork, and
# none of these declares flags.
NEEDED = (
    "grain", "jaxlib.mlir.dialects.mhlo", "matplotlib.backends.backend_agg", "matplotlib.figure",
    "msm_jax.api", "msm_jax.corpus.run", "msm_jax.study.display", "msm_jax.study.graph",
    "msm_jax.study.report", "msm_jax.study.runner", "msm_jax.train.aot", "msm_jax.train.loop",
    "tensorboard.summary.writer.event_file_writer",
)  # fmt: skip
SECONDS = 600  # longer than anything takes, however busy the machine is


def run(case: dict) -> dict:
    """{"code", "out", "err"} of one case."""
    with (
        tempfile.TemporaryFile("w+") as given,
        tempfile.TemporaryFile("w+") as out,
        tempfile.TemporaryFile("w+") as err,
    ):
        given.write(case.get("stdin", ""))
        given.seek(0)
        child = os.fork()
        if not child:
            target = os.open(case["stdout"], os.O_WRONLY) if case.get("stdout") else out.fileno()
            for number, source in enumerate((given.fileno(), target, err.fileno())):
                os.dup2(source, number)
            sys.stdin = os.fdopen(os.dup(0), encoding="utf-8")  # without what was read ahead
            signal.alarm(SECONDS)
            os.environ.update(case.get("env", {}))
            os.chdir(case["cwd"])
            sys.path[0] = case["cwd"]
            if case["module"] == "msm_jax.study":
                fork = multiprocessing.get_context("fork")
                multiprocessing.get_context = lambda _: fork
            os._exit(_in_child(case["module"], case["argv"]))
        _, status = os.waitpid(child, 0)
        written = []
        for file in (out, err):
            file.seek(0)
            written.append(file.read())
        return {"code": os.waitstatus_to_exitcode(status), "out": written[0], "err": written[1]}


def _in_child(module: str, argv: list[str]) -> int:
    sys.argv = [module, *argv]
    try:
        if module == "-c":
            del sys.argv[1]
            exec(compile(argv[0], "<string>", "exec"), {"__name__": "__main__"})
        else:
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
    for name in NEEDED:
        importlib.import_module(name)
    gc.collect()
    gc.set_threshold(10_000, 20, 20)
    gc.freeze()  # a child neither looks through what is imported here nor copies its pages
    for line in sys.stdin:
        print(json.dumps(run(json.loads(line))), flush=True)
