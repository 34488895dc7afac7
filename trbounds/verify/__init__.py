"""Check on a logged trace everything that theory says must hold there."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from trbounds.profile import Conversion
from trbounds.trace_bounds import bounds_on_trace
from trbounds.traces.error_estimates import estimate_error
from trbounds.traces.findings import findings
from trbounds.traces.jackknife import student_limit
from trbounds.traces.summary import TraceSummary
from trbounds.traces.unseen_mass import distinct_sequences
from trbounds.verify.acceptance import acceptance_verdicts
from trbounds.verify.orderings import ORDERINGS, Ordering
from trbounds.verify.profile_checks import (
    error_verdicts,
    gain_verdicts,
    ordering_verdicts,
    profile_verdicts,
    sup_verdicts,
)
from trbounds.verify.samples import consistency_verdicts, sample_verdicts
from trbounds.verify.tokens import token_verdicts
from trbounds.verify.verdict import Place, Report, Verdict

__all__ = ["ORDERINGS", "Ordering", "Place", "Report", "Verdict", "verify"]

SAMPLE_LIMIT = 4.0
"""Standard errors by which two means that must agree may differ. A trace has about six such
checks, so that a right one fails with probability 4e-4 (normal errors). With few sequences the
limit is what Student's t exceeds as rarely: 7 with ten different ones."""

ERROR_LIMIT = 3.0
"""Standard errors by which the estimated error may exceed a bound; more with few sequences."""


def verify(
    summary: TraceSummary,
    *,
    conversion: Conversion = "pinsker",
    sample_limit: float = SAMPLE_LIMIT,
    error_limit: float = ERROR_LIMIT,
) -> Report:
    """Check a trace.

    Parameters
    ----------
    summary : TraceSummary
        Of the trace; with at least one token.
    conversion : {"pinsker", "sharp"}
        How a KL becomes a TV in the bounds.
    sample_limit : float
        Standard errors by which two means that must agree may differ.
    error_limit : float
        Standard errors by which an estimate may exceed an upper bound on it.

    Returns
    -------
    Report
        Verdicts on every token (k2, k3 and divergences in range, Pinsker, TV against chi2), on
        means that must agree (rho and 1, k3 and kl, -log rho and kl, |rho - 1| and 2 tv,
        (rho - 1)^2 and chi2), on the profile, on the proved order of bounds, and on the estimated
        error below every bound. Checks whose columns are not logged decide nothing. Besides, what
        was found of how the trace was logged (:func:`trbounds.traces.findings.findings`).

    Raises
    ------
    InputError
        If no token counts.

    Examples
    --------
    >>> from trbounds.traces import example_path, summarize
    >>> from trbounds.verify import verify
    >>> verify(summarize(example_path())).holds
    True
    """
    different = distinct_sequences(summary.sequences)
    sample_limit = student_limit(sample_limit, different)
    error_limit = student_limit(error_limit, different)
    found = bounds_on_trace(summary, conversion=conversion)
    estimates = estimate_error(summary)
    found_by_family: dict[str, Iterable[Verdict]] = {
        "tokens": token_verdicts(summary),
        "samples": sample_verdicts(summary, limit=sample_limit),
        "profile": (
            *consistency_verdicts(summary, estimates, limit=error_limit),
            *profile_verdicts(found.profile),
        ),
        "orderings": ordering_verdicts(found),
        "error": error_verdicts(found, estimates, limit=error_limit),
        "sup": sup_verdicts(found, estimates, limit=error_limit),
        "gain": gain_verdicts(found, estimates, limit=error_limit),
        "acceptance": acceptance_verdicts(summary),
    }
    verdicts = tuple(
        replace(verdict, family=family)
        for family, several in found_by_family.items()
        for verdict in several
    )
    return Report(
        verdicts=verdicts,
        files=tuple(summary.files),
        n_sequences=summary.n_sequences,
        n_tokens=summary.n_tokens,
        n_prompts=int(summary.groups().max()) + 1,
        T=summary.T,
        estimates=estimates,
        warnings=tuple(_warnings(summary, estimates.weights.warning)),
        findings=tuple(findings(summary)),
    )


def _warnings(summary: TraceSummary, weights: str | None) -> list[str]:
    counts = summary.counts
    found = [weights] if weights else []
    if summary.partial is not None:
        found.append(f"the summary is {summary.partial}")
    if counts["saturated_sequences"]:
        found.append(f"{counts['saturated_sequences']} sequence weights exceed e^100")
    if counts["skipped"]:
        found.append(f"{counts['skipped']} records or files were left out because of an error")
    return found
