"""Terms of a single token, of which statistics and rules on tokens are made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from trbounds.errors import InputError
from trbounds.traces.batch import TraceBatch
from trbounds.traces.token_terms import LOG_RATIO_CLAMP, k3_of

__all__ = ["TERMS", "Term", "power"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Term:
    """One number per token.

    Parameters
    ----------
    title : str
        What it is.
    of : callable
        From a batch without masked tokens to one entry per token.
    needs : tuple of str
        Optional trace fields it needs.
    empty : float
        Its largest, smallest, mean and sum over no token.
    clamped : str
        The term it equals where no ``|log rho|`` exceeds 20; empty for others.
    """

    title: str
    of: Callable[[TraceBatch], Floats]
    needs: tuple[str, ...] = ()
    empty: float = 0.0
    clamped: str = ""


def power(values: Floats) -> Floats:
    """``e^x``; a ratio beyond float64 is infinite, above every threshold."""
    with np.errstate(over="ignore"):
        return np.asarray(np.exp(values), dtype=np.float64)


def _logged(name: str) -> Term:
    def of(batch: TraceBatch) -> Floats:
        values = getattr(batch, name)
        if values is None:
            raise InputError("not logged", file=batch.file, field=name)
        return np.asarray(values, dtype=np.float64)

    return Term(f"logged {name}", of, needs=(name,))


def _safe(batch: TraceBatch) -> Floats:
    return np.clip(batch.log_ratio, -LOG_RATIO_CLAMP, LOG_RATIO_CLAMP)


def _clamped_k3(batch: TraceBatch) -> Floats:
    log_ratio = _safe(batch)
    return k3_of(log_ratio, np.expm1(log_ratio))


def _prob_delta(batch: TraceBatch) -> Floats:
    return np.exp(batch.train_logprobs) - np.exp(batch.rollout_logprobs)


_FIRST = "log rho clamped to [-20, 20]"

TERMS: Mapping[str, Term] = MappingProxyType(
    {
        "k1": Term("-log rho", lambda batch: -batch.log_ratio),
        "k2": Term("(log rho)^2/2", lambda batch: 0.5 * batch.log_ratio**2),
        "k3": Term(
            "rho - 1 - log rho", lambda batch: k3_of(batch.log_ratio, batch.ratio_minus_one)
        ),
        "|rho-1|": Term("|rho - 1|", lambda batch: np.abs(batch.ratio_minus_one)),
        "(rho-1)^2": Term("(rho - 1)^2", lambda batch: batch.ratio_minus_one**2),
        "ratio": Term("ratio rho", lambda batch: power(batch.log_ratio), empty=1.0),
        "mult_prob_error": Term(
            "exp |log rho|, the larger of rho and 1/rho",
            lambda batch: power(np.abs(batch.log_ratio)),
        ),
        "prob_delta": Term("pi - mu of the sampled token", _prob_delta),
        "advantages": _logged("advantages"),
        "kl": _logged("kl"),
        "tv": _logged("tv"),
        "chi2": _logged("chi2"),
        "clamped_k1": Term(f"k1, {_FIRST}", lambda batch: -_safe(batch), clamped="k1"),
        "clamped_k2": Term(f"k2, {_FIRST}", lambda batch: 0.5 * _safe(batch) ** 2, clamped="k2"),
        "clamped_k3": Term(f"k3, {_FIRST}", _clamped_k3, clamped="k3"),
    }
)
"""Every term by name."""
