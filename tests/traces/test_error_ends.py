"""The ends between which the error lies, against exact truth."""

from __future__ import annotations

import numpy as np
import pytest

from trbounds.oracle import exact, random_pair
from trbounds.oracle.sampling import sample_trace
from trbounds.oracle.tree import walk
from trbounds.traces import TraceSummary
from trbounds.traces.error_estimates import estimate_error


@pytest.mark.parametrize("kind", ["near", "far", "heavy", "sparse", "two_valued"])
def test_the_error_lies_between_its_exact_ends(kind: str) -> None:
    rng = np.random.default_rng(5)
    for _ in range(40):
        pair = random_pair(rng, 3, 3, prompts=2, kind=kind, reward="worst")
        truth = exact(pair)
        responses = walk(pair).responses
        seen = responses.mu > 0
        # B = M - log W, with W = 1 + M + residual.
        M = responses.ratio_sum_excess
        W = 1 + M + responses.residual
        spent = np.where(seen, M - np.log(np.where(seen, W, 1)), 0)
        weight = pair.prompt_probability[:, None] * responses.mu
        low = -np.sum(weight * pair.reward * spent)
        high = np.sum(weight * (1 - pair.reward) * spent)
        assert low - 1e-12 <= truth.error <= high + 1e-12
        assert high - low == pytest.approx(truth.kl_seq, rel=1e-9, abs=1e-14)


def test_estimates_agree_with_exact_ends() -> None:
    rng = np.random.default_rng(11)
    pair = random_pair(rng, 4, 3, prompts=2, kind="near", closeness=0.4, reward="uniform")
    truth = exact(pair)
    summary = TraceSummary.of(sample_trace(pair, 40, 100, rng))
    found = estimate_error(summary)
    assert found.error_low is not None
    assert found.error_high is not None
    assert found.gain_low is not None
    width = found.error_high.value - found.error_low.value
    assert width == pytest.approx(np.mean(summary.sequences["k3_sum"]), rel=1e-12)
    slack = 4 * found.error_low.error
    assert found.error_low.value - slack <= truth.error
    assert found.gain_low.value <= truth.J_pi - truth.J_mu + 4 * found.gain_low.error
