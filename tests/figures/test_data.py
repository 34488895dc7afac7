"""The data of each figure against the library, formulas and plain loops at other points."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.text import Text

from trbounds.bounds import get_bound
from trbounds.errors import InputError
from trbounds.profile import DivergenceProfile
from trbounds.trace_bounds import bounds_on_trace
from trbounds.traces import example_path, summarize
from trbounds_figures import (
    acceptance,
    caps,
    estimators,
    horizon,
    phase,
    phase_papers,
    ppo_clip,
    radius,
    render,
    sparse,
    traces,
)


def value(key: str, **fields: Any) -> float:
    return float(get_bound(key).evaluate(DivergenceProfile(**fields)))


def test_horizon_at_the_headline_point() -> None:
    rows = {row.key: row for row in horizon.data(4096).table()}
    assert rows["classical"].value == pytest.approx(1677.312, rel=1e-9)
    assert rows["pinsker_marginal"].value == pytest.approx(34.94609, rel=1e-6)
    assert rows["mixed"].value == pytest.approx(8.192, rel=1e-9)
    assert rows["entropy_dual"].value == pytest.approx(0.148239, rel=1e-5)
    assert rows["entropy_dual"].informative
    assert not rows["mixed"].informative
    assert [r.value for r in rows.values()] == sorted(
        (r.value for r in rows.values()), reverse=True
    )
    assert rows["classical"].source.startswith("TRM v2")


def test_horizon_curves_equal_bounds_one_by_one() -> None:
    found = horizon.data(300, kl_max=1e-3, kl_seq=0.02, chi2_max=2e-3)
    for curve in found.curves:
        for i in (3, 50, -1):
            T = float(found.T[i])
            fields = {"kl_max": 1e-3, "kl_seq": min(0.02, T * 1e-3), "chi2_max": 2e-3}
            assert curve.values[i] == pytest.approx(value(curve.key, T=T, **fields), rel=1e-12)
    assert "chi2_second_order" in {curve.key for curve in found.curves}


@pytest.mark.parametrize(
    ("key", "slope"), [("classical", 2), ("pinsker_marginal", 1.5), ("mixed", 1), ("linear", 1)]
)
def test_slopes_are_the_declared_growth(key: str, slope: float) -> None:
    (curve,) = horizon.data(8192, bounds=[key]).curves
    assert curve.slope == pytest.approx(slope, abs=0.01)
    assert slope == get_bound(key).growth


@pytest.mark.parametrize(
    ("slope", "text"),
    [
        (1.9999, "$T^{2}$"),
        (1.0, "$T$"),
        (0.501, "$T^{0.5}$"),
        (0.004, "constant"),
        (1.36, "$T^{1.4}$"),
    ],
)
def test_growth_in_words(slope: float, text: str) -> None:
    assert horizon.power_of_T(slope) == text


@pytest.mark.parametrize("T", [2, 3])
def test_a_bound_that_is_0_at_half_the_horizon(T: int) -> None:
    """Of one token the surrogate is exact, as most bounds know; from 0 there is no power of T."""
    found = horizon.data(T, kl_max=1e-4, chi2_max=1e-3)
    slopes = {curve.key: curve.slope for curve in found.curves}
    assert slopes["chi2_second_order"] == math.inf
    assert horizon.power_of_T(math.inf) == "from 0"
    render("horizon", found).canvas.draw()


def test_given_divergences_replace_the_headline_point() -> None:
    found = horizon.data(64, kl_max=1e-3)
    assert found.point == {"kl_max": 1e-3}
    mixed = horizon.data(64, kl_max=1e-3, bounds=["mixed"]).curves[0]
    assert mixed.values[-1] == pytest.approx(2 * 64 * math.sqrt(1e-3 * 0.064), rel=1e-12)
    assert horizon.data(64).point == {"kl_max": 1e-4, "kl_seq": 0.01}


def test_coinciding_curves_are_drawn_once_unless_asked_for() -> None:
    keys = [curve.key for curve in horizon.data(64).curves]
    assert "mixed" in keys
    assert "mixed_tv" not in keys  # without a TV of its own it equals Mixed
    asked = horizon.data(64, bounds=["mixed", "mixed_tv"])
    assert [curve.key for curve in asked.curves] == ["mixed", "mixed_tv"]


def test_reward_range_moves_the_vacuous_line() -> None:
    found = horizon.data(512, reward_range=(-1.0, 1.0))
    assert found.reward_width == 2
    (ax,) = render("horizon", found).axes
    assert any(np.allclose(np.asarray(line.get_ydata()), 2.0) for line in ax.lines)
    assert found.table()[0].value == pytest.approx(2 * value("classical", T=512, kl_max=1e-4))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"T": 1}, "'T': found 1, expected a whole number of at least 2"),
        ({"T": 10, "bounds": ["nope"]}, "no bound 'nope'"),
        ({"T": 10, "bounds": ["l2"]}, "needs residual_square"),
        ({"T": 10, "kl_max": 0.0}, "nothing to draw"),
        ({"T": 10, "kl_max": -1.0}, "kl_max"),
        ({"T": 10, "reward_var": 0.7}, "reward_var"),
    ],
)
def test_horizon_refuses_bad_input(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        horizon.data(**arguments)


def test_horizon_labels_every_curve_with_its_growth() -> None:
    found = horizon.data(1024)
    (ax,) = render("horizon", found).axes
    written = [text.get_text() for text in ax.texts]
    for curve in found.curves:
        assert f"{curve.title}, {horizon.power_of_T(curve.slope)}" in written
    assert any("vacuous" in text for text in written)
    solid = {curve.title for curve in found.curves if curve.is_paper}
    assert {"Classical", "Mixed"} <= solid
    assert "Entropy dual" not in solid


def test_caps() -> None:
    found = caps.data(100, 1e-6, 10.0)
    i = 200
    delta = float(found.kl_max[i])
    assert found.capped["mixed"][i] == pytest.approx(value("mixed", T=100, kl_max=delta), rel=1e-12)
    assert found.uncapped["pinsker_marginal"][i] == pytest.approx(4 / 3 * 1000 * delta, rel=1e-12)
    for key in ("linear", "mixed", "pinsker_marginal"):
        assert found.capped[key][-1] == pytest.approx(400, rel=0.011)
    # Below the first cap the plain sum is exact, above it no longer.
    plain = 2 * found.kl_max * math.fsum(math.sqrt(k) for k in range(100))
    below = found.kl_max < found.first_cap
    assert found.capped["pinsker_marginal"][below] == pytest.approx(plain[below], rel=1e-12)
    assert np.all(found.capped["pinsker_marginal"][~below] < plain[~below])


def test_sparse() -> None:
    T, delta = 64, 0.01
    found = sparse.data(T, delta)
    height = math.sqrt(delta / 2)

    def adaptive(positions: range) -> float:
        return 4 * height * math.fsum(min(1.0, math.sqrt((T - t) * delta / 2)) for t in positions)

    for i, fraction in enumerate(found.fraction):
        n = round(float(fraction) * T)
        assert found.first[i] == pytest.approx(adaptive(range(1, n + 1)), rel=1e-12)
        assert found.last[i] == pytest.approx(
            adaptive(range(T - n + 1, T + 1)), rel=1e-12, abs=1e-15
        )
        assert found.mixed[i] == pytest.approx(2 * T * math.sqrt(delta * n * delta), rel=1e-12)
    assert np.all(found.last <= found.spread * (1 + 1e-12))
    assert np.all(found.spread <= found.first * (1 + 1e-12))
    assert found.spread[-1] == pytest.approx(found.pinsker_marginal[-1], rel=1e-12)


def test_estimators() -> None:
    found = estimators.data(0.01, 100.0, 101)
    assert found.ratio[[0, 50, -1]] == pytest.approx([0.01, 1.0, 100.0])
    for i in (0, 13, 77, 100):
        rho = float(found.ratio[i])
        assert found.k1[i] == pytest.approx(-math.log(rho))
        assert found.k2[i] == pytest.approx(math.log(rho) ** 2 / 2)
        assert found.k3[i] == pytest.approx(rho - 1 - math.log(rho))


def test_acceptance() -> None:
    found = acceptance.data(1000, (1e-3, 0.25))
    for i in (0, 50, -1):
        length = int(found.length[i])
        for j, p in enumerate((Fraction(1, 1000), Fraction(1, 4))):
            assert found.accepted[j, i] == pytest.approx(float((1 - p) ** length), rel=1e-12)


def test_path_sums_are_cut_at_what_tokens_add_up_to() -> None:
    found = horizon.data(1000, kl_max=1e-4, kl_path_max=0.02, chi2_max=2e-4, chi2_path_max=0.04)
    curves = {curve.key: curve.values for curve in found.curves}
    for T, path_sum, restarted in zip(
        found.T, curves["path_sum_chi2"], curves["path_sum_kl_restart"], strict=True
    ):
        assert path_sum == pytest.approx(
            value("path_sum_chi2", T=T, chi2_path_max=min(0.04, T * 2e-4))
        )
        assert restarted == pytest.approx(
            value("path_sum_kl_restart", T=T, kl_path_max=min(0.02, T * 1e-4), kl_max=1e-4)
        )


def test_clipping_has_four_cases() -> None:
    found = ppo_clip.data(0.25, 2.0)

    def slope(values: np.ndarray, at: float) -> float:
        i = int(np.searchsorted(found.ratio, at))
        return float((values[i + 1] - values[i]) / (found.ratio[i + 1] - found.ratio[i]))

    assert slope(found.positive, 1.6) == 0
    assert slope(found.positive, 0.4) == pytest.approx(1)
    assert slope(found.negative, 0.4) == 0
    assert slope(found.negative, 1.6) == pytest.approx(-1)


def test_phase_papers_finds_the_smallest() -> None:
    found = phase_papers.data(1e4, points=40)
    assert set(found.keys) >= {"coupling", "pinsker_marginal_tv", "mixed_tv"}
    for row, column in ((3, 5), (20, 20), (35, 12), (10, -1)):
        T, delta = float(found.T[column]), float(found.level[row])
        eps = math.sqrt(delta) / 2
        fields = {
            "T": T,
            "kl_max": delta,
            "tv_max": eps,
            "kl_seq": min(0.01, T * delta),
            "tv_seq": min(0.05, T * eps),
        }
        values = {key: value(key, **fields) for key in phase_papers.BOUNDS}
        assert found.smallest[row, column] == pytest.approx(min(values.values()), rel=1e-9)
        winner = found.keys[found.winner[row, column]]
        assert values[winner] <= min(values.values()) * (1 + 1e-9)


def test_phase_leaves_out_what_no_pair_reaches() -> None:
    found = phase.data(1e5, points=40, kl_max=1e-3)
    impossible = found.level[:, None] > found.T * 1e-3
    assert np.array_equal(found.winner < 0, impossible)
    assert np.array_equal(np.isnan(found.smallest), impossible)
    row, column = 12, 30
    T, D = float(found.T[column]), float(found.level[row])
    for key in ("entropy_dual", "entropy_dual_second_order", "path_sum_kl", "unified"):
        assert found.smallest[row, column] <= value(key, T=T, kl_max=1e-3, kl_seq=D) * (1 + 1e-9)
    winner = found.keys[found.winner[row, column]]
    assert found.smallest[row, column] == pytest.approx(
        value(winner, T=T, kl_max=1e-3, kl_seq=D), rel=1e-9
    )


def test_radius_is_where_a_bound_meets_the_largest_gain() -> None:
    keys = ["classical", "linear", "pinsker_marginal", "adaptive", "mixed", "chi2_second_order"]
    found = radius.data(4096, points=2, bounds=keys)
    assert found.never == ("linear",)
    assert set(found.radius) == set(keys) - {"linear", "adaptive"}  # even: Adaptive = PM
    assert found.radius["pinsker_marginal"][-1] == pytest.approx(1.7036e-8, rel=1e-4)
    assert found.radius["mixed"][-1] == pytest.approx(7.529e-9, rel=1e-4)
    assert found.radius["chi2_second_order"][-1] == pytest.approx(3.7587e-4, rel=1e-4)
    # Classical, T(T-1) delta = G(T delta, 1/4), about sqrt(T delta / 2) for small delta.
    first = int(found.T[0])
    assert first == 16
    expected = first / (2 * (first * (first - 1)) ** 2)
    assert found.radius["classical"][0] == pytest.approx(expected, rel=0.1)


def test_traces_measures_what_the_library_says(tmp_path: Path) -> None:
    found = traces.measure({"example": example_path()})
    expected = bounds_on_trace(summarize([example_path()]))
    (example,) = found.traces
    assert set(example.bounds) <= set(traces.BOUNDS)
    for key, measured in example.bounds.items():
        assert measured.value == expected[key].value
    assert example.bounds["classical"].standard_error is None
    saved = tmp_path / "values.json"
    saved.write_text(found.to_json())
    assert traces.data(saved) == found
    (ax,) = render("traces", found).axes
    titles = [text.get_text() for panel in ax.child_axes for text in panel.findobj(Text)]
    assert "example" in titles


def test_a_known_largest_error_replaces_the_estimate() -> None:
    (found,) = traces.measure({"a": example_path()}, {"a": (0.25, 0.01)}).traces
    assert found.sup_error == traces.Measured(0.25, 0.01)


def test_recorded_traces_agree_with_the_theory() -> None:
    recorded = {trace.name: trace for trace in traces.data().traces}
    assert len(recorded) == 6
    for trace in recorded.values():
        assert set(trace.bounds) == set(traces.BOUNDS)
        sup = trace.sup_error
        assert sup.standard_error is not None
        # Bounds that do not use the reward's variance hold for every reward.
        for key in ("classical", "pinsker_marginal", "mixed", "adaptive", "chi2_kl"):
            assert trace.bounds[key].value > sup.value - 3 * sup.standard_error
        best_of_papers = min(trace.bounds[key].value for key in traces.BOUNDS[:4])
        assert best_of_papers > 1  # vacuous on every one of them
        assert trace.bounds["martingale"].value < 1
    assert recorded["fp8"].bounds["adaptive"].value == pytest.approx(6.007, rel=0.01)
    assert recorded["stale_k4"].bounds["chi2_kl"].value == pytest.approx(0.7715, rel=0.01)


@pytest.mark.parametrize("content", ["", "{}", '{"traces": [{"name": "a"}]}', "[1]"])
def test_a_broken_record_is_refused(content: str, tmp_path: Path) -> None:
    path = tmp_path / "broken.json"
    path.write_text(content)
    with pytest.raises(InputError, match="not a record of bounds on traces"):
        traces.data(path)


@pytest.mark.parametrize(
    "call",
    [
        lambda: acceptance.data(1),
        lambda: acceptance.data(10, (1.0,)),
        lambda: acceptance.data(10, ()),
        lambda: ppo_clip.data(1.5),
        lambda: ppo_clip.data(0.2, 1.1),
        lambda: sparse.data(1),
        lambda: caps.data(1),
        lambda: phase_papers.data(1),
        lambda: radius.data(8),
        lambda: radius.data(64, points=1),
        lambda: estimators.data(0.0),
        lambda: estimators.data(2.0, 1.0),
    ],
)
def test_arguments_out_of_range_are_refused(call: Callable[[], object]) -> None:
    with pytest.raises(InputError):
        call()


def test_bounds_beyond_what_axes_hold_are_not_drawn():
    found = horizon.data(64, kl_max=1e-3, chi2_path_max=2000.0)
    assert found.curves
    assert all(curve.values[-1] < 1e200 for curve in found.curves)
    with pytest.raises(InputError, match=r"exceeds 1e\+200"):
        horizon.data(64, chi2_path_max=2000.0)
