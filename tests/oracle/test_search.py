"""The adversarial search, its families, its files, and the instances that ship."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from trbounds.bounds import all_bounds, get_bound
from trbounds.certified.check import certify_pair
from trbounds.errors import InputError
from trbounds.oracle import (
    exact,
    random_pair,
    stopped_path_fields,
    two_valued_ratio,
    worst_reward,
)
from trbounds.oracle.families import families
from trbounds.oracle.search import search
from trbounds.oracle.tightness import (
    Tightness,
    best_known,
    error_over_bound,
    load_tightness,
    save_tightness,
)

STORED = best_known()
SMALL = {"evaluations": 400, "horizons": (2,), "vocabularies": (2,)}


# -- search ------------------------------------------------------------------------------------


def test_search_finds_what_is_attained() -> None:
    for key in ("coupling_sharp", "classical", "chi2_second_order", "l2"):
        found = search(get_bound(key), **SMALL)
        assert 0.99 < found.centred_ratio <= 1 + 1e-12
        assert not found.violates
    assert found.evaluations <= 400


def test_search_says_what_it_measured() -> None:
    for key in ("classical", "martingale", "path_sum_chi2_stopped"):
        bound = get_bound(key)
        found = search(bound, evaluations=200, seed=3)
        ratios = error_over_bound(bound, found.pair, found.stop_budget)
        assert (found.ratio, found.centred_ratio) == ratios
        assert found.centred_ratio == found.ratio * (2 if bound.halves else 1)
        assert (found.stop_budget is not None) == (key == "path_sum_chi2_stopped")
        assert exact(found.pair).absolutely_continuous


def test_rewards_between_the_extremes_come_closer_to_bounds_that_know_the_variance() -> None:
    bound = get_bound("path_sum_chi2")
    found = search(bound, evaluations=200, seed=1, horizons=[2, 3], vocabularies=[3])
    extreme = found.pair.with_reward(worst_reward(found.pair))
    assert found.ratio > 1.05 * error_over_bound(bound, extreme)[0]


def test_search_is_reproducible() -> None:
    first, second, other = (
        search(get_bound("triangle"), evaluations=150, seed=seed) for seed in (1, 1, 2)
    )
    assert first.ratio == second.ratio
    assert all(
        np.array_equal(a, b) for a, b in zip(first.pair.train, second.pair.train, strict=True)
    )
    assert first.ratio != other.ratio


def test_a_wrong_bound_is_caught_loudly() -> None:
    bound = get_bound("coupling_sharp")
    wrong = replace(bound, formula=lambda p: 0.9 * bound.formula(p))
    found = search(wrong, **SMALL)
    assert found.violates
    assert found.centred_ratio == pytest.approx(1 / 0.9, rel=1e-3)
    assert "VIOLATED" in str(found)
    assert "the bound is wrong" in str(found)
    right = search(bound, **SMALL)
    assert "VIOLATED" not in str(right)


def test_progress_counts_up_to_the_budget() -> None:
    calls: list[tuple[int, int, float]] = []
    search(
        get_bound("coupling"),
        **SMALL,
        progress=lambda done, total, best: calls.append((done, total, best)),
    )
    assert [done for done, _, _ in calls] == list(range(1, len(calls) + 1))
    assert {total for _, total, _ in calls} == {400}
    assert len(calls) <= 400
    best = [value for *_, value in calls]
    assert best == sorted(best)


def test_bad_requests_are_refused() -> None:
    bound = get_bound("linear")
    with pytest.raises(InputError, match="at least 100"):
        search(bound, evaluations=10)
    with pytest.raises(InputError, match="small enough"):
        search(bound, evaluations=100, horizons=(30,))


# -- ratios ------------------------------------------------------------------------------------


def test_ratio_of_known_instances() -> None:
    pair = two_valued_ratio(0.25, 2)
    # |Error| = step^2 / 2 and tv = step / 2 everywhere.
    assert error_over_bound(get_bound("classical"), pair) == pytest.approx((0.5, 1.0), rel=1e-14)
    assert error_over_bound(get_bound("chi2_second_order"), pair) == pytest.approx((1, 1))
    same = two_valued_ratio(0.0, 2)
    assert error_over_bound(get_bound("classical"), same) == (0.0, 0.0)
    truncated = random_pair(np.random.default_rng(1), 2, 3, kind="truncated")
    with pytest.raises(InputError, match="needs"):
        error_over_bound(get_bound("martingale"), truncated)


# -- families ----------------------------------------------------------------------------------


@pytest.mark.parametrize("family", families((1, 2, 3, 5), (2, 3)), ids=lambda f: f"{f.name}-{f.T}")
def test_families_share_rows_within_classes(family: object) -> None:
    rng = np.random.default_rng(2)
    for point in (family.sample(rng), rng.uniform(-1, 1, family.size), np.zeros(family.size)):
        assert point.shape == (family.size,)
        assert np.abs(point).max() <= 1
        pair = family.pair(point)
        assert (pair.T, pair.A) == (family.T, family.A)
        assert pair.eos == (family.A - 1 if family.eos else None)
        assert exact(pair).absolutely_continuous
        open_contexts = [
            np.full(len(c), True)
            if not family.eos
            else np.array(
                [family.A - 1 not in _digits(prefix, t, family.A) for prefix in range(len(c))]
            )
            for t, c in enumerate(family.classes)
        ]
        for policy in (pair.rollout, pair.train):
            rows: dict[int, np.ndarray] = {}
            for table, classes, is_open in zip(policy, family.classes, open_contexts, strict=True):
                for row, number in zip(table[0][is_open], classes[is_open], strict=True):
                    assert np.array_equal(rows.setdefault(int(number), row), row)
    # At 0 both policies are uniform and equal.
    assert np.array_equal(pair.rollout[0], pair.train[0])
    assert np.ptp(pair.rollout[0]) < 1e-15


def _digits(prefix: int, length: int, base: int) -> list[int]:
    return [prefix // base**i % base for i in range(length)]


def test_families_leave_out_what_is_too_large() -> None:
    assert not families((13,), (2,))
    assert not families((3,), (1,))
    assert {f.name for f in families((2,), (2,))} >= {"context", "position", "one path"}


# -- files -------------------------------------------------------------------------------------


def some_results() -> list[Tightness]:
    rng = np.random.default_rng(5)
    found = []
    for number, (key, budget) in enumerate((("classical", None), ("path_sum_chi2_stopped", 0.1))):
        pair = random_pair(rng, 3, 2, prompts=2, eos=bool(number), reward="worst")
        ratio, centred = error_over_bound(get_bound(key), pair, budget)
        found.append(Tightness(key, ratio, centred, pair, budget, "random", 1, number))
    return found


def test_files_keep_every_bit(tmp_path: Path) -> None:
    path = tmp_path / "found.json"
    results = some_results()
    save_tightness(results, path)
    assert [p.name for p in tmp_path.iterdir()] == ["found.json"]
    for before, after in zip(results, load_tightness(path), strict=True):
        for name in ("key", "ratio", "centred_ratio", "stop_budget", "family", "seed"):
            assert getattr(before, name) == getattr(after, name)
        for name in ("rollout", "train"):
            for a, b in zip(getattr(before.pair, name), getattr(after.pair, name), strict=True):
                assert np.array_equal(a, b)
        assert np.array_equal(before.pair.reward, after.pair.reward)
        assert np.array_equal(before.pair.prompt_probability, after.pair.prompt_probability)
        assert before.pair.eos == after.pair.eos
        ratios = error_over_bound(get_bound(after.key), after.pair, after.stop_budget)
        assert ratios == (after.ratio, after.centred_ratio)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(format="other"), "expected a JSON object of format"),
        (lambda d: d.update(version=2), "found version 2, expected 1"),
        (lambda d: d.update(results={}), "field 'results': expected a list"),
        (lambda d: d["results"].insert(0, 3), r"record 0, field 'rows': found NoneType"),
        (lambda d: d["results"][1].pop("bound"), r"record 1, field 'bound': found NoneType"),
        (lambda d: d["results"][0].update(ratio="1"), r"record 0, field 'ratio': found str"),
        (lambda d: d["results"][0].update(reward=[[2.0] * 8] * 2), r"record 0, field 'reward'"),
        (lambda d: d["results"][0]["rows"][0].append(0.5), r"record 0"),
        (lambda d: d["results"][0]["rollout"][0][0].append(0), r"record 0"),
        (lambda d: d["results"][0].update(rollout=[[[999]]]), r"record 0, field 'rollout'"),
        (lambda d: d["results"][0].update(train=[[[-1]]]), r"record 0, field 'train': found a neg"),
        (lambda d: d["results"][0].update(eos=7), r"record 0, field 'eos'"),
        (lambda d: d["results"][0]["rows"].__setitem__(0, [math.nan, 1.0]), r"record 0"),
        (lambda d: d["results"][0].update(rollout="x"), r"record 0, field 'rollout': found str"),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, change: object, message: str) -> None:
    path = tmp_path / "found.json"
    save_tightness(some_results(), path)
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))
    with pytest.raises(InputError, match=message) as caught:
        load_tightness(path)
    assert str(path) in str(caught.value)


def test_what_is_no_file_of_results_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        load_tightness(tmp_path / "absent.json")
    path = tmp_path / "text.json"
    path.write_text("{")
    with pytest.raises(InputError, match="is not JSON"):
        load_tightness(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="is not JSON"):
        load_tightness(path)


# -- the instances that ship -------------------------------------------------------------------


def test_instances_that_ship_are_of_known_bounds() -> None:
    keys = [result.key for result in STORED]
    assert len(keys) == len(set(keys)) >= 20
    assert set(keys) <= set(all_bounds())


@pytest.mark.parametrize("result", STORED, ids=lambda r: r.key)
def test_stored_ratios_are_reproduced_and_never_above_one(result: Tightness) -> None:
    bound = get_bound(result.key)
    ratio, centred = error_over_bound(bound, result.pair, result.stop_budget)
    assert ratio == pytest.approx(result.ratio, rel=1e-12)
    assert centred == pytest.approx(result.centred_ratio, rel=1e-12)
    assert centred <= 1 + 1e-12


@pytest.mark.parametrize(
    "result", [r for r in STORED if r.pair.A**r.pair.T <= 32], ids=lambda r: r.key
)
def test_stored_instances_hold_without_rounding(result: Tightness) -> None:
    """The same instance in fractions, against the certified value."""
    pair = result.pair.to_rational()
    budget = None if result.stop_budget is None else Fraction(result.stop_budget)
    (found,) = certify_pair(pair, [get_bound(result.key)], budget=budget)
    assert found.holds
    # Rows are divided by their exact sums, which nearly equal policies feel.
    assert found.ratio == pytest.approx(result.ratio, rel=1e-6)


def test_measured_tightness_beyond_one_position() -> None:
    """What is attained or nearly so with more than one token, among bounds not attained at once."""
    best = {result.key: result for result in STORED}
    for key, least in (("l2", 1 - 1e-9), ("martingale", 0.99), ("entropy_dual", 0.5)):
        assert best[key].pair.T > 1
        assert best[key].centred_ratio >= least


def test_stopping_budget_of_a_stored_instance_is_used() -> None:
    (result,) = (r for r in STORED if r.key == "path_sum_chi2_stopped")
    stop = stopped_path_fields(result.pair, result.stop_budget)
    assert 0 <= stop["chi2_stop_prob"] <= 1 + 1e-12
