"""The tensor of every parameter in a Hugging Face checkpoint: its name and shape there.

Weights are stored outputs first on both sides, so a file's tensor is a parameter with the axes of
its heads merged: q [H, d, D] is stored as [H * d, D]. Nothing is transposed.
"""

import dataclasses
import math
import re
from collections.abc import Iterator

import jax

from msm_jax.model import ModelConfig, abstract_params, logical_axes

_NAMES = {
    "embed.w": "model.embed_tokens.weight",
    "final_norm.scale": "model.norm.weight",
    "head.w": "lm_head.weight",
    "layers.attention_norm.scale": "model.layers.{}.input_layernorm.weight",
    "layers.mlp_norm.scale": "model.layers.{}.post_attention_layernorm.weight",
    "layers.attention.q_norm.scale": "model.layers.{}.self_attn.q_norm.weight",
    "layers.attention.k_norm.scale": "model.layers.{}.self_attn.k_norm.weight",
}
_LEAVES = {"w": "weight", "b": "bias", "lora_a": "lora_A.weight", "lora_b": "lora_B.weight"}
_BLOCKS = {"attention": "self_attn", "mlp": "mlp"}
# Written by old exporters; redundant, because it follows from the config.
DERIVED = re.compile(r"(.*\.)?rotary_emb\.inv_freq")


@dataclasses.dataclass(frozen=True)
class Entry:
    """One parameter: its path in the nested dict and shape, its tensor's name and shape in a file.

    If it is stacked, its shape begins with the layers' axis and its name has {} for the layer.
    """

    path: tuple[str, ...]
    shape: tuple[int, ...]
    name: str
    file_shape: tuple[int, ...]

    @property
    def stacked(self) -> bool:
        """Whether it has a tensor per layer."""
        return "{}" in self.name

    @property
    def size(self) -> int:
        """Numbers in it."""
        return math.prod(self.shape)

    @property
    def names(self) -> list[str]:
        """The names of its tensors."""
        return [self.name.format(i) for i in range(self.shape[0])] if self.stacked else [self.name]

    @property
    def tensor_shape(self) -> tuple[int, ...]:
        """The shape of one tensor, with our axes."""
        return self.shape[1:] if self.stacked else self.shape


def entries(config: ModelConfig) -> Iterator[Entry]:
    """Every parameter of the model, the adapter's among them, in the order of the tree.

    Scales of weights in 8 bits are not among them: in files weights are as they were published.
    """
    shapes = jax.tree_util.tree_leaves_with_path(abstract_params(config))
    axes = jax.tree.leaves(logical_axes(config), is_leaf=lambda x: isinstance(x, tuple))
    for (keys, leaf), names in zip(shapes, axes, strict=True):
        path = tuple(key.key for key in keys)
        if path[-1] == "w_scale":
            continue
        leading = int(path[0] == "layers")
        shape = _merged(leaf.shape[leading:], names[leading:])
        yield Entry(path, leaf.shape, _name(path), shape)


def _name(path: tuple[str, ...]) -> str:
    if known := _NAMES.get(".".join(path)):
        return known
    _, block, projection, leaf = path
    return f"model.layers.{{}}.{_BLOCKS[block]}.{projection}_proj.{_LEAVES[leaf]}"


def _merged(shape: tuple[int, ...], axes: tuple[str, ...]) -> tuple[int, ...]:
    """The shape with the width of a head joined to the number of heads before it."""
    found: list[int] = []
    for number, (size, axis) in enumerate(zip(shape, axes, strict=True)):
        if axis == "head_dim" and number and axes[number - 1] in ("heads", "kv_heads"):
            found[-1] *= size
        else:
            found.append(size)
    assert math.prod(found) == math.prod(shape)
    return tuple(found)
