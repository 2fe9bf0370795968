"""What a reader of a study's numbers has to be warned of: rules with a threshold each.

Each rule is a function of what `results.collect` has gathered, and returns a sentence or "". The
sentences stand at the head of the report, on the terminal, and in results.json as "warnings".
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from msm_jax.errors import UserError
from msm_jax.study import contents, design
from msm_jax.study.evaluations import measure_of, shown_by
from msm_jax.study.graph import Study
from msm_jax.study.numbers import limits_of
from msm_jax.train.config import FEW_STEPS

INVALID = 0.05  # share of an evaluation's answers that no number is made from
TOKENS_APART = 0.05  # by which the tokens that two compared arms were trained on may differ
SATURATED = 0.05  # of the range of a measure: all arms are this near to one end of it
SEEDS = 2  # the fewest behind a claim about training

Found = Mapping[str, Any]  # results.json, without "warnings"


def warnings(study: Study, found: Found) -> list[dict]:
    """{"rule", "text"} of every rule that has something to say; `found` is all else in results."""
    rules: dict[str, Callable[[], str]] = {
        "controls": lambda: controls(study.config),
        "code": lambda: mixed_code(found["made_with"]),
        "seeds": lambda: few_seeds(found),
        "steps": lambda: few_steps(found["stages"]),
        "tokens": lambda: unmatched_tokens(study, found["stages"]),
        "absorption": lambda: not_absorbed(found["absorption"]),
        "invalid": lambda: invalid(found["arms"]),
        "saturated": lambda: saturated(study.config, found["arms"], found["means"]),
        "template": lambda: template_changed(study.config),
    }
    return [{"rule": name, "text": text} for name, rule in rules.items() if (text := rule())]


def _about(text: str, items: Iterable[str], most: int = 4) -> str:
    """ "text: a; b; c; d; and 3 more"; "" without items."""
    some = list(dict.fromkeys(items))
    more = [f"and {len(some) - most} more"] if len(some) > most else []
    return f"{text}: {'; '.join([*some[:most], *more])}" if some else ""


def controls(config: dict) -> str:
    """Controls that the study lacks, and arms that were left out."""
    return "; ".join(design.sentences(config)[1:])


def mixed_code(made_with: Sequence[dict]) -> str:
    """The versions of code, where several made the numbers."""
    names = {name for entry in made_with for name in entry["code"]}
    differ = [n for n in sorted(names) if len({e["code"].get(n) for e in made_with}) > 1]
    parts = [
        f"{len(entry['stages'])} stages and {len(entry['evals'])} evaluated: "
        + ", ".join(f"{name} {entry['code'].get(name)}" for name in differ)
        for entry in made_with
    ]
    return f"not all was made with the same code: {'; '.join(parts)}" if differ else ""


def few_seeds(found: Found) -> str:
    """Contrasts that fewer than `SEEDS` training runs are behind."""
    return _about(
        f"fewer than {SEEDS} seeds: no interval says how far other training runs would differ, so "
        "nothing is shown about training by",
        (c["label"] for c in found["contrasts"] if len(c["seeds"]) < SEEDS),
    )


def few_steps(stages: Sequence[dict]) -> str:
    """Stages of fewer than `FEW_STEPS` optimizer steps, with which an effect can look absent."""
    few = {
        stage["path"][-1]: stage["steps"]
        for stage in stages
        if stage["kind"] == "train" and stage["steps"] < FEW_STEPS
    }
    text = f"fewer than {FEW_STEPS} optimizer steps, with which an effect can look absent"
    return _about(text, (f"{name} {steps:,}" for name, steps in few.items()))


def unmatched_tokens(study: Study, stages: Sequence[dict]) -> str:
    """Compared arms whose training read other numbers of tokens."""
    tokens = {stage["id"]: stage.get("tokens", 0) for stage in stages if stage["kind"] == "train"}
    seed, apart = study.config["seeds"][0], []
    for contrast in study.config["contrasts"].values():
        sides = []
        for side in ("plus", "minus"):
            paths = [study.arms[arm, seed] for arm in contrast[side]]
            ids = [each for path in paths for each in path if study.nodes[each].kind == "train"]
            sides.append(sum(tokens[each] for each in ids) if all(i in tokens for i in ids) else -1)
        low, high = sorted(sides)
        if 0 <= low < high * (1 - TOKENS_APART):
            names = " - ".join(" + ".join(contrast[side]) for side in ("plus", "minus"))
            apart.append(f"{names} ({sides[0]:,} and {sides[1]:,})")
    matched = [arm for name in ("neutral", "one_stage") for arm in study.config["design"][name]]
    text = _about("compared arms were trained on different numbers of tokens", apart)
    return text and text + _about("; controls with as many tokens", matched)


def not_absorbed(absorption: Sequence[dict]) -> str:
    """Midtraining stages that did not learn their documents, or of which that is not known."""
    weak = (entry["label"] for entry in absorption if not entry["passed"])
    return _about("documents that nothing shows to have been absorbed", weak)


def invalid(arms: Sequence[dict]) -> str:
    """Evaluations with more than `INVALID` invalid or undecided answers."""
    many = []
    for row in arms:
        for name, entry in row["evals"].items():
            numbers = entry["measures"].get(entry.get("measure", ""), {"invalid": 0, "n": 1})
            asked = numbers["invalid"] + numbers["n"]
            undecided = entry["measures"].get("undecided", {}).get("value") or 0.0
            share = max(numbers["invalid"] / asked if asked else 0.0, undecided)
            if share > INVALID:
                many.append(f"{name} of {row['name']}, seed {row['seed']}: {share:.0%}")
    return _about(f"more than {INVALID:.0%} of the answers are invalid or undecided", many)


def saturated(config: dict, arms: Sequence[dict], means: Sequence[dict]) -> str:
    """Compared measures that all arms bring to one end of their range."""
    uses = [
        (entry["eval"], measure_of(config, entry["eval"], entry["measure"]))
        for entry in config["contrasts"].values()
    ]
    uses += [shown_by(config, group) for group in config["figure"]["groups"].values()]
    names = []
    for eval, measure in dict.fromkeys(uses):
        limits = limits_of(arms, eval, measure)
        values = [m["mean"] for m in means if (m["eval"], m["measure"]) == (eval, measure)]
        values = [value for value in values if value is not None]
        if limits is None or len(values) < 2:
            continue
        low, high = limits
        near = SATURATED * (high - low)
        if max(values) <= low + near or min(values) >= high - near:
            end = low if max(values) <= low + near else high
            names.append(f"{eval}: {measure} (all near {end:g})")
    text = "saturated: all arms are at one end of the scale, so differences shrink"
    return _about(text, names)


def template_changed(config: dict) -> str:
    """Whether the arms are asked in another chat template than the base's own."""
    base = config["base"]
    if not base["path"]:
        return ""
    try:
        own = contents.find_base(base["path"], "", "")
    except UserError:  # it is gone since the study began
        return ""
    used = contents.find_base(base["path"], base["adapter"], base["chat_format"])
    before, now = own.encoding["writes"], used.encoding["writes"]
    if before in ("", now):  # a base without a template
        return ""
    return (
        "the chat template is not the base's own, which changes answers: "
        f"{used.chat_format} in place of {own.chat_format}"
    )
