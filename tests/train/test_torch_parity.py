"""Optimizer steps beside torch: AdamW, clipping and peft on the same packed batches.

Torch is given positions and a block-diagonal mask. Losses are summed over loss tokens and
divided once by their number in the whole step.
"""

import math
import pathlib
import sys

import jax
import numpy as np
import pytest

from msm_jax.data.pipeline import pack_rows
from msm_jax.model.adapter import join
from msm_jax.train.config import stage
from msm_jax.train.optimizer import make_optimizer, make_schedule, split_params
from msm_jax.train.step import make_step
from msm_jax.weights.huggingface import load_checkpoint
from msm_jax.weights.peft import load_adapter

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "model"))
import reference

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")

ROWS, LENGTH, STEPS = 4, 48, 10
# Rotations so fast that the bias of a key has a gradient in every dimension: where keys hardly
# turn, softmax cancels it, and what Adam divides by its own size is rounding noise.
THETA = 20.0
# An eps that shows in the sum, and above the noise of gradients that are nearly nothing.
RECIPE = {"learning_rate": 3e-3, "weight_decay": 0.1, "clip_norm": 0.7, "warmup_fraction": 0.3}
RECIPE |= {"b1": 0.8, "b2": 0.99, "eps": 1e-5}


def packed_batches():
    """STEPS packed batches; some documents are learned in part, as chats are."""
    rng = np.random.default_rng(0)
    examples = []
    for number in range(STEPS * ROWS * 4):
        size = int(rng.integers(3, LENGTH))
        loss = np.ones(size, np.uint8)
        if number % 3 == 0:
            loss[: size // 2] = 0
        examples.append((rng.integers(0, 97, size).astype(np.int32), loss))
    rows = pack_rows(examples, LENGTH)
    assert len(rows["tokens"]) >= STEPS * ROWS and rows["segment_ids"].max() > 2
    part = lambda array, step: array[step * ROWS : (step + 1) * ROWS]
    return [{key: part(array, step) for key, array in rows.items()} for step in range(STEPS)]


def torch_loss(model, batch):
    """Summed over a batch's loss tokens; a token sees what stands before it in its document."""
    as_torch = {name: torch.from_numpy(np.ascontiguousarray(a)) for name, a in batch.items()}
    segments_BT = as_torch["segment_ids"]
    seen_BTT = (segments_BT[:, :, None] == segments_BT[:, None]).tril()
    logits_BTV = model(
        input_ids=as_torch["tokens"].long(),
        position_ids=as_torch["positions"].long(),
        attention_mask=torch.where(seen_BTT, 0.0, torch.finfo(torch.float32).min)[:, None],
    ).logits
    each_BT = torch.nn.functional.cross_entropy(
        logits_BTV.transpose(1, 2), as_torch["targets"].long(), reduction="none"
    )
    return (each_BT * as_torch["loss_weights"]).sum()


def torch_rate(step: int) -> float:
    """The schedule as docs/training.md words it."""
    warmup = round(RECIPE["warmup_fraction"] * STEPS)
    if step < warmup:
        return RECIPE["learning_rate"] * (step + 1) / warmup
    share = (step - warmup) / (STEPS - warmup)
    return RECIPE["learning_rate"] * 0.5 * (1 + math.cos(math.pi * share))


def torch_steps(model, batches, parts):
    """Trains in place; yields the gradient's norm after each step."""
    trained = [each for each in model.parameters() if each.requires_grad]
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in trained if p.dim() > 1], "weight_decay": RECIPE["weight_decay"]},
            {"params": [p for p in trained if p.dim() == 1], "weight_decay": 0.0},
        ],
        betas=(RECIPE["b1"], RECIPE["b2"]),
        eps=RECIPE["eps"],
    )
    for step, batch in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = torch_rate(step)
        optimizer.zero_grad()
        learned = batch["loss_weights"].sum()
        for part in range(parts):
            loss = torch_loss(model, {name: array[part::parts] for name, array in batch.items()})
            (loss / learned).backward()
        norm = torch.nn.utils.clip_grad_norm_(trained, RECIPE["clip_norm"])
        optimizer.step()
        yield float(norm)


@pytest.mark.parametrize(
    ("family", "trainable", "parts"),
    [
        ("qwen3", "all", 1),
        ("qwen2", "all", 2),
        ("llama", "lora", 2),
    ],
)
def test_ten_steps_are_those_of_torch(tmp_path, family, trainable, parts):
    _, model = reference.tiny(family, family != "llama", 1e-5, THETA, "odd widths")
    model.save_pretrained(tmp_path / "base")
    config, params = load_checkpoint(tmp_path / "base", "float32")
    if trainable == "lora":
        model = reference.random_adapter(model, tmp_path / "adapter", r=4, lora_alpha=8)
        config, adapter = load_adapter(tmp_path / "adapter", config)
        params = join(params, adapter)
    recipe = stage().optimizer
    recipe.update(RECIPE)
    optimizer, schedule = make_optimizer(recipe), make_schedule(recipe, STEPS)
    trained, frozen = split_params(params, trainable)
    begun = jax.device_get(trained)
    state = jax.jit(optimizer.init)(trained)
    step_fn = make_step(config, optimizer, parts)
    batches = packed_batches()
    for step, norm in enumerate(torch_steps(model, batches, parts)):
        trained, state, metrics = step_fn(trained, state, frozen, batches[step], schedule)
        assert float(metrics["grad_norm"]) == pytest.approx(norm, rel=1e-5)
        if step in (0, STEPS - 1):
            folder = tmp_path / f"after {step}"
            model.save_pretrained(folder)
            if trainable == "lora":
                _, theirs = load_adapter(folder, config)
            else:
                theirs = load_checkpoint(folder, "float32")[1]
            compare(trained, theirs, begun)


def compare(ours, theirs, begun):
    """Every array to 1e-5 of its own norm, and what the steps changed in all of them together."""
    flat = lambda tree: {
        jax.tree_util.keystr(path): np.asarray(leaf, np.float64)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
    ours, theirs, begun = flat(ours), flat(theirs), flat(begun)
    assert ours.keys() == theirs.keys()
    error = {name: ours[name] - theirs[name] for name in ours}
    change = {name: theirs[name] - begun[name] for name in ours}
    norm = lambda arrays: np.linalg.norm(np.concatenate([np.ravel(a) for a in arrays]))
    for name in ours:
        assert norm([error[name]]) <= 1e-5 * norm([theirs[name]]), name
    # A change of 1e-3 in weights near 1 is itself known to about 6e-5 in float32.
    assert norm(error.values()) <= 2e-5 * norm(change.values())
