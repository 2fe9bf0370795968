"""Every field of Inspect's GenerateConfig, and what we do with it.

No field is ignored silently. It is used; or it changes no answer here, for the reason beside it; or
it is refused by name unless it has its neutral value. Fields that a later Inspect adds are refused
until fields.toml has a row for them; a test compares it with Inspect's.
"""

import dataclasses
import pathlib
import tomllib
from typing import Any

from msm_jax.errors import UserError
from msm_jax.sample.settings import check_settings, stop_texts

MAX_TOKENS = {False: 4096, True: 512}  # of an answer; of a judge

_FIELDS = tomllib.loads((pathlib.Path(__file__).parent / "fields.toml").read_text("utf-8"))
USED: dict[str, str] = _FIELDS["used"]  # Inspect's name -> that of Model.sample
HARMLESS: dict[str, str] = _FIELDS["harmless"]  # name -> why it changes no answer
# Name -> (neutral values, which are accepted; the reason or what to do instead).
REFUSED: dict[str, tuple[list, str]] = _FIELDS["refused"]
REFUSED_BY_JUDGE: dict[str, tuple[list, str]] = _FIELDS["refused_by_judge"]


@dataclasses.dataclass(frozen=True)
class RequestSettings:
    """The settings of one request."""

    sampling: dict[str, Any]  # keyword arguments of `Model.sample`
    choices: int = 1  # how many answers it wants
    logprobs: bool = False  # whether they come with the log-probabilities of their tokens


def request_settings(config: Any, judging: bool = False) -> RequestSettings:
    """A GenerateConfig as settings of ours.

    Raises:
      UserError: a field that is not supported, or a value outside its range.
    """
    given = {name: value for name, value in config if value is not None}
    refused = {**REFUSED, **REFUSED_BY_JUDGE} if judging else REFUSED
    for name, value in given.items():
        if name in refused:
            neutral, instead = refused[name]
            if value not in neutral:
                raise UserError(f"msm_jax: {name}={value!r} is not supported: {instead}")
        elif name not in USED and name not in HARMLESS:
            raise UserError(f"msm_jax: {name}={value!r} is not known to this provider")
    wanted: dict[str, Any] = {"max_tokens": MAX_TOKENS[judging], **_FIELDS["defaults"]}
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
