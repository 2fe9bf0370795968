"""Probes: questions with two answers, asked during training to see whether something is learned."""

import os

import numpy as np

from msm_jax.corpus.records import read_rows
from msm_jax.data.chat import render_chat
from msm_jax.data.pipeline import as_batch, pack_rows
from msm_jax.data.template import find_format
from msm_jax.errors import UserError
from msm_jax.train.hosts import to_host
from msm_jax.train.loss import token_logprobs


class Probe:
    """Pairs from a JSONL file: {"system", "question", "options": [first, second], "a_index"}.

    Attributes:
      name: of the metric.
      at_least: the rate of right answers that training waits for.
    """

    def __init__(self, name, path: str | os.PathLike, at_least, tokenizer, chat_format, row_length):
        self.name, self.at_least = name, at_least
        self._right, examples = [], []
        format = find_format(chat_format, tokenizer.directory or ".", tokenizer)
        for number, row in read_rows(path):
            try:
                turns = [
                    {"role": "system", "content": row["system"]},
                    {"role": "user", "content": row["question"]},
                ]
                answers = [{"role": "assistant", "content": text} for text in row["options"]]
                self._right.append(int(row["a_index"]))
            except (KeyError, TypeError) as error:
                raise UserError(f"{path}:{number}: not a pair: lacks {error}") from error
            for answer in answers:
                ids, loss = render_chat(tokenizer, format, [*turns, answer])
                if len(ids) > row_length:
                    raise UserError(f"{path}:{number}: longer than a row of {row_length} tokens")
                examples.append((np.array(ids, np.int32), np.array(loss, np.uint8)))
        self._rows = [pack_rows([example], row_length, 0) for example in examples]

    def rate(self, config, params, rows: int) -> float:
        """Share of questions whose right answer is the likelier one, scored `rows` at a time."""
        scores = []
        for start in range(0, len(self._rows), rows):
            some = self._rows[start : start + rows]
            some = some + [some[-1]] * (rows - len(some))  # one shape, one compilation
            batch = as_batch(
                np.concatenate([row.tokens_NT for row in some]),
                np.concatenate([row.loss_NT for row in some]),
                np.concatenate([row.segment_ids_NT for row in some]),
            )
            logprobs_BT = to_host(token_logprobs(config, params, batch))
            scores.append(np.sum(logprobs_BT * batch["loss_weights"], axis=1))
        scores = np.concatenate(scores)[: len(self._rows)].reshape(-1, 2)
        return float(np.mean(np.argmax(scores, axis=1) == np.array(self._right)))
