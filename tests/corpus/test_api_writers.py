"""Both protocols, through the providers' own clients, against a server that misbehaves."""

import json
import os
import pathlib
import subprocess
import sys
import time
import types

import pytest
from model_server import Server

from msm_jax.corpus.records import read_rows
from msm_jax.corpus.writers import Failure, Items, Journal, Reply, Request, Writer
from msm_jax.corpus.writers.api_errors import ApiError, retry_after, scrubbed, status_error
from msm_jax.corpus.writers.client import Pace
from msm_jax.corpus.writers.local import LocalWriter
from msm_jax.corpus.writers.providers import CLIENTS, AnthropicClient, OpenAIClient
from msm_jax.errors import UserError

pytest.importorskip("anthropic")
pytest.importorskip("openai")

SECRET = "sk-ant-secret-8e1f0c2d77aa"
PACE = Pace(concurrency=6, timeout=1.8, attempts=6, first_wait=0.02)
TROUBLES = ["429", "ok", "500", "ok", "529", "ok", "reset", "ok", "hang", "ok", "trickle", "ok",
            "broken", "ok"]  # fmt: skip


@pytest.fixture(autouse=True)
def keys(monkeypatch):
    monkeypatch.setenv("ANTHROPIC_API_KEY", SECRET)
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    for name in ("ANTHROPIC_BASE_URL", "OPENAI_BASE_URL", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture
def journal():
    with Journal(None) as found:
        yield found


def client_of(kind, url, pace=PACE):
    return CLIENTS[kind]("test", 1.0, pace, url + "/v1" * (kind == "openai"))


def ask(number, items=None):
    return Request("document", "The spec.", f"Write number {number}.", {}, items, 500)


BOTH = pytest.mark.parametrize("kind", ["anthropic", "openai"])


@BOTH
def test_every_trouble_is_named_and_survived(kind, journal):
    requests = [ask(n) for n in range(30)]
    with Server(TROUBLES) as server:
        backend = client_of(kind, server.url)
        writer = Writer(backend, journal)
        answers = writer.ask(requests)
        assert all("<content>" in answer.text and not answer.failure for answer in answers)
        assert {"rate limited": 1, "server error": 1, "overloaded": 1, "timeout": 2,
                "broken response": 1}.items() <= backend.counts.items()  # fmt: skip
        assert backend.counts["connection lost"] >= 1
        assert set(server.delivered.values()) == {1} and len(server.delivered) == 30
        asked = server.number
        assert [a.text for a in Writer(backend, journal).ask(requests)] == [a.text for a in answers]
        assert server.number == asked
        assert writer.used()["document"].output_tokens > 1000


def test_a_reply_is_whole_only_where_its_end_is_known():
    """OpenAI's words, those of servers that speak its language, and everything else."""
    read = {kind: client_of(kind, "http://localhost:1").reply_of for kind in CLIENTS}
    usage = types.SimpleNamespace(prompt_tokens=1, completion_tokens=1, prompt_tokens_details=None)
    message = types.SimpleNamespace(content="a text", refusal=None)

    def stop(reason):
        choice = types.SimpleNamespace(message=message, finish_reason=reason)
        said = types.SimpleNamespace(choices=[choice], usage=usage, model="m")
        return read["openai"](said, ask(0)).stop

    ends = {"stop": "end", "STOP": "end", "eos_token": "end", "tool_calls": "end"}
    ends |= {"length": "length", "model_length": "length", "max_tokens": "length"}
    ends |= {"content_filter": "refusal"}
    assert {reason: stop(reason) for reason in ends} == ends
    for reason in (None, "", "abort", "error", "insufficient_system_resource", ["stop"]):
        with pytest.raises(ApiError, match="ended by"):
            stop(reason)

    block = types.SimpleNamespace(type="text", text="a text")
    paid = types.SimpleNamespace(input_tokens=1, output_tokens=1)
    reply = lambda reason: read["anthropic"](
        types.SimpleNamespace(usage=paid, content=[block], stop_reason=reason, model="m"), ask(0)
    )
    ends = {"end_turn": "end", "stop_sequence": "end", "max_tokens": "length"}
    ends |= {"pause_turn": "length", "model_context_window_exceeded": "length"}
    ends |= {"refusal": "refusal"}
    assert {reason: reply(reason).stop for reason in ends} == ends
    for reason in (None, "overloaded"):
        with pytest.raises(ApiError):
            reply(reason)


@BOTH
def test_structures_refusals_and_lengths(kind, journal):
    names = Items(("domain", "description"), 3)
    schedule = ["ok", "wrong", "ok", "cut", "ok", "refusal", "cut"]
    with Server(schedule) as server:
        backend = client_of(kind, server.url, Pace(1, 5.0, 2, 0.01))
        writer = Writer(backend, journal)
        ask_one = lambda request: writer.ask([request])[0]
        assert ask_one(ask(0)).stop == "end"
        assert ask_one(ask("exactly 3", names)).items  # wrong, then repaired
        assert ask_one(ask("exactly 2", names)).items  # cut off, then with more room
        assert ask_one(ask(1)).failure == "refusal"
        assert ask_one(ask(2)).stop == "length"
        assert writer.counts == {
            "repaired: invalid structure": 1, "repaired: truncated": 1, "refusal": 1,
        }  # fmt: skip
        bodies = [json.loads(body) for _, _, body in server.seen]
        shaped = bodies[1]["response_format" if kind == "openai" else "output_config"]
        assert "additionalProperties" in json.dumps(shaped)
        room = "max_tokens"
        assert [b[room] for b in bodies[3:5]] == [500, 1000]


@BOTH
@pytest.mark.parametrize("trouble", ["key", "credit", "400"])
def test_what_cannot_go_well_ends_at_once(kind, trouble, journal):
    refuse = SECRET if trouble == "key" else ""
    schedule = [] if trouble == "key" else [trouble] * 100
    with Server(schedule, refuse) as server:
        writer = Writer(client_of(kind, server.url), journal)
        with pytest.raises(UserError) as caught:
            writer.ask([ask(n) for n in range(100)])
        assert server.number <= 14
    says = {"key": "authentication failed", "credit": "no credit left", "400": "bad request"}
    assert says[trouble] in str(caught.value)
    assert SECRET not in str(caught.value) and caught.value.__cause__ is None


def test_what_was_paid_before_a_fatal_trouble_is_kept(journal):
    with Server(["ok"] * 8 + ["credit"] * 50) as server:
        writer = Writer(client_of("anthropic", server.url), journal)
        with pytest.raises(UserError, match="no credit left"):
            writer.ask([ask(n) for n in range(40)])
        assert len(journal) == len(server.delivered) == 8


def test_the_pace_adapts_and_attempts_are_bounded():
    with Server(["ok"] + ["529"] * 40) as server:
        backend = client_of("anthropic", server.url, Pace(8, 2.0, 3, 0.01))
        found = dict(backend.replies([ask(n) for n in range(30)], lambda: True))
        assert len(found) == 30
        lost = [o for o in found.values() if isinstance(o, Failure)]
        assert 1 <= len(lost) <= 14 and {o.name for o in lost} == {"overloaded"}
        assert server.most_active <= 8
    with Server(["ok", "429", "429"]) as server:
        backend = client_of("anthropic", server.url, Pace(2, 2.0, 4, 0.01))
        start = time.monotonic()
        assert all(isinstance(o, Reply) for _, o in backend.replies([ask(1), ask(2)], lambda: True))
        assert time.monotonic() - start >= 0.3  # Retry-After


def test_the_spec_is_sent_so_that_it_can_be_cached():
    with Server() as server:
        list(client_of("anthropic", server.url).replies([ask(1)], lambda: True))
        _, headers, body = server.seen[0]
        (system,) = json.loads(body)["system"]
        assert system["text"] == "The spec." and system["cache_control"] == {"type": "ephemeral"}
        assert any(SECRET in value for value in headers.values())


def test_a_missing_key_says_which(monkeypatch):
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(UserError, match="ANTHROPIC_API_KEY is not set"):
        AnthropicClient("m")
    with pytest.raises(UserError, match="OPENAI_API_KEY is not set"):
        OpenAIClient("m")
    OpenAIClient("m", base_url="http://localhost:1/v1")  # a server at home needs none


@pytest.mark.parametrize(
    "url, exposed",
    [
        ("http://node7:8000/v1", True),
        ("http://10.0.0.3/v1", True),
        ("https://node7:8000/v1", False),
        ("http://localhost:8000/v1", False),
        ("http://127.0.0.1:8000/v1", False),
        ("http://[::1]:8000/v1", False),
    ],
)
def test_a_key_sent_without_encryption_is_announced(url, exposed, monkeypatch, recwarn):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-0123456789abcdef")
    OpenAIClient("m", base_url=url)
    said = [str(w.message) for w in recwarn]
    assert [url in text and "without encryption" in text for text in said] == [True] * exposed
    assert not any("sk-0123" in text for text in said)
    monkeypatch.delenv("OPENAI_API_KEY")
    recwarn.clear()
    OpenAIClient("m", base_url=url)
    assert not recwarn.list


def test_statuses_and_headers():
    assert status_error(429, "insufficient_quota: no").fatal
    assert status_error(429, "x", {"retry-after": "7"}).after == 7
    assert status_error(404, "model").fatal and not status_error(413, "x").retry
    assert retry_after({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 0
    assert retry_after({"retry-after": "soon"}) is None and retry_after({}) is None
    assert scrubbed(f"key {SECRET} and sk-proj-abcdefgh") == "key *** and ***"


# ---------------------------------------------------------------- whole corpora


def api_config(config, kind, url, **writer):
    asked = config("values", count=24, types=3, rounds=5)
    base = f"{url}/v1" if kind == "openai" else url
    asked.writer.update(
        {"kind": kind, "model": "test", "base_url": base, "concurrency": 6, "timeout": 1.8,
         "first_wait": 0.02, "batch_poll": 0.05, **writer}
    )  # fmt: skip
    asked.writer.price.update({"input": 5.0, "output": 25.0, "cache_read": 0.5})
    return asked


@BOTH
def test_a_corpus_is_complete_whatever_happens(kind, config, run, tmp_path):
    schedule = [*TROUBLES, "wrong", "ok", "refusal", "ok", *TROUBLES, "cut", "refusal", *TROUBLES]
    with Server(schedule) as server:
        found = run(api_config(config, kind, server.url), tmp_path)
        assert found["records"] == 24 and set(server.delivered.values()) == {1}
        assert not server.schedule
        total = sum(s["usd"] for s in found["ledger"]["writer"]["steps"].values())
        replies = [row for _, row in read_rows(tmp_path / "responses.jsonl")]
        assert total == pytest.approx(sum(row["usage"]["usd"] for row in replies), abs=1e-4)
        assert len(replies) == server.replies and total > 0.01
        met = json.loads((tmp_path / "troubles.json").read_text())["writer"]
        assert {"rate limited", "server error", "overloaded", "timeout"} <= set(met)
        # The manifest knows what the corpus lost, by name.
        assert found["failures"]["writer"].get("refusal") or found["dropped"].get("refusal")
        asked = server.number
        again = run(api_config(config, kind, server.url), tmp_path)
        assert server.number == asked and again == found


def test_a_batch_that_expires_by_half_is_completed(config, run, tmp_path):
    with Server() as server:
        server.expire_half_of_batch = 1
        found = run(api_config(config, "anthropic", server.url, batch=True), tmp_path)
        assert found["records"] == 24 and len(server.batches) >= 2
        assert set(server.delivered.values()) == {1}
        met = json.loads((tmp_path / "troubles.json").read_text())["writer"]
        assert met["expired"] == len(server.batches["msgbatch_0"]["requests"]) // 2
        rows = [row for _, row in read_rows(tmp_path / "responses.jsonl")]
        cost = lambda u: (u["input_tokens"] * 5 + u["output_tokens"] * 25
                          + u["cache_read_tokens"] * 0.5) / 1e6  # fmt: skip
        for row in rows:
            share = 0.5 if row["step"] == "document" else 1.0
            assert row["usage"]["usd"] == pytest.approx(share * cost(row["usage"]))


def command_of(root, url, workdir, *more):
    return [
        sys.executable, "-m", "msm_jax.generate",
        f"--config={root / 'configs/corpus/example.py'}:values", f"--workdir={workdir}",
        "--config.documents.count=24", "--config.documents.types=3",
        "--config.writer.kind=anthropic", "--config.writer.model=test",
        f"--config.writer.base_url={url}", "--config.writer.timeout=2.0",
        "--config.writer.concurrency=4", "--config.writer.batch_poll=0.05",
        "--config.writer.first_wait=0.02", *more,
    ]  # fmt: skip


def start(command, root, tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(root)}
    with (tmp_path / "out.txt").open("ab") as out:
        return subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=out, stderr=out)


def test_a_batch_outlives_the_process_that_sent_it(root, tmp_path):
    with Server() as server:
        server.polls_until_ended = 10**9
        workdir = tmp_path / "w"
        command = command_of(root, server.url, workdir, "--config.writer.batch=True")
        with start(command, root, tmp_path) as process:
            deadline = time.monotonic() + 300
            while not any(b["polls"] > 1 for b in server.batches.values()):
                assert process.poll() is None and time.monotonic() < deadline
                time.sleep(0.02)
            process.kill()
        # Also if the kill came between the provider's "accepted" and the note of it.
        (notes,) = workdir.glob("batches-*.jsonl")
        notes.write_text("".join(notes.read_text().splitlines(keepends=True)[:1]))
        server.polls_until_ended = 2
        with start(command, root, tmp_path) as process:
            assert process.wait(300) == 0, (tmp_path / "out.txt").read_text()
        first = {row["custom_id"] for row in server.batches["msgbatch_0"]["requests"]}
        for batch in list(server.batches.values())[1:]:
            assert not first & {row["custom_id"] for row in batch["requests"]}
        assert set(server.delivered.values()) == {1}
        assert len(list(read_rows(workdir / "documents.jsonl"))) == 24


def test_no_secret_anywhere_after_a_failing_run(root, tmp_path):
    with (
        Server(refuse_key=SECRET) as server,
        start(command_of(root, server.url, tmp_path / "w"), root, tmp_path) as process,
    ):
        arguments = pathlib.Path(f"/proc/{process.pid}/cmdline").read_bytes()
        assert process.wait(300) == 2
    said = (tmp_path / "out.txt").read_text()
    assert "authentication failed" in said and "Traceback" not in said
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert (tmp_path / "w" / "responses.jsonl") in files
    for text in (arguments, *(path.read_bytes() for path in files)):
        assert SECRET.encode() not in text and SECRET[7:].encode() not in text


def test_no_secret_in_a_crash_of_the_client(monkeypatch, journal):
    with Server() as server:
        backend = client_of("anthropic", server.url)

        def crash(*_):
            raise MemoryError(f"while holding {SECRET}")

        monkeypatch.setattr(backend, "session", crash)
        with pytest.raises(RuntimeError) as caught:
            Writer(backend, journal).ask([ask(1)])
    chain, error = [], caught.value
    while error is not None:
        chain.append(f"{error!r} {vars(error)}")
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    assert SECRET not in " ".join(chain)


@pytest.mark.parametrize(
    "url", ["http://me:secret@host", "http://host?key=secret", "http://host/v1#key=secret", "host"]
)
def test_an_address_may_not_hold_a_secret(url, config, run, tmp_path):
    with pytest.raises(UserError, match="base_url") as caught:
        run(api_config(config, "anthropic", url), tmp_path)
    assert url == "host" or "secret" not in str(caught.value)


# ---------------------------------------------------------------- our own sampler


def test_the_local_writer_samples_in_rows_and_keeps_the_order():
    asked = []

    def generate(conversations, max_tokens, temperature, seed):
        asked.append((len(conversations), max_tokens, temperature, seed))
        return [(f"re: {c[1]['content'].splitlines()[0]}", len(c[1]["content"]) < 200)
                for c in conversations]  # fmt: skip

    writer = LocalWriter("run", generate, 0.7, seed=5)
    requests = [ask(n) for n in range(100)] + [ask("a list", Items(("name",)))]
    found = dict(writer.replies(requests, lambda: True))
    assert [found[n].text for n in range(100)] == [f"re: Write number {n}." for n in range(100)]
    assert asked[0][:3] == (64, 500, 0.7) and asked[0][3] == 5 and len(asked) == 2
    assert found[0].usage.output_tokens > 0 and writer.identity["model"] == "run"
