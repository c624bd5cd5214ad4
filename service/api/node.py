"""What the API's routes share: settings, database, broker, guard, and figures that many viewers ask at once."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from importlib.metadata import version
from typing import Generic, TypeVar

from sqlalchemy import select

from calcium.errors import AgatstonError
from service.api import metrics, queries
from service.api.schemas import CheckOut
from service.api.security import Guard
from service.beats import ALIVE_SECONDS
from service.database import UNAVAILABLE, Database, require_current
from service.dispatch import Dispatcher
from service.settings import MEBIBYTE, Settings
from service.tables import ProcessBeat, Result, now

T = TypeVar("T")

FIGURES_SECONDS = 2.0  # a hundred open pages cost the database one count in two seconds
VALIDATED_SECONDS = 30.0
READY_SECONDS = 2.0  # and anonymous callers of /health/ready cannot make it busy
BEAT_FRESH = timedelta(seconds=ALIVE_SECONDS)
"""A process that was not seen for so long is taken as dead."""
NEEDED_PROCESSES = ("scp", "worker")  # and `sender` where there is a destination


class Kept(Generic[T]):
    """A value that is computed at most once in `seconds`, by one thread at a time.

    Parameters
    ----------
    compute
        How to make it.
    seconds
        How long it is good.
    """

    def __init__(self, compute: Callable[[], T], seconds: float) -> None:
        self._compute, self._seconds = compute, seconds
        self._lock = threading.Lock()
        self._value: tuple[float, T] | None = None

    def __call__(self) -> T:
        """Return the value, fresh enough."""
        with self._lock:
            if self._value is None or time.monotonic() - self._value[0] > self._seconds:
                self._value = (time.monotonic(), self._compute())
            return self._value[1]

    def forget(self) -> None:
        """Compute anew at the next call."""
        with self._lock:
            self._value = None


class Node:
    """The node as the API sees it.

    Parameters
    ----------
    settings, database
        Its settings, and its database, which need not answer yet.
    """

    def __init__(self, settings: Settings, database: Database) -> None:
        self.settings, self.database = settings, database
        self.guard = Guard(settings)
        self.dispatcher = Dispatcher(settings)
        self.version = version("agatston")
        self.readiness = Kept(self._readiness, READY_SECONDS)
        self.metrics = metrics.registry(self)
        self.counters = Kept(self._counters, FIGURES_SECONDS)
        self.site_validated = Kept(self._site_validated, VALIDATED_SECONDS)
        self.closing = False  # background work ends at the next series

    def close(self) -> None:
        """End background work, and close the connections to the broker."""
        self.closing = True
        self.dispatcher.close()

    def disk_free_bytes(self) -> int:
        """Return the space left for received slices."""
        folder = self.settings.store_root
        while not folder.exists() and folder != folder.parent:
            folder = folder.parent
        return shutil.disk_usage(folder).free

    def _site_validated(self) -> bool:
        """Tell whether the site declared its own validation of the weights that made the latest result."""
        try:
            with self.database.reading() as session:
                weights = session.scalar(select(Result.weights).order_by(Result.id.desc()).limit(1))
        except UNAVAILABLE:
            return False
        return bool((weights or {}).get("validated_by_site"))

    def _counters(self) -> queries.Counters:
        with self.database.reading() as session:
            return queries.counters(session)

    def _readiness(self) -> list[CheckOut]:
        database = self._check_database()
        checks = [database]
        if database.ok:
            with self.database.reading() as session:
                beats = queries.beats(session)
            needed = (*NEEDED_PROCESSES, "sender") if self.settings.all_destinations else NEEDED_PROCESSES
            checks += [check_beat(kind, list(beats)) for kind in needed]
        answers = self.dispatcher.ping()
        checks.append(CheckOut(name="broker", ok=answers, text="answers" if answers else "does not answer"))
        checks.append(check_disk(self.disk_free_bytes(), self.settings.disk_min_free_mb))
        return checks

    def _check_database(self) -> CheckOut:
        try:
            require_current(self.database)
        except (AgatstonError, *UNAVAILABLE) as error:
            text = str(error) if isinstance(error, AgatstonError) else "does not answer"
            return CheckOut(name="database", ok=False, text=text)
        return CheckOut(name="database", ok=True, text="answers, migrations are at head")


def check_beat(kind: str, beats: list[ProcessBeat]) -> CheckOut:
    """Check that a process of a kind was seen lately."""
    seen = max((one.seen_at for one in beats if one.kind == kind), default=None)
    if seen is None:
        return CheckOut(name=kind, ok=False, text=f"no {kind} process was seen within the last hour")
    age = now() - seen
    if age < BEAT_FRESH:
        return CheckOut(name=kind, ok=True, text="seen within the last minute")
    return CheckOut(name=kind, ok=False, text=f"last seen {age.total_seconds() / 60:.0f} minutes ago")


def check_disk(free_bytes: int, min_free_mb: int) -> CheckOut:
    """Check that the store has more room than the watermark below which C-STORE answers A700."""
    text = f"{free_bytes / 1e9:.1f} GB free, refuses slices below {min_free_mb * MEBIBYTE / 1e9:.1f} GB"
    return CheckOut(name="disk", ok=free_bytes >= min_free_mb * MEBIBYTE, text=text)
