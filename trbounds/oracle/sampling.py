"""Logged traces drawn from a tabular pair, of which the truth is known."""

from __future__ import annotations

from typing import Any

import numpy as np

from trbounds.divergences import divergences
from trbounds.errors import InputError
from trbounds.oracle.tabular import TabularPair
from trbounds.traces.batch import TraceBatch


def sample_trace(
    pair: TabularPair, prompts: int, samples: int, rng: np.random.Generator
) -> TraceBatch:
    """Sample responses of the rollout policy, and log them as a framework would.

    Parameters
    ----------
    pair : TabularPair
        The policies and the reward.
    prompts : int
        Prompts to draw from the pair's distribution; each gets a ``prompt_id`` of its own.
    samples : int
        Responses per prompt.
    rng : numpy.random.Generator
        Source of randomness.

    Returns
    -------
    TraceBatch
        With both log-probabilities, exact ``kl``, ``tv``, ``chi2`` and ``entropy`` of every
        context, and rewards.

    Raises
    ------
    InputError
        If the training policy gives probability 0 to a token that was sampled.
    """
    pair = pair.to_float()
    prompt = np.repeat(rng.choice(pair.prompts, size=prompts, p=pair.prompt_probability), samples)
    prefix = np.zeros(prompt.size, dtype=np.int64)
    columns: dict[str, list[np.ndarray]] = {
        name: [] for name in ("rollout_logprobs", "train_logprobs", "kl", "tv", "chi2", "entropy")
    }
    for rollout, train in zip(pair.rollout, pair.train, strict=True):
        mu, pi = rollout[prompt, prefix], train[prompt, prefix]
        draw = rng.random(prompt.size)[:, None] * mu.sum(axis=1, keepdims=True)
        token = (np.cumsum(mu, axis=1) <= draw).sum(axis=1)
        with np.errstate(divide="ignore"):
            log_mu, log_pi = np.log(mu), np.log(pi)
        rows = divergences(log_mu, log_pi)
        columns["rollout_logprobs"].append(log_mu[np.arange(prompt.size), token])
        columns["train_logprobs"].append(log_pi[np.arange(prompt.size), token])
        for name in ("kl", "tv", "chi2", "entropy"):
            columns[name].append(np.asarray(getattr(rows, name)))
        prefix = prefix * pair.A + token
    lengths = pair.lengths()[prefix]
    inside = np.arange(pair.T) < lengths[:, None]
    flat: dict[str, Any] = {
        name: np.stack(values, axis=1)[inside] for name, values in columns.items()
    }
    if not np.isfinite(flat["train_logprobs"]).all():
        raise InputError("the training policy gives probability 0 to a sampled token")
    return TraceBatch(
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        **flat,
        reward=pair.reward[prompt, prefix],
        prompt_id=np.repeat(np.arange(prompts), samples),
    )
