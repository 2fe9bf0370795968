"""The sampler against the decoder without a cache."""

import dataclasses
import math
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from msm_jax.errors import UserError
from msm_jax.model import (
    ModelConfig,
    RopeScaling,
    cached_attention,
    decode,
    forward,
    init_params,
    logits,
)
from msm_jax.sample import device, logprobs, sample, sampler, stream

CONFIG = ModelConfig(
    vocab_size=37, width=16, layers=2, heads=4, kv_heads=2, head_dim=8, mlp_width=24
)
# Where lengths are not what is tested, prompts and answers have room for 32 tokens and 4 answers to
# a prompt are drawn at a time: all of that is one program. The last prompt fills its room.
PROMPTS = [[5, 6, 7], [3], [9, 8, 7, 6, 5, 4, 3, 2], list(range(1, 34))]
LONG = list(range(1, 37))


def random_params(config, seed=0):
    """Random weights, so large that the model has opinions; numpy's, which compile nothing."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(lambda key: init_params(config, key), jax.random.key(0))

    def leaf(path, shape):
        middle = 2.0 if path[-1].key == "scale" else 0.0
        spread = {"scale": 0.1, "b": 0.1, "lora_a": 0.3, "lora_b": 0.2}.get(path[-1].key, 0.5)
        return np.asarray(rng.normal(middle, spread, shape.shape), shape.dtype)

    return jax.device_put(jax.tree_util.tree_map_with_path(leaf, shapes))


@pytest.fixture(scope="module")
def params():
    return random_params(CONFIG)


@jax.jit
def _padded_logits(params, tokens_BT):
    positions = jnp.arange(tokens_BT.shape[1])[None]
    hidden = forward(CONFIG, params, tokens_BT, jnp.ones_like(tokens_BT), positions)
    return logits(CONFIG, params, hidden)


def full_logits(params, ids):
    """logits_TV of one sequence without a cache; what follows it cannot be seen by it."""
    tokens = np.zeros((1, 80), np.int32)
    tokens[0, : len(ids)] = ids
    return np.asarray(_padded_logits(params, tokens))[0, : len(ids)]


def log_softmax(x):
    x = np.asarray(x, np.float64)
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


VARIANTS = {
    "qwen3": {},
    "qwen2": {"qk_norm": False, "qkv_bias": True, "tied_embeddings": False},
    "llama": {"qk_norm": False, "rope_scaling": RopeScaling(8.0, 1.0, 4.0, 16), "kv_heads": 1},
    "adapter": {"lora_rank": 3, "lora_alpha": 6.0},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_cached_decode_is_the_full_forward(variant, monkeypatch):
    """Prompts of unequal lengths share the rows, answers outgrow their rings, rows are refilled."""
    # With as much to read of weights, short prompts that do not fill the rows join the long ones.
    config = dataclasses.replace(CONFIG, vocab_size=2048, **VARIANTS[variant])
    params = random_params(config, seed=3)
    monkeypatch.setattr(cached_attention, "BLOCK", 32)
    monkeypatch.setattr(cached_attention, "BLOCK_NUMBERS", 1)
    prompts = [[5, 6, 7], [3], LONG * 4, [*LONG * 3, *range(30)]]
    limits = ((7, 0), (20, 60), (60, 20), (1, 60))
    limit = lambda prompt, index: limits[prompt][index]
    found = sample(config, params, prompts, n=2, max_tokens=60, rows=4, limits=limit)

    @jax.jit
    def run(params, ids):
        hidden = forward(config, params, ids, jnp.ones_like(ids), jnp.arange(208)[None])
        return logits(config, params, hidden)

    assert [len(answers) for answers in found] == [1, 2, 2, 2]
    for prompt, answers in zip(prompts, found, strict=True):
        for answer in answers:
            assert len(answer.tokens) == limit(answer.prompt, answer.index)
            ids = np.zeros((1, 208), np.int32)
            text = [*prompt, *answer.tokens]
            ids[0, : len(text)] = text
            scores = log_softmax(run(params, ids))[0]
            at = len(prompt) - 1 + np.arange(len(answer.tokens))
            np.testing.assert_allclose(answer.logprobs, scores[at, answer.tokens], atol=1e-4)


def test_rows_that_are_refilled_answer_as_if_alone(params):
    limits = lambda prompt, index: (3, 30, 17, 1, 25)[(prompt + index) % 5]
    asked = {"n": 8, "max_tokens": 30, "seed": 2, "limits": limits}
    alone = sample(CONFIG, params, PROMPTS, rows=64, **asked)
    few = sample(CONFIG, params, PROMPTS, rows=4, **asked)
    for some, others in zip(alone, few, strict=True):
        assert [answer.tokens for answer in some] == [answer.tokens for answer in others]
        assert [answer.index for answer in some] == [*range(8)]


def test_answers_come_as_they_end_and_none_twice(params):
    limits = lambda prompt, index: 0 if (prompt, index) == (1, 1) else 30 if prompt == 0 else 2
    found = list(stream(CONFIG, params, PROMPTS, n=8, max_tokens=30, rows=64, limits=limits))
    names = [(answer.prompt, answer.index) for answer in found]
    assert len(set(names)) == len(names) == 31 and (1, 1) not in names
    assert names[0] != (0, 0)


def test_few_prompts_join_longer_ones_where_padding_costs_less_than_the_weights(params):
    weights = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    token = 2 * CONFIG.layers * CONFIG.kv_heads * CONFIG.head_dim * 4
    one = lambda number: (number, [1], {0: 5})
    together = lambda by_bucket, rows: [
        (length, [number for number, _, _ in asked])
        for length, asked in sampler._groups(CONFIG, params, by_bucket, rows)
    ]
    assert 32 * token <= weights
    assert together({16: [one(0)], 32: [one(1)]}, 64) == [(32, [0, 1])]
    too_long = weights // token + 1
    assert together({16: [one(0)], too_long: [one(1)]}, 64) == [(16, [0]), (too_long, [1])]
    # These fill the rows by themselves.
    assert together({16: [one(0), one(1)], 32: [one(2)]}, 2) == [(16, [0, 1]), (32, [2])]


@pytest.mark.parametrize(("R", "S", "block"), [(64, 32, 128), (32, 128, 16)])
def test_a_chunk_works_in_the_memory_it_is_given(params, monkeypatch, R, S, block):
    """The rings of the program's output are those of its input; the loop over tokens copies
    neither rings nor prompts nor weights, nor do loops over blocks of them within it."""
    monkeypatch.setattr(cached_attention, "BLOCK", block)
    monkeypatch.setattr(cached_attention, "BLOCK_NUMBERS", 1)
    P, M = 2, 4
    layers = decode.unstacked(params)
    prompts, rings, rows = device.empty_state(CONFIG, None, P, M, S, R)
    begun = sampler._Batch(CONFIG, params, layers, {}, P, M, S, R, None, None)._begin()
    how = {
        "key": jax.random.key(0), "stop_ids": np.array([1]), "vocab_limit": 30,
        "temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0,
    }  # fmt: skip
    lowered = device.run_chunk.lower(CONFIG, layers, prompts, rings, rows, begun, how)
    text = lowered.compile().as_text()
    aliases = text.split("input_output_alias={")[1].split("}, entry")[0]
    assert aliases.count("may-alias") >= 2 * CONFIG.layers
    sizes = {x.size for x in jax.tree.leaves((layers, prompts, rings)) if x.size > 500}
    assert P * M * CONFIG.kv_heads * R * CONFIG.head_dim in sizes
    # Copies that the compiler inserts carry no name: the computation that has them identifies them.
    inside = [part for part in re.split(r"\n(?=%|ENTRY)", text) if not part.startswith("ENTRY")]
    made = [
        (line, math.prod(int(n) for n in found[1].split(",") if n))
        for part in inside
        for line in part.splitlines()
        if (found := re.search(r"copy\S* = \w+\[([\d,]*)\]\S* (?:copy|copy-start|fusion)\(", line))
    ]
    assert made, "the program's text is written in another way now"
    assert not [line for line, size in made if size in sizes]


def test_greedy_is_the_argmax_of_the_full_forward(params):
    answers = sample(CONFIG, params, PROMPTS, n=4, max_tokens=6, temperature=0, rows=4)
    for prompt, (answer, *others) in zip(PROMPTS, answers, strict=True):
        assert [other.tokens for other in others] == 3 * [answer.tokens]
        ids = list(prompt)
        for token, logprob in zip(answer.tokens, answer.logprobs, strict=True):
            scores = full_logits(params, ids)[-1]
            assert token == scores.argmax()
            assert logprob == pytest.approx(log_softmax(scores)[token], abs=1e-4)
            ids.append(token)
        assert (answer.finish_reason, len(answer.tokens)) == ("length", 6)


def test_a_stop_ends_the_answer_and_is_not_part_of_it(params):
    ((free,),) = sample(CONFIG, params, [[5, 6, 7]], max_tokens=8, temperature=0, rows=4)
    stop = free.tokens[3]
    ((cut,),) = sample(
        CONFIG, params, [[5, 6, 7]], max_tokens=8, temperature=0, rows=4, stop_ids=[stop]
    )
    assert cut.tokens == free.tokens[: free.tokens.index(stop)]
    assert len(cut.logprobs) == len(cut.tokens)
    assert cut.finish_reason == "stop"


def test_an_answer_depends_on_seed_prompt_and_index_only(params):
    draw = lambda prompts, **more: sample(
        CONFIG, params, prompts, **{"n": 3, "max_tokens": 8, "seed": 4, "rows": 4, **more}
    )
    tokens = lambda answers: [answer.tokens for answer in answers]
    prompts = [*PROMPTS, LONG]
    together = draw(prompts)
    for prompt, answers in zip(prompts, together, strict=True):
        assert tokens(draw([prompt])[0]) == tokens(answers)
        assert tokens(draw([prompt], n=1)[0]) == tokens(answers)[:1]
        assert tokens(draw([prompt], max_tokens=5)[0]) == [t[:5] for t in tokens(answers)]
        assert len({tuple(t) for t in tokens(answers)}) == 3
    assert tokens(draw(prompts[::-1])[0]) == tokens(together[-1])
    assert tokens(draw(PROMPTS[:1], rows=5)[0]) == tokens(together[0])
    assert tokens(draw(PROMPTS[:1], seed=5)[0]) != tokens(together[0])


def test_draws_follow_the_softmax_at_the_temperature(params):
    (answers,) = sample(
        CONFIG, params, [[5, 6, 7]], n=4000, max_tokens=1, temperature=1.5, seed=1, rows=64
    )
    counts = np.bincount([a.tokens[0] for a in answers], minlength=CONFIG.vocab_size)
    scores = full_logits(params, [5, 6, 7])[-1]
    expected = np.exp(log_softmax(scores / 1.5)) * 4000
    seen = expected > 5
    chi2 = ((counts - expected) ** 2 / expected)[seen].sum()
    assert chi2 < 2 * seen.sum()  # its mean is about seen.sum(); twice that is far in the tail


def test_ids_beyond_the_tokenizer_are_never_drawn(params):
    (answers,) = sample(
        CONFIG, params, [[1, 2]], n=64, max_tokens=8, temperature=5.0, vocab_limit=11, rows=64
    )
    drawn = {token for answer in answers for token in answer.tokens}
    assert max(drawn) < 11 and len(drawn) > 8


def test_logprobs_equal_the_full_log_softmax(params):
    completions = [[1, 2, 3], [4], [], list(range(30))]
    found = logprobs(CONFIG, params, PROMPTS, completions, rows=3)
    for prompt, completion, values in zip(PROMPTS, completions, found, strict=True):
        assert values.dtype == np.float32 and len(values) == len(completion)
        scores = log_softmax(full_logits(params, [*prompt, *completion]))
        for offset, token in enumerate(completion):
            expected = scores[len(prompt) - 1 + offset, token]
            assert values[offset] == pytest.approx(expected, abs=1e-4)


def test_samples_carry_the_logprobs_that_logprobs_gives(params):
    (answers,) = sample(CONFIG, params, [[5, 6, 7]], n=3, max_tokens=6, temperature=0.8, rows=4)
    found = logprobs(CONFIG, params, [[5, 6, 7]] * 3, [a.tokens for a in answers], rows=4)
    for answer, values in zip(answers, found, strict=True):
        np.testing.assert_allclose(answer.logprobs, values, atol=1e-4)


def test_other_lengths_compile_nothing_new(params):
    lengths = lambda *sizes: [[1 + (i + size) % 7 for i in range(size)] for size in sizes]
    ask = lambda prompts, tokens, heat: sample(
        CONFIG, params, prompts, n=3, max_tokens=tokens, temperature=heat, rows=4
    )
    score = lambda prompts: logprobs(CONFIG, params, prompts, prompts[::-1], rows=2)
    ask(lengths(1, 2, 3, 40, 45, 50), 20, 1.0), score(lengths(2, 3, 40, 60))
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, _, **more: compiled.append(event) if "backend_compile" in event else None
    )
    jax.jit(lambda x: x * 3 + len(compiled))(np.float32(1))
    assert compiled, "this jax no longer reports compilations under that name"
    compiled.clear()
    for sizes in ((3, 17, 33, 36, 64), (9, 20, 50, 60), (1, 5, 40, 41, 42, 43, 44)):
        ask(lengths(*sizes), 30, 0.0 if sizes[0] == 3 else 0.3)
    score(lengths(1, 7, 34, 64))
    assert compiled == []


def test_drawing_compiles_once_per_model_and_rows_where_memory_is_plentiful(params, monkeypatch):
    """Short and long answers, prompts and limits: one program. Without spare memory there is one
    per power of two of what is asked for, and still one for answers of any length."""
    params = jax.device_put(params, jax.devices()[0])  # committed, as a checkpoint's are
    limits = lambda prompt, index: 1 + 99 * index
    ask = lambda size, tokens: sample(
        CONFIG, params, [[1] * size], n=2, max_tokens=tokens, rows=2, limits=limits
    )
    programs = device.run_chunk._cache_size()
    ask(3, 100)
    assert device.run_chunk._cache_size() == programs + 1
    monkeypatch.setattr(sampler, "SPARE", 1000)
    monkeypatch.setattr(sampler, "MOST_SPARE", 128)
    for size, tokens in ((3, 1), (40, 128)):
        ask(size, tokens)
    assert device.run_chunk._cache_size() == programs + 2


MESH_PROGRAM = """
import jax, numpy as np
from msm_jax.model import ModelConfig, init_params, make_mesh, param_shardings
from msm_jax.sample import logprobs, sample
config = ModelConfig(vocab_size=64, width=16, layers=1, heads=8, kv_heads=4, head_dim=4,
                     mlp_width=16)
