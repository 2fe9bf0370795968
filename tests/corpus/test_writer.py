"""The writer interface: cached, validated, repaired, counted; nothing is paid for twice."""

import json
import os
import signal

import pytest

from msm_jax.corpus.writers import Failure, Items, Journal, Reply, Request, Usage, Writer
from msm_jax.corpus.writers.journal import FILE
from msm_jax.corpus.writers.request import InvalidReply, Price
from msm_jax.errors import UserError
from msm_jax.limits import REPLY_CHARACTERS, ROW_BYTES

NAMES = Items(("name",), count=2)


class Scripted:
    """Answers by a function of the request and remembers what it was asked."""

    def __init__(self, answer, model="a"):
        self.identity, self.counts, self.asked = {"model": model}, {}, []
        self.lost = Usage()
        self._answer = answer

    def replies(self, requests, go_on):
        # Out of order, as replies come from an API.
        for index in reversed(range(len(requests))):
            if not go_on():
                return
            self.asked.append(requests[index])
            yield index, self._answer(requests[index])


def ask(prompt, items=None, sample=0, max_tokens=100):
    return Request("step", "system", prompt, {}, items, max_tokens, sample)


def rows(*names):
    return json.dumps({"items": [{"name": name} for name in names]})


def test_answers_are_in_order_cached_and_asked_once(tmp_path):
    backend = Scripted(lambda r: Reply(r.prompt.upper(), usage=Usage(10, 5)))
    requests = [ask("a"), ask("b"), ask("a"), ask("a", sample=1)]
    with Journal(tmp_path / FILE) as journal:
        writer = Writer(backend, journal, Price(1.0, 2.0))
        assert [a.text for a in writer.ask(requests)] == ["A", "B", "A", "A"]
        assert len(backend.asked) == 3
        assert writer.paid.usd == pytest.approx(3 * (10 + 2 * 5) / 1e6)
    with Journal(tmp_path / FILE) as journal:
        again = Writer(backend, journal)
        assert [a.text for a in again.ask(requests)] == ["A", "B", "A", "A"]
        assert len(backend.asked) == 3 and again.paid == Usage()
        assert again.used()["step"].output_tokens == 15
        other = Writer(Scripted(lambda r: Reply("other"), model="b"), journal)
        assert other.ask(requests[:1])[0].text == "other"


@pytest.mark.parametrize(
    "text",
    [
        rows("x", "y"),
        f"Here you are:\n```json\n{rows('x', 'y')}\n```\nBye.",
        f"Sure! {rows('x', 'y')} Done.",
        '[{"name": "x"}, {"name": " y "}]',
        rows("x", "y", "z"),
    ],
)
def test_structures_are_found_in_what_models_say(text):
    assert NAMES.parse(text) == [{"name": "x"}, {"name": "y"}]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no complete JSON"),
        (rows("x")[:-5], "no complete JSON"),
        ("I cannot do that.", "no complete JSON"),
        ('{"items": ' + "[" * 5_000, "no complete JSON"),
        ('{"items": ' + '{"a":' * 100_000, "no complete JSON"),
        ('{"items": 3}', 'the list "items"'),
        ('{"items": ["x"]}', r"items\[0\] must be an object"),
        ('{"items": [{"name": "x"}, {"name": ""}]}', r"items\[1\] needs a non-empty text"),
        ('{"items": [{"title": "x"}]}', "as 'name'"),
        (
            rows("x", "y" * 20_001),
            r"items\[1\].name has 20,001 characters",
        ),
    ],
)
def test_wrong_structures_say_what_is_wrong(text, says):
    with pytest.raises(InvalidReply, match=says):
        NAMES.parse(text)


def test_choices_are_kept_to():
    verdict = Items(("verdict",), choices={"verdict": ("include", "exclude")})
    assert verdict.schema()["properties"]["items"]["items"]["properties"]["verdict"]["enum"]
    with pytest.raises(InvalidReply, match="one of include, exclude"):
        verdict.parse('[{"verdict": "perhaps"}]')


