"""One decoder for Qwen2.5, Qwen3 and Llama 3, from token ids to logits.

Flax NNX modules declare every parameter once: shape, dtype, logical axes, initializer. Outside
this file parameters are a plain nested dict with the layers stacked on a leading L axis,

    {"embed": {"w"}, "layers": {"attention": {"q": {"w", "lora_a", "lora_b"}, ...}, "mlp": ...,
     "attention_norm": {"scale"}, "mlp_norm": {"scale"}}, "final_norm": {"scale"}, "head": {"w"}}

and `forward` is a function of (config, that dict, tokens). Read it from the bottom up:
`forward` → `Layer` → `Attention`, `Mlp` → `Projection`.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from msm_jax.errors import UserError
from msm_jax.model.axes import BATCH_AXES
from msm_jax.model.config import PROJECTIONS, ModelConfig
from msm_jax.model.eightbit import quantized
from msm_jax.model.kernels import (
    RESULTS,
    AttentionFn,
    choose_attention,
    packed_attention,
    platform_of,
)
from msm_jax.model.rope import rotate, rotation_angles

UNROLLED_LAYERS = 4


def _parameter(
    rngs: nnx.Rngs, shape: tuple[int, ...], axes: tuple[str, ...], init_std: float, dtype: Any
) -> nnx.Param:
    """Normal with this standard deviation."""
    value = init_std * jax.random.normal(rngs.params(), shape, jnp.float32)
    return nnx.Param(value.astype(dtype), axes=axes)


def _aligned(param: nnx.Param, x: Array) -> Array:
    """The parameter in x's dtype, broadcast along x's leading axes."""
    return jax.lax.expand_dims(param[...].astype(x.dtype), range(x.ndim - param.ndim))


class Norm(nnx.Module):
    """RMSNorm over the last axis, computed in float32 (Zhang & Sennrich 2019)."""

    def __init__(self, width: int, axis: str, config: ModelConfig, *, rngs: nnx.Rngs):
        self.eps = config.norm_eps
        self.scale = nnx.Param(jnp.ones(width, config.plain_dtype), axes=(axis,))

    def __call__(self, x: Array) -> Array:
        return _lean(_normalized, x, self.eps) * _aligned(self.scale, x)


def _normalized(x: Array, eps: float) -> Array:
    x32 = x.astype(jnp.float32)
    x32 = x32 * jax.lax.rsqrt(jnp.mean(x32 * x32, axis=-1, keepdims=True) + eps)
    return x32.astype(x.dtype)


def _gated(gate: Array, up: Array) -> Array:
    return jax.nn.silu(gate) * up


def _lean(function: Callable, x: Array, other: Array | float) -> Array:
    """`function(x, other)`, whose backward pass in bfloat16 computes again what is cheap.

    Otherwise it would keep several arrays in float32. Where all is float32, on a CPU, it keeps
    what there is: computing it again makes a step of a small model 10 % slower.
    """
    if x.dtype == jnp.float32:
        return function(x, other)
    static = 1 if isinstance(other, float) else ()
    return jax.checkpoint(function, prevent_cse=False, static_argnums=static)(x, other)


class Projection(nnx.Module):
    """A linear map from the axes `inputs` to the axes `outputs`, plus a bias and an adapter.

    Weights are stored as in Hugging Face checkpoints, outputs first, so that files need no
    transposition: w [*outputs, *inputs], lora_a [rank, *inputs], lora_b [*outputs, rank]. Weights
    in 8 bits have w_scale [*outputs], see eightbit.py. The
    adapter adds `scale * lora_b(lora_a(x))` and starts at zero: lora_a is uniform within
    ±1/sqrt(fan_in), as in PEFT, lora_b is zero.
    """

    def __init__(
        self,
        name: str,
        inputs: list[tuple[str, int]],
        outputs: list[tuple[str, int]],
        config: ModelConfig,
        *,
        bias: bool = False,
        rngs: nnx.Rngs,
    ):
        in_axes, in_shape = zip(*inputs, strict=True)
        out_axes, out_shape = zip(*outputs, strict=True)
        fan_in = math.prod(in_shape)
        self.name, self.contracted, self.dtype = name, len(in_shape), config.compute_dtype
        dtype = config.plain_dtype
        self.w = _parameter(rngs, out_shape + in_shape, out_axes + in_axes, fan_in**-0.5, dtype)
        if config.eight_bits:
            q, scale = quantized(self.w[...], config.param_dtype, len(out_shape))
            self.w = nnx.Param(q, axes=out_axes + in_axes)
            self.w_scale = nnx.Param(scale, axes=out_axes)
        if bias:
            self.b = _parameter(rngs, out_shape, out_axes, 0.0, dtype)
        if config.lora_rank and name in config.lora_targets:
            rank, self.scale = config.lora_rank, config.lora_scale
            bound = fan_in**-0.5
            a = jax.random.uniform(rngs.params(), (rank, *in_shape), minval=-bound, maxval=bound)
            self.lora_a = nnx.Param(a.astype(jnp.float32), axes=("rank", *in_axes))
            self.lora_b = _parameter(
                rngs, (*out_shape, rank), (*out_axes, "rank"), 0.0, jnp.float32
            )

    def __call__(self, x: Array, reduced: Array | None = None) -> Array:
        """`reduced` is the product of x with lora_a, where that is known."""
        y = self._map(self.w, x, self.contracted)
        if hasattr(self, "w_scale"):
            y *= _aligned(self.w_scale, y)
        if hasattr(self, "b"):
            y += _aligned(self.b, y)
        if hasattr(self, "lora_a"):
            if reduced is None:
                reduced = checkpoint_name(self._map(self.lora_a, x, self.contracted), "reduced")
            # The smaller factor is scaled: a pass over the larger one costs as much as the product.
            y += self._map(self.lora_b, self.scale * reduced, 1)
        return checkpoint_name(y, self.name)

    def _map(self, param: nnx.Param | Array, x: Array, contracted: int) -> Array:
        return _product(x, param[...], contracted, self.dtype)


# The backward pass reads the stored weights, of which a loop over layers would keep another copy.
@functools.partial(jax.checkpoint, prevent_cse=False, static_argnums=(2, 3))
def _product(x: Array, w: Array, contracted: int, dtype: Any) -> Array:
    # As matrices: XLA's CPU backend transposes stacks, also of weights, before a product.
    outputs, fan_in = w.shape[:-contracted], math.prod(w.shape[-contracted:])
    x_NI, w_OI = x.reshape(-1, fan_in), w.reshape(-1, fan_in)
    if w.dtype.itemsize > 1:  # 8 bits are converted within the product, forward and backward
        w_OI = w_OI.astype(dtype)
    y = jax.lax.dot_general(x_NI, w_OI, (((1,), (1,)), ((), ())), preferred_element_type=dtype)
    return y.reshape(*x.shape[:-contracted], *outputs)


def project(x: Array, *projections: Projection) -> list[Array]:
    """The outputs of several projections of x, whose adapters share one product with x."""
    adapted = [each for each in projections if hasattr(each, "lora_a")]
    reduced: dict[str, Array] = {}
    if len(adapted) > 1:
        first, a = adapted[0], jnp.concatenate([each.lora_a[...] for each in adapted])
        parts = checkpoint_name(first._map(a, x, first.contracted), "reduced")
        parts = jnp.split(parts, len(adapted), axis=-1)
        reduced = {each.name: part for each, part in zip(adapted, parts, strict=True)}
    return [each(x, reduced.get(each.name)) for each in projections]


class Attention(nnx.Module):
    """Grouped-query self-attention with rotary positions; q/k norms come before the rotation.

    `attention` is a function of queries, keys and values. The output is followed by the keys and
    values, (k_BTKd, v_BTKd), for a cache to keep; see decode.py.
    """

    def __init__(self, c: ModelConfig, *, rngs: nnx.Rngs):
        width, head = ("embed", c.width), ("head_dim", c.head_dim)
        heads, kv_heads = ("heads", c.heads), ("kv_heads", c.kv_heads)
        self.q = Projection("q", [width], [heads, head], c, bias=c.qkv_bias, rngs=rngs)
        self.k = Projection("k", [width], [kv_heads, head], c, bias=c.qkv_bias, rngs=rngs)
        self.v = Projection("v", [width], [kv_heads, head], c, bias=c.qkv_bias, rngs=rngs)
        self.o = Projection("o", [heads, head], [width], c, rngs=rngs)
        if c.qk_norm:
            self.q_norm = Norm(c.head_dim, "head_dim", c, rngs=rngs)
            self.k_norm = Norm(c.head_dim, "head_dim", c, rngs=rngs)

    def __call__(
        self, x_BTD: Array, angles_BTd: Array, attention: AttentionFn
    ) -> tuple[Array, tuple[Array, Array]]:
        q_BTHd, k_BTKd, v_BTKd = project(x_BTD, self.q, self.k, self.v)
        if hasattr(self, "q_norm"):
            q_BTHd, k_BTKd = self.q_norm(q_BTHd), self.k_norm(k_BTKd)
        q_BTHd, k_BTKd = rotate(q_BTHd, angles_BTd), rotate(k_BTKd, angles_BTd)
        out_BTHd = checkpoint_name(attention(q_BTHd, k_BTKd, v_BTKd), "attended")
        return self.o(out_BTHd), (k_BTKd, v_BTKd)


class Mlp(nnx.Module):
    """SwiGLU (Shazeer 2020)."""

    def __init__(self, c: ModelConfig, *, rngs: nnx.Rngs):
        width, hidden = ("embed", c.width), ("mlp", c.mlp_width)
        self.gate = Projection("gate", [width], [hidden], c, rngs=rngs)
        self.up = Projection("up", [width], [hidden], c, rngs=rngs)
        self.down = Projection("down", [hidden], [width], c, rngs=rngs)

    def __call__(self, x_BTD: Array) -> Array:
        # XLA's CPU backend fuses matrices, not stacks of them, with the products around them.
        x_ND = x_BTD.reshape(-1, x_BTD.shape[-1])
        gate_NF, up_NF = project(x_ND, self.gate, self.up)
        y_ND = self.down(_lean(_gated, gate_NF, up_NF))
        return y_ND.reshape(x_BTD.shape)


class Layer(nnx.Module):
    """A pre-norm transformer layer; returns what `Attention` does."""

    def __init__(self, c: ModelConfig, *, rngs: nnx.Rngs):
        self.attention_norm = Norm(c.width, "embed", c, rngs=rngs)
        self.attention = Attention(c, rngs=rngs)
        self.mlp_norm = Norm(c.width, "embed", c, rngs=rngs)
        self.mlp = Mlp(c, rngs=rngs)

    def __call__(
        self, x_BTD: Array, angles_BTd: Array, attention: AttentionFn
    ) -> tuple[Array, tuple[Array, Array]]:
        y_BTD, kv = self.attention(self.attention_norm(x_BTD), angles_BTd, attention)
        x_BTD = x_BTD + y_BTD
        return x_BTD + self.mlp(self.mlp_norm(x_BTD)), kv


class Table(nnx.Module):
    """A matrix with one row per token: the embedding, and the head if it is not tied."""

    def __init__(self, c: ModelConfig, *, rngs: nnx.Rngs):
        shape, axes = (c.vocab_size, c.width), ("vocab", "embed")
        self.w = _parameter(rngs, shape, axes, c.width**-0.5, c.plain_dtype)


class Outer(nnx.Module):
    """Everything outside the stack of layers."""

    def __init__(self, c: ModelConfig, *, rngs: nnx.Rngs):
        self.embed = Table(c, rngs=rngs)
        self.final_norm = Norm(c.width, "embed", c, rngs=rngs)
        if not c.tied_embeddings:
            self.head = Table(c, rngs=rngs)


def init_params(config: ModelConfig, key: Array) -> dict:
    """Fresh parameters as a nested dict; the leaves under "layers" have a leading L axis."""
    outer_key, layers_key = jax.random.split(key)
    params = nnx.to_pure_dict(nnx.state(Outer(config, rngs=nnx.Rngs(outer_key))))

    def one_layer(key: Array) -> dict:
        return nnx.to_pure_dict(nnx.state(Layer(config, rngs=nnx.Rngs(key))))

    params["layers"] = jax.vmap(one_layer)(jax.random.split(layers_key, config.layers))
    return params


def abstract_params(config: ModelConfig) -> dict:
    """The tree of `init_params` as `jax.ShapeDtypeStruct`s, without computing anything."""
    return jax.tree.map(lambda leaf: leaf, _abstract_params(config))  # the caller's own dicts


@functools.lru_cache
def _abstract_params(config: ModelConfig) -> dict:
    return jax.eval_shape(lambda: init_params(config, jax.random.key(0)))


def logical_axes(config: ModelConfig) -> dict:
    """The tree of `init_params` with each leaf's axis names, e.g. ("layers", "embed", "mlp")."""
    return jax.tree.map(lambda name: name, _logical_axes(config))


