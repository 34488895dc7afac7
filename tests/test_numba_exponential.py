"""The exponential of the loops that numba compiles: where it can be kept."""

from __future__ import annotations

import os
from pathlib import Path

import numba
import pytest

import trbounds


def test_it_compiles_where_nothing_can_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    # As in a container whose file system is read-only: neither beside the file nor at home.
    monkeypatch.setattr(numba.config, "CACHE_DIR", "")
    monkeypatch.setenv("HOME", os.devnull)
    monkeypatch.setenv("XDG_CACHE_HOME", os.devnull)
    source = Path(trbounds.__file__).with_name("numba_exponential.py").read_text(encoding="utf-8")
    unwritable = os.path.join(os.devnull, "numba_exponential.py")
    names: dict[str, object] = {"__name__": "unwritable"}
    exec(compile(source, unwritable, "exec"), names)
    assert names["COMMON"]["cache"] is False  # type: ignore[index]
    r, _, scale, k = names["reduce_exponent"](1.0)  # type: ignore[operator]
    assert (scale, k) == (2.0, 1.0)
    assert r == pytest.approx(1.0 - 0.6931471805599453, rel=1e-15)
