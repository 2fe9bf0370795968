"""Judges against a server that fails in every way, with the real client libraries."""

import contextlib
import dataclasses
import threading
import time

import pytest
from model_server import Server

from msm_jax.corpus.writers import Journal
from msm_jax.corpus.writers.api_errors import retry_after
from msm_jax.corpus.writers.providers import CLIENTS, AnthropicClient
from msm_jax.corpus.writers.request import Price
from msm_jax.errors import UserError
from msm_jax.evals.judges.api_judge import PACE, ApiJudge
from msm_jax.evals.judges.base import CUT_OFF, Judgement, JudgePrompt, cut_off
from msm_jax.evals.judges.reading import read_reply

KEY = "sk-secret-0123456789"
YES, NO = "It did.\n<answer>yes</answer>", "It did not.\n<answer>no</answer>"
QUICK = dataclasses.replace(PACE, timeout=30.0, attempts=4, seconds=5.0, first_wait=0.02)


def request(text="x"):
    return JudgePrompt("you judge", f"question {text}")


def said(body):
    """The user's text of a request."""
    return next(m["content"] for m in body["messages"] if m["role"] == "user")


@pytest.fixture(params=["anthropic", "openai"])
def make(request, monkeypatch):
    """A judge on a scripted server, by either protocol."""
    pytest.importorskip(request.param)
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with contextlib.ExitStack() as servers:

        def build(script, cache=None, pace=QUICK, server=None, **settings):
            cache = Journal(None) if cache is None else cache
            server = server or servers.enter_context(Server(script=script))
            url = server.url + "/v1" * (request.param == "openai")
            server.client = CLIENTS[request.param]("judge-1", pace=pace, base_url=url)
            return server, ApiJudge(server.client, cache, **settings)

        yield build


def until_it_was_refused(server):
    while not server.client.counts:
        time.sleep(0.01)


def ask(judge, *requests):
    found = dict(judge.judge(requests))
    assert sorted(found) == list(range(len(requests)))
    return [found[i] for i in range(len(requests))]


def test_the_judge_stops_before_more_is_spent_and_goes_on_later(make):
    price, cache = Price(100.0, 1000.0), Journal(None)
    pace = dataclasses.replace(QUICK, concurrency=1)
    server, judge = make(lambda n, body: (200, {}, YES), cache, pace, price=price, max_usd=1e-6)
    with pytest.raises(UserError, match=r"--judge_max_usd=1e-06 is spent .* 3 calls were not made"):
        ask(judge, *(request(str(i)) for i in range(4)))
    assert server.number == len(cache) == 1
    _, judge = make(None, cache, pace, server, price=price, max_usd=1.0)
    assert all(j.value for j in ask(judge, *(request(str(i)) for i in range(4))))
    assert server.number == 4


def test_yes_and_no_arrive_where_they_belong(make):
    server, judge = make(lambda n, body: (200, {}, YES if "odd" in said(body) else NO))
    words = ["odd", "even"] * 10
    found = ask(judge, *(request(f"{word} {i}") for i, word in enumerate(words)))
    assert [j.value for j in found] == [word == "odd" for word in words]
    assert {j.state for j in found} == {"ok"} and found[0].reason == YES
    assert server.number == 20


def test_too_many_requests_waits_as_long_as_it_is_told(make):
    def script(number, body):
        return (429, {"retry-after": "0.4"}, "slow down") if number == 0 else (200, {}, YES)

    server, judge = make(script)
    assert ask(judge, request())[0].value is True
    assert server.times[1] - server.times[0] >= 0.4


def test_fewer_calls_at_a_time_after_too_many_requests_and_then_more_again(make):
    active, eight, again = {}, threading.Barrier(8, timeout=60), threading.Barrier(8, timeout=60)

    def script(number, body):
        active[number] = server.active
        if 1 <= number <= 8:
            eight.wait()  # the first call is alone, the next eight are under way together
            if number == 8:
                return 429, {"retry-after": "0.7"}, "slow down"
            until_it_was_refused(server)
        elif number <= 16:
            time.sleep(0.3)
        elif number >= 83:
            again.wait()  # and so are the last eight
        return 200, {}, YES

    server, judge = make(script, pace=dataclasses.replace(QUICK, concurrency=8))
    found = ask(judge, *(request(str(i)) for i in range(90)))
    assert {judgement.value for judgement in found} == {True} and server.number == 91
    assert not eight.broken and not again.broken
    assert server.times[9] - server.times[8] >= 0.7  # nobody calls before
    assert max(active[number] for number in range(9, 17)) <= 6


def test_calls_are_bounded(make):
    def script(number, body):
        if 1 <= number <= 9:
            three.wait()
        return 200, {}, NO

    three = threading.Barrier(3, timeout=60)
    server, judge = make(script, pace=dataclasses.replace(QUICK, concurrency=3))
    ask(judge, *(request(str(i)) for i in range(12)))
    assert server.most_active == 3 and not three.broken


MANGLED = ['RAW:{"half": ', "RAW:", "RAW:[]", "RAW:{}", "RAW:null", "RAW:<html>busy</html>"]