def test_a_wrong_reply_is_repaired_with_what_was_wrong(tmp_path):
    def answer(request):
        return Reply(rows("x") if "<previous_reply>" in request.prompt else '{"items": [{}]}')

    backend = Scripted(answer)
    with Journal(tmp_path / FILE) as journal:
        writer = Writer(backend, journal)
        (found,) = writer.ask([ask("p", NAMES)])
        assert found.items == ({"name": "x"},) and not found.failure
        assert "needs a non-empty text" in backend.asked[1].prompt
        assert writer.counts == {"repaired: invalid structure": 1}
        # What was paid for in vain is in the journal as well.
        assert len(journal) == 2
        assert Writer(backend, journal).ask([ask("p", NAMES)])[0].items == found.items
        assert len(backend.asked) == 2


def test_repair_is_bounded_and_named(tmp_path):
    backend = Scripted(lambda r: Reply("no"))
    with Journal(tmp_path / FILE) as journal:
        writer = Writer(backend, journal)
        good, bad = writer.ask([ask("free"), ask("p", NAMES)])
        assert good.text == "no" and not good.failure
        assert bad.failure == "invalid structure" and bad.items == ()
        assert len(backend.asked) == 1 + 3
        assert writer.counts["invalid structure"] == 1


def test_a_structure_that_was_cut_off_gets_more_room(tmp_path):
    def answer(request):
        whole = request.max_tokens >= 400
        return Reply(rows("x"), "end") if whole else Reply(rows("x")[:-3], "length")

    backend = Scripted(answer)
    with Journal(tmp_path / FILE) as journal:
        (found,) = Writer(backend, journal).ask([ask("p", NAMES)])
    assert found.items and [r.max_tokens for r in backend.asked] == [100, 200, 400]


def test_refusals_and_failures_have_their_names(tmp_path):
    outcomes = {"r": Reply("Sorry", "refusal"), "f": Failure("timeout", "took too long")}
    backend = Scripted(lambda r: outcomes[r.prompt])
    with Journal(tmp_path / FILE) as journal:
        writer = Writer(backend, journal)
        found = writer.ask([ask("r", NAMES), ask("f"), ask("r")])
        assert [a.failure for a in found] == ["refusal", "timeout", "refusal"]
        assert writer.counts == {"refusal": 2, "timeout": 1}
        # A refusal was paid for and is kept; what was never answered is asked again.
        Writer(backend, journal).ask([ask("r"), ask("f")])
        assert [r.prompt for r in backend.asked].count("f") == 2
        assert [r.prompt for r in backend.asked].count("r") == 2


def test_the_money_limit_stops_and_keeps_what_was_paid(tmp_path):
    backend = Scripted(lambda r: Reply("x", usage=Usage(usd=0.4)))
    requests = [ask(str(n)) for n in range(10)]
    with Journal(tmp_path / FILE) as journal, pytest.raises(UserError, match=r"max_usd=1 is spent"):
        Writer(backend, journal, max_usd=1.0).ask(requests)
    assert len(backend.asked) == 3
    with Journal(tmp_path / FILE) as journal:
        assert len(Writer(backend, journal).ask(requests)) == 10
    assert len(backend.asked) == 10


def test_the_journal_survives_kill_9_at_any_moment(tmp_path):
    said = -1
    for lines in (1, 7, 20, 33):
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            with Journal(tmp_path / FILE) as journal:
                for n in range(len(journal), 10**6):
                    journal.put(f"k{n}", {"text": "text \u2028 é " * 2000 + str(n)})
                    os.write(writer, b"%d\n" % n)
        os.close(writer)
        with open(reader, "rb") as pipe:
            found = [int(pipe.readline()) for _ in range(lines)]
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            found += [int(line) for line in pipe.read().splitlines(True) if line.endswith(b"\n")]
        assert found[0] >= said + 1  # what was written before is there
        said = found[-1]
    with Journal(tmp_path / FILE) as journal:
        assert len(journal) >= said + 1
        for n in range(len(journal)):
            assert journal.get(f"k{n}")["text"].endswith(f" {n}")


def test_a_torn_line_is_dropped(tmp_path):
    with Journal(tmp_path / FILE) as journal:
        for n in range(3):
            journal.put(str(n), Reply("x").row("s"))
        path = journal.path
    complete = path.read_bytes()
    path.write_bytes(complete[:-7])
    with Journal(tmp_path / FILE) as journal:
        assert len(journal) == 2 and journal.get("2") is None
        journal.put("2", Reply("x").row("s"))
    assert path.read_bytes() == complete


def without(row, name):
    return {key: value for key, value in row.items() if key != name}


