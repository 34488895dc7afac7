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
from trbounds.lemmas.conjugate import phi
from trbounds.lemmas.divergences import CHAIN_RULE
from trbounds.lemmas.inequalities import LOG_BELOW_LINE
from trbounds.symbolic import SYMBOLS, error

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
    u = sp.Symbol("u", positive=True)
    yield Step(
        "A >= 0 and B >= 0",
        "phi(u - 1) = log(1/u) - (1 - u), and log z >= 1 - 1/z at z = 1/u",
        all_of(
            "sign",
            "the form, and the lemma",
            [identity(phi(u - 1), sp.log(1 / u) - (1 - u)), LOG_BELOW_LINE.certificate],
        ),
        LOG_BELOW_LINE,
    )
    yield Step(
        "E_mu[phi(rho_t - 1) | c_t] = kl(c_t) - s(c_t), s(c) the mass that pi puts outside the "
        "support of mu(.|c)",
        "pi sums to 1 - s over that support; expanded for 2..5 tokens",
        all_of("enumeration", "2..5 tokens", [_mean_phi_on_support(n) for n in range(2, 6)]),
    )
    yield Step(
        "sum_t E_mu[kl(c_t)] = D, hence E_mu[B] = D - S, S = sum_t E_mu[s(c_t)]",
        "chain rule; the contexts are those of rollouts",
        CHAIN_RULE.certificate,
        CHAIN_RULE,
    )
    yield Step(
        "E_mu[A] = D - P_pi(out), hence E_mu[A - B] = S - P_pi(out)",
        "the same for a response as one token: its ratio is W, its KL is D",
        all_of("enumeration", "2..5 responses", [_mean_phi_on_support(n) for n in range(2, 6)]),
    )
    share, rest, a, b = sp.symbols("R 1-R A B", nonnegative=True)
    seen, unseen = sp.symbols("E_pi[R|out] 1-E_pi[R|out]", nonnegative=True)
    out, S = sp.symbols("P_pi(out) S", nonnegative=True)
    yield Step(
        "Error >= -E_mu[R B], for R >= 0",
        "R (A - B) + R B = R A; and E_pi[R 1{out}] >= 0",
        nonnegative(share * (a - b) + out * seen + share * b, share * a + out * seen),
    )
    yield Step(
        "Error <= E_mu[(1 - R) B] + S, for R <= 1",
        "R (A - B) = (A - B) - (1 - R)(A - B), whose first part has mean S - P_pi(out); "
        "and E_pi[R 1{out}] <= P_pi(out)",
        all_of(
            "sign",
            "R less 1, and the sign",
            [
                identity((1 - rest) * (a - b), (a - b) - rest * (a - b)),
                nonnegative(
                    rest * b + S - (S - out * (seen + unseen) - rest * (a - b) + out * seen),
                    rest * a + out * unseen,
                ),
            ],
        ),
    )
    base, above = sp.symbols("b 1-b", nonnegative=True)
    yield Step(
        "|Error| <= E_mu[B] + S = D; so it is for the surrogate E_mu[(R - b) M] with a baseline b "
        "in [0, 1], whose error is less by b S",
        "-E_mu[R B] - b S and E_mu[(1 - R) B] + S are within E_mu[B] + S; E_mu[M] = -S",
        all_of(
            "sign",
            "both ends",
            [
                nonnegative(
                    (share + rest) * b + (base + above) * S - share * b - base * S,
                    rest * b + above * S,
                ),
                nonnegative((share + rest) * b + S - (rest * b + S), share * b),
            ],
        ),
    )


#: ``|Error| <= D``, whatever the supports of the two policies. The proof gives each sign of the
#: error apart: ``-E_mu[R B] <= Error <= E_mu[(1 - R) B] + S`` with ``B = sum_t phi(rho_t - 1)`` and
#: S the mass that pi puts on tokens which mu cannot draw.
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
