"""Derivations whose steps run: claims, justifications and certificates. Imports sympy.

A derivation of a bound is a chain ``|Error| <= e_1 <= e_2 <= ... <= statement``. Each link is one
of few kinds, and each kind is checked by machine:

- a **lemma** applied to the whole expression or to a part in which the expression does not
  decrease; the lemma is proved by a derivation of its own, checked with it;
- an **identity**, whose residual sympy reduces to zero;
- a **scalar inequality**, whose difference equals a witness that is non-negative by its form;
- a **reference**, for what no machine here can check: it says so and names its source.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

import sympy as sp

from trbounds.printing import text
from trbounds.symbolic import T, t

__all__ = [
    "Certificate",
    "Chain",
    "Derivation",
    "Lemma",
    "Step",
    "all_of",
    "all_steps",
    "identity",
    "nondecreasing",
    "nonnegative",
    "reference",
]

_CHAIN_END = "the chain above"


@dataclass(frozen=True)
class Certificate:
    """The outcome of a check.

    Parameters
    ----------
    ok : bool
        Whether the check passed.
    method : str
        ``identity``, ``sign``, ``lemma``, ``enumeration``, ``interval`` or ``reference``.
    detail : str
        The residual, the witness or the source.
    """

    ok: bool
    method: str
    detail: str

    @property
    def by_machine(self) -> bool:
        """Whether a machine checked it; False for a reference to a proof elsewhere."""
        return self.method != "reference"


Check = Callable[[], Certificate]


@dataclass(frozen=True)
class Step:
    """One claim with its justification and its check.

    Parameters
    ----------
    claim : sympy expression or str
        What is claimed.
    because : str
        Why, for a reader.
    check : callable
        Runs the check.
    lemma : Lemma, optional
        The lemma it rests on.
    """

    claim: Any
    because: str
    check: Check
    lemma: Lemma | None = None


@dataclass(frozen=True)
class Derivation:
    """A proof as a sequence of checked steps.

    Parameters
    ----------
    title : str
        What is proved.
    steps : tuple of Step
        In order.
    """

    title: str
    steps: tuple[Step, ...]

    def check(self) -> tuple[Certificate, ...]:
        """Run every check and return the certificates, in order. One thread at a time may."""
        return tuple(step.check() for step in self.steps)

    @property
    def conclusions(self) -> tuple[Any, ...]:
        """What its chains end at."""
        return tuple(step.claim for step in self.steps if step.because == _CHAIN_END)

    def lemmas(self) -> tuple[Lemma, ...]:
        """Return the lemmas used, directly or through others, each once, in order of need."""
        found: dict[str, Lemma] = {}
        for step in self.steps:
            if step.lemma is not None:
                for inner in step.lemma.derive().lemmas():
                    found.setdefault(inner.key, inner)
                found.setdefault(step.lemma.key, step.lemma)
        return tuple(found.values())


@dataclass(frozen=True)
class Lemma:
    """An inequality or identity with a proof, to be instantiated in derivations.

    Parameters
    ----------
    key, title : str
        Names for code and for people.
    left, relation, right : sympy expression, ``"<="`` or ``"=="``, sympy expression
        What it says, in free symbols that an instantiation replaces.
    prove : callable
        Returns the steps of the proof.
    assumes : str
        Conditions on what may be put for the symbols.
    source : str
        Paper and place, or a standard name.
    """

    key: str
    title: str
    left: Any
    relation: str
    right: Any
    prove: Callable[[], Iterable[Step]]
    assumes: str = ""
    source: str = "standard"

    def at(self, values: dict[Any, Any] | None = None) -> tuple[Any, Any]:
        """Return both sides with symbols replaced."""
        values = values or {}
        return _put(self.left, values), _put(self.right, values)

    def derive(self) -> Derivation:
        """Return the proof."""
        return Derivation(self.title, tuple(self.prove()))

    def certificate(self) -> Certificate:
        """Check the proof (once per process)."""
        return _lemma_certificate(self)

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Lemma) and other.key == self.key


@cache
def _lemma_certificate(lemma: Lemma) -> Certificate:
    outcomes = lemma.derive().check()
    failed = [i for i, outcome in enumerate(outcomes, 1) if not outcome.ok]
    cited = sum(not outcome.by_machine for outcome in outcomes)
    detail = f"'{lemma.key}': {len(outcomes) - len(failed)} of {len(outcomes)} steps hold"
    if cited:
        detail += f", {cited} by reference"
    return Certificate(bool(outcomes) and not failed, "lemma", detail)


def _put(expr: Any, values: dict[Any, Any]) -> Any:
    return expr.xreplace(values) if values else expr


# -- checks ------------------------------------------------------------------------------------


def identity(left: Any, right: Any) -> Check:
    """Check that two expressions are equal: sympy must reduce their difference to zero."""

    def check() -> Certificate:
        residual = left - right
        if residual != 0:
            residual = sp.expand(residual)
        if residual != 0:
            residual = sp.simplify(residual)
        return Certificate(residual == 0, "identity", f"residual {text(residual)}")

    return check


def nonnegative(expr: Any, witness: Any = None) -> Check:
    """Check that an expression is non-negative for all values its symbols' assumptions allow.

    Parameters
    ----------
    expr : sympy expression
        What must be non-negative.
    witness : sympy expression, optional
        An equal expression whose sign is plain from its form: products and sums of squares and of
        non-negative factors. Equality is checked as an identity, the sign by sympy's assumptions.
    """

    def check() -> Certificate:
        form = sp.factor(_one_sum(expr)) if witness is None else witness
        same = Certificate(True, "", "") if witness is None else identity(expr, form)()
        if not same.ok:
            return Certificate(False, "sign", f"witness differs: {same.detail}")
        sign = bool(form.is_nonnegative)
        return Certificate(sign, "sign", f"{'' if sign else 'no sign for '}{text(form)} >= 0")

    return check


def reference(source: str) -> Check:
    """Cite a proof that is not checked here. The certificate says so."""
    return lambda: Certificate(True, "reference", f"not checked by machine: {source}")


def _within_range(total: Any, expr: Any) -> Any:
    """Write an expression of the index t of a sum up to T with T = t + m, m >= 0."""
    index, _, last = total.limits[0]
    if not isinstance(last, sp.Symbol):
        return expr
    return expr.subs(last, index + sp.Symbol("m", integer=True, nonnegative=True))


def _one_sum(expr: Any) -> Any:
    """Summand of a difference of sums over one range, the index kept within the range."""
    parts = [
        part.as_independent(sp.Sum, as_Add=False) for part in sp.Add.make_args(sp.expand(expr))
    ]
    sums = [total for _, total in parts if isinstance(total, sp.Sum)]
    if len(sums) != len(parts) or len({total.limits for total in sums}) != 1:
        return expr
    return _within_range(sums[0], sp.Add(*(factor * total.function for factor, total in parts)))


def all_of(method: str, detail: str, checks: Iterable[Check]) -> Check:
    """Check a family of cases; the first failure is reported."""
    cases = tuple(checks)

    def check() -> Certificate:
        for number, case in enumerate(cases, 1):
            outcome = case()
            if not outcome.ok:
                return Certificate(False, method, f"case {number}: {outcome.detail}")
        return Certificate(bool(cases), method, f"{detail} ({len(cases)} cases)")

    return check


def all_steps(derivation: Derivation) -> Check:
    """Check another derivation, every step of it."""

    def check() -> Certificate:
        outcomes = derivation.check()
        held = sum(outcome.ok for outcome in outcomes)
        detail = f"'{derivation.title}': {held} of {len(outcomes)} steps hold"
        return Certificate(held == len(outcomes) > 0, "lemma", detail)

    return check


def nondecreasing(expr: Any, atom: Any) -> bool:
    """Tell whether an expression does not decrease in a non-negative part, by its structure."""
    if expr == atom or not expr.has(atom):
        return True
    if isinstance(expr, (sp.Add, sp.Min, sp.Max)):
        return all(nondecreasing(a, atom) for a in expr.args)
    if isinstance(expr, sp.Sum):
        inside, part = _within_range(expr, expr.function), _within_range(expr, atom)
        return nondecreasing(inside, part)
    if isinstance(expr, sp.Mul):
        return all(a.is_nonnegative and nondecreasing(a, atom) for a in expr.args)
    if isinstance(expr, sp.Pow) and expr.exp.is_nonnegative and not expr.exp.has(atom):
        return bool(expr.base.is_nonnegative) and nondecreasing(expr.base, atom)
    if isinstance(expr, (sp.exp, sp.log)):
        return nondecreasing(expr.args[0], atom)
    return False


def _has_no_negative_value(expr: Any) -> bool:
    """Tell whether an expression is non-negative wherever it is defined, for positions up to T."""
    if expr.is_nonnegative:
        return True
    room = sp.Symbol("m", integer=True, nonnegative=True)
    inside = expr.subs(T, t + room) if expr.has(t) else expr
    positive = {
        symbol: sp.Dummy(positive=True, integer=symbol.is_integer)
        for symbol in inside.atoms(sp.Symbol)
        if symbol.is_nonnegative and symbol != t
    }
    return bool(inside.is_nonnegative or inside.xreplace(positive).is_nonnegative)


# -- chains ------------------------------------------------------------------------------------


class Chain:
    """Builder of a derivation ``start <= ... <= end``, each link checked.

    Parameters
    ----------
    title : str
        What is proved.
    start : sympy expression
        The left end, such as ``|Error|``.
    """

    def __init__(self, title: str, start: Any) -> None:
        self.title = title
        self.start = start
        self.current = start
        self._steps: list[Step] = []

    def _link(
        self, relation: str, new: Any, because: str, check: Check, lemma: Any = None
    ) -> Chain:
        relate = sp.Le if relation == "<=" else sp.Eq
        claim = relate(self.current, new, evaluate=False)
        self._steps.append(Step(claim, because, check, lemma))
        self.current = new
        return self

    def fact(self, claim: Any, because: str, check: Check, lemma: Lemma | None = None) -> Chain:
        """Add a checked claim beside the chain, such as a condition that a later link needs."""
        self._steps.append(Step(claim, because, check, lemma))
        return self

    def by(self, lemma: Lemma, values: dict[Any, Any] | None = None, because: str = "") -> Chain:
        """Apply a lemma to a part of the expression (or to all of it).

        The lemma's left side, with `values` put in, must occur in the expression; it is replaced
        by the right side. For an inequality the expression must not decrease in that part. What
        is put for a symbol that is not negative must not be negative either.
        """
        left, right = lemma.at(values)
        before = self.current
        new = before.xreplace({left: right})

        def check() -> Certificate:
            for symbol, value in (values or {}).items():
                if symbol.is_nonnegative and not _has_no_negative_value(value):
                    detail = f"{text(symbol)} is not negative; {text(value)} may be"
                    return Certificate(False, "lemma", detail)
            if new == before and left != right:
                return Certificate(False, "lemma", f"{text(left)} does not occur")
            if lemma.relation == "<=" and not nondecreasing(before, left):
                return Certificate(False, "lemma", f"may decrease in {text(left)}")
            return lemma.certificate()

        return self._link(lemma.relation, new, because or lemma.title, check, lemma)

    def equal(self, new: Any, because: str, check: Check | None = None) -> Chain:
        """Rewrite the expression; sympy must reduce the difference to zero."""
        return self._link("==", new, because, check or identity(self.current, new))

    def at_most(self, new: Any, because: str, check: Check | None = None) -> Chain:
        """Replace the expression by a larger one; the difference must have a provable sign.

        A difference of sums over the same range is compared term by term.
        """
        return self._link("<=", new, because, check or nonnegative(new - self.current))

    def end(self, statement: Any) -> Derivation:
        """Close the chain: its last expression must be the statement itself."""
        last = self.current

        def check() -> Certificate:
            if last == statement:
                return Certificate(True, "identity", "the chain ends at the statement")
            return identity(last, statement)()

        equal = all(isinstance(step.claim, sp.Eq) for step in self._steps)
        claim = (sp.Eq if equal else sp.Le)(self.start, statement, evaluate=False)
        self._steps.append(Step(claim, _CHAIN_END, check))
        return Derivation(self.title, tuple(self._steps))
