from __future__ import annotations

from dataclasses import FrozenInstanceError
from fractions import Fraction

import numpy as np
import pytest

from trbounds.errors import InputError
from trbounds.oracle import TabularPair, random_pair, random_rational_pair

FAIR = np.array([[[0.5, 0.5]]])
FAIR2 = np.array([[[0.5, 0.5], [0.5, 0.5]]])


def build(**changes):
    arguments = {
        "rollout": (FAIR, FAIR2),
        "train": (FAIR, FAIR2),
        "reward": np.zeros((1, 4)),
    } | changes
    return TabularPair(**arguments)


def test_sizes():
    pair = random_pair(np.random.default_rng(0), 3, 4, prompts=2)
    assert (pair.T, pair.A, pair.prompts, pair.rational) == (3, 4, 2, False)


@pytest.mark.parametrize(
    ("changes", "field", "message"),
    [
        ({"rollout": ()}, "rollout", "no positions"),
        ({"train": (FAIR,)}, "train", "has 1 positions; rollout has 2"),
        ({"rollout": (FAIR[0], FAIR2)}, "rollout[0]", "shape"),
        ({"rollout": (FAIR, FAIR)}, "rollout[1]", r"expected \(1, 2, 2\)"),
        ({"train": (FAIR, FAIR2[..., :1])}, "train[1]", "shape"),
        ({"train": (FAIR * 0.9, FAIR2)}, "train[0]", "sums to 0.9"),
        ({"train": (FAIR, FAIR2 + np.array([0, 1e-9]))}, "train[1]", "expected 1"),
        ({"rollout": (np.array([[[1.5, -0.5]]]), FAIR2)}, "rollout[0]", "-0.5"),
        ({"rollout": (np.array([[[np.nan, 0.5]]]), FAIR2)}, "rollout[0]", "NaN"),
        ({"reward": np.zeros((1, 3))}, "reward", "shape"),
        ({"reward": np.array([[0, 0, 1.5, 0]])}, "reward", "1.5 for prompt 0, response 2"),
        ({"reward": np.array([[0, 0, np.inf, 0]])}, "reward", "NaN or infinity"),
        ({"prompt_probability": np.array([0.5])}, "prompt_probability", "sums to 0.5"),
        ({"prompt_probability": np.array([0.5, 0.5])}, "prompt_probability", "shape"),
        ({"reward_range": (1, 0)}, "reward_range", "low < high"),
        ({"eos": 2}, "eos", "from 0 to 1"),
        ({"eos": -1}, "eos", "from 0 to 1"),
    ],
)
def test_bad_input_is_named(changes, field, message):
    with pytest.raises(InputError, match=message) as caught:
        build(**changes)
    assert caught.value.field == field


def test_too_many_responses_are_refused_before_they_are_made():
    tables = [np.broadcast_to([0.5, 0.5], (1, 2**t, 2)) for t in range(23)]
    with pytest.raises(InputError, match="at most"):
        TabularPair(tuple(tables), tuple(tables), np.zeros((1, 1)))


def test_fractions_must_be_exact():
    third = np.array([[[Fraction(1, 3), Fraction(2, 3)]]])
    zero = np.zeros((1, 2))
    assert TabularPair((third,), (third,), zero).rational
    with pytest.raises(InputError, match=r"holds 0\.5") as caught:
        TabularPair((third,), (FAIR,), zero)
    assert caught.value.field == "train[0]"
    short = np.array([[[Fraction(1, 3), Fraction(1, 3)]]])
    with pytest.raises(InputError, match="sums to 2/3"):
        TabularPair((third,), (short,), zero)


def test_frozen_and_copied():
    table = FAIR.copy()
    pair = build(rollout=(table, FAIR2))
    table[...] = 0.0
    assert pair.rollout[0].sum() == 1.0
    with pytest.raises(ValueError, match="read-only"):
        pair.rollout[0][0, 0, 0] = 1.0
    with pytest.raises(FrozenInstanceError):
        pair.eos = 1


def test_finished_prefixes_repeat_eos():
    pair = random_pair(np.random.default_rng(1), 3, 3, eos=True)
    for policy in (pair.rollout, pair.train):
        for prefix in (2, 5, 6, 7, 8):  # as two ternary digits: 02, 12, 20, 21, 22
            assert list(policy[2][0, prefix]) == [0, 0, 1]
        for prefix in (0, 1, 3, 4):
            assert policy[2][0, prefix, 2] < 1
    assert list(pair.lengths()[:9]) == [3] * 6 + [2] * 3
    assert list(pair.lengths()[18:]) == [1] * 9


def test_conversions():
    pair = random_pair(np.random.default_rng(2), 2, 3, prompts=2)
    rational = pair.to_rational()
    assert rational.rational
    assert all((table.sum(axis=-1) == 1).all() for table in rational.rollout)
    assert rational.reward[0, 0] == Fraction(pair.reward[0, 0])
    assert rational.to_rational() is rational
    assert pair.to_float() is pair
    back = rational.to_float()
    for before, after in zip(pair.train, back.train, strict=True):
        assert np.allclose(before, after, rtol=1e-15, atol=0)
    assert np.array_equal(back.reward, pair.reward)


def test_with_reward_keeps_the_rest():
    pair = random_rational_pair(np.random.default_rng(3), 2, 2, prompts=2, eos=True)
    other = pair.with_reward(np.ones((2, 4)))
    assert other.reward[1, 3] == Fraction(1)
    assert other.eos == 1
    assert np.array_equal(other.rollout[1], pair.rollout[1])
