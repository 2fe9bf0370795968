"""A checkpoint's own chat template (Jinja), run in a sandbox, and how it compares with ours."""

import dataclasses
import datetime
import json
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from msm_jax.data import spans
from msm_jax.data.chat import CHAT_FORMATS, PROBES, ChatFormat, render_chat
from msm_jax.data.messages import GENERATION, Messages, read_turn, unmarked
from msm_jax.data.tokenizer import Tokenizer
from msm_jax.errors import UserError

TEMPLATE_FILE, SETTINGS_FILE = "chat_template.jinja", "tokenizer_config.json"
SPECIAL_FILE = "special_tokens_map.json"
TOOLS_FILE = "additional_chat_templates/tool_use.jinja"
OWN = {"own": True, "own-no-thinking": False}  # names of formats -> is thinking on
FORMATS = (*CHAT_FORMATS, *OWN)
# What `strftime_now` says in a template: the date that those of Llama 3.1 and 3.2 fall back to.
# The day on which a run is started decides neither its tokens nor its prompts.
TODAY = datetime.datetime(2024, 7, 26)
_SPECIAL = ("bos_token", "eos_token", "unk_token", "pad_token")
# What a template can run into, as any program can.
_FAILURES = (
    ArithmeticError, AttributeError, LookupError, MemoryError, RecursionError, TypeError, ValueError
)  # fmt: skip
_NOTHING = re.compile(r"\Z.")
_ASK, _ANSWER = {"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}


def find_format(
    name: str,
    directory: str | os.PathLike,
    tokenizer: Tokenizer,
    base: str | os.PathLike | None = None,
) -> ChatFormat:
    """A chat format by name: one of `CHAT_FORMATS`, or "own" or "own-no-thinking".

    Args:
      name: of the format; the last two are the template that lies beside the tokenizer, told that
        thinking is on or off (a template may not care).
      directory: where the tokenizer lies.
      tokenizer: has to know the format's control tokens.
      base: directory that says what bos_token and the like are where the first one does not.

    Raises:
      UserError: an unknown name, no template there, or one that cannot be used.
    """
    if name in CHAT_FORMATS:
        format = CHAT_FORMATS[name]
    elif name in OWN:
        found = own_format(directory, tokenizer, OWN[name], base)
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
    directory: str | os.PathLike,
    tokenizer: Tokenizer,
    thinking: bool = True,
    base: str | os.PathLike | None = None,
) -> ChatFormat | None:
    """The format of the template in a directory; None where there is none.

    Raises:
      UserError: a template that is malformed or that marks no answer's end by a control token.
    """
    template = find_template(directory)
    if template is None:
        return None
    names = template_names(directory, thinking, base)
    return template_format(template, tokenizer, names)


def find_template(directory: str | os.PathLike) -> str | None:
    """The source of a directory's chat template: its file, or a text in tokenizer_config.json.

    Of several by name, "default" is taken; for chats with tools "tool_use", as in `transformers`,
    and the source is one template that chooses between the two.
    """
    path = pathlib.Path(directory)
    template = _settings(path / SETTINGS_FILE).get("chat_template")
    if (path / TEMPLATE_FILE).exists():
        template = {"default": _text_of(path / TEMPLATE_FILE)}
        if (path / TOOLS_FILE).exists():
            template["tool_use"] = _text_of(path / TOOLS_FILE)
    elif isinstance(template, list):  # as older files have them
        template = {
            one.get("name"): one.get("template") for one in template if isinstance(one, dict)
        }
    named = template if isinstance(template, dict) else {"default": template}
    plain, with_tools = named.get("default"), named.get("tool_use")
    if any(found and not isinstance(found, str) for found in (plain, with_tools)):
        raise UserError(f"{path / SETTINGS_FILE}: chat_template is not a text")
    if not plain or not with_tools or plain == with_tools:
        return plain or None
    cut = lambda source: source.removesuffix("\n")  # as Jinja does at the end of a template
    return f"{{%+ if tools +%}}{cut(with_tools)}{{%+ else +%}}{cut(plain)}{{%+ endif +%}}"