@pytest.mark.parametrize("trouble", [500, 502, 529, "reset", *MANGLED])
def test_passing_trouble_is_tried_again(make, trouble):
    def script(number, body):
        if number >= 2:
            return 200, {}, YES
        if trouble in MANGLED:
            return 200, {}, trouble
        return trouble if trouble == "reset" else (trouble, {}, "trouble")

    server, judge = make(script)
    assert ask(judge, request()) == [Judgement(True, "ok", YES)]
    assert server.number == 3


def test_a_read_that_times_out_is_tried_again(make):
    pace = dataclasses.replace(QUICK, timeout=0.3)
    server, judge = make(lambda n, body: "hang" if n == 0 else (200, {}, NO), pace=pace)
    assert ask(judge, request())[0].value is False


def test_lasting_trouble_is_an_error_and_no_no(make, tmp_path):
    cache = Journal(tmp_path / "cache.jsonl")
    fails = {"now": True}

    def script(number, body):
        bad = fails["now"] and "bad" in said(body)
        return (500, {}, "broken") if bad else (200, {}, NO)

    server, judge = make(script, cache)
    good, bad = ask(judge, request("good"), request("bad"))
    assert (good.value, bad.value, bad.state) == (False, None, "error")
    assert "500" in bad.reason or "InternalServer" in bad.reason
    # the next run asks only what is missing
    fails["now"] = False
    before = server.number
    assert [j.value for j in ask(judge, request("good"), request("bad"))] == [False, False]
    assert server.number == before + 1


def test_total_time_is_capped(make):
    pace = dataclasses.replace(QUICK, attempts=50, seconds=0.5, first_wait=0.3)
    _, judge = make(lambda n, body: (503, {"retry-after": "30"}, "later"), pace=pace)
    start = time.monotonic()
    assert ask(judge, request())[0].state == "error"
    assert time.monotonic() - start < 30  # as long as the service asks for, once


@pytest.mark.parametrize("status", [401, 402, 403, 404])
def test_hopeless_answers_stop_the_run_at_once_and_keep_the_key_secret(make, status):
    one = dataclasses.replace(QUICK, concurrency=1)
    server, judge = make(lambda n, body: (status, {}, f"bad key {KEY}"), pace=one)
    with pytest.raises(UserError, match=str(status)) as found:
        ask(judge, *(request(str(i)) for i in range(40)))
    assert server.number <= 3
    assert KEY not in str(found.value) and found.value.__cause__ is None
    assert "no reply that arrived is lost; fix the" in str(found.value)
    assert "judge-1" in str(found.value) and "writer" not in str(found.value)
    assert KEY in str(server.seen[0][1])


@pytest.mark.parametrize(
    ("status", "text"), [(400, "credit balance is too low"), (429, "insufficient_quota")]
)
def test_no_money_stops_the_run(make, status, text):
    server, judge = make(lambda n, body: (status, {}, text))
    with pytest.raises(UserError, match="account"):
        ask(judge, request())
    assert server.number == 1


def test_a_run_that_is_stopped_does_not_wait_for_the_service(make):
    def script(number, body):
        if number == 0:
            return 200, {}, YES
        if "bad" not in said(body):
            return 429, {"retry-after": "60"}, "later"
        until_it_was_refused(server)  # by then the other waits
        return 401, {}, "no"

    pace = dataclasses.replace(QUICK, seconds=500.0, concurrency=2)
    server, judge = make(script, pace=pace)
    start = time.monotonic()
    with pytest.raises(UserError, match="401"):
        ask(judge, request("first"), request("bad"), *(request(str(i)) for i in range(5)))
    assert time.monotonic() - start < 60 and server.number == 3


def test_whoever_stops_reading_stops_the_calls_and_keeps_what_was_under_way(make, tmp_path):
    def script(number, body):
        if number and "late" in said(body):
            return 429, {"retry-after": "60"}, "later"
        time.sleep(0.2 * bool(number))
        return 200, {}, YES

    cache = Journal(tmp_path / "cache.jsonl")
    server, judge = make(script, cache, pace=dataclasses.replace(QUICK, concurrency=4))
    start = time.monotonic()
    words = ["first", "a", "b", "c", "late", *map(str, range(50))]
    for _, judgement in judge.judge([request(word) for word in words]):
        assert judgement.value is True
        while server.number < 4:  # the next ones are under way
            time.sleep(0.01)
        break
    assert time.monotonic() - start < 60 and server.number <= 10
    kept = (tmp_path / "cache.jsonl").read_text().splitlines()
    refused = sum(b"late" in body for _, _, body in server.seen)
    assert refused == 1 and len(kept) == server.number - refused >= 4


def test_a_reply_is_on_the_disk_before_it_is_read(make, tmp_path):
    path = tmp_path / "cache.jsonl"
    _, judge = make(lambda n, body: (200, {}, YES), Journal(path))
    found = judge.judge([request(str(i)) for i in range(10)])
    next(found)  # a reader that then does something else
    deadline = time.monotonic() + 60
    while len(path.read_text().splitlines()) < 10:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert len(list(found)) == 9


