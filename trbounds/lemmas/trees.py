"""Small problems in full generality: trees of binary tokens, and distributions, in symbols.

At a context where the rollout policy draws token 1 with probability m, every ratio with mean 1 is
``1 + f (1 - m)`` at token 1 and ``1 - f m`` at token 0 for some f, so that every mean over the
tree is a polynomial. An identity between such polynomials holds for all policies and rewards.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import sympy as sp

from trbounds.derivation import Certificate, Check, all_of, identity

_Path = tuple[int, ...]


class RatioTree:
    """Binary tokens up to a horizon: rollout probabilities, ratios and rewards as symbols."""

    def __init__(self, length: int) -> None:
        self.length = length
        self.paths: list[_Path] = list(product((0, 1), repeat=length))
        self.contexts = [c for n in range(length) for c in product((0, 1), repeat=n)]
        self._m = {c: sp.Symbol(_name("m", c), real=True) for c in self.contexts}
        self._f = {c: sp.Symbol(_name("f", c), real=True) for c in self.contexts}
        self.reward = {y: sp.Symbol(_name("R", y), real=True) for y in self.paths}

    def mu(self, c: _Path, y: int) -> sp.Expr:
        """Rollout probability of a token."""
        return self._m[c] if y else 1 - self._m[c]

    def step(self, c: _Path, y: int) -> sp.Expr:
        """``rho - 1`` of a token."""
        return self._f[c] * (1 - self._m[c]) if y else -self._f[c] * self._m[c]

    def chi2(self, c: _Path) -> sp.Expr:
        """``sum_y mu (rho - 1)^2`` at a context."""
        return sum(self.mu(c, y) * self.step(c, y) ** 2 for y in (0, 1))

    def reached(self, c: _Path) -> sp.Expr:
        """Probability that a rollout reaches a context."""
        return sp.prod(self.mu(c[:i], c[i]) for i in range(len(c)))

    def weight(self, c: _Path) -> sp.Expr:
        """Product of the ratios up to a context."""
        return sp.prod(1 + self.step(c[:i], c[i]) for i in range(len(c)))

    def ratio_sum(self, y: _Path) -> sp.Expr:
        """M of a response: the sum of its ``rho - 1``."""
        return sum(self.step(y[:i], y[i]) for i in range(len(y)))

    def residual(self, y: _Path) -> sp.Expr:
        """``W - 1 - M`` of a response."""
        return self.weight(y) - 1 - self.ratio_sum(y)

    def value(self, c: _Path, *, train: bool = False) -> sp.Expr:
        """Mean reward after a context, under the rollout or the training policy."""
        if len(c) == self.length:
            return self.reward[c]
        return sum(
            self.mu(c, y) * (1 + self.step(c, y) if train else 1) * self.value((*c, y), train=train)
            for y in (0, 1)
        )

    def advantage(self, c: _Path, y: int) -> sp.Expr:
        """``E_mu[R | c, y] - E_mu[R | c]``."""
        return self.value((*c, y)) - self.value(c)

    def mean(self, of: Callable[[_Path], sp.Expr]) -> sp.Expr:
        """Mean over rollouts of a function of the response."""
        return sum(self.reached(y) * of(y) for y in self.paths)

    def mean_over_tokens(self, of: Callable[[_Path, int], sp.Expr]) -> sp.Expr:
        """Sum over positions of the mean over rollouts of a function of context and token."""
        return sum(
            self.reached(c) * self.mu(c, y) * of(c, y) for c in self.contexts for y in (0, 1)
        )


class FreeTree(RatioTree):
    """Ratios with any means: the training policy may leave the support of the rollout policy."""

    def step(self, c: _Path, y: int) -> sp.Expr:
        """``rho - 1`` of a token, a symbol of its own."""
        return sp.Symbol(_name(f"d{y}", c), real=True)


def _name(letter: str, tokens: _Path) -> str:
    return letter + "_" + "".join(map(str, tokens))


def on_trees(
    sides: Callable[[RatioTree], tuple[sp.Expr, sp.Expr]],
    longest: int = 3,
    kind: type[RatioTree] = RatioTree,
) -> Check:
    """Check an identity of means over whole trees, for horizons from 1 on.

    Parameters
    ----------
    sides : callable
        Both sides of the identity, polynomials in the tree's symbols.
    longest : int
        Last horizon.
    kind : type
        :class:`RatioTree`, or :class:`FreeTree` where absolute continuity is not assumed.
    """

    def at(length: int) -> Check:
        def check() -> Certificate:
            left, right = sides(kind(length))
            return identity(sp.expand(left), sp.expand(right))()

        return check

    lengths = range(1, longest + 1)
    return all_of("enumeration", f"T = 1..{longest}", [at(n) for n in lengths])


def distribution(name: str, size: int) -> list[sp.Expr]:
    """Probabilities of any distribution on `size` outcomes: the last one is what remains."""
    free = list(sp.symbols(f"{name}1:{size}", positive=True))
    return [*free, 1 - sum(free)]
