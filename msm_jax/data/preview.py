"""Tokens as text for people: what of a row is learned."""

import itertools
import operator
import re
from collections.abc import Sequence

import numpy as np

from msm_jax.data.tokenizer import Tokenizer

PLAIN, COLOUR = ("[[", "]]"), ("\x1b[32m", "\x1b[0m")  # around what is learned
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def shown(tokenizer: Tokenizer, ids: Sequence[int], mask: Sequence, colour: bool = False) -> str:
    """Some tokens as text: control tokens by their names, tokens with loss in double brackets.

    `ids` and `mask` are int [T]; with `colour` a terminal's green takes the place of the brackets.
    """
    names = {tokenizer.control(name): name for name in tokenizer.control_names}
    begin, end = COLOUR if colour else PLAIN
    pairs = zip(map(int, ids), map(bool, mask), strict=True)
    texts = []
    for is_learned, group in itertools.groupby(pairs, key=operator.itemgetter(1)):
        text = ""
        for name, run in itertools.groupby((token for token, _ in group), names.get):
            tokens = list(run)
            text += tokenizer.decode(tokens) if name is None else name * len(tokens)
        texts.append(f"{begin}{_safe(text)}{end}" if is_learned else _safe(text))
    return "".join(texts)


def excerpt(tokenizer: Tokenizer, ids: Sequence[int], mask: Sequence, most: int = 400) -> str:
    """The same in one line, of a long row its first and last tokens."""
    half = most // 2
    ends = [slice(None)] if len(ids) <= most else [slice(half), slice(len(ids) - half, None)]
    text = f" ... {len(ids) - most} tokens ... ".join(
        shown(tokenizer, ids[end], mask[end]) for end in ends
    )
    return text.replace("\n", "\\n")


def _safe(text: str) -> str:
    """Without what a terminal would obey."""
    return _CONTROL.sub(lambda found: repr(found[0])[1:-1], text)


def row_texts(tokenizer: Tokenizer, batch: dict[str, np.ndarray], colour: bool) -> list[str]:
    """Each row of a batch [B, T]: its documents one below the other, without padding."""
    found = []
    for tokens_T, weights_T, segments_T in zip(
        batch["tokens"], batch["loss_weights"], batch["segment_ids"], strict=True
    ):
        mask_T = np.concatenate([[False], weights_T[:-1] > 0])  # a weight lies before its token
        parts = [
            shown(tokenizer, tokens_T[segments_T == number], mask_T[segments_T == number], colour)
            for number in np.unique(segments_T[segments_T > 0])
        ]
        found.append("\n---\n".join(parts))
    return found
