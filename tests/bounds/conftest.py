"""Random policy pairs of every kind, for the tests of bounds against exact truth."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from trbounds.oracle import KINDS, TabularPair, random_pair

_SHAPES = ((1, 3), (2, 3), (3, 2), (4, 2), (3, 3), (6, 2))
_REWARDS = ("worst", "binary", "uniform")


@pytest.fixture(scope="session")
def draw_pair() -> Callable[[np.random.Generator, int], TabularPair]:
    """Draws pair number n: shapes, kinds and rewards take turns; of at most six tokens."""

    def draw(rng: np.random.Generator, number: int) -> TabularPair:
        T, A = _SHAPES[number % len(_SHAPES)]
        return random_pair(
            rng,
            T,
            A,
            prompts=1 + number % 2,
            eos=number % 5 == 0,
            kind=KINDS[number // len(_SHAPES) % len(KINDS)],
            reward=_REWARDS[number % len(_REWARDS)],
            closeness=float(10.0 ** rng.uniform(-4, 0)),
        )

    return draw
