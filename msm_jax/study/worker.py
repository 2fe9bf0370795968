"""A worker: a process that runs nodes of a study, one after another.

It lives as long as the study, so that what JAX has compiled once stays compiled. What it does is
decided by the node alone, so that it does not matter which worker gets it.
"""

import contextlib
import dataclasses
import datetime
import functools
import importlib
import itertools
import json
import multiprocessing
import os
import pathlib
import platform
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import msm_jax
from msm_jax import compile_cache
from msm_jax.command import Preempted, message_of
from msm_jax.data.sources import TFDS, source_files
from msm_jax.errors import Unavailable, UserError
from msm_jax.evals import material
from msm_jax.files import (
    delete,
    link,
    lock,
    open_own,
    sha256_file,
    sha256_sources,
    write_json,
    write_jsonl,
)
from msm_jax.links import below, is_name
from msm_jax.provenance import library_versions
from msm_jax.study import devices, files, records
from msm_jax.study.claims import Claims
from msm_jax.study.devices import Place
from msm_jax.study.evaluations import is_deferred, measures_of, placed, samples_identity
from msm_jax.study.makers import corpus_paths
from msm_jax.study.node import Node, with_files

_CLAIMED = 7 * 24 * 3600.0  # seconds that hosts wait while another process does their node
CHATS = 3  # sampled chats of every stage that is evaluated


def work(connection: Connection, place: Place, workdir: pathlib.Path, together: bool) -> None:
    """Run the nodes that are received, until None is; `together` with workers on other hosts.

    The reply to each is (outcome, text): "done" and the result in a few words, "waiting" and what
    is not available yet, "mistake" and a UserError's message, "preempted", or "crash".
    """
    for name in (signal.SIGINT, signal.SIGHUP):
        signal.signal(name, signal.SIG_IGN)  # they reach every process; the runner decides
    signal.signal(signal.SIGTERM, lambda *_: os._exit(75))  # a training stage has its own handler
    threading.Thread(target=_end_with_runner, daemon=True).start()
    if place.platform == "cpu" and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {int(core) for core in place.devices})
    compile_cache.enable()
    os.environ.setdefault("MSM_JAX_CACHE", str(files.token_cache(workdir)))
    with contextlib.suppress(EOFError):
        while (node := connection.recv()) is not None:
            connection.send(_outcome(node, workdir, place, together))


def _end_with_runner() -> None:
    """A worker without a runner must not go on writing: another runner may take over."""
    runner = multiprocessing.parent_process()
    assert runner is not None
    runner.join()
    os._exit(1)


def _outcome(node: Node, workdir: pathlib.Path, place: Place, together: bool) -> tuple[str, str]:
    try:
        folder = files.directory(workdir, node)
        folder.mkdir(parents=True, exist_ok=True)
        _log_to(folder / "log.txt")
        print(f"{now()} {node.title}", flush=True)
        text = (_run_together if together else run_node)(node, workdir, place.text)
        print(f"{now()} done: {text}", flush=True)
        return "done", text
    except Preempted as stop:
        return "preempted", str(stop)
    except Unavailable as missing:
        return "waiting", str(missing)
    except Exception as error:
        if (message := message_of(error)) is not None:
            cure = devices.more_memory(place) if _is_out_of_memory(error) else ""
            return "mistake", f"{node.title}: {message}" + (f"\n{cure}" if cure else "")
        traceback.print_exc()
        sys.stderr.flush()
        return "crash", f"{type(error).__name__}: {error}"


def _is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an error, or one that it was raised from, is for lack of memory."""
    while error is not None:
        text = str(error)
        if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in text or "Out of mem" in text:
            return True
        error = error.__cause__
    return False


def _log_to(path: pathlib.Path) -> None:
    """From here on, what this process prints goes to the end of a file."""
    sys.stdout.flush()
    sys.stderr.flush()
    with open_own(path, "ab") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)


# ------------------------------------------------------------------ nodes


def now() -> str:
    """The time in UTC."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