rng = np.random.default_rng(0)
shapes = jax.eval_shape(lambda key: init_params(config, key), jax.random.key(0))
params = jax.tree.map(lambda x: jax.device_put(rng.normal(0, 0.5, x.shape).astype(x.dtype)), shapes)
prompts = [[5, 6, 7], list(range(30))]
asked = dict(n=2, max_tokens=20, seed=1, rows=4)
one = sample(config, params, prompts, **asked)
mesh = make_mesh({"data": 2, "fsdp": 2, "tensor": 2})
shards = jax.device_put(params, param_shardings(config, mesh))
compiled = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, _, **more: compiled.append(more["fun_name"]) if "backend_compile" in event else 0
)
many = sample(config, shards, prompts, mesh=mesh, **asked)
# What the first chunk returns is where the second one takes it from.
assert sum("run_chunk" in name for name in compiled) == 1, compiled
for a, b in zip(one, many, strict=True):
    assert [x.tokens for x in a] == [x.tokens for x in b]
    for x, y in zip(a, b, strict=True):
        np.testing.assert_allclose(x.logprobs, y.logprobs, atol=1e-4)
answers = [a[0].tokens for a in one]
for a, b in zip(logprobs(config, params, prompts, answers),
                logprobs(config, shards, prompts, answers, mesh=mesh), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-4)
