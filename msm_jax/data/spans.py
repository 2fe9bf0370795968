"""Which characters of a written chat are the assistant's, and so carry loss.

The chat is written twice: as it is, and with a mark around the text of every message. Both must be
the same text once the marks are removed. The marks then show where each message is, whatever
headers the template writes and whatever a message imitates. Only the format writes between two
messages, so the header of an answer is found there with certainty:

1. If a generation prompt adds something, that is the header (or a part of it, where a template
   writes less in earlier turns: Qwen3's empty block of thoughts).
2. Else, if the template writes the header together with the answer, it is what precedes the answer.
3. Else the header is what follows the last message of a chat that ends before the answer: the end
   of the turn before it (Llama 2, Mistral).
4. If a template writes another header than its generation prompt, the answer begins with its own
   first word.

An answer ends with the first end token after it, before the next message. {% generation %} tags of
a template say themselves what carries loss, and are checked in the same way.
"""

import collections
import contextlib
import dataclasses
import functools
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from msm_jax.data.messages import Turn, marker, renamed, unmarked
from msm_jax.data.sandbox import Write
from msm_jax.errors import UserError, located

# At the end of what is before an answer's first word: what a template writes of its thoughts.
_OWN_WORDS = re.compile(r"(?:<think>\s*(?:</think>\s*)?| *)\Z")
DROPPED = "thoughts that the chat format does not write, so that they are not learned"
UNTAGGED = (
    "answers that the template's {% generation %} tags leave out, in part or with their end token, "
    "so that this is not learned"
)
ENDS_OF_CALLS = ("<|eom_id|>",)  # in place of the end token, after a call of a tool
ASK, _SYSTEM = Turn("user", (("content", "?"),)), Turn("system", (("content", "?"),))
ANSWER = Turn("assistant", (("content", "!"),))


class LeftOut(UserError):
    """A message says what the format does not write."""


class Written:
    """A chat as written, without marks, and the places of its messages and generation tags."""

    def __init__(
        self, write: Write, turns: Sequence[Turn], prompt: bool, tools: Sequence[Mapping] = ()
    ):
        """Writes `turns`, and the header of a next answer where `prompt` is true.

        UserError if the text depends on what messages say, so that the places are not certain.
        """
        plain = [turn.message() for turn in turns]
        self.text, _, self.generated = unmarked(write(plain, prompt, tools))
        for after_spaces in (True, False):
            kinds: list[tuple[int, str]] = []
            around = functools.partial(marker, kinds, after_spaces=after_spaces)
            marked = [turn.message(around(number)) for number, turn in enumerate(turns)]
            named = [renamed(tool, around(-1), "tool") for tool in tools]
            text, places, generated = unmarked(write(marked, prompt, named))
            if (text, generated) == (self.text, self.generated):
                # (message, kind, places) of each text of a message
                self._texts = [(*kind, places.get(mark, [])) for mark, kind in enumerate(kinds)]
                return
        at = len(os.path.commonprefix([text, self.text]))
        raise UserError(
            f"what the chat format writes depends on what a message says, near "
            f"{self.text[max(0, at - 20) : at + 20]!r}: which tokens are the assistant's is not "
            f"certain; use a built-in chat_format instead"
        )

    def places(self, message: int, kind: str = "") -> list[tuple[int, int]]:
        """(start, stop) of the texts of a message; all of them, or of a kind."""
        texts = (text for text in self._texts if text[0] == message and kind in ("", text[1]))
        return sorted(place for _, _, places in texts for place in places)

    def own(self, message: int) -> list[tuple[int, int]]:
        """The same without names, which belong to the header."""
        kinds = ("thought", "content", "call")
        return [place for kind in kinds for place in self.places(message, kind)]

    def missing(self, message: int) -> set[str]:
        """Kinds of which at least one text of a message is not written."""
        return {kind for number, kind, places in self._texts if number == message and not places}

    def last(self) -> int:
        """Where the last message that is written ends."""
        return max((stop for _, _, places in self._texts for _, stop in places), default=0)

    def around(self, message: int) -> tuple[int, int, int, int]:
        """(end of what is before, start, stop, start of what is after) of a message.

        UserError if it is not written, or another message is within it.
        """
        own = self.own(message)
        if not own:
            raise LeftOut("the chat format writes nothing of a message")
        start, stop = min(own)[0], max(stop for _, stop in own)
        others = [p for number, _, places in self._texts if number != message for p in places]
        if any(a < stop and b > start for a, b in others):
            raise UserError("the chat format writes another message within it")
        before = max((b for _, b in others if b <= start), default=0)
        return before, start, stop, min((a for a, _ in others if a >= stop), default=len(self.text))


