"""Keeps the memory of one batch for the next."""

from __future__ import annotations

import ctypes

# <malloc.h>, glibc.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
NEVER, TOP_PAD = -1, 1 << 28


def keep_memory() -> bool:
    """Let the C library keep freed memory instead of giving it back; tell whether it can.

    Training frees and asks for the same hundreds of megabytes in every batch. By default glibc returns them to
    the system each time, which then has to clear every page again: a quarter of the time of a batch of the
    paper's networks. For the rest of the process; other C libraries are left as they are.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # not glibc
        return False
    return all(
        mallopt(parameter, value) == 1
        for parameter, value in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, NEVER), (M_TOP_PAD, TOP_PAD))
    )
