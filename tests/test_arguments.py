"""What is no number is refused by everything that takes numbers, and by the argument's name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from trbounds import DivergenceProfile, InputError, get_bound
from trbounds.concentration import empirical_bernstein
from trbounds.divergences import chi2_from_kl, divergences, k1, k3, tv_from_kl_sharp
from trbounds.logits import example_logits_path, read_logits, row_divergences
from trbounds.mismatch import (
    MismatchCase,
    largest_logit_error,
    profile_from_logit_error,
    smallest_logit_error,
    summarize_rows,
    token_mismatch,
)
from trbounds.pruning import (
    PruningCase,
    prune,
    prune_pair,
    restrict,
    safe_set,
    sequence_bias,
    sweep,
)
from trbounds.solve import largest_divergence, solvable_profile, uniform_profile

LOGITS = np.log([[0.5, 0.3, 0.2], [0.2, 0.2, 0.6]])
IDS = np.array([0, 2])


def _profile(kl_max: Any) -> DivergenceProfile:
    return DivergenceProfile(T=10, kl_max=kl_max)


ARRAYS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "k1": ("log_ratio", k1),
    "k3": ("log_ratio", k3),
    "tv_from_kl_sharp": ("kl", tv_from_kl_sharp),
    "chi2_from_kl": ("log_ratio_max", lambda x: chi2_from_kl(0.1, x)),
    "tv_from_kl": ("kl", DivergenceProfile(T=3).tv_from_kl),
    "profile": ("kl_max", _profile),
    "smallest_logit_error": ("logq", lambda x: smallest_logit_error(-1.0, x)),
    "MismatchCase": ("noise_sd", lambda x: MismatchCase(noise_sd=x)),
    "PruningCase": ("kl", lambda x: PruningCase(kl=x)),
    "profile_from_logit_error": ("logit_error", lambda x: profile_from_logit_error(x, 10)),
    "empirical_bernstein": ("values", empirical_bernstein),
    "sequence_bias": ("pruned_mass", lambda x: sequence_bias(x, [0, 1, 2])),
}
ROWS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "divergences": ("train_logits", lambda x: divergences(LOGITS, x)),
    "row_divergences": ("rollout_logits", lambda x: row_divergences(x, LOGITS)),
    "token_mismatch": ("rollout_logits", lambda x: token_mismatch(x, LOGITS, IDS)),
    "summarize_rows": ("train_logits", lambda x: summarize_rows(LOGITS, x, IDS)),
    "safe_set": ("logits", lambda x: safe_set(x, 0.1)),
    "prune": ("logits", lambda x: prune(x, 0.1)),
    "restrict": ("logits", lambda x: restrict(x, np.ones((2, 3), dtype=bool))),
    "prune_pair": ("rollout_logits", lambda x: prune_pair(x, LOGITS, 0.1)),
    "sweep": ("train_logits", lambda x: sweep(LOGITS, x, [0.1])),
}
NUMBERS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "min_p": ("min_p", lambda x: safe_set(LOGITS, x)),
    "budget": ("budget", lambda x: largest_divergence(get_bound("mixed"), _profile, x)),
    "T of solve": ("T", lambda x: uniform_profile(x, 0.1)),
    "T of mismatch": ("T", lambda x: largest_logit_error(x, 0.1, "mixed")),
    "reward_range": ("reward_range", lambda x: DivergenceProfile(T=3, reward_range=(x, 1.0))),
}

NOT_NUMBERS: dict[str, Callable[[Any], Any]] = {
    "complex": lambda x: x.astype(complex),
    "text": lambda x: x.astype(str),
    "truth values": lambda x: x > 0,
    "dates": lambda x: np.zeros(x.shape, dtype="M8[s]"),
    "masked": lambda x: np.ma.array(x, mask=np.arange(x.size).reshape(x.shape) == 1),
}


@pytest.mark.parametrize("kind", NOT_NUMBERS)
@pytest.mark.parametrize("name", [*ARRAYS, *ROWS])
def test_arrays_of_anything_but_numbers_are_refused(name: str, kind: str) -> None:
    field, call = (ARRAYS | ROWS)[name]
    good = LOGITS if name in ROWS else np.array([0.0, 0.0])
    call(good)
    with pytest.raises(InputError) as raised:
        call(NOT_NUMBERS[kind](good))
    assert field in str(raised.value)


@pytest.mark.parametrize("name", [*ARRAYS, *ROWS])
def test_ragged_lists_and_other_objects_are_refused(name: str) -> None:
    field, call = (ARRAYS | ROWS)[name]
    values: list[Any] = [[[1.0], [1.0, 2.0]], {}, (x for x in [1.0])]
    values += [np.array([[0.0, other]], dtype=object) for other in ("0.5", b"0", True, 1j)]
    for value in values:
        with pytest.raises(InputError) as raised:
            call(value)
        assert field in str(raised.value)


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", [None, "5", True, 1j, [1.0, 2.0], np.zeros(0), {}])
def test_what_is_not_one_number_is_refused(name: str, value: Any) -> None:
    field, call = NUMBERS[name]
    with pytest.raises(InputError, match=f"field '{field}'"):
        call(value)


def leaves(found: Any) -> list[Any]:
    """Everything that a result holds, one after the other."""
    if isinstance(found, dict):
        found = list(found.values())
    elif hasattr(found, "__dict__"):
        found = list(vars(found).values())
    if isinstance(found, list | tuple):
        return [leaf for part in found for leaf in leaves(part)]
    return [found]


@pytest.mark.parametrize("name", ROWS)
def test_rows_of_logits_may_be_lists_and_foreign_layouts(name: str) -> None:
    call = ROWS[name][1]
    read_only = LOGITS.copy()
    read_only.flags.writeable = False
    expected = leaves(call(LOGITS))
    for logits in (
        LOGITS.tolist(),
        LOGITS.astype(">f8"),
        np.asfortranarray(LOGITS),
        np.repeat(LOGITS, 2, axis=1)[:, ::2],
        read_only,
        np.ma.array(LOGITS),
    ):
        for leaf, other in zip(leaves(call(logits)), expected, strict=True):
            np.testing.assert_array_equal(leaf, other)


def test_a_set_of_tokens_is_told_by_truth_values() -> None:
    everything = np.ones((2, 3), dtype=bool)
    assert restrict(LOGITS, everything.tolist()).n_kept.tolist() == [3, 3]
    # Token ids, weights and text would all have kept something else than meant.
    for kept in (everything.astype(int), everything.astype(float), everything.astype(str)):
        with pytest.raises(InputError, match=r"field 'kept'.*bool"):
            restrict(LOGITS, kept)


def test_falling_offsets_are_refused_whatever_their_type() -> None:
    mass = np.array([0.1, 0.2, 0.3])
    unsigned = sequence_bias(mass, np.array([0, 1, 3], dtype=np.uint64))
    assert unsigned.tv == sequence_bias(mass, [0, 1, 3]).tv
    with pytest.raises(InputError, match="do not fall"):
        sequence_bias(mass, np.array([0, 4, 2, 3], dtype=np.uint64))


@pytest.mark.parametrize(
    "make",
    [
        lambda x: DivergenceProfile(T=3, kl_max=x).kl_max,
        lambda x: DivergenceProfile(T=3, kl_max=x).complete().with_values(tv_seq=0.1).kl_max,
        lambda x: MismatchCase(noise_sd=x).noise_sd,
        lambda x: PruningCase(kl=x).kl,
    ],
)
@pytest.mark.parametrize("through", [lambda x: x, lambda x: np.broadcast_to(x, x.shape)])
def test_what_was_checked_does_not_change_with_the_callers_array(
    make: Callable[[Any], Any], through: Callable[[Any], Any]
) -> None:
    given = np.array([0.25, 0.5])
    found = make(through(given))
    given[0] = -1.0
    assert found.tolist() == [0.25, 0.5]
    assert not found.flags.writeable


def test_a_profile_keeps_without_a_copy_what_it_made_itself() -> None:
    # A thousand profiles of a million positions are one number each.
    found = DivergenceProfile.uniform(1_000_000, kl_max=np.full(1000, 1e-9))
    assert found.kl_mean.strides == (8, 0)


@pytest.mark.parametrize("rows", [0, -1, 2.5, "x"])
def test_batches_of_no_rows_are_refused(rows: Any) -> None:
    # -1 gave no batch at all, as if the file were empty.
    with pytest.raises(InputError, match="field 'rows'"):
        next(read_logits(example_logits_path()).batches(rows))


def test_a_profile_to_solve_for_needs_no_further_fields() -> None:
    found = solvable_profile(10, "kl_max", 0.1)
    assert repr(found) == repr(solvable_profile(10, "kl_max", 0.1, {}, "pinsker"))


def test_a_batch_of_kls_is_multiplied_and_not_repeated() -> None:
    found = uniform_profile(3, [0.1, 0.2], chi2_per_kl=2)  # type: ignore[arg-type]
    assert found.chi2_max.tolist() == [0.2, 0.4]
    with pytest.raises(InputError, match="field 'chi2_per_kl'"):
        uniform_profile(3, 0.1, chi2_per_kl="2")  # type: ignore[arg-type]
