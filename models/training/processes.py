"""Pools of processes that end with the process that made them, however it ends."""

from __future__ import annotations

import multiprocessing
import os
import threading
from concurrent.futures import ProcessPoolExecutor


def pool(processes: int, *, tasks_each: int | None = None) -> ProcessPoolExecutor:
    """Return a pool whose processes start fresh and leave when their maker is gone, killed ones included.

    Parameters
    ----------
    processes
        How many.
    tasks_each
        After so many a process is replaced by a new one; None: never.
    """
    context = multiprocessing.get_context("forkserver")
    return ProcessPoolExecutor(
        processes, mp_context=context, initializer=_leave_with_maker, max_tasks_per_child=tasks_each
    )


def _leave_with_maker() -> None:
    """Watch from a thread: a worker that waits for work would otherwise wait for ever."""
    maker = multiprocessing.parent_process()
    assert maker is not None

    def watch() -> None:
        maker.join()
        os._exit(1)

    threading.Thread(target=watch, name="leave-with-maker", daemon=True).start()
