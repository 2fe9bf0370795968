"""`python -m msm_jax.generate`: a spec becomes documents or chats.

    python -m msm_jax.generate --config=configs/corpus/example.py --workdir=runs/example \\
        --config.writer.kind=openai --config.writer.base_url=http://localhost:8000/v1 \\
        --config.writer.model=Qwen/Qwen3-32B --preview

Without --preview the corpus is written. It can be killed at any time: the same command goes on and
pays for nothing twice. The config's keys are those of msm_jax/corpus/config.py. Keys of providers
are read from the environment (ANTHROPIC_API_KEY, OPENAI_API_KEY). Exit codes: 0 done, 2 a mistake
or a provider that refuses.
"""

import contextlib
from collections.abc import Callable, Sequence

from absl import flags

from msm_jax import command
from msm_jax.outputs import output_dir
from msm_jax.progress import progress_bar


def main() -> None:
    """The command."""
    from msm_jax.corpus.config import GENERATE
    from msm_jax.corpus.run import Generation
    from msm_jax.settings import checked

    config = checked(GENERATE, flags.FLAGS.config)
    workdir = output_dir(flags.FLAGS.workdir, "--workdir")
    workdir.mkdir(parents=True, exist_ok=True)
    counter = token_counter(config.tokenizer)
    with StepOutput() as output:
        generation = Generation(config, workdir, output.say, output.reply, counter, local_sampler)
        found = generation.run(preview=flags.FLAGS.preview)
    if flags.FLAGS.preview or config.make == "spec":
        return
    diversity, dropped = found["diversity"], sum(found["dropped"].values())
    print(
        f"self-BLEU {diversity['self_bleu']} (published corpora .40, .385), "
        f"zlib {diversity['zlib']} (.365, .390)\n"
        f"{found['records']:,} records, {found['tokens']['sum']:,} tokens "
        f"({found['tokens_are']}); distinct 3-grams {diversity['distinct_3grams']}, "
        f"near-duplicates {diversity['near_duplicates']}, dropped {dropped:,}\n"
        f"corpus: {workdir / 'manifest.json'}\npage:   {workdir / 'corpus.html'}"
    )


class StepOutput(contextlib.ExitStack):
    """Lines on stdout, and a progress bar for the replies of each step."""

    def __init__(self):
        super().__init__()
        self._step, self._bar = "", progress_bar(0, "", hidden=True)

    def say(self, text: str) -> None:
        """Prints a line, and ends the bar."""
        self.close()
        self._step = ""
        print(text, flush=True)

    def reply(self, step: str, expected: int) -> None:
        """Counts a reply of a step of which so many are expected."""
        if step != self._step or self._bar.n >= self._bar.total:
            self.close()
            self._step = step
            self._bar = self.enter_context(progress_bar(expected, step, "replies"))
        self._bar.update()


def token_counter(path: str) -> Callable[[str], int] | None:
    """How many tokens the tokenizer at `path` makes of a text; None without one."""
    if not path:
        return None
    from msm_jax.data.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(path)
    return lambda text: len(tokenizer.encode(text))


def local_sampler(checkpoint: str):
    """The sampler of a checkpoint, as `corpus.writers.local.Generate`."""
    import msm_jax

    model = msm_jax.load(checkpoint)

    def generate(
        conversations: Sequence[Sequence[dict[str, str]]], limit: int, temperature: float, seed: int
    ) -> list[tuple[str, bool]]:
        settings = {"max_tokens": limit, "temperature": temperature, "seed": seed}
        found = model.sample(conversations, 1, **settings)
        return [(str(sample.text), sample.finish_reason != "length") for (sample,) in found]

    return generate


if __name__ == "__main__":
    flags.DEFINE_string("workdir", None, "Directory of the corpus; made if missing.", required=True)
    flags.DEFINE_bool("preview", False, "Stop after the outline; print tokens and money by step.")
    command.run(main)
