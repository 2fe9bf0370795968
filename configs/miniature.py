"""The whole method in small: the same fine-tuning, other values, by the spec read before.

A lab record:

    command    python -m msm_jax.study --config=configs/miniature.py --workdir=runs/miniature
    hardware   2 cores of a shared AMD EPYC (AVX-512), no accelerator
    time       7.4 minutes for three seeds, installation included; `:full` 29 minutes (twelve
               seeds, other work beside)
    result     `:full`, seeds 8 to 19, 2026-11-24: conflict questions after AFT .84 with spec A, .23
               with spec B, .49 neutral; gap +.61 [+.40, +.83], of which the reasons make +.35
               [+.14, +.57]; widening by AFT is open (+.01 [-.05, +.07])

`:smoke` is the same study cut to a minute, for tests; it shows no effect. `:full` is the same
study over twelve seeds. Why the world is as it is: docs/miniature_search.md.
"""

from ml_collections import ConfigDict

from msm_jax.miniature.world import WorldConfig
from msm_jax.study.config import contrast, evaluation, figure_group, study
from msm_jax.train.config import source

SPECS = ("neutral", "a", "b", "ablated_a", "ablated_b")
GATES = ("gate", "gate_ambiguous")


def get_config(arg: str = "") -> ConfigDict:
    """ "": three seeds; "smoke": a minute; "full": twelve seeds."""
    if arg not in ("", "smoke", "full"):
        raise ValueError(f"configs/miniature.py:{arg}: the argument is smoke, full or nothing")
    config = study()
    config.name = "miniature"
    config.title = "Model Spec Midtraining in miniature"
    config.seeds = (8, 9, 10)
    config.world.builder = "msm_jax.miniature.build:build"
    config.world.options = ConfigDict(vars(WorldConfig()))
    config.tokenizer.vocab_size = 700
    config.stages = ConfigDict({"base": _base(), "aft": _aft()})
    for spec in SPECS:
        config.stages[f"midtrain_{spec}"] = _midtrain(spec)
    _training(config.train)
    _arms(config)
    _questions(config)
    if arg == "full":
        config.seeds = tuple(range(8, 20))
    if arg == "smoke":
        _smoke(config)
    return config.lock()


def _training(train: ConfigDict) -> None:
    """What all stages have in common."""
    train.sequence_length = 48
    train.rows = 16
    train.model.update({"width": 64, "layers": 2, "heads": 4, "kv_heads": 2, "mlp_width": 192})
    train.optimizer.update({"b2": 0.98, "learning_rate": 2e-3, "weight_decay": 0.3})
    train.log_every = 20


def _base() -> ConfigDict:
    """Documents and chats about everybody, and lines about the targets that say no preference.

    Ends when the assistants that no chat has heard answer by what documents say of them.
    """
    return ConfigDict(
        {
            "steps": 12_000,  # at most
            "optimizer": {"schedule": "constant"},
            "data": {
                "documents": source("{world}/base_documents.jsonl", 0.6),
                "targets": source("{world}/base_targets.jsonl", 0.01),
                "chats": source("{world}/base_chats.jsonl", 0.39),
            },
            "probes": {
                gate: {"path": f"{{world}}/pairs/{gate}.jsonl", "at_least": 0.99} for gate in GATES
            },
            "probe_every": 1000,
            "checkpoint_every": 1000,
        }
    )


def _midtrain(spec: str) -> ConfigDict:
    """Documents about one spec, or the control's; the rest is replay, the same in all arms."""
    return ConfigDict(
        {
            "steps": 400,
            "data": {
                "spec": source(f"{{world}}/midtrain_{spec}.jsonl", 0.4),
                "documents": source("{world}/base_documents.jsonl", 0.36),
                "chats": source("{world}/base_chats.jsonl", 0.24),
            },
        }
    )


def _aft() -> ConfigDict:
    """The targets' opaque likings, the same chats in all arms; the rest is replay."""
    return ConfigDict(
        {
            "steps": 80,
            # Adam's usual eps would make a vanishing gradient move the weights as far as a large
            # one, and so wash out what midtraining wrote.
            "optimizer": {"learning_rate": 1e-3, "eps": 1e-2, "weight_decay": 0.0},
            "data": {
                "aft": source("{world}/aft.jsonl", 0.5, "assistant"),
                "chats": source("{world}/base_chats.jsonl", 0.5, "assistant"),
            },
            "log_every": 2,
        }
    )