def _text_of(file: pathlib.Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: cannot be read: {error}") from error


def other_templates(directory: str | os.PathLike) -> list[str]:
    """Names of the templates that `find_template` does not take, such as "rag"."""
    path = pathlib.Path(directory)
    listed = _settings(path / SETTINGS_FILE).get("chat_template")
    inside = {str(one.get("name")) for one in listed or () if isinstance(one, dict)}
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
    """{"eos_token": "<|im_end|>", ...} of tokenizer_config.json or, in old checkpoints, of
    special_tokens_map.json."""
    path = pathlib.Path(directory)
    found = {}
    for file in (path / SPECIAL_FILE, path / SETTINGS_FILE):
        for name, token in _settings(file).items():
            if name in _SPECIAL and token is not None:
                text = token.get("content") if isinstance(token, dict) else token
                if not isinstance(text, str):
                    raise UserError(f"{file}: {name} {token!r} is neither a text nor a token")
                found[name] = text
    return found


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
    """The format that a template describes.

    Args:
      template: its source.
      tokenizer: whose control tokens it writes.
      names: what the template may refer to by name, such as {"bos_token": ...}.

    Raises:
      UserError: it is not a template, ends no answer by a control token, or its answers cannot be
        told from the rest with certainty; from `write`, when the template refuses a conversation.
    """
    import jinja2

    try:
        compiled = _environment().from_string(template)
    except (jinja2.TemplateError, *_FAILURES) as error:
        raise UserError(f"chat template: {error}") from error

    def write(messages: Messages, generation_prompt: bool, tools: Sequence | None = None) -> str:
        try:
            return compiled.render(
                messages=list(messages),
                add_generation_prompt=generation_prompt,
                tools=list(tools) if tools else None,
                documents=None,
                **(names or {}),
            )
        except (jinja2.TemplateError, *_FAILURES) as error:
            why = str(error) or type(error).__name__
            raise UserError(f"chat template: refuses this conversation: {why}") from error

    controls = re.compile("|".join(map(re.escape, tokenizer.control_names)) or r"\Z.")
    first = lambda text: found[0] if (found := controls.search(text)) else None
    try:
        end, *others = spans.find_ends(write, first, (names or {}).get("eos_token"))
        format = ChatFormat(write, end, (end,), template, tuple(others))
        _check_masks(format)
    except UserError as error:
        told = str(error).removeprefix("chat template: ")
        raise UserError(f"chat template: {told}") from error
    return format


def _environment():
    """What transformers offers to templates beside Jinja's own, in a sandbox."""
    import jinja2
    import jinja2.ext
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(jinja2.ext.Extension):
        """{% generation %} ... {% endgeneration %}: what a model is to learn, in marks."""

        tags = {"generation"}

        def parse(self, parser):
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return jinja2.nodes.CallBlock(self.call_method("mark"), [], [], body).set_lineno(line)

        def mark(self, caller) -> str:
            return GENERATION[0] + caller() + GENERATION[1]

    def refuse(message):
        raise jinja2.TemplateError(message)

    def tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(
            value,
            ensure_ascii=ensure_ascii,
            indent=indent,
            separators=separators,
            sort_keys=sort_keys,
        )

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"]
    )
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = TODAY.strftime
    environment.filters["tojson"] = tojson
    return environment


def _check_masks(format: ChatFormat) -> None:
    """Finds the masks of some conversations again in two other ways.

    With other answers everything that is not learned has to stay as it was. And where a chat
    begins with the prompt for its answer, the answer begins where the prompt ends.
    """
    for messages in PROBES:
        turns = [read_turn(message, _NOTHING) for message in messages]
        plain = [turn.message() for turn in turns]
        try:
            format.write(plain, False)
        except UserError:
            continue  # the template refuses it, and will do so of data
        try:
            text, learned = spans.said(format, turns)
        except spans.LeftOut:
            continue  # so will we
        pairs = [(turn, (*turn.pieces[:-1], ("content", "Another."))) for turn in turns]
        others = [
            dataclasses.replace(turn, pieces=pieces) if turn.role == "assistant" else turn
            for turn, pieces in pairs
        ]
        if _outside(text, learned) != _outside(*spans.said(format, others)):
            raise UserError("other answers change what it writes around them")
        if format.is_tagged or not format.header.asked:
            continue
        answers = [number for number, turn in enumerate(turns) if turn.role == "assistant"]
        for number, (start, _) in zip(answers, learned, strict=True):
            asked = format.write(plain[:number], True)
            if text.startswith(asked) and start != len(asked):
                raise UserError(f"an answer begins after {text[:start]!r}, asked for by {asked!r}")


def _outside(text: str, learned: Sequence[tuple[int, int]]) -> list[str]:
    edges = [0, *(edge for span in learned for edge in span), len(text)]
    return [text[a:b].strip() for a, b in zip(edges[::2], edges[1::2], strict=True)]


PROMPT_DIFFERS = (
    "the chat template asks for an answer in another way than it writes one, so training never "
    "shows the prompt that is used"
)


def unprompted(format: ChatFormat) -> str | None:
    """How what a format asks with and what it writes differ, in words; None where they do not.

    A model that learns answers behind one header and is asked for them behind another is asked
    what it never saw.
    """
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
            text, _, _ = unmarked(format.write(messages, False))
            ids, _ = render_chat(tokenizer, format, messages)
        except UserError:
            continue
        if ids != tokenizer.encode_marked(text):
            return text
    return None


def _settings(file: pathlib.Path) -> dict:
    if not file.exists():
        return {}
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{file}: cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise UserError(f"{file}: not a JSON object")
    return found
