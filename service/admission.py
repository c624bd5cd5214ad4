"""Whether there is room: asked before each instance is written, so that running jobs never meet a full disk."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from sqlalchemy import func, select

from calcium.job import JobState
from service.database import UNAVAILABLE
from service.settings import MEBIBYTE
from service.statuses import RefusedError
from service.tables import Job

if TYPE_CHECKING:
    from service.database import Database
    from service.settings import Settings
    from service.store import Store

DISK_SECONDS = 0.5  # an answer about the disk is good for so long
QUEUE_SECONDS = 2.0


class Admission:
    """Watermark of the disk and length of the queue.

    Parameters
    ----------
    settings
        `disk_min_free_mb`: room that is kept for jobs and reports; `max_waiting_jobs`.
    """

    def __init__(self, settings: Settings, store: Store, database: Database) -> None:
        self._settings = settings
        self._store = store
        self._database = database
        self._lock = threading.Lock()
        self._free = 0
        self._free_at = -DISK_SECONDS
        self._waiting = 0
        self._waiting_at = -QUEUE_SECONDS

    def check(self, size: int) -> None:
        """Admit an instance of `size` bytes.

        Raises
        ------
        RefusedError
            The disk would fall below its watermark, too many jobs wait, or the database does not answer.
        """
        with self._lock:
            self._refresh()
            if self._free - size < self._settings.disk_min_free_mb * MEBIBYTE:
                raise RefusedError("disk_full", "disk below its watermark, send again later")
            if self._waiting > self._settings.max_waiting_jobs:
                raise RefusedError("queue_full", "too many series wait, send again later")
            self._free -= size  # until the disk is asked again

    def _refresh(self) -> None:
        moment = time.monotonic()
        if moment - self._free_at >= DISK_SECONDS:
            try:
                self._free, self._free_at = self._store.free_bytes(), moment
            except OSError:
                raise RefusedError("disk_full", "the store cannot be reached") from None
        if moment - self._waiting_at >= QUEUE_SECONDS:
            try:
                with self._database.reading() as session:
                    waiting = select(func.count()).where(Job.state == JobState.WAITING)
                    self._waiting, self._waiting_at = session.scalars(waiting).one(), moment
            except UNAVAILABLE:
                raise RefusedError("database_unavailable", "database unavailable, send again later") from None
