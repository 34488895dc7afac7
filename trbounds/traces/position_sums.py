"""Per-position sums and maxima: position t is the t-th token that counts in a sequence."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from trbounds.errors import InputError
from trbounds.traces.compensated import CompensatedSum, grow
from trbounds.traces.token_terms import TokenTerms

Floats = NDArray[np.float64]

_MEANS = ("tv", "kl", "chi2", "abs_ratio", "square", "k3", "ratio")
_SQUARED = ("tv", "kl", "chi2", "square", "k3")
_SQUARE_OF = {"abs_ratio": "square", "ratio": "square"}
_MAXIMA = ("tv", "kl", "chi2", "abs_log_ratio")

_LOOSE = 128
"""Sequences whose values at a position are added without compensation."""

_LONG = 256
"""Mean length from which the sums are taken sequence by sequence."""


class PositionSums:
    """Sums over sequences at each position, 0 after a sequence's end.

    Quantities: ``tv``, ``kl``, ``chi2`` (as logged), and of the sampled token ``abs_ratio``
    (``|rho - 1|``), ``square`` (``(rho - 1)^2``), ``k3`` and ``ratio`` (``rho - 1``).
    Array entry ``t - 1`` belongs to position ``t``. Inside, a quantity that was never seen takes
    no memory until it is asked for.
    """

    def __init__(self) -> None:
        self.n_sequences = 0
        self.alive: NDArray[np.int64] = np.zeros(0, dtype=np.int64)
        self._sums = {name: CompensatedSum.zeros() for name in _MEANS}
        self._squares = {name: CompensatedSum.zeros() for name in _SQUARED}
        self._maxima: dict[str, Floats] = {name: np.zeros(0) for name in _MAXIMA}
        # Added to without compensation so far, by kind and name; and for how many sequences.
        self._loose_sums: dict[tuple[str, str], Floats] = {}
        self._n_loose = 0

    @property
    def T(self) -> int:
        """Longest sequence, in tokens that count."""
        return int(self.alive.size)

    def mean(self, name: str) -> Floats:
        """Mean over all sequences at each position, absorbed ones counting 0.

        Parameters
        ----------
        name : str
            A quantity of this class.

        Returns
        -------
        ndarray, shape (T,)

        Raises
        ------
        InputError
            If the quantity is unknown or there is no sequence.
        """
        self._check(name, _MEANS)
        self._settle()
        self._sums[name].grow(self.T)
        return self._sums[name].value / self.n_sequences

    def standard_error(self, name: str) -> Floats:
        """Standard error of :meth:`mean`, sequences taken as independent.

        A sequence has one token at a position, so these are also clustered by sequence. NaN with
        fewer than two sequences.
        """
        self._check(name, _MEANS)
        n = self.n_sequences
        if n < 2:
            return np.full(self.T, np.nan)
        source = _SQUARE_OF.get(name)
        squares = self._sums[source] if source else self._squares[name]
        squares.grow(self.T)
        variance = squares.value / n - self.mean(name) ** 2
        return np.sqrt(np.maximum(variance, 0.0) / (n - 1))

    def maximum(self, name: str) -> Floats:
        """Largest observed value at each position of ``tv``, ``kl``, ``chi2``, ``abs_log_ratio``.

        Raises
        ------
        InputError
            If the quantity is unknown.
        """
        self._check(name, _MAXIMA)
        return self.maxima(name).copy()

    def add(self, terms: TokenTerms) -> None:
        """Add a block in place."""
        batch = terms.batch
        self.count(batch.lengths)
        if batch.n_tokens == 0:
            return
        columns = {"ratio": terms.ratio, "abs_ratio": terms.abs_ratio, "square": terms.square}
        columns["k3"] = terms.k3
        for name in ("tv", "kl", "chi2"):
            values = getattr(batch, name)
            if values is not None:
                columns[name] = values
        into: _Into = [(np.add, self._loose("sums", name), columns[name]) for name in columns]
        into += [
            (np.add, self._loose("squares", name), columns[name] * columns[name])
            for name in _SQUARED
            if name in columns
        ]
        columns["abs_log_ratio"] = terms.abs_log_ratio
        into += [
            (np.maximum, self.maxima(name), columns[name]) for name in _MAXIMA if name in columns
        ]
        if batch.n_tokens >= _LONG * batch.n_sequences:
            _by_sequence(into, batch.offsets)
        else:
            _by_position(into, batch.offsets)
        self._n_loose += batch.n_sequences
        if self._n_loose >= _LOOSE:
            self._settle()

    def count(self, lengths: NDArray[np.int64]) -> None:
        """Count sequences of these lengths, whose values are added by the caller."""
        self._count(lengths.size, count_alive(lengths))

    def sums(self, name: str) -> tuple[Floats, Floats]:
        """Return the sums of a quantity and their rounding errors, to add to in place."""
        self._settle()
        return self._sums[name].pair(self.T)

    def squares(self, name: str) -> tuple[Floats, Floats]:
        """Return the sums of squares of a quantity, as :meth:`sums`."""
        self._settle()
        return self._squares[name].pair(self.T)

    def maxima(self, name: str) -> Floats:
        """Return the largest values of a quantity, to raise in place."""
        self._maxima[name] = np.asarray(grow(self._maxima[name], self.T), dtype=np.float64)
        return self._maxima[name]

    def absorb(self, other: PositionSums) -> None:
        """Add another in place."""
        self._settle()
        other._settle()
        self._count(other.n_sequences, other.alive)
        for name in _MEANS:
            self._sums[name].absorb(other._sums[name])
        for name in _SQUARED:
            self._squares[name].absorb(other._squares[name])
        for name, theirs in other._maxima.items():
            mine = np.asarray(grow(self._maxima[name], theirs.size), dtype=np.float64)
            np.maximum(mine[: theirs.size], theirs, out=mine[: theirs.size])
            self._maxima[name] = mine

    def state(self) -> dict[str, NDArray[Any]]:
        """Everything as named arrays."""
        self._settle()
        self._grow()
        out: dict[str, NDArray[Any]] = {
            "n_sequences": np.array([self.n_sequences]),
            "alive": self.alive,
        }
        for prefix, sums in (("sum", self._sums), ("squares", self._squares)):
            for name, total in sums.items():
                out[f"{prefix}_{name}"] = np.stack([total.high, total.low])
        for name, values in self._maxima.items():
            out[f"max_{name}"] = values
        return out

    @classmethod
    def from_state(cls, state: dict[str, NDArray[Any]]) -> PositionSums:
        """Rebuild from :meth:`state`; quantities that are not there are 0."""
        out = cls()
        out.n_sequences = int(state["n_sequences"][0])
        out.alive = state["alive"]
        for prefix, sums in (("sum", out._sums), ("squares", out._squares)):
            for name in sums:
                if f"{prefix}_{name}" in state:
                    sums[name] = CompensatedSum(*state[f"{prefix}_{name}"])
        for name in _MAXIMA:
            out._maxima[name] = state.get(f"max_{name}", out._maxima[name])
        return out

    def _count(self, n_sequences: int, alive: NDArray[np.int64]) -> None:
        self.n_sequences += n_sequences
        self.alive = np.asarray(grow(self.alive, alive.size), dtype=np.int64)
        self.alive[: alive.size] += alive

    def _loose(self, kind: str, name: str) -> Floats:
        """Return sums to add to without compensation."""
        found = grow(self._loose_sums.get((kind, name), np.zeros(0)), self.T)
        self._loose_sums[kind, name] = np.asarray(found, dtype=np.float64)
        return self._loose_sums[kind, name]

    def _settle(self) -> None:
        """Add the loose sums, which costs as much as ten additions without compensation."""
        for (kind, name), values in self._loose_sums.items():
            (self._sums if kind == "sums" else self._squares)[name].add(values)
        self._loose_sums = {}
        self._n_loose = 0

    def _grow(self) -> None:
        for total in (*self._sums.values(), *self._squares.values()):
            total.grow(self.T)
        for name in _MAXIMA:
            self.maxima(name)

    def _check(self, name: str, known: tuple[str, ...]) -> None:
        if name not in known:
            raise InputError(f"found {name!r}, expected one of {', '.join(known)}", field="name")
        if self.n_sequences == 0:
            raise InputError("the summary holds no sequence")


def count_alive(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Count the sequences that reach each position."""
    return lengths.size - np.cumsum(np.bincount(lengths, minlength=1))[:-1]


