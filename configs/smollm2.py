"""The method on a real language model: SmolLM2-135M-Instruct and the example corpus.

A lab record:

    command    make real  # takes 26 minutes
               which runs  python -m msm_jax.study --config=configs/smollm2.py:laptop \\
                               --workdir=runs/real
               after runs/smollm2-135m (the converted checkpoint) and runs/larder (the corpus with
               the model's name) have been made
    hardware   2 cores of an AMD EPYC with nothing else to do, 24 GB; 2026-11-27, commit 9cf854e
    time       25:46, with runs/smollm2-135m and runs/larder already made; 112 to 126 tokens/s in
               each of the two workers
    result     no effect was found: affordable - local after AFT -.09 [-.21, .04], where the
               hypothesis predicts a positive number (one seed, 40 pairs in both orders). The
               documents were absorbed: their held-out loss fell by .49 and .51 nats per token, that
               of neutral text by .23. docs/smollm2.md has the tables

    `:gpu` has not been run.

All arms start from the same checkpoint, and all that are fine-tuned read the same chats: likings
without reasons. Before, they read documents about a spec that likes things because they are
affordable, about one that likes the same things because they are made nearby, about the same
likings without any reason, ordinary text, or nothing. Then all are asked about eight other domains,
where the two reasons disagree. Likings without reasons are the same for both specs, so one arm is
the control of both.

The learning rates of LoRA were chosen on seed 100 by held-out loss and not by preferences; those of
full training and of `:gpu` were not searched: docs/smollm2.md. No document is read twice by
`:laptop`, and none that is held out is trained on.

`:laptop`  one seed, LoRA, 54 documents of each kind, 200 chats, every sixth question. Seconds of
           one worker, of which there are two:

               midtraining    4 x 28,900 tokens                                          1,029
               fine-tuning    5 x 15,400 tokens                                            627
               evaluations    of the base, and of four arms before AFT                     780
                              of five arms after AFT, and during it (dose)                 519
`:gpu`     five seeds, all documents and chats three times, LoRA in all arms and full training in
           some, doses over documents and steps. An estimate, because it has not been run: 10
           minutes on one H100, most of it loading, compiling and launching kernels.
`:smoke`   one step of training, few arms and questions, for tests: the parts fit together. It says
           nothing about the method.
"""

from ml_collections import ConfigDict

from msm_jax.study.config import absorption, contrast, evaluation, figure_group, study
from msm_jax.train.config import source

BASE, LARDER = "runs/smollm2-135m", "runs/larder"
DOCUMENTS = {
    "affordable": "affordable",
    "local": "made nearby",
    "unexplained": "likings without reasons",
    "neutral": "neutral documents",
}
SPECS = ("affordable", "local", "unexplained")
HELD_OUT = 32  # documents of each kind; the same outlines in all


def get_config(arg: str = "laptop") -> ConfigDict:
    """ "laptop", "gpu" or "smoke": how much of everything; see the module."""
    if arg not in ("laptop", "gpu", "smoke"):
        raise ValueError(f"configs/smollm2.py:{arg}: the argument is laptop, gpu or smoke")
    config = study()
    config.name = "smollm2"
    config.title = "Model Spec Midtraining of SmolLM2-135M-Instruct"
    config.seeds = (0,)
    config.base.path = BASE
    _training(config)
    _arms(config)
    _questions(config, few=arg != "gpu")
    _comparisons(config)
    {"laptop": _laptop, "gpu": _gpu, "smoke": _smoke}[arg](config)
    return config.lock()


def _training(config: ConfigDict) -> None:
    """LoRA on all projections, documents once, then chats."""
    config.train.update({"mixture": "epochs", "steps": 0, "trainable": "lora"})
    config.train.update({"sequence_length": 512, "rows": 2, "log_every": 1})
    config.train.model.update({"lora_rank": 32, "lora_alpha": 64.0})
    for kind in DOCUMENTS:
        config.stages[f"midtrain_{kind}"] = _midtrain(kind)
    config.stages.aft = _aft()


def _midtrain(kind: str) -> ConfigDict:
    documents = source(f"{LARDER}/documents/{kind}.jsonl")
    documents.hold_out = HELD_OUT
    return ConfigDict({"data": {"documents": documents}, "optimizer": {"learning_rate": 3e-3}})


def _aft() -> ConfigDict:
    chats = source(f"{LARDER}/chats.jsonl", loss_on="assistant")
    return ConfigDict({"data": {"chats": chats}, "optimizer": {"learning_rate": 1e-3}})


