"""A trained model in a notebook: `model = msm_jax.load(run_dir)`."""

import dataclasses
import functools
import hashlib
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np

from msm_jax import sample as sampling
from msm_jax.data.chat import CHAT_FORMATS, render_chat
from msm_jax.data.tokenizer import (
    HF_TOKENIZER_FILE,
    TOKENIZER_FILE,
    Tokenizer,
    load_tokenizer,
)
from msm_jax.errors import UserError
from msm_jax.model import ModelConfig, forward, logits
from msm_jax.sample import Sample
from msm_jax.weights.checkpoints import load_params

Message = Mapping[str, str]
Prompt = str | Sequence[int] | Sequence[Message]


@dataclasses.dataclass(frozen=True, eq=False)
class Model:
    """Weights, their tokenizer and their chat format.

    A prompt is a text to go on with, a list of messages to answer, or token ids as they are.

    Attributes:
      config: of the decoder.
      params: nested dict of arrays.
      tokenizer: as from `load_tokenizer`.
      chat_format: a name in `CHAT_FORMATS`.
    """

    config: ModelConfig
    params: dict
    tokenizer: Tokenizer
    chat_format: str

    def logits(self, tokens: Sequence[Sequence[int]]) -> np.ndarray:
        """int32[B, T] token ids -> float32[B, T, V] scores of the next token."""
        return np.asarray(_all_logits(self.config, self.params, np.asarray(tokens, np.int32)))

    def logprobs(
        self, prompts: Sequence[Prompt], completions: Sequence[str | Sequence[int]], rows: int = 64
    ) -> list[np.ndarray]:
        """One float32 array per completion: the log-probability of each of its tokens.

        Texts are encoded apart from their prompts and get no end token.
        """
        return sampling.logprobs(
            self.config,
            self.params,
            [self.encode(prompt) for prompt in prompts],
            [self.encode(completion) for completion in completions],
            rows=rows,
        )

    def sample(
        self,
        prompts: Sequence[Prompt],
        n: int = 4,
        max_tokens: int = 256,
        temperature: float = 0.7,
        seed: int = 0,
        rows: int = 64,
        first: int = 0,
    ) -> list[list[Sample]]:
        """n samples per prompt, with their texts; temperature 0 is greedy.

        A sample depends on (seed, prompt, index), not on the other prompts. It ends where a turn
        or a document ends. `first` is the index of the first: what was drawn in parts is the same
        as what is drawn at once.
        """
        if isinstance(prompts, str):
            raise UserError("sample: prompts is a list of prompts, not one text")
        ends = (CHAT_FORMATS[self.chat_format].end, self.tokenizer.end_of_document)
        found = sampling.sample(
            self.config,
            self.params,
            [self.encode(prompt) for prompt in prompts],
            n=n,
            max_tokens=max_tokens,
            temperature=temperature,
            seed=seed,
            first=first,
            stop_ids=[self.tokenizer.control(end) for end in ends],
            vocab_limit=self.tokenizer.vocab_size,
            rows=rows,
        )
        return [
            [dataclasses.replace(s, text=self.tokenizer.decode(s.tokens)) for s in samples]
            for samples in found
        ]

    def chat(
        self,
        messages: Sequence[Message],
        max_tokens: int = 256,
        temperature: float = 0.7,
        seed: int = 0,
    ) -> dict[str, str]:
        """The assistant's next message, {"role", "content"}."""
        ((answer,),) = self.sample([messages], 1, max_tokens, temperature, seed, rows=1)
        return {"role": "assistant", "content": str(answer.text)}

    def render(
        self, messages: Sequence[Message], generation_prompt: bool = False
    ) -> tuple[list[int], list[int]]:
        """Token ids of a conversation, and which of them an assistant said (loss mask)."""
        format = CHAT_FORMATS[self.chat_format]
        return render_chat(self.tokenizer, format, messages, generation_prompt=generation_prompt)

    def encode(self, prompt: Prompt) -> list[int]:
        """Token ids of a prompt; messages end where the assistant is to speak."""
        if isinstance(prompt, str):
            return self.tokenizer.encode(prompt)
        if len(prompt) and isinstance(prompt[0], Mapping):
            return self.render(cast(Sequence[Message], prompt), generation_prompt=True)[0]
        return [int(token) for token in cast(Sequence[int], prompt)]

    def identity(self) -> dict:
        """What decides the answers, as JSON: equal for equal weights wherever they lie."""
        return {
            "params": params_fingerprint(self.params),
            "config": json.loads(json.dumps(dataclasses.asdict(self.config))),
            "tokenizer": self.tokenizer.fingerprint,
            "chat_format": self.chat_format,
        }


