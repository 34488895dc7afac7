"""The contract of every bound, discovered: nothing here names one."""

from __future__ import annotations

import importlib.util
import sys
from fractions import Fraction
from functools import cache
from itertools import product
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import trbounds.bounds
from trbounds.bound import ABSOLUTE_CONTINUITY, BASELINE_IN_RANGE, Bound, Kind
from trbounds.bounds import all_bounds, get_bound
from trbounds.derivation import nondecreasing
from trbounds.discovery import discover
from trbounds.errors import InputError, MissingField
from trbounds.oracle import (
    KINDS,
    ExactTruth,
    TabularPair,
    exact,
    missing_absolute_continuity,
    profile_of,
    random_pair,
    stopped_path_fields,
)
from trbounds.profile import FIELDS, POSITION_FIELDS, Conversion, DivergenceProfile
from trbounds.symbolic import SYMBOLS, error

FOLDER = Path(trbounds.bounds.__file__).parent


def _template() -> Bound:
    spec = importlib.util.spec_from_file_location("template_bound", FOLDER / "_template.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.BOUND


BOUNDS = [*all_bounds().values(), _template()]
each_bound = pytest.mark.parametrize("bound", BOUNDS, ids=lambda b: b.key)


def rational_fields(rng: np.random.Generator, T: int) -> dict[str, object]:
    """Every field at a random rational, from tiny to past every cap."""

    def draw(largest: Fraction) -> Fraction:
        return largest * Fraction(int(rng.integers(1, 1000)), 1000 * 10 ** int(rng.integers(0, 6)))

    limits = {
        "reward_var": Fraction(1, 4),
        "chi2_path_max": Fraction(5),
        "kl_path_max": Fraction(2),
    }
    at_most_one = ("tv_max", "tv_mean", "tv_seq", "chi2_stop_prob")
    fields: dict[str, object] = {"T": T}
    for name in FIELDS:
        largest = Fraction(1) if name in at_most_one else limits.get(name, Fraction(3))
        if name in POSITION_FIELDS:
            fields[name] = [draw(largest) for _ in range(T)]
        else:
            fields[name] = draw(largest)
    return fields


def as_profile(fields: dict[str, object], **options: object) -> DivergenceProfile:
    plain = {
        name: [float(v) for v in value] if isinstance(value, list) else float(value)
        for name, value in fields.items()
    }
    return DivergenceProfile(**plain, **options)


def small_profile(T: int, scale: float) -> DivergenceProfile:
    """Every divergence small and fixed, TV as Pinsker has it, so that only growth in T shows."""
    size = {
        name: np.sqrt(scale / 2) if name.startswith("tv") else scale
        for name in FIELDS
        if name != "reward_var"
    }
    return DivergenceProfile(
        T=T, **{n: np.full(T, v) if n in POSITION_FIELDS else v for n, v in size.items()}
    )


@each_bound
def test_every_step_of_the_derivation_checks(bound: Bound) -> None:
    derivation = bound.derive()
    outcomes = derivation.check()
    failed = [
        (i, s.because, o.detail)
        for i, (s, o) in enumerate(zip(derivation.steps, outcomes, strict=True), 1)
        if not o.ok
    ]
    assert outcomes
    assert not failed
    value = bound.statement().value
    assert any(
        getattr(step.claim, "lhs", None) == error and getattr(step.claim, "rhs", None) == value
        for step in derivation.steps
    ), "no step claims |Error| <= the statement"


@each_bound
def test_statement_is_nondecreasing_in_what_it_requires(bound: Bound) -> None:
    """By its values: raising any one field never lowers the bound."""
    rng = np.random.default_rng(7)
    for T in (1, 2, 5):
        fields = rational_fields(rng, T)
        base = bound.evaluate(as_profile(fields))
        for name in bound.requires:
            value = fields[name]
            raised = [v * Fraction(101, 100) for v in value] if isinstance(value, list) else None
            larger = raised if raised is not None else min(value * Fraction(101, 100), _cap(name))
            assert bound.evaluate(as_profile(fields | {name: larger})) >= base * (1 - 1e-12)


def _cap(name: str) -> Fraction:
    return Fraction(1, 4) if name == "reward_var" else Fraction(10)


@each_bound
def test_evaluate_equals_the_statement(bound: Bound) -> None:
    rng = np.random.default_rng(11)
    for T in (1, 2, 3, 5, 9):
        fields = rational_fields(rng, T)
        expected = float(bound.statement().at(fields, digits=25))
        assert bound.evaluate(as_profile(fields)) == pytest.approx(expected, rel=1e-12, abs=1e-300)


@cache
def exact_instances() -> tuple[tuple[ExactTruth, dict[str, float]], ...]:
    """Near, far, heavy-tailed, degenerate, sparse and two-valued pairs, with a stopping budget."""
    rng = np.random.default_rng(20_251_223)
    found = []
    # Without absolute continuity there is a test of its own, for the bounds that allow it.
    kinds = [kind for kind in KINDS if kind != "truncated"]
    shapes = ((1, 3, 1, False), (2, 2, 1, False), (3, 3, 2, True), (5, 2, 1, True))
    for kind, (T, A, prompts, eos), reward in product(kinds, shapes, ("worst", "binary")):
        pair = random_pair(
            rng,
            T,
            A,
            prompts=prompts,
            eos=eos,
            kind=kind,
            reward=reward,
            closeness=float(rng.choice([1e-3, 0.1, 0.9])),
        )
        truth = exact(pair)
        assert truth.absolutely_continuous
        budget = float(truth.chi2_path_max) * float(rng.uniform(0, 1.1))
        stop = stopped_path_fields(pair, budget) if np.isfinite(budget) else {}
        found.append((truth, {name: float(value) for name, value in stop.items()}))
    return tuple(found)


@each_bound
@pytest.mark.parametrize("conversion", ["pinsker", "sharp"])
def test_exact_error_never_exceeds_the_bound(bound: Bound, conversion: Conversion) -> None:
    checked = 0
    for truth, stop in exact_instances():
        for any_reward, left in ((False, abs(truth.error)), (True, truth.sup_error)):
            profile = profile_of(truth, any_reward=any_reward, conversion=conversion)
            profile = profile.with_values(**stop)
            if not bound.missing(profile.complete()):
                assert left <= bound.evaluate(profile) * (1 + 1e-9) + 1e-15
                checked += 1
    assert checked >= 30


@each_bound
def test_a_bound_that_allows_it_holds_where_rollouts_are_truncated(bound: Bound) -> None:
    assert bound.assumes in ((ABSOLUTE_CONTINUITY,), (BASELINE_IN_RANGE,))
    if bound.assumes == (ABSOLUTE_CONTINUITY,):
        return
    # What must be assumed all the same: here rewards in [5, 6] are counted from 0, or from 5.
    lost = missing_absolute_continuity(0.1)
    pair = TabularPair(lost.rollout, lost.train, reward=5 + 0 * lost.reward, reward_range=(5, 6))
    truth = exact(pair)
    from_zero, value = float(truth.error), bound.evaluate(profile_of(truth))
    from_five = from_zero - 5 * float(truth.support_defect.sum())
    assert abs(from_five) <= value < abs(from_zero)
    rng = np.random.default_rng(8)
    checked = 0
    for number in range(200):
        T, A = [(1, 3), (2, 3), (3, 2)][number % 3]
        closeness = float(10.0 ** rng.uniform(-3, 0))
        pair = random_pair(rng, T, A, kind="truncated", reward="worst", closeness=closeness)
        truth = exact(pair)
        if not truth.absolutely_continuous:
            checked += 1
            value = bound.evaluate(profile_of(truth))
            assert abs(float(truth.error)) <= value * (1 + 1e-9) + 1e-15
    assert checked > 100


@each_bound
def test_growth_in_the_horizon(bound: Bound) -> None:
    scale = 1e-16
    first, second = (bound.evaluate(small_profile(T, scale)) for T in (2000, 4000))
    assert np.log2(second / first) == pytest.approx(bound.growth, abs=0.01)


@each_bound
def test_zero_divergence_gives_zero(bound: Bound) -> None:
    for T in (1, 2, 50):
        assert bound.evaluate(small_profile(T, 0.0)) == 0


@each_bound
def test_scales_with_the_reward_range(bound: Bound) -> None:
    fields = rational_fields(np.random.default_rng(3), 4)
    unit = bound.evaluate(as_profile(fields))
    wide = fields | {"reward_var": fields["reward_var"] * 16}
    assert bound.evaluate(as_profile(wide, reward_range=(-1.0, 3.0))) == pytest.approx(4 * unit)


@each_bound
def test_sharp_conversion_never_exceeds_pinsker(bound: Bound) -> None:
    rng = np.random.default_rng(5)
    for T in (1, 3, 200):
        fields = rational_fields(rng, T)
        pinsker, sharp = (
            bound.evaluate(as_profile(fields, conversion=c)) for c in ("pinsker", "sharp")
        )
        assert sharp <= pinsker * (1 + 1e-12)


@each_bound
def test_namespace_device_and_shape_are_kept(bound: Bound, xp: ModuleType) -> None:
    rng = np.random.default_rng(13)
    T = 6
    batch = [rational_fields(rng, T) for _ in range(3)]
    plain = {
        name: np.array([np.array(f[name], dtype=float) for f in batch])
        for name in batch[0]
        if name != "T"
    }
    expected = bound.evaluate(DivergenceProfile(T=np.full(3, T), **plain))
    arrays = {name: xp.asarray(value.tolist(), dtype=xp.float64) for name, value in plain.items()}
    horizon = xp.asarray([T] * 3, dtype=xp.float64)
    value = bound.evaluate(DivergenceProfile(T=horizon, **arrays))
    assert type(value) is type(horizon)
    assert value.dtype == xp.float64
    assert value.shape == (3,)
    assert value.device == horizon.device
    np.testing.assert_allclose(np.array([float(value[i]) for i in range(3)]), expected, rtol=1e-13)


@each_bound
def test_single_precision_in_and_out(bound: Bound) -> None:
    fields = rational_fields(np.random.default_rng(19), 4)
    single = {
        name: np.array([value], dtype=np.float32) for name, value in fields.items() if name != "T"
    }
    value = bound.evaluate(DivergenceProfile(T=4, **single))
    assert value.dtype == np.float32
    double = {name: array.astype(np.float64) for name, array in single.items()}
    expected = bound.evaluate(DivergenceProfile(T=4, **double))
    np.testing.assert_array_equal(value, expected.astype(np.float32))


@each_bound
def test_scalars_in_scalar_out_and_read_only_arrays(bound: Bound) -> None:
    fields = rational_fields(np.random.default_rng(17), 4)
    assert isinstance(bound.evaluate(as_profile(fields)), float)
    frozen = np.array([1e-4, 1e-3])
    frozen.setflags(write=False)
    scalars = {n: v for n, v in fields.items() if n not in POSITION_FIELDS}
    profile = as_profile(scalars).with_values(kl_max=frozen)
    if not bound.missing(profile.complete()):
        assert np.shape(bound.evaluate(profile)) in ((), (2,))


@each_bound
@pytest.mark.parametrize("conversion", ["pinsker", "sharp"])
def test_grid_equals_points(
    bound: Bound, conversion: Conversion, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Large batches are evaluated in blocks, here of two rows; that must not show."""
    monkeypatch.setattr("trbounds.bound._BLOCK", 14)
    options = {"conversion": conversion, "reward_range": (-1.0, 3.0)}
    values = np.geomspace(1e-6, 0.9, 7)
    grid = {
        "T": np.array([1.0, 2.0, 77.0, 4096.0])[:, None],
        "kl_max": values,
        "chi2_max": 2 * values[None, :],
        "kl_seq": np.array(0.3),
        "chi2_stop_budget": 0.1,
        "chi2_stop_prob": 0.01,
        "chi2_stop_tail": 0.02,
        "residual_square": values,
        "reward_var": np.array([0.1, 0.2, 0.3, 4.0])[:, None],
    }
    profile = DivergenceProfile(**grid, **options)
    if bound.missing(profile.complete()):
        with pytest.raises(MissingField, match="needs"):
            bound.evaluate(profile)
        return
    whole = np.broadcast_to(bound.evaluate(profile), (4, 7))
    full = {name: np.broadcast_to(value, (4, 7)) for name, value in grid.items()}
    for place in np.ndindex(4, 7):
        point = DivergenceProfile(**{n: float(v[place]) for n, v in full.items()}, **options)
        assert whole[place] == pytest.approx(bound.evaluate(point), rel=1e-14)


@each_bound
def test_a_tight_bound_is_attained(bound: Bound) -> None:
    if bound.kind is Kind.UPPER:
        assert bound.attained is None
        return
    assert bound.attained is not None
    truth = exact(bound.attained())
    profile = profile_of(truth)
    assert abs(float(truth.error)) == pytest.approx(bound.evaluate(profile), rel=1e-12)


@each_bound
def test_descriptions_are_complete(bound: Bound) -> None:
    assert bound.title
    assert bound.requires
    assert set(bound.requires) <= set(FIELDS)
    assert set(bound.requires) <= set(SYMBOLS)
    assert bound.halves or not bound.source.is_paper, "a paper's bound is halved by centring"


def test_keys_are_file_names() -> None:
    names = {p.stem for p in FOLDER.glob("*.py") if not p.stem.startswith("_")}
    assert set(all_bounds()) == names


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"/new_bound\.py: expected BOUND = Bound\(\.\.\.\)$"),
        (
            (FOLDER / "_template.py").read_text("utf-8"),
            "BOUND has the key '_template', expected 'new_b",
        ),
    ],
)
def test_a_file_that_is_not_finished_is_named(
    text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "unfinished_bounds"
    folder.mkdir()
    (folder / "new_bound.py").write_text(text, "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("sys.modules", sys.modules.copy())
    with pytest.raises(RuntimeError, match=message):
        discover("unfinished_bounds", [str(folder)], "BOUND", Bound)


def test_unknown_key_lists_the_choices() -> None:
    with pytest.raises(InputError, match=r"no bound 'clasical'.*classical"):
        get_bound("clasical")
    with pytest.raises(InputError, match="no bound 'None'; there are: classical"):
        get_bound(None)  # type: ignore[arg-type]


def test_missing_field_is_named() -> None:
    with pytest.raises(MissingField, match="needs tv_mean"):
        get_bound("adaptive").evaluate(DivergenceProfile(T=8, kl_max=1e-3))


def test_nondecreasing_refuses_what_it_cannot_see() -> None:
    import sympy as sp

    x, y = sp.symbols("x y", nonnegative=True)
    assert nondecreasing(sp.sqrt(x) * y + sp.Min(1, x), x)
    assert not nondecreasing(y - x, x)
    assert not nondecreasing(sp.Symbol("z", real=True) * x, x)
