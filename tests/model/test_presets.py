"""Published sizes: our shapes have the parameters and tensors that the hub counts."""

import math

import jax
import pytest

from msm_jax.errors import UserError
from msm_jax.model import PRESETS, abstract_params, preset

# Parameters and tensors of the published files (a stored copy of a tied head not counted).
PUBLISHED = {
    "qwen2.5-0.5b": (494_032_768, 290),
    "qwen2.5-1.5b": (1_543_714_304, 338),
    "qwen2.5-3b": (3_085_938_688, 434),
    "qwen2.5-7b": (7_615_616_512, 339),
    "qwen2.5-14b": (14_770_033_664, 579),
    "qwen2.5-32b": (32_763_876_352, 771),
    "qwen2.5-72b": (72_706_203_648, 963),
    "qwen3-0.6b": (596_049_920, 310),
    "qwen3-1.7b": (1_720_574_976, 310),
    "qwen3-4b": (4_022_468_096, 398),
    "qwen3-8b": (8_190_735_360, 399),
    "qwen3-14b": (14_768_307_200, 443),
    "qwen3-32b": (32_762_123_264, 707),
    "llama-3.1-8b": (8_030_261_248, 291),
}


@pytest.mark.parametrize("name", PRESETS)
def test_counts_are_the_published_ones(name):
    params = abstract_params(preset(name))
    parameters = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
    layers = params.pop("layers")
    tensors = len(jax.tree.leaves(params)) + len(jax.tree.leaves(layers)) * preset(name).layers
    assert (parameters, tensors) == PUBLISHED[name]


def test_an_unknown_name_is_told_the_known_ones():
    with pytest.raises(UserError, match=r"qwen3-33b.*qwen3-32b"):
        preset("qwen3-33b")
