"""The contract of every law of pruning, and each against its definition on enumerated policies."""

from __future__ import annotations

import pickle
from fractions import Fraction
from itertools import product
from pathlib import Path
from types import ModuleType

import mpmath as mp
import numpy as np
import pytest

import trbounds.pruning.laws
from trbounds.errors import InputError
from trbounds.pruning import PruningCase, PruningLaw, all_laws, get_law
from trbounds.symbolic import evaluate
from trbounds.theorem import Kind

FOLDER = Path(trbounds.pruning.laws.__file__).parent
each_law = pytest.mark.parametrize("law", all_laws().values(), ids=lambda law: law.key)


@each_law
def test_every_step_of_the_derivation_checks(law: PruningLaw) -> None:
    derivation = law.derive()
    outcomes = derivation.check()
    assert outcomes
    assert [o.detail for o in outcomes if not o.ok] == []
    statement = law.statement()
    claimed = [step.claim for step in derivation.steps]
    assert any(claim.rhs == statement.value for claim in claimed)
    assert statement.relaxed is None or any(claim.rhs == statement.relaxed for claim in claimed)
    assert (derivation.steps[-1].claim.rel_op == "==") == (law.kind is Kind.EXACT)


def rational_case(rng: np.random.Generator) -> dict[str, object]:
    def part() -> Fraction:
        return Fraction(int(rng.integers(1, 1000)), 1000 * 10 ** int(rng.integers(0, 8)))

    names = ("pruned_mass", "pruned_mass_max", "kept_product", "min_p", "kl", "tv")
    found: dict[str, object] = {name: part() for name in names}
    return found | {
        "pruned_mass_total": 7 * part(),
        "T": int(rng.integers(1, 5000)),
        "vocabulary": int(rng.integers(1, 200_000)),
    }


@each_law
def test_evaluators_equal_the_statement(law: PruningLaw) -> None:
    rng = np.random.default_rng(1)
    statement = law.statement()
    sides = [(law.evaluate, statement.value)]
    sides += [(law.evaluate_relaxed, statement.relaxed)] if law.relaxed else []
    for _ in range(20):
        exact = rational_case(rng)
        case = PruningCase(**{name: float(value) for name, value in exact.items()})
        for compute, expression in sides:
            expected = float(evaluate(expression, exact, symbols=statement.symbols, digits=40))
            assert compute(case) == pytest.approx(expected, rel=1e-13)


@each_law
def test_namespace_and_shape_are_kept(law: PruningLaw, xp: ModuleType) -> None:
    rng = np.random.default_rng(2)
    cases = [{k: float(v) for k, v in rational_case(rng).items()} for _ in range(3)]
    columns = {name: [case[name] for case in cases] for name in cases[0]}
    value = law.evaluate(
        PruningCase(**{n: xp.asarray(v, dtype=xp.float64) for n, v in columns.items()})
    )
    assert type(value) is type(xp.asarray([1.0]))
    for i, case in enumerate(cases):
        scalar = law.evaluate(PruningCase(**case))
        assert isinstance(scalar, float)
        assert float(value[i]) == pytest.approx(scalar, rel=1e-14)


@each_law
def test_descriptions_are_complete(law: PruningLaw) -> None:
    assert law.title
    assert law.quantity
    assert law.assumes
    assert law.source.work == "trbounds"


def test_keys_are_file_names() -> None:
    assert set(all_laws()) == {p.stem for p in FOLDER.glob("*.py") if not p.stem.startswith("_")}


class FullTree:
    """A full policy over three tokens and T steps, pruned by min-p, in exact fractions."""

    def __init__(self, rng: np.random.Generator, T: int, min_p: Fraction) -> None:
        self.T = T
        self.full: dict[tuple[int, ...], list[Fraction]] = {}
        self.kept: dict[tuple[int, ...], Fraction] = {}
        self.pruned: dict[tuple[int, ...], list[Fraction]] = {}
        for t in range(T):
            for context in product(range(3), repeat=t):
                weights = [int(w) + 1 for w in 10 ** rng.uniform(0, 4, 3)]
                p = [Fraction(w, sum(weights)) for w in weights]
                safe = [v if v >= min_p * max(p) else Fraction(0) for v in p]
                self.full[context], self.kept[context] = p, sum(safe, Fraction(0))
                self.pruned[context] = [v / sum(safe, Fraction(0)) for v in safe]

    def probability(
        self, policy: dict[tuple[int, ...], list[Fraction]], y: tuple[int, ...]
    ) -> Fraction:
        result = Fraction(1)
        for t in range(self.T):
            result *= policy[y[:t]][y[t]]
        return result

    def sequences(self) -> list[tuple[int, ...]]:
        return list(product(range(3), repeat=self.T))


def test_whole_sequences_in_exact_fractions() -> None:
    rng = np.random.default_rng(3)
    for T, min_p in product((1, 2, 4), (Fraction(1, 100), Fraction(1, 5), Fraction(1))):
        tree = FullTree(rng, T, min_p)
        full = {y: tree.probability(tree.full, y) for y in tree.sequences()}
        pruned = {y: tree.probability(tree.pruned, y) for y in tree.sequences()}
        tv = sum(abs(full[y] - pruned[y]) for y in full) / 2
        some_pruned = sum(p for y, p in full.items() if pruned[y] == 0)
        assert tv == some_pruned
        kept_product = Fraction(0)
        total = Fraction(0)
        for y in full:
            masses = [tree.kept[y[:t]] for t in range(T)]
            kept_product += pruned[y] * np.prod(masses)
            total += full[y] * sum(1 - z for z in masses)
        largest = 1 - min(tree.kept.values())
        case = PruningCase(
            T=T,
            kept_product=float(kept_product),
            pruned_mass_total=float(total),
            pruned_mass_max=float(largest),
        )
        assert tv == 1 - kept_product
        assert get_law("sequence_tv").evaluate(case) == pytest.approx(float(tv), rel=1e-12)
        assert float(tv) <= get_law("union").evaluate(case) * (1 + 1e-12)
        horizon = get_law("horizon")
        assert float(tv) <= horizon.evaluate(case) * (1 + 1e-12)
        assert horizon.evaluate(case) <= horizon.evaluate_relaxed(case) * (1 + 1e-12)


