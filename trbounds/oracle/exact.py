"""Exact truth about a tabular policy pair, by enumeration of every response."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from trbounds.errors import InputError
from trbounds.oracle.rewards import error_weights, prompt_defect, worst_errors
from trbounds.oracle.tabular import Array, Scalar, TabularPair
from trbounds.oracle.tree import (
    Position,
    Tree,
    logarithm_of_ratio,
    response_mean,
    running_sum,
    walk,
    working_precision,
)

PROFILE_FIELDS = (
    "T",
    "tv_max",
    "kl_max",
    "chi2_max",
    "tv_mean",
    "kl_mean",
    "chi2_mean",
    "chi2_position_max",
    "tv_seq",
    "kl_seq",
    "chi2_path_max",
    "kl_path_max",
    "log_ratio_max",
    "reward_var",
    "residual_square",
    "reward_range",
)
"""Fields of a DivergenceProfile that :class:`ExactTruth` knows, under the same names."""


@dataclass(frozen=True, eq=False)
class ExactTruth:
    """Everything about a pair that the theory speaks of, without approximation.

    ``mu`` is the rollout policy, ``pi`` the training policy, ``rho`` their ratio at a token, ``W``
    the product and ``M`` the sum of ``rho - 1`` over a response, ``R`` the reward. Means are over
    prompts too. Scalars are floats, or in exact arithmetic fractions, except that quantities with
    logarithms are ``mpmath.mpf`` good to 50 digits. Infinite values are ``float("inf")`` or
    ``mpmath.inf``. Position arrays have shape ``(T,)``.

    Attributes
    ----------
    T : int
        Horizon.
    reward_range : tuple
        Smallest and largest possible reward.
    J_mu, J_pi : scalar
        Expected reward under either policy.
    surrogate : scalar
        ``L' = E_mu[R M]``.
    error : scalar
        ``J_pi - J_mu - surrogate``, summed response by response so that nearly equal policies
        lose no accuracy. Right without absolute continuity.
    error_identity : scalar
        ``-E_mu[R sum_t (rho_t - 1)(1 - prod_{j>t} rho_j)] = E_mu[R (W - 1 - M)]``: what the
        identity of the papers gives. Equal to `error` when `absolutely_continuous`.
    sup_error : scalar
        Largest ``|error|`` over all rewards in the range that may depend on the prompt.
    absolutely_continuous : bool
        Whether the training policy stays in the rollout policy's support, at every context the
        rollout policy reaches.
    support_defect : array
        Per position, ``1 - E_mu[rho_t]``: mean training probability outside the support.
    weight_mean : scalar
        ``E_mu[W]``; one minus it is the training probability of responses that the rollout policy
        never produces.
    tv_max, kl_max, chi2_max : scalar
        Largest TV(pi, mu), KL(mu‖pi) and chi2(pi‖mu) over contexts that either policy reaches.
    tv_mean, kl_mean, chi2_mean : array
        Per position, their means over rollouts; 0 after the end of a response.
    chi2_position_max : array
        Per position, largest chi2 over contexts that either policy reaches.
    tv_seq, kl_seq : scalar
        TV and KL(mu‖pi) of the response distributions.
    chi2_path_max, kl_path_max : scalar
        Largest sum along one response of the rollout policy.
    log_ratio_max : scalar
        Largest ``|log rho|`` over contexts that either policy reaches.
    reward_var : scalar
        ``E_x Var_mu(R | x)``.
    reward_var_total : scalar
        ``Var_mu(R)``, prompts included.
    residual_square : scalar
        ``E_mu[(W - 1 - M)^2]``.
    length_mean : scalar
        ``E_mu[length]``, the end-of-response token included.
    ratio_sum_mean, reward_ratio_sum_mean : scalar
        ``E_mu[S]`` and ``E_mu[R S]`` with ``S`` the sum of ``rho_t`` up to the length.
    """

    T: int
    reward_range: tuple[Scalar, Scalar]
    J_mu: Scalar
    J_pi: Scalar
    surrogate: Scalar
    error: Scalar
    error_identity: Scalar
    sup_error: Scalar
    absolutely_continuous: bool
    support_defect: Array
    weight_mean: Scalar
    tv_max: Scalar
    kl_max: Scalar
    chi2_max: Scalar
    tv_mean: Array
    kl_mean: Array
    chi2_mean: Array
    chi2_position_max: Array
    tv_seq: Scalar
    kl_seq: Scalar
    chi2_path_max: Scalar
    kl_path_max: Scalar
    log_ratio_max: Scalar
    reward_var: Scalar
    reward_var_total: Scalar
    residual_square: Scalar
    length_mean: Scalar
    ratio_sum_mean: Scalar
    reward_ratio_sum_mean: Scalar

    def profile_fields(self) -> dict[str, Scalar]:
        """Return the fields of a DivergenceProfile.

        Returns
        -------
        dict
            One entry for each name of `PROFILE_FIELDS`.
        """
        return {name: getattr(self, name) for name in PROFILE_FIELDS}

    def baseline_surrogate(self, baseline: Scalar) -> Scalar:
        """Return ``E_mu[(R - b) sum_{t <= length} rho_t]``, the surrogate with a constant baseline.

        With absolute continuity it is ``L' + (J_mu - b) E_mu[length] + Cov_mu(R, length)``. It
        is ``L'`` at ``b = J_mu`` only if reward and length are uncorrelated.

        Parameters
        ----------
        baseline : scalar
            ``b``, in reward units.

        Returns
        -------
        scalar
            The surrogate, in reward units.
        """
        return self.reward_ratio_sum_mean - baseline * self.ratio_sum_mean


def exact(pair: TabularPair) -> ExactTruth:
    """Enumerate every response of a pair.

    Time and memory grow as ``prompts * A**T``. In float64 the result is accurate to a few units in
    the last place per summand, however close the policies are, as long as ratio products stay
    below 1e150. KL and logarithms in exact arithmetic hold 50 digits where ``|rho - 1| >= 1e-30``.

    Parameters
    ----------
    pair : TabularPair
        The policies and the reward.

    Returns
    -------
    ExactTruth
        The truth.
    """
    with working_precision(pair.rational):
        tree = walk(pair)
        divergences = _divergence_fields(pair, tree)
        return ExactTruth(
            T=pair.T,
            reward_range=pair.reward_range,
            **divergences,
            **_reward_fields(pair, tree),
        )


def stopped_path_fields(pair: TabularPair, budget: Scalar) -> dict[str, Scalar]:
    """Return what the stopped path-sum bound needs, for one budget.

    ``tau`` is the first position at which the sum of chi2 along the response, that position
    included, exceeds the budget.

    Parameters
    ----------
    pair : TabularPair
        The two policies.
    budget : scalar
        At least 0. A float stands for its exact value in exact arithmetic.

    Returns
    -------
    dict
        ``chi2_stop_budget`` the budget; ``chi2_stop_prob`` the probability under the training
        policy that ``tau <= T``; ``chi2_stop_tail`` the mean under the rollout policy of the sum
        of chi2 from ``tau`` on.

    Raises
    ------
    InputError
        If the budget is negative or not finite.
    """
    if not 0 <= budget < float("inf"):
        raise InputError(f"is {budget}; expected a finite number of at least 0", field="budget")
    budget = Fraction(budget) if pair.rational else float(budget)
    with working_precision(pair.rational):
        positions = walk(pair).positions
        sums = running_sum([position.chi2 for position in positions], pair)
        zero = budget - budget
        probability, tail = zero, zero
        already = np.zeros((pair.prompts, 1), dtype=bool)
        for position, total in zip(positions, sums, strict=True):
            stopped = (total > budget).astype(bool)
            probability += response_mean(pair, np.where(stopped & ~already, position.pi, zero))
            beyond = stopped & position.sampled
            tail += response_mean(pair, position.mu * np.where(beyond, position.chi2, zero))
            already = np.repeat(stopped, pair.A, axis=1)
    return {
        "chi2_stop_budget": budget,
        "chi2_stop_prob": _plain(probability),
        "chi2_stop_tail": _plain(tail),
    }


def _plain(value: Scalar) -> Scalar:
    return float(value) if isinstance(value, np.floating) else value


def _array(pair: TabularPair, values: list[Scalar]) -> Array:
    return np.array(values, dtype=pair.reward.dtype)


def _sampled_mean(pair: TabularPair, position: Position, values: Array) -> Scalar:
    # The mask keeps an infinite divergence that rollouts never meet out of the mean.
    return response_mean(pair, position.mu * np.where(position.sampled, values, 0))


def _divergence_fields(pair: TabularPair, tree: Tree) -> dict[str, Scalar]:
    positions, responses = tree.positions, tree.responses
    fields: dict[str, Scalar] = {
        "support_defect": _array(pair, [_sampled_mean(pair, c, c.defect) for c in positions])
    }
    largest = {}
    for name in ("tv", "kl", "chi2"):
        values = [getattr(position, name) for position in positions]
        largest[name] = _array(pair, [value.max() for value in values])
        fields[f"{name}_max"] = _plain(largest[name].max())
        fields[f"{name}_mean"] = _array(
            pair,
            [_sampled_mean(pair, c, value) for c, value in zip(positions, values, strict=True)],
        )
        if name != "tv":
            paths = running_sum(values, pair)[-1]
            # Every context that a rollout reaches is continued by one.
            fields[f"{name}_path_max"] = _plain(paths[positions[-1].sampled].max())
    excess = np.abs(responses.weight_excess)
    half_distance = np.where(responses.sampled, responses.mu * excess, responses.pi) / 2
    outside = np.where(responses.sampled, 0, responses.pi)
    fields["absolutely_continuous"] = not any(c.defect[c.sampled].any() for c in positions)
    fields["chi2_position_max"] = largest["chi2"]
    fields["tv_seq"] = _plain(response_mean(pair, half_distance))
    fields["kl_seq"] = _plain(fields["kl_mean"].sum())
    fields["log_ratio_max"] = _log_ratio_max(pair, positions)
    fields["residual_square"] = _plain(response_mean(pair, responses.mu * responses.residual**2))
    fields["weight_mean"] = _plain(1 - response_mean(pair, outside))
    return fields


def _log_ratio_max(pair: TabularPair, positions: tuple[Position, ...]) -> Scalar:
    if any(c.defect[c.reached].any() for c in positions):
        return float("inf")
    steps = [c.step[c.reached] for c in positions]
    # A ratio is at most one somewhere, so the smallest step is at most 0, and the largest at least.
    lowest = min(step.min() for step in steps)
    highest = max(step.max() for step in steps)
    result: Scalar = max(-logarithm_of_ratio(lowest), logarithm_of_ratio(highest))
    return result


def _reward_fields(pair: TabularPair, tree: Tree) -> dict[str, Scalar]:
    responses = tree.responses
    weights = error_weights(pair, responses)
    prompt_mean = (responses.mu * pair.reward).sum(axis=1)
    # Rewards are centred, and the mean of each sum put back exactly: rounding in the
    # probabilities then cannot turn a constant reward into an error.
    centred = pair.reward - prompt_mean[:, None]
    defect = prompt_defect(tree.positions)
    outside = np.where(responses.sampled, 0, responses.pi)
    identity = np.where(responses.sampled, weights, 0)
    total = responses.mu * responses.ratio_sum_excess

    def over_prompts(values: Array) -> Scalar:
        return (pair.prompt_probability * values).sum()

    within = response_mean(pair, responses.mu * centred**2)
    J = over_prompts(prompt_mean)
    ratio_sum = responses.mu * (responses.ratio_sum_excess + pair.lengths())
    values = {
        "J_mu": J,
        "J_pi": response_mean(pair, responses.pi * pair.reward),
        "surrogate": response_mean(pair, total * centred) - over_prompts(prompt_mean * defect),
        "error": response_mean(pair, weights * centred) + over_prompts(prompt_mean * defect),
        "error_identity": response_mean(pair, identity * centred)
        + over_prompts(prompt_mean * (defect - outside.sum(axis=1))),
        "sup_error": max(worst_errors(pair, weights, defect)),
        "reward_var": within,
        "reward_var_total": within + over_prompts((prompt_mean - J) ** 2),
        "length_mean": response_mean(pair, responses.mu * pair.lengths()),
        "ratio_sum_mean": response_mean(pair, ratio_sum),
        "reward_ratio_sum_mean": response_mean(pair, ratio_sum * pair.reward),
    }
    return {name: _plain(value) for name, value in values.items()}
