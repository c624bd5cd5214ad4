"""What a worker process holds: settings, database, store, dispatcher; what it works on; and how it stops."""

from __future__ import annotations

import logging
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from service.beats import Beat
from service.database import Database, require_current
from service.dispatch import Dispatcher
from service.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from service.settings import Settings

log = logging.getLogger(__name__)


class WorkerNode:
    """One worker process.

    Parameters
    ----------
    settings
        Of the whole node.
    kind
        ``worker`` scores, ``sender`` delivers: readiness asks for workers.
    details
        What the table of processes tells about this one, e.g. weights and device.

    Raises
    ------
    AgatstonError
        The database does not answer or lacks migrations.
    """

    def __init__(self, settings: Settings, kind: str, details: dict[str, Any] | None = None) -> None:
        self.settings = settings
        self.database = Database(settings.database)
        require_current(self.database)
        self.store = Store(settings.store_root)
        self.dispatcher = Dispatcher(settings)
        self.stopping = threading.Event()
        self._beat = Beat(self.database, kind, details)
        self._beating = False
        self._claims: dict[object, Callable[[], None]] = {}
        self._lock = threading.Lock()

    @property
    def owner(self) -> str:
        """Name of this process in leases and in the table of processes."""
        return self._beat.name

    @contextmanager
    def work_on(self, hand_back: Callable[[], None]) -> Iterator[None]:
        """Remember a claim while the block lasts; `hand_back` gives it back if the process stops meanwhile."""
        key = object()
        with self._lock:
            self._claims[key] = hand_back
        try:
            yield
        finally:
            with self._lock:
                self._claims.pop(key, None)

    def hand_back_all(self) -> None:
        """Give every claim back; what is still computed for it will find its lease lost and record nothing."""
        with self._lock:
            claims, self._claims = list(self._claims.values()), {}
        for hand_back in claims:
            try:
                hand_back()
            except Exception as error:  # noqa: BLE001 (stopping: the keeper takes back what we could not)
                log.warning("a claim was not handed back: %s", type(error).__name__)

    def start_beats(self) -> None:
        """Write a sign of life at once and then regularly, until `close`."""
        self._beating = True
        self._beat.start()

    def close(self) -> None:
        """Stop the signs of life and close the connections."""
        self.stopping.set()
        if self._beating:
            self._beat.stop()
        self.dispatcher.close()
        self.database.dispose()
