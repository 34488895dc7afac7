"""The token pass on arrays of any library, where they are: on a GPU, too.

A `TraceSummary` is made from numpy arrays on the host. Where the log-probabilities of a batch lie
on a device, this module computes the sums over sequences and over positions there, by the same
definitions; only the offsets are looked at on the host.

Sequences are laid out as the rows of rectangles, similar lengths together, so that a sum over a
sequence or over a position is one reduction along an axis: no running sum over the whole batch,
from which the segments would have to be subtracted again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trbounds.arrays import array_namespace, device, to_numpy
from trbounds.checks import as_number_array, as_numpy
from trbounds.divergences.elementwise import expm1_minus_float64
from trbounds.errors import InputError
from trbounds.traces.position_sums import count_alive
from trbounds.traces.token_terms import LOG_WEIGHT_CAP
from trbounds.traces.validate import LOWEST_SAMPLED_LOGPROB, RANGES

_BLOCK_CELLS = 1 << 21
"""Cells of a rectangle: about twenty float64 arrays of this size are alive at once."""

_DIVERGENCES = ("kl", "tv", "chi2")

_ADMISSIBLE = {
    "log_ratio": (RANGES["train_logprobs"][0], -LOWEST_SAMPLED_LOGPROB),
    **{name: RANGES[name] for name in _DIVERGENCES},
}
"""What the log-probabilities of a trace allow, and its divergences."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TokenSums:
    """Sums over the tokens of sequences; float64, on the device of the tokens.

    Names and definitions are those of the summary of a trace
    (`trbounds.traces.sequence_table.COLUMNS`, `trbounds.traces.position_sums.PositionSums`).

    Attributes
    ----------
    n_sequences, T : int
        How many sequences, and the longest, in tokens.
    sequences : dict of str to array, shape (n,)
        ``log_weight``, ``ratio_sum``, ``abs_ratio_sum``, ``square_sum``, ``k3_sum``, ``k2_max``;
        with divergences ``kl_sum``, ``tv_sum``, ``chi2_sum``, ``kl_max``, ``residual_path``.
    position_sums : dict of str to array, shape (T,)
        ``ratio``, ``abs_ratio``, ``square``, ``k3``, and the divergences that were given.
    position_maxima : dict of str to array, shape (T,)
        ``abs_log_ratio``, and the divergences that were given.
    alive : array of int64, shape (T,)
        How many sequences have a token at each position.
    """

    n_sequences: int
    T: int
    sequences: dict[str, Any]
    position_sums: dict[str, Any]
    position_maxima: dict[str, Any]
    alive: Any

    def position_mean(self, name: str) -> Any:
        """Return the mean over all sequences at each position, ended ones counting 0.

        Raises
        ------
        InputError
            If the quantity is unknown or was not given.
        """
        if name not in self.position_sums:
            known = ", ".join(self.position_sums)
            raise InputError(f"found {name!r}, expected one of {known}", field="name")
        return self.position_sums[name] / self.n_sequences


def token_sums(
    log_ratio: Any, offsets: Any, *, kl: Any = None, tv: Any = None, chi2: Any = None
) -> TokenSums:
    """Sum what the tokens of a batch say, over each sequence and at each position.

    Parameters
    ----------
    log_ratio : array, shape (tokens,)
        log ρ = log π - log μ of the sampled tokens, in nats: in [-1e4, 100].
    offsets : array of int, shape (n + 1,)
        Sequence i owns the tokens ``offsets[i]:offsets[i + 1]``.
    kl, tv, chi2 : array, shape (tokens,), optional
        KL(μ‖π), TV and χ²(π‖μ) at each token's context: in [0, 1e4], [0, 1] and [0, e^100].

    Returns
    -------
    TokenSums
        On the namespace and device of `log_ratio`. Relative error of sums of non-negative terms:
        below 1e-15, and 2e-16 more for each term that the library adds one after another. numpy
        does so over the sequences at a position; over the tokens of a sequence it adds in pairs.

    Raises
    ------
    InputError
        If the lengths do not fit, or a value is not admissible; the record is the token.

    Notes
    -----
    As in a trace, the weights W of ``residual_path`` saturate at e^100.

    Examples
    --------
    >>> import numpy as np
    >>> found = token_sums(np.array([0.1, -0.2, 0.3]), [0, 2, 3])
    >>> found.sequences["log_weight"].round(12).tolist(), found.alive.tolist()
    ([-0.1, 0.3], [2, 1])
    """
    xp = array_namespace(log_ratio, kl, tv, chi2)
    given = {"log_ratio": log_ratio, "kl": kl, "tv": tv, "chi2": chi2}
    columns = {
        name: _checked(xp, name, values, log_ratio)
        for name, values in given.items()
        if values is not None
    }
    cuts = _checked_offsets(offsets, columns)
    lengths = np.diff(cuts)
    n, T = lengths.size, int(lengths.max(initial=0))
    totals = _Totals(xp, T, columns["log_ratio"])
    order = np.argsort(lengths, kind="stable")
    for rows in _blocks(lengths[order]):
        totals.add(columns, cuts[:-1][order[rows]], lengths[order[rows]])
    back = totals.on_device(np.argsort(order, kind="stable"))
    return TokenSums(
        n_sequences=n,
        T=T,
        sequences={
            name: xp.take(xp.concat(parts), back, axis=0)
            for name, parts in totals.sequences.items()
        },
        position_sums=totals.sums,
        position_maxima=totals.maxima,
        alive=totals.on_device(count_alive(lengths)),
    )


