"""The proof machinery must refuse what is false."""

from __future__ import annotations

from dataclasses import replace

import pytest
import sympy as sp

from trbounds.bounds import all_bounds
from trbounds.derivation import (
    Certificate,
    Chain,
    Derivation,
    Lemma,
    Step,
    all_of,
    all_steps,
    identity,
    nonnegative,
    reference,
)
from trbounds.lemmas.duality import DUALITY, paired, second_moment
from trbounds.lemmas.inequalities import (
    CAP,
    ROOT_SUM,
    SUM_OF_POSITIONS,
    UNCAP,
    by_induction,
    capped,
)
from trbounds.rendering import as_document, render, render_all, render_check
from trbounds.symbolic import SYMBOLS, Infimum, T, error, evaluate, t

x, y = sp.symbols("x y", nonnegative=True)
z = sp.Symbol("z", real=True)
eps = SYMBOLS["tv_max"]


def false_lemma() -> Lemma:
    return Lemma(
        "false",
        "a false lemma",
        x,
        "<=",
        x / 2,
        lambda: [Step(sp.Le(x, x / 2), "wishful thinking", nonnegative(x / 2 - x))],
    )


def test_identity_refuses_a_difference() -> None:
    assert identity((x + y) ** 2, x**2 + 2 * x * y + y**2)().ok
    wrong = identity((x + y) ** 2, x**2 + y**2)()
    assert not wrong.ok
    assert "2 x y" in wrong.detail


def test_sign_needs_a_true_witness() -> None:
    assert nonnegative(x**2 - 2 * x * y + y**2, (x - y) ** 2)().ok
    assert not nonnegative(x**2 - 3 * x * y + y**2, (x - y) ** 2)().ok
    assert not nonnegative(x - y)().ok
    assert not nonnegative(z**3)().ok


def test_a_failing_case_is_named() -> None:
    outcome = all_of("enumeration", "cases", [identity(x, x), identity(x, y)])()
    assert not outcome.ok
    assert outcome.detail.startswith("case 2")
    assert not all_of("enumeration", "nothing", [])().ok


def test_a_false_lemma_fails_where_it_is_used() -> None:
    derivation = Chain("false", error).by(false_lemma(), {x: error}).end(error / 2)
    outcomes = derivation.check()
    assert not outcomes[0].ok
    assert "0 of 1 steps hold" in outcomes[0].detail


def test_a_lemma_without_steps_is_not_proved() -> None:
    assert not Lemma("empty", "nothing", x, "==", x, list).certificate().ok


def test_a_document_holds_only_if_its_lemmas_do() -> None:
    """Also where a step that rests on a lemma does not check it."""
    careless = Step(sp.Le(x, x / 2), "a lemma", reference("nowhere"), false_lemma())
    bound = replace(all_bounds()["linear"], derive=lambda: Derivation("careless", (careless,)))
    document = as_document(bound)
    assert [step["ok"] for step in document["steps"]] == [True]
    assert not document["holds"]


def test_a_lemma_must_occur() -> None:
    derivation = Chain("absent", x * error).by(UNCAP, {capped: y}).end(x * error)
    assert not derivation.check()[0].ok


def test_an_inequality_needs_a_nondecreasing_place() -> None:
    outcomes = Chain("sign", 1 - sp.Min(1, x)).by(UNCAP, {capped: x}).end(1 - x).check()
    assert not outcomes[0].ok
    assert "may decrease" in outcomes[0].detail


def test_a_symbol_stands_for_what_has_its_sign() -> None:
    """A second moment may not be negative, nor what is put in its place."""
    v = SYMBOLS["reward_var"]
    assert Chain("sign", paired).by(DUALITY, {second_moment: v}).end(0).check()[0].ok
    for wrong in (-v, v - x, z):
        outcome = Chain("sign", paired).by(DUALITY, {second_moment: wrong}).end(0).check()[0]
        assert not outcome.ok
        assert "S is not negative" in outcome.detail
    left = Chain("sign", sp.Min(1, x * (T - t))).by(UNCAP, {capped: x * (T - t)}).end(0)
    assert left.check()[0].ok


def test_a_chain_must_end_at_the_statement() -> None:
    derivation = Chain("short", error).by(
        Lemma("l", "l", error, "<=", 2 * x, lambda: [Step("0 <= x", "given", nonnegative(x))])
    )
    assert derivation.end(2 * x).check()[-1].ok
    assert not derivation.end(x).check()[-1].ok


def test_a_step_down_is_refused() -> None:
    assert not Chain("down", 2 * x).at_most(x, "no").end(x).check()[0].ok
    assert Chain("up", x).at_most(2 * x, "yes").end(2 * x).check()[0].ok


