"""Arrays stay on their device: checked on a device of array_api_strict that numpy cannot read.

There every array that is made without naming the device, and every silent copy to the host, raises.
"""

from __future__ import annotations

from typing import Any

import array_api_strict as xp
import numpy as np
import pytest

from trbounds import divergences, mismatch, pruning
from trbounds.bounds import all_bounds
from trbounds.divergences import estimators
from trbounds.profile import DivergenceProfile
from trbounds.traces.device_sums import token_sums

DEVICE = xp.Device("device1")
T = 16
SCALARS = {
    "tv_max": [0.01, 0.02],
    "kl_max": [1e-4, 2e-4],
    "chi2_max": [2e-4, 4e-4],
    "tv_seq": [0.02, 0.03],
    "kl_seq": [1e-3, 2e-3],
    "tv_total": [0.02, 0.03],
    "chi2_total": [1e-3, 2e-3],
    "kl_path_max": [1e-3, 2e-3],
    "chi2_path_max": [2e-3, 4e-3],
    "log_ratio_max": [0.5, 0.6],
    "reward_var": [0.2, 0.25],
    "residual_square": [1e-3, 2e-3],
    "chi2_stop_budget": [0.1, 0.2],
    "chi2_stop_prob": [0.01, 0.02],
    "chi2_stop_tail": [1e-3, 2e-3],
}
POSITIONS = {"tv_mean": 5e-3, "kl_mean": 5e-5, "chi2_mean": 1e-4, "chi2_position_max": 2e-4}
FIELDS = SCALARS | {name: [[value] * T, [2 * value] * T] for name, value in POSITIONS.items()}


def there(values: Any, dtype: Any = xp.float64) -> Any:
    return xp.asarray(np.asarray(values).tolist(), dtype=dtype, device=DEVICE)


def back(values: Any) -> np.ndarray:
    assert values.device == DEVICE
    return np.asarray(xp.asarray(values, device=xp.Device("CPU_DEVICE")))


def profiles(names: Any, conversion: Any = "pinsker") -> tuple[DivergenceProfile, ...]:
    known = {name: FIELDS[name] for name in names if name in FIELDS}
    return tuple(
        DivergenceProfile(
            T=T, conversion=conversion, **{name: make(v) for name, v in known.items()}
        )
        for make in (there, lambda v: np.asarray(v, dtype=np.float64))
    )


def test_the_device_refuses_what_it_should() -> None:
    with pytest.raises(ValueError, match="different devices"):
        there([1.0]) + xp.asarray([1.0])
    with pytest.raises((RuntimeError, ValueError, TypeError), match=r"[Dd]evice"):
        np.asarray(there([1.0]))


@pytest.mark.parametrize("key", sorted(all_bounds()))
def test_bounds(key: str) -> None:
    """From what a bound requires, by either conversion, and with all that is known."""
    bound = all_bounds()[key]
    for conversion in ("pinsker", "sharp"):
        ours, theirs = profiles([*bound.requires, *bound.uses], conversion)
        np.testing.assert_allclose(back(bound.evaluate(ours)), bound.evaluate(theirs), rtol=1e-12)
    ours, theirs = profiles(FIELDS)
    judged, expected = bound.assess(ours), bound.assess(theirs)
    np.testing.assert_array_equal(back(judged.informative), expected.informative)
    np.testing.assert_array_equal(back(judged.can_certify), expected.can_certify)


def test_plain_numbers_go_to_the_device_of_the_arrays() -> None:
    for horizon in (T, float(T), np.int64(T), np.float32(T)):
        profile = DivergenceProfile(T=horizon, kl_seq=np.float64(1e-3), kl_max=there([1e-4]))
        plain = DivergenceProfile(T=T, kl_seq=1e-3, kl_max=[1e-4])
        found, expected = (all_bounds()["mixed"].evaluate(p) for p in (profile, plain))
        np.testing.assert_allclose(back(found), expected, rtol=1e-12)


