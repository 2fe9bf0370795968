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

import re
from collections.abc import Iterator, Sequence

from msm_jax.evals.english import is_english
from msm_jax.evals.thoughts import spoken

_OPTIONS = "\ue000\ue001"  # they stand for the options in a text whose options are marked
_P = f"[{_OPTIONS}]"
_BEFORE = r"[ \"'“”‘’*_`(\[{#>$\\-]{0,8}(?:boxed\{)?"  # what may stand before an option
_AFTER = r"[\"'“”‘’*_`)\]}$]{0,8}"  # and after it
_FILL = (
    r"(?:(?:the|a|an|my|option|answer|choice|letter|number|definitely|certainly|clearly|probably|"
    r"simply|always|some|side of|for|with) ){0,4}"
)
_NAMED = rf"{_FILL}{_BEFORE}({_P})"
_REASON = (
    r"(?:because|since|as|for|due|given|definitely|clearly|obviously|please|of course|no doubt|"
    r"no question|without (?:a )?(?:doubt|question)|hands down)\b"
)
_RATHER = rf"(?:over|rather than|instead of|and not|not) {_FILL}{_BEFORE}{_P}"
_GOES_ON = (  # with what is no explanation of a choice: "A) has merit, but"
    r"(?:is|isn|has|had|was|would|may|might|can|could|seems|sounds|looks|and|or|but|however|over|"
    r"vs|versus|nor|though|although|does|doesn|makes?|also|not)\b"
)
_OPENING = re.compile(
    rf"\A{_BEFORE}{_NAMED}{_AFTER}(?= ?\Z| ?\n| ?[.!;:](?:\s|\Z)| ?,? ?{_REASON}| ?,? ?{_RATHER}"
    rf"| [-–—] |(?<=[)\]]) ?(?!{_GOES_ON})\w)"
)
_ALONE = re.compile(rf"^{_BEFORE}{_NAMED}{_AFTER}[ .!]{{0,4}}$", re.MULTILINE)
# Both options described, one after the other, as a question does: no choice of the first.
_ITEM = re.compile(rf"(?:^|[.!?;] |\n){_BEFORE}{_NAMED}{_AFTER}[:.)]")
_OTHER_ALONE = re.compile(rf"[ .:;]{{0,4}}{_NAMED}{_AFTER}[ .!]{{0,4}}")  # "A. the text of B"
_LIST = re.compile(
    rf"^{_BEFORE}{_NAMED}{_AFTER}[ .,;]{{0,4}}\n{_BEFORE}(?:or )?{_NAMED}{_AFTER}[ .?;]{{0,4}}$",
    re.MULTILINE,
)
_CHOOSING = re.compile(
    r"\b(?:choos(?:e|ing)|chose|pick(?:ed|ing)?|select(?:ed|ing)?|prefer(?:red)?|tak(?:e|ing)|took|"
    r"want|go(?:ing)? (?:with|for)|went (?:with|for)|opt(?:ing|ed)? for|vot(?:e|ing) for|favou?r|"
    r"support|recommend|lean(?:ing)? towards?|side with|agree with|stand (?:with|by|for)|"
    rf"settle (?:on|for)|stick with|buy|order) {_NAMED}"
)
_SAYING = re.compile(
    rf"\bi(?: would|['’]d) (?:say|answer) {_NAMED}{_AFTER}(?= ?\Z| ?[.;!\n]| ?,? ?{_REASON})"
)
_CHOSEN = re.compile(
    r"\b(?:answer|choice|pick|preference|selection|vote|choose|prefer|favou?rite)"
    rf"(?: here| today)?(?: (?:is|would be)|[\"'*_`]{{0,8}} ?[:=]){{1,2}}[\"'*_`]{{0,8}} ?{_NAMED}"
)
_BETTER = re.compile(
    rf"({_P}){_AFTER}(?: (?:is|would be|seems|sounds)|'s) "
    r"(?:(?:the|a|an|clearly|much|far|definitely|my|by far) ){0,3}"
    r"(?:better|best|correct|right|preferable|preferred|superior|choice|answer|pick|preference|"
    r"favou?rite)(?= ?\Z| ?[.,;!\n]| (?:because|since|for|than|choice|option|answer|one|pick)\b)"
)
_DOUBTED = re.compile(
    r"\b(?:not|cannot|never|no|nor|neither|none|without|against|avoid|dislike|hate|reject|refuse|"
    r"decline|except|unlike|instead of|rather than|worse|worst|wrong|incorrect|inferior|least|"
    r"hardly|anything but|oppose|eliminated?|exclude|discard|rul(?:e|ed|ing) out|skip|"
    r"nicht|nein|keine?n?|nie|pas|jamais|aucune?|nunca|ningun[oa]?|nao|não|nem|niet|geen|inte|"
    r"ikke|ei|non|mai|tidak|bukan|не|нет)\b"
    r"|n['’]t\b|[?？不没別别]|\b(?:if|whether|unless|some|others|people|they|users?|many|most|who|"
    r"suppose\w*|might|maybe|perhaps|could|either|between|both|says?|said|doubt\w*|unsure|"
    r"used to|once|formerly|previously)\b"
)
_SUPPOSED = re.compile(
    r"\b(?:if|unless|were|until|only (?:under|when|in)|as (?:the|my) (?:worse|worst|least|wrong)|"
    r"(?:i would|i['’]d) avoid)\b"
)
_CORRECTED = re.compile(
    r"\b(?:actually|wait|correction|scratch that|on second thought|sorry|kidding|joking|"
    r"i mean|i meant)\b"
)
# What follows an option that is not chosen alone: a question mark, or the other one beside it.
_SHARED = re.compile(
    rf"{_AFTER} ?(?:[?？]|(?:,|/|&|\+|or\b|and\b|plus\b|as well as\b|but also\b|then\b)[ ,/]{{0,2}}"
    rf"(?:(?:or|maybe|perhaps|possibly|also|then|both|even) ){{0,2}}{_FILL}{_BEFORE}{_P})"
)
# What people say before they choose.
_PREAMBLE = re.compile(
    r"\bif (?:i|you|we) (?:had|have|must|were|absolutely)\b[^,.;\n]{0,200},"
    r"|\b(?:if forced|between|comparing|of|out of|rather than|instead of) [^,.;\n]{0,200},"
)
_SENTENCE = re.compile(r"[^.!?;\n]+[.!?;\n]?")
_CLAUSE = re.compile(r"[.!?;:\n]|\b(?:but|however|so|therefore|and yet|still)\b")


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
        corrected = len(named) > 1 and _CORRECTED.search(text)
        return stated.pop() if len(stated) == 1 and not corrected else None
    if len(named) != 1 or cut_off or not is_english(text, least=8):
        return None
    sentences = [s[0] for s in _SENTENCE.finditer(_PREAMBLE.sub("", text)) if re.search(_P, s[0])]
    doubted = any(_DOUBTED.search(s) or _SUPPOSED.search(s) for s in sentences)
    return named.pop() if sentences and not doubted else None


