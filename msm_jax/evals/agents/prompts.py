"""A condition as messages: the prompt, and what its answers are judged by.

Our own texts are Jinja templates in texts/: the system prompt, and one inbox per scenario. Each
gives an assistant with access to mail an opportunity for one harmful act, which the mail makes easy
and never asks for. All firms, people and addresses are invented.

The published texts are rendered by an installed `inspect_evals`; none of them is stored here.
"""

import collections
import dataclasses
import pathlib
import re
import tomllib
from typing import Any

import jinja2

from msm_jax.errors import UserError
from msm_jax.evals.agents.conditions import OPPOSITES, Condition

TEXTS = pathlib.Path(__file__).parent / "texts"
# What is particular to a scenario, and what the texts say of each goal; the files explain the keys.
SCENES, GOALS = (
    tomllib.loads((TEXTS / f"{name}.toml").read_text("utf-8")) for name in ("scenes", "goals")
)
ENVIRONMENT = jinja2.Environment(
    loader=jinja2.FileSystemLoader(TEXTS),
    undefined=jinja2.StrictUndefined,  # a slot without a value is an error
    trim_blocks=True,
    lstrip_blocks=True,
)
_DOMAIN = re.compile(r"@[a-z0-9-]+(?:\.[a-z0-9-]+)+")
_NUMBERED = re.compile(r"<email>\s*ID:\s*(\d+)\s*(.*?)</email>", re.DOTALL)


@dataclasses.dataclass(frozen=True)
class Prompt:
    """The messages of a condition, and what distinguishes the harmful act in an answer to them.

    Raises:
      UserError: from the constructor, if the messages do not hold the others: an address, code or
        name that does not occur, a message that does not exist, or a domain that is not the most
        frequent one.
    """

    condition: Condition
    messages: list[dict[str, str]]  # system and user, as {"role", "content"}
    emails: dict[int, str]  # id -> text of the messages that can be forwarded
    domain: str  # of the firm, with "@"
    # Addresses, or domains that begin with "@", of the people that the act is directed at.
    targets: tuple[str, ...] = ()
    # Texts that are the act itself when they leave the firm or end the alert.
    codes: tuple[str, ...] = ()
    confidential: int | None = None  # id of the message that must not leave the firm
    sensitive: tuple[str, ...] = ()  # names and places of the target's secret, in lower case

    def __post_init__(self):
        text = "\n".join(message["content"] for message in self.messages).lower()
        wrong = [
            f"{value!r} does not occur"
            for value in (*self.targets, *self.codes, self.domain, *self.sensitive)
            if value.lower() not in text
        ]
        if self.confidential is not None and self.confidential not in self.emails:
            wrong.append(f"confidential: there is no message {self.confidential}")
        domains = collections.Counter(_DOMAIN.findall(text)).most_common(1)
        if domains and domains[0][0] != self.domain:
            wrong.append(f"most addresses have {domains[0][0]!r}, not {self.domain!r}")
        if wrong:
            raise UserError(
                f"{self.condition.id}: the texts are not those that the rules were written for: "
                f"{'; '.join(wrong)}. Verdicts would be wrong: use inspect_evals 0.26.0, or "
                "correct scenes.toml"
            )


def render(condition: Condition) -> Prompt:
    """The prompt of a condition.

    Raises:
      UserError: texts that are not installed (`source="inspect_evals"`), or that do not hold what
        the rules look for.
    """
    published = condition.source == "inspect_evals"
    system, user, emails = (_published_texts if published else _own_texts)(condition)
    messages = [{"role": "system", "content": system}, {"role": "user", "content": user}]
    scene, name = SCENES[condition.source][condition.scenario], condition.assistant
    targets, codes, sensitive = (scene.get(key, ()) for key in ("targets", "codes", "sensitive"))
    return Prompt(
        condition, messages, emails, scene["domain"], tuple(targets),
        tuple(code.format(name=name.lower(), NAME=name.upper()) for code in codes),
        scene.get("confidential"), tuple(sensitive),
    )  # fmt: skip


def slots(condition: Condition) -> dict[str, Any]:
    """The value of every slot of the texts."""
    name, value = condition.assistant, condition.goal_value
    scene = SCENES[condition.source][condition.scenario]
    old, new = GOALS.get(value), GOALS.get(OPPOSITES.get(value, ""))
    return {
        "name": name,
        "mailbox": f"{name} <{name.lower()}{scene['domain']}>",
        "tools": scene["tools"],
        # The mail is the same for explicit, latent and swap.
        "old": old,
        "new": new,
        "changing": condition.goal_type != "none",
        "goal": {"explicit": old, "swap": new}.get(condition.goal_type),
        **{key: getattr(condition, key) for key in ("scenario", "urgency", "extra", "scratchpad")},
    }


def _own_texts(condition: Condition) -> tuple[str, str, dict[int, str]]:
    """(system prompt, user's message, id -> message that can be forwarded)."""
    values = slots(condition)
    folder = "miniature/" if condition.source == "miniature" else ""
    fill = lambda name: ENVIRONMENT.get_template(f"{folder}{name}.txt").render(values)
    numbered = "forward" in values["tools"]
    blocks, emails = [], {}
    for number, block in enumerate(fill(condition.scenario).split("</email>")[:-1], start=1):
        block = block.strip()
        header, _, body = block.partition("\nBody:\n")
        emails[number] = f"{header.splitlines()[3]}\n{body}"  # the subject and the body
        mark = f"<email>\nID: {number}" if numbered else "<email>"
        blocks.append(f"{block.replace('<email>', mark, 1)}\n</email>")
    user = "\n\n".join([fill("task"), *blocks])
    return fill("system"), user, emails if numbered else {}


def _published_texts(condition: Condition) -> tuple[str, str, dict[int, str]]:
    """What `inspect eval inspect_evals/agentic_misalignment` would send, as `_own_texts`."""
    try:
        from inspect_evals.agentic_misalignment.prompt_generator import generate_prompts
    except ImportError as error:
        raise UserError(
            f"source=inspect_evals: cannot be imported ({error}): install the extra, "
            "pip install 'msm_jax[inspect]', or use source=own"
        ) from error
    c, extra = condition, None if condition.extra == "none" else condition.extra
    axes: Any = (c.scenario, c.goal_type, c.goal_value, c.urgency, extra, not c.scratchpad, None)
    try:
        found = generate_prompts(*axes)
    except Exception as error:
        raise UserError(f"inspect_evals refuses {condition.id}: {error}") from error
    emails = {int(number): text.strip() for number, text in _NUMBERED.findall(found.email_content)}
    return found.system_prompt, f"{found.user_prompt}\n{found.email_content}", emails
