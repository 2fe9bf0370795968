"""A worker: a process with one core that runs stages and evaluations, one after another.

It lives as long as the study, so that what JAX has compiled once stays compiled. What it does is
decided by the job alone, so that it does not matter which worker gets it.
"""

import contextlib
import importlib
import json
import multiprocessing
import os
import pathlib
import platform
import shutil
import signal
import sys
import threading
import time
import traceback
from importlib import metadata
from multiprocessing.connection import Connection

import msm_jax
from msm_jax import compile_cache, strict_json
from msm_jax.command import Preempted, message_of
from msm_jax.corpus.records import file_hash
from msm_jax.errors import UserError
from msm_jax.study import files
from msm_jax.study.graph import WORLD, Stage, identities, source_hash, with_files

LIBRARIES = (
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "grain",
    "sentencepiece",
    "numpy",
)
CHATS = 3  # sampled chats of every stage that is evaluated

ONE_THREAD = {
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "NPROC": "1",  # read by the CPU client of XLA
}
# With glibc's defaults every step gives its large temporaries back to the system and has them
# zeroed again: a third of the time of a step.
KEEP_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": "8000000000",
    "MALLOC_TRIM_THRESHOLD_": "8000000000",
    "MALLOC_TOP_PAD_": "100000000",
}


def environment(platform_name: str) -> dict[str, str]:
    """What a worker's environment has to say before JAX is imported.

    On the CPU it computes with one thread, so that results do not depend on the machine's cores.
    """
    found = {"TF_CPP_MIN_LOG_LEVEL": os.environ.get("TF_CPP_MIN_LOG_LEVEL", "3")}
    if platform_name:
        found["JAX_PLATFORMS"] = platform_name
    if platform_name == "cpu":
        flags = os.environ.get("XLA_FLAGS", "")
        found |= {**ONE_THREAD, "XLA_FLAGS": f"{flags} {ONE_THREAD['XLA_FLAGS']}".strip()}
        found |= {name: os.environ.get(name, value) for name, value in KEEP_MEMORY.items()}
    return found


def work(connection: Connection, number: int, workdir: pathlib.Path, platform_name: str) -> None:
    """Runs the jobs that come until None comes.

    A job is ("stage", Stage) or ("evals", Stage, questions). The answer is (outcome, text):
    "done", "mistake" (a UserError's message), "preempted" or "crash".
    """
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # they reach everyone; the runner decides
    signal.signal(signal.SIGTERM, lambda *_: os._exit(75))  # a training stage has its own handler
    lock = files.hold_worker_lock(workdir)
    threading.Thread(target=_end_with_runner, daemon=True).start()
    if platform_name == "cpu" and hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[number % len(cores)]})
    compile_cache.enable()
    os.environ.setdefault("MSM_JAX_CACHE", str(workdir / "cache" / "tokens"))
    with contextlib.closing(lock), contextlib.suppress(EOFError):
        while (job := connection.recv()) is not None:
            connection.send(_outcome(job, workdir))


def _end_with_runner() -> None:
    """A worker without a runner must not go on writing: another runner may take over."""
    runner = multiprocessing.parent_process()
    assert runner is not None
    runner.join()
    os._exit(1)


def _outcome(job: tuple, workdir: pathlib.Path) -> tuple[str, str]:
    kind, stage, *rest = job
    run = files.stage_dir(workdir, stage.id)
    run.mkdir(parents=True, exist_ok=True)
    _log_to(run / "log.txt")
    print(f"{files.now()} {kind} {stage.title}", flush=True)
    try:
        if kind == "stage":
            run_stage(stage, workdir)
        else:
            run_evals(stage, rest[0], workdir)
    except Preempted as stop:
        return "preempted", str(stop)
    except Exception as error:
        if (message := message_of(error)) is not None:
            return "mistake", f"{stage.title}: {message}"
        traceback.print_exc()
        sys.stderr.flush()
        return "crash", f"{type(error).__name__}: {error}"
    return "done", ""


def _log_to(path: pathlib.Path) -> None:
    """From here on, what this process prints goes to the end of a file."""
    sys.stdout.flush()
    sys.stderr.flush()
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)


# ------------------------------------------------------------------ stages


def code() -> dict[str, str]:
    """Versions of this package, of Python, and of the libraries that numbers depend on."""
    return {
        "msm_jax": msm_jax.__version__,
        "source": source_hash(pathlib.Path(msm_jax.__file__).parent)[:12],
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in LIBRARIES},
    }


def run_stage(stage: Stage, workdir: pathlib.Path) -> None:
    """Does what is left of a stage and marks it as done."""
    started, run = time.time(), files.stage_dir(workdir, stage.id)
    do = {"world": _build_world, "tokenizer": _train_tokenizer, "train": _train}[stage.kind]
    summary = do(stage, workdir, run)
    mark = {
        "id": stage.id,
        "digest": stage.digest,
        "name": stage.name,
        "kind": stage.kind,
        "path": stage.path,
        "seed": stage.seed,
        "parent": stage.parent,
        "world": stage.world,
        "tokenizer": stage.tokenizer,
        "config": stage.config,
        "code": code(),
        "summary": summary,
        "seconds": time.time() - started,
        "created": files.now(),
    }
    files.write_json(run / "stage.json", mark)


def _build_world(stage: Stage, workdir: pathlib.Path, run: pathlib.Path) -> dict:
    module, _, function = stage.config["builder"].partition(":")
    try:
        build = getattr(importlib.import_module(module), function)
        build(stage.config["options"], stage.seed, run)
    except (AttributeError, TypeError, ValueError) as error:
        traceback.print_exc()
        raise UserError(f"config.world: {stage.config['builder']} refuses: {error}") from error
    made = [file for file in run.rglob("*") if file.is_file() and file.name != "log.txt"]
    return {"files": len(made), "bytes": sum(file.stat().st_size for file in made)}