@functools.cache
def code() -> dict[str, str]:
    """Versions of this package, of Python, and of the libraries that numbers depend on."""
    return {
        "msm_jax": msm_jax.__version__,
        "source": sha256_sources(pathlib.Path(msm_jax.__file__).parent)[:12],
        "python": platform.python_version(),
        **library_versions(),
    }


def run_node(node: Node, workdir: pathlib.Path, device: str = "", marks: bool = True) -> str:
    """Do what is missing of a node, mark it as done, and return the result in a few words."""
    started, folder = time.time(), files.directory(workdir, node)
    summary, text = RUN[node.kind](node, workdir, folder)
    if marks:
        mark = stage_mark(node, summary, time.time() - started, device)
        records.write_mark(files.mark_path(workdir, node), mark)
    return text


def _run_together(node: Node, workdir: pathlib.Path, device: str) -> str:
    """As `run_node`, with a process on each host; the first one claims the node and marks it."""
    import jax
    from jax.experimental.multihost_utils import broadcast_one_to_all

    from msm_jax.train import hosts

    hosts.initialize()
    first, todo = hosts.is_first(), False
    with Claims(workdir) as claims, contextlib.ExitStack() as held:
        if first:
            held.enter_context(claims.hold(files.claim_name(node)))
            todo = files.read_mark(workdir, node) is None
        else:
            _log_to(files.directory(workdir, node) / f"log-{jax.process_index()}.txt")
        hosts.barrier("claimed", _CLAIMED)
        if not broadcast_one_to_all(todo):
            return "done by another process"
        text = run_node(node, workdir, device, marks=first)
        hosts.barrier("marked")
    return text


def stage_mark(node: Node, summary: dict, seconds: float, device: str = "") -> dict:
    """What stage.json and evals.json hold of a node that is done."""
    return {
        "id": node.id,
        **{field: getattr(node, field) for field in ("digest", "name", "kind", "path", "seed")},
        **{role: node.inputs.get(role, "") for role in ("parent", "world", "tokenizer")},
        "config": node.config,
        "code": code(),
        "summary": summary,
        "seconds": seconds,
        "device": device,
        "created": now(),
    }


Result = tuple[dict, str]  # what the mark keeps as its summary; the same in a few words


def _build_world(node: Node, workdir: pathlib.Path, folder: pathlib.Path) -> Result:
    module, _, function = node.config["builder"].partition(":")
    try:
        build = getattr(importlib.import_module(module), function)
        build(node.config["options"], node.seed, folder)
    except (AttributeError, TypeError, ValueError) as error:
        traceback.print_exc()
        raise UserError(f"config.world: {node.config['builder']} refuses: {error}") from error
    built = [file for file in folder.rglob("*") if file.is_file() and file.name != "log.txt"]
    size = sum(file.stat().st_size for file in built)
    return {"files": len(built), "bytes": size}, f"{len(built):,} files, {size:,} bytes"


def _generate(node: Node, workdir: pathlib.Path, folder: pathlib.Path) -> Result:
    from ml_collections import ConfigDict

    from msm_jax.corpus.run import Generation
    from msm_jax.generate import local_sampler, token_counter

    config = ConfigDict(json.loads(json.dumps(node.config)))
    for key, path in corpus_paths(node.config).items():
        config.update_from_flattened_dict({key: _existing(workdir, path, node)})
    count = token_counter(config.tokenizer)
    generation = Generation(config, folder, print, None, count, local_sampler)
    found = generation.run()
    if config.make == "spec":
        return {"words": found["words"]}, f"a spec of {found['words']:,} words"
    summary = {"records": found["records"], "tokens": found["tokens"]["sum"]}
    return summary, f"{summary['records']:,} records, {summary['tokens']:,} tokens"


