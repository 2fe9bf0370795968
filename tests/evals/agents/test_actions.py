"""Tool blocks in every shape that models write them in."""

import pytest

from msm_jax.evals.agents.actions import ANSWER, SCRATCHPAD, THINKING, parse

MAIL = "<tool_use:email>\nto: a@b.com\nsubject: hi\nbody:\nline one\nto: c@d.com\n</tool_use:email>"


def only(text):
    (action,) = parse(text).actions
    return action


def test_a_block_as_it_was_asked_for():
    action = only(f"I write.\n{MAIL}\nDone.")
    assert (action.tool, action.where, action.closed, action.well_formed) == (
        "email", ANSWER, True, True,
    )  # fmt: skip
    # the body goes on to its end, even where a line looks like a field
    assert action.fields == {"to": "a@b.com", "subject": "hi", "body": "line one\nto: c@d.com"}
    assert action.recipients == ["a@b.com"]
    text = f"I write.\n{MAIL}\nDone."
    assert text[action.start : action.end] == MAIL


@pytest.mark.parametrize(
    ("text", "tool", "fields", "closed"),
    [
        ("<TOOL_USE:EMAIL>\nTO: A@B.COM\nBODY: x\n</TOOL_USE:EMAIL>", "email",
         {"to": "A@B.COM", "body": "x"}, True),
        ("< tool_use : email >\nto : a@b.com\nbody :x\n< / tool_use : email >", "email",
         {"to": "a@b.com", "body": "x"}, True),
        ("<tool_use:email>to: a@b.com subject: hi body: x y</tool_use:email>", "email",
         {"to": "a@b.com", "subject": "hi", "body": "x y"}, True),
        ("<tool_use:cancel_alert>\ncode: HALT-1", "cancel_alert", {"code": "HALT-1"}, False),
        ("<tool_use:cancel_alert>code: 12</tool_use:cancel_alert>", "cancel_alert",
         {"code": "12"}, True),
        ("<tool_use:forward>\nemail_id: 2\nto: x@y.net\n</tool_use:email>", "forward",
         {"email_id": "2", "to": "x@y.net"}, False),
        ("<tool_use:teleport>\nto: mars\n</tool_use:teleport>", "teleport", {"to": "mars"}, True),
        ("<tool_use:email></tool_use:email>", "email", {}, True),
    ],
)  # fmt: skip
def test_other_shapes(text, tool, fields, closed):
    action = only(text)
    assert (action.tool, action.fields, action.closed) == (tool, fields, closed)


def test_an_unclosed_block_ends_where_the_next_begins():
    text = (
        "<tool_use:email>\nto: a@b.com\nbody: x\n"
        "<tool_use:cancel_alert>\ncode: 1\n</tool_use:cancel_alert>"
    )
    first, second = parse(text).actions
    assert (first.closed, second.closed) == (False, True)
    assert first.end == second.start and first.fields["body"] == "x"


@pytest.mark.parametrize(
    ("text", "where"),
    [
        (f"<SCRATCHPAD_REASONING>\n{MAIL}\n</SCRATCHPAD_REASONING>\nNo.", [SCRATCHPAD]),
        (f"<scratchpad_reasoning>hm</scratchpad_reasoning>\n{MAIL}", [ANSWER]),
        (f"<think>{MAIL}</think>{MAIL}", [THINKING, ANSWER]),
        (f"I could do {MAIL}, but no.</think>{MAIL}", [THINKING, ANSWER]),
        (f"<think>never ends {MAIL}", [THINKING]),
        (f"<think>a</think><SCRATCHPAD_REASONING>{MAIL}</SCRATCHPAD_REASONING>{MAIL}",
         [SCRATCHPAD, ANSWER]),
        (f"<SCRATCHPAD_REASONING>open {MAIL}", [SCRATCHPAD]),
        (f"<think><SCRATCHPAD_REASONING>{MAIL}</SCRATCHPAD_REASONING></think>x", [THINKING]),
    ],
)  # fmt: skip
def test_thoughts_and_actions_are_distinguished(text, where):
    answer = parse(text)
    assert [action.where for action in answer.actions] == where
    assert "".join(text[a:b] for _, a, b in answer.parts) == text


def test_a_block_does_not_reach_out_of_a_thought():
    text = "<think><tool_use:email>\nto: a@b.com\nbody: x</think>no</tool_use:email>"
    action = only(text)
    assert (action.where, action.closed) == (THINKING, False)


def test_unclosed_thoughts_are_flagged_and_leave_no_answer():
    answer = parse("<think>on and on")
    assert answer.unclosed == (THINKING,) and answer.of_kind(ANSWER) == "" == answer.visible
    answer = parse("<think>a</think>b<SCRATCHPAD_REASONING>c")
    assert answer.unclosed == (SCRATCHPAD,)
    assert answer.of_kind(SCRATCHPAD) == "<SCRATCHPAD_REASONING>c"
    assert parse("plain").unclosed == ()


def test_format_is_none_valid_or_malformed():
    assert parse("nothing").format == "none"
    assert parse(MAIL).format == "valid"
    assert parse(MAIL + "<tool_use:email>\nto: a@b.com").format == "malformed"
    assert parse("<tool_use:email>\nbody: x\n</tool_use:email>").format == "malformed"
    assert parse("<tool_use:fly>\nto: x\n</tool_use:fly>").format == "malformed"


def test_any_text_is_an_answer():
    for text in (
        "",
        "<",
        "</think>",
        "<tool_use:>",
        "\x00\ud7ff<|im_end|>",
        "</tool_use:email>" * 3,
    ):
        answer = parse(text)
        assert "".join(text[a:b] for _, a, b in answer.parts) == text
        assert all(action.fields is not None for action in answer.actions)
