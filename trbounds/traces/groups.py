"""Numbers for the prompts of a trace, as the table of its sequences tells them apart."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trbounds.traces.sequence_table import NO_GROUP, SequenceTable


def dense_groups(table: SequenceTable) -> NDArray[np.int64]:
    """Number the prompts of a table 0, 1, ...; a row without one is a group of its own."""
    return number_groups(table["group"])


def number_groups(groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """Number groups 0, 1, ... as :func:`dense_groups` does, from the column ``group`` itself."""
    named = groups != NO_GROUP
    out = np.empty(groups.size, dtype=np.int64)
    values, out[named] = np.unique(groups[named], return_inverse=True)
    out[~named] = values.size + np.arange(np.count_nonzero(~named))
    return out