def _prepare_base(node: Node, workdir: pathlib.Path, folder: pathlib.Path) -> Result:
    """A link to the base, or the base with its adapter merged, which all seeds share."""
    import jax

    from msm_jax.model import abstract_params
    from msm_jax.train.stage import shape_of

    config, model = node.config, folder / "model"
    if config["adapter"]:
        from msm_jax.api import load

        merged = below(workdir, "bases", config["content"][:12])
        with lock(merged.with_name(f"{merged.name}.lock"), "", wait=True):
            if not merged.is_dir():
                load(config["path"], config["adapter"]).merged().save(merged)
        link(model, os.path.relpath(merged, folder))
    else:
        files.link_base(workdir, node)
    leaves = jax.tree.leaves(abstract_params(shape_of(str(model))))
    count = sum(leaf.size for leaf in leaves)
    return {"parameters": count}, f"{count:,} parameters"


def _train_tokenizer(node: Node, workdir: pathlib.Path, folder: pathlib.Path) -> Result:
    from msm_jax.data.chat import CHAT_FORMATS
    from msm_jax.data.tokenizer import TOKENIZER_FILE, load_tokenizer, train_sentencepiece

    config, target, format = node.config, folder / TOKENIZER_FILE, node.config["chat_format"]
    if format not in CHAT_FORMATS:
        raise UserError(f"config.train.chat_format={format!r}: one of {sorted(CHAT_FORMATS)}")
    corpus = _existing(workdir, config["corpus"], node)
    controls = CHAT_FORMATS[format].control_tokens
    train_sentencepiece(corpus, target, config["vocab_size"], controls, config["symbols"])
    pieces = load_tokenizer(target).vocab_size
    return {"pieces": pieces}, f"{pieces:,} pieces"


def _train(node: Node, workdir: pathlib.Path, folder: pathlib.Path) -> Result:
    from msm_jax.train.loop import train

    delete(folder / "model", inside=folder)  # of an adoption that was killed before its mark
    for entry in with_files(node.config).values():
        _existing(workdir, entry["path"], node)
    summary = train(files.resolved(workdir, node), folder)
    probes = "".join(f", {name} {rate:.2f}" for name, rate in summary["probes"].items())
    loss = "" if summary["loss"] is None else f", loss {summary['loss']:.3f}"
    return summary, f"{summary['steps']:,} steps{loss}{probes}"


def _existing(workdir: pathlib.Path, path: str, node: Node) -> str:
    """The file, or source of data, of a path; UserError with the files that are beside it."""
    found = files.place(workdir, path, node)
    file = pathlib.Path(found)
    if found.startswith(TFDS) or any(letter in file.name for letter in "*?"):
        source_files(found)
    elif not file.is_file():
        others = sorted(other.name for other in file.parent.glob("*" + file.suffix))
        raise UserError(f"{path}: there is no such file; in its directory are {others}")
    return found


# ------------------------------------------------------------------ evaluations


def load_stage(workdir: pathlib.Path, stage_id: str) -> tuple[pathlib.Path, Any]:
    """(directory, model) of a training stage or of the base, as evaluations ask it."""
    from msm_jax.api import load

    settings = records.base_settings(files.stage_dir(workdir, stage_id) / "stage.json")
    run = files.model_dir(workdir, stage_id)
    return run, load(run, mesh=all_devices(), **settings)


def _evaluate(node: Node, workdir: pathlib.Path, folder: pathlib.Path) -> Result:
    from msm_jax.evals import evaluation
    from msm_jax.evals.kinds import make_evaluation
    from msm_jax.weights.checkpoints import load_params

    delete_outdated(folder, node.config)
    write_json(files.mark_path(workdir, node), {"config": node.config})
    run, model = load_stage(workdir, node.inputs["parent"])
    model, found, hashes = model.for_sampling(), list[str](), dict[str, str]()
    for name, settings in node.config.items():
        evaluated, step = model, settings["step"]
        if step is not None:
            _, params, _ = load_params(run, step, model.mesh)
            evaluated = dataclasses.replace(model, params=params)
        own = placed(settings, lambda path: _existing(workdir, path, node))
        asked = make_evaluation(settings["kind"], own, folder / name, with_judge=False)
        evaluation.sample(evaluated, asked, folder / name)
        if not is_deferred(settings):
            evaluation.judge(asked, folder / name)
            hashes[name] = sha256_file(folder / name / "summary.json")
            found += [_first_measure(name, settings, folder)] * (step is None)
    write_jsonl(folder / "chats.jsonl", _sample_chats(model, node, workdir))
    return hashes, ", ".join(found) or "sampled"


