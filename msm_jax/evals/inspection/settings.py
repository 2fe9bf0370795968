"""Every field of Inspect's GenerateConfig, and what we do with it.

No field is ignored silently. It is used; or it changes no answer here, for the reason beside it; or
it is refused by name unless it has its neutral value. Fields that a later Inspect adds are refused
until they have a row here; a test compares the table with Inspect's.
"""

import dataclasses
from typing import Any

from msm_jax.errors import UserError
from msm_jax.sample.settings import check_settings, stop_texts

MAX_TOKENS = {False: 4096, True: 512}  # of an answer; of a judge

# Inspect's name -> that of Model.sample.
USED = {
    "max_tokens": "max_tokens",
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "seed": "seed",
    "stop_seqs": "stop",
    "num_choices": "n",
    "logprobs": "",  # those of the answer's tokens, which the sampler always returns
}
DEFAULTS = {"temperature": 1.0, "seed": 0, "top_p": 1.0, "top_k": 0, "num_choices": 1}
# Name -> why it changes no answer.
HARMLESS = {
    **dict.fromkeys(
        ("max_retries", "timeout", "attempt_timeout", "stream_idle_timeout", "max_connections")
        + ("adaptive_connections", "cache", "fail_on_refusal", "system_message"),
        "Inspect does this itself, around the request",
    ),
    **dict.fromkeys(
        ("max_tool_output", "parallel_tool_calls", "internal_tools"),
        "about tools, and a request with tools is refused",
    ),
    "fallback_models": "for refusals by a provider's classifier; there is none here",
    "reasoning_history": "Inspect has removed earlier thoughts from the messages, or kept them",
    "cache_prompt": "about a provider's prices; a prompt is read once for its answers here",
    "batch": "about a provider's batch API; requests are answered together here",
    "extra_headers": "about HTTP; nothing is sent here",
}
# Name -> (neutral values, which are accepted; the reason or what to do instead).
_OWN = "the sampler draws from the model's own distribution"
_THOUGHT = "thinking follows from the checkpoint's chat template"
REFUSED: dict[str, tuple[tuple, str]] = {
    "best_of": ((1,), "ask for num_choices"),
    "frequency_penalty": ((0,), _OWN),
    "presence_penalty": ((0,), _OWN),
    "logit_bias": (({},), _OWN),
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
# A judge reasons greedily and gives one verdict; seed, top_p and top_k change nothing there.
REFUSED_BY_JUDGE: dict[str, tuple[tuple, str]] = {
    "temperature": ((0,), "the judge reasons greedily"),
    "stop_seqs": (([],), "the judge's reply ends with its verdict"),
    "num_choices": ((1,), "the judge gives one verdict"),
    "logprobs": ((False,), "the judge's margin is in the reply's metadata"),
}


@dataclasses.dataclass(frozen=True)
class RequestSettings:
    """The settings of one request.

    Attributes:
      sampling: keyword arguments of `Model.sample`.
      choices: how many answers the request wants.
      logprobs: whether they come with the log-probabilities of their tokens.
    """

    sampling: dict[str, Any]
    choices: int = 1
    logprobs: bool = False


def request_settings(config: Any, judging: bool = False) -> RequestSettings:
    """A GenerateConfig as settings of ours.

    Raises:
      UserError: a field that is not supported, or a value outside its range.
    """
    names = list(type(config).model_fields)
    given = {name: getattr(config, name) for name in names if getattr(config, name) is not None}
    refused = {**REFUSED, **REFUSED_BY_JUDGE} if judging else REFUSED
    for name, value in given.items():
        if name in refused:
            neutral, instead = refused[name]
            if not any(value == nothing for nothing in neutral):
                raise UserError(f"msm_jax: {name}={value!r} is not supported: {instead}")
        elif name not in USED and name not in HARMLESS:
            raise UserError(f"msm_jax: {name}={value!r} is not known to this provider")
    wanted: dict[str, Any] = {"max_tokens": MAX_TOKENS[judging], **DEFAULTS}
    wanted |= {name: value for name, value in given.items() if name in USED}
    logprobs = bool(wanted.pop("logprobs", False))
    stop = stop_texts(wanted.pop("stop_seqs", None), "msm_jax: stop_seqs")
    settings = {USED[name]: value for name, value in wanted.items()}
    choices = settings.pop("n")
    check_settings("msm_jax: ", **settings)
    check_settings("msm_jax: num_choices as ", n=choices)
    if judging:
        return RequestSettings({"max_tokens": settings["max_tokens"]})
    return RequestSettings({**settings, "stop": stop}, choices, logprobs)
