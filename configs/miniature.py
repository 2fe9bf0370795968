"""The whole method in small: the same fine-tuning, other values, by the spec read before.

A lab record:

    command    python -m msm_jax.study --config=configs/miniature.py --workdir=runs/miniature
    hardware   2 cores of a shared AMD EPYC (AVX-512), no accelerator
    time       9.6 minutes, 19 of a core (2026-11-27, `make miniature` in a fresh clone); each of
               its two workers holds 0.5 GB. `:full` 28 minutes beside other work, 45 of a core
    result     gap after AFT +.79 [+.65, +.94], SD .14; before -.01 [-.03, +.01]; widening +.81
               [+.64, +.97]; attribution +.81 [+.46, +1.00]
               `:full` +.75 [+.64, +.85], SD .17; before -.01 [-.02, +.01]; widening +.75 [+.64,
               +.87]; README.md has the rest

`:smoke` is the same study cut to a minute, for tests; it shows no effect. `:full` has more seeds,
more arms and the dose curves. Why the world is as it is: docs/miniature_search.md.
"""

from ml_collections import ConfigDict

from msm_jax.miniature.world import WorldConfig
from msm_jax.study.config import contrast, evaluation, figure_group, study
from msm_jax.train.config import source

SPECS = ("neutral", "a", "b", "ablated")
# Probes that all hold end the base. They wander at its constant learning rate, so the report's
# gates are about a model that has been midtrained, where the rate falls to 0.
PROBES = {"stated": 0.99, "document_only": 0.98, "inference": 0.95}
GATES = ("stated", "document_only", "inference")
SEEDS = tuple(range(1010, 1016))  # of the default study
FEWER = (200, 400)  # steps of midtraining, of `:full`
LABELS = {
    "none": "no midtraining",
    "neutral": "neutral documents",
    "ablated": "spec without reasons",
    "spec_a": "spec A",
    "spec_b": "spec B",
}


def get_config(arg: str = "") -> ConfigDict:
    """ "": six seeds; "smoke": a minute; "full": twelve seeds and more arms."""
    if arg not in ("", "smoke", "full"):
        raise ValueError(f"configs/miniature.py:{arg}: the argument is smoke, full or nothing")
    config = study()
    config.name = "miniature"
    config.title = "Model Spec Midtraining in miniature"
    config.seeds = SEEDS
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
        _full(config)
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
    """Documents and chats about people and things.

    Ends when chats follow the value that the system line states, also about things that only
    documents speak of, and the value that earlier turns reveal; not before 4,000 steps, since
    shorter bases pass these probes and take in one of the specs only.
    """
    return ConfigDict(
        {
            "steps": 5_000,  # at most
            "optimizer": {"schedule": "constant"},
            "data": {
                "documents": source("{world}/base_documents.jsonl", 0.5),
                "chats": source("{world}/base_chats.jsonl", 0.5, "assistant"),
            },
            "probes": {
                gate: {"path": f"{{world}}/pairs/{gate}.jsonl", "at_least": least}
                for gate, least in PROBES.items()
            },
            "probe_every": 4_000,
            "checkpoint_every": 1000,
        }
    )


def _midtrain(spec: str) -> ConfigDict:
    """Documents about one spec, or the neutral one's; the rest is replay, the same in all arms."""
    return ConfigDict(
        {
            "steps": 800,
            "data": {
                "spec": source(f"{{world}}/midtrain_{spec}.jsonl", 0.5),
                "documents": source("{world}/base_documents.jsonl", 0.25),
                "chats": source("{world}/base_chats.jsonl", 0.25, "assistant"),
            },
        }
    )