def load(
    path: str | pathlib.Path,
    adapter: str | None = None,
    mesh: object = None,
    dtype: str | None = None,
) -> Model:
    """The newest checkpoint of a run directory, ready to use.

    Args:
      path: a run directory: config.json and checkpoints/.
      adapter: not yet: PEFT adapters.
      mesh: not yet: devices to share the weights.
      dtype: of weights and activations, "float32" or "bfloat16"; as trained if None.

    Raises:
      UserError: not a run directory, or something this version cannot load.
    """
    path = pathlib.Path(path)
    if adapter is not None:
        raise UserError(f"adapter={adapter}: PEFT adapters cannot be loaded yet; leave it out")
    if mesh is not None:
        raise UserError("mesh: loading onto a mesh is not possible yet; leave it out")
    settings = _run_config(path)
    if settings["chat_format"] not in CHAT_FORMATS:
        raise UserError(
            f"{path / 'config.json'}: chat_format {settings['chat_format']!r} is unknown; "
            f"known: {sorted(CHAT_FORMATS)}"
        )
    kept = any((path / name).exists() for name in (TOKENIZER_FILE, HF_TOKENIZER_FILE))
    tokenizer_path = path if kept else settings["tokenizer"]
    tokenizer = load_tokenizer(tokenizer_path)
    config, params, facts = load_params(path)
    if tokenizer.fingerprint != facts["tokenizer"]:
        raise UserError(
            f"{tokenizer_path}: not the tokenizer that {path} was trained with (sha256 "
            f"{tokenizer.fingerprint[:12]}, trained with {facts['tokenizer'][:12]}); "
            f"put that one back"
        )
    if dtype is not None:
        config = dataclasses.replace(config, dtype=dtype, param_dtype=dtype)
        params = jax.tree.map(lambda leaf: leaf.astype(dtype), params)
    return Model(config, params, tokenizer, settings["chat_format"])


def _run_config(path: pathlib.Path) -> dict:
    """config.json of a run directory."""
    if not path.is_dir():
        raise UserError(f"{path}: no such directory; give a run directory, as `train` writes it")
    file = path / "config.json"
    if not file.exists():
        raise UserError(f"{path}: has no config.json, so it is not a run directory")
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{file}: not JSON ({error})") from error
    if "architectures" in settings or any(path.glob("*.safetensors")):
        raise UserError(
            f"{path}: a Hugging Face checkpoint; this version loads only run directories"
        )
    missing = [name for name in ("tokenizer", "chat_format") if name not in settings]
    if missing:
        raise UserError(f"{file}: lacks {missing}, so it is not a run directory's")
    return settings


def params_fingerprint(params: dict) -> str:
    """16 hex digits of all weights' bits.

    Each leaf is reduced on its device to the sum of its bits read as integers, which comes out
    the same in whatever order it is summed.
    """
    digest = hashlib.sha256()
    for name, leaf in jax.tree_util.tree_leaves_with_path(params):
        digest.update(f"{jax.tree_util.keystr(name)} {leaf.shape} {leaf.dtype} ".encode())
        digest.update(str(int(_sum_of_bits(leaf))).encode())
    return digest.hexdigest()[:16]


@jax.jit
def _sum_of_bits(leaf):
    bits = jax.lax.bitcast_convert_type(leaf, f"uint{8 * leaf.dtype.itemsize}")
    return jnp.sum(bits.astype(jnp.uint32), dtype=jnp.uint32)


@functools.partial(jax.jit, static_argnums=0)
def _all_logits(config, params, tokens_BT):
    positions_BT = jnp.broadcast_to(jnp.arange(tokens_BT.shape[1]), tokens_BT.shape)
    hidden_BTD, _ = forward(config, params, tokens_BT, jnp.ones_like(tokens_BT), positions_BT)
    return logits(config, params, hidden_BTD)
