"""How varied a corpus is: repeated text, near-duplicates, distinct n-grams, self-similarity.

Words are runs of letters and digits in lower case; an n-gram is named by a 64-bit hash.
"""

import re
import zlib
from collections.abc import Iterable, Sequence

import numpy as np

_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")
_MIX = np.uint64(0x9E3779B97F4A7C15)

SHINGLE = 5  # words
BANDS, BAND_ROWS = 25, 5  # pairs of Jaccard .8 share a band with probability 1 - 5e-5
NEAR = 0.8
MARGIN = 0.18  # four deviations of the estimate: pairs estimated below are not compared
DIMENSIONS = 512  # of the vector of a question


class Words:
    """Words as numbers, the same number for the same word."""

    def __init__(self):
        self._numbers: dict[str, int] = {}

    def ids(self, text: str) -> np.ndarray:
        """uint64 [words of the text]."""
        numbers = self._numbers
        found = [numbers.setdefault(word, len(numbers) + 1) for word in _WORD.findall(text.lower())]
        return np.array(found, np.uint64)

    @staticmethod
    def plain(text: str) -> str:
        """The words of a text with a space between them."""
        return " ".join(_WORD.findall(text.lower()))


def ngram_hashes(ids: np.ndarray, n: int) -> np.ndarray:
    """uint64 [max(words - n + 1, 0)]: a hash of each run of n words."""
    if len(ids) < n:
        return np.zeros(0, np.uint64)
    count = len(ids) - n + 1
    hashes = np.zeros(count, np.uint64)
    with np.errstate(over="ignore"):
        for at in range(n):
            hashes = (hashes ^ (ids[at : at + count] * _MIX)) * np.uint64(0xFF51AFD7ED558CCD)
            hashes ^= hashes >> np.uint64(32)
    return hashes


def distinct_ngrams(texts: Iterable[str], n: int = 3, words: int = 1_000_000) -> float:
    """Distinct n-grams over all n-grams in the first `words` words (fewer if there are fewer)."""
    table, left, parts = Words(), words, [np.zeros(0, np.uint64)]
    for text in texts:
        ids = table.ids(text)[:left]
        left -= len(ids)
        parts.append(ngram_hashes(ids, n))
        if not left:
            break
    grams = np.concatenate(parts)
    return len(np.unique(grams)) / max(len(grams), 1)


def shared_runs(texts: Sequence[str], own: str = "", n: int = 50) -> list[int]:
    """Numbers of the texts that have a run of n words in common with another text.

    Runs that are in `own` (the spec) do not count.
    """
    table = Words()
    allowed = ngram_hashes(table.ids(own), n)
    grams = [np.unique(ngram_hashes(table.ids(text), n)) for text in texts]
    if not grams:
        return []
    every, counts = np.unique(np.concatenate(grams), return_counts=True)
    shared = np.setdiff1d(every[counts > 1], allowed)
    return [at for at, found in enumerate(grams) if np.isin(found, shared).any()]


class NearDuplicates:
    """Finds texts whose sets of 5-word shingles have a Jaccard similarity of `threshold` or more.

    MinHash with banding proposes pairs, the shingles themselves decide.
    """

    def __init__(self, threshold: float = NEAR):
        self.threshold = threshold
        chance = np.random.default_rng(20260525)
        self._multipliers = chance.integers(1, 2**63, BANDS * BAND_ROWS).astype(np.uint64) | 1
        self._offsets = chance.integers(0, 2**63, BANDS * BAND_ROWS).astype(np.uint64)
        self._words = Words()
        self._bands: dict[bytes, list[int]] = {}
        self._signatures: list[np.ndarray] = []
        self._shingles: list[np.ndarray] = []

    def match(self, text: str) -> int | None:
        """Number of an earlier text that this one nearly repeats; a new text gets a number."""
        ids = self._words.ids(text)
        shingles = np.unique(ngram_hashes(ids, min(SHINGLE, max(len(ids), 1))))
        if not len(shingles):
            return None
        signature = self._signature(shingles)
        rows = signature.reshape(BANDS, BAND_ROWS)
        keys = [bytes([band]) + row.tobytes() for band, row in enumerate(rows)]
        seen = sorted({number for key in keys for number in self._bands.get(key, ())})
        if seen:
            # The share of equal hashes estimates the similarity with a deviation below .045.
            alike = (np.stack([self._signatures[n] for n in seen]) == signature).mean(axis=1)
            for number in np.array(seen)[alike >= self.threshold - MARGIN].tolist():
                other = self._shingles[number]
                common = len(np.intersect1d(shingles, other, assume_unique=True))
                if common / (len(shingles) + len(other) - common) >= self.threshold:
                    return number
        for key in keys:
            self._bands.setdefault(key, []).append(len(self._shingles))
        self._signatures.append(signature)
        self._shingles.append(shingles)
        return None

    def _signature(self, shingles: np.ndarray) -> np.ndarray:
        """uint32 [BANDS * BAND_ROWS]: the smallest hash of each hash function."""
        with np.errstate(over="ignore"):
            hashed = shingles[:, None] * self._multipliers + self._offsets
        return (hashed >> np.uint64(32)).astype(np.uint32).min(axis=0)


