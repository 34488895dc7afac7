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

    @classmethod
    def of(cls, terms: TokenTerms) -> PositionSums:
        """Sum a block."""
        out = cls()
        batch = terms.batch
        out.n_sequences = batch.n_sequences
        if batch.n_tokens == 0:
            return out
        columns = {"ratio": terms.ratio, "abs_ratio": terms.abs_ratio, "square": terms.square}
        columns["k3"] = terms.k3
        for name in ("tv", "kl", "chi2"):
            values = getattr(batch, name)
            if values is not None:
                columns[name] = values
        targets = [(out._sums, name) for name in columns]
        rows = list(columns.values())
        for name in _SQUARED:
            if name in columns:
                targets.append((out._squares, name))
                rows.append(columns[name] * columns[name])
        maxima = {name: columns[name] for name in _MAXIMA if name in columns}
        maxima["abs_log_ratio"] = terms.abs_log_ratio
        reduce = _by_sequence if batch.n_tokens >= _LONG * batch.n_sequences else _by_position
        totals, tops, out.alive = reduce(rows, list(maxima.values()), batch.offsets)
        for (sums, name), total in zip(targets, totals, strict=True):
            sums[name] = CompensatedSum(total)
        out._maxima.update(zip(maxima, tops, strict=True))
        return out

    def count(self, lengths: NDArray[np.int64]) -> None:
        """Count sequences of these lengths, whose values are added by the caller."""
        self._count(lengths.size, count_alive(lengths))

    def sums(self, name: str) -> tuple[Floats, Floats]:
        """Return the sums of a quantity and their rounding errors, to add to in place."""
        return self._sums[name].pair(self.T)

    def squares(self, name: str) -> tuple[Floats, Floats]:
        """Return the sums of squares of a quantity, as :meth:`sums`."""
        return self._squares[name].pair(self.T)

    def maxima(self, name: str) -> Floats:
        """Return the largest values of a quantity, to raise in place."""
        self._maxima[name] = np.asarray(grow(self._maxima[name], self.T), dtype=np.float64)
        return self._maxima[name]

    def absorb(self, other: PositionSums) -> None:
        """Add another in place."""
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


def _by_sequence(
    rows: list[Floats], maxima: list[Floats], offsets: NDArray[np.int64]
) -> tuple[list[Floats], list[Floats], NDArray[np.int64]]:
    """Add sequence after sequence: a few calls for each, which long ones are worth."""
    alive = count_alive(np.diff(offsets))
    cuts = list(zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True))

    def over(ufunc: np.ufunc, values: Floats) -> Floats:
        total = np.zeros(alive.size)
        for start, stop in cuts:
            part = total[: stop - start]
            ufunc(part, values[start:stop], out=part)
        return total

    return [over(np.add, row) for row in rows], [over(np.maximum, row) for row in maxima], alive


def _by_position(
    rows: list[Floats], maxima: list[Floats], offsets: NDArray[np.int64]
) -> tuple[list[Floats], list[Floats], NDArray[np.int64]]:
    """Bring the tokens of a position together: the same number of calls for any sequences."""
    order, starts, alive = _position_major(offsets)
    totals = [np.add.reduceat(values.take(order), starts) for values in rows]
    return totals, [np.maximum.reduceat(values.take(order), starts) for values in maxima], alive


def _position_major(
    offsets: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Order tokens by position; say where each position starts and how many tokens it has.

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
    return order, starts, alive
