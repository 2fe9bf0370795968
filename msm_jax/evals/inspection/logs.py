"""Our own runs as `.eval` logs, which `inspect view` opens; written without Inspect.

A log is a ZIP of JSON: header.json, summaries.json and one file per sample (schema version 2, as
inspect_ai 0.3.285 reads it; its own are compressed by Zstandard, which Python's zipfile before
3.14 cannot write, and it reads DEFLATE as well).
"""

import datetime
import hashlib
import json
import os
import pathlib
import zipfile
from typing import Any

from msm_jax import strict_json
from msm_jax.evals.agents.prompts import Prompt
from msm_jax.evals.agents.summary import MEASURES
from msm_jax.evals.report.arms import Run, prompts_of, read_arms

_TASK = "msm_jax/agents"


def write_log(output: pathlib.Path, folder: pathlib.Path | None = None) -> pathlib.Path:
    """Write the log of a judged evaluation of agent scenarios and return its path.

    Args:
      output: the evaluation's directory.
      folder: where the log goes; "inspect" in it if None. The name holds time, task and id, as
        Inspect expects it, and is the same for the same verdicts.

    Raises:
      UserError: not a judged evaluation of agent scenarios.
    """
    ((run,),) = read_arms({"": [output]}).values()
    prompts = prompts_of(run)
    content = (output / "verdicts.jsonl").read_bytes() + (output / "samples.jsonl").read_bytes()
    digest = hashlib.sha256(content + json.dumps(run.asked).encode()).hexdigest()
    written = (output / "verdicts.jsonl").stat().st_mtime
    created = datetime.datetime.fromtimestamp(written, datetime.UTC).isoformat(timespec="seconds")
    folder = folder or output / "inspect"
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{created.replace(':', '-')}_{_TASK.replace('/', '-').replace('_', '-')}_{digest[:22]}"
    path = folder / f"{name}.eval"
    aside = path.with_suffix(".partial")
    with zipfile.ZipFile(aside, "w", zipfile.ZIP_DEFLATED) as archive:
        put = lambda member, value: archive.writestr(member, strict_json.dumps(value))
        put("_journal/start.json", {"version": 2, **_spec(run, digest, created)})
        summaries = []
        for key in run.verdicts:
            sample = _sample(run, key, prompts.get(key[0]), digest, created)
            put(f"samples/{sample['id']}_epoch_{sample['epoch']}.json", sample)
            summaries.append(_summary(sample))
        put("summaries.json", summaries)
        put("reductions.json", [])
        put("header.json", _header(run, digest, created))
    with aside.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(aside, path)
    return path


def _spec(run: Run, digest: str, created: str) -> dict[str, Any]:
    conditions = list(run.summary["by_condition"])
    asked = {name: value for name, value in run.asked.items() if name != "model"}
    return {
        "eval": {
            "eval_id": digest[:22],
            "run_id": digest[22:44],
            "task_id": digest[:22],
            "task": _TASK,
            "task_version": 0,
            "task_args": asked,
            "created": created,
            "dataset": {
                "name": "agents",
                "samples": len(conditions),
                "sample_ids": [_id(condition) for condition in conditions],
                "shuffled": False,
            },
            "model": _model(run),
            "model_generate_config": _generation(run),
            "model_args": {},
            "config": {"epochs": run.asked["samples"]},
            "packages": {"msm_jax": _version()},
            "metadata": {"judge": run.summary["judge"], "model": run.asked["model"]},
        },
        "plan": {"name": "plan", "steps": [], "config": _generation(run)},
    }


def _header(run: Run, digest: str, created: str) -> dict[str, Any]:
    usage = {_model(run): _usage(sum(row["tokens"] for row in run.samples.values()))}
    return {
        "version": 2,
        "status": "success",
        **_spec(run, digest, created),
        "results": {
            "total_samples": len(run.samples),
            "completed_samples": len(run.samples),
            "scores": [_score(run, measure) for measure in MEASURES],
        },
        "stats": {"started_at": created, "completed_at": created, "model_usage": usage},
    }


def _score(run: Run, measure: str) -> dict[str, Any]:
    numbers = run.summary["measures"][measure]
    values = {"mean": numbers["rate"], "ci_low": numbers["ci_low"], "ci_high": numbers["ci_high"]}
    metrics = {
        name: {"name": name, "value": value, "params": {}}
        for name, value in values.items()
        if value is not None
    }
    return {
        "name": measure,
        "scorer": f"msm_jax/{measure}",
        "scored_samples": numbers["n"],
        "unscored_samples": numbers["missing"],
        "params": {},
        "metrics": metrics,
        "metadata": {"method": numbers["method"], "withheld": numbers.get("withheld", "")},
    }


def _sample(run: Run, key: tuple[str, int], prompt: Prompt | None, digest: str, created: str):
    row, verdict = run.samples[key], run.verdicts[key]
    asked = prompt.messages if prompt else []
    inputs = [{**m, "id": f"{_id(key[0])}-{i}"} for i, m in enumerate(asked)]
    answer = {
        "role": "assistant",
        "content": row["text"],
        "source": "generate",
        "id": f"{_id(key[0])}-{key[1]}-answer",
        "model": _model(run),
    }
    reason = "stop" if row["finish_reason"] == "stop" else "max_tokens"
    notes = {name: verdict[name] for name in verdict if name not in (*MEASURES, "id", "reason")}
    return {
        "id": _id(key[0]),
        "epoch": key[1] + 1,
        "uuid": hashlib.sha256(f"{digest} {key}".encode()).hexdigest()[:22],
        "input": inputs or key[0],
        "target": "",
        "messages": [*inputs, answer],
        "output": {
            "model": _model(run),
            "choices": [{"message": answer, "stop_reason": reason}],
            "usage": _usage(row["tokens"]),
        },
        "scores": {
            measure: {
                "value": float(verdict[measure]),
                "answer": "yes" if verdict[measure] else "no",
                "explanation": verdict["reason"] if measure == "verdict" else "",
                "metadata": notes,
            }
            for measure in MEASURES
            if verdict[measure] is not None
        },
        "metadata": {"condition": key[0], "state": verdict["state"]},
        "store": {},
        "events": [],
        "attachments": {},
        "model_usage": {_model(run): _usage(row["tokens"])},
        "started_at": created,
        "completed_at": created,
    }


def _summary(sample: dict[str, Any]) -> dict[str, Any]:
    names = "id epoch uuid target metadata model_usage started_at completed_at"
    scores = {
        name: {"value": score["value"], "answer": score["answer"]}
        for name, score in sample["scores"].items()
    }
    short = {name: sample[name] for name in names.split()}
    return {**short, "input": sample["metadata"]["condition"], "scores": scores, "completed": True}


def _id(condition: str) -> str:
    """A condition's id as a part of a file's name."""
    return condition.replace("/", "_")


def _model(run: Run) -> str:
    return f"msm_jax/{run.asked['model'].get('params', 'unknown')}"


def _generation(run: Run) -> dict[str, Any]:
    return {name: run.asked[name] for name in ("temperature", "max_tokens", "seed")}


def _usage(tokens: int) -> dict[str, int]:
    return {"input_tokens": 0, "output_tokens": tokens, "total_tokens": tokens}


def _version() -> str:
    import msm_jax

    return msm_jax.__version__
