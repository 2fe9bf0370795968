"""A model in a notebook: what `msm_jax.load` returns."""

import bisect
import collections
import dataclasses
import functools
import json
import operator
import os
import pathlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from msm_jax import sample as sampling
from msm_jax.data.chat import ChatFormat, builtin_template, render_chat
from msm_jax.data.messages import check_asked
from msm_jax.data.template import (
    OWN,
    find_format,
    find_template,
    portable,
    special_tokens,
    template_names,
)
from msm_jax.data.tokenizer import Tokenizer
from msm_jax.errors import UserError
from msm_jax.loading import Chat, choose_chat, is_checkpoint, read_parts
from msm_jax.model import ModelConfig, forward, logits, make_mesh
from msm_jax.model.adapter import join, without_adapter
from msm_jax.model.decode import stacked, unstacked
from msm_jax.outputs import output_dir
from msm_jax.sample import Sample
from msm_jax.sample.sampler import check_prompts
from msm_jax.sample.settings import before_stop, stop_texts
from msm_jax.weights import export, peft
from msm_jax.weights.fingerprint import params_fingerprint

TWICE_FITS = 0.4
SAVED_AS = ("huggingface", "peft", "orbax")
Message = Mapping[str, Any]
Prompt = str | Sequence[int] | Sequence[Message]


