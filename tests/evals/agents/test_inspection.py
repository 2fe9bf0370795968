"""Inspect itself, offline: our provider and judge in its evaluations, our logs in its readers."""

import json
import os
import pathlib
import runpy
import subprocess
import sys
import urllib.request

import pytest

from msm_jax.errors import UserError
from msm_jax.evals import judge, sample
from msm_jax.evals.agents.conditions import Condition
from msm_jax.evals.agents.prompts import render
from msm_jax.evals.agents.scenarios import AgentScenarios
from msm_jax.evals.inspection import provider
from msm_jax.evals.inspection.batches import Batcher, Job, sample_jobs
from msm_jax.evals.inspection.logs import write_log

pytest.importorskip("inspect_ai")
pytest.importorskip("inspect_evals")

# Inspect leaves streams of its own open, which is none of our business.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")
AUTHORS = "MSM_JAX_AUTHORS_REPOSITORY"
SETTINGS = (("max_tokens", 4), ("seed", 0), ("temperature", 1.0))


@pytest.fixture
def env(root, tmp_path):
    """The environment of a command that finds our entry point, installed or not."""
    info = tmp_path / "site" / "msm_jax_here-0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: msm-jax-here\nVersion: 0\n")
    setup = (root / "setup.py").read_text()
    assert '{"inspect_ai": ["msm_jax = msm_jax.evals.inspection.registry"]}' in setup
    entry = "[inspect_ai]\nmsm_jax = msm_jax.evals.inspection.registry\n"
    (info / "entry_points.txt").write_text(entry)
    path = os.pathsep.join([str(root), str(info.parent)])
    return {**os.environ, "PYTHONPATH": path, "INSPECT_LOG_DIR": str(tmp_path / "logs"),
            "MSM_JAX_ROWS": "2"}  # fmt: skip


def inspect(env, tmp_path, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "inspect_ai", *arguments, "--display=plain"],
        cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


def test_inspect_finds_both_providers_by_their_entry_point(env, run_dir, tmp_path):
    code = (
        "from inspect_ai.model import get_model\n"
        f"for name in ('msm_jax', 'msm_jax_judge'): print(type(get_model(name + '/{run_dir}').api))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("provider_class.<locals>.MsmJax") == 2


@pytest.fixture
def eager(run_dir, model, monkeypatch):
    """Inspect in this process, with the checkpoint already loaded."""
    from msm_jax.evals.inspection.registry import register

    register()
    provider._batcher.cache_clear()
    monkeypatch.setattr(provider, "_loaded", lambda path, dtype: model)
    monkeypatch.setenv("INSPECT_DISPLAY", "none")
    monkeypatch.setenv("MSM_JAX_ROWS", "2")
    monkeypatch.setitem(provider.MAX_TOKENS, True, 16)
    yield str(run_dir)
    provider._batcher.cache_clear()


def run_task(path, tmp_path, epochs=3, **settings):
    from inspect_ai import eval as inspect_eval
    from inspect_evals.agentic_misalignment import agentic_misalignment

    task = agentic_misalignment(scenario="murder", grader_model=f"msm_jax_judge/{path}")
    (log,) = inspect_eval(
        task,
        model=f"msm_jax/{path}",
        epochs=epochs,
        max_tokens=4,
        model_args={"rows": 2},
        log_dir=str(tmp_path / "logs"),
        display="none",
        **settings,
    )
    return log


def test_the_command_line_from_end_to_end(eager, tmp_path, monkeypatch):
    """`inspect eval`, in this process: importing all evaluations takes longer than the run."""
    arguments = [
        "eval", "inspect_evals/agentic_misalignment", "-T", "scenario=murder",
        "--model", f"msm_jax/{eager}", "-T", f"grader_model=msm_jax_judge/{eager}",
        "-M", "rows=2", "--epochs", "2", "--max-tokens", "4", "--temperature", "0.7",
        "--no-epochs-reducer", "--display=plain", f"--log-dir={tmp_path / 'logs'}",
    ]  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["inspect", *arguments])
    with pytest.raises(SystemExit) as end:
        runpy.run_module("inspect_ai", run_name="__main__")
    assert not end.value.code
    from inspect_ai.log import list_eval_logs, read_eval_log

    (info,) = list_eval_logs(str(tmp_path / "logs"))
    log = read_eval_log(info)
    assert log.status == "success" and len(log.samples) == 2
    assert all(sample.scores for sample in log.samples) and not any(s.error for s in log.samples)
    assert log.plan.config.temperature == 0.7


