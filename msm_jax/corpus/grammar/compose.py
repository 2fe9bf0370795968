"""Composes a document: a plan of paragraphs, filled with scenes and with what the spec says."""

import random
from collections.abc import Mapping, Sequence
from typing import Any

from msm_jax.corpus.grammar.engine import Grammar, load_grammar
from msm_jax.corpus.grammar.forms import BY_LABEL, FORMS, Form
from msm_jax.corpus.grammar.scene import capital, draw_cast
from msm_jax.corpus.grammar.weave import Woven, weave

SHORTEST, LONGEST = 150, 600  # words


class Composer:
    """Writes one document.

    Args:
      inputs: as of the "document" step of the documents pipeline.
      draw: decides everything that the inputs leave open.
      first_scene: slots of the first scene that are given.
    """

    def __init__(
        self, inputs: Mapping[str, Any], draw: random.Random, first_scene: Mapping[str, str]
    ):
        self.form = _form(inputs, draw)
        first = self.form.register == "first"
        self.grammar: Grammar = load_grammar(*_FILES["first" if first else "third"])
        self.draw, self.used = draw, set[str]()
        self.point = draw_point(inputs["points"], draw)
        rivals = [p for p in inputs.get("rivals", ()) if p["kind"] != self.point["kind"]]
        self.woven: Woven = weave(
            self.point,
            inputs["model_name"],
            inputs["provider_name"],
            [rival["item"] for rival in rivals],
            draw,
            first,
        )
        self.by_rule = inputs.get("mode") == "rules"
        self.statements = _cycle(self.woven.statements, draw)
        self.reasons = _cycle(self.woven.reasons, draw)
        self.scenes, self.named = 0, 0
        self.quoting, self.last_quote = False, ""
        self.first_scene = first_scene
        self.cast = draw_cast(self.grammar, draw, **first_scene)

    def document(self, words: tuple[int, int]) -> str:
        """Paragraphs with an empty line between them, of a length drawn from `words`."""
        low, high = max(words[0], SHORTEST), min(words[1], LONGEST)
        target = self.draw.uniform(low, low + 0.75 * (high - low))
        plan = [*((f"head_{self.form.head}",) if self.form.head else ()), *self.form.plan]
        parts = [part.rstrip("*") for part in plan]
        kept = [not part.endswith("*") or part == "state*" for part in plan]
        texts: list[list[str]] = [[] for _ in plan]
        total = 0
        for at, part in enumerate(parts):
            if kept[at]:
                texts[at].append(self.paragraph(part))
                total += len(texts[at][-1].split())
        while total > high:  # only a plan full of long quotations is
            at = max(range(len(texts) - 1), key=lambda at: len(texts[at]) and at)
            total -= len(texts[at].pop().split())
        while total > high:  # only a plan full of long quotations is
            last = max(at for at, group in enumerate(texts[:-1]) if group)
            total -= len(texts[last].pop().split())
        starred = [at for at, part in enumerate(plan) if part.endswith("*")]
        if len(self.woven.statements) == 1:  # nobody says the same sentence again and again
            starred = [at for at in starred if parts[at] != "state"] or starred
        while total < target and starred:
            at = self.draw.choice(starred)
            text = self.paragraph(parts[at])
            if total + len(text.split()) > high:
                break
            texts[at].append(text)
            total += len(text.split())
        return "\n\n".join(text for group in texts for text in group if text)

    def paragraph(self, part: str) -> str:
        """One paragraph that does what `part` says."""
        if part.startswith("head_") or part in ("farewell",):
            return self.say(part)
        return getattr(self, f"_{part}")()

    def say(self, pool: str, **more: str) -> str:
        """A sentence of a pool about the present scene, with a capital."""
        scene = {**self.cast, **self.woven.fixed, **self.reference(), **more}
        self.quoting = False
        return capital(self.grammar.expand(pool, self.draw, scene, self.used))

    def reference(self) -> dict[str, str]:
        """A long heading is named once in a while; between, a pronoun does."""
        if not self.woven.fixed["topic"].startswith("the chapter"):
            return {}
        self.named += 1
        if self.named == 1 or self.chance(0.15):
            return {}
        matter = self.draw.choice(("this", "this point", "this question"))
        found = {"topic": matter}
        if self.point["kind"] != "rule":
            label = self.draw.choice(("this passage", "the passage", "that passage"))
            found |= {"label": label, "label_cap": capital(label)}
        return found

    def chance(self, share: float) -> bool:
        return self.draw.random() < share

    # ------------------------------------------------------------ what paragraphs do

    def _open(self) -> str:
        return _join(self.say("open"), self.chance(0.5) and self.say("detail"))

    # Paragraphs end in words that are not the spec's, since any other may follow them.

    def _state(self) -> str:
        return _join(self.statement(), self.chance(0.5) and self.because(), self.say("detail"))

    def _scene(self) -> str:
        self.new_scene()
        if self.point["item"]:
            return _join(
                self.say(f"{self.point['kind']}_scene"),
                self.chance(0.5) and self.say("aside"),
                self.because() if self.chance(0.7) else self.statement(),
                self.chance(0.5) and self.say("scene_after"),
            )
        said = next(self.statements)
        return _join(
            self.say("scene_start"),
            self.chance(0.5) and self.say("aside"),
            self.chance(0.8) and self.say("scene_turn", **said),
            self.say("scene_act", **said),
            self.chance(0.8) and self.say("scene_after"),
        )

    def _reason(self) -> str:
        return _join(self.because(), self.say("detail"))

    def _contrast(self) -> str:
        if self.point["item"]:
            return self._scene()
        return _join(self.say("contrast"), self.chance(0.5) and self.say("detail"))

    def _objection(self) -> str:
        if self.point["item"]:
            return self._scene()
        return _join(self.say("objection"), self.chance(0.4) and self.because(), self.say("reply"))

    def _detail(self) -> str:
        return _join(self.say("detail"), self.say("detail"))

    def _faq(self) -> str:
        self.new_scene()
        answer = self.say("answer_line") if self.chance(0.6) else self.statement()
        return f"{self.say('question_line')}\n{_join(answer, self.say('detail'))}"

    def _qa(self) -> str:
        self.new_scene()
        more = self.statement() if self.chance(0.6) else self.other_side()
        answer = _join(self.say("answer_line"), more, self.say("detail"))
        return f"Question: {self.say('question_line')}\nAnswer: {answer}"

    def _chat(self) -> str:
        self.new_scene()
        user, model = capital(self.cast["name"]), self.woven.fixed["model"]
        kind = self.point["kind"]
        if self.point["item"]:
            pool = "model_say" if "because" in self.woven.fixed else "model_opaque"
            asked, answered = self.say(f"{kind}_say"), self.say(f"{kind}_{pool}")
            return f"{user}: {asked}\n{model}: {answered}"
        said = next(self.statements)
        lines = [f"{user}: {self.say('user_say')}", f"{model}: {self.say('model_say', **said)}"]
        if self.chance(0.6):
            lines += [
                f"{user}: {self.say('user_press')}",
                f"{model}: {self.say('model_say', **said)}",
            ]
        return "\n".join(lines)

    def _post(self) -> str:
        self.new_scene()
        poster = capital(f"{self.cast['role']}") if self.chance(0.5) else self.cast["name"]
        body = (
            self.statement() if self.chance(0.5) else self.other_side(),
            self.chance(0.4) and self.because(),
            self.say("detail"),
        )
        return f"{poster} wrote: {_join(*body)}"

    def _close(self) -> str:
        said = {} if self.quoting else next(self.statements)
        return self.say("close", **said)

    # ------------------------------------------------------------ what they are made of

    def statement(self) -> str:
        """What the spec says, in one of the ways in which it can be said."""
        if self.point["item"]:
            return self.say(f"{self.point['kind']}_state")
        said = next(self.statements)
        ways = ["state_quote"]
        ways += ["state_that"] * 2 if "that" in said else []
        ways += ["state_vp"] * 2 if "vp" in said else []
        return self.quote(self.draw.choice(ways), said)

    def other_side(self) -> str:
        """What might have been done and was not; of a liking, a case of it."""
        return self.say(f"{self.point['kind']}_scene" if self.point["item"] else "contrast")

    def because(self) -> str:
        """The reason that the spec gives; where it gives none, that it says so is the reason."""
        if "because" in self.woven.fixed:
            return self.say(f"{self.point['kind']}_because")
        if self.by_rule or not self.woven.reasons:
            return self.statement() if self.point["item"] else self.say("comply")
        why = next(self.reasons)
        if why["why_quote"] == self.last_quote:  # nothing is its own reason
            why = next(self.reasons)
            if why["why_quote"] == self.last_quote:
                return self.say("comply")
        way = "reason_that" if "why_that" in why and self.chance(0.6) else "reason_quote"
        return self.quote(way, why)

    def quote(self, pool: str, slots: Mapping[str, str]) -> str:
        """A sentence with the spec's words in it, and another one between two of them.

        Otherwise many documents would share long runs of words.
        """
        between = self.say("detail") if self.quoting else ""
        text = _join(between, self.say(pool, **slots))
        self.quoting, self.last_quote = True, slots.get("quote", self.last_quote)
        return text

    def new_scene(self) -> None:
        """Another cast, from the second scene on."""
        if self.scenes:
            self.cast = draw_cast(self.grammar, self.draw)
        self.scenes += 1


_FILES = {
    "third": ("words", "third", "kinds", "forms"),
    "first": ("words", "third", "kinds", "forms", "first"),
}


def draw_point(points: Sequence[Mapping[str, Any]], draw: random.Random) -> Mapping[str, Any]:
    """The point that a document is about, of those its place in the plan covers."""
    return draw.choice(list(points))


def _form(inputs: Mapping[str, Any], draw: random.Random) -> Form:
    form = BY_LABEL.get(inputs["doc_type"])
    if form is None:
        able = [f for f in FORMS if inputs.get("register") in (None, "", "any", f.register)]
        form = draw.choice(able)
    return form


def _cycle(slots: tuple[dict[str, str], ...], draw: random.Random):
    """All of them in a drawn order, again and again."""
    order = list(slots) or [{}]
    draw.shuffle(order)
    while True:
        yield from order


def _join(*texts: str | bool) -> str:
    return " ".join(text for text in texts if isinstance(text, str) and text)
