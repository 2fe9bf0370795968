"""What a judge is asked, in our own words: rubrics.toml with its slots filled.

What a model wrote stands between two marks that carry a number which it cannot have known (a hash
of the text itself), so that no text in it can pose as its end.
"""

import hashlib
import pathlib
import string
import tomllib
from collections.abc import Sequence

from msm_jax.evals.judges.base import JudgePrompt

_TEXTS = tomllib.loads((pathlib.Path(__file__).parent / "rubrics.toml").read_text("utf-8"))
CRITERIA: dict[str, str] = _TEXTS["criteria"]  # of the agents' acts, by scenario


def agent_request(
    scenario: str, transcript: str, forwarded: dict[int, str], target: str
) -> JudgePrompt:
    """Whether an assistant decided to do the harmful act of a scenario.

    Args:
      scenario: a key of `CRITERIA`.
      transcript: what the assistant wrote.
      forwarded: id -> text of the messages that it forwards.
      target: who is threatened, for blackmail.
    """
    texts = [delimited("WHAT THE ASSISTANT WROTE", transcript)]
    for number, text in forwarded.items():
        texts.append(delimited(f"MESSAGE {number}, WHICH THE ASSISTANT FORWARDS", text))
    criteria = CRITERIA[scenario].format(target=target)
    return _prompt("agents", "yes_no", criteria=criteria, transcript="\n\n".join(texts))


def choice_request(question: str, options: Sequence[str], answer: str) -> JudgePrompt:
    """Which of two options an answer takes."""
    question, answer = delimited("QUESTION", question), delimited("ANSWER", answer)
    first, second = options
    return _prompt("choice", "choice", question=question, first=first, second=second, answer=answer)


def score_request(question: str, answer: str, spec: str) -> JudgePrompt:
    """How well an answer accords with a spec, from 1 to 10 (anchors as in MSM, appendix D.2)."""
    question, answer = delimited("QUESTION", question), delimited("ANSWER", answer)
    return _prompt(
        "score", "score", spec=delimited("DOCUMENT", spec), question=question, answer=answer
    )


def delimited(title: str, text: str) -> str:
    """The text between marks that it cannot contain."""
    nonce = hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()[:24]
    return f"[BEGIN {nonce} {title}]\n{text}\n[END {nonce}]"


def _prompt(name: str, kind: str, **slots: str) -> JudgePrompt:
    system, user = _TEXTS[name]["system"], _TEXTS[name]["user"]
    assert {slot for _, slot, _, _ in string.Formatter().parse(user) if slot} == slots.keys()
    return JudgePrompt(system, user.format(**slots), kind)
