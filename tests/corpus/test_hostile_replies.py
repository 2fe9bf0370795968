"""Servers that reply with what they should not: tokens, types, sizes, places, our own key."""

import gzip
import json
import math
import threading
import types
import zlib

import pytest
from model_server import Server, anthropic_reply, openai_reply

from msm_jax.corpus.writers import Items, Journal, Reply, Request, Usage, Writer, bodies
from msm_jax.corpus.writers.api_errors import ApiError
from msm_jax.corpus.writers.batches import AnthropicBatches
from msm_jax.corpus.writers.client import Pace
from msm_jax.corpus.writers.journal import FILE
from msm_jax.corpus.writers.providers import CLIENTS
from msm_jax.corpus.writers.request import Price
from msm_jax.errors import UserError
from msm_jax.limits import REPLY_BYTES, REPLY_CHARACTERS

pytest.importorskip("anthropic")
pytest.importorskip("openai")

SECRET = "sk-ant-secret-8e1f0c2d77aa"
ONE = Pace(concurrency=1, timeout=20.0, attempts=2, first_wait=0.01)
REPLY = {"anthropic": anthropic_reply, "openai": openai_reply}
PRICE = Price(5.0, 25.0)
BOTH = pytest.mark.parametrize("kind", REPLY)


@pytest.fixture(autouse=True)
def keys(monkeypatch):
    monkeypatch.setenv("ANTHROPIC_API_KEY", SECRET)
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)


def client_of(kind, server):
    return CLIENTS[kind]("test", 1.0, ONE, server.url + "/v1" * (kind == "openai"))


def ask(number, items=None):
    return Request("document", "The spec.", f"Write number {number}.", {}, items, 500)


def reply(kind, text="a text", **usage):
    """The bytes of a good reply, but for its text and its usage."""
    found = REPLY[kind](text, "end", (20, 5))
    if usage:
        found["usage"] = usage["usage"]
    return json.dumps(found).encode()


def number_of(body):
    """The prompt's number in a request."""
    return int(body["messages"][-1]["content"].split("number ")[1].rstrip("."))


USAGES = [None, [], "x", -(10**9), math.nan, math.inf, 10**400, 2.5, {}, 0, True]