@functools.lru_cache
def _logical_axes(config: ModelConfig) -> dict:
    def names(module: nnx.Module, leading: tuple[str, ...] = ()) -> dict:
        axes = lambda leaf: leading + leaf.get_metadata()["axes"]
        is_leaf = lambda x: isinstance(x, nnx.Variable)
        return nnx.to_pure_dict(jax.tree.map(axes, nnx.state(module), is_leaf=is_leaf))

    axes = names(nnx.eval_shape(lambda: Outer(config, rngs=nnx.Rngs(0))))
    axes["layers"] = names(nnx.eval_shape(lambda: Layer(config, rngs=nnx.Rngs(0))), ("layers",))
    return axes


@functools.lru_cache
def _definition(module: Any, config: ModelConfig) -> Any:
    return nnx.graphdef(nnx.eval_shape(lambda: module(config, rngs=nnx.Rngs(0))))


def bind(module: Any, config: ModelConfig, params: dict) -> Any:
    """The NNX module of a class, with these parameters."""
    return nnx.merge(_definition(module, config), params)


def forward(
    config: ModelConfig,
    params: dict,
    tokens_BT: Array,
    segment_ids_BT: Array,
    positions_BT: Array,
    mesh: Mesh | None = None,
    documents: int | None = None,
) -> Array:
    """Hidden states after the final norm; tokens attend to earlier ones of their own segment only.

    Args:
      tokens_BT: int32 token ids.
      segment_ids_BT: int32; 0 marks padding, each document of a row has an id of its own.
      positions_BT: int32 positions within the segment.
      mesh: that shards rows and weights; None: one device.
      documents: that a row has at most, see `kernels.packed_attention`; None: unknown.
    """
    x_BTD, angles_BTd = embedded(config, params, tokens_BT, positions_BT)
    attention = packed_attention(config, segment_ids_BT, mesh, documents=documents)

    def layer_step(x_BTD: Array, layer_params: dict) -> tuple[Array, None]:
        layer = bind(Layer, config, layer_params)
        return layer(_sharded_by_rows(x_BTD, mesh), angles_BTd, attention)[0], None

    if config.remat != "none":
        kernel, _ = choose_attention(config, tokens_BT.shape[1], platform_of(mesh))
        layer_step = jax.checkpoint(layer_step, policy=_remat_policy(config.remat, kernel))
    # A loop over few layers costs more than it saves: stacking and slicing what it carries.
    unroll = config.layers if config.layers <= UNROLLED_LAYERS else 1
    x_BTD, _ = over_layers(layer_step, x_BTD, params["layers"], unroll)
    return final_norm(config, params, x_BTD)


