"""Our numbers beside published ones.

Published numbers come without intervals, or with ones of another kind. So a difference to them is
a difference and nothing else: it is not tested.
"""

from collections.abc import Iterable, Iterator, Sequence

from msm_jax.study.evaluations import measure_of

UNTESTED = (
    "Published numbers are given without intervals here: differences to them are not tested for "
    "significance."
)


def compared(config: dict, means: Sequence[dict], contrasts: Sequence[dict]) -> list[dict]:
    """A row for each published number that we have a counterpart of.

    Args:
      means, contrasts: of results.json.

    Returns:
      {"label", "source", "eval", "measure", "kind": "arm" or "contrast", "name", "target", "ours":
      None if there is none yet, "difference": ours minus the target}.
    """
    found = []
    for entry in config["targets"].values():
        at = {"eval": entry["eval"]}
        at["measure"] = measure_of(config, entry["eval"], entry["measure"])
        ours = {m["arm"]: m["mean"] for m in means if at.items() <= m.items()}
        differences = {c["name"]: c["difference"] for c in contrasts if at.items() <= c.items()}
        published = [("arm", arm, value, ours.get(arm)) for arm, value in entry["arms"].items()]
        published += [
            ("contrast", name, value, differences[name])
            for name, value in _differences(config, entry, differences)
        ]
        for kind, name, value, mine in published:
            row = {"label": entry["label"], "source": entry["source"], **at, "kind": kind}
            row |= {"name": name, "target": value, "ours": mine}
            found.append({**row, "difference": None if mine is None else mine - value})
    return found


def _differences(config: dict, entry: dict, names: Iterable[str]) -> Iterator[tuple[str, float]]:
    """Contrasts and their published differences: stated, or those of the published values."""
    arms = entry["arms"]
    for name in names:
        contrast = config["contrasts"][name]
        if name in entry["contrasts"]:
            yield name, entry["contrasts"][name]
        elif all(arm in arms for arm in (*contrast["plus"], *contrast["minus"])):
            total = lambda side: sum(arms[arm] for arm in side)
            yield name, total(contrast["plus"]) - total(contrast["minus"])


def targets_of(results: dict, eval: str, measure: str, kind: str = "arm") -> dict[str, dict]:
    """Label -> name of the arm or contrast -> the row of it."""
    found: dict[str, dict] = {}
    for row in results["targets"]:
        if (row["eval"], row["measure"], row["kind"]) == (eval, measure, kind):
            found.setdefault(row["label"], {})[row["name"]] = row
    return found
