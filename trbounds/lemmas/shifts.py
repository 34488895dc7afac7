"""Lemmas on how far apart two policies drift: up to a context, and from a context on.

``shift[t]`` is the TV of the contexts ``c_t``, that is of the first t - 1 tokens; ``future[t]`` the
largest TV of the T - t tokens that follow token t.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import product

import sympy as sp

from trbounds.derivation import Check, Lemma, Step, all_of, identity, nonnegative
from trbounds.lemmas.divergences import CHAIN_RULE, PINSKER, TV_PROCESSING
from trbounds.symbolic import SYMBOLS, T, future, s, shift, t

_eps, _delta = SYMBOLS["tv_max"], SYMBOLS["kl_max"]
_D, _V = SYMBOLS["kl_seq"], SYMBOLS["tv_seq"]
_Dbar, _k = SYMBOLS["tv_mean"], SYMBOLS["kl_mean"]

_P, _Q, _p, _m = sp.symbols("P Q pi mu", nonnegative=True)

_Proof = Callable[[], Iterable[Step]]

# -- n tokens after a common start -------------------------------------------------------------


def _one_token_step(bound: str) -> Step:
    return Step(
        f"P pi - Q mu = (P - Q) pi + Q (pi - mu): one more token raises TV by at most {bound}",
        "half of the absolute values summed over contexts and tokens: pi sums to 1, so the first "
        "term gives TV(P, Q); the second gives the mean over Q of tv(c)",
        identity(_P * _p - _Q * _m, (_P - _Q) * _p + _Q * (_p - _m)),
    )


def _below_one_step() -> Step:
    return Step(
        "TV(P, Q) = (1/2) sum |P - Q| <= (1/2) sum (P + Q) = 1",
        "termwise, for both signs of P - Q",
        all_of(
            "sign",
            "both signs",
            [nonnegative(_P + _Q - (_P - _Q), 2 * _Q), nonnegative(_P + _Q + (_P - _Q), 2 * _P)],
        ),
    )


def _tokens_by_tv(start: str, count: str) -> Iterable[Step]:
    """TV of n tokens after a common start is at most min(1, n eps)."""
    n = sp.Symbol("n", integer=True, nonnegative=True)
    yield _one_token_step("eps")
    yield Step(
        sp.Eq(n * _eps + _eps, (n + 1) * _eps, evaluate=False),
        f"induction from TV = 0 {start}: after n tokens TV <= n eps; here n = {count}",
        identity(n * _eps + _eps, (n + 1) * _eps),
    )
    yield _below_one_step()


def _tokens_by_kl(count: str, what: str) -> Iterable[Step]:
    """TV of n tokens after a common start is at most min(1, sqrt(n delta/2))."""
    n = sp.Symbol("n", integer=True, nonnegative=True)
    k, slack, room = sp.symbols("k_s delta-k_s n*delta-KL", nonnegative=True)
    yield Step(
        f"KL of {what} is the sum of the mean KLs of their tokens",
        "chain rule",
        CHAIN_RULE.certificate,
        CHAIN_RULE,
    )
    # With delta = k + slack: n delta - KL is not negative, nor is it one token later.
    yield Step(
        f"KL <= n delta, n = {count}",
        "a mean of kl(c) is at most delta; induction: (n + 1) delta - (KL + k_s) = (n delta - KL) "
        "+ (delta - k_s)",
        nonnegative((n + 1) * (k + slack) - (n * (k + slack) - room + k), room + slack),
    )
    yield Step(
        "TV <= min(1, sqrt(KL/2)) <= min(1, sqrt(n delta/2))",
        "Pinsker; the right side increases with KL",
        PINSKER.certificate,
        PINSKER,
    )


# -- up to a context ---------------------------------------------------------------------------


def _prove_shift_by_tv() -> Iterable[Step]:
    yield from _tokens_by_tv("at the prompts, which both are given alike", "t - 1")


def _prove_shift_by_kl() -> Iterable[Step]:
    yield from _tokens_by_kl("t - 1", "the contexts c_t")


def _prove_shift_sharp() -> Iterable[Step]:
    a, b, e, f = sp.symbols("a b e f", nonnegative=True)

    def case(first_small: bool, second_small: bool) -> Check:
        # Write the larger of each pair as the smaller plus a non-negative excess.
        x, y = (a, a + e) if first_small else (a + e, a)
        u, w = (b, b + f) if second_small else (b + f, b)
        return all_of("sign", "", [nonnegative(x * u - a * b), nonnegative(y * w - a * b)])

    yield Step(
        "1 - TV(P, Q) = sum min(P, Q), the overlap",
        "P + Q - |P - Q| = 2 min(P, Q), for both signs of P - Q, and the masses are 1",
        all_of(
            "enumeration",
            "both signs",
            [
                identity((a + e) + a - e, 2 * sp.Min(a + e, a)),
                identity(a + (a + e) - e, 2 * sp.Min(a, a + e)),
            ],
        ),
    )
    yield Step(
        "min(P pi, Q mu) >= min(P, Q) min(pi, mu)",
        "every order of the two pairs; summed over contexts and tokens: one more token multiplies "
        "the overlap by at least 1 - tv(c) >= 1 - eps",
        all_of("sign", "orders", [case(i, j) for i, j in product((True, False), repeat=2)]),
    )
    n = sp.Symbol("n", integer=True, nonnegative=True)
    kept = sp.Symbol("r", nonnegative=True)  # 1 - eps
    yield Step(
        "(1 - eps)^n (1 - eps) = (1 - eps)^(n+1): after n tokens the overlap is at least (1 - "
        "eps)^n, and the contexts c_t have n = t - 1",
        "induction from an overlap of 1 at the prompts; r = 1 - eps",
        identity(sp.powsimp(kept**n * kept), kept ** (n + 1)),
    )


def _prove_shift_by_sequence_tv() -> Iterable[Step]:
    yield Step(
        "TV(d_t) <= V",
        "the first t - 1 tokens are a function of the whole sequence",
        TV_PROCESSING.certificate,
        TV_PROCESSING,
    )
    yield _below_one_step()


def _prove_shift_by_sequence_kl() -> Iterable[Step]:
    yield from _prove_shift_by_sequence_tv()
    yield Step("V <= min(1, sqrt(D/2))", "Pinsker", PINSKER.certificate, PINSKER)


def _one_more(position: int) -> Check:
    before = sp.Sum(_Dbar[s], (s, 1, position - 1)).doit()
    return identity(before + _Dbar[position], sp.Sum(_Dbar[s], (s, 1, position)).doit())


def _prove_shift_by_prefix() -> Iterable[Step]:
    yield _one_token_step("Dbar_t, the mean of tv(c_t) over Q = d_t^mu")
    yield Step(
        "TV(d_t) <= sum_{s<t} Dbar_s",
        "induction from TV(d_1) = 0 at the prompts, which both policies are given alike: the sum "
        "over s < t and Dbar_t make the sum over s < t + 1; for t = 1..5",
        all_of("enumeration", "t = 1..5", [_one_more(n) for n in range(1, 6)]),
    )
    yield _below_one_step()
    yield Step("KL(d_t) = sum_{s<t} k_s", "chain rule", CHAIN_RULE.certificate, CHAIN_RULE)
    yield Step("TV(d_t) <= min(1, sqrt(KL(d_t)/2))", "Pinsker", PINSKER.certificate, PINSKER)


def _shift_lemma(key: str, title: str, right: sp.Expr, prove: _Proof, source: str) -> Lemma:
    return Lemma(key, title, shift[t], "<=", right, prove, source=source)


#: ``TV(d_t) <= min(1, (t-1) eps)``.
SHIFT_BY_TV = _shift_lemma(
    "shift_by_tv",
    "context shift, token by token",
    sp.Min(1, (t - 1) * _eps),
    _prove_shift_by_tv,
    "TRM v2, section 3",
)

#: ``TV(d_t) <= 1 - (1-eps)^(t-1)``.
SHIFT_SHARP = _shift_lemma(
    "shift_sharp",
    "context shift by the overlap of the two distributions",
    1 - (1 - _eps) ** (t - 1),
    _prove_shift_sharp,
    "trbounds",
)

#: ``TV(d_t) <= min(1, sqrt((t-1) delta/2))``.
SHIFT_BY_KL = _shift_lemma(
    "shift_by_kl",
    "context shift through the chain rule and Pinsker",
    sp.Min(1, sp.sqrt((t - 1) * _delta / 2)),
    _prove_shift_by_kl,
    "TRM v2, section 3",
)

#: ``TV(d_t) <= min(1, V)``.
SHIFT_BY_SEQUENCE_TV = _shift_lemma(
    "shift_by_sequence_tv",
    "context shift below the TV of whole sequences",
    sp.Min(1, _V),
    _prove_shift_by_sequence_tv,
    "TRM v3",
)

#: ``TV(d_t) <= min(1, sqrt(D/2))``.
SHIFT_BY_SEQUENCE_KL = _shift_lemma(
    "shift_by_sequence_kl",
    "context shift below the KL of whole sequences",
    sp.Min(1, sp.sqrt(_D / 2)),
    _prove_shift_by_sequence_kl,
    "TRM v2, section 3",
)

#: ``TV(d_t) <= min(1, sum_{s<t} Dbar_s, sqrt(sum_{s<t} k_s/2))``.
SHIFT_BY_PREFIX = _shift_lemma(
    "shift_by_prefix",
    "context shift by what came before",
    sp.Min(1, sp.Sum(_Dbar[s], (s, 1, t - 1)), sp.sqrt(sp.Sum(_k[s], (s, 1, t - 1)) / 2)),
    _prove_shift_by_prefix,
    "trbounds",
)


# -- from a context on -------------------------------------------------------------------------


def _prove_future_by_tv() -> Iterable[Step]:
    yield from _tokens_by_tv("at the context c_{t+1}, given to both", "T - t, the tokens after t")


def _prove_future_by_kl() -> Iterable[Step]:
    yield from _tokens_by_kl("T - t", "the continuations after c_{t+1}")


def _prove_future_by_both() -> Iterable[Step]:
    yield from _prove_future_by_tv()
    yield from _prove_future_by_kl()


def _future_lemma(key: str, title: str, right: sp.Expr, prove: _Proof, source: str) -> Lemma:
    return Lemma(key, title, future[t], "<=", right, prove, source=source)


#: TV of the continuations after t is at most ``min(1, (T-t) eps)``.
FUTURE_BY_TV = _future_lemma(
    "future_by_tv",
    "change of the future, token by token",
    sp.Min(1, (T - t) * _eps),
    _prove_future_by_tv,
    "TRM v3",
)

#: TV of the continuations after t is at most ``min(1, sqrt((T-t) delta/2))``.
FUTURE_BY_KL = _future_lemma(
    "future_by_kl",
    "change of the future through the chain rule and Pinsker",
    sp.Min(1, sp.sqrt((T - t) * _delta / 2)),
    _prove_future_by_kl,
    "TRM v2, Adaptive bound",
)

#: The smaller of the two.
FUTURE_BY_BOTH = _future_lemma(
    "future_by_both",
    "change of the future by the smaller of both routes",
    sp.Min(1, (T - t) * _eps, sp.sqrt((T - t) * _delta / 2)),
    _prove_future_by_both,
    "TRM v3",
)
