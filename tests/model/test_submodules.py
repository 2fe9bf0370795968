"""Every part of a layer beside the same part of transformers, and the whole in bfloat16."""

import dataclasses
import functools
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from msm_jax.model import forward, logits
from msm_jax.model.attention import attend, segment_mask
from msm_jax.model.decoder import Layer, bind
from msm_jax.model.rope import rotate, rotation_angles

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import reference

LENGTH = 503
PARTS = ("input_layernorm", "self_attn", "post_attention_layernorm", "mlp", "")
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj", "q_norm", "k_norm")


def traced(model, tokens):
    """name of a module of layer 1 -> (its first input, its output), of one forward pass."""
    import torch

    seen = {}

    def hook(name):
        def keep(module, args, kwargs, output):
            first = args[0] if args else kwargs["hidden_states"]
            result = output[0] if isinstance(output, tuple) else output
            seen[name] = (first.detach().numpy(), result.detach().numpy())

        return keep

    layer = model.model.layers[1]
    for name, module in layer.named_modules():
        module.register_forward_hook(hook(name), with_kwargs=True)
    with torch.no_grad():
        model(torch.tensor(tokens, dtype=torch.long))
    return seen


@pytest.mark.parametrize(
    ("family", "shape"),
    [
        ("qwen3", "odd widths"),
        ("qwen3", "one key head"),
        ("qwen2", "odd widths"),
        ("qwen2", "as many key heads"),
        ("llama", "one key head"),
    ],
)
def test_every_part_of_a_layer(family, shape):
    pytest.importorskip("transformers")
    pytest.importorskip("torch")
    config, model = reference.tiny(family, True, 1e-5, 5e6, shape)
    params = reference.our_params(config, model)
    tokens = np.random.default_rng(0).integers(0, 97, (1, LENGTH))
    seen = traced(model, tokens)
    layer = bind(Layer, config, jax.tree.map(lambda leaf: jnp.asarray(leaf[1]), params["layers"]))
    positions_BT = jnp.arange(LENGTH)[None]
    angles_BTd = rotation_angles(positions_BT, config.head_dim, config.rope_theta)
    mask_BTS = segment_mask(jnp.ones((1, LENGTH), jnp.int32))
    plain = functools.partial(attend, mask_BTS=mask_BTS)
    attention = layer.attention
    ours = {
        "input_layernorm": layer.attention_norm,
        "self_attn": lambda x: attention(x, angles_BTd, plain)[0],
        "post_attention_layernorm": layer.mlp_norm,
        "mlp": layer.mlp,
        "": lambda x: layer(x, angles_BTd, plain)[0],
        **{f"self_attn.{p}": getattr(attention, p[0]) for p in ATTENTION[:4]},
    }
    if config.qk_norm:
        ours |= {f"self_attn.{name}": getattr(attention, name) for name in ATTENTION[4:]}
    given = {name: seen[name][0] for name in ours}
    by_heads = (1, LENGTH, config.heads, config.head_dim)
    given["self_attn.o_proj"] = given["self_attn.o_proj"].reshape(by_heads)
    # Each with its own input, in one program.
    run = jax.jit(lambda given: {name: part(given[name]) for name, part in ours.items()})
    for name, found in run(given).items():
        wanted = seen[name][1]
        found = np.asarray(found).reshape(wanted.shape)
        assert np.std(wanted) > 1e-3, name
        assert np.abs(found - wanted).max() <= 1e-4, name


def test_rotation():
    torch = pytest.importorskip("torch")
    modeling = pytest.importorskip("transformers.models.qwen3.modeling_qwen3")
    config, model = reference.tiny("qwen3", True, 1e-5, 5e6, "odd widths")
    rng = np.random.default_rng(0)
    q = rng.normal(size=(1, config.heads, 2000, config.head_dim)).astype(np.float32)
    places = torch.arange(2000)[None] + 30_000
    cos, sin = model.model.rotary_emb(torch.tensor(q), places)
    wanted, _ = modeling.apply_rotary_pos_emb(torch.tensor(q), torch.tensor(q), cos, sin)
    angles_BTd = rotation_angles(jnp.asarray(places.numpy()), config.head_dim, config.rope_theta)
    found = jnp.swapaxes(rotate(jnp.swapaxes(q, 1, 2), angles_BTd), 1, 2)
    # An angle of 30,000 in float32 is exact to 2e-3; both sides round it alike or not.
    assert np.abs(found - wanted.numpy()).max() <= 5e-3
    assert np.abs(np.asarray(found - wanted.numpy())).mean() <= 1e-5


@pytest.mark.parametrize("family", ["qwen3", "qwen2", "llama"])
def test_bfloat16_is_as_near_to_float32_as_theirs(family):
    pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    config, model = reference.tiny(family, True, 1e-5, 5e6, "odd widths")
    tokens = np.random.default_rng(0).integers(0, 97, (4, LENGTH))
    with torch.no_grad():
        wanted = torch.log_softmax(model(torch.tensor(tokens)).logits.double(), -1).numpy()
        half = model.to(torch.bfloat16)
        theirs = torch.log_softmax(half(torch.tensor(tokens)).logits.double(), -1).numpy()
    config = dataclasses.replace(config, dtype="bfloat16", param_dtype="bfloat16")
    rounded = reference.our_params(config, half.float())
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.bfloat16), rounded)
    ones = jnp.ones(tokens.shape, jnp.int32)
    positions = jnp.broadcast_to(jnp.arange(LENGTH), tokens.shape)
    hidden = jax.jit(forward, static_argnums=0)(
        config, params, jnp.asarray(tokens), ones, positions
    )
    scores = logits(config, params, hidden)
    assert scores.dtype == jnp.float32
    ours = np.asarray(jax.nn.log_softmax(scores), np.float64)
    divergence = lambda found: np.mean(np.sum(np.exp(wanted) * (wanted - found), axis=-1))
    assert np.std(wanted) > 0.1
    assert divergence(ours) <= 1e-3
    assert divergence(ours) <= 1.2 * divergence(theirs)
