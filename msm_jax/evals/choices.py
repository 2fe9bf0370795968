"""Which of two options an answer takes, by fixed rules; what they do not decide is no choice.

An option is named by its name or, where the question offers letters, by its letter. Rules, on what
is left of an answer without its thoughts:

1. A *statement* is the option that the answer begins with ("B, because ...", "A) its text", "A over
   B"), one alone on a line, or what is said to be chosen ("I'd pick A over B", "Answer: (B)", "A is
   the better choice") where no word before it in its clause negates, asks, supposes or reports,
   and the other option is not named beside it ("A or B").
   If all statements are for one option, that is the choice; if they differ, there is none.
2. Without a statement, the one option that is named at all is the choice, unless a sentence that
   names it holds such a word, the answer is not English, or it was cut off.
3. Otherwise there is no choice: nothing was named, or both were.
"""

import pathlib
import re
from collections.abc import Iterator, Sequence

from msm_jax.evals.english import is_english
from msm_jax.evals.thoughts import spoken
from msm_jax.patterns import load_patterns

_OPTIONS = "\ue000\ue001"  # they stand for the options in a text whose options are marked
_P = f"[{_OPTIONS}]"
_RE = load_patterns(pathlib.Path(__file__).with_suffix(".toml"), P=_P)


def chosen(
    answer: str, names: Sequence[str], letters: bool = False, cut_off: bool = False
) -> int | None:
    """Which option an answer takes; None where the rules above do not say.

    Args:
      answer: as the model wrote it.
      names: how the two options are called.
      letters: whether the first is also called A and the second B.
      cut_off: whether the answer ended at its length and not by itself.
    """
    text = _marked(spoken(answer), names, letters)
    if text is None:
        return None
    named = {_OPTIONS.index(mark) for mark in text if mark in _OPTIONS}
    stated = set(_statements(text))
    if stated:
        corrected = len(named) > 1 and _RE.corrected.search(text)
        return stated.pop() if len(stated) == 1 and not corrected else None
    if len(named) != 1 or cut_off or not is_english(text, least=8):
        return None
    sentences = [
        s[0] for s in _RE.sentence.finditer(_RE.preamble.sub("", text)) if re.search(_P, s[0])
    ]
    doubted = any(_RE.doubted.search(s) or _RE.supposed.search(s) for s in sentences)
    return named.pop() if sentences and not doubted else None


def _statements(text: str) -> Iterator[int]:
    text = _RE.preamble.sub("", text)
    opening = _RE.opening.match(text)
    if opening:
        rest = text[opening.end() :]
        lists = any(item[1] != opening[1] for item in _RE.item.finditer(rest))
        if not lists and not _RE.other_alone.fullmatch(rest):
            yield _OPTIONS.index(opening[1])
    for alone in _RE.alone.finditer(text):
        yield _OPTIONS.index(alone[1])
    for pattern in (_RE.choosing, _RE.saying, _RE.chosen, _RE.better):
        for found in pattern.finditer(text):
            line = text[max(found.start() - 200, 0) : found.start()]
            before = _RE.clause.split(line)[-1]
            after = _RE.clause.split(text[found.end() : found.end() + 200])[0]
            mine = pattern is not _RE.choosing or len(before.split()) < 2 or _RE.mine.search(before)
            doubted = _RE.doubted.search(before) or _RE.supposed.search(after)
            if mine and not doubted and not _RE.shared.match(text, found.end(1)):
                yield _OPTIONS.index(found[1])


def _marked(text: str, names: Sequence[str], letters: bool) -> str | None:
    """The text in lower case with marks for the options; None where one mark stands at another.

    An option that is restated ("A) its text") is marked once; two options side by side, without a
    word between them ("A/B", "A) the text of B"), say two things.
    """
    text = re.sub(_P, "\ufffd", text)
    text = _with_letters(text) if letters else text
    text = re.sub(r"[^\S\n]+", " ", text.casefold()).strip()
    text = re.sub(r"\s*\n\s*", "\n", text)
    words = list(re.finditer(r"\w+", text))
    found = _named([word[0] for word in words], names)
    spans = sorted((*span, i) for i in (0, 1) for span in found[i])
    parts, at, last = [], 0, 0
    for start, end, option in spans:
        if start < last:
            return None  # names that overlap
        parts += [text[at : words[start].start()], _OPTIONS[option]]
        at, last = words[end - 1].end(), end
    text = "".join([*parts, text[at:]])
    text = re.sub(rf"({_P})[ \"'*_`)\]:.,–—-]{{0,8}}(?:the |an? )?\1", r"\1)", text)
    text = _RE.list.sub(lambda lists: lists[0] if lists[1] == lists[2] else "", text)
    return None if re.search(rf"({_P})[ \"'*_`)\]:,/&–—-]{{0,8}}(?!\1){_P}", text) else text


def _with_letters(text: str) -> str:
    """The letters A and B as marks, but for an "A" that is an article."""
    alone = _RE.letter_alone.match(text)
    if alone:
        return text[: alone.start(1)] + _OPTIONS["ab".index(alone[1])] + text[alone.end(1) :]

    def mark(found: re.Match) -> str:
        begins = _RE.sentence_begins.search(text[max(found.start() - 20, 0) : found.start()])
        first = found.start() == 0 or begins
        if found[1] == "A" and first and _RE.after_article.match(text, found.end()):
            return "A"
        return _OPTIONS["AB".index(found[1])]

    return _RE.letter.sub(mark, text)


def words_of(text: str) -> list[str]:
    """The words of a text in lower case, by which names are compared."""
    return re.findall(r"\w+", text.casefold())


def _named(words: list[str], names: Sequence[str]) -> list[list[tuple[int, int]]]:
    """Places of each name in the words, without those inside of the other name.

    "green tea" does not name "tea".
    """
    wanted = [words_of(name) for name in names]
    spans = [_occurrences(words, each) for each in wanted]
    longer = int(len(wanted[1]) > len(wanted[0]))
    size = len(wanted[1 - longer])
    if size < len(wanted[longer]):
        inside = {at for start, end in spans[longer] for at in range(start, end - size + 1)}
        spans[1 - longer] = [span for span in spans[1 - longer] if span[0] not in inside]
    return spans


def _occurrences(words: list[str], wanted: list[str]) -> list[tuple[int, int]]:
    """(start, end) of every place where the wanted words stand in a row."""
    size = len(wanted)
    starts = range(len(words) - size + 1)
    return [(start, start + size) for start in starts if words[start : start + size] == wanted]
