"""Inequalities that hold at every token."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from trbounds.traces.summary import TraceSummary
from trbounds.verify.verdict import Place, Verdict, at_most

__all__ = ["STORED", "token_verdicts"]

STORED = 4 * float(np.finfo(np.float32).eps)
"""Relative tolerance for logged divergences: four units in the last place of float32, in which
frameworks store them."""

_SMALLEST = 1e-9
"""Absolute tolerance in TV: what a log-probability in float32 is uncertain by."""

_NON_NEGATIVE = (
    ("k2", "k2 = (log rho)^2/2 >= 0"),
    ("k3", "k3 = rho - 1 - log rho >= 0"),
    ("kl", "kl >= 0"),
    ("tv", "tv >= 0"),
    ("chi2", "chi2 >= 0"),
)


def token_verdicts(summary: TraceSummary) -> Iterator[Verdict]:
    """Yield the verdict on each inequality between the logged quantities of a token."""
    extremes = summary.extremes
    for name, statement in _NON_NEGATIVE:
        found = extremes.get(f"{name}_min")
        if found is not None:
            yield at_most(
                f"{name}_nonnegative",
                statement,
                0.0,
                found.value,
                status="exact",
                place=Place(*found.place),
            )
    largest_tv = extremes.get("tv_max")
    if largest_tv is not None:
        yield at_most(
            "tv_at_most_one",
            "tv <= 1",
            largest_tv.value,
            1.0,
            status="exact",
            place=Place(*largest_tv.place),
        )
    for check, excess, statement in (
        ("pinsker", "pinsker_excess", "tv - sqrt(kl/2) <= 0 (Pinsker)"),
        ("tv_chi2", "tv_chi2_excess", "tv - sqrt(chi2)/2 <= 0 (Cauchy-Schwarz)"),
    ):
        found = extremes.get(excess)
        if found is None or largest_tv is None:
            yield _not_logged(check, statement)
            continue
        yield at_most(
            check,
            statement,
            found.value,
            0.0,
            status="exact",
            tolerance=STORED * largest_tv.value + _SMALLEST,
            place=Place(*found.place),
        )
    found = extremes.get("kl_log_chi2_excess")
    if found is not None:
        count = summary.counts["kl_above_log_chi2"]
        yield Verdict(
            check="kl_log_chi2",
            statement="kl - log(1 + chi2), of either sign",
            status="exact",
            left=found.value,
            right=0.0,
            place=Place(*found.place),
            note=f"{count} tokens above 0: legitimate, the directions differ" if count else "",
        )


def _not_logged(check: str, statement: str) -> Verdict:
    return Verdict(
        check=check, statement=statement, status="exact", note="its columns are not logged"
    )
