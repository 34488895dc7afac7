"""The contract of every law of the mismatch, discovered."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import product
from pathlib import Path
from types import ModuleType

import mpmath as mp
import numpy as np
import pytest

import trbounds.mismatch.laws
from trbounds.errors import InputError
from trbounds.mismatch import MismatchCase, MismatchLaw, Perturbation, all_laws, get_law
from trbounds.symbolic import evaluate
from trbounds.theorem import Kind

FOLDER = Path(trbounds.mismatch.laws.__file__).parent
LAWS = list(all_laws().values())
each_law = pytest.mark.parametrize("law", LAWS, ids=lambda law: law.key)
each_bounded = pytest.mark.parametrize(
    "law", [law for law in LAWS if "logit_error" in law.requires], ids=lambda law: law.key
)


def distributions(instance: Perturbation) -> tuple[list[mp.mpf], list[mp.mpf]]:
    p = [mp.mpf(v) for v in instance.probabilities]
    weights = [v * mp.exp(mp.mpf(e)) for v, e in zip(p, instance.errors, strict=True)]
    total_p, total_q = mp.fsum(p), mp.fsum(weights)
    return [v / total_p for v in p], [w / total_q for w in weights]


def mismatch(instance: Perturbation) -> mp.mpf:
    p, q = distributions(instance)
    return mp.log(q[instance.token] / p[instance.token])


def pairwise(term: Callable[[mp.mpf, mp.mpf], mp.mpf]) -> Callable[[Perturbation], mp.mpf]:
    return lambda instance: mp.fsum(
        term(p, q) for p, q in zip(*distributions(instance), strict=True)
    )


#: Every quantity that a law may speak about, by its definition.
QUANTITIES: dict[str, Callable[[Perturbation], mp.mpf]] = {
    "log q_i - log p_i": mismatch,
    "|log q_i - log p_i|": lambda instance: abs(mismatch(instance)),
    "TV(p, q)": pairwise(lambda p, q: abs(p - q) / 2),
    "KL(p, q)": pairwise(lambda p, q: p * mp.log(p / q)),
    "chi2(q, p)": pairwise(lambda p, q: (q - p) ** 2 / p),
}


def case_of(instance: Perturbation) -> MismatchCase:
    p, q = distributions(instance)
    i = instance.token
    return MismatchCase(
        logit_error=max(abs(e) for e in instance.errors),
        logp=float(mp.log(p[i])),
        log1mp=float(mp.log(mp.fsum(p[:i] + p[i + 1 :]))),
        logq=float(mp.log(q[i])),
        log1mq=float(mp.log(mp.fsum(q[:i] + q[i + 1 :]))),
    )


def perturbations() -> Iterator[Perturbation]:
    """Random errors, and every vertex of the cube of errors; flat, peaked and far-out p."""
    rng = np.random.default_rng(2512)
    for n, a in product((2, 3, 5), (1e-6, 0.01, 0.3, 2.0)):
        for scale in (0.1, 3.0, 15.0):
            z = rng.normal(size=n) * scale
            p = tuple(np.exp(z - np.logaddexp.reduce(z)))
            vertices = list(product((-a, a), repeat=n))[1 : 2 ** (n - 1) + 1 : max(1, 2**n // 8)]
            for errors in [*vertices, tuple(rng.uniform(-a, a, n)), tuple(rng.uniform(-a, a, n))]:
                yield Perturbation(p, tuple(map(float, errors)), int(rng.integers(n)))
        for tiny in (1e-6, 1e-200):
            yield Perturbation((1.0, tiny), (-a, a))
            yield Perturbation((1.0, tiny), (a, -a), 1)


INSTANCES = list(perturbations())


@each_law
def test_every_step_of_the_derivation_checks(law: MismatchLaw) -> None:
    derivation = law.derive()
    outcomes = derivation.check()
    assert outcomes
    assert [o.detail for o in outcomes if not o.ok] == []
    assert all(lemma.certificate().ok for lemma in derivation.lemmas())
    statement = law.statement()
    claimed = [getattr(step.claim, "rhs", None) for step in derivation.steps]
    assert statement.value in claimed
    assert statement.lower is None or -statement.lower in claimed
    assert statement.relaxed is None or statement.relaxed in claimed


@each_law
def test_evaluators_equal_the_statement(law: MismatchLaw) -> None:
    rng = np.random.default_rng(5)
    statement = law.statement()
    sides = [(law.evaluate, statement.value)]
    sides += [(law.evaluate_lower, statement.lower)] if statement.lower is not None else []
    sides += [(law.evaluate_relaxed, statement.relaxed)] if statement.relaxed is not None else []
    for _ in range(20):
        exact = {
            name: Fraction(int(rng.integers(1, 1000)), 1001) for name in ("p", "q", "rest_square")
        }
        exact |= {name: Fraction(int(rng.integers(1, 3000)), 999) for name in ("logit_error",)}
        exact["noise_sd"] = Fraction(int(rng.integers(1, 300)), 1000)
        case = MismatchCase(
            logit_error=float(exact["logit_error"]),
            logp=np.log(float(exact["p"])),
            logq=np.log(float(exact["q"])),
            noise_sd=float(exact["noise_sd"]),
            rest_square=float(exact["rest_square"]),
        )
        for compute, expression in sides:
            expected = float(evaluate(expression, exact, symbols=statement.symbols))
            assert compute(case) == pytest.approx(expected, rel=2e-13)


@each_bounded
def test_no_perturbation_breaks_the_law(law: MismatchLaw) -> None:
    quantity = QUANTITIES[law.quantity]
    with mp.workdps(250):
        for instance in INSTANCES:
            case, value = case_of(instance), quantity(instance)
            limit = law.evaluate_relaxed(case) if law.relaxed else law.evaluate(case)
            assert value <= limit * (1 + 1e-12) + 1e-250
            if law.lower is not None:
                assert value >= law.evaluate_lower(case) * (1 + 1e-12) - 1e-250


@each_bounded
def test_a_tight_law_is_attained(law: MismatchLaw) -> None:
    assert (law.kind is Kind.TIGHT) == (law.attained is not None)
    if law.attained is None:
        return
    with mp.workdps(50):
        instance = law.attained()
        value = QUANTITIES[law.quantity](instance)
        assert float(value) == pytest.approx(law.evaluate(case_of(instance)), rel=1e-14)
        if law.lower is not None:
            mirrored = Perturbation(
                instance.probabilities, tuple(-e for e in instance.errors), instance.token
            )
            value = QUANTITIES[law.quantity](mirrored)
            assert float(value) == pytest.approx(law.evaluate_lower(case_of(mirrored)), rel=1e-14)


@each_bounded
def test_the_law_is_approached(law: MismatchLaw) -> None:
    """No law is slack: with small errors some two-token pair comes close to its value."""
    a, quantity = 1e-3, QUANTITIES[law.quantity]
    with mp.workdps(40):
        pairs = [Perturbation((p, 1.0 - p), (a, -a)) for p in (1e-9, 0.25, 0.5, 0.75, 1 - 2.0**-30)]
        share = max(quantity(i) / law.evaluate(case_of(i)) for i in pairs)
    assert 0.998 < share < 1.002


@each_law
def test_a_law_to_leading_order_names_its_remainder(law: MismatchLaw) -> None:
    assert (law.kind is Kind.LEADING_ORDER) == bool(law.remainder)
    if law.counterexample is None:
        return
    with mp.workdps(60):
        instance = law.counterexample()
        case, value = case_of(instance), QUANTITIES[law.quantity](instance)
        assert value > 3 * law.evaluate(case)
        assert value <= law.evaluate_relaxed(case)


def test_the_excess_of_the_first_order_form_is_as_stated() -> None:
    first = get_law("first_order")
    assert first.counterexample is not None
    with mp.workdps(40):
        for a in (0.01, 0.5, 2.0):
            instance = Perturbation((1.0 - 2.0**-40, 2.0**-40), (-a, a))
            excess = abs(mismatch(instance)) / first.evaluate(case_of(instance))
            assert float(excess) == pytest.approx(np.expm1(2 * a) / (2 * a), rel=1e-9)


def test_selection_bias_against_quadrature() -> None:
    """Exact mean by Gauss-Hermite quadrature over three tokens: the remainder falls as s^4."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(24)
    weights = weights / weights.sum()
    grid = np.array(list(product(nodes, repeat=3)))
    mass = np.prod(np.array(list(product(weights, repeat=3))), axis=1)
    for p in ([0.7, 0.2, 0.1], [0.01, 0.5, 0.49], [0.98, 0.01, 0.01]):
        rest = sum(v * v for v in p[1:])
        left_out = []
        for s in (0.2, 0.1):
            logits = np.log(p) + s * grid
            log_q = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
            q, delta = np.exp(log_q[:, 0]), log_q[:, 0] - np.log(p[0])
            exact = (mass * q * delta).sum() / (mass * q).sum()
            case = MismatchCase(noise_sd=s, logp=np.log(p[0]), rest_square=rest)
            left_out.append(exact - get_law("selection_bias").evaluate(case))
        assert left_out[0] / left_out[1] == pytest.approx(16, rel=0.15)


