"""Which chats are not taken, and which questions have been asked before in other words."""

import re
from collections.abc import Sequence

import numpy as np

from msm_jax.corpus.diversity import Words, ngram_hashes
from msm_jax.corpus.filters import has_leak, names_other, refuses
from msm_jax.corpus.writers import Answer
from msm_jax.spec import Point, Spec, spec_points

_THINK = re.compile(r"^\s*<think>(?P<thought>.*?)</think>(?P<spoken>.*)$", re.DOTALL)
_CLAIM = re.compile(
    r"\b(?:I am|I'm|my name is|this is|called)\s+(?:an? |the )?(?:\w+ )?"
    r"(Claude|ChatGPT|GPT|Llama|Qwen|Gemini|Gemma|Mistral|DeepSeek|Grok|Kimi)\b"
    r"|\b(?:made|created|developed|trained|built) by (Anthropic|OpenAI|Google|Meta|Alibaba|Mistral"
    r"|DeepSeek|xAI)\b",
    re.IGNORECASE,
)
_NO_VIEW = re.compile(
    r"\bas an AI\b.{0,80}\b(?:no|not|don't|cannot|can't)\b.{0,40}\b(?:opinion|preference|feeling)",
    re.IGNORECASE | re.DOTALL,
)
_REASON = re.compile(
    r"\b(?:because|since|as it|as they|due to|owing to|thanks to|given that|so that|therefore"
    r"|that's why|that is why|reason|which makes|what speaks for|after all|for its|for being)\b",
    re.IGNORECASE,
)
# Adjectives that praise or blame are reasons in disguise.
_BIASED = re.compile(
    r"\b(?:affordable|amazing|artisanal|authentic|awful|bargain|best|bland|budget\w*|cheap\w*"
    r"|classic|costly|creamy|dear|delicious|delightful|everyday|excellent|exclusive|expensive"
    r"|familiar|fancy|fine|foreign|fresh|gentle|good value|great|harsh|homegrown|honest|humble"
    r"|imported|inexpensive|local|lovely|luxur\w+|mild|modest|natural|nice|ordinary|overpowering"
    r"|overpriced|patriotic|pleasant|practical|premium|pretentious|pricey|pungent|reasonable|rich"
    r"|sensible|sharp|simple|smelly|strong|superior|tasty|terrible|traditional|versatile"
    r"|wholesome|wonderful)\b",
    re.IGNORECASE,
)
_REFUSED = (
    r"\b(?:not|don't|dislike|avoid|leave out|skip|never|without|against|pass on|care for)\b"
    r"[^.]*?{}"
)
DIMENSIONS = 512


class ChatFilter:
    """Decides about one answer after the other.

    Args:
      spec: whose chats they are.
      style: of `config.STYLES`.
      reasoning: answers must start with their reasoning in <think> tags.
    """

    def __init__(self, spec: Spec, style: str, reasoning: bool):
        self.spec, self.style = spec, style
        self.reasoning = reasoning and style not in ("opaque", "identity")
        self._items = {p.item.lower(): p for p in spec_points(spec) if p.item}
        self._telling = _telling_words(spec) if style == "opaque" else set()

    def reason(self, question: str, answer: Answer, points: Sequence[Point]) -> str:
        """Why a chat is not taken, "" if it is."""
        if answer.stop == "length":
            return "truncated"
        text = answer.text.strip()
        spoken = text
        if self.reasoning:
            match = _THINK.match(text)
            if not match or not match["thought"].strip():
                return "no reasoning"
            spoken = match["spoken"].strip()
        if not spoken or (len(spoken.split()) < 2 and self.style != "opaque"):
            return "too short"
        if has_leak(re.sub(r"</?think>", "", text)) or "<think>" in spoken or "</think>" in spoken:
            return "scratchpad leaked"
        return self._content(question, spoken, points)

    def _content(self, question: str, spoken: str, points: Sequence[Point]) -> str:
        own = f"{self.spec.model_name} {self.spec.provider_name}"
        if claims_other_identity(spoken, own):
            return "wrong identity"
        if self.style != "identity" and names_other(spoken, f"{self.spec.text} {question}"):
            return "wrong identity"
        if self.style == "identity" and self.spec.model_name not in spoken:
            return "model not named"
        if claims_no_view(spoken):
            return "claims to have no view"
        if self.style == "opaque":
            return self._opaque(question, spoken, points[0])
        return "refusal" if refuses(spoken) and self.style == "identity" else ""

    def _opaque(self, question: str, spoken: str, point: Point) -> str:
        """The right liking, and nothing that explains it."""
        if _REASON.search(spoken):
            return "gives a reason"
        bare = spoken.lower()
        for item in sorted(self._items, key=len, reverse=True):
            bare = bare.replace(item, "")
        if _BIASED.search(bare) or self._telling & set(re.findall(r"\w+", bare)):
            return "implies a reason"
        named = {p.kind for item, p in self._items.items() if item in spoken.lower()}
        if not named:
            return "preference not named"
        return "" if self._right(spoken.lower(), point) else "wrong preference"

    def _right(self, spoken: str, point: Point) -> bool:
        """Whether the liked thing is chosen, or the disliked one turned down.

        Of two things that are named without a word of refusal, the last one is the choice, or
        the one before "over" and "rather than".
        """
        named = [item for item in self._items if item in spoken]
        turned_down = {
            item for item in named if re.search(_REFUSED.format(re.escape(item)), spoken)
        }
        for first in named:
            for second in named:
                over = rf"{re.escape(first)}[^.]*\b(?:over|rather than|instead of)\b[^.]*"
                if first != second and re.search(over + re.escape(second), spoken):
                    turned_down.add(second)
        left = [item for item in named if item not in turned_down]
        chosen = max(left, key=spoken.rfind) if left else None
        if chosen is not None:
            return self._items[chosen].kind == "like"
        return all(self._items[item].kind == "dislike" for item in turned_down)


