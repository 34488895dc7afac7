"""The divergence profile of a logged trace: estimates, and the largest observed values."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from trbounds.errors import InputError
from trbounds.profile import Conversion, DivergenceProfile, Provenance
from trbounds.special import root_exp_excess
from trbounds.traces.error_estimates import RewardVariance
from trbounds.traces.jackknife import Blocks
from trbounds.traces.summary import TraceSummary
from trbounds.traces.unseen_mass import sequence_tv, sequence_tv_total, unseen_mass
from trbounds.traces.weights import residual_of

Floats = NDArray[np.float64]
RewardVarianceKind = Literal["within_prompts", "total"]

SEQUENCE_MEANS = (
    "tv_seq",
    "kl_seq",
    "tv_total",
    "chi2_total",
    "residual_square",
    "reward_var",
)
"""Fields that are means over sequences, so that a jackknife over prompts applies to them."""

_MASSES = {"tv_max", "tv_mean", "tv_seq", "chi2_stop_prob"}


@dataclass(frozen=True)
class _Mean:
    """A field that is the mean of a per-sequence column, and how it was made."""

    column: Floats
    by: str


@dataclass(frozen=True)
class _Positions:
    """A field that is a mean at each position: the quantity of ``PositionSums`` it is read from."""

    quantity: str
    by: str
    factor: float = 1.0

    def mean(self, summary: TraceSummary) -> Floats:
        return self.factor * summary.positions.mean(self.quantity)

    def standard_error(self, summary: TraceSummary) -> Floats:
        return self.factor * summary.positions.standard_error(self.quantity)


def _clustered_errors(summary: TraceSummary) -> dict[str, Floats]:
    """Standard errors of the position fields, prompts allowed for.

    Those by position take sequences as independent. The factor by which prompts raise the
    standard error of the sum over positions is applied to each of them.
    """
    blocks, means = Blocks(summary.groups()), _means(summary)
    out = {}
    for name, positions in _positions(summary).items():
        factor = _prompt_factor(blocks, means[_TOTAL_OF[name]].column)
        out[name] = np.nan_to_num(factor * positions.standard_error(summary))
    return out


def _prompt_factor(blocks: Blocks, column: Floats) -> float:
    """Return the factor, at least 1, by which prompts raise the standard error of a mean."""
    mean = blocks.mean(column)
    return mean.error / mean.standard_error if mean.standard_error > 0 else 1.0


_TOTAL_OF = {"tv_mean": "tv_total", "kl_mean": "kl_seq", "chi2_mean": "chi2_total"}


_SAMPLED = {"tv": ("abs_ratio", 0.5), "kl": ("k3", 1.0), "chi2": ("square", 1.0)}
_SAMPLED_TEXT = {
    "tv": "|rho - 1| / 2 of the sampled tokens",
    "kl": "k3 = rho - 1 - log rho of the sampled tokens",
    "chi2": "(rho - 1)^2 of the sampled tokens",
}


def profile_of(
    summary: TraceSummary,
    *,
    conversion: Conversion = "pinsker",
    reward_variance: RewardVarianceKind = "within_prompts",
) -> DivergenceProfile:
    """Return what a trace says of its two policies, each value with its provenance.

    Parameters
    ----------
    summary : TraceSummary
        With at least one token.
    conversion : {"pinsker", "sharp"}
        How a KL becomes a TV.
    reward_variance : {"within_prompts", "total"}
        Which variance of the reward: the mean within-prompt one (what the bounds need), or the
        larger total one.

    Returns
    -------
    DivergenceProfile
        - Means are "estimated". They average the logged divergences where every sequence has
          them. Otherwise they average estimates from the sampled tokens.
        - ``kl_seq``, ``tv_total`` and ``tv_seq`` feed bounds that hold whatever the supports of
          the two policies, so they count the mass S that the training policy gives to tokens
          which the rollout policy never draws. From samples, ``kl_seq`` is the mean of k3 plus S,
          estimated by ``-E[M]`` or 0 if that is negative: the larger of the means of k3 and of
          ``k1 = -log rho``. In expectation it is D or more, and tends to D. TVs are the means of
          ``max(0, 1 - rho)`` and ``max(0, 1 - W)``, without bias.
        - The other means from samples are those of ``k3``, ``|rho - 1|/2`` and ``(rho - 1)^2``,
          without bias if ``S = 0``, as the bounds that take them assume.
        - ``residual_square`` is the mean of ``sum_t (W_{t-1} - 1)^2 chi2(c_t)`` where chi2 is
          logged, else of ``(W - 1 - M)^2``.
        - Maxima are "observed": the largest over the contexts of this trace, which a new rollout
          may exceed. Without the logged divergence they are left out: the largest ratio of a
          sampled token is no maximum of a divergence.
        - ``log_ratio_max`` is over sampled tokens.
        - The stopped path sum is given at the budget of the grid that makes its bound smallest:
          where no sequence exceeds that budget, as an observed maximum is.

    Raises
    ------
    InputError
        If no token counts.

    Notes
    -----
    A standard error in the provenance is the larger of two: with sequences taken as independent,
    and by the jackknife over prompts. Those of position fields are
    ``summary.positions.standard_error(...)``, with sequences taken as independent: too small at
    the first positions, which depend on the prompt most.
    """
    if summary.T == 0:
        raise InputError("found no token that counts, expected at least one", field="paths")
    fields: dict[str, Any] = {}
    marks: dict[str, Provenance] = {}
    blocks = Blocks(summary.groups())
    for name, mean in _means(summary).items():
        estimate = blocks.mean(mean.column)
        fields[name] = estimate.value
        marks[name] = Provenance("estimated", by=mean.by, standard_error=_known(estimate.error))
    for name, positions in _positions(summary).items():
        fields[name] = positions.mean(summary)
        marks[name] = Provenance("estimated", by=positions.by)
    _add_reward_variance(summary, blocks, reward_variance, fields, marks)
    before = np.arange(summary.T, dtype=np.float64)
    fields["kl_position_moment"] = float(before @ fields["kl_mean"])
    bound = before @ _clustered_errors(summary)["kl_mean"]
    marks["kl_position_moment"] = Provenance(
        "estimated",
        by="mean KL at each position; its standard error is an upper bound",
        standard_error=_known(float(bound)),
    )
    _add_maxima(summary, fields, marks)
    if summary.has("chi2"):
        _add_stopped(summary, fields, marks)
    for name in _MASSES & set(fields):
        fields[name] = np.minimum(fields[name], 1.0)
    return DivergenceProfile(
        T=summary.T,
        **fields,
        reward_range=summary.reward_range,
        conversion=conversion,
        provenance=marks,
    )


def leave_one_out_profile(
    summary: TraceSummary,
    profile: DivergenceProfile,
    *,
    reward_variance: RewardVarianceKind = "within_prompts",
) -> DivergenceProfile:
    """Return a batch of profiles, each without one block of prompts, for a jackknife.

    Parameters
    ----------
    summary : TraceSummary
        The trace.
    profile : DivergenceProfile
        Its profile. Fields of :data:`SEQUENCE_MEANS` are recomputed; observed maxima stay, as a
        jackknife says nothing about them; other estimates are left out.
    reward_variance : {"within_prompts", "total"}
        As for :func:`profile_of`.

    Returns
    -------
    DivergenceProfile
        Fields of :data:`SEQUENCE_MEANS` have shape ``(G,)``. The deleted block may leave nothing
        over; such entries keep the value of the whole trace.
    """
    blocks = Blocks(summary.groups())
    changed = {name: blocks.leave_one_out(m.column) for name, m in _means(summary).items()}
    if not summary.has("kl"):
        # Without a block the mean of k1 may fall below that of k3, and below 0.
        least = blocks.leave_one_out(summary.sequences["k3_sum"])
        changed["kl_seq"] = np.maximum(changed["kl_seq"], least)
    if summary.has("reward"):
        variance = RewardVariance.of(summary, blocks, total=reward_variance == "total")
        changed["reward_var"] = variance.leave_one_out
    fields: dict[str, Any] = {
        name: getattr(profile, name)
        for name in profile.known
        if name in SEQUENCE_MEANS or profile.provenance[name].kind != "estimated"
    }
    for name, values in changed.items():
        whole = float(getattr(profile, name))
        kept = np.where(np.isfinite(values), values, whole)
        fields[name] = np.minimum(kept, 1.0) if name in _MASSES else kept
    return DivergenceProfile(
        T=profile.T, **fields, reward_range=profile.reward_range, conversion=profile.conversion
    )


def raised_profile(summary: TraceSummary, profile: DivergenceProfile) -> DivergenceProfile:
    """Return the profile with every estimated mean one standard error higher.

    A bound rises with each divergence, so that its rise bounds its standard error to first order,
    however the estimates at different positions depend on each other. Standard errors by position
    are raised by the factor by which prompts raise that of their sum.

    Parameters
    ----------
    summary : TraceSummary
        The trace.
    profile : DivergenceProfile
        Its profile.

    Returns
    -------
    DivergenceProfile
        Values that cannot rise (a TV of 1) stay.
    """
    raised: dict[str, Any] = {}
    for name, error in _clustered_errors(summary).items():
        raised[name] = getattr(profile, name) + error
    for name in profile.known:
        mark = profile.provenance[name]
        if mark.kind == "estimated" and mark.standard_error is not None:
            raised[name] = getattr(profile, name) + mark.standard_error
    for name in _MASSES & set(raised):
        raised[name] = np.minimum(raised[name], 1.0)
    if "reward_var" in raised:
        raised["reward_var"] = np.minimum(raised["reward_var"], profile.reward_width**2 / 4)
    return profile.with_values(**raised)


def _known(error: float) -> float | None:
    return error if math.isfinite(error) else None


def _means(summary: TraceSummary) -> dict[str, _Mean]:
    """Every scalar field that is a mean over sequences, rewards apart."""
    table = summary.sequences
    unseen = unseen_mass(table)
    text_of_kl = "mean of k3 = rho - 1 - log rho of the sampled tokens summed over a sequence"
    if unseen.any():
        text_of_kl = "mean of k1 = -log rho summed over a sequence, as the mean of rho is below 1"
    out = {"tv_seq": _Mean(sequence_tv(table), "mean of max(0, 1 - W)")}
    for name, field, column, sampled, text in (
        ("kl", "kl_seq", "kl_sum", table["k3_sum"] + unseen, text_of_kl),
        (
            "tv",
            "tv_total",
            "tv_sum",
            sequence_tv_total(table),
            "mean of max(0, 1 - rho) of the sampled tokens summed over a sequence",
        ),
        (
            "chi2",
            "chi2_total",
            "chi2_sum",
            table["square_sum"],
            f"mean of {_SAMPLED_TEXT['chi2']} summed over a sequence",
        ),
    ):
        if summary.has(name):
            out[field] = _Mean(table[column], f"mean of the logged {name} summed over a sequence")
        else:
            out[field] = _Mean(sampled, text)
    if summary.has("chi2"):
        out["residual_square"] = _Mean(
            table["residual_path"], "mean of sum_t (W_{t-1} - 1)^2 chi2(c_t)"
        )
    else:
        residual = residual_of(table)
        out["residual_square"] = _Mean(residual * residual, "mean of (W - 1 - M)^2")
    return out


def _positions(summary: TraceSummary) -> dict[str, _Positions]:
    """Every field with one mean per position."""
    out = {}
    for name, (quantity, factor) in _SAMPLED.items():
        if summary.has(name):
            mean = _Positions(name, f"mean of the logged {name} at each position")
        else:
            by = f"mean of {_SAMPLED_TEXT[name]} at each position"
            mean = _Positions(quantity, by, factor)
        out[f"{name}_mean"] = mean
    return out


def _add_reward_variance(
    summary: TraceSummary,
    blocks: Blocks,
    kind: RewardVarianceKind,
    fields: dict[str, Any],
    marks: dict[str, Provenance],
) -> None:
    if not summary.has("reward"):
        return
    variance = RewardVariance.of(summary, blocks, total=kind == "total")
    fields["reward_var"] = variance.value
    marks["reward_var"] = Provenance(
        "estimated",
        by="unbiased variance within prompts" if variance.within_prompts else "total variance",
        standard_error=_known(variance.jackknife_error),
    )


def _add_maxima(
    summary: TraceSummary, fields: dict[str, Any], marks: dict[str, Provenance]
) -> None:
    table, extremes = summary.sequences, summary.extremes
    for name in ("tv", "kl", "chi2"):
        if summary.has(name) and f"{name}_max" in extremes:
            fields[f"{name}_max"] = extremes[f"{name}_max"].value
            marks[f"{name}_max"] = Provenance("observed", by=f"largest logged {name}")
    if summary.has("chi2"):
        fields["chi2_position_max"] = summary.positions.maximum("chi2")
        marks["chi2_position_max"] = Provenance("observed", by="largest chi2 at each position")
    for name in ("kl", "chi2"):
        if summary.has(name):
            fields[f"{name}_path_max"] = float(table[f"{name}_sum"].max())
            marks[f"{name}_path_max"] = Provenance(
                "observed", by=f"largest sum of {name} over a sequence"
            )
    if "abs_log_ratio_max" in extremes:
        fields["log_ratio_max"] = extremes["abs_log_ratio_max"].value
        marks["log_ratio_max"] = Provenance("observed", by="largest |log rho| of a sampled token")


def _add_stopped(
    summary: TraceSummary, fields: dict[str, Any], marks: dict[str, Provenance]
) -> None:
    """Choose the budget x that makes the stopped path-sum bound smallest."""
    stopped = summary.stopped
    width = summary.reward_range[1] - summary.reward_range[0]
    variance = fields.get("reward_var", width**2 / 4) / width**2
    value = math.sqrt(variance) * (root_exp_excess(stopped.budgets) + np.sqrt(stopped.stop_tail))
    best = int(np.argmin(value + stopped.stop_prob))
    # Made sequence by sequence: prompts are allowed for as for the whole sum of chi2.
    factor = _prompt_factor(Blocks(summary.groups()), summary.sequences["chi2_sum"])
    for name, values, errors in (
        ("prob", stopped.stop_prob, stopped.stop_prob_standard_error),
        ("tail", stopped.stop_tail, stopped.stop_tail_standard_error),
    ):
        fields[f"chi2_stop_{name}"] = float(values[best])
        marks[f"chi2_stop_{name}"] = (
            Provenance(
                "estimated",
                by="mean over sequences at the best budget of a grid",
                standard_error=_known(factor * float(errors[best])),
            )
            if stopped.crossed[best]
            else Provenance("observed", by="no sequence exceeds the best budget of a grid")
        )
    fields["chi2_stop_budget"] = float(stopped.budgets[best])
    marks["chi2_stop_budget"] = Provenance("given", by="the best budget of a grid", plug_in=True)