def _train_tokenizer(stage: Stage, workdir: pathlib.Path, run: pathlib.Path) -> dict:
    from msm_jax.data.chat import CHAT_FORMATS
    from msm_jax.data.tokenizer import TOKENIZER_FILE, load_tokenizer, train_sentencepiece

    config = stage.config
    if config["chat_format"] not in CHAT_FORMATS:
        raise UserError(
            f"config.train.chat_format={config['chat_format']!r}: one of {sorted(CHAT_FORMATS)}"
        )
    corpus = _existing(workdir, config["corpus"], stage.world)
    controls = CHAT_FORMATS[config["chat_format"]].control_tokens
    target = run / TOKENIZER_FILE
    train_sentencepiece(corpus, target, config["vocab_size"], controls)
    return {"pieces": load_tokenizer(target).vocab_size}


def _train(stage: Stage, workdir: pathlib.Path, run: pathlib.Path) -> dict:
    from ml_collections import ConfigDict

    from msm_jax.data.tokenizer import TOKENIZER_FILE
    from msm_jax.train.loop import train

    config = json.loads(json.dumps(stage.config))
    for entry in with_files(config).values():
        entry["path"] = _existing(workdir, entry["path"], stage.world)
    if stage.tokenizer:
        tokenizer = files.stage_dir(workdir, stage.tokenizer) / TOKENIZER_FILE
        config["tokenizer"] = str(tokenizer)
    if stage.parent:
        config["parent"] = str(files.stage_dir(workdir, stage.parent))
    return train(ConfigDict(config), run)


def _existing(workdir: pathlib.Path, path: str, world: str) -> str:
    """The file of a path; UserError with what the world has instead."""
    file = pathlib.Path(files.place(workdir, path, world))
    if not file.is_file():
        kind = "*" + file.suffix
        there = sorted(WORLD + str(f.relative_to(file.parent)) for f in file.parent.glob(kind))
        raise UserError(f"{path}: there is no such file; beside it there are: {there}")
    return str(file)


# ------------------------------------------------------------------ evaluations


def run_evals(stage: Stage, asked: dict[str, dict], workdir: pathlib.Path) -> None:
    """Asks a trained stage all its questions and marks them as answered."""
    import dataclasses

    from msm_jax.api import load
    from msm_jax.evals import evaluate_preferences
    from msm_jax.evals.thoughts import READING
    from msm_jax.weights.checkpoints import load_params

    started, run = time.time(), files.stage_dir(workdir, stage.id)
    folder = files.evals_dir(workdir, stage.id)
    _forget_other_questions(folder, asked)
    model = load(run)
    for name, settings in asked.items():
        who = model
        if settings["step"] is not None:
            _, params, _ = load_params(run, settings["step"])
            who = dataclasses.replace(model, params=params)
        pairs = _existing(workdir, settings["pairs"], settings["world"])
        keys = ("seed", "samples", "temperature", "max_tokens", "rows")
        options = {key: settings[key] for key in keys}
        evaluate_preferences(who, pairs, folder / name, settings["scorers"], **options)
    chats = _sample_chats(model, asked, workdir)
    lines = [strict_json.dumps(chat, ensure_ascii=False) + "\n" for chat in chats]
    files.write_text(folder / "chats.jsonl", "".join(lines))
    mark = {
        "asked": identities(asked),
        "reading": READING,
        "done": True,
        "code": code(),
        "summaries": {name: file_hash(folder / name / "summary.json") for name in asked},
        "seconds": time.time() - started,
        "created": files.now(),
    }
    files.write_json(folder / "evals.json", mark)


def _forget_other_questions(folder: pathlib.Path, questions: dict[str, dict]) -> None:
    """Answers to what the config no longer asks under a name make room for the new question."""
    asked = identities(questions)
    mark = files.read_json(folder / "evals.json") or {}
    before = mark.get("asked")
    # Only what lies in the folder itself is ours, whatever the file says.
    mine = {path.name: path for path in folder.iterdir() if path.is_dir()} if before else {}
    for name, settings in before.items() if isinstance(before, dict) else ():
        if name in mine and asked.get(name) != settings:
            shutil.rmtree(mine[name], ignore_errors=True)
    files.write_json(folder / "evals.json", {"asked": asked, "done": False})


def _sample_chats(model, asked: dict[str, dict], workdir: pathlib.Path) -> list[dict]:
    """The same few questions for everybody, from the evaluations in turn, answered freely."""
    from msm_jax.corpus.records import read_rows

    wholes = [settings for settings in asked.values() if settings["step"] is None]
    chats: list[dict] = []
    for number in range(CHATS if wholes else 0):
        settings = wholes[number % len(wholes)]
        pairs = _existing(workdir, settings["pairs"], settings["world"])
        rows = [row for _, row in read_rows(pairs)]
        row = rows[(number * len(rows)) // CHATS]
        messages = row.get("messages") or [
            *([{"role": "system", "content": row["system"]}] if row.get("system") else []),
            {"role": "user", "content": row["question"]},
        ]
        # With the evaluations' number of rows, whose programs are compiled already.
        options = {"max_tokens": settings["max_tokens"], "rows": settings["rows"]}
        ((answer,),) = model.sample([messages], 1, seed=settings["seed"], **options)
        chats.append({"messages": [*messages, {"role": "assistant", "content": answer.text}]})
    return chats
