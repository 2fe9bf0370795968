"""`python -m msm_jax.generate`: a spec becomes documents or chats.

    python -m msm_jax.generate --config=configs/corpus/example.py --workdir=runs/example --preview
    python -m msm_jax.generate --config=configs/corpus/example.py --workdir=runs/example

Kill it whenever you like: the same command goes on, and pays for nothing twice. The config's keys
are those of msm_jax/corpus/config.py. Keys of providers are read from the environment
(ANTHROPIC_API_KEY, OPENAI_API_KEY). Exit codes: 0 done, 2 a mistake or a provider that refuses.
"""

import sys
from collections.abc import Callable, Sequence

from absl import flags

from msm_jax import command
from msm_jax.outputs import output_dir


def main() -> None:
    """The command."""
    from msm_jax.corpus.config import GENERATE
    from msm_jax.corpus.run import Generation
    from msm_jax.settings import checked

    config = checked(GENERATE, flags.FLAGS.config)
    workdir = output_dir(flags.FLAGS.workdir, "--workdir")
    workdir.mkdir(parents=True, exist_ok=True)
    bar = Bar()
    generation = Generation(
        config, workdir, bar.say, bar.reply, token_counter(config.tokenizer), local_sampler
    )
    found = generation.run(preview=flags.FLAGS.preview)
    bar.close()
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


class Bar:
    """Lines, and a progress bar where stderr is a terminal."""

    def __init__(self):
        self._bar, self._step = None, ""

    def say(self, text: str) -> None:
        """A line on stdout, clear of the bar."""
        self.close()
        print(text, flush=True)

    def reply(self, step: str, expected: int) -> None:
        """One more reply of a step of which so many are expected."""
        if not sys.stderr.isatty():
            return
        if self._bar is None or self._step != step or self._bar.n >= self._bar.total:
            self.close()
            from tqdm import tqdm

            self._bar, self._step = tqdm(total=expected, desc=step, unit=" replies"), step
        self._bar.update()

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def token_counter(path: str) -> Callable[[str], int] | None:
    """How many tokens the tokenizer at `path` makes of a text; None without one."""
    if not path:
        return None
    from msm_jax.data.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(path)
    return lambda text: len(tokenizer.encode(text))


def local_sampler(checkpoint: str):
    """Our own sampler on a checkpoint, as `corpus.backends.Generate`."""
    import msm_jax

    model = msm_jax.load(checkpoint)

    def generate(
        conversations: Sequence[Sequence[dict[str, str]]], max_tokens: int, temperature: float,
        seeds: Sequence[int],
    ) -> list[tuple[str, bool]]:  # fmt: skip
        found = []
        # A sample depends on its seed and its prompt; equal seeds are drawn together.
        for seed in dict.fromkeys(seeds):
            prompts = [c for c, own in zip(conversations, seeds, strict=True) if own == seed]
            found += list(zip(
                [at for at, own in enumerate(seeds) if own == seed],
                model.sample(
                    prompts, 1, max_tokens=max_tokens, temperature=temperature, seed=seed
                ),
                strict=True,
            ))  # fmt: skip
        ordered = [samples[0] for _, samples in sorted(found, key=lambda pair: pair[0])]
        return [(str(s.text), s.finish_reason != "length") for s in ordered]

    return generate


if __name__ == "__main__":
    flags.DEFINE_string("workdir", None, "Directory of the corpus; made if missing.", required=True)
    flags.DEFINE_bool("preview", False, "Stop after the outline; print tokens and money by step.")
    command.run(main)
