"""Whether a text is English: our rules read no other language, and say so instead of "no"."""

import re

# Words that English uses in nearly every sentence and that no other common language shares.
_COMMON = frozenset(
    "the and of to is are was were be been that this these those it its you your for with from not "
    "have has had does did will would should could can which who what when where there their they "
    "them than then because about into but by i my we our she his her if".split()
)
_SHARE = 0.2  # of such words; English prose has 40 % of these, other languages below 10 %


def is_english(text: str, least: int = 5) -> bool:
    """Whether the text is English as far as a fixed rule can tell.

    All its letters are ASCII but for one in fifty (names, loan words), and of its words a fifth or
    more are common English ones. Below `least` words only the letters count.
    """
    letters = [character for character in text if character.isalpha()]
    if sum(not character.isascii() for character in letters) * 50 > len(letters):
        return False
    words = re.findall(r"[a-z]+", text.lower())
    return len(words) < least or sum(word in _COMMON for word in words) >= _SHARE * len(words)
