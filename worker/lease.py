"""A lease that renews itself while the work under it goes on."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Self

from calcium.errors import AgatstonError
from service.database import UNAVAILABLE

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger(__name__)

RENEWALS_PER_LEASE = 4  # so that three may fail before the lease runs out


class Renewal:
    """Calls `renew` regularly from a thread of its own, until the block ends or the lease is lost.

    The database is asked and not believed: a lease that is lost only ends the renewals. What the work then
    records is refused by its token.

    Parameters
    ----------
    renew
        Prolongs the lease; raises AgatstonError when it is no longer ours.
    lease_seconds
        How long each renewal holds.
    """

    def __init__(self, renew: Callable[[], None], lease_seconds: float) -> None:
        self._renew = renew
        self._pause = lease_seconds / RENEWALS_PER_LEASE
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lease", daemon=True)

    def _run(self) -> None:
        while not self._done.wait(self._pause):
            try:
                self._renew()
            except UNAVAILABLE as error:
                log.warning("a lease was not renewed, trying again: %s", type(error).__name__)
            except AgatstonError as error:
                log.warning("a lease is lost: %s", error)
                return

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._done.set()
        self._thread.join()
