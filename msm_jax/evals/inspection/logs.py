"""Our own runs as `.eval` logs, which `inspect view` opens; Inspect itself writes them."""

import datetime
import hashlib
import json
import pathlib
from typing import Any

import msm_jax
from msm_jax.errors import UserError
from msm_jax.evals.agents.summary import MEASURES
from msm_jax.evals.report.arms import Run, prompts_of, read_arms
from msm_jax.files import new_file
from msm_jax.links import below


def write_log(output: pathlib.Path) -> pathlib.Path:
    """Write the log of a judged evaluation of agent scenarios to its folder "inspect".

    The name holds time, task and id, as Inspect expects it, and is the same for the same verdicts.

    Raises:
      UserError: not a judged evaluation of agent scenarios, or Inspect is not installed.
    """
    try:
        from inspect_ai.log import write_eval_log
    except ImportError as error:
        raise UserError(
            f"--phase=inspect: inspect_ai cannot be imported ({error}): install the extra, "
            "pip install 'msm_jax[inspect]'"
        ) from error
    ((run,),) = read_arms({"": [output]}).values()
    content = (output / "verdicts.jsonl").read_bytes() + (output / "samples.jsonl").read_bytes()
    digest = hashlib.sha256(content + json.dumps(run.asked).encode()).hexdigest()
    written = (output / "verdicts.jsonl").stat().st_mtime
    created = datetime.datetime.fromtimestamp(written, datetime.UTC).isoformat(timespec="seconds")
    name = f"{created.replace(':', '-')}_msm-jax-agents_{digest[:22]}.eval"
    path = below(output, "inspect", name)
    with new_file(path) as temporary:
        write_eval_log(_log(run, digest, created), temporary, format="eval")
    return path


def _log(run: Run, digest: str, created: str) -> Any:
    from inspect_ai import log, model

    names = [_id(condition) for condition in run.summary["by_condition"]]
    settings = model.GenerateConfig(
        **{n: run.asked[n] for n in ("temperature", "max_tokens", "seed")}
    )
    tokens, prompts = sum(row["tokens"] for row in run.samples.values()), prompts_of(run)
    return log.EvalLog(
        version=2,
        status="success",
        eval=log.EvalSpec(
            eval_id=digest[:22],
            run_id=digest[22:44],
            task_id=digest[:22],
            task="msm_jax/agents",
            task_args={name: value for name, value in run.asked.items() if name != "model"},
            created=created,
            dataset=log.EvalDataset(
                name="agents", samples=len(names), sample_ids=names, shuffled=False
            ),
            model=_model(run),
            model_generate_config=settings,
            config=log.EvalConfig(epochs=run.asked["samples"]),
            packages={"msm_jax": msm_jax.__version__},
            metadata={"judge": run.summary["judge"], "model": run.asked["model"]},
        ),
        plan=log.EvalPlan(config=settings),
        results=log.EvalResults(
            total_samples=len(run.samples),
            completed_samples=len(run.samples),
            scores=[_score(run, measure) for measure in MEASURES],
        ),
        stats=log.EvalStats(
            started_at=created, completed_at=created, model_usage={_model(run): _usage(tokens)}
        ),
        samples=[_sample(run, k, prompts.get(k[0], []), digest, created) for k in run.verdicts],
    )


def _score(run: Run, measure: str) -> Any:
    from inspect_ai import log

    numbers = run.summary["measures"][measure]
    values = {"mean": numbers["rate"], "ci_low": numbers["ci_low"], "ci_high": numbers["ci_high"]}
    return log.EvalScore(
        name=measure,
        scorer=f"msm_jax/{measure}",
        scored_samples=numbers["n"],
        unscored_samples=numbers["missing"],
        metrics={n: log.EvalMetric(name=n, value=v) for n, v in values.items() if v is not None},
        metadata={"method": numbers["method"], "withheld": numbers.get("withheld", "")},
    )


def _sample(run: Run, key: tuple[str, int], prompt: list[dict], digest: str, created: str) -> Any:
    from inspect_ai import log, model, scorer

    (condition, index), row, verdict = key, run.samples[key], run.verdicts[key]
    name, usage = _id(condition), _usage(row["tokens"])
    kinds = (model.ChatMessageSystem, model.ChatMessageUser)
    inputs: list[Any] = [
        kinds[i](content=message["content"], id=f"{name}-{i}") for i, message in enumerate(prompt)
    ]
    answer = model.ChatMessageAssistant(
        content=row["text"], source="generate", id=f"{name}-{index}-answer", model=_model(run)
    )
    stop: model.StopReason = "stop" if row["finish_reason"] == "stop" else "max_tokens"
    notes = {name: verdict[name] for name in verdict if name not in (*MEASURES, "id", "reason")}
    scores = {
        measure: scorer.Score(
            value=float(verdict[measure]),
            answer="yes" if verdict[measure] else "no",
            explanation=verdict["reason"] if measure == "verdict" else "",
            metadata=notes,
        )
        for measure in MEASURES
        if verdict[measure] is not None
    }
    return log.EvalSample(
        id=name,
        epoch=index + 1,
        uuid=hashlib.sha256(f"{digest} {key}".encode()).hexdigest()[:22],
        input=inputs or condition,
        target="",
        messages=[*inputs, answer],
        output=model.ModelOutput(
            model=_model(run),
            choices=[model.ChatCompletionChoice(message=answer, stop_reason=stop)],
            usage=usage,
        ),
        scores=scores,
        metadata={"condition": condition, "state": verdict["state"]},
        model_usage={_model(run): usage},
        started_at=created,
        completed_at=created,
    )


def _id(condition: str) -> str:
    """A condition's id as a part of a file's name."""
    return condition.replace("/", "_")


def _model(run: Run) -> str:
    return f"msm_jax/{run.asked['model'].get('params', 'unknown')}"


def _usage(tokens: int) -> Any:
    from inspect_ai import model

    return model.ModelUsage(output_tokens=tokens, total_tokens=tokens)
