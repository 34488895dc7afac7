"""The tightness figure: its ratios are evaluated afresh, and no bound is beaten."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from trbounds.bounds import all_bounds
from trbounds.errors import InputError
from trbounds.oracle import exact, profile_of
from trbounds.oracle.tightness import best_known
from trbounds_figures import render, tightness


def test_ratios_are_error_over_bound_tightest_first() -> None:
    found = tightness.data()
    ratios = [row.centred_ratio for row in found.rows]
    assert all(after <= before + 1e-9 for before, after in pairwise(ratios))
    known = {result.key: result for result in best_known()}
    for row in found.rows:
        assert 0 < row.ratio <= row.centred_ratio <= 1 + 1e-9
        assert row.is_paper == all_bounds()[row.key].source.is_paper
        if known[row.key].stop_budget is None:
            truth = exact(known[row.key].pair)
            value = all_bounds()[row.key].evaluate(profile_of(truth))
            assert row.ratio == pytest.approx(abs(truth.error) / value, rel=1e-12)


def test_recorded_ratios_are_not_believed() -> None:
    first = best_known()[0]
    (row,) = tightness.data([replace(first, ratio=7.0, centred_ratio=9.0)]).rows
    assert row.centred_ratio <= 1 + 1e-9


def test_unknown_bounds_are_left_out() -> None:
    first = best_known()[0]
    old = replace(first, key="a bound of another version")
    assert len(tightness.data([first, old]).rows) == 1
    with pytest.raises(InputError, match="found no instance of a bound"):
        tightness.data([old])


def test_every_bound_is_named_on_its_row() -> None:
    found = tightness.data()
    (ax,) = render("tightness", found).axes
    assert [label.get_text() for label in ax.get_yticklabels()] == [r.title for r in found.rows]