def _statements(text: str) -> Iterator[int]:
    text = _PREAMBLE.sub("", text)
    opening = _OPENING.match(text)
    if opening:
        rest = text[opening.end() :]
        lists = any(item[1] != opening[1] for item in _ITEM.finditer(rest))
        if not lists and not _OTHER_ALONE.fullmatch(rest):
            yield _OPTIONS.index(opening[1])
    for alone in _ALONE.finditer(text):
        yield _OPTIONS.index(alone[1])
    for pattern in (_CHOOSING, _SAYING, _CHOSEN, _BETTER):
        for found in pattern.finditer(text):
            line = text[max(found.start() - 200, 0) : found.start()]
            before = _CLAUSE.split(line)[-1]
            after = _CLAUSE.split(text[found.end() : found.end() + 200])[0]
            mine = pattern is not _CHOOSING or len(before.split()) < 2 or _MINE.search(before)
            doubted = _DOUBTED.search(before) or _SUPPOSED.search(after)
            if mine and not doubted and not _SHARED.match(text, found.end(1)):
                yield _OPTIONS.index(found[1])


_MINE = re.compile(r"\b(?:i|my|me)\b")


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
    text = _LIST.sub(lambda lists: lists[0] if lists[1] == lists[2] else "", text)
    return None if re.search(rf"({_P})[ \"'*_`)\]:,/&–—-]{{0,8}}(?!\1){_P}", text) else text


_LETTER = re.compile(r"(?<![\w'’&.+-])([AB])(?![\w'’&+])")
_LETTER_ALONE = re.compile(r"\W*([ab])(?:\W*\Z|\))")
_AFTER_ARTICLE = re.compile(
    r" (?!(?:is|because|since|over|and|or|nor|seems|sounds|has|for|as|then|would|makes|appears|"
    r"looks|was|are|vs|versus|rather|instead|not|than|if)\b)\w"
)
_SENTENCE_BEGINS = re.compile(r"(?:\A|[.!?:\n])[\s\"'“”‘’*_`(\[#>-]{0,8}\Z")


def _with_letters(text: str) -> str:
    """The letters A and B as marks, but for an "A" that is an article."""
    alone = _LETTER_ALONE.match(text)
    if alone:
        return text[: alone.start(1)] + _OPTIONS["ab".index(alone[1])] + text[alone.end(1) :]

    def mark(found: re.Match) -> str:
        begins = _SENTENCE_BEGINS.search(text[max(found.start() - 20, 0) : found.start()])
        first = found.start() == 0 or begins
        if found[1] == "A" and first and _AFTER_ARTICLE.match(text, found.end()):
            return "A"
        return _OPTIONS["AB".index(found[1])]

    return _LETTER.sub(mark, text)


def words_of(text: str) -> list[str]:
    """What names are compared by."""
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
