"""Rewards that make the error as large as it can be."""

from __future__ import annotations

import numpy as np

from trbounds.oracle.tabular import Array, Scalar, TabularPair
from trbounds.oracle.tree import Position, Responses, response_mean, walk


def worst_reward(pair: TabularPair) -> Array:
    """Return a reward that attains `ExactTruth.sup_error`.

    Parameters
    ----------
    pair : TabularPair
        Its reward is ignored, its reward range is not.

    Returns
    -------
    array of shape ``(prompts, A**T)``
        The largest reward on one side of the sign of ``W - 1 - M``, the smallest on the other.
    """
    tree = walk(pair)
    weights = error_weights(pair, tree.responses)
    gain, loss = worst_errors(pair, weights, prompt_defect(tree.positions))
    low, high = pair.reward_range
    reward = np.full(weights.shape, low)
    reward[(weights if gain >= loss else -weights) > 0] = high
    return reward


def variance_worst_reward(pair: TabularPair) -> Array:
    """Return a reward with the largest ``|error|`` for its variance.

    It is affine in ``W - 1 - M`` on each prompt and fills the reward range, so that
    ``error**2 = reward_var * residual_square`` exactly when the pair is absolutely continuous.

    Parameters
    ----------
    pair : TabularPair
        Its reward is ignored, its reward range is not.

    Returns
    -------
    array of shape ``(prompts, A**T)``
        The reward; constant if the two policies have no residual.
    """
    responses = walk(pair).responses
    low, high = pair.reward_range
    floor = responses.residual.min(axis=1, keepdims=True)
    above = responses.residual - floor
    largest = above.max()
    if largest == 0:
        return np.full(above.shape, low)
    reward: Array = np.minimum(low + (high - low) * (above / largest), high)
    return reward


def prompt_defect(positions: tuple[Position, ...]) -> Array:
    """Return ``-E_mu[M]`` of each prompt, exactly 0 under absolute continuity."""
    defect: Array = sum((c.mu * np.where(c.sampled, c.defect, 0)).sum(axis=1) for c in positions)
    return defect


def error_weights(pair: TabularPair, responses: Responses) -> Array:
    """Return what multiplies the reward of each response in the error, prompt by prompt."""
    return np.where(responses.sampled, responses.mu * responses.residual, responses.pi)


def worst_errors(pair: TabularPair, weights: Array, defect: Array) -> tuple[Scalar, Scalar]:
    """Return the largest error over all rewards, and the largest of its negative."""
    low, high = pair.reward_range
    floor = low * (pair.prompt_probability * defect).sum()
    gain = (high - low) * response_mean(pair, np.maximum(weights, 0)) + floor
    loss = (high - low) * response_mean(pair, np.maximum(-weights, 0)) - floor
    return gain, loss
