"""A thread that does one thing again and again, and outlives its faults."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

from service.database import UNAVAILABLE

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger(__name__)


class Loop:
    """Calls a function every so many seconds until `stop`.

    Parameters
    ----------
    name
        Of the thread, and in the log.
    seconds
        Between the end of one call and the start of the next.
    """

    def __init__(self, name: str, seconds: float, function: Callable[[], object]) -> None:
        self._name = name
        self._seconds = seconds
        self._function = function
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    @property
    def stopping(self) -> bool:
        """Whether `stop` was called; long functions ask now and then."""
        return self._stop.is_set()

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, *, wait_seconds: float | None = None) -> None:
        """End after the current call, and wait for that."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(wait_seconds)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._function()
            except UNAVAILABLE as error:
                log.warning("%s: the database does not answer (%s)", self._name, type(error).__name__)
            except Exception:
                log.exception("%s failed; the next round tries again", self._name)
            self._stop.wait(self._seconds)
