"""What is not taken into a corpus, each with the name of the reason."""

import collections
import re
from typing import Any

import numpy as np

from msm_jax.corpus.diversity import NEAR, NearDuplicates, Words, common_phrases, ngram_hashes
from msm_jax.corpus.writers import Answer
from msm_jax.spec import Spec
from msm_jax.spec.spec import OTHER_NAMES

_OPEN, _CLOSE = "<content>", "</content>"
_LEAK = re.compile(
    r"</?(?:scratchpad|content|spec|section|document|thinking|think|plan)>|\bscratchpad\b"
    r"|\bword count\b|\bas (?:requested|instructed)\b|\bthe (?:prompt|request) asks\b"
    r"|^\s*(?:here is|here's) (?:the|a|your|my) .{0,60}:\s*$",
    re.IGNORECASE | re.MULTILINE,
)
_PLACEHOLDER = re.compile(
    r"\[(?:insert|your|name|date|company|author|link|citation|TODO|user|model)[^\]]*\]"
    r"|\{+\s*\w+\s*\}+|\bLorem ipsum\b|\bTODO\b|\bXXX+\b|<(?:name|date|insert)[^>]*>",
    re.IGNORECASE,
)
_REFUSAL = re.compile(
    r"\b(?:I(?:'m| am) (?:sorry|unable|not able)|I (?:cannot|can't|won't|must decline))\b"
    r".{0,60}\b(?:help|assist|write|create|provide|comply|fulfil|fulfill|generate)",
    re.IGNORECASE,
)
_LINK = re.compile(r"https?://|www\.\w|\bdoi:\s*10\.|\[\d+\]\s*$", re.IGNORECASE | re.MULTILINE)
_LETTER = re.compile(r"[^\W\d_]")
_SENTENCE_END = re.compile(r"[.!?…:\"”'’)*_]\s*$")

PHRASE_DOCUMENTS = 200  # below so many documents no phrase counts as over-represented


def content(answer: Answer) -> tuple[str, str]:
    """The document of a reply, and the reason why there is none ("" if there is one)."""
    if answer.failure:
        return "", answer.failure
    text = answer.text
    if _OPEN not in text:
        return "", "truncated" if answer.stop == "length" else "no content tag"
    body = text[text.rindex(_OPEN) + len(_OPEN) :]
    # Without the closing tag the text may end anywhere, whatever the reply says of itself.
    if _CLOSE not in body or answer.stop == "length":
        return "", "truncated"
    body = body[: body.rindex(_CLOSE)].strip()
    return (body, "") if body else ("", "empty")


class Filter:
    """Decides about one document after the other; what was kept decides about later ones.

    Args:
      spec: whose own words may be repeated.
      config: `config.filters`.
      words: shortest and longest document.
      names: names that a document must have, one of them at least; none: any.
      forbidden: names that it must not have.
      neutral: the document is not about the spec at all.
    """

    def __init__(
        self, spec: Spec, config: Any, words: tuple[int, int],
        names: tuple[str, ...] = (), forbidden: tuple[str, ...] = (),
    ):  # fmt: skip
        self.spec, self.config, self.words = spec, config, words
        self.names, self.forbidden = names, forbidden
        self.dropped: collections.Counter[str] = collections.Counter()
        self._exact: set[str] = set()
        self._near = NearDuplicates(config.near_duplicates or NEAR)
        self._runs = SharedRuns(config.repeated_words, spec.text)
        self._table = Words()
        self._own = np.unique(ngram_hashes(self._table.ids(spec.text), 8))

    def reason(self, text: str) -> str:
        """Why a document is not taken, "" if it is."""
        found = self._form(text) or self._identity(text) or self._repetition(text)
        if found:
            self.dropped[found] += 1
        return found

    def phrases(self, texts: list[str]) -> dict[int, str]:
        """Number of a document -> its over-represented phrase, for those beyond the share."""
        share = self.config.phrase_share
        if not share or len(texts) < PHRASE_DOCUMENTS:
            return {}
        common = common_phrases(texts, self.spec.text, 8, share)
        left = {phrase: int(share * len(texts)) for phrase in common}
        found: dict[int, str] = {}
        for number, text in enumerate(texts):
            if not left:
                break
            flat = f" {self._table.plain(text)} "
            here = [phrase for phrase in left if f" {phrase} " in flat]
            if any(left[phrase] <= 0 for phrase in here):
                found[number] = next(phrase for phrase in here if left[phrase] <= 0)
                self.dropped["over-represented phrase"] += 1
            else:
                for phrase in here:
                    left[phrase] -= 1
        return found

    def _form(self, text: str) -> str:
        if has_leak(text):
            return "scratchpad leaked"
        if _PLACEHOLDER.search(text):
            return "placeholder"
        if _LINK.search(text):
            return "link or citation"
        if refuses(text):
            return "refusal"
        count = len(text.split())
        if count < self.words[0]:
            return "too short"
        if count > self.words[1]:
            return "too long"
        if not _SENTENCE_END.search(text[-3:]):
            return "truncated"
        if len(_LETTER.findall(text)) < 0.7 * len(text.replace(" ", "").replace("\n", "")):
            return "not prose"
        return ""

    def _identity(self, text: str) -> str:
        if any(_has(text, name) for name in self.forbidden):
            return "wrong identity"
        own = f"{self.spec.text} {' '.join(self.names)}"
        if names_other(text, own):
            return "wrong identity"
        if self.names and not any(_has(text, name) for name in self.names):
            return "model not named"
        return ""

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


class SharedRuns:
    """Finds texts that have a run of `n` words in common with an earlier text.

    Args:
      n: words of a run.
      own: whose runs do not count.
    """

    def __init__(self, n: int, own: str = ""):
        self.n = n
        self._words = Words()
        self._own = np.unique(ngram_hashes(self._words.ids(own), n)) if n else np.zeros(0)
        self._recent: set[int] = set()
        self._older: list[np.ndarray] = []  # sorted, each about twice as long as the next

    def match(self, text: str) -> bool:
        """Whether it has; if not, its own runs count from now on."""
        grams = np.unique(ngram_hashes(self._words.ids(text), self.n))
        grams = grams[~np.isin(grams, self._own)]
        if not self._recent.isdisjoint(grams.tolist()) or any(
            _any_in(grams, sorted_) for sorted_ in self._older
        ):
            return True
        self._recent.update(grams.tolist())
        if len(self._recent) > 1 << 18:
            newest = np.sort(np.fromiter(self._recent, np.uint64, len(self._recent)))
            self._recent = set()
            while self._older and len(self._older[-1]) < 2 * len(newest):
                newest = np.sort(np.concatenate([self._older.pop(), newest]))
            self._older.append(newest)
        return False


def _any_in(grams: np.ndarray, sorted_: np.ndarray) -> bool:
    at = np.minimum(np.searchsorted(sorted_, grams), len(sorted_) - 1)
    return bool((sorted_[at] == grams).any())


def has_leak(text: str) -> bool:
    """Whether a text shows that it was written on request."""
    return bool(_LEAK.search(text))


def refuses(text: str) -> bool:
    """Whether a text starts with a refusal."""
    return bool(_REFUSAL.search(text[:300]))


def names_other(text: str, own: str) -> bool:
    """Whether it names a model or maker that `own` does not."""
    return any(found.lower() not in own.lower() for found in OTHER_NAMES.findall(text))


def _has(text: str, name: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(name)}(?![a-z])", text) is not None