def _judge(node: Node, workdir: pathlib.Path, folder: pathlib.Path) -> Result:
    from msm_jax.evals import evaluation
    from msm_jax.evals.kinds import make_evaluation

    write_json(files.mark_path(workdir, node), {"config": node.config})
    own = placed(node.config, lambda path: _existing(workdir, path, node))
    evaluation.judge(make_evaluation(node.config["kind"], own, folder, with_judge=True), folder)
    hashes = {node.name: sha256_file(folder / "summary.json")}
    return hashes, _first_measure(node.name, node.config, folder.parent)


def _first_measure(name: str, settings: dict, folder: pathlib.Path) -> str:
    """ "conflict 0.71": the most important number of an evaluation."""
    _, measures = measures_of(settings, folder / name)
    value = next(iter(measures.values()))["value"]
    return f"{name} {'-' if value is None else format(value, '.2f')}"


def all_devices() -> dict[str, int] | None:
    """The mesh of all devices of this worker, for loading a model; None if it has one."""
    import jax

    return {"fsdp": -1} if jax.device_count() > 1 else None


def delete_outdated(folder: pathlib.Path, wanted: dict[str, dict]) -> None:
    """Delete the results of evaluations that the config no longer has, or whose samples differ.

    Only directories that are directly in `folder` are deleted, whatever its evals.json names.
    """
    before = records.evaluated_before(folder / "evals.json")
    if not before:
        return
    write_json(folder / "evals.json", {"config": before})  # no longer done, should this be killed
    identities = {name: samples_identity(settings) for name, settings in wanted.items()}
    for name, settings in before.items():
        try:
            is_wanted = samples_identity(settings) == identities[name]
        except (KeyError, TypeError, AttributeError):  # left out, or not as this version writes it
            is_wanted = False
        if is_name(name) and not is_wanted:
            delete(folder / name, inside=folder)


def _sample_chats(model, node: Node, workdir: pathlib.Path) -> list[dict]:
    """Free answers to the same few questions for all stages, from the evaluations in turn."""
    from msm_jax.evals.preferences import load_pairs
    from msm_jax.evals.questions import load_questions

    readers: dict[str, Callable[[str], list[list[dict]]]] = {
        "preferences": lambda file: [question.messages for question in load_pairs(file)],
        "questions": lambda file: [question["messages"] for question in load_questions(file)],
    }
    asked = [s for s in node.config.values() if s["step"] is None and s["kind"] in readers]
    chats: list[dict] = []
    for number, settings in zip(range(CHATS), itertools.cycle(asked), strict=False):
        own = placed(settings, lambda path: _existing(workdir, path, node))
        file = own.get("pairs") or own["questions"]
        prompts = readers[settings["kind"]](str(material.place(file)))
        messages = prompts[(number * len(prompts)) // CHATS]
        options = {"max_tokens": settings["max_tokens"], "seed": settings["seed"]}
        ((answer,),) = model.sample([messages], 1, **options)
        chats.append({"messages": [*messages, {"role": "assistant", "content": answer.text}]})
    return chats


# What each kind of node does: (node, working directory, its directory) -> Result.
RUN: dict[str, Callable[[Node, pathlib.Path, pathlib.Path], Result]] = {
    "world": _build_world,
    "corpus": _generate,
    "base": _prepare_base,
    "tokenizer": _train_tokenizer,
    "train": _train,
    "evals": _evaluate,
    "judge": _judge,
}