def _arms(config: ConfigDict) -> None:
    """Every kind of documents, before and after the fine-tuning; each pair of bars."""
    config.arms.base = ()
    config.arms.base_aft = ("aft",)
    config.figure.groups.base = figure_group("no midtraining", "base", "base_aft")
    config.design.update({"plain": ("base",), "aft": ("base_aft",), "msm": ("affordable", "local")})
    config.design.update({"neutral": ("neutral_aft",), "ablated": ("unexplained_aft",)})
    for kind in ("neutral", "unexplained", "affordable", "local"):
        config.arms[kind] = (f"midtrain_{kind}",)
        config.arms[f"{kind}_aft"] = (f"midtrain_{kind}", "aft")
        config.figure.groups[kind] = figure_group(DOCUMENTS[kind], kind, f"{kind}_aft")


def _questions(config: ConfigDict, few: bool) -> None:
    """What is asked of whom; `few`: every sixth pair and quiz question."""
    folder = f"{LARDER}/questions_few" if few else f"{LARDER}/questions"
    file = lambda name: f"{folder}/{name}.jsonl"
    after = tuple(name for name in config.arms if name.endswith("_aft"))
    before = tuple(name for name in config.arms if not name.endswith("_aft"))
    asked_after = before + after if not few else after
    asked_before = before + after if not few else before
    only_logprob = {"scorers": ("logprob",), "rows": 16}
    config.evals.disagree = evaluation(pairs=file("disagree"), **only_logprob)
    config.evals.agree = evaluation(pairs=file("agree"), arms=asked_after, **only_logprob)
    for spec in ("affordable", "local"):
        config.evals[f"quiz_{spec}"] = evaluation(
            "quiz",
            quiz=file(f"quiz_{spec}"),
            assistant="SmolLM",
            answer="texts",
            arms=asked_before,
            rows=16,
        )
    config.evals.facts = evaluation(
        "quiz", quiz=file("facts"), assistant="SmolLM", answer="texts", rows=16
    )
    config.retention = ("facts",)
    config.evals.loss = evaluation(
        "loss",
        documents=tuple(f"{kind}={LARDER}/documents/{kind}.jsonl" for kind in DOCUMENTS),
        hold_out=HELD_OUT,
        arms=asked_before,
        sequence_length=512,
        rows=4,
    )
    config.evals.agents = evaluation(
        "agents",
        scenarios=("leaking",),
        goals=("none", "explicit-america"),
        assistant="SmolLM",
        samples=1,
        max_tokens=128,
        arms=("base", "affordable_aft", "local_aft"),
        rows=2,
    )
    config.absorption.eval = "loss"
    for spec in SPECS:
        quiz = f"quiz_{spec}" if spec != "unexplained" else ""
        config.absorption.stages[f"midtrain_{spec}"] = absorption(
            spec, "neutral", quiz, f"midtraining ({DOCUMENTS[spec]})"
        )


def _comparisons(config: ConfigDict) -> None:
    """Choice A is the affordable thing, so spec A should raise the rate and spec B lower it."""
    preference = lambda label, plus, minus, expected: contrast(
        label, "disagree", plus, minus, expected
    )
    config.contrasts = ConfigDict(
        {
            "gap": preference(
                "affordable - local, after AFT", ("affordable_aft",), ("local_aft",), 1
            ),
            "gap_before": preference(
                "affordable - local, before AFT", ("affordable",), ("local",), 1
            ),
            "widening": preference(
                "widening of the gap by AFT",
                ("affordable_aft", "local"),
                ("local_aft", "affordable"),
                1,
            ),
            "affordable_control": preference(
                "affordable - neutral, after AFT", ("affordable_aft",), ("neutral_aft",), 1
            ),
            "local_control": preference(
                "local - neutral, after AFT", ("local_aft",), ("neutral_aft",), -1
            ),
            "affordable_reasons": preference(
                "affordable - likings without reasons, after AFT",
                ("affordable_aft",),
                ("unexplained_aft",),
                1,
            ),
            "local_reasons": preference(
                "local - likings without reasons, after AFT",
                ("local_aft",),
                ("unexplained_aft",),
                -1,
            ),
            "agree": contrast(
                "cheap and near over dear and far: affordable - neutral, after AFT",
                "agree",
                ("affordable_aft",),
                ("neutral_aft",),
                1,
            ),
            "retention": contrast(
                "general knowledge: affordable - base, after AFT",
                "facts",
                ("affordable_aft",),
                ("base",),
            ),
        }
    )
    config.figure.update({"eval": "disagree", "headline": "gap"})
    config.figure.bars = ("before fine-tuning", "after the same fine-tuning")
    config.figure.axis = "chooses the affordable thing from far away over the local and dear one"


