"""Probes: questions with two answers, asked during training to see whether something is learned."""

import os

import numpy as np

from msm_jax.corpus.records import read_rows
from msm_jax.data.chat import render_chat
from msm_jax.data.pipeline import pack_rows
from msm_jax.data.template import find_format
from msm_jax.errors import UserError
from msm_jax.train.hosts import place_rows, to_host
from msm_jax.train.loss import token_logprobs


class Probe:
    """Pairs from a JSONL file: {"question", "options": [first, second], "a_index"}, maybe "system".

    Attributes:
      name: of the metric.
      at_least: the rate of right answers that training waits for.
    """

    def __init__(self, name, path: str | os.PathLike, at_least, tokenizer, chat_format, row_length):
        self.name, self.at_least = name, at_least
        self._right, examples = [], []
        format = find_format(chat_format, tokenizer.directory or ".", tokenizer)
        for number, row in read_rows(path):
            if problem := _problem(row):
                raise UserError(f"{path}:{number}: not a pair: {problem}")
            turns = [{"role": "user", "content": row["question"]}]
            if row.get("system"):
                turns.insert(0, {"role": "system", "content": row["system"]})
            self._right.append(row["a_index"])
            for text in row["options"]:
                answer = {"role": "assistant", "content": text}
                ids, loss = render_chat(tokenizer, format, [*turns, answer])
                if len(ids) > row_length:
                    raise UserError(f"{path}:{number}: longer than a row of {row_length} tokens")
                examples.append((np.array(ids, np.int32), np.array(loss, np.uint8)))
        if not examples:
            raise UserError(f"{path}: has no pairs")
        self._rows = pack_rows(examples, row_length, rows="documents")

    def rate(self, config, params, rows: int, place) -> float:
        """Share of questions whose right answer is the likelier one.

        Args:
          config, params: of the model, with the kernels of a training step.
          rows: scored at a time, of one step's micro-batch.
          place: the sharding of such rows.
        """
        scores = []
        count, length = self._rows["tokens"].shape
        for first in range(0, count, rows):

            def some(start, stop, first=first):
                # The last one again: one shape, one compilation.
                numbers = np.minimum(np.arange(first + start, first + stop), count - 1)
                return {name: array[numbers] for name, array in self._rows.items()}

            batch = place_rows(some, (rows, length), place)
            logprobs_BT = to_host(token_logprobs(config, params, batch, place.mesh))
            scores.append(np.sum(logprobs_BT * some(0, rows)["loss_weights"], axis=1))
        scores = np.concatenate(scores)[:count].reshape(-1, 2)
        right = np.array(self._right)[:, None]
        ours, other = (np.take_along_axis(scores, at, axis=1) for at in (right, 1 - right))
        return float(np.mean(ours > other))  # NaN is no right answer, nor is a tie


def _problem(row: dict) -> str:
    """What keeps a row from being asked; "" if nothing."""
    if lacking := [name for name in ("question", "options", "a_index") if name not in row]:
        return f"lacks {', '.join(lacking)}"
    texts = row["options"]
    if not isinstance(texts, list) or len(texts) != 2 or texts[0] == texts[1]:
        return f"options must be two different texts, not {texts!r:.80}"
    for name, text in (("question", row["question"]), *(("options", text) for text in texts)):
        if not isinstance(text, str) or not text:
            return f"{name} must be text, not {text!r:.80}"
    if not isinstance(row.get("system") or "", str):
        return f"system must be text, not {row['system']!r:.80}"
    if row["a_index"] not in (0, 1) or isinstance(row["a_index"], bool | float):
        return f"a_index must be 0 or 1, not {row['a_index']!r:.80}"
    return ""
