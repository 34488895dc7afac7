"""Lemmas on the residual W - 1 - M, response by response.

Along every response it is the difference of two numbers that are not negative, ``phi(W - 1)`` and
``sum_t phi(rho_t - 1)``, and both of them have the mean D under the rollout policy. Where the
training policy leaves the support of the rollout policy, their means are smaller by the mass that
leaves, which pays for what the rollouts do not see: so D bounds the error there too.
"""

from __future__ import annotations

from collections.abc import Iterable

import sympy as sp

from trbounds.derivation import Check, Lemma, Step, all_of, identity, nonnegative
from trbounds.lemmas.conjugate import MEAN_PHI, phi
from trbounds.lemmas.divergences import CHAIN_RULE
from trbounds.lemmas.inequalities import LOG_BELOW_LINE
from trbounds.lemmas.martingales import error_as_residual
from trbounds.lemmas.ratios import MARTINGALE
from trbounds.symbolic import SYMBOLS, T, error, t

__all__ = [
    "ERROR_BY_SEQUENCE_KL",
    "ERROR_BY_TOKEN_PHI",
    "RESIDUAL_SPLIT",
    "TOKEN_PHI",
    "token_phi",
]

#: ``E_mu[sum_t phi(rho_t - 1)]``.
token_phi = sp.Symbol("E_mu[sum_t phi(rho_t - 1)]", nonnegative=True)

_W = sp.Symbol("W", positive=True)
_residual = sp.Symbol("W - 1 - M", real=True)
_spent = sp.Symbol("sum_t phi(rho_t - 1)", nonnegative=True)


def _prove_residual_split() -> Iterable[Step]:
    def along(length: int) -> Check:
        rho = sp.symbols(f"rho1:{length + 1}", positive=True)
        residual = sp.prod(rho) - 1 - sum(r - 1 for r in rho)
        return identity(residual, phi(sp.prod(rho) - 1) - sum(phi(r - 1) for r in rho))

    yield Step(
        "W - 1 - M = phi(W - 1) - sum_t phi(rho_t - 1), phi(x) = x - log(1 + x)",
        "log W = sum_t log rho_t; expanded for T = 1..5",
        all_of("enumeration", "T = 1..5", [along(n) for n in range(1, 6)]),
    )
    rho = sp.Symbol("rho", positive=True)
    yield Step(
        "phi(W rho - 1) - phi(W - 1) - phi(rho - 1) = (W rho - W) - (rho - 1)",
        "for every T, by induction: one more token adds the same to both sides",
        identity(phi(_W * rho - 1) - phi(_W - 1) - phi(rho - 1), (_W * rho - _W) - (rho - 1)),
    )


#: ``W - 1 - M = phi(W - 1) - sum_t phi(rho_t - 1)``, along every response.
RESIDUAL_SPLIT = Lemma(
    key="residual_split",
    title="the residual is the difference of two numbers that are not negative",
    left=_residual,
    relation="==",
    right=phi(_W - 1) - _spent,
    prove=_prove_residual_split,
    assumes="every ratio of the response is positive",
    source="trbounds",
)


def _not_negative_step() -> Step:
    u = sp.Symbol("u", positive=True)
    return Step(
        "A >= 0 and B >= 0",
        "phi(u - 1) = log(1/u) - (1 - u), and log z >= 1 - 1/z at z = 1/u",
        all_of(
            "sign",
            "the form, and the lemma",
            [identity(phi(u - 1), sp.log(1 / u) - (1 - u)), LOG_BELOW_LINE.certificate],
        ),
        LOG_BELOW_LINE,
    )


# -- whatever the supports ---------------------------------------------------------------------