@dataclasses.dataclass(frozen=True)
class Header:
    """What is written before every answer; "" where that is the end of the turn before."""

    text: str
    asked: bool  # a generation prompt writes it


def find_header(write: Write) -> Header:
    """The header by rule 1 or 2; with an empty text where rule 3 is needed. UserError if the format
    refuses a question with an answer."""
    for head in ([ASK], [_SYSTEM, ASK]):
        try:
            wanted, plain = (Written(write, head, prompt) for prompt in (True, False))
            answered = Written(write, [*head, ANSWER], False)
        except UserError as error:
            refusal = error
            continue
        last = len(head) - 1
        tails = [found.text[found.around(last)[2] :] for found in (wanted, plain)]
        added = tails[0][len(os.path.commonprefix(tails)) :]
        if added.strip():
            return Header(added, True)
        before, start, _, _ = answered.around(last + 1)
        own = answered.text[before:start].removeprefix(tails[0]).rstrip(" ").lstrip()
        return Header(own, not own)
    raise refusal


def find_ends(write: Write, find: Callable[[str], str | None], eos: str | None) -> tuple[str, ...]:
    """The control tokens that a format writes after a last answer, and after earlier ones.

    `find` gives the first control token in a text. `eos` is the checkpoint's own end token, which a
    template may write between turns only. UserError if there is none.
    """
    last = find(_answered(write, [ASK, ANSWER]))
    try:
        between = find(_answered(write, [ASK, ANSWER, ASK]))
        asked = Written(write, [ASK], False)
        if between and between in asked.text[: asked.around(0)[1]] and between != last:
            between = None  # the beginning of the next question
    except UserError:
        between = None
    if not last and between != eos:
        between = None
    if found := tuple(dict.fromkeys(end for end in (last, between) if end)):
        return found
    raise UserError(
        "writes no control token after an answer, so that its end can be neither learned nor "
        "sampled; a built-in chat_format can be used instead"
    )


def _answered(write: Write, turns: list[Turn]) -> str:
    """What is written after the answer of a chat, before any further message."""
    written = Written(write, turns, False)
    _, _, stop, after = written.around(1)
    return written.text[stop:after]


def assistant_spans(
    format: Any,
    turns: Sequence[Turn],
    prompt: bool = False,
    tools: Sequence = (),
    notes: collections.Counter | None = None,
) -> tuple[str, list[tuple[int, int]]]:
    """A written chat, and (start, stop) of its characters with loss.

    Args:
      format: a `ChatFormat`.
      prompt: whether the header for a next answer follows.
      notes: counts `DROPPED` thoughts and `UNTAGGED` answers.

    Raises:
      UserError: the format refuses the chat, or leaves out what a message says; or which
        characters are the assistant's is not certain.
    """
    written = Written(format.write, turns, prompt, tools)
    if tools and written.missing(-1):
        raise UserError("the chat format writes nothing of 'tools': take them out of the data")
    spans = []
    for number, turn in enumerate(turns):
        with located(f"message {number}"):
            _check_written(format, written, number, turn, notes)
            if turn.role == "assistant" and turn.has_loss and not format.is_tagged:
                start = _start(format, written, turns, number, tools)
                stop = _stop(format, written, number, turn)
                if written.text.count("</think>", start, stop) > 1:
                    raise LeftOut(
                        "the chat format writes a block of thoughts before those in its content: "
                        "give them as 'reasoning_content'"
                    )
                spans.append((start, stop))
    if format.is_tagged:
        spans = _tagged(written, turns)
        if notes is not None and (count := _untagged(format, written, turns, spans)):
            notes[UNTAGGED] += count
    return written.text, spans