def test_equal_questions_are_paid_for_once(make):
    server, judge = make(lambda n, body: (200, {}, "nothing" if n == 0 else YES))
    assert [j.value for j in ask(judge, *[request()] * 5)] == [True] * 5 and server.number == 2


def test_one_bad_request_does_not_hold_the_others_up(make):
    script = lambda n, body: (500, {}, "broken") if "bad" in said(body) else (200, {}, YES)
    _, judge = make(script, pace=dataclasses.replace(QUICK, first_wait=0.5, attempts=2))
    found = judge.judge([request(word) for word in ("bad", "good", "fine")])
    assert sorted(index for index, _ in (next(found), next(found))) == [1, 2]
    assert [(index, j.state) for index, j in found] == [(0, "error")]


def test_a_request_that_is_refused_as_such_costs_one_verdict(make):
    def script(number, body):
        return (400, {}, "prompt is too long") if "long" in said(body) else (200, {}, YES)

    server, judge = make(script)
    found = ask(judge, request("long"), request("short"))
    assert [j.state for j in found] == ["error", "ok"] and server.number == 2


@pytest.mark.parametrize(
    "text",
    [
        "",
        "I think so.",
        "<answer>maybe</answer>",
        '{"answer": ',
        "LENGTH:it went on and",
        "<answer>yes or no</answer>",
    ],
)
def test_what_is_no_answer_is_asked_again_and_then_unparsed(make, text):
    server, judge = make(lambda n, body: (200, {}, text), asks=3)
    (found,) = ask(judge, request())
    assert (found.value, found.state) == (None, "unparsed") and server.number == 3
    server, judge = make(lambda n, body: (200, {}, text if n == 0 else NO), asks=3)
    assert ask(judge, request())[0].value is False


def test_a_refusal_is_a_refusal(make):
    server, judge = make(lambda n, body: (200, {}, "REFUSAL:I would rather not."))
    (found,) = ask(judge, request())
    assert (found.value, found.state) == (None, "refusal") and server.number == 1


def test_replies_are_kept_and_a_torn_line_is_dropped(make, tmp_path):
    path = tmp_path / "cache.jsonl"
    server, judge = make(lambda n, body: (200, {}, YES), Journal(path))
    ask(judge, request("a"), request("b"))
    content = path.read_bytes()
    path.write_bytes(content[:-20])
    server, judge = make(lambda n, body: (200, {}, YES), Journal(path))
    # another server has another address, and so for OpenAI another identity
    expected = 1 if "anthropic" in judge.identity["judge"] else 2
    ask(judge, request("a"), request("b"))
    assert server.number == expected
    assert KEY not in path.read_text()
    assert all(line.endswith("}") for line in path.read_text().splitlines())


def test_a_missing_key_is_named(monkeypatch):
    pytest.importorskip("anthropic")
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    with pytest.raises(UserError, match="ANTHROPIC_API_KEY"):
        AnthropicClient("m")


def test_a_reply_that_is_cut_off_is_asked_again_whatever_it_holds(make):
    """A verdict may stand in it, quoted or whole: the reply was not at its end."""
    for text in ("LENGTH:The rubric asks for <answer>no</answer> if", f"LENGTH:{YES}"):
        server, judge = make(lambda n, body, text=text: (200, {}, text), asks=3)
        (found,) = ask(judge, request())
        assert (found.value, found.state) == (None, "unparsed") and server.number == 3
        assert found.reason == CUT_OFF + text.removeprefix("LENGTH:")
        server, judge = make(lambda n, body, text=text: (200, {}, NO if n else text), asks=3)
        assert ask(judge, request())[0].value is False and server.number == 2
    rows = [found.as_dict(), Judgement(None, "unparsed", "hm").as_dict(),
            Judgement(True, "ok", CUT_OFF).as_dict()]  # fmt: skip
    assert cut_off(rows) == 1


@pytest.mark.parametrize("content", [8, True, None, ["<answer>yes</answer>"], {"answer": "yes"}])
def test_a_reply_that_is_no_text_is_unparsed_also_from_the_cache(make, content):
    assert read_reply(content, "end", request()).state == "unparsed"
    cache = Journal(None)
    server, judge = make(lambda n, body: (200, {}, YES), cache)
    old = {"text": content, "finish": "end", "model": ""}  # as caches were written at first
    cache.put(request().key(judge.identity, 0), {"reply": old})
    assert ask(judge, request())[0].value is True and server.number == 1


@pytest.mark.parametrize(
    ("value", "seconds"), [("3", 3), ("0.5", 0.5), ("-1", 0), ("soon", None), (None, None)]
)
def test_retry_after_is_seconds_or_a_date(value, seconds):
    assert retry_after({"retry-after": value} if value else {}) == seconds


def test_retry_after_as_a_date():
    from email.utils import formatdate

    date = formatdate(time.time() + 10, usegmt=True)
    assert 8 < retry_after({"retry-after": date}) <= 10
