"""What a study of the method is asked, and what its arms are compared with.

    ask(config, "agents", evaluation("agents"), {"philosophy": "spec.md"})
    compare(config, "agents", expected=-1)
    draw(config, "agents", "rate of the harmful act", "msm_philosophy_aft - aft")

For configs whose arms `msm_jax.study.method.add_method` made.
"""

import types
from collections.abc import Iterator, Mapping

from ml_collections import ConfigDict

from msm_jax.study.config import contrast, evaluation, figure_group

Targets = Mapping[str, float]  # arm -> the paper's value
NONE: Mapping = types.MappingProxyType({})
# The directory of the base, its name in the released data, whether a scratchpad is offered.
QWEN = {
    "qwen3-32b": ("Qwen3-32B", "qwen3", False),
    "qwen2.5-32b": ("Qwen2.5-32B-Instruct", "qwen2.5", True),
    "qwen3-14b": ("Qwen3-14B", "qwen3", False),
    "qwen2.5-14b": ("Qwen2.5-14B-Instruct", "qwen2.5", True),
}


def agents(model: str) -> ConfigDict:
    """The paper's agent evaluation of a model of `QWEN`: 27 conditions x 300 (App. D.3)."""
    return evaluation(
        "agents",
        assistant="Qwen",
        scratchpad=QWEN[model][2],
        judge="anthropic",
        judge_model="claude-sonnet-4-6",
    )


def ask(config: ConfigDict, name: str, asked: ConfigDict, texts: Mapping[str, str] = NONE) -> None:
    """Adds an evaluation of all arms, and one for each spec's text in the prompt.

    Args:
      texts: name of the spec -> a file that has no placeholder, see `evaluate --context`.
    """
    config.evals[name] = asked
    for spec, path in texts.items():
        in_context = f"{name}_with_{spec}"
        more = {"context": path, "arms": ("plain", "mix")}
        config.evals[in_context] = ConfigDict({**asked.to_dict(), **more})
        config.design.context = (*config.design.context, in_context)


def compare(
    config: ConfigDict, eval: str, expected: int, targets: Targets = NONE, only: str = ""
) -> None:
    """Adds contrasts: each msm_S_C minus what else could explain it.

    Args:
      expected: the sign that the hypothesis predicts of msm_S_C minus its controls.
      targets: the paper's value of arms, which is put into the labels.
      only: one spec, where the evaluation is about that one.
    """
    for arm, others in _rivals(config, only):
        for other in others:
            label = f"{arm} - {other}{_paper(targets, arm, other)}"
            config.contrasts[f"{eval}: {arm} - {other}"] = contrast(
                label, eval, (arm,), (other,), expected
            )


def _rivals(config: ConfigDict, only: str) -> Iterator[tuple[str, list[str]]]:
    """Each arm of the method, and the arms that lack one part of it or have another order."""
    for arm, stages in config.arms.items():
        if len(stages) == 2 and stages[0].startswith(f"msm_{only}") and stages[1] != "mix":
            midtrain, name = stages
            spec = midtrain.removeprefix("msm_")
            if only in ("", spec):
                kinds = ("ablated", "one_stage", "reversed", "replay")
                others = [name, f"{midtrain}_mix", midtrain, f"neutral_{name}"]
                others += [f"{kind}_{spec}_{name}" for kind in kinds]
                yield arm, [each for each in others if each in config.arms]


def draw(config: ConfigDict, eval: str, axis: str, headline: str, targets: Targets = NONE) -> None:
    """The report's first figure: no midtraining, then each spec, before and after its chats."""
    config.figure.update({"eval": eval, "axis": axis, "headline": f"{eval}: {headline}"})
    pairs = {arm: ("mix", arm) for arm in (*config.design.aft, *config.design.aft_reasoning)}
    pairs |= {arm: (config.arms[arm][0], arm) for arm, _ in _rivals(config, "")}
    for name, (before, after) in pairs.items():
        found = [f"{targets[arm]:.2f}" for arm in (before, after) if arm in targets]
        label = name.replace("_", " ") + (f" (paper: {', '.join(found)})" if found else "")
        config.figure.groups[name] = figure_group(label, before, after)


def _paper(targets: Targets, arm: str, other: str) -> str:
    """ " (paper: +.10)" where the paper has both."""
    if arm not in targets or other not in targets:
        return ""
    return f" (paper: {targets[arm] - targets[other]:+.2f})"