def test_sums_are_compared_term_by_term_within_their_range() -> None:
    low, high = sp.Sum(x * (T - t), (t, 1, T)), sp.Sum(2 * x * (T - t), (t, 1, T))
    assert Chain("sum", low).at_most(high, "twice").end(high).check()[0].ok
    assert not Chain("sum", high).at_most(low, "half").end(low).check()[0].ok


def test_only_linear_combinations_of_sums_are_compared_term_by_term() -> None:
    a = sp.IndexedBase("a", nonnegative=True)
    square_of_sum = sp.Sum(a[t], (t, 1, T)) ** 2
    sum_of_squares = sp.Sum(a[t] ** 2, (t, 1, T))
    assert not nonnegative(sum_of_squares - square_of_sum / 2)().ok
    assert nonnegative(sum_of_squares - sum_of_squares / 2)().ok


def test_a_wrong_closed_form_fails() -> None:
    assert all(step.check().ok for step in by_induction(t - 1, T * (T - 1) / 2))
    outcomes = [step.check() for step in by_induction(t - 1, T * (T - 1) / 3)]
    assert outcomes[0].ok
    assert not outcomes[1].ok


def test_a_reference_says_that_it_is_one() -> None:
    outcome = reference("a book")()
    assert outcome.ok
    assert not outcome.by_machine
    cited = Lemma("cited", "c", x, "<=", y, lambda: [Step("x <= y", "book", reference("book"))])
    assert "1 by reference" in cited.certificate().detail


def test_all_steps_reports_a_failure() -> None:
    bad = Derivation("bad", (Step("0 = 1", "no", identity(sp.Integer(0), sp.Integer(1))),))
    assert all_steps(bad)() == Certificate(False, "lemma", "'bad': 0 of 1 steps hold")


@pytest.mark.parametrize("lemma", [ROOT_SUM, SUM_OF_POSITIONS], ids=lambda m: m.key)
def test_sum_lemmas_hold_by_summing(lemma: Lemma) -> None:
    for n in (1, 2, 3, 10, 50):
        left, right = (float(side.subs(T, n).doit()) for side in lemma.at())
        assert left <= right * (1 + 1e-12)


def test_caps() -> None:
    for value in (sp.Rational(1, 3), sp.Integer(1), sp.Integer(7)):
        for lemma in (CAP, UNCAP):
            left, right = lemma.at({capped: value})
            assert left <= right


def test_infimum_evaluates() -> None:
    u = sp.Symbol("u", positive=True)
    assert float(sp.N(Infimum(u + 1 / u, u, 0, sp.oo))) == pytest.approx(2, rel=1e-14)
    inside = Infimum(1 / u + 1 / (1 - u), u, 0, 1)
    assert float(sp.N(inside, 30)) == pytest.approx(4, rel=1e-14)
    value = evaluate(Infimum(eps * u + 1 / u, u, 0, sp.oo), {"T": 3, "tv_max": "1/4"})
    assert float(value) == pytest.approx(1, rel=1e-14)


def test_an_infimum_is_not_negative_only_where_its_inside_is_not() -> None:
    assert Infimum(x + y, x, 0, sp.oo).is_nonnegative
    assert not Infimum(x - y, x, 0, sp.oo).is_nonnegative


def test_conditions_of_lemmas_are_printed() -> None:
    document = as_document(all_bounds()["entropy_dual"])
    conditions = [lemma["assumes"] for lemma in document["lemmas"] if lemma["assumes"]]
    assert conditions
    assert all(f"  [{condition}]" in render(document) for condition in conditions)


def test_infimum_evaluates_far_from_the_ends_of_its_interval() -> None:
    """x + e^-120/x is smallest at x = e^-60."""
    found = sp.N(Infimum(x + sp.exp(-120) / x, x, 0, sp.oo), 30)
    assert float(found / (2 * sp.exp(-60))) == pytest.approx(1, rel=1e-14)


@pytest.mark.parametrize("form", ["text", "markdown", "latex"])
def test_every_derivation_renders(form: str) -> None:
    bound = all_bounds()["pinsker_marginal"]
    document = as_document(bound)
    text = render(document, form)
    assert document["holds"]
    assert bound.title in text
    assert text.count("checked by") >= len(document["steps"])


def test_lemmas_and_symbols_are_written_once() -> None:
    documents = [as_document(all_bounds()[key]) for key in ("linear", "classical")]
    text = render_all(documents)
    assert text.count("Lemma uncap:") == text.count("\nSymbols\n") == 1
    assert "eps       tv_max: largest TV over reachable contexts" in text
    assert render_all(documents[:1]) == render(documents[0])


def test_a_failing_step_is_printed() -> None:
    document = as_document(all_bounds()["linear"])
    document["steps"][0] |= {"ok": False, "certificate": "residual 1"}
    document["holds"] = False
    assert render_check(document).startswith("FAILS  linear")
    assert "residual 1" in render_check(document)
    assert "FAILS" in render(document)
