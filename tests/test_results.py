"""What functions return: compared, hashed, pickled and shown without surprises."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest

import trbounds
from trbounds import DivergenceProfile, InputError, all_bounds, get_bound
from trbounds.bound import Bound, Source
from trbounds.divergences import divergences
from trbounds.logits import row_divergences
from trbounds.mismatch import MismatchSummary, summarize_rows, token_mismatch
from trbounds.mismatch import all_laws as mismatch_laws
from trbounds.pruning import all_laws as pruning_laws
from trbounds.pruning import prune, prune_pair, sweep
from trbounds.traces import token_sums

LOGITS = np.log([[0.5, 0.3, 0.2], [0.2, 0.2, 0.6]])
OTHER = np.log([[0.4, 0.3, 0.3], [0.2, 0.3, 0.5]])

RESULTS: dict[str, Any] = {
    "divergences": divergences(LOGITS, OTHER),
    "row_divergences": row_divergences(LOGITS, OTHER),
    "token_mismatch": token_mismatch(LOGITS, OTHER, [0, 2]),
    "prune": prune(LOGITS, 0.5),
    "prune_pair": prune_pair(LOGITS, OTHER, 0.5),
    "token_sums": token_sums(np.array([0.1, 0.2]), [0, 1, 2]),
    "profile": DivergenceProfile(T=3, kl_max=np.array([0.1, 0.2])),
}


@pytest.mark.parametrize("name", RESULTS)
def test_results_that_hold_arrays_compare_by_identity(name: str) -> None:
    found = RESULTS[name]
    other = copy.deepcopy(found)  # by fields, numpy would have no truth value to give
    assert found == found
    assert found != other
    assert len({found, other}) == 2
    assert repr(pickle.loads(pickle.dumps(found))) == repr(found)


def test_theorems_show_what_tells_them_apart() -> None:
    for theorem in (*all_bounds().values(), *mismatch_laws().values(), *pruning_laws().values()):
        assert repr(theorem.key) in repr(theorem)
        assert len(repr(theorem)) < 200
        assert " at 0x" not in repr(theorem)
    assert repr(get_bound("mixed")) == (
        "Bound(key='mixed', title='Mixed', source='TRM v2, Mixed theorem')"
    )


def test_a_summary_of_the_mismatch_shows_its_size() -> None:
    found = summarize_rows(LOGITS, OTHER, [0, 2])
    assert repr(found).startswith("MismatchSummary(2 sequences, 2 tokens, logit error up to 0.")
    assert repr(MismatchSummary()).startswith("MismatchSummary(0 sequences, 0 tokens")


def test_a_bound_of_ones_own_may_give_plain_numbers() -> None:
    mine = Bound(
        key="mine",
        title="Twice the sequence KL",
        source=Source("us", "a notebook"),
        requires=("kl_seq",),
        formula=lambda profile: 2 * float(profile.kl_seq),
        statement=lambda: pytest.fail("evaluation needs no statement"),
        derive=lambda: pytest.fail("evaluation needs no proof"),
        rank=1000,
        growth=0.0,
    )
    profile = DivergenceProfile(T=10, kl_seq=0.01, reward_range=(0.0, 2.0))
    assert mine.evaluate(profile) == 0.04
    assert mine.assess(profile).can_certify is True


def test_what_a_sweep_removes_is_asked_for_by_name() -> None:
    (row,) = sweep(LOGITS, OTHER, [0.5])
    assert row.removed("kl") == 1.0 - row.after.kl.value / row.before.kl.value
    with pytest.raises(InputError, match=r"no mean 'kls'.*did you mean 'kl'"):
        row.removed("kls")


def test_every_error_that_is_raised_on_purpose_is_at_the_top() -> None:
    for name in trbounds.errors.__all__:
        kind = getattr(trbounds.errors, name)
        assert not isinstance(kind, type) or getattr(trbounds, name) is kind
