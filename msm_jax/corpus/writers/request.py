"""What a model is asked, and what comes back: for the writers of a corpus and for judges."""

import dataclasses
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from msm_jax.files import sha256_text

_FENCED = re.compile(r"```(?:json)?\s*\n(.*?)```", re.DOTALL)


class InvalidReply(Exception):
    """A structured reply that does not have the structure; the message says why."""


@dataclasses.dataclass(frozen=True)
class Items:
    """The structure of a structured reply: a list of objects whose fields are texts."""

    fields: tuple[str, ...]  # of every object, none of them empty
    count: int = 0  # wanted; more are left out, fewer are accepted; 0: any number
    choices: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)  # of a field

    def schema(self) -> dict[str, Any]:
        """As JSON Schema, within the subset that structured outputs of all providers know."""
        enum = lambda name: {"enum": list(self.choices[name])} if name in self.choices else {}
        item = _object({name: {"type": "string", **enum(name)} for name in self.fields})
        return _object({"items": {"type": "array", "items": item}})

    def parse(self, text: str) -> list[dict[str, str]]:
        """The objects of a reply.

        Raises:
          InvalidReply: no JSON, no list, or an object with other fields.
        """
        found = _json_in(text)
        rows = found.get("items") if isinstance(found, dict) else found
        if not isinstance(rows, list):
            raise InvalidReply('expected an object with the list "items"')
        return [self._checked(number, row) for number, row in enumerate(rows)][: self.count or None]

    def _checked(self, number: int, row: Any) -> dict[str, str]:
        if not isinstance(row, dict):
            raise InvalidReply(f"items[{number}] must be an object, not {type(row).__name__}")
        for name in self.fields:
            value = row.get(name)
            if not isinstance(value, str) or not value.strip():
                raise InvalidReply(f"items[{number}] needs a non-empty text as {name!r}")
            allowed = self.choices.get(name)
            if allowed and value not in allowed:
                raise InvalidReply(f"items[{number}].{name} must be one of {', '.join(allowed)}")
        return {name: row[name].strip() for name in self.fields}


def _object(fields: dict[str, Any]) -> dict[str, Any]:
    required = {"required": list(fields), "additionalProperties": False}
    return {"type": "object", "properties": fields, **required}


def _json_in(text: str) -> Any:
    """The JSON value of a reply, which may be in a code fence or among words."""
    fenced = _FENCED.search(text)
    outermost = text[text.find("{") : text.rfind("}") + 1]
    for candidate in (text, fenced[1] if fenced else "", outermost):
        if candidate.strip():
            try:
                return json.loads(candidate)
            except ValueError:
                continue
    raise InvalidReply("no complete JSON value in the reply")


@dataclasses.dataclass(frozen=True)
class Request:
    """One thing to write, or to judge."""

    step: str  # of the pipeline: "domains", "document", "judge", ...; replies are counted by it
    system: str  # what many requests share (the spec); sent first, so that it can be cached
    prompt: str  # the rest of what a language model reads
    # The same as JSON data, for the stub, which does not read prompts.
    inputs: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    items: Items | None = None  # the structure of the reply; None: free text
    max_tokens: int = 2000  # of the reply
    sample: int = 0  # distinguishes requests that are otherwise equal: each is another draw

    def key(self, identity: Mapping[str, Any]) -> str:
        """A hash: equal for equal requests to equal writers, in all runs."""
        # A language model does not see the inputs.
        request = dataclasses.asdict(dataclasses.replace(self, inputs={}))
        content = {"writer": dict(identity), **request, "inputs": None}
        return sha256_text(json.dumps(content, sort_keys=True, ensure_ascii=False))[:32]

    def prompt_hash(self) -> str:
        """A hash of what a language model reads, without the writer and its settings."""
        return sha256_text(f"{self.system}\n\n{self.prompt}")[:16]


@dataclasses.dataclass(frozen=True)
class Usage:
    """Tokens that were paid for, and what they cost in US dollars."""

    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    usd: float = 0.0

    def __add__(self, other: "Usage") -> "Usage":
        pairs = zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)
        return Usage(*(a + b for a, b in pairs))


@dataclasses.dataclass(frozen=True)
class Reply:
    """What a model wrote."""

    text: str
    stop: str = "end"  # or "length" (cut off at max_tokens) or "refusal"
    usage: Usage = Usage()
    model: str = ""  # its name as the server reports it; "" where it reports none

    def row(self, step: str) -> dict[str, Any]:
        """For a `Journal`."""
        return {"step": step, **dataclasses.asdict(self)}

    @staticmethod
    def of_row(row: Mapping[str, Any]) -> "Reply":
        """From a `Journal`; also from a judge's cache as it was written before 2026-11-27."""
        if "reply" in row:
            old = row["reply"]
            return Reply(old["text"], old["finish"], model=old["model"])
        return Reply(row["text"], row["stop"], Usage(**row["usage"]), row.get("model", ""))


@dataclasses.dataclass(frozen=True)
class Failure:
    """Why a request has no reply: `name` is counted, `message` is for people."""

    name: str
    message: str = ""


class Backend(Protocol):
    """A writer as the pipeline needs it; one per provider.

    Attributes:
      identity: everything that decides a reply besides the request (model, temperature, ...);
        part of every key. Never a secret.
      counts: name of an error -> how often it occurred, retries included.
    """

    identity: Mapping[str, Any]
    counts: dict[str, int]

    def replies(
        self, requests: Sequence[Request], go_on: Callable[[], bool]
    ) -> Iterator[tuple[int, Reply | Failure]]:
        """Index and outcome of every request, in any order, each as soon as it is available.

        Once `go_on()` is false no request is started. Those under way are paid for, so they are
        still waited for; those that were not started may be left out.

        Raises:
          UserError: no request can succeed any more (key, credit, unknown model).
        """
        ...


@dataclasses.dataclass(frozen=True)
class Price:
    """US dollars per million tokens; all zero for what runs on own machines."""

    input: float = 0.0
    output: float = 0.0
    cache_read: float = 0.0
    cache_write: float = 0.0

    def of(self, usage: Usage, discount: float = 1.0) -> Usage:
        """The usage with its cost; `discount` 0.5 for batches."""
        *tokens, _ = dataclasses.astuple(usage)
        usd = sum(n * price for n, price in zip(tokens, dataclasses.astuple(self), strict=True))
        return dataclasses.replace(usage, usd=usd * discount / 1e6)