def test_one_step_and_the_worst_vocabulary() -> None:
    law = get_law("vocabulary")
    for n, min_p in product((2, 50, 5000), (1e-6, 1e-3, 0.2)):
        # Every other token just below the threshold.
        p = np.full(n, min_p * (1 - 1e-9))
        p[0] = 1.0
        p /= p.sum()
        limit = law.evaluate(PruningCase(vocabulary=n, min_p=min_p))
        assert limit * (1 - 1e-8) < p[1:].sum() < limit
    rng = np.random.default_rng(4)
    for _ in range(50):
        p = rng.dirichlet(np.full(20, 0.2))
        keep = p >= 0.05 * p.max()
        mass = p[~keep].sum()
        q = np.where(keep, p, 0) / p[keep].sum()
        case = PruningCase(pruned_mass=mass, vocabulary=20, min_p=0.05)
        assert mass <= law.evaluate(case)
        tv, kl = get_law("token_tv"), get_law("token_kl")
        assert tv.evaluate(case) == pytest.approx(np.abs(p - q).sum() / 2, abs=1e-15)
        exact = (q[keep] * np.log(q[keep] / p[keep])).sum()
        assert kl.evaluate(case) == pytest.approx(exact, rel=1e-9, abs=1e-15)


def test_a_common_set() -> None:
    rng = np.random.default_rng(5)
    shares = []
    for _ in range(400):
        scale = float(rng.choice([0.05, 1.0, 4.0]))
        mu, pi = (rng.dirichlet(np.full(5, 0.5)) + 1e-12 for _ in range(2))
        pi = mu ** (1 - min(scale, 1)) * pi ** min(scale, 1)
        mu, pi = mu / mu.sum(), pi / pi.sum()
        keep = np.arange(5) < int(rng.integers(1, 5))
        m, q = mu[keep] / mu[keep].sum(), pi[keep] / pi[keep].sum()
        before = (mu * np.log(mu / pi)).sum()
        after = (m * np.log(m / q)).sum()
        case = PruningCase(kl=before, pruned_mass=mu[~keep].sum())
        assert after <= get_law("common_set_kl").evaluate(case) * (1 + 1e-9) + 1e-15
        shares.append(after / before)
        case = PruningCase(
            tv=min(np.abs(mu - pi).sum() / 2, 1.0),
            pruned_mass=min(mu[~keep].sum(), pi[~keep].sum()),
        )
        after = np.abs(m - q).sum() / 2
        assert after <= get_law("common_set_tv").evaluate(case) * (1 + 1e-9) + 1e-15
    assert max(shares) > 1  # pruning can raise the KL


def test_small_masses_keep_their_digits() -> None:
    with mp.workdps(60):
        for b in (1e-300, 1e-17, 1e-9):
            case = PruningCase(T=4096, pruned_mass=b, pruned_mass_max=b)
            exact = 1 - (1 - mp.mpf(b)) ** 4096
            if b > 1e-40:
                assert get_law("horizon").evaluate(case) == pytest.approx(float(exact), rel=1e-14)
                kl = -mp.log(1 - mp.mpf(b))
                assert get_law("token_kl").evaluate(case) == pytest.approx(float(kl), rel=1e-14)
            assert get_law("horizon").evaluate(case) <= 4096 * b


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"min_p": 0.0}, r"found 0, expected a number in \(0, 1\]"),
        ({"min_p": 1.1}, r"found 1.1"),
        ({"pruned_mass": 1.0}, r"in \[0, 1\)"),
        ({"kept_product": 1.5}, r"in \[0, 1\]"),
        ({"T": 2.5}, "whole number"),
        ({"pruned_mass_total": float("nan")}, "finite"),
        ({"T": "8"}, "field 'T': found '8', expected a number"),
        ({"T": True}, "field 'T': found True, expected a number"),
        ({"kl": [0.1, "x"]}, "field 'kl': found .*, expected a number"),
    ],
)
def test_bad_values_are_refused(fields: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        PruningCase(**fields)


def test_errors_name_what_is_wrong() -> None:
    with pytest.raises(InputError, match=r"no law of pruning 'none'.*horizon"):
        get_law("none")
    with pytest.raises(InputError, match="needs T, pruned_mass_max"):
        get_law("horizon").evaluate(PruningCase())
    with pytest.raises(InputError, match="no relaxed form"):
        get_law("union").evaluate_relaxed(PruningCase(pruned_mass_total=1.0))


def test_cases_can_be_sent_to_other_processes() -> None:
    case = PruningCase(T=[8, 16], pruned_mass_max=0.1)
    sent = pickle.loads(pickle.dumps(case))
    law = get_law("horizon")
    np.testing.assert_array_equal(law.evaluate(sent), law.evaluate(case))