def _mean_phi_on_support(tokens: int) -> Check:
    """Check the mean of phi(rho - 1) where pi has mass s outside the support of mu."""
    s = sp.Symbol("s", nonnegative=True)
    mu = [*sp.symbols(f"mu1:{tokens}", positive=True)]
    pi = [*sp.symbols(f"pi1:{tokens}", positive=True)]
    pairs = list(zip([*mu, 1 - sum(mu)], [*pi, 1 - s - sum(pi)], strict=True))
    mean = sum(m * (p / m - 1) - m * (sp.log(p) - sp.log(m)) for m, p in pairs)
    return identity(mean, sum(m * (sp.log(m) - sp.log(p)) for m, p in pairs) - s)


def _prove_error_by_sequence_kl() -> Iterable[Step]:
    mu, pi = sp.symbols("mu pi", positive=True)
    reward, M = sp.symbols("R M", real=True)
    yield Step(
        "Error = E_mu[R (W - 1 - M)] + E_pi[R 1{out}], out: the responses that mu cannot draw",
        "term by term where mu > 0, with W = pi/mu; where mu = 0 only pi R remains",
        identity(pi * reward - mu * reward - mu * reward * M, mu * reward * (pi / mu - 1 - M)),
    )
    yield Step(
        "W - 1 - M = A - B, A = phi(W - 1), B = sum_t phi(rho_t - 1)",
        "along every response that mu draws; D finite makes every ratio positive there",
        RESIDUAL_SPLIT.certificate,
        RESIDUAL_SPLIT,
    )
    yield _not_negative_step()
    yield Step(
        "E_mu[phi(rho_t - 1) | c_t] = kl(c_t) - s(c_t), s(c) the mass that pi puts outside the "
        "support of mu(.|c)",
        "pi sums to 1 - s over that support; expanded for 2..5 tokens",
        all_of("enumeration", "2..5 tokens", [_mean_phi_on_support(n) for n in range(2, 6)]),
    )
    yield Step(
        "sum_t E_mu[kl(c_t)] = D, hence E_mu[B] = D - sum_t E_mu[s(c_t)] <= D",
        "chain rule; the contexts are those of rollouts",
        CHAIN_RULE.certificate,
        CHAIN_RULE,
    )
    yield Step(
        "E_mu[A] = D - s, s = P_pi(out)",
        "the same for a response as one token: its ratio is W, its KL is D",
        all_of("enumeration", "2..5 responses", [_mean_phi_on_support(n) for n in range(2, 6)]),
    )
    share, rest, a, b = sp.symbols("R 1-R A B", nonnegative=True)
    yield Step(
        "R (A - B) <= A and R (A - B) >= -B, for R in [0, 1]",
        "A - R (A - B) = (1 - R) A + R B and R (A - B) + B = R A + (1 - R) B",
        all_of(
            "sign",
            "both sides",
            [
                nonnegative((share + rest) * a - share * (a - b), rest * a + share * b),
                nonnegative(share * (a - b) + (share + rest) * b, share * a + rest * b),
            ],
        ),
    )
    D, out, lost, seen = sp.symbols("D s sum_t_E[s_t] E_pi[R|out]", nonnegative=True)
    unseen = sp.Symbol("1-E_pi[R|out]", nonnegative=True)
    yield Step(
        "Error <= E_mu[A] + s = D and Error >= -E_mu[B] >= -D",
        "D less (D - s) + s E_pi[R | out] is s (1 - E_pi[R | out]); and s E_pi[R | out] >= 0",
        all_of(
            "sign",
            "both signs of the error",
            [
                nonnegative(D - (D - out * (seen + unseen) + out * seen), out * unseen),
                nonnegative(D + out * seen - (D - lost), out * seen + lost),
            ],
        ),
    )


#: ``|Error| <= D``, whatever the supports of the two policies.
ERROR_BY_SEQUENCE_KL = Lemma(
    key="error_by_sequence_kl",
    title="the residual split into two numbers that are not negative, whatever the supports",
    left=error,
    relation="<=",
    right=SYMBOLS["kl_seq"],
    prove=_prove_error_by_sequence_kl,
    assumes="R in [0, 1]; D finite",
    source="trbounds",
)


