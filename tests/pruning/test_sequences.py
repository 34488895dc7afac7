"""Bias of whole sequences: estimates from samples of either policy against enumeration."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from trbounds.errors import InputError
from trbounds.pruning import prune, sequence_bias

T, V, MIN_P = 4, 3, 0.2


@pytest.fixture(scope="module")
def tree() -> dict[tuple[int, ...], np.ndarray]:
    rng = np.random.default_rng(11)
    return {
        context: rng.normal(size=V) * 1.5
        for t in range(T)
        for context in product(range(V), repeat=t)
    }


def exact_tv(tree: dict[tuple[int, ...], np.ndarray]) -> float:
    total = 0.0
    for y in product(range(V), repeat=T):
        full = pruned = 1.0
        for t, token in enumerate(y):
            p = np.exp(tree[y[:t]])
            p /= p.sum()
            safe = p >= MIN_P * p.max()
            full *= p[token]
            pruned *= p[token] * safe[token] / p[safe].sum()
        total += abs(full - pruned) / 2
    return total


def sample(
    tree: dict[tuple[int, ...], np.ndarray], n: int, *, pruned: bool
) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(12)
    policies = {}
    for context, logits in tree.items():
        cut = prune(logits, MIN_P)
        weights = np.exp(np.where(cut.kept, logits, -np.inf) if pruned else logits)
        policies[context] = np.cumsum(weights / weights.sum()), cut.kept, float(cut.pruned_mass)
    masses, outside = np.zeros((n, T)), np.zeros((n, T), dtype=bool)
    for i in range(n):
        context: tuple[int, ...] = ()
        for t, u in enumerate(rng.uniform(size=T)):
            cumulative, kept, masses[i, t] = policies[context]
            token = min(int(np.searchsorted(cumulative, u, side="right")), V - 1)
            outside[i, t] = not kept[token]
            context = (*context, token)
    return masses.ravel(), outside.ravel()


def test_both_estimates_find_the_exact_tv(tree: dict[tuple[int, ...], np.ndarray]) -> None:
    truth, n = exact_tv(tree), 6000
    assert 0.05 < truth < 0.6
    offsets = np.arange(n + 1) * T
    masses, outside = sample(tree, n, pruned=False)
    full = sequence_bias(masses, offsets, token_pruned=outside)
    assert full.sampled_from == "full"
    assert abs(full.tv.value - truth) < 4 * full.tv.standard_error
    # The chances in place of the outcomes: less spread than the indicator of a pruned token.
    share = outside.reshape(n, T).any(axis=1).mean()
    assert full.tv.standard_error < np.sqrt(share * (1 - share) / n)
    assert full.union is not None
    assert full.tv.value <= full.union.value
    masses, outside = sample(tree, n, pruned=True)
    assert not outside.any()
    pruned = sequence_bias(masses, offsets)
    assert pruned.union is None
    assert abs(pruned.tv.value - truth) < 4 * pruned.tv.standard_error
    for found in (full, pruned):
        assert (found.n_sequences, found.T) == (n, T)
        assert found.horizon == pytest.approx(1 - (1 - found.pruned_mass_max) ** T)
        assert truth <= found.horizon


def test_ragged_sequences_by_hand() -> None:
    mass = np.array([0.1, 0.2, 0.5, 0.0])
    found = sequence_bias(mass, [0, 2, 2, 4])
    assert found.T == 2
    assert found.tv.value == pytest.approx((1 - 0.9 * 0.8 + 0 + 0.5) / 3, rel=1e-14)
    outside = np.array([True, False, False, False])
    found = sequence_bias(mass, [0, 2, 2, 4], token_pruned=outside)
    assert found.tv.value == pytest.approx((0.1 + 0 + 0.5) / 3, rel=1e-14)
    assert found.union is not None
    assert found.union.value == pytest.approx((0.3 + 0 + 0.5) / 3, rel=1e-14)


def test_tiny_masses_are_not_lost() -> None:
    found = sequence_bias(np.full(1000, 1e-20), [0, 1000])
    assert found.tv.value == pytest.approx(1e-17, rel=1e-12)
    assert np.isnan(found.tv.standard_error)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0.1, 1.0], [0, 2]), "found 1 at token 1"),
        (([0.1, float("nan")], [0, 2]), "found nan at token 1"),
        (([0.1, -0.1], [0, 2]), "found -0.1"),
        (([0.1], [0, 2]), r"expected \(2,\)"),
        (([0.1, 0.1], [0, 2, 1]), "do not fall"),
        (([0.1, 0.1], [1, 2]), "start at 0"),
        (([0.1, 0.1], [0]), "at least two"),
    ],
)
def test_bad_input(arguments: tuple[list[float], list[int]], message: str) -> None:
    with pytest.raises(InputError, match=message):
        sequence_bias(*arguments)
    with pytest.raises(InputError, match="token_pruned"):
        sequence_bias([0.1], [0, 1], token_pruned=[1])
