"""A real trace, as one batch and as a summary."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from trbounds.traces import TraceBatch, TraceSummary, open_trace, summarize
from trbounds.traces.batch import SEQUENCE_FIELDS, TOKEN_FIELDS


@pytest.fixture(scope="session")
def moe_path() -> str:
    return str(Path(__file__).parents[1] / "data" / "moe.parquet")


@pytest.fixture(scope="session")
def batch(moe_path: str) -> TraceBatch:
    parts = list(open_trace(moe_path))
    names = [n for n in (*TOKEN_FIELDS, *SEQUENCE_FIELDS) if getattr(parts[0], n) is not None]
    joined = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
    lengths = np.concatenate([part.lengths for part in parts])
    return replace(parts[0], offsets=np.concatenate([[0], np.cumsum(lengths)]), **joined)


@pytest.fixture(scope="session")
def summary(moe_path: str) -> TraceSummary:
    return summarize(moe_path)
