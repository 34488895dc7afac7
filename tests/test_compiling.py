"""Sharing work among threads."""

import os
import threading

import numpy as np
import pytest

from trbounds.compiling import on_all_cores


def test_results_come_in_the_order_of_the_pieces():
    assert on_all_cores(lambda piece: piece * piece, range(100)) == [i * i for i in range(100)]
    assert on_all_cores(str, []) == []


def test_other_threads_take_their_share(monkeypatch):
    monkeypatch.setattr("trbounds.compiling.usable_cores", lambda: 2)
    both = threading.Barrier(2, timeout=60)

    def work(piece):
        both.wait()  # until another thread works, too
        return threading.get_ident()

    first, second = on_all_cores(work, range(2))
    assert threading.get_ident() in (first, second)
    assert first != second


@pytest.mark.parametrize("cores", [1, 2])
def test_an_error_ends_the_work(monkeypatch, cores):
    monkeypatch.setattr("trbounds.compiling.usable_cores", lambda: cores)
    done = []

    def work(piece):
        if piece == 3:
            raise ValueError("piece 3")
        done.append(piece)

    with pytest.raises(ValueError, match="piece 3"):
        on_all_cores(work, range(1000))
    # Whoever was at work ends its piece; nobody takes the rest.
    assert len(done) < 1000
    assert on_all_cores(len, ["ab", "c"]) == [2, 1]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no os.fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_process_has_threads_of_its_own(monkeypatch):
    monkeypatch.setattr("trbounds.compiling.usable_cores", lambda: 2)
    values = np.arange(40.0)
    expected = on_all_cores(np.sqrt, values)
    child = os.fork()
    if child == 0:
        both = threading.Barrier(2, timeout=60)
        try:
            on_all_cores(lambda piece: both.wait(), range(2))
            os._exit(0)
        except BaseException:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert on_all_cores(np.sqrt, values) == expected