def _check_written(
    format: Any, written: Written, number: int, turn: Turn, notes: collections.Counter | None
) -> None:
    missing = written.missing(number)
    if "thought" in missing and (not turn.thought or format.writes_thoughts):
        missing.discard("thought")
        if notes is not None:
            notes[DROPPED] += 1
    keys = {"thought": "reasoning_content", "call": "tool_calls"}
    if missing:
        key = keys.get(min(missing), min(missing))
        raise LeftOut(
            f"the chat format writes nothing of its {key!r}: choose another chat_format, or write "
            f"what it says into a content that the format does write"
        )


def _start(
    format: Any, written: Written, turns: Sequence[Turn], number: int, tools: Sequence[Mapping]
) -> int:
    """Where an answer begins: where its header ends."""
    before, first, _, _ = written.around(number)
    gap = written.text[before:first]
    own = format.header.text
    for header in (own, own.partition("<think>")[0]):
        if header.strip() and gap.count(header) == 1:
            return before + gap.index(header) + len(header)
    asked = Written(format.write, turns[:number], True, tools)
    tail = asked.text[asked.last() :]
    shared = len(os.path.commonprefix([gap, tail]))
    rest = "".join(gap[shared:].split())
    is_call = turns[number].calls and shared == len(tail) and not own
    if is_call or rest in ("", "<think>", "<think></think>"):
        return before + shared
    if written.places(number, "content") or written.places(number, "thought"):
        return before + _OWN_WORDS.search(gap).start()  # type: ignore[union-attr]
    raise UserError(
        "the end of this call's header is not certain: the chat format writes "
        f"{gap!r} before it, and {own!r} where an answer is asked for; give it a content, or use "
        "another chat_format"
    )


def _stop(format: Any, written: Written, number: int, turn: Turn) -> int:
    """Where an answer ends: after its end token."""
    _, _, stop, after = written.around(number)
    tail = written.text[stop:after]
    ends = (format.end, *format.other_ends, *(ENDS_OF_CALLS if turn.calls else ()))
    found = [(tail.find(end), len(end)) for end in ends if end in tail]
    if found:
        return stop + sum(min(found))
    if not turn.calls:
        return stop  # some templates end only the last answer, or all but that
    raise UserError(f"the chat format writes no {format.end!r} after it")


def _tagged(written: Written, turns: Sequence[Turn]) -> list[tuple[int, int]]:
    """What a template's own tags mark, without answers that carry no loss."""
    spans = []
    for start, stop in written.generated:
        inside = [
            turn
            for number, turn in enumerate(turns)
            if any(a < stop and b > start for a, b in written.places(number))
            or (turn.role == "assistant" and start <= written.around(number)[1] <= stop)
        ]
        if any(turn.role != "assistant" for turn in inside):
            raise UserError("the template's {% generation %} tags hold what no assistant said")
        if len({turn.has_loss for turn in inside}) > 1:
            raise UserError(
                "a {% generation %} tag of the template holds an answer with loss and one without"
            )
        if all(turn.has_loss for turn in inside):
            spans.append((start, stop))
    return spans


def _untagged(
    format: Any, written: Written, turns: Sequence[Turn], spans: Sequence[tuple[int, int]]
) -> int:
    """Answers with loss of which some text, or the end token, is in no span."""
    count = 0
    for number, turn in enumerate(turns):
        if turn.role == "assistant" and turn.has_loss:
            texts, end = written.own(number), written.around(number)[2]
            with contextlib.suppress(UserError):  # no end token is written after a call
                texts.append((end, _stop(format, written, number, turn)))
            count += not all(any(a <= b and c <= d for a, d in spans) for b, c in texts)
    return count
