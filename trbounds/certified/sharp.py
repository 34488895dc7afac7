"""The sharp conversion from KL to TV in ball arithmetic."""

from __future__ import annotations

from typing import Any

from flint import arb, ctx

# Beyond this KL the curve is left: there u > exp(_LARGE - 1), so that 1 - TV = (1 + o(1)) / (2u)
# and exp(-KL) = (1 + o(1)) / (2u), both o(1) below exp(-u): 1 - TV lies between 0 and 2 exp(-KL).
_LARGE = 500


def sharp_tv(kl: Any) -> Any:
    """Enclose the largest TV that a KL allows.

    Along the curve of Fedotov, Harremoës and Topsøe, in a parameter u > 0, TV and KL both
    increase. A u is found by Newton's method; the KLs a little below and above it enclose the
    given one, which is checked, so the TVs there enclose the wanted one.

    Parameters
    ----------
    kl : arb
        KL in nats, at least 0.

    Returns
    -------
    arb
        A ball that holds the TV of every KL in the ball `kl`.
    """
    kl = kl.nonnegative_part()
    low, high = kl.lower().max(arb(0)), kl.upper()
    if not kl.is_finite():
        return arb(0).union(arb(1))
    below = _at(low)
    return below if low == high else below.union(_at(high))


def _at(kl: Any) -> Any:
    """Enclose the TV at one exact KL."""
    if kl == 0:
        return arb(0)
    if kl > _LARGE:
        return (1 - 2 * (-kl).exp()).union(arb(1))
    mantissa, exponent = kl.man_exp()
    magnitude = int(exponent) + int(mantissa).bit_length()
    wanted = ctx.prec
    # KL and 1 - (coth u - 1/u)^2 are formed from terms of order 1.
    with ctx.workprec(wanted + 2 * abs(magnitude) + 64):
        u = ((2 * kl).expm1() / 4 + 3 * kl / 2).sqrt().mid()
        for _ in range(wanted.bit_length()):
            value, slope = _kl_and_slope(u)
            u = (u + (kl - value) / slope).mid()
        step = u * arb(2) ** (-wanted)
        first, last = (u - step).mid(), (u + step).mid()
        if not (_kl_and_slope(first)[0] <= kl <= _kl_and_slope(last)[0]):
            return arb(0).union(arb(1))
        tv = _tv(first).union(_tv(last))
    return +tv


def _kl_and_slope(u: Any) -> tuple[Any, Any]:
    q = (-2 * u).exp()
    rest = -(-2 * u).expm1()
    csch2 = 4 * q / rest**2
    kl = (2 * u).log() - rest.log() + 2 * u * q / rest - u**2 * csch2
    return kl, 1 / u - 3 * u * csch2 + 2 * u**2 * (1 + q) / rest * csch2


def _tv(u: Any) -> Any:
    # 1 - (coth u - 1/u), which is 1/u for large u: no cancellation there.
    rest = 1 / u - 2 * (-2 * u).exp() / -(-2 * u).expm1()
    return u * rest * (2 - rest) / 2
