"""Which controls a study has, and a study without some of its arms."""

from msm_jax.errors import UserError
from msm_jax.settings import check_known
from msm_jax.study.config import CONTROLS


def without(tree: dict) -> dict:
    """The config without the arms of config.without, and what is about them.

    The copies of an arm in a sweep go with it. An evaluation, a stage and a gate of absorption go
    when no arm is left that needs them; a contrast and a group of bars go with any of their arms, a
    target with its arm.

    Raises:
      UserError: an arm that there is not, or no arm that is left.
    """
    gone = set(tree["without"])
    if not gone:
        return tree
    check_known("config.without", tree["without"], "arms", tree)
    made = tree["sweep"].get("made", {"arms": {}})
    gone |= {copy for copy, entry in made["arms"].items() if entry["of"] in gone}
    keep = lambda names: [name for name in names if name not in gone]
    if not (arms := {name: tree["arms"][name] for name in keep(tree["arms"])}):
        raise UserError("config.without: no arm is left; leave out fewer")
    needed = {stage for path in arms.values() for stage in path}
    evals = {}
    for name, entry in tree["evals"].items():
        own = list(entry.get("arms") or ())
        if kept := keep(own or arms):
            evals[name] = {**entry, "arms": kept} if own else entry
    known = lambda eval: eval if eval in evals else ""
    figure, absorption, controls, dose = (
        {**tree[name], "eval": known(tree[name]["eval"])}
        for name in ("figure", "absorption", "controls", "dose")
    )
    contrasts = {
        name: entry
        for name, entry in tree["contrasts"].items()
        if not gone & {*entry["plus"], *entry["minus"]} and entry["eval"] in evals
    }
    figure["groups"] = {
        name: group
        for name, group in figure["groups"].items()
        if not gone & {*group["arms"]} and known(group["eval"] or figure["eval"])
    }
    figure["headline"] = figure["headline"] if figure["headline"] in contrasts else ""
    figure["summary"] = [name for name in figure["summary"] if name in contrasts]
    lost = tree["contrasts"].keys() - contrasts.keys()
    targets = {
        name: {
            **entry,
            "arms": {arm: n for arm, n in entry["arms"].items() if arm not in gone},
            "contrasts": {each: n for each, n in entry["contrasts"].items() if each not in lost},
        }
        for name, entry in tree["targets"].items()
        if entry["eval"] in evals
    }
    controls["arms"] = keep(controls["arms"])
    dose["stages"] = [stage for stage in dose["stages"] if stage in needed and dose["eval"]]
    dose["steps"] = dose["steps"] if dose["eval"] else []
    absorption["stages"] = {
        name: {**entry, "quiz": known(entry["quiz"])}
        for name, entry in absorption["stages"].items()
        if name in needed and absorption["eval"]
    }
    design = {name: keep(names) for name, names in tree["design"].items()}
    lost_evals = tree["evals"].keys() - evals.keys()
    design["context"] = [name for name in tree["design"]["context"] if name not in lost_evals]
    return {
        **tree,
        "arms": arms,
        "stages": {name: stage for name, stage in tree["stages"].items() if name in needed},
        "evals": evals,
        "contrasts": contrasts,
        "figure": figure,
        "targets": targets,
        "controls": controls,
        "dose": dose,
        "absorption": absorption,
        "retention": [name for name in tree["retention"] if name in evals],
        "design": design,
    }


def controls_of(tree: dict) -> list[dict]:
    """Every control of the method: {"control", "meaning", "arms": () if the study has none}."""
    return [
        {"control": name, "meaning": meaning, "arms": list(tree["design"][name])}
        for name, meaning in CONTROLS.items()
    ]


def sentences(tree: dict, brief: bool = False) -> list[str]:
    """Which controls a study has, which it lacks, and which arms were left out."""
    found = controls_of(tree)
    has = [f"{c['control']} ({', '.join(c['arms'])})" for c in found if c["arms"]]
    more = lambda control: "" if brief else f" ({control['meaning']})"
    lacks = [f"{c['control']}{more(c)}" for c in found if not c["arms"]]
    lines = [f"controls: {', '.join(has) or 'none'}"]
    if lacks:
        lines.append(f"missing controls: {', '.join(lacks)}")
    if tree["without"]:
        lines.append(f"left out by config.without: {', '.join(tree['without'])}")
    return lines