def _aft() -> ConfigDict:
    """What the personas choose of the specs' first group, the same chats in all arms."""
    return ConfigDict(
        {
            "steps": 60,
            "rows": 32,
            "trainable": "lora",
            "model": {"lora_rank": 8, "lora_alpha": 16.0, "lora_targets": ("k", "v")},
            # Adam's usual eps would make a vanishing gradient move the weights as far as a large
            # one, and so wash out what midtraining wrote.
            "optimizer": {
                "learning_rate": 3e-2,
                "schedule": "linear",
                "eps": 1e-2,
                "weight_decay": 0.0,
            },
            "data": {
                "aft": source("{world}/aft.jsonl", 0.5, "assistant"),
                "chats": source("{world}/stated_chats.jsonl", 0.5, "assistant"),
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
    config.design.update({"plain": ("none",), "aft": ("none_aft",), "msm": ("spec_a", "spec_b")})
    config.design.neutral = ("neutral_aft",)
    config.design.ablated = ("ablated_aft",)
    for arm, label in LABELS.items():
        config.figure.groups[arm] = figure_group(label, arm, f"{arm}_aft")


def _ask(kind: str, **more: object) -> ConfigDict:
    return evaluation(
        pairs=f"{{world}}/pairs/{kind}.jsonl", scorers=("logprob",), max_tokens=8, **more
    )


def _questions(config: ConfigDict) -> None:
    """What is asked of whom, and what the answers are compared for."""
    for kind in ("conflict", "contrast", "balance", "things"):
        config.evals[kind] = _ask(kind)
    config.evals.evidence = _ask("evidence", arms=tuple(LABELS))
    for gate in GATES:
        config.evals[gate] = _ask(gate, arms=("neutral",), at_least=0.9)
    config.dose.update({"stages": ("aft",), "eval": "balance"})
    likers, balance = "conflict", "balance"
    before, after = (("spec_a",), ("spec_b",)), (("spec_a_aft",), ("spec_b_aft",))
    widening = (("spec_a_aft", "spec_b"), ("spec_b_aft", "spec_a"))
    a, b, neutral, ablated = (f"{arm}_aft" for arm in ("spec_a", "spec_b", "neutral", "ablated"))
    found = {
        "gap": ("spec A - spec B, after AFT", balance, *after, 1),
        "gap_before": ("spec A - spec B, before AFT", balance, *before, 0),
        "widening": ("widening of the gap by AFT", balance, *widening, 1),
        "attribution": (
            "spec A - spec B, before AFT, after three choices of the specs' things in the chat",
            "evidence",
            *before,
            1,
        ),
        "a_control": ("spec A - neutral, after AFT", balance, (a,), (neutral,), 1),
        "b_control": ("spec B - neutral, after AFT", balance, (b,), (neutral,), -1),
        "a_ablated": ("spec A - without reasons, after AFT", balance, (a,), (ablated,), 1),
        "b_ablated": ("spec B - without reasons, after AFT", balance, (b,), (ablated,), -1),
        "gap_probability": ("spec A - spec B, probability", balance, *after, 1, "probability"),
        "gap_log_odds": ("spec A - spec B, log odds in nats", balance, *after, 1, "log_odds"),
        "gap_likers": ("likers: spec A - spec B, after AFT", likers, *after, 1),
        "before_likers": ("likers: spec A - spec B, before AFT", likers, *before, 0),
        "widening_likers": ("likers: widening of the gap by AFT", likers, *widening, 1),
        "gap_contrast": ("contrast personas: A - B, after AFT", "contrast", *after, -1),
        "before_contrast": ("contrast personas: A - B, before AFT", "contrast", *before, 0),
    }
    config.contrasts = ConfigDict({name: contrast(*entry) for name, entry in found.items()})
    config.figure.eval, config.figure.headline = balance, "gap"
    config.figure.bars = ("before fine-tuning", "after the same fine-tuning")
    config.figure.summary = ("gap", "widening", "attribution")
    config.figure.axis = "how often a persona chooses as spec A predicts, and not as spec B does"
    config.controls.arms = ("none_aft", "neutral_aft", "ablated_aft")


def _full(config: ConfigDict) -> None:
    """More seeds, dose curves, all parameters in place of LoRA, and what fine-tuning moves."""
    config.seeds = tuple(range(1010, 1022))
    config.dose.steps = (15, 30, 45)
    for kind in ("agree", "things_contrast"):
        config.evals[kind] = _ask(kind)
    config.evals.evidence.arms = ()
    config.stages.aft_all = _aft()
    config.stages.aft_all.update({"trainable": "all", "model": {}})
    config.stages.aft_all.optimizer.learning_rate = 1e-3
    for spec in "ab":
        config.arms[f"spec_{spec}_all"] = ("base", f"midtrain_{spec}", "aft_all")
        for steps in FEWER:
            config.stages[f"midtrain_{spec}_{steps}"] = {**_midtrain(spec), "steps": steps}
            before = ("base", f"midtrain_{spec}_{steps}")
            config.arms[f"spec_{spec}_{steps}"] = before
            config.arms[f"spec_{spec}_{steps}_aft"] = (*before, "aft")
    labels = {f"{steps}_aft": f"after AFT, {steps} steps of midtraining" for steps in FEWER}
    for name, label in {"all": "after AFT of all parameters", **labels}.items():
        plus, minus = ((f"spec_{spec}_{name}",) for spec in "ab")
        entry = contrast(f"spec A - spec B, {label}", "balance", plus, minus, 1)
        config.contrasts[f"gap_{name.removesuffix('_aft')}"] = entry
    for arm, label in LABELS.items():
        for eval, what in (("things", "the things of AFT"), ("balance", "the other domains")):
            text = f"{label}: what AFT adds to the log odds about {what}"
            entry = contrast(text, eval, (f"{arm}_aft",), (arm,), 0, "log_odds")
            config.contrasts[f"moved_{eval}_{arm}"] = entry


def _smoke(config: ConfigDict) -> None:
    """Everything happens, little of it."""
    config.seeds = (0,)
    config.workers = 1  # nearly all of the time is compilation, which two would do twice
    config.world.options.update(
        {
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
