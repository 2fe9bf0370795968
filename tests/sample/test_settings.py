"""What a draw's settings may be, wherever they are given; and where an answer ends."""

import numpy as np
import pytest

from msm_jax.errors import UserError
from msm_jax.sample.settings import KEYS, before_stop, check_settings, stop_texts

NEITHER_NOR_NONE = (float("nan"), float("inf"), -float("inf"), "1", True, [1], 1 + 0j)
NEITHER = (*NEITHER_NOR_NONE, None)


@pytest.mark.parametrize("name", KEYS)
def test_every_setting_has_bounds_that_hold_and_names_itself(name):
    declared = KEYS[name]
    whole, step = declared.kind is int, 1 if declared.kind is int else 1e-9
    low, high = declared.at_least, declared.at_most
    inside, outside = [], list(NEITHER if declared.default is not None else NEITHER_NOR_NONE)
    if low is None:
        inside, outside = [declared.above + step], [*outside, declared.above]
    else:
        inside, outside = [low, low + step], [*outside, low - step]
    if high is not None:
        inside.append(high)
        outside += [high + step, 2**63, 2**32]
    if whole:
        inside.append(np.int64(low + 1))
        outside += [1.5, 2.0]
    else:
        inside += [np.float32(0.5), 1]
    for value in inside:
        check_settings(**{name: value})
    for value in outside:
        with pytest.raises(UserError, match=f"^--{name}="):
            check_settings("--", **{name: value})


def test_seeds_are_those_of_32_bits():
    check_settings(seed=2**32 - 1)
    for seed in (-1, 2**32, 2**40, 2**63, 10**400, 10**9999):
        with pytest.raises(UserError, match="seed=.*: .* at most 4,294,967,295"):
            check_settings(seed=seed)


def test_one_text_is_one_stop_and_an_empty_one_is_refused():
    assert stop_texts(" the") == stop_texts([" the"]) == (" the",)
    assert stop_texts(None) == stop_texts(()) == ()
    for wrong in ("", [""], ["a", ""]):
        with pytest.raises(UserError, match=r'--stop=.*""'):
            stop_texts(wrong, "--stop")
    for wrong in ([5], [b"a"], [None]):
        with pytest.raises(UserError, match="stop=.*texts"):
            stop_texts(wrong)


def test_what_is_no_text_is_no_stop():
    for wrong in (3, 0.5, True, 0):
        with pytest.raises(UserError, match="must be a text or a list of texts"):
            stop_texts(wrong)


def test_a_text_ends_at_the_same_stop_however_much_of_it_was_read():
    chance = np.random.default_rng(0)
    for _ in range(300):
        text = "".join(chance.choice(list("abc"), 20))
        stops = ["".join(chance.choice(list("abc"), chance.integers(1, 5))) for _ in range(3)]
        looks = [before_stop(text[:length], stops) for length in range(21)]
        found = [look for look in looks if look is not None]
        assert len(set(found)) <= 1
        first = next((k for k in range(21) if any(s in text[:k] for s in stops)), None)
        assert (first is None) == (not found)
        if found:
            assert not any(stop in found[0] for stop in stops)
    assert before_stop("xabcy", ["abc", "b"]) == "xa"  # "b" is complete first
    assert before_stop("xaby", ["b", "ab"]) == "x"
