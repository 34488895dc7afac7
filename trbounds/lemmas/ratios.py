"""Lemmas on the ratio of two policies: along one response, and at one context."""

from __future__ import annotations

from collections.abc import Iterable

import sympy as sp

from trbounds.derivation import Check, Lemma, Step, all_of, identity
from trbounds.lemmas.trees import distribution

_W = sp.Symbol("W", nonnegative=True)
_residual = sp.Symbol("W - 1 - M", real=True)
_telescoped = sp.Symbol("-sum_t (rho_t - 1)(1 - prod_{j>t} rho_j)", real=True)


def _prove_telescoping() -> Iterable[Step]:
    def both_sides(length: int) -> Check:
        rho = sp.symbols(f"rho1:{length + 1}", nonnegative=True)
        residual = sp.prod(rho) - 1 - sum(r - 1 for r in rho)
        telescoped = -sum((r - 1) * (1 - sp.prod(rho[i + 1 :])) for i, r in enumerate(rho))
        return identity(residual, telescoped)

    yield Step(
        "W - 1 - M = -sum_t (rho_t - 1)(1 - prod_{j>t} rho_j)",
        "expanded for T = 1..5",
        all_of("enumeration", "T = 1..5", [both_sides(n) for n in range(1, 6)]),
    )
    rho = sp.Symbol("rho", real=True)
    yield Step(
        sp.Eq((_W - 1) * rho + (rho - 1), _W * rho - 1, evaluate=False),
        "for every T, by induction: sum_t (rho_t - 1) prod_{j>t} rho_j = W - 1; one more token "
        "multiplies the sum by rho and adds rho - 1, and W becomes W rho",
        identity((_W - 1) * rho + (rho - 1), _W * rho - 1),
    )


#: ``W - 1 - M = -sum_t (rho_t - 1)(1 - prod_{j>t} rho_j)``, along every sequence.
TELESCOPING = Lemma(
    key="telescoping",
    title="telescoping identity",
    left=_residual,
    relation="==",
    right=_telescoped,
    prove=_prove_telescoping,
    source="TRM v2, section 3",
)

_drift = sp.Symbol("E_mu[rho_t - 1 | c_t]", real=True)


def _prove_martingale() -> Iterable[Step]:
    def drift(tokens: int) -> Check:
        pairs = zip(distribution("mu", tokens), distribution("pi", tokens), strict=True)
        return identity(sum(m * (p / m - 1) for m, p in pairs), sp.Integer(0))

    yield Step(
        "sum_y mu(y|c) (pi(y|c)/mu(y|c) - 1) = sum_y pi(y|c) - sum_y mu(y|c) = 0",
        "term by term, over the tokens that mu may draw; pi puts mass only there, so both sums "
        "are 1; expanded for 2..6 tokens",
        all_of("enumeration", "2..6 tokens", [drift(n) for n in range(2, 7)]),
    )


#: ``E_mu[rho_t - 1 | c_t] = 0``: M and W - 1 are martingales under the rollout policy.
MARTINGALE = Lemma(
    key="martingale",
    title="the ratio has mean 1 (needs absolute continuity)",
    left=_drift,
    relation="==",
    right=sp.Integer(0),
    prove=_prove_martingale,
    assumes="pi << mu",
)


def chi2_step() -> Step:
    """Step that recognises chi2 as the second moment of ``rho - 1`` at one context."""

    def moment(tokens: int) -> Check:
        pairs = list(zip(distribution("mu", tokens), distribution("pi", tokens), strict=True))
        square = sum(m * (p / m - 1) ** 2 for m, p in pairs)
        return lambda: identity(sp.cancel(square - sum(p**2 / m for m, p in pairs) + 1), 0)()

    return Step(
        "E_mu[(rho_t - 1)^2 | c_t] = sum_y pi^2/mu - 1 = chi2(c_t)",
        "the square multiplied out, and both policies sum to 1; expanded for 2..5 tokens",
        all_of("enumeration", "2..5 tokens", [moment(n) for n in range(2, 6)]),
    )
