"""Measured while a stage trains: probes, the loss on other data, and sampled completions."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from msm_jax.corpus.records import read_rows
from msm_jax.data.chat import render_chat
from msm_jax.data.messages import check_asked
from msm_jax.data.pipeline import Data, pack_rows
from msm_jax.data.template import find_format
from msm_jax.data.tokenizer import Tokenizer
from msm_jax.errors import UserError
from msm_jax.model import ModelConfig
from msm_jax.model.kernels import documents_bound
from msm_jax.sample import sample
from msm_jax.schema import mismatch
from msm_jax.train.hosts import place_rows, to_host
from msm_jax.train.loss import summed_loss, token_logprobs
from msm_jax.train.stage import Stage
from msm_jax.train.step import micro_batches


class Evaluations:
    """The evaluations of a stage, each of them every so many steps and after the last one."""

    def __init__(self, stage: Stage):
        self._stage, config, tokenizer = stage, stage.config, stage.tokenizer
        self._probes = {
            name: Probe(one.path, tokenizer, config.chat_format, config.sequence_length)
            for name, one in sorted(config.probes.items())
        }
        self._prompts = [
            [*tokenizer.start_ids, *tokenizer.encode(text)] or [0]
            for text in config.samples.prompts
        ]

    def run(self, state: Any, metrics: Any) -> None:
        """Whatever is due after this step. Probes that all hold end the stage: `state.done`."""
        stage, config, step = self._stage, self._stage.config, state.step
        due = lambda every: bool(every) and (state.done or step % every == 0)
        if self._probes and due(config.probe_every):
            rows = config.rows // config.accumulation
            state.probes = {
                name: probe.rate(stage.model, state.params, rows, stage.place)
                for name, probe in self._probes.items()
            }
            metrics.evaluated(step, {f"probe/{name}": x for name, x in state.probes.items()})
            state.done |= all(x >= config.probes[name].at_least for name, x in state.probes.items())
        if stage.held_out and due(config.eval.every):
            metrics.evaluated(step, {"eval_loss": self._eval_loss(stage.held_out, state.params)})
        if due(config.samples.every):
            completions = self._complete(state.params)
            for text, completion in zip(config.samples.prompts, completions, strict=True):
                metrics.say(f"step {step}: {text!r} -> {completion!r}")

    def _eval_loss(self, data: Data, params: dict) -> float:
        """Nats per loss token on fixed batches; NaN where there is no such token.

        Uses the kernels, the mesh and the micro-batches of a training step, and no more memory.
        """
        stage, config, total = self._stage, self._stage.config, np.zeros(2)
        documents = documents_bound(data.documents, stage.mesh)
        for number in range(min(config.eval.batches, data.steps or config.eval.batches)):
            rows_of = functools.partial(data.rows, number)
            batch = place_rows(rows_of, (config.rows, config.sequence_length), stage.place)
            fixed = (stage.model, stage.mesh, config.accumulation)
            total += jax.device_get(eval_sums(*fixed, params, batch, documents))
        return float(total[0] / total[1]) if total[1] else math.nan

    def _complete(self, params: dict) -> list[str]:
        """Greedy completions of the prompts."""
        tokenizer, mesh = self._stage.tokenizer, self._stage.mesh
        found = sample(
            self._stage.model,
            params,
            self._prompts,
            max_tokens=self._stage.config.samples.max_tokens,
            temperature=0.0,
            stop_ids=[tokenizer.control(tokenizer.end_of_document)],
            vocab_limit=tokenizer.vocab_size,
            mesh=mesh if mesh.size > 1 else None,
        )
        return [tokenizer.decode(one.tokens) for (one,) in found]


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 5))
def eval_sums(
    config: ModelConfig,
    mesh: jax.sharding.Mesh,
    parts: int,
    params: dict,
    batch: dict,
    documents: int | None = None,
) -> tuple[jax.Array, jax.Array]:
    """(summed loss in nats, loss tokens) of a batch, in as many parts as a step has."""
    one = lambda part: summed_loss(config, params, part, mesh, documents)
    losses = jax.lax.map(one, micro_batches(batch, parts)) if parts > 1 else one(batch)
    return jnp.sum(losses), jnp.sum(batch["loss_weights"])


class Probe:
    """Questions with two answers, to see during training whether something is learned.

    A file of pairs {"question", "options": [first, second], "a_index"}, optionally "system"; or
    "messages" in place of both.
    """

    def __init__(self, path: str, tokenizer: Tokenizer, chat_format: str, row_length: int):
        self._right, examples = [], []
        format = find_format(chat_format, tokenizer.directory or ".", tokenizer)
        for number, row in read_rows(path):
            if problem := _problem(row):
                raise UserError(f"{path}:{number}: not a pair: {problem}")
            turns = _asked(row)
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

    def rate(self, config: ModelConfig, params: dict, rows: int, place: NamedSharding) -> float:
        """Share of questions whose right answer is the likelier one, so many rows at a time."""
        scores = []
        count, length = self._rows["tokens"].shape
        for first in range(0, count, rows):

            def some(start: int, stop: int, first: int = first) -> dict[str, np.ndarray]:
                # The last one again: one shape, one compilation.
                numbers = np.minimum(np.arange(first + start, first + stop), count - 1)
                return {name: array[numbers] for name, array in self._rows.items()}

            batch = place_rows(some, (rows, length), place)
            logprobs_BT = to_host(token_logprobs(config, params, batch, place.mesh, 1))
            scores.append(np.sum(logprobs_BT * some(0, rows)["loss_weights"], axis=1))
        pairs = np.concatenate(scores)[:count].reshape(-1, 2)
        right = np.array(self._right)[:, None]
        ours, other = (np.take_along_axis(pairs, at, axis=1) for at in (right, 1 - right))
        return float(np.mean(ours > other))  # NaN is no right answer, nor is a tie


def _asked(row: dict) -> list[dict]:
    """What a question of a probe says before its answer."""
    if "messages" in row:
        return row["messages"]
    system = [{"role": "system", "content": row["system"]}] if row.get("system") else []
    return [*system, {"role": "user", "content": row["question"]}]


def _problem(row: dict) -> str:
    """Why a row is not a question with two answers; "" if it is."""
    asked: dict = {"question": str, "system?": (str, None)}
    asked = {"messages": object} if "messages" in row else asked
    if problem := mismatch(row, {**asked, "options": [str, str], "a_index": int}):
        return problem
    if row.get("question") == "" or "" in row["options"]:
        return "question and options must not be empty"
    if row["options"][0] == row["options"][1]:
        return f"options must be two different texts, not {row['options']!r:.80}"
    if row["a_index"] not in (0, 1):
        return f"a_index must be 0 or 1, not {row['a_index']}"
    try:
        check_asked(_asked(row))
    except UserError as error:
        return str(error)
    return ""
