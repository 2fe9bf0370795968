"""Every node is a job: a command that does it once, whoever else works in the directory."""

import contextlib
import json
import multiprocessing
import os
import random
import re
import signal
import socket
import sys
import types
from multiprocessing import connection

import pytest
import slurm_cluster
from forks import forks
from processes import Command, finish

from msm_jax.errors import UserError
from msm_jax.study import files, jobs, runner, slurm, worker
from msm_jax.study.claims import Claims
from msm_jax.study.graph import make_study

# The line of a node that has ended; `train` has one of its own, with a speed.
DONE = re.compile(r"^\d{4}-\S+ done: (?!.*tokens/s)", re.MULTILINE)
# Instead of multiprocessing in a runner that is a fork itself.
FORKS = types.SimpleNamespace(
    connection=connection, get_context=lambda _: multiprocessing.get_context("fork")
)
FORKED_STUDY = """
import multiprocessing, runpy
fork = multiprocessing.get_context("fork")
multiprocessing.get_context = lambda _: fork
runpy.run_module("msm_jax.study", run_name="__main__", alter_sys=True)
"""
SMALL = """
    config.stages = {"base": config.stages.base}
    config.arms = {"x": ("base",)}
    config.evals = {"which": config.evals.which}
    config.absorption.eval, config.absorption.stages = "", {}
    config.figure.eval, config.figure.headline, config.figure.groups = "", "", {}
    config.retention, config.contrasts = (), {}
    return config.lock()
"""


@pytest.fixture
def small(tmp_path, make_tiny):
    """The config of a study of a tokenizer, a stage and its evaluation."""
    path = make_tiny(tmp_path)
    path.write_text(path.read_text().replace("\n    return config.lock()\n", SMALL))
    return path


@pytest.fixture
def worlds(small, load_config, tmp_path, monkeypatch):
    """That study with twelve worlds, which take no time, and as many stages."""
    (tmp_path / "builder").mkdir()
    (tmp_path / "builder" / "tiny_world.py").write_text(
        "def build(options, seed, folder):\n    (folder / 'file').write_text(str(seed))\n"
    )
    monkeypatch.syspath_prepend(tmp_path / "builder")
    config = load_config(small).unlock()
    config.seeds, config.workers, config.world.builder = tuple(range(12)), 2, "tiny_world:build"
    return make_study(config)


def free_job() -> str:
    """The number of a Slurm job for whose first process JAX takes a port that is free."""
    while True:
        number = random.randrange(2**12)
        with contextlib.suppress(OSError), socket.socket() as found:
            found.bind(("localhost", 2**16 - 2**12 + number))
            return str(number)


def endings(workdir) -> dict[str, int]:
    """How often each node was done, by its log, which all processes write."""
    logs = [*workdir.glob("stages/*/log.txt"), *workdir.glob("evals/*/log.txt")]
    return {f"{log.parent}": len(DONE.findall(log.read_text())) for log in logs}


def test_several_runners_do_each_node_once_also_when_one_is_killed(worlds, tmp_path, monkeypatch):
    study, receive = worlds.before_training, runner._Runner._receive

    def killed_after_some(self, sender):
        receive(self, sender)
        if len(self._todo) < 11:
            os.kill(os.getpid(), signal.SIGKILL)

    def counted(node, *given):
        text = run_node(node, *given)
        with (tmp_path / "runs").open("a") as file:
            file.write(f"{node.id}\n")
        return text

    run_node = worker.run_node
    monkeypatch.setattr(worker, "run_node", counted)

    def run(number):
        monkeypatch.setattr(runner, "multiprocessing", FORKS)
        if number == 0:
            monkeypatch.setattr(runner._Runner, "_receive", killed_after_some)
        runner.run(study, tmp_path / "out")
        return 0

    assert forks(run, 3) == [-signal.SIGKILL, 0, 0]
    assert all(files.read_mark(tmp_path / "out", node) for node in study.nodes.values())
    done = (tmp_path / "runs").read_text().split()
    assert len(done) == len({*done}) >= len(study.nodes) - 2  # killed after a mark, before the line
    left = {path.stem for path in (tmp_path / "out" / "claims").iterdir()}
    assert len(left) <= 2  # of the killed runner, for nodes that it had just done
    assert all(map(Claims(tmp_path / "out").take, left))