def _checked(xp: ModuleType, name: str, values: Any, like: Any) -> Any:
    x = as_number_array(name, values, xp=xp, like=like)
    if x.ndim != 1:
        raise InputError(f"found shape {tuple(x.shape)}, expected (tokens,)", field=name)
    low, high = _ADMISSIBLE[name]
    bad = ~((x >= low) & (x <= high))
    if bool(xp.any(bad)):
        token = int(to_numpy(bad).argmax())
        problem = f"found {float(x[token]):g}, expected a number in [{low:g}, {high:g}]"
        raise InputError(problem, record=token, field=name)
    return x


def _checked_offsets(offsets: Any, columns: dict[str, Any]) -> NDArray[np.int64]:
    cuts = as_numpy("offsets", offsets)
    if cuts.ndim != 1 or cuts.size < 2 or cuts.dtype.kind not in "iu":
        raise InputError("expected at least two whole numbers", field="offsets")
    cuts = cuts.astype(np.int64)
    if cuts[0] != 0 or bool((np.diff(cuts) < 0).any()):
        raise InputError("expected numbers that start at 0 and do not fall", field="offsets")
    for name, values in columns.items():
        if values.shape != (int(cuts[-1]),):
            raise InputError(
                f"found {values.shape[0]} tokens, expected {cuts[-1]} as the offsets say",
                field=name,
            )
    return cuts


def _blocks(lengths: NDArray[np.int64]) -> Iterator[slice]:
    """Cut sorted lengths into rectangles of a bounded number of cells, at least one row each."""
    start = 0
    while start < lengths.size:
        # The last row is the longest: cells grow with the stop.
        ahead = np.arange(1, lengths.size - start + 1) * lengths[start:]
        rows = max(1, int(np.searchsorted(ahead, _BLOCK_CELLS, side="right")))
        yield slice(start, start + rows)
        start += rows


class _Totals:
    """What was added up so far."""

    def __init__(self, xp: ModuleType, T: int, like: Any) -> None:
        self._xp, self._T, self._device = xp, T, device(like)
        self.sequences: dict[str, list[Any]] = {}
        self.sums: dict[str, Any] = {}
        self.maxima: dict[str, Any] = {}

    def on_device(self, values: NDArray[np.int64]) -> Any:
        return self._xp.asarray(values, device=self._device)

    def add(
        self, columns: dict[str, Any], starts: NDArray[np.int64], lengths: NDArray[np.int64]
    ) -> None:
        """Add a rectangle of sequences; cells after the end of a sequence are 0."""
        xp, width = self._xp, int(lengths[-1])
        steps = self.on_device(np.arange(width))
        inside = steps[None, :] < self.on_device(lengths)[:, None]
        places = xp.where(inside, self.on_device(starts)[:, None] + steps[None, :], 0)
        cells = {name: self._lay_out(values, places, inside) for name, values in columns.items()}
        log_ratio = cells.pop("log_ratio")
        ratio = xp.expm1(log_ratio)
        size = xp.abs(log_ratio)
        cells |= {"ratio": ratio, "abs_ratio": xp.abs(ratio), "square": ratio * ratio}
        cells["k3"] = expm1_minus_float64(xp, log_ratio)
        self._add_sequence("log_weight", xp.sum(log_ratio, axis=1))
        for name, values in cells.items():
            self._add_sequence(f"{name}_sum", xp.sum(values, axis=1))
            self._add_positions(name, values)
        maxima = {"abs_log_ratio": size} | {k: cells[k] for k in _DIVERGENCES if k in cells}
        for name, values in maxima.items():
            self._raise_maxima(name, values)
        largest = self._largest(size)
        self._add_sequence("k2_max", 0.5 * largest * largest)
        if "kl" in cells:
            self._add_sequence("kl_max", self._largest(cells["kl"]))
        if "chi2" in cells:
            before = xp.clip(_running_before(xp, log_ratio), max=LOG_WEIGHT_CAP)
            excess = xp.expm1(before)
            self._add_sequence("residual_path", xp.sum(excess * excess * cells["chi2"], axis=1))

    def _lay_out(self, values: Any, places: Any, inside: Any) -> Any:
        xp = self._xp
        if not values.shape[0]:
            return xp.zeros(places.shape, dtype=xp.float64, device=self._device)
        flat = xp.take(values, xp.reshape(places, (-1,)), axis=0)
        return xp.where(inside, xp.reshape(flat, places.shape), 0.0)

    def _largest(self, values: Any) -> Any:
        """Return the largest cell of each row; 0 for an empty one."""
        xp = self._xp
        return xp.max(values, axis=1) if values.shape[1] else xp.sum(values, axis=1)

    def _add_sequence(self, name: str, values: Any) -> None:
        self.sequences.setdefault(name, []).append(values)

    def _padded(self, values: Any) -> Any:
        xp = self._xp
        rest = self._T - values.shape[0]
        return xp.concat([values, xp.zeros(rest, dtype=xp.float64, device=self._device)])

    def _add_positions(self, name: str, values: Any) -> None:
        total = self._padded(self._xp.sum(values, axis=0))
        self.sums[name] = self.sums[name] + total if name in self.sums else total

    def _raise_maxima(self, name: str, values: Any) -> None:
        top = self._padded(self._xp.max(values, axis=0))
        mine = self.maxima.get(name)
        self.maxima[name] = top if mine is None else self._xp.maximum(mine, top)


def _running_before(xp: ModuleType, values: Any) -> Any:
    """Return the sum of the cells before each cell of its row."""
    if not values.shape[1]:
        return values
    before = xp.cumulative_sum(values[:, :-1], axis=1)
    return xp.concat([xp.zeros_like(values[:, :1]), before], axis=1)
