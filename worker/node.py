"""What a worker process holds: settings, database, store, dispatcher; what it works on; and how it stops."""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Callable
from typing import Any

from service.database import UNAVAILABLE, Database, require_current
from service.dispatch import Dispatcher
from service.settings import Settings
from service.store import Store
from service.tables import ProcessBeat, now

log = logging.getLogger(__name__)

BEAT_SECONDS = 5.0  # between two signs of life in the table of processes


class WorkerNode:
    """One worker process.

    Parameters
    ----------
    settings
        Of the whole node.
    role
        ``score`` or ``deliver``, for the table of processes.

    Raises
    ------
    AgatstonError
        The database does not answer or lacks migrations.
    """

    def __init__(self, settings: Settings, role: str) -> None:
        self.settings = settings
        self.database = Database(settings.database)
        require_current(self.database)
        self.store = Store(settings.store_root)
        self.dispatcher = Dispatcher(settings)
        self.owner = f"worker-{role}@{socket.gethostname()}:{os.getpid()}"
        self.details: dict[str, Any] = {"role": role}
        self.stopping = threading.Event()
        self._undo: dict[int, Callable[[], None]] = {}
        self._lock = threading.Lock()
        self._beats: threading.Thread | None = None

    def work_on(self, hand_back: Callable[[], None]) -> Work:
        """Register a claim for as long as the returned context lasts; `hand_back` gives it back at a stop."""
        return Work(self, hand_back)

    def hand_back_all(self) -> None:
        """Give every claim back; what is still computed for it will find its lease lost and record nothing."""
        with self._lock:
            claims, self._undo = list(self._undo.values()), {}
        for hand_back in claims:
            try:
                hand_back()
            except Exception as error:  # noqa: BLE001 (stopping: the keeper takes back what we could not)
                log.warning("a claim was not handed back: %s", type(error).__name__)

    def start_beats(self) -> None:
        """Write a sign of life at once and then every few seconds, until `stop`."""
        self._beats = threading.Thread(target=self._beat_on, name="beats", daemon=True)
        self._beats.start()

    def _beat_on(self) -> None:
        while True:
            try:
                self._beat()
            except UNAVAILABLE as error:
                log.warning("no sign of life written: %s", type(error).__name__)
            if self.stopping.wait(BEAT_SECONDS):
                return

    def _beat(self) -> None:
        with self.database.transaction() as session:
            row = session.get(ProcessBeat, self.owner)
            if row is None:
                row = ProcessBeat(name=self.owner, kind="worker")
                session.add(row)
            row.seen_at, row.detail = now(), dict(self.details)

    def close(self) -> None:
        """Stop the beats, sign off and close the connections."""
        self.stopping.set()
        if self._beats is not None:
            self._beats.join(BEAT_SECONDS)
        try:
            with self.database.transaction() as session:
                row = session.get(ProcessBeat, self.owner)
                if row is not None:
                    session.delete(row)
        except UNAVAILABLE as error:
            log.warning("not signed off: %s", type(error).__name__)
        self.dispatcher.close()
        self.database.dispose()


class Work:
    """A claim that a stop of the process gives back."""

    def __init__(self, node: WorkerNode, hand_back: Callable[[], None]) -> None:
        self._node = node
        self._hand_back = hand_back

    def __enter__(self) -> None:
        with self._node._lock:  # noqa: SLF001 (two classes of one idea)
            self._node._undo[id(self)] = self._hand_back  # noqa: SLF001

    def __exit__(self, *exc: object) -> None:
        with self._node._lock:  # noqa: SLF001
            self._node._undo.pop(id(self), None)  # noqa: SLF001
