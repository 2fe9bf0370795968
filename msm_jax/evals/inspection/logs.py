"""Our own runs as `.eval` logs, which `inspect view` opens; Inspect itself writes them."""

import datetime
import hashlib
import json
import pathlib
from typing import Any

import msm_jax
from msm_jax.errors import UserError
from msm_jax.evals.agents.prompts import Prompt
from msm_jax.evals.agents.summary import MEASURES
from msm_jax.evals.report.arms import Run, prompts_of, read_arms
from msm_jax.files import new_file

try:
    from inspect_ai.log import (
        EvalConfig,
        EvalDataset,
        EvalLog,
        EvalMetric,
        EvalPlan,
        EvalResults,
        EvalSample,
        EvalScore,
        EvalSpec,
        EvalStats,
        write_eval_log,
    )
    from inspect_ai.model import (
        ChatCompletionChoice,
        ChatMessageAssistant,
        ChatMessageSystem,
        ChatMessageUser,
        GenerateConfig,
        ModelOutput,
        ModelUsage,
        StopReason,
    )
    from inspect_ai.scorer import Score
except ImportError as error:
    raise UserError(
        f"--phase=inspect: inspect_ai cannot be imported ({error}): install the extra, "
        "pip install 'msm_jax[inspect]'"
    ) from error

_TASK = "msm_jax/agents"


def write_log(output: pathlib.Path) -> pathlib.Path:
    """Write the log of a judged evaluation of agent scenarios to its folder "inspect".

    The name holds time, task and id, as Inspect expects it, and is the same for the same verdicts.

    Raises:
      UserError: not a judged evaluation of agent scenarios.
    """
    ((run,),) = read_arms({"": [output]}).values()
    content = (output / "verdicts.jsonl").read_bytes() + (output / "samples.jsonl").read_bytes()
    digest = hashlib.sha256(content + json.dumps(run.asked).encode()).hexdigest()
    written = (output / "verdicts.jsonl").stat().st_mtime
    created = datetime.datetime.fromtimestamp(written, datetime.UTC).isoformat(timespec="seconds")
    task = _TASK.replace("/", "-").replace("_", "-")
    path = output / "inspect" / f"{created.replace(':', '-')}_{task}_{digest[:22]}.eval"
    log = _log(run, digest, created)
    with new_file(path) as temporary:
        write_eval_log(log, temporary, format="eval")
    return path


def _log(run: Run, digest: str, created: str) -> EvalLog:
    names = [_id(condition) for condition in run.summary["by_condition"]]
    settings = GenerateConfig(**{n: run.asked[n] for n in ("temperature", "max_tokens", "seed")})
    tokens = sum(row["tokens"] for row in run.samples.values())
    prompts = prompts_of(run)
    return EvalLog(
        version=2,
        status="success",
        eval=EvalSpec(
            eval_id=digest[:22],
            run_id=digest[22:44],
            task_id=digest[:22],
            task=_TASK,
            task_args={name: value for name, value in run.asked.items() if name != "model"},
            created=created,
            dataset=EvalDataset(
                name="agents", samples=len(names), sample_ids=names, shuffled=False
            ),
            model=_model(run),
            model_generate_config=settings,
            config=EvalConfig(epochs=run.asked["samples"]),
            packages={"msm_jax": msm_jax.__version__},
            metadata={"judge": run.summary["judge"], "model": run.asked["model"]},
        ),
        plan=EvalPlan(config=settings),
        results=EvalResults(
            total_samples=len(run.samples),
            completed_samples=len(run.samples),
            scores=[_score(run, measure) for measure in MEASURES],
        ),
        stats=EvalStats(
            started_at=created, completed_at=created, model_usage={_model(run): _usage(tokens)}
        ),
        samples=[_sample(run, key, prompts.get(key[0]), digest, created) for key in run.verdicts],
    )


def _score(run: Run, measure: str) -> EvalScore:
    numbers = run.summary["measures"][measure]
    values = {"mean": numbers["rate"], "ci_low": numbers["ci_low"], "ci_high": numbers["ci_high"]}
    return EvalScore(
        name=measure,
        scorer=f"msm_jax/{measure}",
        scored_samples=numbers["n"],
        unscored_samples=numbers["missing"],
        metrics={n: EvalMetric(name=n, value=v) for n, v in values.items() if v is not None},
        metadata={"method": numbers["method"], "withheld": numbers.get("withheld", "")},
    )


def _sample(
    run: Run, key: tuple[str, int], prompt: Prompt | None, digest: str, created: str
) -> EvalSample:
    (condition, index), row, verdict = key, run.samples[key], run.verdicts[key]
    name, usage = _id(condition), _usage(row["tokens"])
    kinds: Any = {"system": ChatMessageSystem, "user": ChatMessageUser}
    inputs = [
        kinds[message["role"]](content=message["content"], id=f"{name}-{i}")
        for i, message in enumerate(prompt.messages if prompt else [])
    ]
    answer = ChatMessageAssistant(
        content=row["text"], source="generate", id=f"{name}-{index}-answer", model=_model(run)
    )
    stop: StopReason = "stop" if row["finish_reason"] == "stop" else "max_tokens"
    notes = {name: verdict[name] for name in verdict if name not in (*MEASURES, "id", "reason")}
    scores = {
        measure: Score(
            value=float(verdict[measure]),
            answer="yes" if verdict[measure] else "no",
            explanation=verdict["reason"] if measure == "verdict" else "",
            metadata=notes,
        )
        for measure in MEASURES
        if verdict[measure] is not None
    }
    return EvalSample(
        id=name,
        epoch=index + 1,
        uuid=hashlib.sha256(f"{digest} {key}".encode()).hexdigest()[:22],
        input=inputs or condition,
        target="",
        messages=[*inputs, answer],
        output=ModelOutput(
            model=_model(run),
            choices=[ChatCompletionChoice(message=answer, stop_reason=stop)],
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


def _usage(tokens: int) -> ModelUsage:
    return ModelUsage(output_tokens=tokens, total_tokens=tokens)