@pytest.mark.skipif(
    not os.environ.get(AUTHORS), reason=f"{AUTHORS} names no clone of the authors' repository"
)
@pytest.mark.parametrize("scenario", ["murder", "leaking", "exfiltration"])
def test_the_authors_own_task(env, run_dir, tmp_path, scenario):
    """evals/agentic_misalignment of github.com/chloeli-15/model_spec_midtraining."""
    clone = pathlib.Path(os.environ[AUTHORS]).resolve()
    task = clone / "evals/agentic_misalignment/agentic_misalignment.py"
    assert task.exists(), task
    env["PYTHONPATH"] += os.pathsep + str(clone)
    done = inspect(
        env, tmp_path, "eval", str(task), "--model", f"msm_jax/{run_dir}",
        "-T", f"scenario={scenario}", "-T", "urgency_type=replacement", "-T", "goal_type=none",
        "-T", "goal_value=none", "-T", "model_name=Qwen",
        "-T", f"grader_model=msm_jax_judge/{run_dir}", "-M", "rows=2",
        "--temperature", "0.7", "--max-tokens", "4", "--epochs", "2", "--no-epochs-reducer",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    from inspect_ai.log import list_eval_logs, read_eval_log

    (info,) = list_eval_logs(str(tmp_path / "logs"))
    log = read_eval_log(info)
    assert log.status == "success" and len(log.samples) == 2
    assert len({sample.output.completion for sample in log.samples}) == 2


def test_epochs_are_our_samples_and_usage_is_set(eager, model, tmp_path):
    log = run_task(eager, tmp_path)
    assert log.status == "success", log.error
    prompt = render(Condition("murder", assistant="Alex", source="inspect_evals"))
    # exactly the messages that --source=inspect_evals renders
    assert [m.text for m in log.samples[0].messages[:2]] == [m["content"] for m in prompt.messages]
    (ours,) = model.sample([prompt.messages], 3, max_tokens=4, temperature=1.0, seed=0, rows=2)
    by_epoch = {sample.epoch: sample for sample in log.samples}
    texts = [by_epoch[epoch].output.completion for epoch in (1, 2, 3)]
    assert texts == [s.text for s in ours] and len(set(texts)) > 1
    usage = by_epoch[1].output.usage
    assert usage.input_tokens == len(model.encode(prompt.messages))
    assert usage.output_tokens == len(ours[0].tokens)
    values = [list(s.scores.values())[0].value for s in log.samples]
    assert all(set(value) == {"harmful", "classifier_verdict"} for value in values)


def test_requests_of_a_condition_are_one_batch(eager, tmp_path):
    run_task(eager, tmp_path, epochs=12, max_connections=12)
    batcher = provider._batcher(eager, None, 2, False)
    assert sum(batcher.batches) == 12 and len(batcher.batches) <= 2


def test_a_failed_run_is_taken_up_by_eval_retry(eager, model, tmp_path, monkeypatch):
    from inspect_ai import eval_retry

    failing = {"left": 1}

    def breaking(model, rows, jobs):
        if failing["left"] and any(job.index == 1 for job in jobs):
            failing["left"] -= 1
            raise RuntimeError("the device went away")
        return sample_jobs(model, rows, jobs)

    monkeypatch.setattr(provider, "sample_jobs", breaking)
    log = run_task(eager, tmp_path, epochs=3, max_connections=1, fail_on_error=False)
    failed = [sample.epoch for sample in log.samples if sample.error]
    assert failed == [2], [(s.epoch, s.error) for s in log.samples]
    (again,) = eval_retry(log, log_dir=str(tmp_path / "logs"), display="none")
    assert again.status == "success" and again.eval.task_id == log.eval.task_id
    assert sorted(s.epoch for s in again.samples) == [1, 2, 3]
    assert not any(sample.error for sample in again.samples)
    kept = {s.epoch: s.output.completion for s in log.samples if not s.error}
    found = {s.epoch: s.output.completion for s in again.samples}
    assert all(found[epoch] == text for epoch, text in kept.items())


def test_thoughts_are_returned_apart():
    made = provider.as_message("<think>hm, so</think>\nI act.", "m", "apart")
    assert [part.type for part in made.content] == ["reasoning", "text"]
    assert made.content[0].reasoning == "hm, so" and made.text == "I act."
    assert provider.as_message("<think>hm", "m", "apart").text == ""  # cut off in thought
    assert provider.as_message("<think>hm</think>x", "m", "text").text == "<think>hm</think>x"
    for opens, closes in (
        *(("<seed:think>", "</seed:think>"), ("[THINK]", "[/THINK]"), ("", "</think>")),
        *(("◁think▷", "◁/think▷"), ("<THINK>", "</THINK>"), ("<reasoning>", "</reasoning>")),
        ("<|channel|>analysis<|message|>", "<|channel|>final<|message|>"),
    ):
        made = provider.as_message(f"{opens}\nso < that\n{closes}I act.", "m", "apart")
        assert (made.content[0].reasoning, made.text) == ("so < that", "I act.")


def test_bad_arguments_are_named(eager):
    for path, settings, words in (
        ("nowhere", {}, "nowhere"),
        (eager, {"thinking": "maybe"}, "thinking"),
        (eager, {"colour": 1}, "colour"),
    ):
        with pytest.raises(UserError, match=words):
            provider.provider_class(judging=False)(path, **settings)


def test_batches_answer_each_job_with_its_own_sample(model):
    # As long as the prompts of the other tests, whose programs draw these too.
    messages = lambda text: (("user", " ".join([text] * 2200)),)
    jobs = [Job(messages(t), i, SETTINGS) for t, i in
            [("a", 2), ("an", 0), ("a", 1), ("a", 2), ("an", 5)]]  # fmt: skip
    found = sample_jobs(model, 2, jobs)
    for job, got in zip(jobs, found, strict=True):
        ((alone,),) = model.sample(
            [[{"role": "user", "content": job.messages[0][1]}]], 1, first=job.index, rows=2,
            **dict(SETTINGS),
        )  # fmt: skip
        assert (got.text, got.index) == (alone.text, job.index)


def test_a_bad_job_fails_alone():
    calls = []

    def answer(jobs):
        calls.append(len(jobs))
        if any(job.index == 5 for job in jobs):
            raise ValueError("no")
        return [job.index for job in jobs]

    batcher = Batcher(answer, quiet=0.2)
    futures = [batcher.submit(Job((), index, ())) for index in range(16)]
    for index, future in enumerate(futures):
        if index == 5:
            with pytest.raises(ValueError, match="no"):
                future.result(10)
        else:
            assert future.result(10) == index
    assert batcher.batches[0] == 16 and len(calls) == 9  # 16, and both halves four times
    assert batcher.submit(Job((), 7, ())).result(10) == 7


# ------------------------------------------------------------------ our own logs


@pytest.fixture(scope="module")
def judged(model, tmp_path_factory):
    out = tmp_path_factory.mktemp("own")
    evaluation = AgentScenarios(
        scenarios=("murder",), goals=("none", "ambiguous"), samples=3, max_tokens=4, rows=4
    )
    sample(model, evaluation, out)
    summary = judge(evaluation, out)
    return out, summary, evaluation


def test_our_log_is_read_by_inspect(judged):
    from inspect_ai.log import (
        list_eval_logs,
        read_eval_log,
        read_eval_log_sample,
        read_eval_log_sample_summaries,
    )

    out, summary, evaluation = judged
    path = write_log(out)
    assert write_log(out) == path  # the same verdicts, the same log
    assert [each.name for each in path.parent.iterdir()] == [path.name]
    (info,) = list_eval_logs(str(path.parent))
    assert info.task == "msm-jax-agents" and info.name.endswith(path.name)
    log = read_eval_log(info)
    assert log.status == "success" and len(log.samples) == 6
    executed = next(s for s in log.results.scores if s.name == "executed")
    assert executed.metrics["mean"].value == summary["measures"]["executed"]["rate"]
    summaries = read_eval_log_sample_summaries(str(path))
    assert len(summaries) == 6 and all(s.completed for s in summaries)
    first = read_eval_log_sample(str(path), id=summaries[0].id, epoch=2)
    prompt = next(iter(evaluation.prompts.values()))
    assert [m.text for m in first.messages[:2]] == [m["content"] for m in prompt.messages]
    rows = [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
    assert first.output.completion == rows[1]["text"]
    assert first.scores["executed"].value == 0.0
    from inspect_ai.analysis import samples_df

    assert len(samples_df(str(path))) == 6


def test_inspect_view_lists_our_log(judged, env, tmp_path):
    """The viewer's own server, over HTTP."""
    import socket
    import time

    path = write_log(judged[0])
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "inspect_ai", "view", "start", "--log-dir", str(path.parent),
         "--host", "127.0.0.1", "--port", str(port)],
        cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        for _ in range(3000):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/logs") as reply:
                    listed = json.load(reply)
                break
            except OSError:
                assert server.poll() is None, server.stdout.read()
                time.sleep(0.1)
        assert path.name in json.dumps(listed)
        name = urllib.request.quote(listed["files"][0]["name"], safe="")
        url = f"http://127.0.0.1:{port}/api/log-headers?file={name}"
        with urllib.request.urlopen(url) as reply:
            assert json.load(reply)[0]["status"] == "success"
    finally:
        server.terminate()
        server.communicate()


def test_without_inspect_the_log_has_one_clear_error(judged, monkeypatch):
    monkeypatch.setitem(sys.modules, "inspect_ai.log", None)
    with pytest.raises(UserError, match=r"--phase=inspect.*pip install 'msm_jax\[inspect\]'"):
        write_log(judged[0])
