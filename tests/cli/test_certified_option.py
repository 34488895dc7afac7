"""``trbounds bound --certified``: rigorous ends beside every value."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest

Run = Callable[..., Any]
POINT = ("bound", "--T", "4096", "--kl-max", "1e-4", "--kl-seq", "0.01", "--certified")


def test_every_value_lies_between_two_close_ends(trbounds: Run) -> None:
    outcome = trbounds(*POINT, "--json")
    assert (outcome.code, outcome.err) == (0, "")
    rows = json.loads(outcome.out)["bounds"]
    assert len(rows) > 10
    for row in rows:
        lower, upper = map(Decimal, row["enclosure"])
        assert 0 < lower <= upper <= lower * (1 + Decimal("1e-20"))
        assert abs(Decimal(row["value"]) - lower) <= Decimal("1e-12") * upper
    found = {row["key"]: row["enclosure"] for row in rows}
    # 2 T (T - 1) eps^2 with eps^2 = delta / 2, of the float nearest to 1e-4.
    exact = 4096 * 4095 * Fraction(1e-4)
    low, high = map(Fraction, found["classical"])
    assert low <= exact <= high


def test_help_promises_ends_for_the_exact_value_alone(trbounds: Run) -> None:
    rows = json.loads(trbounds(*POINT, "--json").out)["bounds"]
    outside = [
        row["key"]
        for row in rows
        if not Decimal(row["enclosure"][0]) <= Decimal(row["value"]) <= Decimal(row["enclosure"][1])
    ]
    assert outside  # floats are rounded by more than the ends are apart
    said = " ".join(trbounds("bound", "--help").out.split())
    assert "two ends between which the bound's exact value lies" in said


def test_without_the_flag_there_is_no_enclosure(trbounds: Run) -> None:
    rows = json.loads(trbounds(*POINT[:-1], "--json").out)["bounds"]
    assert all("enclosure" not in row for row in rows)


def test_table_shows_both_ends_and_what_they_mean(trbounds: Run) -> None:
    out = trbounds(*POINT).out
    assert "[8.192, 8.192000000000002]" in out
    assert "ball arithmetic" in out


def test_an_infinite_value_has_no_enclosure(trbounds: Run) -> None:
    words = ("bound", "--T", "100", "--chi2-path-max", "5000", "--certified")
    rows = {row["key"]: row for row in json.loads(trbounds(*words, "--json").out)["bounds"]}
    # JSON has no infinity.
    assert rows["path_sum_chi2"]["value"] is None
    assert trbounds(*words).code == 0


def test_certified_values_of_a_trace_keep_their_status(trbounds: Run) -> None:
    from trbounds.traces import example_path

    outcome = trbounds("bound", "--trace", example_path(), "--certified", "--json")
    assert outcome.code == 0
    rows = json.loads(outcome.out)["bounds"]
    assert {row["status"] for row in rows} == {"plug-in"}
    for row in rows:
        lower, upper = map(float, row["enclosure"])
        assert row["value"] == pytest.approx(lower, rel=1e-9)
        assert lower <= upper


def test_without_flint_the_extra_is_named(trbounds: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("trbounds.certified")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "flint", None)
    outcome = trbounds(*POINT)
    assert outcome.code == 2
    assert outcome.out == ""
    assert outcome.err == (
        "trbounds: error: certified arithmetic needs python-flint: "
        "pip install 'trbounds[certified]'\n"
    )
