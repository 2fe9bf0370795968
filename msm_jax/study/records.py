"""What the files of a study's directory must hold, and the one place where they are read.

A file that can be made again counts as missing where it is damaged; of every other one the message
says what is wrong with it, and what to do.
"""

import pathlib
from typing import Any

from msm_jax.errors import UserError
from msm_jax.files import read_json, read_jsonl, seal, write_json
from msm_jax.schema import NUMBER
from msm_jax.train.config import METRICS

SPENT = "spent.json"
_SUMMARIES: dict[str, Any] = {
    "train": {"steps": int, "tokens?": int, "loss?": NUMBER, "tokens_per_second?": NUMBER},
    "evals": {str: str},  # evaluation -> SHA-256 of its summary.json
    "judge": {str: str},
}
_MARK = {
    **dict.fromkeys(("id", "digest", "name", "parent", "device"), str),
    "path": [str],
    "seed": int,
    "config": {str: object},
    "code": {str: str},
    "summary": {str: object},
    "seconds": float,
}
# stage.json, evals.json and judge.json, of a node that is done; by its kind.
MARK = (
    *({**_MARK, "kind": kind, "summary": summary} for kind, summary in _SUMMARIES.items()),
    *({**_MARK, "kind": kind} for kind in ("world", "corpus", "base", "tokenizer")),
)
CHAT = {"messages": [{"role": str, "content?": object}]}
RUN = {
    "corpora?": {str: {"documents?": int, "tokens?": int}},
    "versions?": {str: object},
    "identity?": {"data?": {str: {"content?": str}}, "tokenizer?": object},
}


def write_mark(path: pathlib.Path, mark: dict) -> None:
    """Mark a node as done."""
    write_json(path, {**mark, "seal": seal(mark)})


def read_mark(path: pathlib.Path) -> dict | None:
    """The mark of a stage, as it was written; None where there is none."""
    again = f"delete {path.parent} and run again, or use another --workdir"
    mark = read_json(path, MARK, again)
    # Marks that were written before seals were have none.
    if mark is not None and mark.get("seal", "") not in ("", seal(mark)):
        raise UserError(f"{path}: is not what the study wrote: {again}")
    return mark


def mark_or_none(path: pathlib.Path) -> dict | None:
    """A mark of evaluations or verdicts, which are looked at again where it is damaged."""
    try:
        return read_mark(path)
    except UserError:
        return None


def _or_missing(path: pathlib.Path, form: Any, missing: Any) -> Any:
    """What a file holds that can be made again, and so counts as missing where it is damaged."""
    try:
        return read_json(path, form) or missing
    except UserError:
        return missing


def evaluated_before(path: pathlib.Path) -> dict[str, Any]:
    """The settings of the evaluations whose results may be beside evals.json, by name."""
    return _or_missing(path, {"config": {str: object}}, {"config": {}})["config"]


def base_settings(path: pathlib.Path) -> dict[str, Any]:
    """The chat format and dtype that the stage.json of a base asks for; {} for other stages."""
    mark = read_mark(path)
    if mark is None or mark["kind"] != "base":
        return {}
    return {name: mark["config"].get(name) or None for name in ("chat_format", "dtype")}


def known_steps(path: pathlib.Path) -> dict[str, int]:
    """How many steps stages have, by digest; they are counted again where the file is damaged."""
    return _or_missing(path, {str: int}, {})


def seconds_spent(workdir: pathlib.Path) -> float:
    """How long studies ran in a directory, over all starts."""
    anew = 'write the seconds that you know, as {"seconds": 0}, and run again'
    found = read_json(workdir / SPENT, {"seconds": float}, anew)
    return max(0.0, float(found["seconds"])) if found else 0.0


def read_metrics(run: pathlib.Path) -> list[dict]:
    """The rows of a run's metrics.jsonl."""
    return read_jsonl(run / "metrics.jsonl", form=METRICS)


def read_chats(folder: pathlib.Path) -> list[dict]:
    """The sampled chats of a stage that was evaluated."""
    return read_jsonl(folder / "chats.jsonl", form=CHAT)


def read_run(run: pathlib.Path) -> dict[str, Any]:
    """The config.json of a run, with sizes and hashes of its corpora and the versions of code."""
    found = read_json(run / "config.json", RUN, "put back what `train` wrote, or train again")
    return {"corpora": {}, "versions": {}, "identity": {}, **(found or {})}
