"""The rule that judges a claim, apart from any paper."""

from __future__ import annotations

import pytest

from trbounds.errors import InputError
from trbounds_paper_checks import (
    Evidence,
    PrintedValues,
    Statement,
    Value,
    Verdict,
    compare,
)


@pytest.mark.parametrize(
    ("printed", "ours", "verdict"),
    [
        ("1,677", 1677.312, Verdict.HOLDS),
        ("35.0", 34.953, Verdict.HOLDS),
        ("35.0", 34.949, Verdict.ROUNDING),
        ("200", 204.8, Verdict.HOLDS),  # one significant digit
        ("200.", 204.8, Verdict.HOLDS),
        ("409", 409.5, Verdict.HOLDS),  # a tie rounds either way
        ("408", 409.5, Verdict.ROUNDING),
        ("410", 405.0, Verdict.HOLDS),
        (".358", 0.35897, Verdict.ROUNDING),
        (".358", 0.3605, Verdict.REFUTED),
        ("3.49e5", 349525.3, Verdict.ROUNDING),
        ("3.49e5", 349499.0, Verdict.HOLDS),
        ("1139", 1144.0, Verdict.ROUNDING),  # within half a percent
        ("1139", 1146.0, Verdict.REFUTED),
        ("-0.5", -0.52, Verdict.HOLDS),
        ("<1e-7", 7.6e-8, Verdict.HOLDS),
        ("<1e-7", 1e-7, Verdict.REFUTED),
        ("0", 0.4, Verdict.HOLDS),
        ("0", 3.0, Verdict.REFUTED),
    ],
)
def test_printed_digits(printed: str, ours: float, verdict: Verdict) -> None:
    assert compare(printed, ours) is verdict


def test_what_is_not_a_number_is_refused() -> None:
    with pytest.raises(InputError, match="as printed"):
        compare("about 3", 3.0)


def _values(*values: tuple[str, float], recorded: Verdict = Verdict.HOLDS) -> PrintedValues:
    return PrintedValues(
        key="k",
        paper="p",
        place="here",
        text="t",
        recorded=recorded,
        values=tuple(
            Value(f"v{i}", printed, lambda ours=ours: ours)  # type: ignore[misc]
            for i, (printed, ours) in enumerate(values)
        ),
    )


def test_a_claim_is_as_good_as_its_worst_number() -> None:
    assert _values(("1.0", 1.0), ("2.0", 2.0)).judge().verdict is Verdict.HOLDS
    assert _values(("1.0", 1.0), ("2.0", 2.1)).judge().verdict is Verdict.ROUNDING
    result = _values(("1.0", 1.09), ("2.0", 4.0), recorded=Verdict.REFUTED).judge()
    assert result.verdict is Verdict.REFUTED
    assert result.as_recorded
    assert [entry.verdict for entry in result.entries] == [Verdict.ROUNDING, Verdict.REFUTED]


def test_a_number_that_is_not_finite_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="v0 is nan"):
        _values(("1.0", float("nan"))).judge()


@pytest.mark.parametrize(
    ("evidence", "verdict"),
    [
        (Evidence(True, "case"), Verdict.HOLDS),
        (Evidence(False, "case", "true form", True), Verdict.REFUTED),
        (Evidence(False, "case", "true form", False), Verdict.UNSETTLED),
        (Evidence(False, "case"), Verdict.UNSETTLED),
    ],
)
def test_refuting_takes_a_counterexample_and_a_checked_true_form(
    evidence: Evidence, verdict: Verdict
) -> None:
    claim = Statement(
        key="k",
        paper="p",
        place="here",
        text="t",
        evaluate=lambda: evidence,
        recorded=Verdict.HOLDS,
    )
    result = claim.judge()
    assert result.verdict is verdict
    assert result.as_recorded is (verdict is Verdict.HOLDS)
    assert result.ours == "case"
    assert result.printed == "t"