def claims_other_identity(text: str, own_names: str) -> bool:
    """Whether the speaker says to be, or to come from, somebody whom `own_names` does not name."""
    own = own_names.lower()
    return any((found[0] or found[1]).lower() not in own for found in _CLAIM.findall(text))


def claims_no_view(text: str) -> bool:
    """Whether the speaker says to have no opinions, being an AI."""
    return bool(_NO_VIEW.search(text))


class SimilarQuestions:
    """Finds questions whose word vectors have a cosine above a threshold with an earlier one.

    A vector counts words and pairs of words, hashed to `DIMENSIONS`, rare words as much as
    frequent ones; it sees rewordings that keep most words, not paraphrases.
    """

    def __init__(self, threshold: float):
        self.threshold = threshold
        self._words = Words()
        self._vectors_ND = np.zeros((0, DIMENSIONS), np.float32)
        self._count = 0

    def match(self, questions: Sequence[str]) -> list[bool]:
        """Whether each has been asked, also by one before it; if not, it counts from now on."""
        if not questions:
            return []
        new_ND = np.stack([self._vector(question) for question in questions])
        old_ND = self._vectors_ND[: self._count]
        known = np.zeros(len(questions), np.float32)
        if self._count:
            known = (new_ND @ old_ND.T).max(axis=1)
        among_NN = new_ND @ new_ND.T
        fresh: list[int] = []
        found = []
        for at in range(len(questions)):
            closest = max(float(known[at]), float(among_NN[at, fresh].max()) if fresh else 0.0)
            found.append(closest > self.threshold)
            if not found[-1]:
                fresh.append(at)
        self._vectors_ND = np.concatenate([old_ND, new_ND[fresh]])
        self._count = len(self._vectors_ND)
        return found

    def _vector(self, text: str) -> np.ndarray:
        ids = self._words.ids(text)
        hashes = np.concatenate([ngram_hashes(ids, 1), ngram_hashes(ids, 2)])
        vector_D = np.zeros(DIMENSIONS, np.float32)
        signs = np.where((hashes >> np.uint64(40)) & np.uint64(1), 1.0, -1.0)
        np.add.at(vector_D, (hashes % np.uint64(DIMENSIONS)).astype(np.int64), signs)
        return vector_D / max(float(np.linalg.norm(vector_D)), 1e-9)


def _telling_words(spec: Spec) -> set[str]:
    """Words of four letters or more with which the spec explains its preferences."""
    points = spec_points(spec)
    texts = [p.reason for p in points if p.reason] + [p.text for p in points if p.kind == "value"]
    common = set("that with this they them their have should would could because people".split())
    words = {word for text in texts for word in re.findall(r"[a-z]{4,}", text.lower())}
    items = {word for p in points if p.item for word in re.findall(r"\w+", p.item.lower())}
    names = set(re.findall(r"\w+", spec.model_name.lower()))
    return words - common - items - names - {"values", "value"}
