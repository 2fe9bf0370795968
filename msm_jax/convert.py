"""`python -m msm_jax.convert`: converts checkpoints from one format into another, or checks them.

    python -m msm_jax.convert --source=Qwen3-8B --check
    python -m msm_jax.convert --source=Qwen3-8B --check --dtype=int8
    python -m msm_jax.convert --source=Qwen3-8B --target=runs/qwen3-8b --to=orbax
    python -m msm_jax.convert --source=runs/aft --target=published --to=huggingface
    python -m msm_jax.convert --source=runs/aft --target=adapter --to=peft
    python -m msm_jax.convert --source=Qwen3-8B --adapter=adapter --target=runs/adapted --to=orbax
    python -m msm_jax.convert --source=model.gguf --target=smollm2

A GGUF file becomes a Hugging Face checkpoint. Any other source is a Hugging Face checkpoint or a
run directory; `--adapter` puts a PEFT adapter on it.
In a Hugging Face checkpoint an adapter is merged into the weights; a run keeps it separate, so that
its training can continue; `--to=peft` writes it alone. The target appears when it is complete.
`--check --dtype=int8` (or float8) also computes how far the model with weights in 8 bits is from
the same in bfloat16, on the tokens of --text.
"""

import dataclasses
import importlib.resources
import os
import pathlib
import sys
import time
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING

from absl import flags

from msm_jax import command
from msm_jax.errors import UserError
from msm_jax.files import read_object
from msm_jax.outputs import output_dir

if TYPE_CHECKING:
    from msm_jax.api import Model
    from msm_jax.model import ModelConfig
    from msm_jax.weights.tensor_files import Stored

FORMS = ("huggingface", "peft", "orbax")
TEXT = "examples/philosophy.md"  # of msm_jax.spec; about 1,100 tokens
ROW, MOST = 256, 2048  # tokens of a text in one row, and in all


def main() -> None:
    """Run the command."""
    args = flags.FLAGS
    eight_bits = args.dtype in ("int8", "float8")
    if args.text and not (args.check and eight_bits):
        raise UserError("--text goes with --check and --dtype=int8 or float8")
    if args.check:
        if args.target or args.to:
            raise UserError("--check writes nothing: leave out --target and --to")
        if args.dtype and not eight_bits:
            raise UserError(f"--check compares int8 and float8 with bfloat16, not {args.dtype}")
        print("\n".join(check(args.source, args.adapter, args.chat_format)), flush=True)
        if eight_bits:
            print("\n".join(quality(args.source, args.dtype, args.adapter, args.text)))
        return
    if eight_bits:
        raise UserError(
            f"--dtype={args.dtype}: weights are put into 8 bits when a model is loaded, and not "
            "written so: give it to `sample` and `evaluate`, or model.param_dtype to `train`"
        )
    gguf = os.path.isfile(args.source)
    more = args.adapter or args.chat_format or args.to not in (None, "huggingface")
    if gguf and (more or not args.target):
        raise UserError(
            f"--source={args.source}: a GGUF file becomes a Hugging Face checkpoint, with --target "
            "and --dtype alone; convert that one for everything else"
        )
    if not gguf and not (args.target and args.to):
        raise UserError("--target and --to must be given, or --check")
    if args.to == "peft" and args.dtype:
        raise UserError("--to=peft writes float32, as PEFT does: leave out --dtype")
    target, start = output_dir(args.target, "--target"), time.perf_counter()
    if gguf:
        from msm_jax.weights.gguf_files import convert_gguf

        convert_gguf(args.source, target, args.dtype or "float32")
    else:
        from msm_jax.api import load
        from msm_jax.weights.export import carried

        for folder in filter(None, (args.source, args.adapter)):
            carried(pathlib.Path(folder))
        model = load(args.source, args.adapter, dtype=args.dtype, chat_format=args.chat_format)
        model.save(target, args.to)
    size, seconds = sum(f.stat().st_size for f in target.rglob("*")), time.perf_counter() - start
    print(f"{target}: {size / 1e9:.3f} GB in {seconds:.1f} s", file=sys.stderr)


def check(source: str, adapter: str | None = None, chat_format: str | None = None) -> list[str]:
    """What a checkpoint contains, in lines, if all its parts fit together.

    The weights are read once, to find numbers that are not finite.

    Raises:
      UserError: what does not fit; or, below these lines, which tensors are not finite.
    """
    from msm_jax.loading import is_checkpoint
    from msm_jax.weights.huggingface import find_checkpoint, not_finite
    from msm_jax.weights.tensor_files import in_lines

    path = pathlib.Path(source)
    if not is_checkpoint(path):
        raise UserError(f"{source}: a run directory; --check is for Hugging Face checkpoints")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        config, tensors = find_checkpoint(path)
        lines = _about(path, config, tensors, adapter, chat_format)
    lines += [f"warning     {warning.message}" for warning in caught]
    if damaged := not_finite(tensors):
        raise UserError(
            f"{path}: has weights that are not finite, so no other command loads it:\n"
            + "\n".join(lines)
            + "\nnot finite  "
            + in_lines(damaged).replace("\n  ", "\n            ")
        )
    return lines


