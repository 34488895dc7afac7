"""From a logit error to bounds on Error, and back."""

from __future__ import annotations

import math

import numpy as np
import pytest

from trbounds.bounds import all_bounds, get_bound
from trbounds.errors import InputError
from trbounds.mismatch import largest_logit_error, profile_from_logit_error
from trbounds.oracle import TabularPair, exact


def test_profile_holds_the_caps_and_where_they_come_from() -> None:
    profile = profile_from_logit_error(0.3, 64)
    assert profile.tv_max == pytest.approx(math.tanh(0.15), rel=1e-15)
    assert profile.kl_max == pytest.approx(0.045, rel=1e-15)
    assert profile.chi2_max == pytest.approx(math.sinh(0.3) ** 2, rel=1e-15)
    assert profile.log_ratio_max == pytest.approx(0.6, rel=1e-15)
    marks = profile.provenance.values()
    assert {mark.kind for mark in marks} == {"derived"}
    assert all("logit error" in mark.by for mark in marks)
    assert not any(mark.plug_in for mark in marks)


def test_a_measured_logit_error_certifies_nothing() -> None:
    profile = profile_from_logit_error(0.01, 16, positions=True, plug_in=True)
    for key in ("mixed", "adaptive"):
        assert get_bound(key).assess(profile).plug_in
    assert not get_bound("mixed").assess(profile_from_logit_error(0.01, 16)).plug_in


def test_every_bound_that_a_logit_error_gives_holds_for_real_perturbations() -> None:
    """Tabular pairs whose logits differ by at most a, enumerated exactly."""
    rng = np.random.default_rng(9)
    checked = set()
    for a in (0.05, 0.5):
        for _ in range(6):
            pair = perturbed_pair(rng, T=3, tokens=3, logit_error=a)
            truth = exact(pair)
            profile = profile_from_logit_error(a, 3, positions=True).complete()
            for key, bound in all_bounds().items():
                if not bound.missing(profile):
                    assert truth.sup_error <= bound.evaluate(profile) * (1 + 1e-9)
                    checked.add(key)
    assert len(checked) > 15


def perturbed_pair(
    rng: np.random.Generator, *, T: int, tokens: int, logit_error: float
) -> TabularPair:
    rollout, train = [], []
    for t in range(T):
        z = rng.normal(size=(1, tokens**t, tokens)) * 2
        e = logit_error * rng.choice([-1.0, 1.0], size=z.shape)
        for logits, policy in ((z, rollout), (z + e, train)):
            weights = np.exp(logits)
            policy.append(weights / weights.sum(axis=-1, keepdims=True))
    return TabularPair(tuple(rollout), tuple(train), rng.uniform(size=(1, tokens**T)))


def test_the_largest_logit_error_spends_the_budget() -> None:
    found = largest_logit_error(512, 0.1)
    # Also by those that need means at every position.
    assert set(found.by_bound) >= {"adaptive", "prefix_profile", "chi2_kl"}
    assert found.logit_error == max(found.by_bound.values())
    assert found.bound == max(found.by_bound, key=lambda key: found.by_bound[key])
    for key, a in found.by_bound.items():
        bound = get_bound(key)
        at, beyond = (
            bound.evaluate(profile_from_logit_error(a * f, 512, positions=True))
            for f in (1.0, 1 + 3e-10)
        )
        assert at == pytest.approx(0.1, rel=1e-8)
        assert beyond > 0.1


def test_closed_form_inverse() -> None:
    # 2 T sqrt(delta D) with D = T delta is 2 T^1.5 a^2/2 while no cap binds.
    found = largest_logit_error(100, 0.01, "mixed")
    assert found.by_bound == {"mixed": found.logit_error}
    assert found.logit_error == pytest.approx(math.sqrt(0.01 / 100**1.5), rel=1e-10)


def test_known_fields_are_used() -> None:
    loose = largest_logit_error(100, 0.01, "chi2_second_order").logit_error
    tight = largest_logit_error(100, 0.01, "chi2_second_order", reward_var=0.01).logit_error
    assert tight > 2 * loose


def test_a_budget_never_left_gives_infinity() -> None:
    assert largest_logit_error(2, 9.0, "linear").logit_error == math.inf


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: profile_from_logit_error(351.0, 4), "found 351, expected at most 350"),
        (lambda: profile_from_logit_error(1e-61, 4), "found 1e-61, expected 0 or at least 1e-60"),
        (lambda: profile_from_logit_error(-0.1, 4), "at least 0"),
        (lambda: profile_from_logit_error(0.1, 0), "field 'T'"),
        (lambda: largest_logit_error(8, 0.0), "field 'budget'"),
        (lambda: largest_logit_error(8, 0.1, "none_such"), "no bound"),
        (lambda: largest_logit_error(8, 0.1, "l2"), "needs residual_square"),
    ],
)
def test_bad_input(call, message) -> None:
    with pytest.raises(InputError, match=message):
        call()