@BOTH
def test_what_a_server_says_of_tokens_never_lowers_what_is_spent(kind, tmp_path):
    """What is no number of tokens counts as the most that it can be, and is named."""
    names = {"anthropic": ("input_tokens", "output_tokens"),
             "openai": ("prompt_tokens", "completion_tokens")}[kind]  # fmt: skip

    def script(_, body):
        at = number_of(body)
        wrong = USAGES[at // 2]
        usage = {names[at % 2]: wrong, names[1 - at % 2]: 5}
        return 200, {}, reply(kind, usage=usage)

    count = 2 * len(USAGES)
    with Server(script=script) as server, Journal(tmp_path / FILE) as journal:
        most = PRICE.of(Usage.most(ask(0))).usd
        writer = Writer(client_of(kind, server), journal, PRICE)
        for at, answer in enumerate(writer.ask([ask(at) for at in range(count)])):
            usage = journal.get(answer.key, Reply.of_row).usage
            assert answer.text == "a text" and 0.9 * most < usage.usd < 1.1 * most, USAGES[at // 2]
        assert 0.9 * count * most < writer.paid.usd < 1.1 * count * most
        assert writer.used()["document"].unreported == count == server.number
        # They are kept as they are, and the limit holds for those that are new.
        again = Writer(client_of(kind, server), journal, PRICE, max_usd=most / 2)
        assert len(again.ask([ask(at) for at in range(count)])) == count == server.number
        assert again.used() == writer.used() and again.paid == Usage()
    with Server(script=script) as server, Journal(None) as journal:
        writer = Writer(client_of(kind, server), journal, PRICE, max_usd=3.5 * most)
        with pytest.raises(UserError, match="max_usd=.* is spent"):
            writer.ask([ask(at) for at in range(count)])
        assert 4 <= server.number <= 6  # another may be under way when the limit is reached


CONTENTS = [5, 0, True, ["x"], {"a": 1}, [[[]]]]


@BOTH
def test_a_reply_is_kept_only_if_it_is_a_text(kind, tmp_path):
    def script(_, body):
        at = number_of(body)
        return 200, {}, reply(kind, CONTENTS[at] if wrong and at < len(CONTENTS) else "a text")

    wrong, requests = True, [ask(at) for at in range(len(CONTENTS) + 1)]
    with Server(script=script) as server:
        client = client_of(kind, server)
        with Journal(tmp_path / FILE) as journal:
            writer = Writer(client, journal)
            answers = writer.ask(requests)
            assert [a.failure for a in answers] == ["broken response"] * len(CONTENTS) + [""]
            assert len(journal) == 1 and server.number == 2 * len(CONTENTS) + 1
        assert client.lost.unreported == client.counts["broken response"] == 2 * len(CONTENTS)
        # What arrived and cannot be used may have been paid for: it counts towards the limit.
        with Journal(None) as journal:
            limit = 5.5 * PRICE.of(Usage.most(ask(0))).usd
            with pytest.raises(UserError, match="with 6 replies that could not be used"):
                Writer(client_of(kind, server), journal, PRICE, max_usd=limit).ask(requests)
        wrong, before = False, server.number
        with Journal(tmp_path / FILE) as journal:
            assert all(not a.failure for a in Writer(client, journal).ask(requests))
            assert server.number == before + len(CONTENTS) and not journal.unreadable


@BOTH
def test_half_a_character_breaks_nothing_that_follows(kind, tmp_path):
    """JSON can spell half a surrogate pair, in a reply and in the JSON that is its text."""
    names = Items(("name",))
    rows = json.dumps({"items": [{"name": "a\ud800"}, {"name": "\udc80b"}]})
    script = lambda n, body: (200, {}, reply(kind, rows if n == 0 else "c\udfff \U0001f600"))
    with Server(script=script) as server, Journal(tmp_path / FILE) as journal:
        client = client_of(kind, server)
        writer = Writer(client, journal)
        (listed,) = writer.ask([ask(0, names)])
        assert [row["name"] for row in listed.items] == ["a\ufffd", "\ufffdb"]
        (text,) = writer.ask([ask(1)])
        assert text.text == "c\ufffd \U0001f600"
        later = Request("document", "\udc00", f"{listed.items} {text.text} \ud83d number 2.")
        assert not writer.ask([later])[0].failure and server.number == 3
        assert not client.counts
    json.loads((tmp_path / FILE).read_text("utf-8").splitlines()[0])


@BOTH
def test_no_more_is_read_than_the_limit_and_nothing_is_asked_twice(kind):
    long, packed = b" " * (REPLY_BYTES + 1), {"content-encoding": "gzip"}
    good = reply(kind, "x" * (REPLY_BYTES // 4 * 3))
    cases = {
        0: (200, {}, long),
        1: (200, packed, gzip.compress(long)),
        2: (500, packed, gzip.compress(long)),
        3: (200, {}, reply(kind, "x" * (REPLY_CHARACTERS + 1))),
        4: (200, packed, gzip.compress(good)),
        5: (200, packed, gzip.compress(reply(kind, "x" * REPLY_CHARACTERS))),
        6: (200, packed, b"no gzip"),
        7: (200, {"content-encoding": "zstd"}, reply(kind)),
    }
    with Server(script=lambda n, body: cases[number_of(body)]) as server:
        client = client_of(kind, server)
        found = dict(client.replies([ask(at) for at in cases], lambda: True))
        for at in range(5):
            assert found[at].name == "reply too long", found[at]
        for at, limit in ((0, "REPLY_BYTES"), (1, "REPLY_BYTES"), (3, "REPLY_CHARACTERS")):
            assert limit in found[at].message
        assert len(found[5].text) == REPLY_CHARACTERS
        assert found[6].name == found[7].name == "broken response"
        assert server.number == 8 + 2  # the last two are tried again
        headers = {name.lower(): value for name, value in server.seen[0][1].items()}
        assert headers["accept-encoding"] == "gzip"


def test_what_a_body_becomes_is_counted_piece_by_piece():
    """A part of the body may become a thousand times as much: no piece is larger than a MiB."""
    packer = zlib.compressobj(1, wbits=31)
    bomb = b"".join(packer.compress(bytes(1 << 20)) for _ in range(64))
    request = types.SimpleNamespace(url=types.SimpleNamespace(path="/v1/messages"))
    body = bodies._Body(
        types.SimpleNamespace(request=request, headers={"content-encoding": "gzip"})
    )
    sizes = []
    with pytest.raises(ApiError, match="REPLY_BYTES"):
        for piece in body.pieces(bomb):
            sizes.append(len(piece))
    assert sum(sizes) <= REPLY_BYTES and max(sizes) <= 1 << 20


@BOTH
def test_a_redirect_is_not_followed(kind):
    with Server() as other:
        places = [(307, f"{other.url}/v1/messages?key=1"), (301, "/v1"), (308, "//x")]
        script = lambda n, body: (places[n][0], {"location": places[n][1]}, "moved")
        with Server(script=script) as server:
            for number, (status, _) in enumerate(places, start=1):
                with pytest.raises(UserError, match=rf"redirected: HTTP {status}: .*fix the addr"):
                    list(client_of(kind, server).replies([ask(1)], lambda: True))
                assert server.number == number
        assert other.number == 0 and not other.seen


@BOTH
def test_a_reply_that_repeats_our_key_is_kept_with_the_key_masked(kind, tmp_path, monkeypatch):
    with Server(script=lambda n, body: (200, {}, f"Authorization: {SECRET}, EMPTY")) as server:
        with Journal(tmp_path / FILE) as journal:
            (answer,) = Writer(client_of(kind, server), journal).ask([ask(1)])
        assert answer.text == "Authorization: ***, EMPTY"
        assert SECRET not in (tmp_path / FILE).read_text()
        # What a server without keys is given instead of one is a word like any other.
        monkeypatch.setenv("OPENAI_API_KEY", "EMPTY")
        with Journal(None) as journal:
            (answer,) = Writer(client_of(kind, server), journal).ask([ask(1)])
        assert answer.text.endswith("EMPTY")


def test_notes_of_batches_that_cannot_be_read_cost_their_batch_and_no_other(tmp_path):
    with Server() as server:
        live, said = client_of("anthropic", server), []
        make = lambda: AnthropicBatches(live, tmp_path, PRICE, 0.5, said.append, poll=0.01)
        with Journal(tmp_path / FILE) as journal:
            assert not Writer(make(), journal).ask([ask(0)])[0].failure
        (notes,) = tmp_path.glob("batches-*.jsonl")
        (good,) = {line for line in notes.read_text().splitlines() if '"done"' in line}
        damaged = [{"key": "1", "keys": 5, "time": "x"}, {"key": "x", "keys": [], "time": 0}]
        lines = [good, "\0\0", *map(json.dumps, damaged)]
        notes.write_text("".join(f"{line}\n" for line in lines))
        with Journal(tmp_path / FILE) as journal:
            answers = Writer(make(), journal).ask([ask(0), ask(1)])
        assert [a.failure for a in answers] == ["", ""] and len(server.batches) == 2
        assert any("3 rows cannot be read" in text for text in said)
        assert set(server.delivered.values()) == {1}


def test_a_batch_is_bounded_in_bytes_whatever_the_script(tmp_path, monkeypatch):
    monkeypatch.setattr("msm_jax.corpus.writers.batches.MOST_BYTES", 40_000)
    long = [Request("document", "", f"{number} " + "ä" * 10_000) for number in range(4)]
    with Server() as server, Journal(None) as journal:
        batches = AnthropicBatches(client_of("anthropic", server), tmp_path, PRICE, 0.5, poll=0.01)
        Writer(batches, journal).ask(long)
        assert [len(batch["requests"]) for batch in server.batches.values()] == [1, 1, 1, 1]


def test_a_second_run_in_the_same_directory_is_refused_and_names_the_first(config, run, tmp_path):
    entered, go_on = threading.Event(), threading.Event()

    def wait(*_):
        entered.set()
        assert go_on.wait(300)

    first = threading.Thread(
        target=run, args=(config(count=1), tmp_path), kwargs={"on_reply": wait}
    )
    first.start()
    assert entered.wait(300)
    try:
        with pytest.raises(UserError, match=r"use another --workdir \(process \d+\)"):
            run(config(count=1), tmp_path)
    finally:
        go_on.set()
        first.join()
    assert (tmp_path / "manifest.json").exists()
