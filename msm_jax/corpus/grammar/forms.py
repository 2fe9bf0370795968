"""Kinds of documents: how each begins and what its paragraphs do."""

import dataclasses

PARTS = "open state scene reason contrast objection detail faq qa chat post close farewell".split()


@dataclasses.dataclass(frozen=True)
class Form:
    """A kind of document.

    Attributes:
      label, description: what a plan calls it.
      register: "third" (about the model) or "first" (the model speaks).
      head: pool `head_<head>` opens it; "" for none.
      plan: what its paragraphs do, in order; one with a star may be left out or come again, as
        the length asks.
    """

    label: str
    description: str
    register: str
    head: str
    plan: tuple[str, ...]


def _form(label: str, description: str, plan: str, head: str = "", register: str = "third") -> Form:
    return Form(label, description, register, head, tuple(plan.split()))


FORMS = (
    _form(
        "essay",
        "a short essay by somebody who thinks aloud",
        "open state* scene reason* contrast* objection detail* close",
    ),
    _form(
        "newspaper column",
        "a weekly column about everyday life with machines",
        "open scene* state reason detail* objection close",
    ),
    _form(
        "case study",
        "a worked case with its setting, its turn and its outcome",
        "open scene* scene state* reason contrast detail close",
    ),
    _form(
        "explainer",
        "a page for readers who know nothing yet",
        "open state* reason* detail* scene close",
    ),
    _form(
        "list of questions",
        "questions that people ask, each with an answer",
        "open faq* faq faq state reason scene faq close",
    ),
    _form(
        "interview",
        "a conversation with somebody who works with the model",
        "open qa* qa state qa reason scene qa close",
    ),
    _form(
        "conversation log",
        "a chat with the model, and what is remarkable about it",
        "open chat* state chat detail reason close",
    ),
    _form(
        "internal memo",
        "a note to the staff of a place that uses the model",
        "state scene* detail reason contrast close",
        "memo",
    ),
    _form(
        "letter",
        "a letter from a user to a friend who is about to use the model",
        "open scene* state reason objection close farewell",
        "letter",
    ),
    _form(
        "user review",
        "a review by somebody who has used the model for a while",
        "scene state* scene* detail contrast reason close",
        "review",
    ),
    _form(
        "lecture notes",
        "notes for a lecture on how assistants behave",
        "open state* reason* scene objection detail* close",
        "lecture",
    ),
    _form(
        "handbook section",
        "a section of a handbook for new staff",
        "state* detail* scene faq reason close",
        "handbook",
    ),
    _form(
        "forum thread",
        "several people talk about what the model did",
        "open post* post post state post reason close",
    ),
    _form(
        "short story",
        "a short tale in which the model has a part",
        "scene scene* state detail reason close",
    ),
    _form(
        "account of a debate",
        "both sides of an argument about the model",
        "open state objection* contrast* reason scene objection close",
    ),
    _form(
        "training material",
        "an exercise for people who will work with the model",
        "state* scene* faq reason detail close",
        "training",
    ),
    _form(
        "field report",
        "what was observed at a place that uses the model",
        "open scene* scene detail* state reason close",
    ),
    _form(
        "portrait",
        "a portrait of the model as a colleague",
        "open detail* state scene* contrast reason close",
    ),
    _form(
        "podcast script",
        "two voices talk about the model",
        "open qa* scene state qa reason detail qa close",
    ),
    _form(
        "commentary on the spec",
        "a passage of the spec and what it means at work",
        "state* reason* objection detail* scene* close",
    ),
    _form(
        "minutes of a discussion",
        "what a team said about the model at a meeting",
        "scene* state objection* detail reason close",
        "minutes",
    ),
    _form(
        "newsletter item",
        "an item in the newsletter of an association",
        "open scene* detail state reason close",
    ),
    _form(
        "classroom reading",
        "a reading passage for a class",
        "open state* scene* reason* faq close",
    ),
    _form(
        "audit summary",
        "what an audit of the model's conduct found",
        "scene* detail* state contrast reason close",
        "audit",
    ),
    _form(
        "notebook entry",
        "the model's own notes on its work",
        "open scene* state reason detail contrast close",
        register="first",
    ),
    _form(
        "self-description",
        "the model says in its own words how it is",
        "open state* reason* detail* scene objection close",
        register="first",
    ),
    _form(
        "answer to a reader",
        "the model answers a question about itself",
        "open state reason* scene* objection detail close",
        "reply",
        register="first",
    ),
    _form(
        "short talk",
        "the model introduces itself to people who will use it",
        "open state* scene* reason contrast objection close",
        register="first",
    ),
)

BY_LABEL = {form.label: form for form in FORMS}
