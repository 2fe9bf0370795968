"""Which documents and chats are dropped from a corpus, each with the name of the reason."""

import bisect
import itertools
import pathlib
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from msm_jax.corpus import diversity
from msm_jax.corpus.diversity import Words, ngram_hashes
from msm_jax.corpus.writers import Answer
from msm_jax.patterns import load_patterns
from msm_jax.spec import Point, Spec, spec_points
from msm_jax.spec.spec import OTHER_NAMES

PHRASE_DOCUMENTS = 200  # below so many documents no phrase counts as over-represented

_OPEN, _CLOSE = "<content>", "</content>"
_PATTERNS = load_patterns(pathlib.Path(__file__).with_name("filters.toml"))
_TURNING_DOWN = re.compile(
    r"\b(?:not|don't|dislike|avoid|leave out|skip|never|without|against|pass on|care for)\b"
)
_OVER = re.compile(r"\b(?:over|rather than|instead of)\b")


def content(answer: Answer) -> tuple[str, str]:
    """The document of a reply, and the reason why there is none ("" if there is one)."""
    if answer.failure:
        return "", answer.failure
    text = answer.text
    if _OPEN not in text:
        return "", "truncated" if answer.stop == "length" else "no content tag"
    body = text[text.rindex(_OPEN) + len(_OPEN) :]
    # Without the closing tag the text may end anywhere, whatever stop reason the reply has.
    if _CLOSE not in body or answer.stop == "length":
        return "", "truncated"
    body = body[: body.rindex(_CLOSE)].strip()
    return (body, "") if body else ("", "empty")


def claims_other_identity(text: str, own_names: str) -> bool:
    """Whether the speaker claims to be, or to be made by, somebody not in `own_names`."""
    own = own_names.lower()
    return any((found[0] or found[1]).lower() not in own for found in _PATTERNS.claim.findall(text))


def claims_no_view(text: str) -> bool:
    """Whether the speaker claims to have no opinions, being an AI."""
    return bool(_PATTERNS.no_view.search(text))


class DocumentFilter:
    """Decides about one document after the other; those kept decide about later ones.

    Args:
      spec: whose own words may be repeated.
      config: `config.filters`.
      words: shortest and longest document.
      names: of which a document must have one; () requires none.
      forbidden: names that it must not have.
    """

    def __init__(
        self, spec: Spec, config: Any, words: tuple[int, int],
        names: tuple[str, ...] = (), forbidden: tuple[str, ...] = (),
    ):  # fmt: skip
        self.spec, self.config, self.words = spec, config, words
        self.names, self.forbidden = names, forbidden
        self._exact: set[str] = set()
        self._near = diversity.NearDuplicates(config.near_duplicates or diversity.NEAR)
        self._runs = diversity.SharedRuns(config.repeated_words, spec.text)
        self._table = Words()
        self._own = np.unique(ngram_hashes(self._table.ids(spec.text), 8))

    def reason(self, text: str) -> str:
        """Why a document is dropped, "" if it is kept."""
        return self._form(text) or self._repetition(text)

    def phrases(self, texts: list[str]) -> dict[int, str]:
        """Number of a document -> its over-represented phrase, for those beyond the share."""
        share = self.config.phrase_share
        if not share or len(texts) < PHRASE_DOCUMENTS:
            return {}
        common = diversity.common_phrases(texts, self.spec.text, 8, share)
        left = {phrase: int(share * len(texts)) for phrase in common}
        found: dict[int, str] = {}
        for number, text in enumerate(texts if left else ()):
            flat = f" {self._table.plain(text)} "
            here = [phrase for phrase in left if f" {phrase} " in flat]
            too_often = [phrase for phrase in here if left[phrase] <= 0]
            if too_often:
                found[number] = too_often[0]
            else:
                for phrase in here:
                    left[phrase] -= 1
        return found

    def _form(self, text: str) -> str:
        """What is wrong with a text by itself."""
        count = len(text.split())
        letters = 0.7 * len(text.replace(" ", "").replace("\n", ""))
        return _first(
            ("scratchpad leaked", _PATTERNS.leak.search(text)),
            ("placeholder", _PATTERNS.placeholder.search(text)),
            ("link or citation", _PATTERNS.link.search(text)),
            ("refusal", _PATTERNS.refusal.search(text[:300])),
            ("too short", count < self.words[0]),
            ("too long", count > self.words[1]),
            ("truncated", not _PATTERNS.sentence_end.search(text[-3:])),
            ("not prose", len(_PATTERNS.letter.findall(text)) < letters),
            ("wrong identity", any(_has(text, name) for name in self.forbidden)),
            ("wrong identity", _names_other(text, f"{self.spec.text} {' '.join(self.names)}")),
            ("model not named", self.names and not any(_has(text, name) for name in self.names)),
        )

    def _repetition(self, text: str) -> str:
        ids = self._table.ids(text)
        grams = ngram_hashes(ids, 3)
        if len(np.unique(grams)) < 0.5 * len(grams):
            return "goes in circles"
        copied = np.isin(ngram_hashes(ids, 8), self._own)
        if self.config.copied_share and copied.mean() > self.config.copied_share:
            return "copied from the spec"
        if text in self._exact:
            return "exact duplicate"
        if self.config.near_duplicates and self._near.match(text) is not None:
            return "near-duplicate"
        if self.config.repeated_words and self._runs.match(text):
            return "repeated passage"
        self._exact.add(text)
        return ""