# -- with absolute continuity ------------------------------------------------------------------


def _prove_error_by_token_phi() -> Iterable[Step]:
    yield error_as_residual()
    yield Step(
        "E_mu[W - 1 - M] = 0",
        "W and M are martingales: every increment has mean 0 given its context",
        MARTINGALE.certificate,
        MARTINGALE,
    )
    yield Step(
        "W - 1 - M = A - B, A = phi(W - 1), B = sum_t phi(rho_t - 1), hence E_mu[A] = E_mu[B]",
        "along every response; D finite makes every ratio positive",
        RESIDUAL_SPLIT.certificate,
        RESIDUAL_SPLIT,
    )
    yield _not_negative_step()
    reward, rest, a, b = sp.symbols("R 1-R A B", nonnegative=True)
    yield Step(
        "Error = E_mu[R A] - E_mu[R B] >= -E_mu[R B]",
        "R and A are not negative",
        nonnegative(reward * (a - b) + reward * b, reward * a),
    )
    # R (A - B) = (A - B) - (1 - R)(A - B), and A - B has mean 0.
    yield Step(
        "Error = E_mu[(1 - R) B] - E_mu[(1 - R) A] <= E_mu[(1 - R) B]",
        "A - B has mean 0, so R may be replaced by R - 1; 1 - R and A are not negative",
        all_of(
            "sign",
            "R less 1, and the sign",
            [
                identity((reward - 1) * (a - b) + (a - b), reward * (a - b)),
                nonnegative(rest * b + rest * (a - b), rest * a),
            ],
        ),
    )
    yield Step(
        "|Error| <= max(E_mu[R B], E_mu[(1 - R) B]) <= E_mu[B]",
        "R <= 1 and 1 - R <= 1: B less either is the other, and R + (1 - R) = 1",
        all_of(
            "sign",
            "both signs",
            [
                nonnegative((reward + rest) * b - reward * b, rest * b),
                nonnegative((reward + rest) * b - rest * b, reward * b),
            ],
        ),
    )


#: ``|Error| <= E_mu[sum_t phi(rho_t - 1)]``. The proof gives each sign of the error apart:
#: ``-E_mu[R B] <= Error <= E_mu[(1 - R) B]`` with ``B = sum_t phi(rho_t - 1)``.
ERROR_BY_TOKEN_PHI = Lemma(
    key="error_by_token_phi",
    title="the residual split into two numbers that are not negative, with equal means",
    left=error,
    relation="<=",
    right=token_phi,
    prove=_prove_error_by_token_phi,
    assumes="R in [0, 1]; D finite; pi << mu",
    source="trbounds",
)


def _prove_token_phi() -> Iterable[Step]:
    yield Step(
        "E_mu[phi(rho_t - 1) | c_t] = kl(c_t)", "one context", MEAN_PHI.certificate, MEAN_PHI
    )
    p = sp.symbols("p1:4", nonnegative=True)
    parts = [sp.symbols(f"f{i}_1:4", nonnegative=True) for i in range(3)]
    yield Step(
        "E_mu[sum_t phi(rho_t - 1)] = sum_t E_mu[kl(c_t)] = sum_t k_t",
        "the mean of a sum is the sum of the means, the mean over c_t of the mean given c_t",
        identity(
            sum(w * sum(f[i] for f in parts) for i, w in enumerate(p)),
            sum(sum(w * f[i] for i, w in enumerate(p)) for f in parts),
        ),
    )


#: ``E_mu[sum_t phi(rho_t - 1)] = sum_t k_t``.
TOKEN_PHI = Lemma(
    key="token_phi",
    title="the means of phi(rho_t - 1) are the mean KLs",
    left=token_phi,
    relation="==",
    right=sp.Sum(SYMBOLS["kl_mean"][t], (t, 1, T)),
    prove=_prove_token_phi,
    assumes="pi << mu",
    source="trbounds",
)
