"""A writer and a judge on a real server with a real language model: `transformers serve`, 135M."""

import contextlib
import json
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
PACE = Pace(concurrency=2, timeout=300.0, attempts=2)


@pytest.fixture(scope="module")
def server(smollm2, tmp_path_factory):
    """(address, model) of a server that is ready."""
    folder = tmp_path_factory.mktemp("server")
    (folder / "smollm2").mkdir()
    for file in smollm2.iterdir():
        (folder / "smollm2" / file.name).symlink_to(file)
    # The pipeline leaves a plan room for thousands of tokens; here a reply ends after 0.5 seconds.
    settings = folder / "smollm2" / "generation_config.json"
    changed = json.dumps({**json.loads(settings.read_text()), "max_time": 0.5})
    settings.unlink()
    settings.write_text(changed)
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
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.3)
                pytest.fail((folder / "log.txt").read_text())
        yield f"{url}/v1", str(folder / "smollm2")
    finally:
        process.terminate()
        process.wait()


def answers(url):
    with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5) as reply:
        return reply.status == 200
    return False


def test_replies_and_usage_of_a_real_model(server, tmp_path):
    url, model = server
    client = OpenAIClient(model, 0.0, PACE, url)
    good = Request("document", "Be brief.", "What is the capital of France?", max_tokens=8)
    bad = Request("topics", "Be brief.", "Say hello.", items=Items(("topic",)), max_tokens=3)
    with Journal(tmp_path / "responses.jsonl") as journal:
        writer = Writer(client, journal)
        answer, unusable = writer.ask([good, bad])
        row = journal.get(answer.key)
    assert answer.text and not answer.failure and not client.counts
    assert row["usage"]["input_tokens"] > 15 and 1 <= row["usage"]["output_tokens"] <= 8
    assert "smollm2" in row["model"] and row["stop"] in ("end", "length")
    # What a small model writes where a structure is wanted is counted, repaired in vain, and kept.
    assert unusable.failure in ("invalid structure", "truncated") and not unusable.items
    assert sum(writer.counts.values()) == 3 and len(journal) == 4


def test_a_judge_that_says_nothing_is_unparsed_and_kept(server, tmp_path):
    url, model = server
    cache = Journal(tmp_path / "cache.jsonl")
    judge = ApiJudge(OpenAIClient(model, 0.0, PACE, url), cache, max_tokens=6, asks=1)
    prompts = [JudgePrompt("You are a judge.", "Is Paris in France?")]
    ((_, judgement),) = judge.judge(prompts)
    assert judgement.state == "unparsed" and judgement.reason
    nobody = ApiJudge(OpenAIClient(model, 0.0, PACE, "http://127.0.0.1:1"), cache, 6, 1)
    nobody.identity = judge.identity
    assert list(nobody.judge(prompts)) == [(0, judgement)]  # from the cache


def test_generate_pays_for_the_usage_that_the_server_reports(server, config, run, tmp_path):
    url, model = server
    asked = config("general", count=1, domains=1)
    asked.writer.update({"kind": "openai", "model": model, "base_url": url, "temperature": 0.0})
    asked.writer.price.update({"input": 1e6, "output": 1e6})
    asked.writer.max_usd = 1.0
    for number in (1, 2):  # the second run finds the first reply, and pays for a repair
        with pytest.raises(UserError, match=r"max_usd=1 is spent"):
            run(asked, tmp_path)
        replies = [row for _, row in read_rows(tmp_path / "responses.jsonl")]
        assert len(replies) == number and {row["step"] for row in replies} == {"domains"}
        usage = replies[-1]["usage"]
        assert usage["usd"] == usage["input_tokens"] + usage["output_tokens"] > 100