def test_mean_selection_bias_is_the_expected_kl() -> None:
    rng = np.random.default_rng(1)
    p = rng.dirichlet(np.full(7, 0.4))
    square = (p * p).sum()
    case = MismatchCase(noise_sd=0.1, logp=np.log(p), rest_square=square - p * p)
    mean = (p * get_law("selection_bias").evaluate(case)).sum()
    assert mean == pytest.approx(0.1**2 * (1 - square) / 2, rel=1e-12)


EXTREMES = [1e-300, 1e-160, 1e-20, 1e-9, 0.03, 0.5]


@pytest.mark.parametrize("a", [1e-290, 1e-12, 1e-3, 0.2, 0.9, 5.0, 300.0])
def test_envelope_to_the_last_digits_at_both_ends(a: float) -> None:
    cases = [{"logp": float(np.log(v))} for v in EXTREMES]
    cases += [{"logp": -v} for v in EXTREMES]  # 1 - p is close to v
    cases += [{"log1mp": -v} for v in EXTREMES] + [{"log1mp": float(np.log(v))} for v in EXTREMES]
    law = get_law("envelope")
    with mp.workdps(700):
        grown, shrunk = mp.exp(2 * mp.mpf(a)), mp.exp(-2 * mp.mpf(a))
        for given in cases:
            ((name, log),) = given.items()
            x = mp.exp(mp.mpf(log))
            p, rest = (x, 1 - x) if name == "logp" else (1 - x, x)
            case = MismatchCase(logit_error=a, **given)
            for value, sharp in (
                (law.evaluate(case), -mp.log(p + rest * shrunk)),
                (law.evaluate_lower(case), -mp.log(p + rest * grown)),
            ):
                assert value == pytest.approx(float(sharp), rel=1e-14, abs=1e-307)
            assert case.one_minus_p == pytest.approx(float(rest), rel=1e-15)
            assert case.p == pytest.approx(float(p), rel=1e-15)