# What a reply's row may be instead: all of it, or one of its values.
NO_REPLIES = {
    "is no object": lambda row: [row],
    "has no text": lambda row: without(row, "text"),
    "has a number as its text": lambda row: {**row, "text": 5},
    "has too long a text": lambda row: {**row, "text": "x" * (REPLY_CHARACTERS + 1)},
    "ended by something": lambda row: {**row, "stop": ["end"]},
    "is of the oldest form and empty": lambda row: {"key": row["key"], "reply": {}},
}
NO_LINES = (
    *(b"nonsense", b"\0" * 500, b"\xff\xfe", b"[" * 100_000, b"5", b'"key"', b'{"key": ["a"]}'),
    *(b'{"text": "x"}', b'{"key": ' + b"9" * 5000 + b"}", b'{"key": "long", "text": "%b"}'),
)


def test_replies_that_cannot_be_read_are_counted_and_asked_for_again(tmp_path):
    """Each costs its own request once more and no other; no later run asks for it again."""
    said, count = [], len(NO_REPLIES)
    backend = Scripted(lambda r: Reply(r.prompt.upper(), usage=Usage(10, 5)))
    requests = [ask(f"p{n}") for n in range(count + 2)]
    with Journal(tmp_path / FILE) as journal:
        Writer(backend, journal).ask(requests)
    lines = (tmp_path / FILE).read_bytes().splitlines(keepends=True)
    rows = {row["text"]: row for row in map(json.loads, lines)}
    damaged = [change(rows[f"P{n}"]) for n, change in enumerate(NO_REPLIES.values())]
    garbage = [line.replace(b"%b", b"x" * ROW_BYTES) + b"\n" for line in NO_LINES]
    kept = [json.dumps(rows[f"P{n}"]).encode() + b"\n" for n in (count, count + 1)]
    poisoned = [*garbage, *(json.dumps(row).encode() + b"\n" for row in damaged), *kept]
    (tmp_path / FILE).write_bytes(b"".join(poisoned))
    for again in (count, 0):
        backend.asked.clear()
        with Journal(tmp_path / FILE, say=said.append) as journal:
            answers = Writer(backend, journal).ask(requests)
            assert [answer.text for answer in answers] == [f"P{n}" for n in range(count + 2)]
            # A row that has a later one of the same key is not read.
            assert journal.unreadable == len(NO_LINES) + (count if again else 1)
        assert len(backend.asked) == again
        assert "cannot be read and are skipped (the first: line 1, " in said.pop() and not said


@pytest.mark.parametrize(
    "usage",
    [None, [], {"input_tokens": -5}, {"usd": None}, {"usd": -9.0}, {"usd": float("nan")},
     {"output_tokens": 10**400}, {"usd": 10**400}, {"dollars": 1}],
)  # fmt: skip
def test_a_kept_reply_with_an_impossible_price_is_kept_and_named(usage, tmp_path):
    backend = Scripted(lambda r: Reply("x", usage=Usage(10, 5)))
    with Journal(tmp_path / FILE) as journal:
        key = Writer(backend, journal).ask([ask("p")])[0].key
        journal.put(key, {**journal.get(key), "usage": usage})
        writer = Writer(backend, journal)
        assert writer.ask([ask("p")])[0].text == "x" and len(backend.asked) == 1
        assert writer.used()["step"].as_dict() == Usage(unreported=1).as_dict()


def test_one_process_at_a_time(tmp_path):
    first, second = Journal(tmp_path / FILE), Journal(tmp_path / FILE, "use another folder")
    with first, first:
        with (
            pytest.raises(UserError, match=r"writes here: use another folder \(process \d"),
            second,
        ):
            pass
        first.put("a", Reply("x").row("s"))
        (tmp_path / "link").symlink_to(FILE)
        linked = Journal(tmp_path / "link")
        with pytest.raises(UserError, match="link: is a link to"), linked:
            pass
    # Who comes later finds what was paid for; and who was there before, after the other's block.
    with second:
        assert Reply.of_row(second.get("a")) == Reply("x")
        second.put("b", Reply("y").row("s"))
    with first:
        assert len(first) == 2 and first.get("b")["text"] == "y"
    with Journal(None) as memory:
        memory.put("a", {"text": "x"})
        memory.put("a", {"text": "y"})
        assert memory.get("a")["text"] == "y" and len(memory) == 1
