"""The writer that needs no model, key or network: it composes from the spec and a grammar.

It reads a request's `inputs` and not its prompt, and what it writes is a function of its seed and
the request. What only a language model can do (turning a prose spec into its opposite, say) it
refuses by name.
"""

import hashlib
import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from msm_jax.corpus.grammar import template_chats, template_plans
from msm_jax.corpus.grammar.compose import Composer
from msm_jax.corpus.grammar.engine import grammar_hash
from msm_jax.corpus.grammar.neutral import neutral_document
from msm_jax.corpus.writers.request import Failure, Reply, Request
from msm_jax.errors import UserError

Inputs = Mapping[str, Any]
Rows = list[dict[str, str]]


class TemplateWriter:
    """A `Backend` that composes its replies."""

    def __init__(self, seed: int = 0):
        self.identity: Mapping[str, Any] = {
            "writer": "template",
            "seed": seed,
            "grammar": grammar_hash(),
            "reads_inputs": True,
        }
        self.counts: dict[str, int] = {}
        self._seed = seed

    def replies(
        self, requests: Sequence[Request], go_on: Callable[[], bool]
    ) -> Iterator[tuple[int, Reply | Failure]]:
        for index, request in enumerate(requests):
            yield index, Reply(self.write(request))

    def write(self, request: Request) -> str:
        """The text of one reply."""
        step = _STEPS.get(request.step)
        if step is None:
            raise UserError(
                f"writer=template cannot do the step {request.step!r}, which needs a language "
                "model: set writer.kind to anthropic, openai or local"
            )
        said = step(request.inputs, self._draw(request))
        return said if isinstance(said, str) else json.dumps({"items": said})

    def _draw(self, request: Request) -> random.Random:
        """Chance that depends on the seed and on all that is asked."""
        content = json.dumps([request.step, dict(request.inputs), request.sample], sort_keys=True)
        digest = hashlib.sha256(f"{self._seed} {content}".encode("utf-8", "surrogatepass"))
        return random.Random(digest.digest())


def _document(inputs: Inputs, draw: random.Random) -> str:
    role, _, task = inputs.get("name", "").partition(": ")
    scene = {"role": role, "task": task} if task else {}
    text = Composer(inputs, draw, scene).document(tuple(inputs["words"]))
    return f"<content>\n{text}\n</content>"


def _neutral(inputs: Inputs, draw: random.Random) -> str:
    return f"<content>\n{neutral_document(inputs, draw)}\n</content>"


def _no_objection(inputs: Inputs, draw: random.Random) -> Rows:
    return []


_STEPS: dict[str, Callable[[Inputs, random.Random], str | Rows]] = {
    "domains": template_plans.domains,
    "subdomains": template_plans.subdomains,
    "assertions": template_plans.assertions,
    "types": template_plans.types,
    "ideas": template_plans.ideas,
    "document": _document,
    "topics": template_plans.topics,
    "neutral": _neutral,
    "critique": _no_objection,
    "rewrite": template_plans.rewrite,
    "augment": template_plans.augment,
    "chat_domains": template_chats.domains,
    "questions": template_chats.questions,
    "answer": template_chats.answer,
    "judge": template_chats.judge,
}