def embedded(
    config: ModelConfig, params: dict, tokens_BT: Array, positions_BT: Array
) -> tuple[Array, Array]:
    """Vectors of the tokens, x_BTD, and the angles of their positions, angles_BTd."""
    x_BTD = params["embed"]["w"].astype(config.compute_dtype)[tokens_BT]
    scaling = config.rope_scaling
    return x_BTD, rotation_angles(positions_BT, config.head_dim, config.rope_theta, scaling)


def final_norm(config: ModelConfig, params: dict, x_BTD: Array) -> Array:
    """Hidden states, from what the last layer returns."""
    outer = {name: leaf for name, leaf in params.items() if name != "layers"}
    return bind(Outer, config, outer).final_norm(x_BTD)


def over_layers(
    step: Callable, x: Array, layers: dict | tuple[dict, ...], unroll: int = 1
) -> tuple[Array, Any]:
    """`jax.lax.scan` of step(x, layer's parameters) -> (x, kept) over stacked layers.

    Over a tuple of layers it is a loop, which returns a list of what was kept.
    """
    if not isinstance(layers, tuple):
        return jax.lax.scan(step, x, layers, unroll=unroll)
    kept = []
    for layer in layers:
        x, one = step(x, layer)
        kept.append(one)
    return x, kept


def _sharded_by_rows(x_BTD: Array, mesh: Mesh | None) -> Array:
    """Between layers activations are sharded by rows and tokens only."""
    if mesh is None or mesh.size == 1:
        return x_BTD
    along = None if x_BTD.shape[1] % mesh.shape["sequence"] else "sequence"
    place = NamedSharding(mesh, PartitionSpec(BATCH_AXES, along))
    return jax.lax.with_sharding_constraint(x_BTD, place)