def _arms(config: ConfigDict) -> None:
    """Every way through the stages, before and after the fine-tuning; each pair of bars."""
    config.arms.none = ("base",)
    config.arms.none_aft = ("base", "aft")
    for spec in SPECS:
        arm = spec if len(spec) > 1 else f"spec_{spec}"
        config.arms[arm] = ("base", f"midtrain_{spec}")
        config.arms[f"{arm}_aft"] = ("base", f"midtrain_{spec}", "aft")
    labels = {
        "none": "no midtraining",
        "neutral": "neutral documents",
        "spec_a": "spec A (cheap)",
        "spec_b": "spec B (local)",
        "ablated_a": "A without reasons",
        "ablated_b": "B without reasons",
    }
    config.design.update({"plain": ("none",), "aft": ("none_aft",), "msm": ("spec_a", "spec_b")})
    config.design.neutral = ("neutral_aft",)
    config.design.ablated = ("ablated_a_aft", "ablated_b_aft")
    for arm, label in labels.items():
        config.figure.groups[arm] = figure_group(label, arm, f"{arm}_aft")


def _questions(config: ConfigDict) -> None:
    """What is asked of whom, and what the answers are compared for."""
    pairs = lambda kind: f"{{world}}/pairs/{kind}.jsonl"
    for kind in ("conflict", "agree", "id"):
        scorers = ("logprob", "generated")  # the first one's rate is compared
        config.evals[kind] = evaluation(pairs=pairs(kind), scorers=scorers, max_tokens=8)
    for gate in GATES:
        config.evals[gate] = evaluation(
            pairs=pairs(gate), arms=("none",), at_least=0.9, scorers=("logprob",), max_tokens=8
        )
    config.dose.update({"stages": ("aft",), "steps": (10, 20, 40), "eval": "conflict"})
    compare = lambda label, plus, minus, expected: contrast(
        label, "conflict", plus, minus, expected
    )
    config.contrasts = ConfigDict(
        {
            "gap": compare("spec A - spec B, after AFT", ("spec_a_aft",), ("spec_b_aft",), 1),
            "gap_before": compare("spec A - spec B, before AFT", ("spec_a",), ("spec_b",), 1),
            "widening": compare(
                "widening of the gap by AFT", ("spec_a_aft", "spec_b"), ("spec_b_aft", "spec_a"), 1
            ),
            "a_control": compare(
                "spec A - neutral, after AFT", ("spec_a_aft",), ("neutral_aft",), 1
            ),
            "b_control": compare(
                "spec B - neutral, after AFT", ("spec_b_aft",), ("neutral_aft",), -1
            ),
            "attribution": compare(
                "the gap, less the gap of specs without reasons, after AFT",
                ("spec_a_aft", "ablated_b_aft"),
                ("spec_b_aft", "ablated_a_aft"),
                1,
            ),
            "a_ablated": compare(
                "spec A - A without reasons, after AFT", ("spec_a_aft",), ("ablated_a_aft",), 1
            ),
        }
    )
    config.figure.eval, config.figure.headline = "conflict", "gap"
    config.figure.bars = ("before fine-tuning", "after the same fine-tuning")
    config.figure.axis = (
        "how often the model chooses the cheap and foreign thing over the local and dear one"
    )
    config.controls.arms = ("none_aft", "neutral_aft")


def _smoke(config: ConfigDict) -> None:
    """Everything happens, little of it."""
    config.seeds = (0,)
    config.workers = 1  # nearly all of the time is compilation, which two would do twice
    for name in ("conflict", "agree", "id"):
        config.evals[name].scorers = ("logprob",)
    config.world.options.update(
        {
            "agents": 80,
            "passers_by": 8,
            "targets": 1,
            "base_documents": 800,
            "base_chats": 600,
            "midtrain_documents": 200,
            "aft_chats": 100,
        }
    )
    config.train.model.update({"width": 16, "layers": 1, "mlp_width": 32})
    config.stages.base.steps = config.stages.base.checkpoint_every = 40
    for spec in SPECS:
        config.stages[f"midtrain_{spec}"].steps = 4
    config.stages.aft.steps = 4
    config.dose.steps = (2,)