def test_what_another_has_taken_over_is_given_up(worlds, tmp_path, monkeypatch):
    """The runner's own claim is gone once; its worker is ended, and the node done again."""
    node, started = next(iter(worlds.nodes.values())), []

    def lose(self):
        for each, running in self._running():
            if not started:
                started.append(each.process.pid)
                self._claims.lost.add(files.claim_name(running))
                self._claims.release(files.claim_name(running))
        stop_lost(self)

    stop_lost = runner._Runner._stop_lost
    monkeypatch.setattr(runner._Runner, "_stop_lost", lose)
    assert runner.run(worlds, tmp_path, node) == {}
    assert started and files.read_mark(tmp_path, node)
    with pytest.raises(ProcessLookupError):
        os.kill(started[0], 0)


def test_a_job_needs_its_inputs_and_no_node_that_was_tampered_with(worlds, tmp_path):
    first = {node.kind: node for node in reversed(worlds.nodes.values())}
    stage, tokenizer, evals = (first[kind] for kind in ("train", "tokenizer", "evals"))
    with pytest.raises(UserError, match=rf"not done in .*\n  {stage.id}  {stage.title}\nrun"):
        runner.run(worlds, tmp_path, evals)
    runner.run(worlds, tmp_path, tokenizer)
    mark = files.mark_path(tmp_path, tokenizer)
    before = mark.stat().st_mtime_ns
    runner.run(worlds, tmp_path, tokenizer)
    assert mark.stat().st_mtime_ns == before
    mark.write_text(mark.read_text().replace('"pieces": ', '"pieces": 1'))
    for node in (tokenizer, stage):
        with pytest.raises(UserError, match=f"{tokenizer.id}/stage.json: is not what the study"):
            runner.run(worlds, tmp_path, node)


def test_the_graph_names_commands_needs_files_and_hours(worlds, tmp_path):
    world = next(node for node in worlds.nodes.values() if node.kind == "world")
    runner.run(worlds, tmp_path, world)
    words = ["--config=c.py:a", "--jobs", "json", "--config.workers=2", "--distributed"]
    words += ["--workdir", "only"]
    found = json.loads(json.dumps(jobs.graph(worlds, tmp_path, words)))["jobs"]
    before = set()
    for job in found:
        assert before.issuperset(job["needs"])
        before.add(job["id"])
        own = [f"--only={job['id']}"] * (job["id"] != "report")
        own += ["--distributed"] * job["name"].startswith("base,")
        kept = ["--config=c.py:a", "--config.workers=2", "--workdir", "only"]
        assert job["command"] == ["python", "-m", "msm_jax.study", *kept, *own]
    by_id = {job["id"]: job for job in found}
    assert by_id["report"]["needs"] == [*worlds.nodes]
    done, stage, evals = by_id[world.id], found[-3], found[-2]
    assert done["done"] and done["hours"].values() and not done["accelerator"]
    assert not stage["done"] and not stage["hours"] and stage["accelerator"]
    assert [path.rpartition("/")[2] for path in stage["inputs"]][0] == "docs.jsonl"
    assert stage["outputs"] == [str(tmp_path / "stages" / stage["id"])]
    assert evals["inputs"][1:] == stage["outputs"] and evals["inputs"][0].endswith("pairs.jsonl")


def test_an_unknown_node_is_named_with_those_that_there_are(worlds):
    node = next(iter(worlds.nodes.values()))
    assert jobs.find(worlds, node.id[:8]) == node
    for name in ("", "zz"):
        with pytest.raises(UserError, match=rf"--only={name}: .*\n  {node.id}  {node.title}"):
            jobs.find(worlds, name)


