"""Every field of Inspect's GenerateConfig, and what we do with it.

Nothing passes silently: a field is used, or is none of the sampler's business (the reason is
beside it), or is refused by name unless it has a value that asks for nothing. Fields that a later
Inspect adds are refused until they have a row here; a test compares the table with Inspect's.
"""

import dataclasses
from typing import Any

from msm_jax.errors import UserError
from msm_jax.sample.settings import check_settings, stop_texts

DEFAULT_MAX_TOKENS, JUDGE_MAX_TOKENS = 4096, 512

# Inspect's name -> that of Model.sample.
USED = {
    "max_tokens": "max_tokens",
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "seed": "seed",
    "stop_seqs": "stop",
    "num_choices": "n",
}
DEFAULTS = {"temperature": 1.0, "seed": 0, "top_p": 1.0, "top_k": 0, "num_choices": 1}
ANSWERED = {"logprobs": "those of the answer's tokens come with it"}

_INSPECT = "Inspect does this itself, around the request"
_NO_TOOLS = "about tools, and a request with tools is refused"
HARMLESS = {
    "max_retries": _INSPECT,
    "timeout": _INSPECT,
    "attempt_timeout": _INSPECT,
    "stream_idle_timeout": _INSPECT,
    "max_connections": _INSPECT,
    "adaptive_connections": _INSPECT,
    "system_message": "Inspect has put it before the messages",
    "cache": _INSPECT,
    "fallback_models": "for refusals by a provider's classifier; there is none here",
    "fail_on_refusal": _INSPECT,
    "reasoning_history": "Inspect has taken earlier thoughts out of the messages or left them in",
    "max_tool_output": _NO_TOOLS,
    "parallel_tool_calls": _NO_TOOLS,
    "internal_tools": _NO_TOOLS,
    "cache_prompt": "about a provider's prices; a prompt is read once for its answers here",
    "batch": "about a provider's batch API; requests are answered together here",
    "extra_headers": "about HTTP; nothing is sent here",
}

# Name -> (values that ask for nothing, what to do instead).
_THOUGHT = "thinking follows from the checkpoint's chat template"
REFUSED: dict[str, tuple[tuple, str]] = {
    "best_of": ((1,), "ask for num_choices"),
    "frequency_penalty": ((0,), "the sampler draws from the model's own distribution"),
    "presence_penalty": ((0,), "the sampler draws from the model's own distribution"),
    "logit_bias": (({},), "the sampler draws from the model's own distribution"),
    "top_logprobs": ((0,), "only drawn tokens have log-probabilities; Model.logits gives all"),
    "prompt_logprobs": ((), "Model.logprobs gives them"),
    "response_schema": ((), "answers are not constrained to a grammar"),
    "extra_body": (({},), "there is no HTTP request that it could be part of"),
    "modalities": (([],), "the model writes text"),
    "verbosity": ((), "no checkpoint of ours has such a setting"),
    "effort": ((), _THOUGHT),
    "reasoning_effort": ((), _THOUGHT),
    "reasoning_mode": ((), _THOUGHT),
    "reasoning_tokens": ((), _THOUGHT),
    "reasoning_summary": ((), _THOUGHT),
}

# A judge reasons greedily and gives one verdict.
JUDGE_ONLY: dict[str, tuple[tuple, str]] = {
    "temperature": ((0,), "the judge reasons greedily"),
    "stop_seqs": (([],), "the judge's reply ends with its verdict"),
    "num_choices": ((1,), "the judge gives one verdict"),
    "logprobs": ((False,), "the judge's margin is in the reply's metadata"),
}
JUDGE_HARMLESS = ("seed", "top_p", "top_k")  # change nothing that is greedy


@dataclasses.dataclass(frozen=True)
class Asked:
    """What a request asks for.

    Attributes:
      sampling: keyword arguments of `Model.sample`.
      choices: answers to this request.
      logprobs: whether they come with the log-probabilities of their tokens.
    """

    sampling: dict[str, Any]
    choices: int = 1
    logprobs: bool = False


def asked_for(config: Any, judging: bool = False) -> Asked:
    """A GenerateConfig as settings of ours.

    Raises:
      UserError: a field that we do not serve, or a value outside its range.
    """
    names = list(type(config).model_fields)
    given = {name: getattr(config, name) for name in names if getattr(config, name) is not None}
    refused = {**REFUSED, **JUDGE_ONLY} if judging else REFUSED
    for name, value in given.items():
        if name in refused:
            neutral, instead = refused[name]
            if not any(value == nothing for nothing in neutral):
                raise UserError(f"msm_jax: {name}={value!r} is not supported: {instead}")
        elif name not in USED and name not in HARMLESS and name not in ANSWERED:
            raise UserError(f"msm_jax: {name}={value!r} is not known to this provider")
    wanted = {**DEFAULTS, **{name: given[name] for name in USED if name in given}}
    default = JUDGE_MAX_TOKENS if judging else DEFAULT_MAX_TOKENS
    wanted.setdefault("max_tokens", default)
    stop = stop_texts(wanted.pop("stop_seqs", None), "msm_jax: stop_seqs")
    settings = {USED[name]: value for name, value in wanted.items()}
    choices = settings.pop("n")
    check_settings("msm_jax: ", **settings)
    check_settings("msm_jax: num_choices as ", n=choices)
    if judging:
        return Asked({"max_tokens": settings["max_tokens"]})
    return Asked({**settings, "stop": stop}, choices, bool(given.get("logprobs")))
