"""Every claim of every paper, discovered; and independent looks at the evidence."""

from __future__ import annotations

import json
import math
from itertools import pairwise

import mpmath
import numpy as np
import pytest

from trbounds.errors import InputError
from trbounds.oracle import KINDS, exact, random_pair
from trbounds.special import entropy_dual_gain
from trbounds_paper_checks import (
    Claim,
    PrintedValues,
    Statement,
    Verdict,
    papers,
    run_checks,
    tables,
)

CLAIMS = [(paper, claim) for paper, claims in papers().items() for claim in claims]


@pytest.mark.parametrize(
    ("paper", "claim"), CLAIMS, ids=[f"{paper}-{claim.key}" for paper, claim in CLAIMS]
)
def test_claim_is_judged_as_recorded(paper: str, claim: Claim) -> None:
    result = claim.judge()
    assert result.as_recorded, result.to_dict()
    assert result.ours
    if claim.recorded is Verdict.REFUTED and isinstance(claim, Statement):
        assert result.true_form
    document = json.loads(json.dumps(result.to_dict()))
    assert document["verdict"] == document["recorded"]
    assert document["key"] == claim.key


def test_both_versions_of_trm_are_found() -> None:
    assert {"trm-v2", "trm-v3"} <= set(papers())


def test_run_checks_takes_papers_in_turn() -> None:
    results = run_checks(["trm-v3"])
    assert [r.claim for r in results] == list(papers()["trm-v3"])


@pytest.mark.parametrize("function", [tables, lambda paper: run_checks([paper])])
def test_unknown_paper_lists_the_papers(function: object) -> None:
    with pytest.raises(InputError, match=r"no paper 'trm-v9'; there are: .*trm-v2, trm-v3"):
        function("trm-v9")  # type: ignore[operator]


@pytest.mark.parametrize("paper", list(papers()))
def test_tables_hold_every_printed_number_once(paper: str) -> None:
    printed = [v for c in papers()[paper] if isinstance(c, PrintedValues) for v in c.values]
    rows = [row for table in tables(paper) for row in table.rows]
    assert sorted((r.label, r.printed) for r in rows) == sorted(
        (v.label, v.printed) for v in printed
    )
    titles = [table.title for table in tables(paper)]
    assert len(set(titles)) == len(titles)


def test_headline_against_high_precision() -> None:
    with mpmath.workdps(40):
        T, delta = mpmath.mpf(4096), mpmath.mpf("1e-4")
        expected = {
            "classical": T * (T - 1) * delta,
            "Pinsker-Marginal, relaxed": mpmath.mpf(4) / 3 * T ** mpmath.mpf("1.5") * delta,
            "Mixed": 2 * T * mpmath.sqrt(delta * mpmath.mpf("0.01")),
        }
        expected["classical / Mixed"] = expected["classical"] / expected["Mixed"]
    rows = {row.label: row.ours for table in tables("trm-v2")[:1] for row in table.rows}
    for label, value in expected.items():
        assert rows[label] == pytest.approx(float(value), rel=1e-13)


def test_appendix_and_saturation_against_plain_sums() -> None:
    rows = {(t.title, r.label): r.ours for t in tables("trm-v2") for r in t.rows}
    plain = math.fsum(min(1.0, math.sqrt((t - 1) * 0.005)) for t in range(1, 4097))
    appendix = "appendix: T = 4096, delta = 0.01"
    assert rows[appendix, "capped sum"] == pytest.approx(plain, rel=1e-13)
    assert rows[appendix, "Pinsker-Marginal"] == pytest.approx(4 * 0.005**0.5 * plain, rel=1e-13)
    saturated = [t for t in range(1, 4097) if (t - 1) / 2 >= 1]
    large = "table, large divergence: T = 4096, delta = D = 1"
    assert rows[large, "saturated positions"] == len(saturated)
    assert rows[large, "first of them"] == saturated[0]


def test_vacuous_means_that_no_surrogate_gain_exceeds_the_bound() -> None:
    """A bound above the reward range may certify all the same; one above G(D, v) cannot."""
    claim = next(c for c in papers()["trm-v2"] if c.key == "not_vacuous")
    result = claim.judge()
    gain = float(entropy_dual_gain(0.01, 0.25))
    assert f"at most {gain:.4g}" in result.shown
    assert gain < 8.192
    assert "L' = 0.01723" in result.true_form


def test_acceptance_against_exact_powers() -> None:
    from fractions import Fraction

    rows = [row for t in tables("trm-v2") if t.title.startswith("acceptance") for row in t.rows]
    assert len(rows) == 10
    for row in rows:
        p, length = (part.split(" = ")[1] for part in row.label.split(", "))
        assert row.ours == pytest.approx(float((1 - Fraction(p)) ** int(length)), rel=1e-12)
    for half in (rows[:5], rows[5:]):
        assert all(b.ours < a.ours for a, b in pairwise(half))


def test_even_divergences_force_the_sequence_kl() -> None:
    """Pinsker and Jensen: D >= 2 sum_t Dbar_t^2, so Dbar_t = sqrt(delta/2) needs D = T delta."""
    rng = np.random.default_rng(3)
    for i in range(60):
        truth = exact(random_pair(rng, 3, 3, kind=KINDS[i % len(KINDS)], eos=bool(i % 2)))
        assert truth.kl_seq >= 2 * math.fsum(truth.tv_mean**2) * (1 - 1e-12)
