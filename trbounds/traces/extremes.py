"""The largest and smallest token values of a trace, and where they are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from trbounds.traces.token_terms import TokenTerms

Floats = NDArray[np.float64]


class Extreme(NamedTuple):
    """An extreme value and its place.

    ``record`` and ``position`` count from 0; ``position`` is the index in the record's lists.
    """

    value: float
    file: str
    record: int
    position: int

    @property
    def place(self) -> tuple[str, int, int]:
        """File, record, position."""
        return self.file, self.record, self.position


class Extremes(dict[str, Extreme]):
    """Observed extremes by name.

    ``<name>_max`` for ``abs_log_ratio``, ``kl``, ``tv``, ``chi2``, ``entropy``; ``<name>_min``
    for ``k2``, ``k3``, ``kl``, ``tv``, ``chi2``, ``entropy``; and the largest value of

    - ``pinsker_excess``: ``tv - sqrt(kl / 2)``,
    - ``tv_chi2_excess``: ``tv - sqrt(chi2) / 2``,
    - ``kl_log_chi2_excess``: ``kl - log(1 + chi2)``, which may be positive in this direction,
    - ``chi2_over_kl``: where kl > 0; a cap r on abs(log rho) over the whole vocabulary keeps it
      at most ``(e^r - 1)^2 / (e^r - 1 - r)``.

    A name is absent where its columns are. Ties go to the first place.
    """

    @classmethod
    def of(cls, terms: TokenTerms) -> Extremes:
        """Find the extremes of a block."""
        out = cls()
        if terms.batch.n_tokens == 0:
            return out
        for name, values in _candidates(terms):
            token = int(np.argmin(values) if is_minimum(name) else np.argmax(values))
            value = float(values[token])
            out.note(name, value if name != "k2_min" else 0.5 * value**2, terms.batch.place(token))
        return out

    def note(self, name: str, value: float, place: tuple[str, int, int]) -> None:
        """Keep a value, if it is more extreme than what is there."""
        own, mine = Extreme(value, *place), self.get(name)
        if mine is None or _key(name, own) < _key(name, mine):
            self[name] = own

    def exceeded(self, name: str, value: float, *, margin: float) -> bool:
        """Whether what is there is more extreme than a value, by a relative margin."""
        mine = self.get(name)
        if mine is None:
            return False
        rise = mine.value - value
        return (-rise if is_minimum(name) else rise) > margin * abs(value)

    def absorb(self, other: Extremes) -> None:
        """Keep the more extreme of each, in place."""
        for name, theirs in other.items():
            self.note(name, theirs.value, theirs.place)


def is_minimum(name: str) -> bool:
    """Whether the extreme of this name is a smallest value."""
    return name.endswith("_min")


def _key(name: str, extreme: Extreme) -> tuple[float, str, int, int]:
    value = extreme.value if is_minimum(name) else -extreme.value
    return value, *extreme.place


def _candidates(terms: TokenTerms) -> Iterator[tuple[str, Floats]]:
    batch = terms.batch
    yield "abs_log_ratio_max", terms.abs_log_ratio
    yield "k2_min", terms.abs_log_ratio  # where k2 is smallest, too
    yield "k3_min", terms.k3
    for name in ("kl", "tv", "chi2", "entropy"):
        values = getattr(batch, name)
        if values is not None:
            yield f"{name}_max", values
            yield f"{name}_min", values
    if batch.tv is not None and batch.kl is not None:
        yield "pinsker_excess", batch.tv - np.sqrt(0.5 * batch.kl)
    if batch.tv is not None and batch.chi2 is not None:
        yield "tv_chi2_excess", batch.tv - 0.5 * np.sqrt(batch.chi2)
    if terms.kl_log_chi2_excess is not None:
        yield "kl_log_chi2_excess", terms.kl_log_chi2_excess
    if batch.kl is not None and batch.chi2 is not None:
        ratio = np.zeros_like(batch.kl)
        # Below the smallest normal number a quotient would measure rounding only.
        np.divide(batch.chi2, batch.kl, out=ratio, where=batch.kl > np.finfo(np.float64).tiny)
        yield "chi2_over_kl", ratio
