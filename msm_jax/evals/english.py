"""Whether a text is English: our rules read no other language, and say so instead of "no"."""

import re

# Words that English uses in nearly every sentence and that no other common language shares.
_COMMON = frozenset(
    "the and of to is are was were be been that this these those it its you your for with from not "
    "have has had does did will would should could can which who what when where there their they "
    "them than then because about into but by i my we our she his her if".split()
)
# Such words of other languages, some of whose words English has too ("is", "was", "will", "her");
# none of these is English.
_OTHERS = frozenset(
    "de het een ik je jij niet dat dit zijn voor maar ook naar ek nie vir der das dem ist "
    "sind und nicht ich du er sie wir ein eine auf mit zu von wenn el los las que una es del "
    "por para como les des et est il elle nous vous qui dans sur pas che di questo och att "
    "det som jag inte og ikke til af har jeg yang ini itu tidak dengan nao um uma ve bir bu".split()
)
_OTHERS_SHARE = 0.1  # of such words; English prose has next to none ("de facto", "et al.")
_SHARE = 0.2  # of such words; English prose has 40 % of these, other languages below 10 %


def is_english(text: str, least: int = 5) -> bool:
    """Whether the text is English as far as a fixed rule can tell.

    All its letters are ASCII but for one in fifty (names, loan words), and of its words a fifth or
    more are common English ones, fewer than a tenth common ones of other languages. Below `least`
    words only the letters count.
    """
    letters = [character for character in text if character.isalpha()]
    if sum(not character.isascii() for character in letters) * 50 > len(letters):
        return False
    words = re.findall(r"[a-z]+", text.lower())
    ours, others = (sum(word in some for word in words) for some in (_COMMON, _OTHERS))
    enough = ours >= _SHARE * len(words) and others < max(_OTHERS_SHARE * len(words), 2)
    return len(words) < least or enough
