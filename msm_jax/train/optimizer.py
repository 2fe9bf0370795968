"""AdamW with warmup and decay, and which parameters it moves."""

import jax
import optax

from msm_jax.errors import UserError

DECAYED = ("w", "lora_a", "lora_b")  # not norms, not biases
SCHEDULES = ("cosine", "linear", "constant")
TRAINABLE = ("all", "lora")


def make_schedule(config, steps: int) -> optax.Schedule:
    """Learning rate by step: linear warmup over `warmup_fraction` of the run, then decay to 0."""
    if config.schedule not in SCHEDULES:
        raise UserError(f"optimizer.schedule={config.schedule!r}: one of {SCHEDULES}")
    peak, warmup = config.learning_rate, round(config.warmup_fraction * steps)
    rest = max(steps - warmup, 1)
    after = {
        "cosine": optax.cosine_decay_schedule(peak, rest),
        "linear": optax.linear_schedule(peak, 0.0, rest),
        "constant": optax.constant_schedule(peak),
    }[config.schedule]
    # (step + 1) / warmup: the first step already moves.
    rising = lambda step: peak * (step + 1) / max(warmup, 1)
    return optax.join_schedules([rising, after], [warmup])


def make_optimizer(config, steps: int) -> optax.GradientTransformation:
    """AdamW (Loshchilov & Hutter 2019) with decoupled weight decay on matrices only."""

    def decays(params):
        return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key in DECAYED, params)

    adamw = optax.adamw(
        make_schedule(config, steps),
        b1=config.b1,
        b2=config.b2,
        eps=config.eps,
        weight_decay=config.weight_decay,
        mask=decays,
    )
    if config.clip_norm:
        return optax.chain(optax.clip_by_global_norm(config.clip_norm), adamw)
    return adamw


def optimizer_shardings(optimizer, trained: dict, mesh) -> optax.OptState:
    """The tree of `optimizer.init(trained)`: a moment lies as its parameter does, counts whole."""
    whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    return optax.tree_utils.tree_map_params(
        optimizer,
        lambda _, param: param.sharding,
        jax.eval_shape(optimizer.init, trained),
        trained,
        transform_non_params=lambda _: whole,
    )


def split_params(params: dict, trainable: str) -> tuple[dict, dict]:
    """(trained, frozen) trees that `join_params` puts together again.

    Raises:
      UserError: trainable="lora" without an adapter in the model.
    """
    if trainable not in TRAINABLE:
        raise UserError(f"trainable={trainable!r}: one of {TRAINABLE}")

    def pick(tree, wanted):
        found = {}
        for name, leaf in tree.items():
            if isinstance(leaf, dict):
                if inner := pick(leaf, wanted):
                    found[name] = inner
            elif (trainable == "all" or name.startswith("lora_")) == wanted:
                found[name] = leaf
        return found

    trained = pick(params, True)
    if not trained:
        raise UserError('trainable="lora" needs an adapter: set model.lora_rank above 0')
    return trained, pick(params, False)


def join_params(first: dict, second: dict) -> dict:
    """Both trees in one; no leaf is in both."""
    joined = dict(first)
    for name, leaf in second.items():
        joined[name] = join_params(joined[name], leaf) if name in joined else leaf
    return joined