@dataclasses.dataclass(frozen=True, eq=False)
class Model:
    """Weights, their tokenizer and their chat format.

    A prompt is a text to go on with, a list of messages to answer, or token ids as they are.

    Attributes:
      config: of the decoder.
      params: nested dict of arrays.
      tokenizer: as from `load_tokenizer`.
      chat_format: a name that `find_format` knows.
      directory: of the base's tokenizer and settings, to be saved with the weights.
      stop_ids: tokens that end an answer, beside the ends of a turn and of a document.
      context_length: tokens that the model was made for, prompt and answer together
        (max_position_embeddings); None: not known, or not to be held to.
      mesh: that the weights are cut by; None: they lie on one device.
      chat_source: where the chat format comes from; None: from `chat_format` and `directory`.
      base: the checkpoint that an adapter lies on, by the path that peft is to load.
    """

    config: ModelConfig
    params: dict
    tokenizer: Tokenizer
    chat_format: str
    directory: pathlib.Path | None = None
    stop_ids: tuple[int, ...] = ()
    context_length: int | None = None
    mesh: jax.sharding.Mesh | None = None
    chat_source: Chat | None = None
    base: str | None = None

    @functools.cached_property
    def format(self) -> ChatFormat:
        return find_format(self.chat_format, self._place, self.tokenizer, self.directory)

    @property
    def _place(self) -> pathlib.Path:
        """Where the template lies, if the format is "own"."""
        return self.chat_source.place if self.chat_source else self.directory or pathlib.Path()

    @property
    def ends(self) -> tuple[int, ...]:
        """Ids of all tokens that end an answer, that of a turn first."""
        known = self.tokenizer.control_names
        names = [self._turn_end, self.tokenizer.end_of_document]
        ids = [self.tokenizer.control(name) for name in names if name in known]
        return tuple(dict.fromkeys([*ids, *self.stop_ids]))

    @property
    def _turn_end(self) -> str:
        """The control token that ends a turn; "" for a model without a chat format."""
        try:
            return self.format.end
        except UserError:  # chats say so when they are encoded; texts need none
            return ""

    def logits(self, tokens: Sequence[Sequence[int]]) -> np.ndarray:
        """int32[B, T] token ids -> float32[B, T, V] scores of the next token.

        Raises:
          UserError: rows that are longer than `context_length`.
        """
        check_prompts(self.config, tokens, self.config.vocab_size, self.context_length, room=0)
        return np.asarray(_all_logits(self.config, self.params, np.asarray(tokens, np.int32)))

    def logprobs(
        self, prompts: Sequence[Prompt], completions: Sequence[str | Sequence[int]], rows: int = 64
    ) -> list[np.ndarray]:
        """One float32 array per completion: the log-probability of each of its tokens.

        Texts are encoded apart from their prompts and get no end token. Rows of the vocabulary
        that the tokenizer has no ids for have no probability.

        Raises:
          UserError: as `msm_jax.sample.logprobs`, such as for what exceeds `context_length`.
        """
        return sampling.logprobs(
            self.config,
            self.params,
            self._encoded(prompts),
            [self._continued(completion) for completion in completions],
            vocab_limit=self.tokenizer.vocab_size,
            context_length=self.context_length,
            rows=rows,
            mesh=self.mesh,
        )

    def sample(self, prompts: Sequence[Prompt], n: int = 4, **settings) -> list[list[Sample]]:
        """n samples per prompt, with their texts. Other settings are those of `stream`."""
        found: list[list[Sample]] = [[] for _ in prompts]
        for answer in self.stream(prompts, n, **settings):
            found[answer.prompt].append(answer)
        return [sorted(answers, key=lambda answer: answer.index) for answers in found]

    def stream(
        self,
        prompts: Sequence[Prompt],
        n: int = 4,
        *,
        max_tokens: int = 256,
        temperature: float = 0.7,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        seed: int = 0,
        stop: str | Sequence[str] = (),
        first: int = 0,
        limits: Callable[[int, int], int] | None = None,
        context_length: int | None = None,
        rows: int = 64,
    ) -> Iterator[Sample]:
        """n samples per prompt, each as soon as it has ended.

        A sample depends on (seed, prompt, index), not on the other prompts. It ends where a turn
        or a document ends, at one of the checkpoint's own stop ids, or with a text of `stop`. Its
        text and tokens are those before the stop; a token that is partly before it is kept.

        Args:
          prompts: texts to go on with, chats to answer, or token ids.
          n, max_tokens, temperature, top_k, top_p, min_p, seed, first, limits, rows: as for
            `msm_jax.sample.stream`; temperature 0 is greedy.
          stop: a text or several; the name of a control token is that token, too.
          context_length: in place of the model's own, to go beyond what it was made for. An answer
            that comes to it ends there with "length", and a warning says so.

        Raises:
          UserError: as `msm_jax.sample.stream`, and for an empty stop.
        """
        if isinstance(prompts, str):
            raise UserError("prompts is a list of prompts, not one text")
        text_of, (stops, ids) = self.tokenizer.decode, self._stops(stop_texts(stop))
        context = self.context_length if context_length is None else context_length
        encoded = self._encoded(prompts)
        for answer in sampling.stream(
            self.config,
            self.params,
            encoded,
            n=n,
            first=first,
            max_tokens=max_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            seed=seed,
            stop_ids=sorted({*self.ends, *ids}),
            stop=functools.partial(_kept, text_of, stops) if stops else None,
            vocab_limit=self.tokenizer.vocab_size,
            context_length=context,
            rows=rows,
            limits=limits,
            mesh=self.mesh,
        ):
            used = len(encoded[answer.prompt])
            if sampling.filled_context(answer, used, max_tokens, context):
                warnings.warn(
                    f"an answer was ended by the model's context of {context:,} tokens "
                    "(max_position_embeddings), before max_tokens; others may be, too",
                    stacklevel=2,
                )
            text = text_of(answer.tokens) if answer.text is None else answer.text
            yield dataclasses.replace(answer, text=text)

    def _stops(self, stops: Sequence[str]) -> tuple[tuple[str, ...], list[int]]:
        """Texts, and ids of control tokens, which leave no trace in an answer's text."""
        known = self.tokenizer.control_names
        for stop in stops:
            names = [name for name in known if name in stop]
            hidden = [
                n for n in names if n not in self.tokenizer.decode([self.tokenizer.control(n)])
            ]
            if hidden and stop not in known:
                raise UserError(
                    f"stop={stop!r}: an answer's text never holds the control token {hidden[0]!r}: "
                    "give that alone, or a text without it"
                )
        return tuple(stops), [self.tokenizer.control(stop) for stop in stops if stop in known]

    def chat(self, messages: Sequence[Message], **settings) -> dict[str, str]:
        """The assistant's next message, {"role", "content"}. Settings are those of `stream`."""
        ((answer,),) = self.sample([messages], 1, **{"rows": 1, **settings})
        return {"role": "assistant", "content": str(answer.text)}

    def render(
        self,
        messages: Sequence[Message],
        generation_prompt: bool = False,
        tools: Sequence[Mapping] | None = None,
    ) -> tuple[list[int], list[int]]:
        """Token ids of a conversation, and which of them are learned (loss mask).

        Args:
          messages, generation_prompt, tools: as for `msm_jax.data.chat.render_chat`.
        """
        return render_chat(self.tokenizer, self.format, messages, generation_prompt, tools)

    def encode(self, prompt: Prompt) -> list[int]:
        """Token ids of a prompt; messages end where the assistant is to speak.

        Messages that end with the assistant's own are refused. A text begins as a document does in
        training: where tokenizer.json's post-processor writes a begin-of-text token before texts
        (Llama 3), with it.
        """
        if isinstance(prompt, str):
            return [*self.tokenizer.start_ids, *self.tokenizer.encode(prompt)]
        if isinstance(prompt, Mapping):
            raise UserError("a prompt is one message alone: give a list of messages")
        try:
            chat = len(prompt) > 0 and isinstance(prompt[0], Mapping)
            if not chat:
                return [operator.index(token) for token in cast(Sequence[int], prompt)]
        except TypeError as error:
            raise UserError(
                f"{str(prompt)[:80]}: a prompt is a text, a list of messages, or a list of ids"
            ) from error
        check_asked(prompt)
        return self.render(cast(Sequence[Message], prompt), generation_prompt=True)[0]

    def _encoded(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        """Token ids of prompts; what is wrong with one names its number."""
        found = []
        for number, prompt in enumerate(prompts):
            try:
                found.append(self.encode(prompt))
            except UserError as error:
                raise UserError(f"prompt {number}: {error}") from error
        return found

    def _continued(self, text: str | Sequence[int]) -> list[int]:
        """Token ids of what goes on after a prompt: no begin-of-text token."""
        return self.tokenizer.encode(text) if isinstance(text, str) else [int(t) for t in text]

    def identity(self) -> dict:
        """What decides the answers, as JSON: equal for equal weights wherever they lie."""
        return {
            "params": params_fingerprint(self.params),
            "config": json.loads(json.dumps(dataclasses.asdict(self.config))),
            "tokenizer": self.tokenizer.fingerprint,
            # what is written, and not by which name: a built-in format is exported as "own"
            "chat": self.format.fingerprint[:16] if self._turn_end else None,
            "ends": sorted(self.ends),
        }

    def with_adapter(self, directory: str | os.PathLike | None) -> "Model":
        """This model with a PEFT adapter in place of any it has, or with none.

        The base weights are shared, not copied: many adapters over one base cost only themselves.
        Where the adapter brings a chat template, that is the model's from then on, unless another
        format was asked for when the model was loaded; as with `load(path, adapter)`.

        Raises:
          UserError: an adapter that is damaged, does not fit, or asks for what we do not compute.
        """
        model = self
        if (source := self.chat_source) and self.directory:
            source = choose_chat(
                self.directory, directory, self.tokenizer, source.asked, source.recorded
            )
            model = dataclasses.replace(self, chat_format=source.name, chat_source=source)
        base = without_adapter(self.params)
        if directory is None:
            plain = dataclasses.replace(self.config, lora_rank=0)
            return dataclasses.replace(model, config=plain, params=base)
        config, adapter = peft.load_adapter(directory, self.config, self.mesh)
        adapter = unstacked(adapter) if isinstance(base["layers"], tuple) else adapter
        return dataclasses.replace(model, config=config, params=join(base, adapter))

    def for_sampling(self, always: bool = False) -> "Model":
        """This model, with its layers apart if its device has no room for them in both forms.

        The sampler reads layers one by one and makes them so for itself; a model that takes more
        than TWICE_FITS of a device's memory it cannot have twice. This one's weights are given up
        then: go on with the model that is returned.
        """
        if not (always or _too_large_to_have_twice(self.params)):
            return self
        return dataclasses.replace(self, params=unstacked(self.params, consume=True))

    def merged(self) -> "Model":
        """This model with its adapter's contribution added to the weights.

        It is the base of adapters that are put on it then, and has no place until it is saved.
        """
        config, params = peft.merge(self.config, stacked(self.params))
        base = None if self.config.lora_rank else self.base
        return dataclasses.replace(self, config=config, params=params, base=base)

    def save(
        self, directory: str | os.PathLike, format: str = "huggingface", dtype: str | None = None
    ) -> None:
        """Write the model to a directory, which appears when it is complete.

        Args:
          directory: does not exist or is empty.
          format: "huggingface": a checkpoint that transformers and vLLM load, an adapter merged
            in; "peft": the adapter alone; "orbax": a run directory, from which training goes on,
            the adapter apart from the weights.
          dtype: that weights are stored in, for "huggingface"; None: as they are.

        Raises:
          UserError: a directory that holds something, another format, no adapter to save.
        """
        if format not in SAVED_AS:
            raise UserError(f"format={format!r}: one of {SAVED_AS}")
        if dtype is not None and format != "huggingface":
            raise UserError(f"dtype={dtype!r} goes with format='huggingface', not {format!r}")
        directory = output_dir(directory, "directory")
        params = stacked(self.params)
        if format == "huggingface":
            chat = None
            if self._turn_end:
                template, names = self._template()
                chat = export.Chat(self.format, template, names, self.tokenizer, self.ends)
            export.save_checkpoint(directory, self.config, params, dtype, self.directory, chat=chat)
        elif format == "peft":
            self._save_adapter(directory, params)
        else:
            facts = {
                "chat_format": self.chat_format,
                "tokenizer": self.tokenizer.fingerprint,
                "base": self.base if self.config.lora_rank else None,
            }
            own = None
            if self.chat_format in OWN and self._turn_end:
                template, names = self._template()
                names.pop("enable_thinking")  # which the name of the format says
                own = portable(template, names, special_tokens(self.directory or "."))
            export.save_run(directory, self.config, params, facts, self.directory, own)

    def _template(self) -> tuple[str, dict]:
        """The chat format as Jinja, and what that refers to by name."""
        if self.chat_format not in OWN:
            return builtin_template(self.chat_format), {}
        names = template_names(self._place, OWN[self.chat_format], self.directory)
        return str(find_template(self._place)), names

    def _save_adapter(self, directory: str | os.PathLike, params: dict) -> None:
        base = self.base
        if base is None and self.config.lora_rank:
            warnings.warn(
                f"{directory}: its base is a model that is not saved: save that one, and write "
                "where into base_model_name_or_path",
                stacklevel=3,
            )
        elif base and not pathlib.Path(base).is_dir():  # moved or deleted; its name on the hub
            base = (export.hf_settings(self.directory) or {}).get("_name_or_path") or base
        elif base and self.config.lora_rank and not is_checkpoint(base):
            warnings.warn(
                f"{directory}: its base is the run {base}, which peft cannot load: save that one "
                'with format="huggingface", and write where into base_model_name_or_path',
                stacklevel=3,
            )
        peft.save_adapter(directory, self.config, params, base)


def _kept(text_of, stops: tuple[str, ...], tokens: Sequence[int]) -> tuple[int, str] | None:
    """How many of the tokens it takes to hold the text before a stop, and it; None: no stop."""
    text = before_stop(text_of(tokens), stops)
    if text is None:
        return None
    # Text only grows (but for a character whose last bytes are to come): halving finds the first.
    holds = lambda count: text_of(tokens[:count]).startswith(text)
    return bisect.bisect_left(range(len(tokens)), True, key=holds), text


def load(
    path: str | os.PathLike,
    adapter: str | os.PathLike | None = None,
    mesh: jax.sharding.Mesh | Mapping[str, int] | None = None,
    dtype: str | None = None,
    chat_format: str | None = None,
) -> Model:
    """A model, ready to use.

    Args:
      path: a Hugging Face checkpoint (config.json, *.safetensors, tokenizer.json), or a run
        directory, whose newest checkpoint is taken.
      adapter: a PEFT adapter to put on it (adapter_config.json, adapter_model.safetensors).
      mesh: devices to share the weights, as a Mesh or as sizes such as {"fsdp": 4, "tensor": 2};
        None: the first device has them all.
      dtype: of weights and activations, "float32" or "bfloat16"; None: as stored.
      chat_format: "own" (the template: the adapter's, or else the checkpoint's),
        "own-no-thinking", or a name in `CHAT_FORMATS`; None: the adapter's template, the format
        that the run was trained with, the checkpoint's template, or what its family uses: the
        first that exists.

    Raises:
      UserError: what is missing, damaged, unknown or does not fit, all of it in one message.
    """
    if mesh is not None and not isinstance(mesh, jax.sharding.Mesh):
        if not isinstance(mesh, Mapping):
            raise UserError(f"mesh={mesh!r}: must be a Mesh, or sizes such as {{'fsdp': 4}}")
        mesh = make_mesh(mesh)
    parts = vars(read_parts(path, chat_format, mesh, dtype, adapter))
    chat = parts.pop("chat")
    model = Model(**parts, chat_format=chat.name, chat_source=chat, mesh=mesh)
    return model if adapter is None else model.with_adapter(adapter)


def _too_large_to_have_twice(params: dict) -> bool:
    """Whether some device's part of the weights is more than TWICE_FITS of its memory."""
    parts: collections.Counter = collections.Counter()
    for leaf in jax.tree.leaves(params):
        for shard in leaf.addressable_shards:
            parts[shard.device] += shard.data.nbytes
    memory = {device: (device.memory_stats() or {}).get("bytes_limit", 0) for device in parts}
    return any(part > TWICE_FITS * memory[device] > 0 for device, part in parts.items())


@functools.partial(jax.jit, static_argnums=0)
def _all_logits(config, params, tokens_BT):
    positions_BT = jnp.broadcast_to(jnp.arange(tokens_BT.shape[1]), tokens_BT.shape)
    hidden_BTD = forward(config, params, tokens_BT, jnp.ones_like(tokens_BT), positions_BT)
    return logits(config, params, hidden_BTD)