print("equal")
"""


def test_on_a_mesh_the_same_answers(run_program):
    done = run_program(MESH_PROGRAM, XLA_FLAGS="--xla_force_host_platform_device_count=8")
    assert done.returncode == 0 and "equal" in done.stdout, done.stderr[-3000:]


@pytest.mark.parametrize(
    ("prompts", "settings", "complaint"),
    [
        ([[1], []], {}, "prompt 1 is empty"),
        ([[1, 37]], {}, "outside 0..36"),
        ([[1]], {"temperature": -1.0}, "temperature"),
        ([[1]], {"max_tokens": 0}, "max_tokens=0"),
        ([[1]], {"vocab_limit": 38}, "vocab_limit=38"),
        ([[1]], {"top_p": 0.0}, "top_p=0.0"),
        ([[1]], {"top_k": -1}, "top_k=-1"),
        ([[1]], {"min_p": 1.5}, "min_p=1.5"),
        ([[1], [1] * 9], {"context_length": 9}, "prompt 1 has 9 tokens.*context of 9"),
    ],
)
def test_mistakes_are_named(params, prompts, settings, complaint):
    with pytest.raises(UserError, match=complaint):
        sample(CONFIG, params, prompts, **settings)


def test_bfloat16_runs(params):
    config = dataclasses.replace(CONFIG, dtype="bfloat16")
    ((answer,),) = sample(config, params, [[1, 2]], max_tokens=3, temperature=0, rows=2)
    assert len(answer.tokens) == 3


SHORT_OF_MEMORY = """
import resource, sys
import jax, numpy as np
from msm_jax.errors import UserError
from msm_jax.model import ModelConfig, init_params
from msm_jax.sample import sample

