"""Keeps the memory of one batch for the next."""

from __future__ import annotations

import ctypes

# <malloc.h>, glibc.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -2, -3, -4
ALL = ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, -1), (M_TOP_PAD, 1 << 28))
# Blocks below 32 MiB, glibc's greatest limit, come from a heap of which at most 256 MiB stay free.
SOME = ((M_MMAP_THRESHOLD, 1 << 25), (M_TRIM_THRESHOLD, 1 << 28), (M_TOP_PAD, 1 << 26))


def keep_memory(*, all_of_it: bool) -> bool:
    """Let the C library keep freed memory instead of giving it back; tell whether it can.

    Training and scoring free and ask for the same megabytes in every batch. By default glibc returns them to
    the system, which then has to clear every page again: a quarter of the time of a training batch of the
    paper's networks, some per cent of the time of scoring. For the rest of the process; other C libraries are
    left as they are.

    Parameters
    ----------
    all_of_it
        As training does; otherwise at most 256 MiB, so that a waiting worker stays small.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # not glibc
        return False
    return all(mallopt(parameter, value) == 1 for parameter, value in (ALL if all_of_it else SOME))