_Into = list[tuple[np.ufunc, Floats, Floats]]
"""How values are added to what is there by position: ufunc, what is there, values."""


def _by_sequence(into: _Into, offsets: NDArray[np.int64]) -> None:
    """Add sequence after sequence: a few calls for each, which long ones are worth."""
    cuts = list(zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True))
    for ufunc, total, values in into:
        for start, stop in cuts:
            part = total[: stop - start]
            ufunc(part, values[start:stop], out=part)


def _by_position(into: _Into, offsets: NDArray[np.int64]) -> None:
    """Bring the tokens of a position together: the same number of calls for any sequences."""
    order, starts = _position_major(offsets)
    for ufunc, total, values in into:
        part = total[: starts.size]
        ufunc(part, ufunc.reduceat(values.take(order), starts), out=part)


def _position_major(
    offsets: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Order tokens by position; say where each position starts.

    Sequences are ranked by length, longest first, so that those alive at a position are the
    first ranks and a token's place is known without sorting tokens.
    """
    lengths = np.diff(offsets)
    n_tokens = int(offsets[-1])
    rank = np.empty_like(lengths)
    rank[np.argsort(-lengths, kind="stable")] = np.arange(lengths.size)
    alive = count_alive(lengths)
    starts = np.concatenate([[0], np.cumsum(alive)[:-1]])
    tokens = np.arange(n_tokens, dtype=np.int64)
    place = starts.take(tokens - np.repeat(offsets[:-1], lengths))
    place += np.repeat(rank, lengths)
    order = np.empty(n_tokens, dtype=np.int64)
    order[place] = tokens
    return order, starts