@each_law
def test_namespace_and_shape_are_kept(law: MismatchLaw, xp: ModuleType) -> None:
    fields = {
        "logit_error": [0.01, 0.3, 3.0],
        "logp": [-1e-12, -0.7, -400.0],
        "logq": [-1e-9, -0.5, -390.0],
        "noise_sd": [0.1, 0.2, 0.3],
        "rest_square": [1e-24, 0.1, 0.4],
    }
    plain = law.evaluate(MismatchCase(**{name: np.array(v) for name, v in fields.items()}))
    arrays = {name: xp.asarray(v, dtype=xp.float64) for name, v in fields.items()}
    value = law.evaluate(MismatchCase(**arrays))
    assert type(value) is type(arrays["logp"])
    assert value.dtype == xp.float64
    assert value.shape == (3,)
    np.testing.assert_allclose([float(value[i]) for i in range(3)], plain, rtol=1e-14)
    scalars = MismatchCase(**{name: v[1] for name, v in fields.items()})
    assert isinstance(law.evaluate(scalars), float)
    assert law.evaluate(scalars) == pytest.approx(plain[1], rel=1e-15)


@each_law
def test_descriptions_are_complete(law: MismatchLaw) -> None:
    assert law.title
    assert law.assumes
    assert law.source.work == "trbounds"
    assert "DVP" in law.source.place
    assert law.quantity in QUANTITIES or law.kind is Kind.LEADING_ORDER


def test_keys_are_file_names() -> None:
    assert set(all_laws()) == {p.stem for p in FOLDER.glob("*.py") if not p.stem.startswith("_")}


def test_errors_name_what_is_wrong() -> None:
    with pytest.raises(InputError, match=r"no law of the mismatch 'envelop'.*envelope"):
        get_law("envelop")
    with pytest.raises(InputError, match="needs logp or log1mp"):
        get_law("envelope").evaluate(MismatchCase(logit_error=0.1))
    with pytest.raises(InputError, match="needs logq or log1mq"):
        get_law("one_minus_p").evaluate(MismatchCase(logit_error=0.1, logp=-1.0))
    with pytest.raises(InputError, match="no lower side"):
        get_law("tv_cap").evaluate_lower(MismatchCase(logit_error=0.1))
    with pytest.raises(InputError, match="no relaxed form"):
        get_law("tv_cap").evaluate_relaxed(MismatchCase(logit_error=0.1))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"logit_error": -1.0}, "found -1, expected a finite number of at least 0"),
        ({"logit_error": float("inf")}, "found inf"),
        ({"logit_error": True}, "found True, expected a number"),
        ({"logit_error": [[1.0], [1.0, 2.0]]}, "expected a number or an array"),
        ({"logp": 0.1}, "at most 0"),
        ({"logp": float("nan")}, "at most 0"),
        ({"rest_square": 1.5}, r"in \[0, 1\]"),
        ({"logp": -1.0, "log1mp": -1.0}, "a probability and its complement"),
        (
            {"logp": math.log(0.5), "log1mp": math.log(0.5) + 1e-6},
            "a probability and its complement",
        ),
    ],
)
def test_bad_values_are_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        MismatchCase(**fields)


def test_certain_and_impossible_tokens() -> None:
    law = get_law("envelope")
    certain = MismatchCase(logit_error=0.5, logp=0.0)
    assert law.evaluate(certain) == 0
    assert law.evaluate_lower(certain) == 0
    impossible = MismatchCase(logit_error=0.5, logp=float("-inf"))
    assert law.evaluate(impossible) == 1
    assert law.evaluate_lower(impossible) == -1


def test_cases_can_be_sent_to_other_processes() -> None:
    case = MismatchCase(logit_error=0.1, logp=[-0.1, -3.0], logq=[-0.12, -3.1])
    sent = pickle.loads(pickle.dumps(case))
    law = get_law("one_minus_p")
    np.testing.assert_array_equal(law.evaluate(sent), law.evaluate(case))
