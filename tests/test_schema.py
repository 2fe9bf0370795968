"""What a file must hold: one message that says where it does not."""

import json

import pytest

from msm_jax.errors import UserError
from msm_jax.schema import check, mismatch

FORM = {
    "name": str,
    "loss?": (float, None),
    "path": [str],
    "pair": [float, float],
    "counts": {str: int},
    "row": ({"kind": "a", "x": int}, {"kind": "b", "y": [bool]}),
    "any": object,
}
GOOD = {
    "name": "", "path": [], "pair": [1, -0.5], "counts": {"a": 1}, "any": [{}],
    "row": {"kind": "b", "y": [True]}, "more": 3,
}  # fmt: skip


def test_what_fits_is_returned():
    assert check(GOOD, FORM, "file") is GOOD
    assert check({**GOOD, "loss": None}, FORM, "file") and check({**GOOD, "loss": 2}, FORM, "file")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"name": 3}, "name must be a text, not 3"),
        ({"loss": "low"}, "loss must be a number or null, not 'low'"),
        ({"loss": float("nan")}, "loss must be a number or null, not nan"),
        ({"loss": 10**400}, "loss must be a number or null, not 1000"),
        ({"loss": True}, "loss must be a number or null, not True"),
        ({"path": "ab"}, "path must be a list, not 'ab'"),
        ({"path": ["a", None]}, r"path\[1\] must be a text, not None"),
        ({"pair": [1]}, "pair must have 2 entries, not 1"),
        ({"counts": {"a": 1.5}}, "counts.a must be a whole number, not 1.5"),
        ({"counts": {"a": 2**70}}, "counts.a must be a whole number"),
        ({"counts": []}, r"counts must be an object, not \[\]"),
        ({"row": {"kind": "a", "x": "x"}}, "row.x must be a whole number, not 'x'"),
        ({"row": {"kind": "b"}}, "row.y is missing"),
        ({"row": {"kind": "c"}}, "row.kind must be 'a' or 'b', not 'c'"),
        ({"row": {}}, "row.kind is missing"),
    ],
)
def test_the_first_problem_is_named_with_its_path(change, says):
    with pytest.raises(UserError, match=f"^file: {says}"):
        check({**GOOD, **change}, FORM, "file")


def test_a_message_is_short_whatever_the_value_is():
    deep = json.loads("[" * 500 + "]" * 500)
    for value in (deep, {"x" * 10_000: deep}, "x" * 10_000, [[0] * 1000] * 1000):
        assert 0 < len(mismatch({**GOOD, "loss": value}, FORM)) < 300
    assert mismatch({k: v for k, v in GOOD.items() if k != "name"}, FORM) == "name is missing"
    assert mismatch([], FORM) == "it must be an object, not []"
