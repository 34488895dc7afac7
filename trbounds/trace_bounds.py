"""Every bound on a logged trace, with its standard error."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from trbounds.bound import Assessment, Bound
from trbounds.bounds import assess_all
from trbounds.errors import no_such
from trbounds.profile import Conversion, DivergenceProfile
from trbounds.traces.jackknife import jackknife_error
from trbounds.traces.profile import (
    SEQUENCE_MEANS,
    RewardVarianceKind,
    leave_one_out_profile,
    profile_of,
    raised_profile,
)
from trbounds.traces.summary import TraceSummary

__all__ = ["JACKKNIFE", "OBSERVED", "RAISED", "TraceBound", "TraceBounds", "bounds_on_trace"]

JACKKNIFE = "jackknife over prompts"
RAISED = "at most: every mean one standard error higher"
OBSERVED = "none: rests on observed maxima only"


@dataclass(frozen=True)
class TraceBound:
    """A bound evaluated on a trace.

    Parameters
    ----------
    assessment : Assessment
        Its plug-in value, and what that is good for.
    standard_error : float
        Of the value, observed maxima taken as they are; NaN where there is none.
    method : str
        How the standard error was made: :data:`JACKKNIFE` where the bound rests on means over
        sequences, :data:`RAISED` (an upper bound on it) where it rests on means by position,
        :data:`OBSERVED` where it rests on neither.
    """

    assessment: Assessment
    standard_error: float
    method: str

    @property
    def bound(self) -> Bound:
        """The bound."""
        return self.assessment.bound

    @property
    def value(self) -> float:
        """Its value, in reward units."""
        return float(self.assessment.value)


@dataclass(frozen=True)
class TraceBounds:
    """All bounds on a trace.

    Parameters
    ----------
    profile : DivergenceProfile
        What the trace says of the two policies, completed.
    bounds : tuple of TraceBound
        In order of rank.
    """

    profile: DivergenceProfile
    bounds: tuple[TraceBound, ...]

    @property
    def best(self) -> TraceBound:
        """The smallest."""
        return min(self.bounds, key=lambda found: found.value)

    def __getitem__(self, key: str) -> TraceBound:
        """Return a bound by its key."""
        by_key = {found.bound.key: found for found in self.bounds}
        if key not in by_key:
            raise no_such("bound on this trace", key, by_key)
        return by_key[key]

    def __contains__(self, key: str) -> bool:
        """Tell whether the trace allows a bound."""
        return any(found.bound.key == key for found in self.bounds)

    def __iter__(self) -> Iterator[TraceBound]:
        """Yield the bounds in order of rank."""
        return iter(self.bounds)

    def __len__(self) -> int:
        """Return the number of bounds."""
        return len(self.bounds)


def bounds_on_trace(
    summary: TraceSummary,
    *,
    conversion: Conversion = "pinsker",
    reward_variance: RewardVarianceKind = "within_prompts",
) -> TraceBounds:
    """Evaluate every bound that a trace allows.

    Parameters
    ----------
    summary : TraceSummary
        The trace.
    conversion : {"pinsker", "sharp"}
        How a KL becomes a TV.
    reward_variance : {"within_prompts", "total"}
        As for :func:`trbounds.traces.profile.profile_of`.

    Returns
    -------
    TraceBounds
        Values are plug-in: they rest on estimates and on maxima over the observed contexts, and
        are not certified.

    Raises
    ------
    InputError
        If a setting is none of these.

    Examples
    --------
    >>> from trbounds.trace_bounds import bounds_on_trace
    >>> from trbounds.traces import example_path, summarize
    >>> found = bounds_on_trace(summarize(example_path()))
    >>> found.best.bound.key, round(found.best.value, 4), round(found["mixed"].value, 2)
    ('l2', 0.0037, 5.22)
    """
    profile = profile_of(summary, conversion=conversion, reward_variance=reward_variance)
    without_one = leave_one_out_profile(summary, profile, reward_variance=reward_variance)
    raised = raised_profile(summary, profile)
    completed = profile.complete()
    found = []
    for assessment in assess_all(completed).values():
        bound = assessment.bound
        estimated = _estimated_fields(bound, profile)
        if not estimated:
            error, method = math.nan, OBSERVED
        elif estimated <= set(SEQUENCE_MEANS):
            values = np.broadcast_to(bound.evaluate(without_one), without_one.kl_seq.shape)
            error, method = jackknife_error(np.asarray(values, dtype=np.float64)), JACKKNIFE
        else:
            error, method = float(bound.evaluate(raised) - assessment.value), RAISED
        found.append(TraceBound(assessment, error, method))
    return TraceBounds(completed, tuple(found))


def _estimated_fields(bound: Bound, profile: DivergenceProfile) -> set[str]:
    """Return the estimated fields that a bound takes; its maxima are observed."""
    return {
        name
        for name in (*bound.requires, *bound.uses)
        if name in profile.known and profile.provenance[name].kind == "estimated"
    }
