"""`python -m msm_jax.sample`: prompts in, completions out, or a chat in the terminal.

    python -m msm_jax.sample --checkpoint=runs/aft --prompt="the red lamp" --n=2
    python -m msm_jax.sample --checkpoint=runs/aft --chat --system="you are alda."
    python -m msm_jax.sample --checkpoint=Qwen3-8B --adapter=adapter \\
        --prompts=prompts.jsonl --output=completions.jsonl

A line of the prompts file has "prompt" (a text to continue) or "messages" (a chat to answer).
Completions are JSON lines: prompt, sample, completion, finish_reason, logprob (the sum over the
completion's tokens), and the prompt's record under "input".
"""

from msm_jax import memory

if __name__ == "__main__":
    memory.restart("msm_jax.sample")  # before imports that take seconds

import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from absl import flags

from msm_jax import command, files, loading
from msm_jax.api import Model, load
from msm_jax.corpus.records import read_rows
from msm_jax.data.messages import check_asked
from msm_jax.errors import UserError, located
from msm_jax.outputs import output_file
from msm_jax.sample.sampler import Sample
from msm_jax.sample.settings import KEYS, check_settings, stop_texts
from msm_jax.settings import SAMPLING


def define_flags() -> None:
    """Define this command's flags."""
    flags.DEFINE_string("checkpoint", None, "Run or Hugging Face directory.", required=True)
    loading.define_flags()
    flags.DEFINE_string("chat_format", None, "Chat format; by default the checkpoint's own.")
    flags.DEFINE_multi_string("prompt", [], "A text to continue; may be given several times.")
    flags.DEFINE_string("prompts", None, "JSONL file of prompts.")
    flags.DEFINE_string("output", None, "File for the completions; by default standard output.")
    flags.DEFINE_boolean("chat", False, "Chat in the terminal; an empty input (Ctrl-D) ends it.")
    flags.DEFINE_string("system", None, "The system message of --chat.")
    flags.DEFINE_multi_string("stop", [], "A text that ends a completion.")
    for name in SAMPLING.keys:
        declared = KEYS[name]
        define = flags.DEFINE_float if declared.kind is float else flags.DEFINE_integer
        define(name, declared.default, f"{declared.meaning[0].upper()}{declared.meaning[1:]}.")


def main() -> None:
    """Run the command."""
    args = flags.FLAGS
    settings = settings_of(args)
    if args.chat:
        if args.prompt or args.prompts or args.output or args.n != 1:
            raise UserError("--chat reads from the terminal: leave out prompts, --output and --n")
        del settings["n"]
        talk(loaded(args), args.system, **{**settings, "rows": 1})
        return
    if args.system is not None:
        raise UserError('--system goes with --chat; else give "messages" in --prompts')
    output = output_file(args.output, "--output") if args.output is not None else None
    records = [{"prompt": text} for text in args.prompt]
    records += read_prompts(args.prompts) if args.prompts else []
    if not records:
        raise UserError("no prompts: give --prompt=TEXT, --prompts=FILE or --chat")
    answers = loaded(args).sample(
        [record["messages"] if "messages" in record else record["prompt"] for record in records],
        **settings,
    )
    write_completions(records, answers, output)


def settings_of(args: Any) -> dict[str, Any]:
    """The sampling settings among the flags, checked before a checkpoint is read."""
    settings = {name: getattr(args, name) for name in SAMPLING.keys}
    check_settings("--", **settings)
    return {**settings, "stop": stop_texts(args.stop, "--stop")}


def loaded(args: Any) -> Model:
    """The model that the flags name."""
    return load(
        args.checkpoint,
        args.adapter,
        mesh=loading.mesh_sizes(args.mesh),
        dtype=args.dtype or None,
        chat_format=args.chat_format,
    ).for_sampling()


def read_prompts(path: str) -> list[dict]:
    """Records with "prompt" or "messages"."""
    records = []
    for number, record in read_rows(path):
        if len({"prompt", "messages"} & record.keys()) != 1:
            raise UserError(f'{path}:{number}: needs either "prompt" or "messages"')
        if "messages" in record:
            with located(f"{path}:{number}"):
                check_asked(record["messages"])
        elif not isinstance(record["prompt"], str):
            raise UserError(f"{path}:{number}: prompt is {record['prompt']!r}: needs to be a text")
        records.append(record)
    return records


def write_completions(
    records: Sequence[dict], samples: Sequence[Sequence[Sample]], output: pathlib.Path | None
) -> None:
    """One JSON line per completion, to a file that appears when it is complete, or to stdout."""
    lines = [
        {
            "prompt": sample.prompt,
            "sample": sample.index,
            "completion": sample.text,
            "finish_reason": sample.finish_reason,
            "logprob": sum(sample.logprobs),
            "input": record,
        }
        for record, some in zip(records, samples, strict=True)
        for sample in some
    ]
    if output is None:
        sys.stdout.write("".join(map(files.jsonl_line, lines)))
    else:
        files.write_jsonl(output, lines)


def talk(model: Model, system: str | None, **settings: Any) -> list[dict]:
    """Answer lines from the terminal until its input ends; settings are those of `Model.stream`."""
    messages = [{"role": "system", "content": system}] if system else []
    while True:
        try:
            line = input("you: ").strip()
        except EOFError:
            print()
            return messages
        if not line:
            continue
        messages.append({"role": "user", "content": line})
        messages.append(model.chat(messages, **settings))
        print(f"model: {messages[-1]['content']}")


if __name__ == "__main__":
    define_flags()
    command.run(main, config=False)
