"""Sampling beside `transformers.generate`: the same random model, the same work, in turn.

    python benchmarks/sample_speed.py                       # all three, about 10 minutes on 2 cores
    python benchmarks/sample_speed.py --only=unequal --rounds=5

one        1 answer of 128 tokens to a prompt of 200
shared     64 answers of 64 tokens to one prompt of 2,800: its keys are read once for all of them
unequal    64 prompts of 20 to 400 tokens, answers of 8 to 160 tokens: ours refills rows as they
           end, `generate` pads the prompts and goes on until the longest answer has ended

Both sides draw at temperature 1 in float32, with all cores, after ours has compiled in a round of
its own and theirs has drawn two tokens. Every answer's length is fixed: ours by `limits`, theirs by
a stopping criterion per row, as an end token would do it. Printed per case: tokens of answers per
second, the ratio (median over rounds, and its range), and the share of the roofline that ours
reaches: the bytes of weights and of keys and values that a step has to read (each prompt's once),
against the speed at which this machine sums an array of 1 GB.
"""

import argparse
import functools
import statistics
import time

import numpy as np

SIZES = {"vocab_size": 8192, "width": 512, "layers": 8, "heads": 8, "kv_heads": 4, "head_dim": 64,
         "mlp_width": 1536}  # fmt: skip


def cases():
    rng = np.random.default_rng(0)
    ids = lambda length: rng.integers(0, SIZES["vocab_size"], length).tolist()
    lengths = rng.integers(20, 401, 64)
    answers = np.minimum(rng.geometric(1 / 40, 64) + 7, 160)
    return {
        "one": ([ids(200)], [128]),
        "shared": ([ids(2800)] * 64, [64] * 64),
        "unequal": ([ids(int(length)) for length in lengths], answers.tolist()),
    }


def make_models():
    import tempfile

    import torch
    import transformers

    from msm_jax.model import ModelConfig
    from msm_jax.weights.huggingface import load_checkpoint

    config = ModelConfig(**SIZES)
    theirs = transformers.Qwen3ForCausalLM(
        transformers.Qwen3Config(
            vocab_size=config.vocab_size,
            hidden_size=config.width,
            intermediate_size=config.mlp_width,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.kv_heads,
            head_dim=config.head_dim,
            tie_word_embeddings=True,
            max_position_embeddings=4096,
            eos_token_id=None,
        )
    ).eval()
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        config, params = load_checkpoint(folder)
    return config, params, theirs


def ours(config, params, prompts, lengths, rows=64):
    """Seconds. Answers to one prompt are its samples; a stop after `lengths` tokens ends each."""
    from msm_jax.sample import stream

    together = {}
    for prompt, length in zip(prompts, lengths, strict=True):
        together.setdefault(tuple(prompt), []).append(length)
    start = time.perf_counter()
    asked = [list(prompt) for prompt in together]
    wanted = list(together.values())
    n = max(map(len, wanted))
    count = 0
    for answer in stream(
        config, params, asked, n=n, max_tokens=max(lengths), rows=min(rows, len(lengths)), seed=1,
        limits=lambda prompt, index: wanted[prompt][index],
    ):  # fmt: skip
        count += len(answer.tokens)
    assert count == sum(lengths), (count, sum(lengths))
    return time.perf_counter() - start


def theirs_seconds(model, prompts, lengths):
    import torch
    import transformers

    class StopAtLength(transformers.StoppingCriteria):
        def __init__(self, start, ends):
            self.start, self.ends = start, torch.tensor(ends)

        def __call__(self, ids, scores, **more):
            return ids.shape[1] - self.start >= self.ends

    longest = max(map(len, prompts))
    same = all(prompt == prompts[0] for prompt in prompts)
    rows = [prompts[0]] if same else prompts
    ids = torch.tensor([[0] * (longest - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    start = time.perf_counter()
    with torch.no_grad():
        model.generate(
            ids,
            attention_mask=mask,
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            max_new_tokens=max(lengths),
            num_return_sequences=len(prompts) // len(rows),
            pad_token_id=0,
            stopping_criteria=transformers.StoppingCriteriaList([StopAtLength(longest, lengths)]),
        )
    return time.perf_counter() - start


def bytes_needed(config, prompts, lengths):
    """Of all decode steps together, were all answers in flight at once."""
    weights = (
        config.layers
        * (
            2 * config.width * (config.heads + config.kv_heads) * config.head_dim
            + 3 * config.width * config.mlp_width
        )
        + config.vocab_size * config.width
    )
    per_token = 2 * config.layers * config.kv_heads * config.head_dim
    steps = max(lengths)
    kept = sum(len(prompt) for prompt in {tuple(prompt) for prompt in prompts})
    own = sum(length * (length + 1) // 2 for length in lengths)
    if len({tuple(prompt) for prompt in prompts}) == len(prompts):
        kept = sum(len(p) * length for p, length in zip(prompts, lengths, strict=True)) / steps
    return 4 * (weights * steps + per_token * (kept * steps + own))


@functools.cache
def bandwidth():
    """Bytes per second that a sum over 1 GB reads, the best of five."""
    import jax
    import jax.numpy as jnp

    array = jnp.ones(2**28, jnp.float32)
    total = jax.jit(jnp.sum)
    total(array).block_until_ready()
    best = 0.0
    for _ in range(5):
        start = time.perf_counter()
        total(array).block_until_ready()
        best = max(best, array.nbytes / (time.perf_counter() - start))
    return best


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", choices=list(cases()), action="append")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    config, params, model = make_models()
    print("case       ours tok/s  theirs tok/s  ratio (range)          of roofline")
    for name, (prompts, lengths) in cases().items():
        if args.only and name not in args.only:
            continue
        pairs = []
        ours(config, params, prompts, lengths)
        theirs_seconds(model, prompts, [2] * len(lengths))
        for _ in range(args.rounds):
            pairs += [
                (ours(config, params, prompts, lengths), theirs_seconds(model, prompts, lengths))
            ]
        tokens = sum(lengths)
        ratios = sorted(b / a for a, b in pairs)
        mine, other = (statistics.median(times) for times in zip(*pairs, strict=True))
        share = bytes_needed(config, prompts, lengths) / bandwidth() / mine
        median = statistics.median(ratios)
        print(
            f"{name:10} {tokens / mine:10,.0f} {tokens / other:12,.0f}   "
            f"{median:6.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})   {share:10.0%}"
        )


if __name__ == "__main__":
    main()