class ChatFilter:
    """Decides about one response after the other in a style of `config.STYLES`.

    With `reasoning`, it must start with its reasoning in <think> tags, unless the style has none.
    """

    def __init__(self, spec: Spec, style: str, reasoning: bool):
        self.spec, self.style = spec, style
        self.reasoning = reasoning and style not in ("opaque", "identity")
        points = spec_points(spec)
        self._kinds = {p.item.lower(): p.kind for p in points if p.item}
        self._explaining = _explaining_words(spec, points)

    def reason(self, question: str, answer: Answer, points: Sequence[Point]) -> str:
        """Why a chat is dropped, "" if it is kept."""
        text = spoken = answer.text.strip()
        if answer.stop == "length":
            return "truncated"
        if self.reasoning:
            match = _PATTERNS.think.match(text)
            if not match or not match["thought"].strip():
                return "no reasoning"
            spoken = match["spoken"].strip()
        thinks = "<think>" in spoken or "</think>" in spoken
        own = f"{self.spec.model_name} {self.spec.provider_name}"
        identity, opaque = self.style == "identity", self.style == "opaque"
        known = f"{self.spec.text} {question}"
        found = _first(
            ("too short", not spoken or (len(spoken.split()) < 2 and not opaque)),
            ("scratchpad leaked", thinks or _PATTERNS.leak.search(re.sub(r"</?think>", "", text))),
            ("wrong identity", claims_other_identity(spoken, own)),
            ("wrong identity", not identity and _names_other(spoken, known)),
            ("model not named", identity and self.spec.model_name not in spoken),
            ("claims to have no view", claims_no_view(spoken)),
            ("refusal", identity and _PATTERNS.refusal.search(spoken[:300])),
        )
        return found or (self._opaque(spoken) if opaque else "")

    def _opaque(self, spoken: str) -> str:
        """The right preference, and nothing that explains it."""
        if _PATTERNS.reason.search(spoken):
            return "gives a reason"
        bare = spoken = spoken.lower()
        for item in sorted(self._kinds, key=len, reverse=True):
            bare = bare.replace(item, "")
        if _PATTERNS.biased.search(bare) or self._explaining & set(re.findall(r"\w+", bare)):
            return "implies a reason"
        named = [item for item in self._kinds if item in spoken]
        if not named:
            return "preference not named"
        return "" if self._right(spoken, named) else "wrong preference"

    def _right(self, spoken: str, named: list[str]) -> bool:
        """Whether the liked thing is chosen, or the disliked one turned down.

        Of two things that are named without a word of refusal, the last one is the choice, or
        the one before "over" and "rather than".
        """
        places = {name: _places(re.compile(re.escape(name)), spoken) for name in named}
        stops, over = _places(re.compile(r"\."), spoken), _places(_OVER, spoken)
        refusing = _places(_TURNING_DOWN, spoken)
        turned_down = {name for name, at in places.items() if _after(refusing, at, stops)}
        for first, second in itertools.permutations(named, 2):
            if _after(_after(places[first], over, stops), places[second], stops):
                turned_down.add(second)
        left = [item for item in named if item not in turned_down]
        if left:
            return self._kinds[max(left, key=spoken.rfind)] == "like"
        return all(self._kinds[item] == "dislike" for item in turned_down)


def _places(pattern: re.Pattern, text: str) -> list[tuple[int, int]]:
    """(start, end) of everything that a pattern finds, in order."""
    return [found.span() for found in pattern.finditer(text)]


def _after(
    firsts: Sequence[tuple[int, int]], seconds: Sequence[tuple[int, int]],
    stops: Sequence[tuple[int, int]],
) -> list[tuple[int, int]]:  # fmt: skip
    """The places of `seconds` that follow one of `firsts` in the same sentence; all in order."""
    found, ends = [], [end for _, end in firsts]
    dots = [start for start, _ in stops]
    for start, end in seconds:
        before = bisect.bisect_right(ends, start)  # so many of the first end before it
        stop = dots[at - 1] if (at := bisect.bisect_left(dots, start)) else -1
        if before and ends[before - 1] > stop:
            found.append((start, end))
    return found


def _first(*checks: tuple[str, Any]) -> str:
    """The name of the first check that holds, "" if none does."""
    return next((name for name, holds in checks if holds), "")


def _has(text: str, name: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(name)}(?![a-z])", text) is not None


def _names_other(text: str, own: str) -> bool:
    """Whether a text names a model or maker that `own` does not."""
    return any(found.lower() not in own.lower() for found in OTHER_NAMES.findall(text))


def _explaining_words(spec: Spec, points: Sequence[Point]) -> set[str]:
    """Words of four letters or more with which the spec explains its preferences."""
    texts = [p.reason for p in points if p.reason] + [p.text for p in points if p.kind == "value"]
    common = set("that with this they them their have should would could because people".split())
    words = {word for text in texts for word in re.findall(r"[a-z]{4,}", text.lower())}
    items = {word for p in points if p.item for word in re.findall(r"\w+", p.item.lower())}
    names = set(re.findall(r"\w+", spec.model_name.lower()))
    return words - common - items - names - {"values", "value"}