config = ModelConfig(vocab_size=64, width=32, layers=1, heads=128, kv_heads=128, head_dim=256,
                     mlp_width=32)
rng = np.random.default_rng(0)
shapes = jax.eval_shape(lambda key: init_params(config, key), jax.random.key(0))
params = jax.tree.map(lambda x: jax.device_put(rng.normal(0, 0.5, x.shape).astype(x.dtype)), shapes)
prompts = [[1, 2, 3], [4, 5, 6, 7]]
tokens = lambda found: [[answer.tokens for answer in answers] for answers in found]
few = tokens(sample(config, params, prompts, n=64, max_tokens=3, rows=4))
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
limit = lambda bytes: resource.setrlimit(resource.RLIMIT_AS, (used + bytes, -1))
limit(2**30)
assert tokens(sample(config, params, prompts, n=64, max_tokens=3, rows=64)) == few
limit(2**28)
try:
    sample(config, params, [[1] * 3000], n=1, max_tokens=4000, rows=1)
except UserError as error:
    print("said:", error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits memory as Linux does")
def test_too_little_memory_halves_the_rows_and_changes_no_answer(run_program):
    done = run_program(SHORT_OF_MEMORY)
    assert done.returncode == 0, done.stderr
    assert "sampling goes on with 32 rows at a time" in done.stderr
    assert "rows=1 ran out of the device's memory" in done.stdout
