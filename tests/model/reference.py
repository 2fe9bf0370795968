"""Tiny random Hugging Face models and their weights in our names: the independent reference."""

import numpy as np

from msm_jax.model import ModelConfig, abstract_params

SHAPES = {
    "odd widths": {"heads": 4, "kv_heads": 2, "head_dim": 24, "width": 40},
    "one key head": {"heads": 4, "kv_heads": 1, "head_dim": 16, "width": 64},
    "as many key heads": {"heads": 3, "kv_heads": 3, "head_dim": 8, "width": 36},
}

PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def drawn(config: ModelConfig, seed: int = 0, adapter: float = 0.2) -> dict:
    """Weights of `config` with random numbers, those of `lora_b` times `adapter`.

    The shapes and dtypes are those of `init_params`, which takes XLA seconds to compile and whose
    numbers most tests do not ask for.
    """
    import jax

    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        name, numbers = path[-1].key, rng.standard_normal(leaf.shape)
        size = {"scale": 0.1, "lora_b": adapter}.get(name, 0.2)
        return jax.device_put((size * numbers + (name == "scale")).astype(leaf.dtype))

    return jax.tree_util.tree_map_with_path(draw, abstract_params(config))


def tiny(family: str, tied: bool, eps: float, theta: float, shape: str):
    """(our ModelConfig, transformers model in fp32 eval mode) of a family and shape."""
    import torch
    import transformers

    sizes = SHAPES[shape]
    config = ModelConfig(
        vocab_size=97,
        layers=2,
        mlp_width=72,
        rope_theta=theta,
        norm_eps=eps,
        qk_norm=family == "qwen3",
        qkv_bias=family == "qwen2",
        tied_embeddings=tied,
        **sizes,
    )
    names = {
        "qwen3": (transformers.Qwen3Config, transformers.Qwen3ForCausalLM),
        "qwen2": (transformers.Qwen2Config, transformers.Qwen2ForCausalLM),
        "llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM),
    }
    make_config, make_model = names[family]
    theirs = make_config(
        vocab_size=97,
        hidden_size=config.width,
        intermediate_size=config.mlp_width,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        num_key_value_heads=config.kv_heads,
        head_dim=config.head_dim,
        rms_norm_eps=eps,
        rope_parameters={"rope_type": "default", "rope_theta": theta},
        tie_word_embeddings=tied,
        max_position_embeddings=1024,
        attn_implementation="eager",
    )
    torch.manual_seed(0)
    model = make_model(theirs).float().eval()
    with torch.no_grad():
        for parameter in model.parameters():  # also the norms and biases, which start trivial
            parameter.copy_(torch.randn_like(parameter) * 0.15 + (parameter.dim() == 1))
    return config, model


def our_params(config: ModelConfig, model) -> dict:
    """The model's weights as `forward` takes them."""
    tensors = {name: value.numpy() for name, value in model.state_dict().items()}
    head = lambda w: w.reshape(-1, config.head_dim, config.width)

    def layer(number):
        get = lambda name: tensors[f"model.layers.{number}.{name}"]
        attention = {name: {"w": head(get(f"self_attn.{name}_proj.weight"))} for name in "qkv"}
        o_DHd = get("self_attn.o_proj.weight").reshape(config.width, -1, config.head_dim)
        attention["o"] = {"w": o_DHd}
        if config.qkv_bias:
            for name in "qkv":
                bias = get(f"self_attn.{name}_proj.bias")
                attention[name]["b"] = bias.reshape(-1, config.head_dim)
        if config.qk_norm:
            for name in ("q_norm", "k_norm"):
                attention[name] = {"scale": get(f"self_attn.{name}.weight")}
        mlp = {name: {"w": get(f"mlp.{name}_proj.weight")} for name in ("gate", "up", "down")}
        return {
            "attention": attention,
            "mlp": mlp,
            "attention_norm": {"scale": get("input_layernorm.weight")},
            "mlp_norm": {"scale": get("post_attention_layernorm.weight")},
        }

    import jax

    layers = [layer(number) for number in range(config.layers)]
    params = {
        "embed": {"w": tensors["model.embed_tokens.weight"]},
        "final_norm": {"scale": tensors["model.norm.weight"]},
        "layers": jax.tree.map(lambda *leaves: np.stack(leaves), *layers),
    }
    if not config.tied_embeddings:
        params["head"] = {"w": tensors["lm_head.weight"]}
    return params


def random_adapter(model, folder, seed=0, name="default", **settings):
    """peft's model around `model` with an adapter that is not zero, saved to the folder."""
    import torch
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    settings = {"r": 64, "lora_alpha": 128, "target_modules": PROJECTIONS, **settings}
    wrapped = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **settings))
    for key, value in wrapped.named_parameters():
        if "lora_" in key:
            torch.nn.init.normal_(value, std=0.03)
    wrapped.save_pretrained(folder)
    return wrapped.eval()
