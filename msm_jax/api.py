"""A model in a notebook: what `msm_jax.load` returns."""

import bisect
import collections
import dataclasses
import functools
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
from msm_jax.errors import UserError, located
from msm_jax.files import read_object
from msm_jax.loading import ChatSource, choose_chat, is_checkpoint, read_model
from msm_jax.model import ModelConfig, batch_sharding, forward, logits, make_mesh
from msm_jax.model.adapter import join, merge, without_adapter
from msm_jax.model.cudnn import documents_in
from msm_jax.model.decode import stacked, unstacked
from msm_jax.model.kernels import documents_bound
from msm_jax.outputs import output_dir
from msm_jax.sample import Sample
from msm_jax.sample.sampler import by_prompt, check_prompts
from msm_jax.sample.settings import before_stop, stop_texts
from msm_jax.train.loss import token_logprobs
from msm_jax.weights import export, peft
from msm_jax.weights.checkpoints import model_facts
from msm_jax.weights.fingerprint import params_fingerprint

TWICE_FITS = 0.4  # of a device's memory: larger weights do not fit stacked and unstacked at once
SAVED_AS = ("huggingface", "peft", "orbax")
Message = Mapping[str, Any]
Prompt = str | Sequence[int] | Sequence[Message]


@dataclasses.dataclass(frozen=True, eq=False)
class Model:
    """Weights, their tokenizer and their chat format.

    A prompt is a text to continue, a list of messages to answer, or token ids as they are.

    Attributes:
      params: nested dict of arrays.
      chat_format: a name that `find_format` knows.
      directory: of the base's tokenizer and settings, which are saved with the weights.
      stop_ids: tokens that end a completion, beside the ends of a turn and of a document.
      context_length: tokens that the model was made for, prompt and completion together
        (max_position_embeddings); None: no bound.
      mesh: that shards the weights; None: they are on one device.
      chat_source: where the chat format comes from; None: from `chat_format` and `directory`.
      base: path of the checkpoint that an adapter belongs to, as peft is to load it.
    """

    config: ModelConfig
    params: dict
    tokenizer: Tokenizer
    chat_format: str
    directory: pathlib.Path | None = None
    stop_ids: tuple[int, ...] = ()
    context_length: int | None = None
    mesh: jax.sharding.Mesh | None = None
    chat_source: ChatSource | None = None
    base: str | None = None

    @functools.cached_property
    def format(self) -> ChatFormat:
        """The chat format; UserError if the model has none."""
        return find_format(self.chat_format, self._place, self.tokenizer, self.directory)

    @property
    def _place(self) -> pathlib.Path:
        """The directory of the template, if the format is "own"."""
        return self.chat_source.place if self.chat_source else self.directory or pathlib.Path()

    @property
    def ends(self) -> tuple[int, ...]:
        """Ids of all tokens that end a completion, that of a turn first."""
        known = self.tokenizer.control_names
        names = [self._turn_end, self.tokenizer.end_of_document]
        ids = [self.tokenizer.control(name) for name in names if name in known]
        return tuple(dict.fromkeys([*ids, *self.stop_ids]))

    @property
    def _turn_end(self) -> str:
        """The control token that ends a turn; "" for a model without a chat format."""
        try:
            return self.format.end
        except UserError:  # raised again when a chat is encoded; texts need no format
            return ""

    def logits(self, tokens: Sequence[Sequence[int]]) -> np.ndarray:
        """int32[B, T] token ids -> float32[B, T, V] scores of the next token.

        Raises:
          UserError: rows that are longer than `context_length` or not of one length; other numbers
            than ids.
        """
        check_prompts(self.config, tokens, self.config.vocab_size, self.context_length, room=0)
        if len(set(map(len, tokens))) != 1 or np.asarray(tokens).dtype.kind not in "iu":
            raise UserError("tokens must be ids [B, T]: whole numbers, as many in every row")
        return np.asarray(_all_logits(self.config, self.params, np.asarray(tokens, np.int32)))

    def logprobs(
        self, prompts: Sequence[Prompt], completions: Sequence[str | Sequence[int]], rows: int = 64
    ) -> list[np.ndarray]:
        """One float32 array per completion: the log-probability of each of its tokens.

        Completions that are texts are encoded separately from their prompts, without an end token.
        Rows of the vocabulary without an id in the tokenizer have no probability.

        Raises:
          UserError: as `msm_jax.sample.logprobs`, such as for what exceeds `context_length`.
        """
        return sampling.logprobs(
            self.config,
            self.params,
            self._encoded(prompts),
            [  # without a begin-of-text token
                self.tokenizer.encode(each)
                if isinstance(each, str)
                else [*map(operator.index, each)]
                for each in completions
            ],
            vocab_limit=self.tokenizer.vocab_size,
            context_length=self.context_length,
            rows=rows,
            mesh=self.mesh,
        )

    def token_logprobs(self, batch: Mapping[str, np.ndarray]) -> np.ndarray:
        """float32[B, T]: the log-probability of each target of a batch, as training computes it.

        Args:
          batch: as of `msm_jax.data.pipeline.as_batch`.

        Raises:
          UserError: rows or tokens that the mesh does not divide.
        """
        config = dataclasses.replace(self.config, attention="auto", remat="none")
        documents = documents_bound(documents_in(np.asarray(batch["segment_ids"])), self.mesh)
        if self.mesh is not None:
            place = batch_sharding(self.mesh, *batch["tokens"].shape)
            batch = {name: jax.device_put(array, place) for name, array in batch.items()}
        return np.asarray(token_logprobs(config, self.params, dict(batch), self.mesh, documents))

    def sample(self, prompts: Sequence[Prompt], n: int = 4, **settings: Any) -> list[list[Sample]]:
        """n samples per prompt, with their texts. Other settings are those of `stream`."""
        return by_prompt(len(prompts), self.stream(prompts, n, **settings))

    def stream(
        self,
        prompts: Sequence[Prompt],
        n: int = 4,
        *,
        max_tokens: int = 256,
        temperature: float = 0.7,
        stop: str | Sequence[str] = (),
        context_length: int | None = None,
        **draw: Any,
    ) -> Iterator[Sample]:
        """n samples per prompt, each as soon as it has ended.

        A sample depends on (seed, prompt, index), not on the other prompts. It ends at the end of a
        turn or document, at one of the checkpoint's own stop ids, or before a text of `stop`; a
        token that is partly before that text is kept.

        Args:
          max_tokens, temperature: as for `msm_jax.sample.stream`; temperature 0 is greedy.
          stop: one text or several; the name of a control token is that token, too.
          context_length: replaces the model's own. A completion that fills it ends there with
            "length" and a warning.
          draw: top_k, top_p, min_p, seed, first, limits and rows of `msm_jax.sample.stream`.

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
            max_tokens=max_tokens,
            temperature=temperature,
            stop_ids=sorted({*self.ends, *ids}),
            stop=functools.partial(_kept, text_of, stops) if stops else None,
            vocab_limit=self.tokenizer.vocab_size,
            context_length=context,
            mesh=self.mesh,
            **draw,
        ):
            used = len(encoded[answer.prompt])
            if sampling.filled_context(answer, used, max_tokens, context):
                warnings.warn(
                    f"a completion was ended by the model's context of {context:,} tokens "
                    "(max_position_embeddings), before max_tokens; others may be, too",
                    stacklevel=2,
                )
            text = text_of(answer.tokens) if answer.text is None else answer.text
            yield dataclasses.replace(answer, text=text)

    def _stops(self, stops: Sequence[str]) -> tuple[tuple[str, ...], list[int]]:
        """Texts, and ids of control tokens, which leave no trace in a completion's text."""
        known = self.tokenizer.control_names
        for stop in stops:
            names = [name for name in known if name in stop]
            text_of = lambda name: self.tokenizer.decode([self.tokenizer.control(name)])
            hidden = [name for name in names if name not in text_of(name)]
            if hidden and stop not in known:
                raise UserError(
                    f"stop={stop!r}: a completion's text never holds the control token "
                    f"{hidden[0]!r}: give that alone, or a text without it"
                )
        return tuple(stops), [self.tokenizer.control(stop) for stop in stops if stop in known]

    def chat(self, messages: Sequence[Message], **settings: Any) -> dict[str, str]:
        """The assistant's next message, {"role", "content"}. Settings are those of `stream`."""
        ((answer,),) = self.sample([messages], 1, **{"rows": 1, **settings})
        return {"role": "assistant", "content": str(answer.text)}

    def render(
        self,
        messages: Sequence[Message],
        generation_prompt: bool = False,
        tools: Sequence[Mapping] | None = None,
    ) -> tuple[list[int], list[int]]:
        """Token ids of a conversation, and for each 1 if it has loss, else 0.

        Args:
          messages, generation_prompt, tools: as for `msm_jax.data.chat.render_chat`.
        """
        return render_chat(self.tokenizer, self.format, messages, generation_prompt, tools)

    def encode(self, prompt: Prompt) -> list[int]:
        """Token ids of a prompt; messages are followed by the opening of the assistant's turn.

        Messages that end with the assistant's own are refused. A text begins as documents do in
        training: with the begin-of-text token that tokenizer.json's post-processor adds (Llama 3).
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
        """Token ids of prompts; an error names the prompt's number."""
        found = []
        for number, prompt in enumerate(prompts):
            with located(f"prompt {number}"):
                found.append(self.encode(prompt))
        return found

    def identity(self) -> dict:
        """What decides the completions, as JSON; it does not depend on directories or devices."""
        return {
            "params": params_fingerprint(self.params),
            "config": model_facts(self.config),
            "tokenizer": self.tokenizer.fingerprint,
            # what is written, and not by which name: a built-in format is exported as "own"
            "chat": self.format.fingerprint[:16] if self._turn_end else None,
            "ends": sorted(self.ends),
        }

    def with_adapter(self, directory: str | os.PathLike | None) -> "Model":
        """This model with a PEFT adapter instead of any it has, or with none.

        The base weights are shared, not copied. As with `load(path, adapter)`, an adapter's chat
        template becomes the model's, unless another format was requested when it was loaded.

        Raises:
          UserError: an adapter that is damaged, does not fit, or needs what is not supported.
        """
        model = self
        if (source := self.chat_source) and self.directory:
            source = choose_chat(
                self.directory, directory, self.tokenizer, source.requested, source.recorded
            )
            model = dataclasses.replace(self, chat_format=source.name, chat_source=source)
        return model._with_weights(directory)

    def _with_weights(self, directory: str | os.PathLike | None) -> "Model":
        """This model with an adapter's weights, or with none, and its own chat format."""
        base = without_adapter(self.params)
        if directory is None:
            plain = dataclasses.replace(self.config, lora_rank=0)
            return dataclasses.replace(self, config=plain, params=base)
        self._compare_base(pathlib.Path(directory))
        config, adapter = peft.load_adapter(directory, self.config, self.mesh)
        adapter = unstacked(adapter) if isinstance(base["layers"], tuple) else adapter
        return dataclasses.replace(self, config=config, params=join(base, adapter))

    def _compare_base(self, adapter: pathlib.Path) -> None:
        """Warn if an adapter names another base model; the names of directories are compared."""
        named = read_object(adapter / peft.CONFIG_FILE).get("base_model_name_or_path")
        if not (isinstance(named, str) and self.base and self.directory):
            return
        original = (export.hf_settings(self.directory) or {}).get("_name_or_path")
        known = f"{os.path.realpath(self.base)} {os.path.realpath(self.directory)} {original}"
        if os.path.basename(os.path.normpath(named)).lower() not in known.lower():
            warnings.warn(
                f"{adapter}: was trained on {named!r} by its own account, and is put on "
                f"{self.base}: if that is another model, its outputs are meaningless",
                stacklevel=4,
            )

    def for_sampling(self, always: bool = False) -> "Model":
        """This model, with unstacked layers if its device has no room for a second copy.

        The sampler unstacks the layers into a copy of its own, for which there is no room if the
        weights take more than TWICE_FITS of a device's memory. Then this model's arrays are deleted
        one by one: use the model that is returned.
        """
        if not (always or _too_large_to_have_twice(self.params)):
            return self
        return dataclasses.replace(self, params=unstacked(self.params, consume=True))

    def merged(self) -> "Model":
        """This model with its adapter's contribution added to the weights.

        It is a new base for adapters, which has no path until it is saved.
        """
        config, params = merge(self.config, stacked(self.params))
        base = None if self.config.lora_rank else self.base
        return dataclasses.replace(self, config=config, params=params, base=base)

    def save(
        self, directory: str | os.PathLike, format: str = "huggingface", dtype: str | None = None
    ) -> None:
        """Write the model to a directory, which appears when it is complete.

        Args:
          directory: does not exist or is empty.
          format: "huggingface": a checkpoint that transformers and vLLM load, with any adapter
            merged in; "peft": the adapter alone; "orbax": a run directory, from which training can
            continue, with the adapter kept separate.
          dtype: of the stored weights, for "huggingface"; None: as they are.

        Raises:
          UserError: a directory that is not empty, another format, no adapter to save, weights in
            8 bits for "huggingface".
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
                chat = export.Chat(self.format, *self._template(), self.tokenizer, self.ends)
            export.save_checkpoint(directory, self.config, params, dtype, self.directory, chat=chat)
        elif format == "peft":
            self._save_adapter(directory, params)
        else:
            facts = {
                "chat_format": self.chat_format,
                "writes": self.format.fingerprint if self._turn_end else None,
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
        """The chat format as Jinja, and what the template refers to by name."""
        if self.chat_format not in OWN:
            return builtin_template(self.chat_format), {}
        export.carried(self._place)  # it may be the adapter's directory
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


def _kept(
    text_of: Callable[[Sequence[int]], str], stops: tuple[str, ...], tokens: Sequence[int]
) -> tuple[int, str] | None:
    """(how many tokens it takes to hold the text before a stop, that text); None without a stop."""
    text = before_stop(text_of(tokens), stops)
    if text is None:
        return None
    # Text only grows (except at a character with missing bytes), so bisection finds the first.
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
        directory, whose newest checkpoint is loaded.
      adapter: a PEFT adapter to put on it (adapter_config.json, adapter_model.safetensors).
      mesh: devices that share the weights, as a Mesh or as sizes such as {"fsdp": 4, "tensor": 2};
        None: the first device has them all.
      dtype: of weights and activations, "float32" or "bfloat16"; "int8" or "float8": bfloat16,
        with the weights of the projections in 8 bits; None: as stored.
      chat_format: "own" (the template of the adapter, or else of the checkpoint),
        "own-no-thinking", or a name in `CHAT_FORMATS`; None: the first that exists of the adapter's
        template, the format that the run was trained with, the checkpoint's template, and the
        format of the model's family.

    Raises:
      UserError: names everything that is missing, damaged, unknown or does not fit.
    """
    if mesh is not None and not isinstance(mesh, jax.sharding.Mesh):
        if not isinstance(mesh, Mapping):
            raise UserError(f"mesh={mesh!r}: must be a Mesh, or sizes such as {{'fsdp': 4}}")
        mesh = make_mesh(mesh)
    model = Model(**read_model(path, adapter, mesh, dtype, chat_format))
    return model if adapter is None else model._with_weights(adapter)


def _too_large_to_have_twice(params: dict) -> bool:
    """Whether some device's share of the weights is more than TWICE_FITS of its memory."""
    shares: collections.Counter = collections.Counter()
    for leaf in jax.tree.leaves(params):
        for shard in leaf.addressable_shards:
            shares[shard.device] += shard.data.nbytes
    memory = {device: (device.memory_stats() or {}).get("bytes_limit", 0) for device in shares}
    return any(share > TWICE_FITS * memory[device] > 0 for device, share in shares.items())


@functools.partial(jax.jit, static_argnums=0)
def _all_logits(config, params, tokens_BT):
    positions_BT = jnp.broadcast_to(jnp.arange(tokens_BT.shape[1]), tokens_BT.shape)
    ones_BT = jnp.ones_like(tokens_BT)
    hidden_BTD = forward(config, params, tokens_BT, ones_BT, positions_BT, documents=1)
    return logits(config, params, hidden_BTD)