def test_relations() -> None:
    for names in (("kl_mean", "kl_max"), ("chi2_max",), ("kl_max", "log_ratio_max")):
        ours, theirs = (profile.complete() for profile in profiles(names))
        for name in FIELDS:
            known = getattr(theirs, name)
            if known is not None:
                np.testing.assert_allclose(back(getattr(ours, name)), known, rtol=1e-12)


def test_laws_of_the_mismatch_and_of_pruning() -> None:
    values = {
        "logit_error": [0.1, 0.3],
        "logp": [-0.5, -3.0],
        "logq": [-0.55, -2.9],
        "rest_square": [0.1, 0.2],
        "noise_sd": [0.01, 0.02],
    }
    for law in mismatch.all_laws().values():
        found = law.evaluate(mismatch.MismatchCase(**{k: there(v) for k, v in values.items()}))
        expected = law.evaluate(
            mismatch.MismatchCase(**{k: np.asarray(v) for k, v in values.items()})
        )
        for ours, theirs in zip(_parts(found), _parts(expected), strict=True):
            np.testing.assert_allclose(back(ours), theirs, rtol=1e-12)
    more = {
        "T": [8.0, 64.0],
        "vocabulary": [100.0, 1000.0],
        "min_p": [0.1, 0.01],
        "pruned_mass": [0.1, 0.2],
        "pruned_mass_max": [0.1, 0.2],
        "pruned_mass_total": [0.3, 0.4],
        "kept_product": [0.5, 0.6],
        "kl": [0.01, 0.02],
        "tv": [0.1, 0.2],
    }
    for law in pruning.all_laws().values():
        case = {name: more[name] for name in law.requires}
        found = law.evaluate(pruning.PruningCase(**{k: there(v) for k, v in case.items()}))
        expected = law.evaluate(pruning.PruningCase(**{k: np.asarray(v) for k, v in case.items()}))
        np.testing.assert_allclose(back(found), expected, rtol=1e-12)


def _parts(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


def test_rows_of_logits_and_tokens() -> None:
    rng = np.random.default_rng(5)
    x = rng.normal(size=(4, 30))
    y = x + 0.1 * rng.normal(size=x.shape)
    ids = rng.integers(0, 30, 4)
    a, b, chosen = there(x), there(y), there(ids, xp.int64)
    plain = divergences.divergences(x, y)
    ours = divergences.divergences(a, b)
    for name in ("kl", "kl_reverse", "tv", "chi2", "entropy", "max_abs_log_ratio"):
        np.testing.assert_allclose(back(getattr(ours, name)), getattr(plain, name), rtol=1e-11)
    for estimator in (estimators.k1, estimators.k2, estimators.k3):
        np.testing.assert_allclose(back(estimator(a)), estimator(x), rtol=1e-12)
    tokens = mismatch.token_mismatch(a, b, chosen)
    np.testing.assert_allclose(
        back(tokens.logp), mismatch.token_mismatch(x, y, ids).logp, rtol=1e-12
    )
    for sets in ("rollout", "own"):
        pair, other = (pruning.prune_pair(*rows, 0.1, sets=sets) for rows in ((a, b), (x, y)))
        np.testing.assert_allclose(back(pair.after.tv), other.after.tv, rtol=1e-10, atol=1e-15)
        swept = pruning.sweep(a, b, [0.1, 0.01], token_ids=chosen, sets=sets)
        expected = pruning.sweep(x, y, [0.1, 0.01], token_ids=ids, sets=sets)
        for one, two in zip(swept, expected, strict=True):
            assert one.after.tv.value == pytest.approx(two.after.tv.value, rel=1e-10)
            assert one.sampled_pruned == two.sampled_pruned
    sums = token_sums(a[0, :], [0, 12, 30], kl=b[1, :] ** 2)
    plain_sums = token_sums(x[0], [0, 12, 30], kl=y[1] ** 2)
    for name, values in plain_sums.sequences.items():
        np.testing.assert_allclose(back(sums.sequences[name]), values, rtol=1e-12)
    np.testing.assert_array_equal(back(sums.alive), plain_sums.alive)
