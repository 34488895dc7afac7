"""Mismatch from rows of full logits, against mpmath."""

from __future__ import annotations

import math
from types import ModuleType

import mpmath as mp
import numpy as np
import pytest

from trbounds.errors import InputError
from trbounds.mismatch import summarize_rows, token_mismatch


def test_against_mpmath_with_peaked_rows() -> None:
    rng = np.random.default_rng(2)
    x = rng.normal(size=(6, 9))
    x[2:4, 5] += 60.0
    y = x + 1e-3 * rng.normal(size=x.shape)
    ids = np.array([0, 8, 5, 1, 2, 3])
    found = token_mismatch(y, x, ids)
    with mp.workdps(60):
        for i, k in enumerate(ids):
            a = [mp.exp(mp.mpf(float(v))) for v in x[i]]
            b = [mp.exp(mp.mpf(float(v))) for v in y[i]]
            p, q = [v / mp.fsum(a) for v in a], [v / mp.fsum(b) for v in b]
            e = [mp.mpf(float(s)) - mp.mpf(float(r)) for r, s in zip(x[i], y[i], strict=True)]
            mean = mp.fsum(u * v for u, v in zip(p, e, strict=True))
            others = [v for j, v in enumerate(p) if j != k]
            expected = {
                "logp": mp.log(p[k]),
                "log1mp": mp.log(mp.fsum(others)),
                "logq": mp.log(q[k]),
                "log1mq": mp.log(1 - q[k]),
                "rest_square": mp.fsum(v * v for v in others),
                "logit_error": (max(e) - min(e)) / 2,
                "error_variance": mp.fsum(u * (v - mean) ** 2 for u, v in zip(p, e, strict=True)),
                "spread": 1 - mp.fsum(v * v for v in p),
            }
            for name, value in expected.items():
                assert getattr(found, name)[i] == pytest.approx(float(value), rel=2e-12), name


def test_rows_of_one_token_say_nothing_of_the_noise() -> None:
    tokens = token_mismatch([[1.0], [2.0]], [[1.0], [3.0]], [0, 0])
    assert math.isnan(tokens.noise_variance)
    assert tokens.logit_error.tolist() == [0.0, 0.0]


def test_namespaces_agree(xp: ModuleType) -> None:
    rng = np.random.default_rng(3)
    x, y, ids = rng.normal(size=(4, 7)), rng.normal(size=(4, 7)), np.array([0, 6, 3, 3])
    plain = token_mismatch(y, x, ids)
    other = token_mismatch(xp.asarray(y), xp.asarray(x), xp.asarray(ids))
    for name in ("logp", "log1mq", "rest_square", "logit_error", "spread"):
        value = getattr(other, name)
        assert type(value) is type(xp.asarray(x))
        np.testing.assert_allclose([float(v) for v in value], getattr(plain, name), rtol=1e-13)


def test_excluded_tokens() -> None:
    x = np.array([[0.0, -np.inf, 1.0], [0.0, 2.0, 1.0]])
    y = np.array([[0.1, -np.inf, 1.0], [0.0, -np.inf, 1.0]])
    found = token_mismatch(y, x, np.array([0, 0]))
    assert found.logit_error[0] == pytest.approx(0.05)
    assert found.logit_error[1] == np.inf
    np.testing.assert_array_equal(
        token_mismatch(x, y, np.array([0, 0])).logit_error, found.logit_error
    )
    with pytest.raises(InputError, match=r"record 1, field 'rollout_logits': .* probability 0"):
        token_mismatch(y, x, np.array([0, 1]))


def test_rows_of_one_sequence_stay_together() -> None:
    rng = np.random.default_rng(5)
    x = rng.normal(size=(8, 5))
    y = x + 0.1 * rng.normal(size=x.shape)
    sequence = np.array([3, 1, 3, 1, 7, 7, 7, 1])
    summary = summarize_rows(y, x, np.zeros(8, dtype=int), sequence=sequence)
    assert (summary.n_sequences, summary.n_tokens) == (3, 8)
    with pytest.raises(InputError, match="sequence"):
        summarize_rows(y, x, np.zeros(8, dtype=int), sequence=sequence[:3])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rollout_logits": np.zeros((2, 4))}, "field 'train_logits': found shape"),
        ({"token_ids": np.array([0, 3])}, "record 1, field 'token_ids': found 3, expected 0 to 2"),
        ({"token_ids": np.array([0, -1])}, "found -1"),
        ({"token_ids": np.array([0.0, 1.0])}, "whole numbers"),
        ({"train_logits": np.array([[0, 1, np.nan], [0, 1, 2]])}, "record 0, .*NaN"),
    ],
)
def test_bad_input(change: dict[str, np.ndarray], message: str) -> None:
    good = {
        "rollout_logits": np.zeros((2, 3)),
        "train_logits": np.zeros((2, 3)),
        "token_ids": np.array([0, 1]),
    }
    with pytest.raises(InputError, match=message):
        token_mismatch(**(good | change))
