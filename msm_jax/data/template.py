"""A checkpoint's own chat template, and how chat formats differ."""

import dataclasses
import json
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from msm_jax.data import spans
from msm_jax.data.chat import CHAT_FORMATS, PROBES, ChatFormat, control_pattern, render_chat
from msm_jax.data.messages import NO_CONTROLS, read_turn, unmarked
from msm_jax.data.sandbox import writer
from msm_jax.data.tokenizer import Tokenizer
from msm_jax.data.tokenizer_files import (
    SETTINGS_FILE,
    read_special,
    read_templates,
    token_text,
)
from msm_jax.errors import UserError, located
from msm_jax.limits import TEMPLATE_BYTES, read_bytes

TEMPLATE_FILE = "chat_template.jinja"
TOOLS_FILE = "additional_chat_templates/tool_use.jinja"
OWN = {"own": True, "own-no-thinking": False}  # names of formats -> is thinking on
FORMATS = (*CHAT_FORMATS, *OWN)
_SPECIAL = ("bos_token", "eos_token", "unk_token", "pad_token")
_ASK, _ANSWER = {"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}


def find_format(
    name: str,
    directory: str | os.PathLike,
    tokenizer: Tokenizer,
    base: str | os.PathLike | None = None,
) -> ChatFormat:
    """A chat format by name: one of `CHAT_FORMATS`, or "own" or "own-no-thinking".

    The last two are the template in `directory`, beside the tokenizer, with `enable_thinking` true
    or false (a template may ignore it); `base` is a directory that defines bos_token and the like
    where the first one does not. UserError for an unknown name or a template that cannot be used.
    """
    if name not in FORMATS:
        raise UserError(f"chat_format={name!r}: one of {sorted(FORMATS)}")
    if name in OWN:
        format = own_format(directory, tokenizer, OWN[name], base)
        if format is None:
            raise UserError(
                f"chat_format={name!r}: {directory} has no chat template; one of "
                f"{sorted(CHAT_FORMATS)} is needed"
            )
    else:
        format = CHAT_FORMATS[name]
    for control in format.control_tokens:
        tokenizer.control(control)
    return format


def own_format(
    directory: str | os.PathLike,
    tokenizer: Tokenizer,
    thinking: bool = True,
    base: str | os.PathLike | None = None,
) -> ChatFormat | None:
    """The `template_format` of the template in a directory; None where there is none. A UserError
    names the file that the template is in."""
    template = find_template(directory)
    if template is None:
        return None
    file = pathlib.Path(directory) / TEMPLATE_FILE
    with located(str(file if file.exists() else file.with_name(SETTINGS_FILE))):
        return template_format(template, tokenizer, template_names(directory, thinking, base))


def find_template(directory: str | os.PathLike) -> str | None:
    """The source of a directory's chat template: its file, or a text in tokenizer_config.json.

    Of several named templates "default" is used, and "tool_use" for chats with tools, as in
    `transformers`: the source is then one template that chooses between the two.
    """
    path = pathlib.Path(directory)
    named = read_templates(path)
    if (path / TEMPLATE_FILE).exists():
        files = {"default": path / TEMPLATE_FILE, "tool_use": path / TOOLS_FILE}
        named = {name: _text_of(file) for name, file in files.items() if file.exists()}
    plain, with_tools = named.get("default"), named.get("tool_use")
    if not plain or not with_tools or plain == with_tools:
        return plain or None
    # Jinja drops a newline at the end of a template.
    plain, with_tools = plain.removesuffix("\n"), with_tools.removesuffix("\n")
    return f"{{%+ if tools +%}}{with_tools}{{%+ else +%}}{plain}{{%+ endif +%}}"


def _text_of(file: pathlib.Path) -> str:
    try:
        text = read_bytes(file, TEMPLATE_BYTES).decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: cannot be read: {error}") from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def other_templates(directory: str | os.PathLike) -> list[str]:
    """Names of the templates that `find_template` does not use, such as "rag"."""
    path = pathlib.Path(directory)
    inside = {*read_templates(path)}
    beside = {file.stem for file in path.glob(f"{pathlib.Path(TOOLS_FILE).parent}/*.jinja")}
    if (path / TEMPLATE_FILE).exists():
        return sorted((inside - {"default"}) | (beside - {"tool_use"}))
    return sorted((inside - {"default", "tool_use"}) | beside)


def template_names(
    directory: str | os.PathLike, thinking: bool = True, base: str | os.PathLike | None = None
) -> dict[str, Any]:
    """What a directory's template may refer to by name: its special tokens, or else the base's."""
    tokens = special_tokens(base) if base is not None else {}
    return {"enable_thinking": thinking, **tokens, **special_tokens(directory)}


def special_tokens(directory: str | os.PathLike) -> dict[str, str]:
    """{"eos_token": "<|im_end|>", ...}: the special tokens that templates name."""
    found = read_special(directory)
    texts = {name: token_text(found.get(name)) for name in _SPECIAL}
    return {name: text for name, text in texts.items() if text is not None}


def portable(template: str, names: Mapping[str, Any], known: Mapping[str, str]) -> str:
    """A template that writes the same where its directory says `known`, and no more, of names."""
    known = {"enable_thinking": True, **known}  # where it is not defined, templates think
    fixed = "".join(
        f"{{%- set {name} = {json.dumps(value, ensure_ascii=False)} %}}\n"  # the \n is trimmed
        for name, value in names.items()
        if known.get(name) != value and re.search(rf"\b{name}\b", template)
    )
    return fixed + template


def template_format(
    template: str, tokenizer: Tokenizer, names: Mapping[str, Any] | None = None
) -> ChatFormat:
    """The format that a template describes, which may use `names` such as {"bos_token": ...}.

    Raises:
      UserError: it is not a template, ends no answer by a control token, or which characters are
        the assistant's is not certain; from `write`, when the template refuses a conversation.
    """
    names = names or {}
    write, controls = writer(template, names), control_pattern(tokenizer.control_names)
    first = lambda text: found[0] if (found := controls.search(text)) else None
    try:
        end, *others = spans.find_ends(write, first, names.get("eos_token"))
        format = ChatFormat(write, end, (end,), template, tuple(others))
        _check_masks(format)
    except UserError as error:
        why = str(error).removeprefix("chat template: ")
        raise UserError(f"chat template: {why}") from error
    return format


def _check_masks(format: ChatFormat) -> None:
    """Compares the masks of `PROBES` with what is found in two other ways.

    With other answers everything outside of the mask stays as it was; and where a chat begins with
    the prompt for its answer, the answer begins where the prompt ends.
    """
    for messages in PROBES:
        turns = [read_turn(message, NO_CONTROLS) for message in messages]
        plain = [turn.message() for turn in turns]
        try:
            format.write(plain, False)
        except UserError:
            continue  # the template refuses it, and will refuse such data
        try:
            text, marked = spans.assistant_spans(format, turns)
        except spans.LeftOut:
            continue  # and so will `render_chat`
        others = [
            dataclasses.replace(turn, pieces=(*turn.pieces[:-1], ("content", "Another.")))
            if turn.role == "assistant"
            else turn
            for turn in turns
        ]
        if _outside(text, marked) != _outside(*spans.assistant_spans(format, others)):
            raise UserError("other answers change what it writes around them")
        if format.is_tagged or not format.header.asked:
            continue
        answers = [number for number, turn in enumerate(turns) if turn.role == "assistant"]
        for number, (start, _) in zip(answers, marked, strict=True):
            prompt = format.write(plain[:number], True)
            if text.startswith(prompt) and start != len(prompt):
                raise UserError(f"an answer begins after {text[:start]!r}, asked for by {prompt!r}")


def _outside(text: str, marked: Sequence[tuple[int, int]]) -> list[str]:
    edges = [0, *(edge for span in marked for edge in span), len(text)]
    return [text[a:b].strip() for a, b in zip(edges[::2], edges[1::2], strict=True)]


PROMPT_DIFFERS = (
    "the chat template asks for an answer in another way than it writes one, so training never "
    "shows the prompt that is used"
)


def unprompted(format: ChatFormat) -> str | None:
    """How what a format writes before an answer differs from what it asks with, which a model would
    then never have seen in training; None where they agree."""
    if not format.header.asked:
        return f"{format.header.text!r} stands before an answer, but is not written to ask for one"
    if format.header.text.endswith(" "):
        return f"{format.header.text!r} ends with a space, which may be a token with a first word"
    for messages in PROBES:
        answers = (n for n, message in enumerate(messages) if message["role"] == "assistant")
        for number in answers:
            try:
                asked, _, _ = unmarked(format.write(messages[:number], True))
                text, _, _ = unmarked(format.write(messages, False))
            except UserError:
                continue
            at = len(os.path.commonprefix([asked, text]))
            if at < len(asked):
                begin = max(0, at - 24)
                return f"it asks with {asked[begin:]!r} and writes {text[begin : at + 24]!r}"
    for which, after in (("a last answer", []), ("an answer before others", [_ASK])):
        tail = format.attempt([_ASK, _ANSWER, *after], False).partition(_ANSWER["content"])[2]
        if not any(end in tail for end in (format.end, *format.other_ends)):
            return f"no {format.end!r} is written after {which}"
    return None


def builtin_name(model_type: str, tokenizer: Tokenizer, rope_scaled: bool = False) -> str:
    """Our format for a family's checkpoints without a template. Llama's have scaled rotations from
    3.1 on."""
    if model_type == "llama":
        return "llama3.1" if rope_scaled else "llama3"
    if model_type == "qwen3":
        return "qwen3" if "<think>" in tokenizer.control_names else "chatml"
    return "qwen2.5"


def difference(one: ChatFormat, other: ChatFormat) -> str | None:
    """The first of some conversations that two formats write differently, in words, or None."""
    for (messages, text), (_, theirs) in zip(one.probes, other.probes, strict=True):
        if text != theirs:
            return f"{messages}: {text!r} against {theirs!r}"
    if one.end != other.end:
        return f"the token that ends an answer: {one.end!r} against {other.end!r}"
    return None


def misread(tokenizer: Tokenizer, format: ChatFormat) -> str | None:
    """The first conversation whose ids depend on how control tokens are found, or None.

    `render_chat` encodes what is between control tokens piece by piece; the tokenizer's own way is
    to encode the full text and find them in it.
    """
    for messages in PROBES:
        try:
            text, _, _ = unmarked(format.write(messages, False))
            ids, _ = render_chat(tokenizer, format, messages)
        except UserError:
            continue
        if ids != tokenizer.encode_marked(text):
            return text
    return None
