"""An evaluation as files: asked once, judged as often as wanted, continued where it was killed.

    evaluation.json        what was asked of whom; another question in the same place is an error
    samples.jsonl          the model's answers (samples.partial.jsonl while they come in)
    verdicts.jsonl         what they were taken to mean
    summary.json           {"evaluation", "scorers": {name: as from `preferences.summarize`}}

These are the files of an evaluation's directory; each appears only when it is complete.
"""

import json
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from msm_jax.corpus.records import file_hash, read_rows
from msm_jax.errors import UserError
from msm_jax.evals import preferences
from msm_jax.evals.preferences import SCORERS, Question

if TYPE_CHECKING:
    from msm_jax.api import Model

_BATCHES_BETWEEN_SAVES = 16


def evaluate_preferences(
    model: "Model",
    pairs_path: str | pathlib.Path,
    out_dir: str | pathlib.Path,
    scorers: Sequence[str] = SCORERS,
    seed: int = 0,
    **settings,
) -> dict:
    """Ask and judge; what out_dir already has is not asked again.

    `settings` are those of `sample_preferences`. Returns summary.json's content.
    """
    sample_preferences(model, pairs_path, out_dir, scorers, seed, **settings)
    return judge_preferences(pairs_path, out_dir)


def sample_preferences(
    model: "Model",
    pairs_path: str | pathlib.Path,
    out_dir: str | pathlib.Path,
    scorers: Sequence[str] = SCORERS,
    seed: int = 0,
    *,
    samples: int = 1,
    temperature: float = 0.0,
    max_tokens: int = 32,
    rows: int = 64,
) -> None:
    """Write samples.jsonl; a killed run goes on where it was, a complete one returns at once.

    Args:
      model: who is asked.
      pairs_path: questions, as `preferences.load_pairs` reads them.
      out_dir: made if missing.
      scorers: of `SCORERS`.
      seed, samples, temperature, max_tokens: of the generated answers.
      rows: how many are computed at a time.

    Raises:
      UserError: an unknown scorer, unusable pairs, or an out_dir that holds other answers.
    """
    if not scorers or len(set(scorers)) < len(scorers) or set(scorers) - set(SCORERS):
        raise UserError(f"scorers={list(scorers)}: each once, of {list(SCORERS)}")
    questions = preferences.load_pairs(pairs_path)
    out = pathlib.Path(out_dir)
    out.mkdir(parents=True, exist_ok=True)
    generation: dict[str, Any] = {
        "samples": samples,
        "temperature": temperature,
        "max_tokens": max_tokens,
        "seed": seed,
    }
    asked = {"pairs": file_hash(pairs_path), "scorers": list(scorers), "model": model.identity()}
    _lock(out / "evaluation.json", {**asked, **generation})
    if (out / "samples.jsonl").exists():
        return
    partial = out / "samples.partial.jsonl"
    done = {(row["scorer"], row["id"]) for row in _mended(partial)}
    with partial.open("a", encoding="utf-8", newline="\n") as file:
        for scorer in scorers:
            todo = [question for question in questions if (scorer, question.id) not in done]
            for some in _chunks(todo, _BATCHES_BETWEEN_SAVES * rows):
                if scorer == "logprob":
                    answers = preferences.score_options(model, some, rows=rows)
                else:
                    answers = preferences.generate_answers(model, some, rows=rows, **generation)
                file.write(_jsonl(answers))
                file.flush()
                os.fsync(file.fileno())
    os.replace(partial, out / "samples.jsonl")


def judge_preferences(pairs_path: str | pathlib.Path, out_dir: str | pathlib.Path) -> dict:
    """Turn samples.jsonl into verdicts.jsonl and summary.json, whose content is returned.

    Raises:
      UserError: samples that are missing, incomplete, or of other pairs.
    """
    out = pathlib.Path(out_dir)
    if not (out / "samples.jsonl").exists():
        raise UserError(f"{out}: has no complete samples.jsonl; run --stage=sample first")
    evaluation = json.loads((out / "evaluation.json").read_text(encoding="utf-8"))
    if evaluation["pairs"] != file_hash(pairs_path):
        raise UserError(
            f"{out}: its samples answer other pairs (sha256 {evaluation['pairs'][:12]}) than "
            f"{pairs_path} (sha256 {file_hash(pairs_path)[:12]})"
        )
    questions = preferences.load_pairs(pairs_path)
    verdicts = preferences.judge(questions, [row for _, row in read_rows(out / "samples.jsonl")])
    by_scorer = {
        scorer: preferences.summarize([v for v in verdicts if v["scorer"] == scorer])
        for scorer in evaluation["scorers"]
    }
    summary = {"evaluation": evaluation, "scorers": by_scorer}
    _write(out / "verdicts.jsonl", _jsonl(verdicts))
    _write(out / "summary.json", _json(summary))
    return summary


def _lock(path: pathlib.Path, asked: dict) -> None:
    """Write what is asked, or compare it with what this directory was made for."""
    if not path.exists():
        _write(path, _json(asked))
        return
    before, now = _flat(json.loads(path.read_text(encoding="utf-8"))), _flat(asked)
    differences = [
        f"{name}: was {before.get(name)!r}, now {now.get(name)!r}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    ]
    if differences:
        raise UserError(
            f"{path.parent}: holds another evaluation ({'; '.join(differences)}); "
            "choose another output directory"
        )


def _flat(tree: dict, prefix: str = "") -> dict:
    """{"a": {"b": 1}} -> {"a.b": 1}."""
    found = {}
    for name, value in tree.items():
        inner = _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else None
        found.update({f"{prefix}{name}": value} if inner is None else inner)
    return found


def _mended(partial: pathlib.Path) -> list[dict]:
    """The rows of an unfinished file, without its last question, which may be torn."""
    if not partial.exists():
        return []
    lines = partial.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]
    rows = [json.loads(line) for line in lines]
    last = (rows[-1]["scorer"], rows[-1]["id"]) if rows else None
    rows = [row for row in rows if (row["scorer"], row["id"]) != last]
    _write(partial, _jsonl(rows))
    return rows


def _chunks(items: list[Question], size: int) -> Iterator[list[Question]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _json(value: dict) -> str:
    return json.dumps(value, indent=1, allow_nan=False) + "\n"


def _jsonl(rows: Sequence[dict]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _write(path: pathlib.Path, text: str) -> None:
    """All of it or nothing."""
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8", newline="\n")
    os.replace(temporary, path)
