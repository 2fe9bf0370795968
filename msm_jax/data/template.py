"""A checkpoint's own chat template (Jinja), run in a sandbox, and how it compares with ours."""

import datetime
import functools
import json
import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any

from msm_jax.data.chat import CHAT_FORMATS, PROBES, ChatFormat, Messages, render_chat
from msm_jax.data.tokenizer import Tokenizer
from msm_jax.errors import UserError

TEMPLATE_FILE, SETTINGS_FILE = "chat_template.jinja", "tokenizer_config.json"
OWN = {"own": True, "own-no-thinking": False}  # names of formats -> is thinking on
FORMATS = (*CHAT_FORMATS, *OWN)
# What `strftime_now` says in a template: the date that those of Llama 3.1 and 3.2 fall back to.
# The day on which a run is started decides neither its tokens nor its prompts.
TODAY = datetime.datetime(2024, 7, 26)
_SPECIAL = ("bos_token", "eos_token", "unk_token", "pad_token")
# What a template can run into, as any program can.
_FAILURES = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
_MARK = "\ufdd1"  # a noncharacter, which no template writes of its own accord
_QUESTION, _ANSWER = {"role": "user", "content": "?"}, {"role": "assistant", "content": _MARK}


def find_format(name: str, directory: str | os.PathLike, tokenizer: Tokenizer) -> ChatFormat:
    """A chat format by name: one of `CHAT_FORMATS`, or "own" or "own-no-thinking".

    Args:
      name: of the format; the last two are the template that lies beside the tokenizer, told that
        thinking is on or off (a template may not care).
      directory: where the tokenizer lies.
      tokenizer: has to know the format's control tokens.

    Raises:
      UserError: an unknown name, no template there, or one that cannot be used.
    """
    if name in CHAT_FORMATS:
        format = CHAT_FORMATS[name]
    elif name in OWN:
        found = own_format(directory, tokenizer, OWN[name])
        if found is None:
            raise UserError(
                f"chat_format={name!r}: {directory} has no chat template; one of "
                f"{sorted(CHAT_FORMATS)} is needed"
            )
        format = found
    else:
        raise UserError(f"chat_format={name!r}: one of {sorted(FORMATS)}")
    for control in format.control_tokens:
        tokenizer.control(control)
    return format


def own_format(
    directory: str | os.PathLike, tokenizer: Tokenizer, thinking: bool = True
) -> ChatFormat | None:
    """The format of the template in a directory; None where there is none.

    Raises:
      UserError: a template that is malformed or that marks no answer's end by a control token.
    """
    path = pathlib.Path(directory)
    settings = _settings(path)
    template = settings.get("chat_template")
    if (path / TEMPLATE_FILE).exists():
        template = (path / TEMPLATE_FILE).read_text(encoding="utf-8")
    elif isinstance(template, list):  # several by name, as older files have them
        by_name = {one["name"]: one["template"] for one in template if isinstance(one, dict)}
        template = by_name.get("default")
    if not template:
        return None
    if not isinstance(template, str):
        raise UserError(f"{path / SETTINGS_FILE}: chat_template is not a text")
    names: dict[str, Any] = {"enable_thinking": thinking}
    for name in _SPECIAL:
        token = settings.get(name)
        names[name] = token["content"] if isinstance(token, dict) else token
    return template_format(
        template, tokenizer, {name: value for name, value in names.items() if value is not None}
    )


def template_format(
    template: str, tokenizer: Tokenizer, names: Mapping[str, Any] | None = None
) -> ChatFormat:
    """The format that a template describes.

    Args:
      template: its source.
      tokenizer: whose control tokens it writes.
      names: what the template may refer to by name, such as {"bos_token": ...}.

    Raises:
      UserError: it is not a template, or marks no answer's beginning and end by control tokens:
        then nobody could tell what an assistant said; from `write`, when the template fails on a
        conversation.
    """
    import jinja2
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )

    def refuse(message):
        raise jinja2.TemplateError(message)

    # What transformers offers to templates beside Jinja's own.
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = TODAY.strftime
    environment.filters["tojson"] = functools.partial(json.dumps, ensure_ascii=False)
    try:
        compiled = environment.from_string(template)
    except jinja2.TemplateError as error:
        raise UserError(f"chat template: {error}") from error

    def write(messages: Messages, generation_prompt: bool) -> str:
        try:
            return compiled.render(
                messages=list(messages),
                add_generation_prompt=generation_prompt,
                tools=None,
                documents=None,
                **(names or {}),
            )
        except (jinja2.TemplateError, *_FAILURES) as error:
            raise UserError(f"chat template: refuses this conversation: {error}") from error

    before, _, after = write([_QUESTION, _ANSWER, _QUESTION], False).partition(_MARK)
    controls = re.compile("|".join(map(re.escape, tokenizer.control_names)) or r"\Z.")
    end, begins = controls.search(after), controls.search(before)
    if not end or not begins:
        raise UserError(
            "chat template: writes no control token before and after an answer, so that what an "
            "assistant said cannot be told from what was said to it"
        )
    return ChatFormat(write, end[0], (end[0],), template)


def builtin_name(model_type: str, tokenizer: Tokenizer, rope_scaled: bool = False) -> str:
    """Our format for a family's checkpoints that carry no template of their own.

    Of Llama's, those from 3.1 on have their rotations scaled.
    """
    if model_type == "llama":
        return "llama3.1" if rope_scaled else "llama3"
    if model_type == "qwen3":
        return "qwen3" if "<think>" in tokenizer.control_names else "chatml"
    return "qwen2.5"


def difference(one: ChatFormat, other: ChatFormat) -> str | None:
    """The first of some conversations that two formats write differently, in words, or None."""
    for messages in PROBES:
        for prompt in (True, False):
            texts = [format.attempt(messages, prompt) for format in (one, other)]
            if texts[0] != texts[1]:
                return f"{messages}: {texts[0]!r} against {texts[1]!r}"
    if one.end != other.end:
        return f"the token that ends an answer: {one.end!r} against {other.end!r}"
    return None


def misread(tokenizer: Tokenizer, format: ChatFormat) -> str | None:
    """The first conversation, as written, whose ids depend on how control tokens are found.

    `render_chat` encodes what lies between control tokens piece by piece; the tokenizer's own way
    is to encode the whole and find them in it.
    """
    for messages in PROBES:
        try:
            text = format.write(messages, False)
        except UserError:
            continue
        if render_chat(tokenizer, format, messages)[0] != tokenizer.encode_marked(text):
            return text
    return None


def _settings(path: pathlib.Path) -> dict:
    file = path / SETTINGS_FILE
    if not file.exists():
        return {}
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{file}: cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise UserError(f"{file}: not a JSON object")
    return found
