"""The contract of a law of the mismatch, and the situation it speaks about. No formulas here."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, ClassVar

from trbounds.arrays import array_namespace
from trbounds.checks import as_number_arrays, kept, refuse_where
from trbounds.errors import InputError
from trbounds.mismatch.logspace import log1mexp
from trbounds.theorem import Kind, Law

_LOGARITHMS = ("logp", "log1mp", "logq", "log1mq")
_GIVEN = (*_LOGARITHMS, "logit_error", "noise_sd", "rest_square")


@dataclass(frozen=True, kw_only=True, eq=False)
class MismatchCase:
    """One token under two policies whose logits differ by at most an error, or a batch of them.

    With ``p = softmax(z)`` and ``q = softmax(z + e)``, the mismatch of token i is
    ``Delta = log q_i - log p_i``. Probabilities are given by logarithms (natural), of the
    probability or of its complement, so that both ends keep their digits: give ``logp`` (a number
    such as -1e-300 is p = 1 - 1e-300) or ``log1mp``, or both where both are known better than
    either tells. Values broadcast against each other.

    Parameters
    ----------
    logit_error : array or float, optional
        Largest ``|e_k|`` over the vocabulary, a. Adding a constant to all logits changes nothing,
        so half the range of e will do.
    logp, log1mp : array or float, optional
        ``log p_i`` and ``log(1 - p_i)``, at most 0.
    logq, log1mq : array or float, optional
        ``log q_i`` and ``log(1 - q_i)``, at most 0.
    noise_sd : array or float, optional
        Standard deviation s of independent normal logit errors.
    rest_square : array or float, optional
        ``sum_{k != i} p_k^2``, in [0, 1].

    Attributes
    ----------
    p, one_minus_p, q, one_minus_q : array or None
        From the given logarithms, each from the one that keeps its digits.

    Raises
    ------
    InputError
        If a value is out of range or not a number, or the two logarithms of one probability
        contradict each other.

    Examples
    --------
    >>> from trbounds.mismatch import MismatchCase, get_law
    >>> case = MismatchCase(logp=[-0.1, -5.0], logit_error=0.01)
    >>> get_law("envelope").evaluate(case).round(6).tolist()
    [0.001886, 0.019864]
    """

    logit_error: Any = None
    logp: Any = None
    log1mp: Any = None
    logq: Any = None
    log1mq: Any = None
    noise_sd: Any = None
    rest_square: Any = None
    p: Any = field(init=False, default=None)
    one_minus_p: Any = field(init=False, default=None)
    q: Any = field(init=False, default=None)
    one_minus_q: Any = field(init=False, default=None)

    def __post_init__(self) -> None:
        given = {name: v for name in _GIVEN if (v := getattr(self, name)) is not None}
        for name, array in as_number_arrays(given).items():
            _check(name, array)
            object.__setattr__(self, name, kept(array))
        for letter in ("p", "q"):
            self._complete(letter)

    @property
    def xp(self) -> ModuleType:
        """Array namespace of the values."""
        return array_namespace(*(getattr(self, name) for name in _GIVEN))

    def _complete(self, letter: str) -> None:
        xp, name, other = self.xp, f"log{letter}", f"log1m{letter}"
        log, log_rest = getattr(self, name), getattr(self, other)
        if log is None and log_rest is None:
            return
        value = xp.exp(log) if log is not None else -xp.expm1(log_rest)
        rest = xp.exp(log_rest) if log_rest is not None else -xp.expm1(log)
        if bool(xp.any(xp.abs(value + rest - 1.0) > 1e-9)):
            raise InputError(
                f"found exp({name}) + exp({other}) other than 1, expected a probability and its "
                "complement",
                field=other,
            )
        object.__setattr__(self, letter, value)
        object.__setattr__(self, f"one_minus_{letter}", rest)
        object.__setattr__(self, name, log if log is not None else log1mexp(xp, log_rest))
        object.__setattr__(self, other, log_rest if log_rest is not None else log1mexp(xp, log))


def _check(name: str, array: Any) -> None:
    if name in _LOGARITHMS:
        bad, expected = ~(array <= 0.0), "a logarithm of a probability, at most 0"
    elif name == "rest_square":
        bad, expected = ~((array >= 0.0) & (array <= 1.0)), "a number in [0, 1]"
    else:
        bad, expected = ~((array >= 0.0) & (array < math.inf)), "a finite number of at least 0"
    refuse_where(bad, array, expected, name)


@dataclass(frozen=True)
class Perturbation:
    """An instance: a distribution, the errors of its logits, and one token.

    Parameters
    ----------
    probabilities : tuple of float
        p, without zeros.
    errors : tuple of float
        e, one per token.
    token : int
        i.
    """

    probabilities: tuple[float, ...]
    errors: tuple[float, ...]
    token: int = 0


@dataclass(frozen=True, kw_only=True, repr=False)
class MismatchLaw(Law[MismatchCase]):
    """A law of the mismatch: a theorem about a :class:`MismatchCase`.

    Parameters
    ----------
    key, title, source, quantity, requires, formula, statement, derive, rank, assumes
        As of every :class:`~trbounds.theorem.Theorem`; ``formula(case)`` is the upper bound, or
        the value itself.
    attained : callable, optional
        Returns a :class:`Perturbation` in which the quantity equals the value.
    relaxed : callable, optional
        ``relaxed(case)``: a larger value that bounds the quantity without remainder.
    lower : callable, optional
        ``lower(case)``: a lower bound on the same quantity.
    remainder : str
        Of a law that holds to leading order only: the order of what is left out.
    counterexample : callable, optional
        Returns a :class:`Perturbation` in which the quantity exceeds a leading-order value.

    Notes
    -----
    Relative error below 1e-14 for p from 1e-300 to 1 - 1e-300. The law ``selection_bias`` changes
    its sign: there, relative to its terms.
    """

    notation: ClassVar = (
        ("p, q", "p = softmax(z), q = softmax(z + e); alone: of the token i, p_i and q_i"),
        ("Delta", "log q_i - log p_i, the mismatch"),
        ("a", "the logit error, the largest |e_k|"),
        ("s", "standard deviation of independent normal errors e_k"),
        ("R", "sum of p_k^2 over the tokens k other than i"),
        ("m", "mean of exp(e_k - e_i) over the tokens k other than i, weighted by p_k"),
    )

    lower: Callable[[MismatchCase], Any] | None = None
    remainder: str = ""
    attained: Callable[[], Perturbation] | None = None
    counterexample: Callable[[], Perturbation] | None = None

    @property
    def kind(self) -> Kind:
        """Leading order where something is left out; tight where attained; otherwise upper."""
        return Kind.LEADING_ORDER if self.remainder else super().kind

    def missing(self, situation: Any) -> tuple[str, ...]:
        """Return what a case lacks, a probability by the arguments that give it."""
        given_by = {"p": "logp or log1mp", "q": "logq or log1mq"}
        return tuple(given_by.get(name, name) for name in super().missing(situation))

    def evaluate_lower(self, case: MismatchCase) -> Any:
        """Evaluate the lower side.

        Parameters
        ----------
        case : MismatchCase
            As for :meth:`evaluate`.

        Returns
        -------
        float or array
            At most the quantity, in its unit.

        Raises
        ------
        InputError
            If the law has no lower side, or the case lacks what the law needs.
        """
        if self.lower is None:
            raise InputError(f"the law '{self.key}' has no lower side")
        return self._apply(self.lower, case)
