"""Lemmas on pruned policies: tokens outside a safe set removed, the others renormalised.

At one context the safe set S keeps the mass Z = 1 - b of the full policy p; the pruned policy is
``p/Z`` on S.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import product
from typing import Any

import sympy as sp

from trbounds.derivation import Check, Lemma, Step, all_of, identity, nonnegative
from trbounds.lemmas.divergences import LOG_SUM
from trbounds.symbolic import T

_b = sp.Symbol("b", nonnegative=True)
_b_max = sp.Symbol("b_max", nonnegative=True)
_n = sp.Symbol("n", integer=True, positive=True)
_tau = sp.Symbol("tau", positive=True)
_kept = sp.Symbol("E_pruned[prod Z]", nonnegative=True)
_total = sp.Symbol("E_full[sum (1-Z)]", nonnegative=True)
_kl = sp.Symbol("KL(mu,pi)", nonnegative=True)
_tv = sp.Symbol("TV(mu,pi)", nonnegative=True)

#: The symbols of the laws of pruning.
PRUNING_SYMBOLS: Mapping[str, Any] = {
    "T": T,
    "pruned_mass": _b,
    "pruned_mass_max": _b_max,
    "kept_product": _kept,
    "pruned_mass_total": _total,
    "vocabulary": _n,
    "min_p": _tau,
    "kl": _kl,
    "tv": _tv,
}

token_tv = sp.Symbol("TV(pruned,full)", nonnegative=True)
token_kl = sp.Symbol("KL(pruned,full)", nonnegative=True)
token_bias = sp.Symbol("1-Z", nonnegative=True)
sequence_bias = sp.Symbol("TV(P_pruned,P_full)", nonnegative=True)
pruned_kl_common = sp.Symbol("KL(mu_S,pi_S)", nonnegative=True)
pruned_tv_common = sp.Symbol("TV(mu_S,pi_S)", nonnegative=True)


# -- one context -------------------------------------------------------------------------------


def _prove_token_tv() -> Iterable[Step]:
    def case(kept: int, pruned: int) -> Check:
        p = sp.symbols(f"p1:{kept + 1}", positive=True)
        x = sp.symbols(f"x1:{pruned + 1}", positive=True)
        Z, b = sum(p), sum(x)
        # Both halves of sum |pruned - full|, with Z + b = 1.
        gained = sum(v / Z - v for v in p)
        return all_of(
            "identity",
            "both halves",
            [identity(sp.cancel(gained - (1 - Z)), sp.Integer(0)), identity(sum(x), b)],
        )

    yield Step(
        "sum_S (p_i/Z - p_i) = Z (1/Z - 1) = 1 - Z = b",
        "kept tokens gain 1 - Z in all, pruned ones lose their mass b = 1 - Z: TV is half of both",
        all_of(
            "enumeration",
            "kept x pruned tokens",
            [case(i, j) for i, j in product(range(1, 5), range(1, 4))],
        ),
    )


#: ``TV = 1 - Z``.
TOKEN_TV = Lemma(
    key="pruned_token_tv",
    title="TV of one pruned step",
    left=token_tv,
    relation="==",
    right=_b,
    prove=_prove_token_tv,
    source="trbounds",
)


def _prove_token_kl() -> Iterable[Step]:
    def case(kept: int) -> Check:
        p = sp.symbols(f"p1:{kept + 1}", positive=True)
        Z, log_Z = sum(p), sp.Symbol("log_Z", real=True)
        # log((p/Z)/p) = -log Z for every kept token.
        return identity(sp.cancel(sum(v / Z * (-log_Z) for v in p)), -log_Z)

    yield Step(
        "sum_S (p_i/Z) log((p_i/Z)/p_i) = -log Z",
        "every kept token has the ratio 1/Z, and the pruned policy sums to 1",
        all_of("enumeration", "1..6 kept tokens", [case(n) for n in range(1, 7)]),
    )


#: ``KL(pruned, full) = -log Z``.
TOKEN_KL = Lemma(
    key="pruned_token_kl",
    title="KL of one pruned step",
    left=token_kl,
    relation="==",
    right=-sp.log(1 - _b),
    prove=_prove_token_kl,
    source="trbounds",
)


def _prove_vocabulary() -> Iterable[Step]:
    b, d, g = sp.symbols("b d g", nonnegative=True)
    P = sp.Symbol("p_max", positive=True)
    ratio = (b + d) / P
    yield Step(
        "each of the at most n - 1 pruned tokens has less than tau p_max: b <= (n-1) tau p_max",
        "the likeliest token is kept; write (n-1) tau = (b + d)/p_max with d >= 0",
        nonnegative(ratio * P - b, d),
    )
    yield Step(
        "b = b/(b + Z) <= (n-1) tau/(1 + (n-1) tau)",
        "Z = p_max + g with g >= 0: the difference has a numerator without negative terms",
        nonnegative(
            ratio / (1 + ratio) - b / (b + P + g),
            ((b + d) * g + d * P) / ((P + b + d) * (b + P + g)),
        ),
    )


#: ``1 - Z <= (n-1) tau/(1 + (n-1) tau)``.
VOCABULARY = Lemma(
    key="pruned_vocabulary",
    title="largest pruned mass of a vocabulary",
    left=token_bias,
    relation="<=",
    right=(_n - 1) * _tau / (1 + (_n - 1) * _tau),
    prove=_prove_vocabulary,
    assumes="tokens below tau times the largest probability are pruned",
    source="trbounds",
)


# -- whole sequences ---------------------------------------------------------------------------


def _prove_sequence_tv() -> Iterable[Step]:
    def case(n: int) -> Check:
        # Never-pruned sequences with full probability P_k and product of kept masses w_k.
        w = sp.symbols(f"w1:{n + 1}", positive=True)
        free = sp.symbols(f"P2:{n + 1}", positive=True)
        first = w[0] * (1 - sum(p / x for p, x in zip(free, w[1:], strict=True)))
        P = [first, *free]
        gained = sum(p / x - p for p, x in zip(P, w, strict=True))
        mean = sum((p / x) * x for p, x in zip(P, w, strict=True))
        return all_of(
            "identity",
            "",
            [
                identity(sp.expand(sum(p / x for p, x in zip(P, w, strict=True))), sp.Integer(1)),
                identity(sp.expand(gained), sp.expand(1 - sum(P))),
                identity(sp.expand(1 - mean), sp.expand(1 - sum(P))),
            ],
        )

    p, w, c = sp.symbols("p w c", positive=True)
    yield Step(
        "P_pruned(y) = P_full(y)/prod_t Z(c_t) for a sequence without a pruned token, else 0",
        "one more kept token: (P/w)(p/Z) = (P p)/(w Z)",
        identity(
            (p / w) * (c / sp.Symbol("Z", positive=True)),
            p * c / (w * sp.Symbol("Z", positive=True)),
        ),
    )
    yield Step(
        "TV = sum over never-pruned y of (P_full/prod Z - P_full) = 1 - P_full(never pruned), and "
        "P_full(never pruned) = E_pruned[prod Z]",
        "prod Z <= 1, so exactly these sequences gain; P_pruned sums to 1 over them; expanded for "
        "1..5 sequences, each further one adds the same terms to both sides",
        all_of("enumeration", "1..5 sequences", [case(n) for n in range(1, 6)]),
    )


#: ``TV(P_pruned, P_full) = P_full(some token pruned) = 1 - E_pruned[prod_t Z(c_t)]``.
SEQUENCE_TV = Lemma(
    key="pruned_sequence_tv",
    title="TV of pruned sequences",
    left=sequence_bias,
    relation="==",
    right=1 - _kept,
    prove=_prove_sequence_tv,
    source="trbounds",
)


def _prove_union() -> Iterable[Step]:
    yield Step(
        "TV = P_full(some token pruned)", SEQUENCE_TV.title, SEQUENCE_TV.certificate, SEQUENCE_TV
    )

    def pattern(bits: tuple[int, ...]) -> Check:
        some = 1 - sp.prod([1 - bit for bit in bits])
        return nonnegative(sp.Integer(sum(bits)) - some)

    patterns = [bits for n in range(1, 6) for bits in product((0, 1), repeat=n)]
    yield Step(
        "1{some token pruned} <= sum_t 1{token t pruned}, and E_full 1{token t pruned} = "
        "E_full[1 - Z(c_t)]",
        "every pattern of up to 5 tokens; with one more token the left side grows by at most its "
        "indicator",
        all_of("enumeration", "patterns", [pattern(bits) for bits in patterns]),
    )


#: ``TV(P_pruned, P_full) <= E_full[sum_t (1 - Z(c_t))]``.
UNION = Lemma(
    key="pruned_union",
    title="union over the tokens",
    left=sequence_bias,
    relation="<=",
    right=_total,
    prove=_prove_union,
    source="trbounds",
)


def _prove_horizon() -> Iterable[Step]:
    yield Step(
        "TV = 1 - E_pruned[prod_t Z(c_t)]",
        SEQUENCE_TV.title,
        SEQUENCE_TV.certificate,
        SEQUENCE_TV,
    )
    w, d, z = sp.symbols("w d z", nonnegative=True)
    yield Step(
        "prod_t Z(c_t) >= (1 - b_max)^T",
        "induction: a product w + d >= w of earlier masses times Z = z + d' >= z is at least w z",
        nonnegative((w + d) * (z + sp.Symbol("d'", nonnegative=True)) - w * z),
    )


#: ``TV(P_pruned, P_full) <= 1 - (1 - b_max)^T``.
HORIZON = Lemma(
    key="pruned_horizon",
    title="the largest pruned mass at every step",
    left=sequence_bias,
    relation="<=",
    right=1 - (1 - _b_max) ** T,
    prove=_prove_horizon,
    assumes="1 - Z <= b_max at every context",
    source="trbounds",
)


def _prove_horizon_linear() -> Iterable[Step]:
    yield Step(
        "T = 1: (1 - b) - (1 - b) = 0", "equality", identity((1 - _b) - (1 - _b), sp.Integer(0))
    )
    step = (1 - _b) * (1 - T * _b) - (1 - (T + 1) * _b)
    yield Step(
        "(1-b)^T >= 1 - T b gives (1-b)^(T+1) >= (1-b)(1 - T b) >= 1 - (T+1) b",
        "Bernoulli's inequality, b <= 1",
        nonnegative(step, T * _b**2),
    )


#: ``1 - (1 - b)^T <= T b``.
HORIZON_LINEAR = Lemma(
    key="bernoulli",
    title="Bernoulli's inequality",
    left=1 - (1 - _b_max) ** T,
    relation="<=",
    right=T * _b_max,
    prove=_prove_horizon_linear,
    assumes="b <= 1",
)


# -- two policies pruned to one set ------------------------------------------------------------


def _prove_common_set_kl() -> Iterable[Step]:
    def case(kept: int, pruned: int) -> Check:
        m = sp.symbols(f"m1:{kept + pruned + 1}", positive=True)
        r = sp.symbols(f"r1:{kept + pruned + 1}", real=True)  # log(mu_i/pi_i)
        Zm, rest = sum(m[:kept]), sum(m[kept:])
        log_Z, log_b = sp.symbols("log_Z log_b", real=True)  # log(Z_mu/Z_pi), log(b_mu/b_pi)
        whole = sum(x * y for x, y in zip(m, r, strict=True))
        inside = sum(x / Zm * (y - log_Z) for x, y in zip(m[:kept], r[:kept], strict=True))
        outside = sum(x / rest * (y - log_b) for x, y in zip(m[kept:], r[kept:], strict=True))
        split = Zm * inside + rest * outside + Zm * log_Z + rest * log_b
        return identity(sp.cancel(whole - split), sp.Integer(0))

    yield Step(
        "KL(mu,pi) = KL(Z_mu,Z_pi) + Z_mu KL(mu_S,pi_S) + (1-Z_mu) KL(mu_rest,pi_rest)",
        "log(mu/pi) splits into the ratio of the masses and that of the conditional probabilities",
        all_of(
            "enumeration",
            "kept x pruned tokens",
            [case(i, j) for i, j in product((1, 2, 3), (1, 2))],
        ),
    )
    yield Step(
        "every KL is at least 0, so Z_mu KL(mu_S,pi_S) <= KL(mu,pi)",
        "merge all outcomes into one",
        LOG_SUM.certificate,
        LOG_SUM,
    )


#: ``KL(mu_S, pi_S) <= KL(mu, pi)/Z_mu``.
COMMON_SET_KL = Lemma(
    key="common_set_kl",
    title="KL of two policies pruned to one set",
    left=pruned_kl_common,
    relation="<=",
    right=_kl / (1 - _b),
    prove=_prove_common_set_kl,
    assumes="b is the mass that mu loses",
    source="trbounds",
)


def _prove_common_set_tv() -> Iterable[Step]:
    x, small, d = sp.symbols("pi Z_small d", positive=True)
    large = small + d
    yield Step(
        "with Z_mu >= Z_pi: mu/Z_mu - pi/Z_pi <= (mu - pi)/Z_mu, token by token",
        "the difference is pi (1/Z_pi - 1/Z_mu) >= 0",
        nonnegative(x / small - x / large, x * d / (small * large)),
    )
    low, gap = sp.Symbol("low", nonnegative=True), sp.Symbol("gap", nonnegative=True)
    yield Step(
        "TV(mu_S,pi_S) is the sum of the positive parts, at most sum_S (mu - pi)^+/Z_mu <= TV/Z_mu",
        "the positive part of a number does not exceed that of a larger one (whether the smaller "
        "is positive or not), and the sum over S leaves out terms that are not negative. With "
        "Z_pi > Z_mu the same with the roles exchanged",
        all_of(
            "sign",
            "smaller number positive, or not",
            [nonnegative((low + gap) - low), nonnegative(sp.Max(gap - low, 0) - 0)],
        ),
    )


#: ``TV(mu_S, pi_S) <= TV(mu, pi)/max(Z_mu, Z_pi)``.
COMMON_SET_TV = Lemma(
    key="common_set_tv",
    title="TV of two policies pruned to one set",
    left=pruned_tv_common,
    relation="<=",
    right=_tv / (1 - _b),
    prove=_prove_common_set_tv,
    assumes="b is the smaller of the masses that the two policies lose",
    source="trbounds",
)
