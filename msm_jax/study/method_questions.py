"""What a study of the method is asked, and what its arms are compared with.

    ask(config, "agents", evaluation("agents"), {"philosophy": "spec.md"})
    compare(config, "agents", expected=-1)
    draw(config, "agents", "rate of the harmful act", "msm_philosophy_aft - aft", ("MSM + AFT",),
         {"philosophy": ("msm_philosophy_aft",)})
    publish(config, "agents", "paper", "figure 4, four seeds", {"msm_philosophy_aft": 0.1})

For configs whose arms `msm_jax.study.method.add_method` made.
"""

import types
from collections.abc import Iterator, Mapping, Sequence

from ml_collections import ConfigDict

from msm_jax.study.config import contrast, evaluation, figure_group, target

NONE: Mapping = types.MappingProxyType({})
PAPER = "Li et al. 2026, arXiv 2605.02087v2, "
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


def compare(config: ConfigDict, eval: str, expected: int, only: str = "") -> None:
    """Adds contrasts: each msm_S_C minus what else could explain it.

    Args:
      expected: the sign that the hypothesis predicts of msm_S_C minus its controls.
      only: one spec, where the evaluation is about that one.
    """
    for arm, others in _rivals(config, only):
        for other in others:
            against(config, eval, arm, other, expected)


def against(config: ConfigDict, eval: str, arm: str, other: str, expected: int = 0) -> None:
    """Adds the contrast of two arms."""
    label = f"{arm} - {other}"
    config.contrasts[f"{eval}: {label}"] = contrast(label, eval, (arm,), (other,), expected)


def _rivals(config: ConfigDict, only: str) -> Iterator[tuple[str, list[str]]]:
    """Each arm of the method, and the arms that lack one part of it or have another order."""
    for arm in config.arms._fields:  # in the study's order; items() are sorted by name
        stages = config.arms[arm]
        if len(stages) == 2 and stages[0].startswith(f"msm_{only}") and stages[1] != "mix":
            midtrain, name = stages
            spec = midtrain.removeprefix("msm_")
            if only in ("", spec):
                kinds = ("ablated", "one_stage", "reversed", "replay")
                others = [name, f"{midtrain}_mix", midtrain, f"neutral_{name}"]
                others += [f"{kind}_{spec}_{name}" for kind in kinds]
                yield arm, [each for each in others if each in config.arms]


def draw(
    config: ConfigDict,
    eval: str,
    axis: str,
    headline: str,
    bars: Sequence[str],
    groups: Mapping[str, Sequence[str]],
) -> None:
    """The report's first figure, laid out as in the paper.

    Args:
      axis: what it shows, in words.
      headline: the contrast that the report begins with, without the name of the evaluation.
      bars: what the bars of a group are.
      groups: the text under a group -> an arm for each of its bars.
    """
    config.figure.update({"eval": eval, "axis": axis, "bars": tuple(bars)})
    config.figure.headline = f"{eval}: {headline}"
    for label, arms in groups.items():
        config.figure.groups[label] = figure_group(label, *arms)


def publish(
    config: ConfigDict,
    eval: str,
    label: str,
    source: str,
    arms: Mapping[str, float],
    contrasts: Mapping[str, float] = NONE,
) -> None:
    """Adds published numbers of arms and contrasts.

    Args:
      label: who, as "paper".
      source: where.
    """
    config.targets[f"{label}: {eval}"] = target(label, source, eval, arms, contrasts)
