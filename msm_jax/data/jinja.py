"""Chat templates: Jinja in a sandbox, with what `transformers` adds to it."""

import datetime
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from msm_jax.data.messages import GENERATION, Messages
from msm_jax.errors import UserError

# (messages, generation prompt wanted, tools) -> text with the names of control tokens in it.
Write = Callable[..., str]
# What `strftime_now` says in a template: the date that those of Llama 3.1 and 3.2 fall back to.
# The day on which a run is started decides neither its tokens nor its prompts.
TODAY = datetime.datetime(2024, 7, 26)
# What a template can run into, as any program can; Jinja makes Python of it, such as a `break`
# outside of a loop.
_FAILURES = (
    ArithmeticError, AttributeError, LookupError, MemoryError, RecursionError, SyntaxError,
    TypeError, ValueError,
)  # fmt: skip


def writer(template: str, names: Mapping[str, Any]) -> Write:
    """The function that renders a template.

    Args:
      names: what it may refer to by name, such as {"bos_token": ...}.

    Raises:
      UserError: it is no template; and from the function, when it refuses a conversation.
    """
    import jinja2

    failures = (jinja2.TemplateError, *_FAILURES)
    try:
        compiled = _environment().from_string(template)
    except failures as error:
        raise UserError(f"chat template: {error}") from error

    def write(
        messages: Messages, generation_prompt: bool, tools: Sequence[Mapping] | None = None
    ) -> str:
        try:
            return _environment().render(
                compiled,
                messages=list(messages),
                add_generation_prompt=generation_prompt,
                tools=list(tools) if tools else None,
                documents=None,
                **names,
            )
        except failures as error:
            why = str(error) or type(error).__name__
            raise UserError(f"chat template: refuses this conversation: {why}") from error

    return write


@functools.cache
def _environment() -> Any:
    import jinja2
    import jinja2.ext

    from msm_jax.data.sandbox import Sandbox

    class Generation(jinja2.ext.Extension):
        """{% generation %} ... {% endgeneration %} marks the tokens with loss."""

        tags = {"generation"}

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return jinja2.nodes.CallBlock(self.call_method("mark"), [], [], body).set_lineno(line)

        def mark(self, caller: Callable[[], str]) -> str:
            return GENERATION[0] + caller() + GENERATION[1]

    def refuse(message: str) -> None:
        raise jinja2.TemplateError(message)

    def tojson(
        value: Any,
        ensure_ascii: bool = False,
        indent: int | None = None,
        separators: tuple[str, str] | None = None,
        sort_keys: bool = False,
    ) -> str:
        options: Any = {"indent": indent, "separators": separators, "sort_keys": sort_keys}
        return json.dumps(value, ensure_ascii=ensure_ascii, **options)

    environment = Sandbox(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"]
    )
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = TODAY.strftime
    environment.add_filter("tojson", tojson)
    return environment
