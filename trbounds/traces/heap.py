"""Keeping memory between blocks of tokens."""

from __future__ import annotations

from functools import cache

import numpy as np

_BYTES = 24 << 20
"""About what the arrays of a block take; glibc looks at no more than 32 MB."""


@cache
def keep_freed_memory() -> None:
    """Have the C library keep what the arrays of one block of tokens leave for those of the next.

    glibc gives the free end of its heap back to the system where it is larger than twice the
    largest array freed so far; each block then pays for new pages, up to a fifth of the time of a
    summary. An array that is allocated, never touched and freed raises that limit once, and takes
    no memory. Other C libraries do not notice.
    """
    np.empty(_BYTES, dtype=np.uint8)