def _remat_policy(remat: str, kernel: str) -> Callable:
    """What is kept of a layer for the backward pass; see `ModelConfig.remat`."""
    policies = jax.checkpoint_policies
    if remat == "auto":
        raise UserError("model.remat=auto: training replaces it; set another for your own gradient")
    if remat == "full":
        return policies.nothing_saveable
    if remat == "offload":
        return policies.save_and_offload_only_these_names(
            names_which_can_be_saved=[],
            names_which_can_be_offloaded=["q", "k", "v", "attended"],
            offload_src="device",
            offload_dst="pinned_host",
        )
    products = {"attention": ("q", "k", "v"), "dots": PROJECTIONS}[remat]
    named = policies.save_only_these_names(*products, "reduced", RESULTS.get(kernel, "attended"))
    return lambda primitive, *args, **params: (
        primitive.name == RESULTS["cudnn"] or named(primitive, *args, **params)
    )


def head_weights(config: ModelConfig, params: dict) -> Array:
    """The output matrix w_VD: the embedding if they are tied."""
    return params["embed" if config.tied_embeddings else "head"]["w"]


def logits(config: ModelConfig, params: dict, hidden_BTD: Array) -> Array:
    """float32 scores over the vocabulary, [..., V]."""
    w_VD = head_weights(config, params).astype(config.compute_dtype)
    return jnp.einsum("...D,VD->...V", hidden_BTD, w_VD, preferred_element_type=jnp.float32)