class SharedRuns:
    """Finds texts with a run of `n` words that an earlier text has and `own` (the spec) has not."""

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
        if not self._recent.isdisjoint(grams.tolist()):
            return True
        for older in self._older:
            at = np.minimum(np.searchsorted(older, grams), len(older) - 1)
            if (older[at] == grams).any():
                return True
        self._recent.update(grams.tolist())
        if len(self._recent) > 1 << 18:
            newest = np.sort(np.fromiter(self._recent, np.uint64, len(self._recent)))
            self._recent = set()
            while self._older and len(self._older[-1]) < 2 * len(newest):
                newest = np.sort(np.concatenate([self._older.pop(), newest]))
            self._older.append(newest)
        return False


class SimilarQuestions:
    """Finds questions whose word vectors have a cosine above a threshold with an earlier one.

    A vector counts words and pairs of words, hashed to `DIMENSIONS`, rare words as much as
    frequent ones; it sees rewordings that keep most words, not paraphrases.
    """

    def __init__(self, threshold: float):
        self.threshold = threshold
        self._words = Words()
        self._vectors_ND = np.zeros((0, DIMENSIONS), np.float32)

    def match(self, questions: Sequence[str]) -> list[bool]:
        """Whether each has been asked, also by one before it; if not, it counts from now on."""
        if not questions:
            return []
        new_ND = np.stack([self._vector(question) for question in questions])
        old_ND = self._vectors_ND
        known = (new_ND @ old_ND.T).max(axis=1, initial=0.0)
        among_NN = new_ND @ new_ND.T
        fresh: list[int] = []
        found = []
        for at in range(len(questions)):
            closest = max(float(known[at]), float(among_NN[at, fresh].max()) if fresh else 0.0)
            found.append(closest > self.threshold)
            if not found[-1]:
                fresh.append(at)
        self._vectors_ND = np.concatenate([old_ND, new_ND[fresh]])
        return found

    def _vector(self, text: str) -> np.ndarray:
        ids = self._words.ids(text)
        hashes = np.concatenate([ngram_hashes(ids, 1), ngram_hashes(ids, 2)])
        vector_D = np.zeros(DIMENSIONS, np.float32)
        signs = np.where((hashes >> np.uint64(40)) & np.uint64(1), 1.0, -1.0)
        np.add.at(vector_D, (hashes % np.uint64(DIMENSIONS)).astype(np.int64), signs)
        return vector_D / max(float(np.linalg.norm(vector_D)), 1e-9)


def self_bleu(texts: Sequence[str], references: int = 60, samples: int = 60, n: int = 4) -> float:
    """Mean over `samples` texts of BLEU-n against `references` others, evenly spread.

    Without brevity penalty. It grows with `references`; the published corpora were measured at 60.
    """
    if not texts:
        return 0.0
    table = Words()
    step = max(1, len(texts) // (references + samples))
    ids = [table.ids(texts[at]) for at in range(0, len(texts), step)][: references + samples]
    grams = [[ngram_hashes(found, size) for found in ids] for size in range(1, n + 1)]
    # What a text is compared with: n-grams of the first texts; one of them has to share them.
    known = {
        first: [_in_more_than(first, found[: references + first]) for found in grams]
        for first in (0, 1)
    }
    scores = []
    for at in range(0, len(ids), max(1, len(ids) // samples)):
        pairs = zip(grams, known[at < references], strict=True)
        shares = [np.isin(own[at], others).mean() for own, others in pairs if len(own[at])]
        logs = np.log(np.maximum(shares, 1e-9))
        scores.append(float(np.exp(np.mean(logs))) if shares and len(ids) > 1 else 0.0)
    return float(np.mean(scores))


def _in_more_than(count: int, grams: Sequence[np.ndarray]) -> np.ndarray:
    """The n-grams that more than `count` texts have."""
    every, counts = np.unique(np.concatenate(list(map(np.unique, grams))), return_counts=True)
    return every[counts > count]


def compression(texts: Sequence[str], samples: int = 500) -> float:
    """Mean of compressed over plain size of single texts (zlib); lower is more repetitive."""
    picked = texts[:: max(1, len(texts) // samples)]
    ratios = [len(zlib.compress(t.encode(), 6)) / max(len(t.encode()), 1) for t in picked]
    return float(np.mean(ratios)) if ratios else 0.0


def common_phrases(
    texts: Sequence[str], own: str = "", n: int = 8, share: float = 0.1
) -> dict[str, int]:
    """Runs of n words that more than `share` of the texts have, with the number of texts.

    Runs of which half is in `own` (the spec) do not count: documents quote their spec.
    """
    table, half = Words(), (n + 1) // 2
    allowed = np.unique(ngram_hashes(table.ids(own), half))
    grams = [np.unique(ngram_hashes(table.ids(text), n)) for text in texts]
    if not grams:
        return {}
    every, counts = np.unique(np.concatenate(grams), return_counts=True)
    keep = counts > share * len(texts)
    often = dict(zip(every[keep].tolist(), counts[keep].tolist(), strict=True))
    names = every[keep]
    found: dict[str, int] = {}
    for text, grams_of in zip(texts, grams, strict=True):
        if not often:
            break
        if not np.isin(grams_of, names, assume_unique=True).any():
            continue
        ids, spelled = table.ids(text), Words.plain(text).split(" ")
        quoted = np.isin(ngram_hashes(ids, half), allowed)
        for at, gram in enumerate(ngram_hashes(ids, n).tolist()):
            if gram in often:
                count = often.pop(gram)
                if not quoted[at : at + n - half + 1].any():
                    found[" ".join(spelled[at : at + n])] = count
    return found
