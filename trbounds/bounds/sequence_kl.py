"""Sequence KL: ``|Error| <= D``, at every horizon, from the mean KL of responses alone.

The residual splits along every response, ``W - 1 - M = phi(W - 1) - sum_t phi(rho_t - 1)`` with
``phi(x) = x - log(1 + x) >= 0``, and both parts have mean D. So no token maximum, no horizon and
no variance is needed.

The constant 1 is the best possible for every D: ``trbounds.oracle.rare_switch`` comes as close to
D as wanted, with many steps and a rare switch; its reward's variance vanishes, so that knowing
the variance would not help. Since ``D < G(D, v)`` for every v > 0 (see ``entropy_dual``), no D
rules a certified improvement out, and ``L' > D`` does occur, at small D and far beyond 1.

Nor is absolute continuity needed, on which the derivations of most bounds rest: where the
training policy leaves the support of the rollout policy, as with top-p or top-k rollouts, both
means fall short of D by the mass that leaves, and this pays for the reward that rollouts cannot
see. There D must be estimated by the mean of ``-log rho`` or from full distributions, as k3 falls
short of it by the same mass; and the surrogate must count rewards from a baseline within their
range, as the mean of M is not 0.

The proof gives each sign of the error apart. With ``B = sum_t phi(rho_t - 1)``, the k3 estimator of
the KL summed over a response, and ``S = -E_mu[M]`` the mass on tokens that rollouts cannot draw,
``-E_mu[R B] <= Error <= E_mu[(1 - R) B] + S`` for rewards in [0, 1]; the ends are D apart. The
left one says ``J(pi) - J(mu) >= E_mu[R log W]``, which expectation-maximisation for policy
search ascends (Dayan and Hinton 1997; Kober and Peters 2009).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trbounds.bound import BASELINE_IN_RANGE, Bound, Source

if TYPE_CHECKING:
    from trbounds.derivation import Derivation
    from trbounds.profile import DivergenceProfile
    from trbounds.symbolic import Statement


def formula(p: DivergenceProfile) -> Any:
    """Value for rewards in [0, 1]."""
    return p.kl_seq


def statement() -> Statement:
    """The bound in sympy."""
    from trbounds.symbolic import SYMBOLS, Statement

    return Statement(SYMBOLS["kl_seq"])


def derive() -> Derivation:
    """The residual split into phi(W - 1) and the sum of phi(rho_t - 1), of mean D at most."""
    from trbounds.derivation import Chain
    from trbounds.lemmas.pathwise import ERROR_BY_SEQUENCE_KL
    from trbounds.symbolic import error

    chain = Chain(BOUND.title, error)
    chain.by(ERROR_BY_SEQUENCE_KL)
    chain.fact(
        "-E_mu[R B] <= Error <= E_mu[(1 - R) B] + S, B = sum_t phi(rho_t - 1), S = -E_mu[M]",
        ERROR_BY_SEQUENCE_KL.title,
        ERROR_BY_SEQUENCE_KL.certificate,
        ERROR_BY_SEQUENCE_KL,
    )
    return chain.end(statement().value)


BOUND = Bound(
    key="sequence_kl",
    title="Sequence KL",
    source=Source("trbounds", "the residual split along every response"),
    requires=("kl_seq",),
    assumes=(BASELINE_IN_RANGE,),
    formula=formula,
    statement=statement,
    derive=derive,
    growth=0,
    rank=68,
)