def quality(
    source: str, dtype: str, adapter: str | None = None, text: str | None = None
) -> list[str]:
    """How far a model with weights in 8 bits is from the same in bfloat16, in lines.

    Computes the Kullback-Leibler divergence KL(bfloat16 || 8 bits) of the distribution of the next
    token, after every token of a text. At most MOST are taken, in rows of ROW.

    Raises:
      UserError: a model or text that cannot be loaded.
    """
    import jax
    import jax.numpy as jnp
    import numpy as np

    from msm_jax.api import load
    from msm_jax.spec.spec import load_spec
    from msm_jax.weights.dtypes import as_stored

    built_in = importlib.resources.files("msm_jax.spec").joinpath(TEXT)
    words = load_spec(text or str(built_in), "the assistant", "its maker").text
    plain = load(source, adapter, dtype="bfloat16")
    ids = plain.encode(words)[:MOST]
    length = min(ROW, len(ids))

    def logprobs(model: "Model") -> Iterator[jax.Array]:
        for at in range(0, len(ids) - length + 1, length):
            logits_TV = model.logits([ids[at : at + length]])[0]
            yield jax.nn.log_softmax(logits_TV[:, : model.tokenizer.vocab_size])

    wanted = list(map(np.asarray, logprobs(plain)))
    config = plain.config.stored_as(dtype)
    eight = dataclasses.replace(plain, config=config, params=as_stored(config, plain.params))
    kl, same = [], []
    for p_TV, q_TV in zip(wanted, logprobs(eight), strict=True):
        kl.append(jnp.sum(jnp.exp(p_TV) * (p_TV - q_TV), -1))
        same.append(p_TV.argmax(-1) == q_TV.argmax(-1))
    kl_T, same_T = np.concatenate(kl), np.concatenate(same)
    return [
        f"8 bits      {dtype} against bfloat16 on {kl_T.size} tokens of {text or TEXT}: KL per "
        f"token mean {kl_T.mean():.2g}, max {kl_T.max():.2g} nats; the most likely token is the "
        f"same after {same_T.mean():.1%} of them"
    ]


def _about(
    path: pathlib.Path,
    config: "ModelConfig",
    tensors: dict[str, "Stored"],
    adapter: str | None,
    chat_format: str | None,
) -> list[str]:
    from msm_jax import loading
    from msm_jax.data.template import find_format
    from msm_jax.data.tokenizer import load_tokenizer, tokenizer_file
    from msm_jax.weights import keys
    from msm_jax.weights.export import GENERATION
    from msm_jax.weights.hf_config import family
    from msm_jax.weights.names import entries

    largest = max(tensors, key=lambda name: tensors[name].bytes)
    kinds = ", ".join(sorted({stored.dtype.name for stored in tensors.values()}))
    count = sum(entry.size for entry in entries(config))
    lines = [
        f"model       {family(config)}: {config.layers} layers of width {config.width}, "
        f"{config.heads} heads of {config.head_dim}, {config.kv_heads} key/value heads, "
        f"mlp {config.mlp_width}, vocabulary {config.vocab_size}",
        f"            theta {config.rope_theta:g}, eps {config.norm_eps:g}, "
        f"{'tied' if config.tied_embeddings else 'untied'} head, "
        f"rope scaling {config.rope_scaling or 'none'}",
        f"parameters  {count:,} in {len(tensors)} tensors of {kinds}: none missing, none too many",
        f"largest     {largest} {list(tensors[largest].shape)}, "
        f"{tensors[largest].bytes / 1e6:.1f} MB",
    ]
    if adapter:
        lines += _about_adapter(config, adapter)
    tokenizer = load_tokenizer(path)
    loading.check_vocabulary(path, config, tokenizer)
    loading.check_keys(path)
    chat = loading.choose_chat(path, adapter, tokenizer, chat_format)
    format = find_format(chat.name, chat.place, tokenizer, path)
    ends = sorted({*loading.stop_ids(path), tokenizer.control(format.end)})
    lines += [
        f"tokenizer   {tokenizer_file(path).name}: {tokenizer.vocab_size} ids, "
        f"{len(tokenizer.control_names)} of them control tokens; "
        f"{config.vocab_size - tokenizer.vocab_size} rows of the model have no id",
        f"chat        {chat.name}: a completion ends with {format.end}; stop ids {ends}",
    ]
    settings = read_object(path / GENERATION, optional=True)
    if some := {k: v for k, v in settings.items() if k in keys.SAMPLING and not keys.is_off(v)}:
        words = keys.in_words(some)
        lines.append(f"sampling    {words}: not applied; give your own to sample and evaluate")
    return lines


def _about_adapter(config: "ModelConfig", adapter: str) -> list[str]:
    from msm_jax.weights import peft

    file = pathlib.Path(adapter) / peft.CONFIG_FILE
    settings = read_object(file)
    config = peft.adapted(config, settings, str(file))
    peft.find_adapter(adapter, config)
    count = sum(entry.size for entry in peft.adapter_entries(config))
    targets = ", ".join(config.lora_targets)
    return [
        f"adapter     rank {config.lora_rank}, alpha {config.lora_alpha:g} on {targets}: "
        f"{count:,} parameters, none missing, none too many",
        f"            trained on {settings.get('base_model_name_or_path')!r}, as it says itself",
    ]


if __name__ == "__main__":
    flags.DEFINE_string(
        "source", None, "Checkpoint or run directory, or a .gguf file.", required=True
    )
    flags.DEFINE_string("adapter", None, "Directory of a PEFT adapter to put on the source.")
    flags.DEFINE_string("target", None, "Directory to write; does not exist yet, or is empty.")
    flags.DEFINE_enum("to", None, FORMS, "Format to write.")
    flags.DEFINE_enum(
        "dtype",
        None,
        ("float32", "bfloat16", "int8", "float8"),
        "Of the written weights, by default as they are; int8 and float8 only with --check.",
    )
    flags.DEFINE_string("chat_format", None, "Chat format of the target; by default the source's.")
    flags.DEFINE_boolean("check", False, "Check the source and write nothing.")
    flags.DEFINE_string(
        "text", None, "Text file to compare 8 bits and bfloat16 on; by default a spec of ours."
    )
    command.run(main, config=False)