def _laptop(config: ConfigDict) -> None:
    """A third of the documents and half of the chats."""
    config.workers = 2  # of about 4 GB each, also where there are more cores
    for kind in DOCUMENTS:
        config.stages[f"midtrain_{kind}"].data.documents.update({"take": 54, "hold_out": 8})
    config.evals.loss.hold_out = 8
    config.stages.aft.data.chats.take = 200
    config.dose.update({"stages": ("aft",), "steps": (7,), "eval": "disagree"})


def _gpu(config: ConfigDict) -> None:
    """Five seeds, three epochs, full training beside LoRA, and doses."""
    config.seeds = (0, 1, 2, 3, 4)
    config.train.model.dtype = "bfloat16"
    config.train.update({"rows": 4, "epochs": 3.0})
    for kind in DOCUMENTS:  # seven times as many tokens as in the search
        config.stages[f"midtrain_{kind}"].optimizer.learning_rate = 1e-3
    for name in ("disagree", "agree", "quiz_affordable", "quiz_local", "facts"):
        config.evals[name].rows = 256
    config.evals.loss.rows = 16
    after = ("base_aft", "affordable_aft", "local_aft")
    config.evals.disagree_generated = evaluation(
        pairs=f"{LARDER}/questions/disagree.jsonl",
        scorers=("generated",),
        max_tokens=24,
        arms=("base", *after),
        rows=256,
    )
    for spec in ("affordable", "local"):  # what a prompt does
        config.evals[f"disagree_{spec}_in_context"] = evaluation(
            pairs=f"{LARDER}/questions/disagree.jsonl",
            context=f"{LARDER}/specs/{spec}.md",
            scorers=("logprob",),
            arms=("base", "base_aft"),
            rows=64,
        )
    config.design.context = ("disagree_affordable_in_context", "disagree_local_in_context")
    for kind in ("affordable", "local"):  # half of the documents: part of those of the whole
        half = _midtrain(kind)
        half.data.documents.take = 60
        half.optimizer.learning_rate = 1e-3
        config.stages[f"midtrain_{kind}_half"] = half
        config.arms[f"{kind}_half"] = (f"midtrain_{kind}_half",)
        full = _full(_midtrain(kind), 3e-4)
        config.stages[f"midtrain_{kind}_full"] = full
        config.arms[f"{kind}_full"] = (f"midtrain_{kind}_full",)
        config.arms[f"{kind}_full_aft"] = (f"midtrain_{kind}_full", "aft_full")
    config.stages.aft_full = _full(_aft(), 3e-4)
    config.arms.base_full_aft = ("aft_full",)
    config.dose.update({"stages": ("aft",), "steps": (5, 10, 20), "eval": "disagree"})
    more = {
        "gap_half": ("half of the documents", "_half"),
        "gap_full_before": ("full training, before AFT", "_full"),
        "gap_full": ("full training, after AFT", "_full_aft"),
    }
    for name, (label, end) in more.items():
        config.contrasts[name] = contrast(
            f"affordable - local, {label}", "disagree", (f"affordable{end}",), (f"local{end}",), 1
        )


def _full(stage: ConfigDict, learning_rate: float) -> ConfigDict:
    """The same stage, training all weights."""
    stage.update({"trainable": "all", "model": {"lora_rank": 0}})
    stage.optimizer.learning_rate = learning_rate
    return stage


def _smoke(config: ConfigDict) -> None:
    """One step of training; two specs, and few questions."""
    config.workers = 1  # nearly all of the time is compilation, which two would do twice
    config.train.update({"steps": 1, "rows": 1, "sequence_length": 128})
    config.train.packing.long_chats = "drop"
    arms = ("base", "affordable", "affordable_aft", "local", "local_aft")
    for name in set(config.arms) - {*arms}:
        del config.arms[name]
    for name in ("neutral", "unexplained"):
        del config.stages[f"midtrain_{name}"]
    del config.absorption.stages.midtrain_unexplained
    for name in ("base", "neutral", "unexplained"):
        del config.figure.groups[name]
    config.design.update({"aft": (), "neutral": (), "ablated": ()})
    for name in set(config.contrasts) - {"gap", "gap_before", "widening"}:
        del config.contrasts[name]
    for name in ("agree", "facts", "quiz_local"):
        del config.evals[name]
    config.absorption.stages.midtrain_local.quiz = ""
    config.retention = ("quiz_affordable",)
    for name in ("quiz_affordable", "loss"):
        config.evals[name].arms = ("base", "affordable", "affordable_aft", "local_aft")
    config.evals.agents.update({"arms": ("base",), "max_tokens": 16, "goals": ("none",)})
    for kind in SPECS[:2]:
        config.stages[f"midtrain_{kind}"].data.documents.hold_out = 1
    config.evals.loss.update({"hold_out": 1, "sequence_length": 128, "rows": 2})