@pytest.mark.parametrize(
    "options, says",
    [
        (["partition=a"], "--slurm: give a time limit"),
        (["time"], "--slurm: 'time' is not NAME=VALUE"),
        (["time=1:00", "dependency=singleton"], "--slurm: the study sets dependency itself"),
        (["time=1:00"], "pip install 'msm_jax\\[slurm\\]'"),
    ],
)
def test_what_slurm_lacks_is_said_before_anything_is_submitted(
    worlds, tmp_path, monkeypatch, options, says
):
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(UserError, match=says):
        slurm.submit(worlds, tmp_path, [], options, [])


def test_hosts_of_a_slice_train_one_stage_which_the_first_one_claims(small, load_config, tmp_path):
    """Two processes, which find each other as under Slurm."""
    study, out = make_study(load_config(small)), tmp_path / "out"
    tokenizer, stage, _ = study.nodes.values()
    runner.run(study, out, tokenizer)
    (tmp_path / "forked_study.py").write_text(FORKED_STUDY)
    given = [f"--config={small}", f"--workdir={out}", f"--only={stage.id}", "--distributed"]
    slurm_job = {"SLURM_JOB_ID": free_job(), "SLURM_STEP_NODELIST": "localhost"}
    slurm_job |= {"SLURM_NTASKS": "2", "SLURM_LOCALID": "0"}
    started = [
        Command("forked_study", *given, cwd=tmp_path, **slurm_job, SLURM_PROCID=str(number))
        for number in range(2)
    ]
    found = finish(started)
    assert [code for code, _ in found] == [0, 0], found
    mark = files.read_mark(out, stage)
    assert mark["summary"]["loss"] > 0  # which only the first one knows
    log = files.directory(out, stage) / "log.txt"
    assert "2 process(es)" in log.read_text() and log.with_name("log-1.txt").exists()


# ------------------------------------------------------------------ a real Slurm


def results(workdir) -> dict:
    """results.json without when and how fast."""
    found = json.loads((workdir / "results.json").read_text())
    return {key: value for key, value in found.items() if key not in ("created", "seconds", "seal")}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A Slurm of this machine."""
    pytest.importorskip("submitit", reason="pip install 'msm_jax[slurm]'")
    if reason := slurm_cluster.missing():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("slurm")
    with contextlib.ExitStack() as stack:
        try:
            yield stack.enter_context(slurm_cluster.Cluster(folder))
        except TimeoutError:
            pytest.skip(f"Slurm does not start here: see {folder}/*.log")


def test_jobs_that_slurm_holds_are_told_apart(small, tmp_path, forked, cluster):
    words = [f"--config={small}", f"--workdir={tmp_path / 'out'}"]
    words += ["--executor=slurm", "--slurm=time=1:00:00"]
    cluster.run("scontrol", "update", "PartitionName=all", "State=DOWN")
    lines = []
    for _ in range(2):
        done = forked("msm_jax.study", words, tmp_path, env=cluster.environment)
        assert done["code"] == 0, done["err"]
        lines.append(done["out"].splitlines())
        first, *others = cluster.run("squeue", "--noheader", "--sort=i", "--format=%i").split()
        cluster.run("scontrol", "uhold", first)
    cluster.run("scancel", first, *others)
    cluster.run("scontrol", "update", "PartitionName=all", "State=UP")
    assert len(lines[0]) > 2 and all(line.endswith("submitted") for line in lines[0])
    held, *queued, report = lines[1]
    release = f"in the queue, held by Slurm (JobHeldUser): start it with: scontrol release {first}"
    assert held.endswith(release)
    assert all(line.endswith("in the queue") for line in queued)
    assert report.endswith("results and report: submitted")


def test_on_slurm_with_kills_it_ends_with_the_same_results(small, tmp_path, forked, cluster):
    """With more kills: python tests/study/slurm_cluster.py CONFIG WORKDIR."""
    words = [f"--config={small}", f"--workdir={tmp_path / 'local'}"]
    assert forked("msm_jax.study", words, tmp_path)["code"] == 0
    kills = [("submitter", 2), ("preempted", 9), ("runner", 5), ("node", 2)]
    slurm_cluster.study(cluster, str(small), tmp_path / "out", kills)
    assert results(tmp_path / "out") == results(tmp_path / "local")
    done = endings(tmp_path / "out")
    assert len(done) == 3 and set(done.values()) <= {0, 1}
