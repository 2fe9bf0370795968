"""What a model is asked, and what comes back: for the writers of a corpus and for judges."""

import dataclasses
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from msm_jax.corpus.records import without_surrogates
from msm_jax.files import sha256_text
from msm_jax.limits import FIELD_CHARACTERS, REPLY_CHARACTERS, REPLY_TOKENS

STOPS = ("end", "length", "refusal")  # why a reply ended; "length": cut off at max_tokens
# Tokens of a request beside its text, at most: the provider's template, the schema of the reply.
_AROUND_TEXT = 2_000
# Spaces are bounded: a reply is searched in time proportional to its length.
_FENCED = re.compile(r"```(?:json)?[^\S\n]{0,100}\n(.*?)```", re.DOTALL)


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
            if len(value) > FIELD_CHARACTERS:
                raise InvalidReply(
                    f"items[{number}].{name} has {len(value):,} characters, more than "
                    f"{int(FIELD_CHARACTERS):,}"
                )
            allowed = self.choices.get(name)
            if allowed and value not in allowed:
                raise InvalidReply(f"items[{number}].{name} must be one of {', '.join(allowed)}")
        # JSON can spell half of a surrogate pair, which no later prompt could be sent with.
        return {name: without_surrogates(row[name].strip()) for name in self.fields}


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
            except (ValueError, RecursionError):
                continue
    raise InvalidReply("no complete JSON value in the reply")


@dataclasses.dataclass(frozen=True)
class Request:
    """One thing to write, or to judge. Its texts are made such that UTF-8 can encode them."""

    step: str  # of the pipeline: "domains", "document", "judge", ...; replies are counted by it
    system: str  # what many requests share (the spec); sent first, so that it can be cached
    prompt: str  # the rest of what a language model reads
    # The same as data, for the stub, which does not read prompts.
    inputs: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    items: Items | None = None  # the structure of the reply; None: free text
    max_tokens: int = 2000  # of the reply
    sample: int = 0  # distinguishes requests that are otherwise equal: each is another draw

    def __post_init__(self) -> None:
        for name in ("system", "prompt"):
            object.__setattr__(self, name, without_surrogates(getattr(self, name)))

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
    # Replies among these whose tokens the provider did not report, or not as numbers that can be:
    # what is counted for them is the most that they can be.
    unreported: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        pairs = zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)
        return Usage(*(a + b for a, b in pairs))

    @staticmethod
    def reported(request: Request, text: str, *tokens: Any) -> "Usage":
        """What a provider reports of a reply; where that cannot be, the most that it can be.

        Args:
          tokens: read, written, read from the cache, written to the cache.
        """
        counts = [count for count in map(token_count, tokens) if count is not None]
        # A request is never empty, and a text has tokens: zeros there are no report.
        if len(counts) == len(tokens) and sum(counts) > counts[1] and (counts[1] or not text):
            return Usage(*counts)
        return Usage.most(request)

    @staticmethod
    def most(request: Request) -> "Usage":
        """The most tokens that a reply to a request can have: none is shorter than a byte."""
        read = len(request.system.encode()) + len(request.prompt.encode()) + _AROUND_TEXT
        return Usage(read, request.max_tokens, unreported=1)

    def as_dict(self) -> dict[str, Any]:
        """As JSON; `unreported` only where it is not 0."""
        found = dataclasses.asdict(self)
        return found if self.unreported else {n: v for n, v in found.items() if n != "unreported"}

    @staticmethod
    def of_row(row: Any) -> "Usage":
        """From `as_dict`. A reply that was kept is paid for, so what cannot be is unreported."""
        if isinstance(row, Mapping) and row.keys() <= Usage.__dataclass_fields__.keys():
            usd = row.get("usd", 0.0)
            counts = {name: token_count(value) for name, value in row.items() if name != "usd"}
            if None not in counts.values() and _is_number(usd) and 0 <= usd < 1e9:
                return Usage(**counts, usd=float(usd))  # type: ignore[arg-type]
        return Usage(unreported=1)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def token_count(value: Any) -> int | None:
    """A number of tokens; None if it is none that can be."""
    if not _is_number(value) or not 0 <= value <= REPLY_TOKENS:  # also NaN and 10 ** 400
        return None
    return int(value) if value == int(value) else None


@dataclasses.dataclass(frozen=True)
class Reply:
    """What a model wrote.

    Raises:
      ValueError: it is none that can be used: no text, too long a text, an unknown end.
    """

    text: str
    stop: str = "end"  # of `STOPS`
    usage: Usage = Usage()
    model: str = ""  # its name as the server reports it; "" where it reports none

    def __post_init__(self) -> None:
        if not isinstance(self.text, str):
            raise ValueError(f"its text is of type {type(self.text).__name__}")
        if len(self.text) > REPLY_CHARACTERS:
            raise ValueError(f"{len(self.text):,} characters, more than {REPLY_CHARACTERS}")
        if self.stop not in STOPS or not isinstance(self.model, str):
            raise ValueError("its end or its model is unknown")
        object.__setattr__(self, "text", without_surrogates(self.text))

    def row(self, step: str) -> dict[str, Any]:
        """For a `Journal`."""
        own = {"text": self.text, "stop": self.stop, "usage": self.usage.as_dict()}
        return {"step": step, **own, "model": self.model}

    @staticmethod
    def of_row(row: Mapping[str, Any]) -> "Reply":
        """From a `Journal`; also from a judge's cache as it was written before 2026-11-27.

        Raises:
          ValueError, LookupError, TypeError: the row is no reply.
        """
        if "reply" in row:
            old = row["reply"]
            return Reply(old["text"], old["finish"], model=old["model"])
        usage = Usage.of_row(row.get("usage"))
        return Reply(row["text"], row["stop"], usage, row.get("model", ""))


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

    @property
    def lost(self) -> Usage:
        """The most that was spent on replies that arrived and could not be used."""

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
        # Tokens that were not reported may all have been written to the provider's cache.
        read = max(self.input, self.cache_write) if usage.unreported else self.input
        usd = (
            usage.input_tokens * read
            + usage.output_tokens * self.output
            + usage.cache_read_tokens * self.cache_read
            + usage.cache_write_tokens * self.cache_write
        )
        return dataclasses.replace(usage, usd=usd * discount / 1e6)
