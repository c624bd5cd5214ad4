"""Signs of life: each process writes one row now and then; readiness and monitoring read them."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import socket
import threading
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, select

from service.database import UNAVAILABLE
from service.tables import ProcessBeat, now

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from service.database import Database

log = logging.getLogger(__name__)

BEAT_SECONDS = 10.0
ALIVE_SECONDS = 35.0  # three missed beats: dead


def _host() -> str:
    """Return a name for the set of processes that this one can see: host, boot and process namespace."""
    boot, namespace = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")
    try:
        told = boot.read_text(encoding="ascii") + str(namespace.stat().st_ino)
    except OSError:  # not Linux: host names must do
        told = ""
    return f"{socket.gethostname()[:48]}-{hashlib.sha256(told.encode()).hexdigest()[:8]}"


HOST = _host()
OWNER_PATTERN = re.compile(r"[a-z]+@(?P<host>[^:]+):(?P<pid>\d+)")


def process_name(kind: str) -> str:
    """Return the name of this process in rows: ``kind@host:pid``."""
    return f"{kind}@{HOST}:{os.getpid()}"


def is_dead(owner: str | None) -> bool:
    """Tell whether the process that a lease names has ended: only of processes of this host can that be told.

    Parameters
    ----------
    owner
        A name of `process_name`, or a token of a claim that begins with one.
    """
    found = OWNER_PATTERN.match(owner or "")
    if found is None or found["host"] != HOST:
        return False
    try:
        os.kill(int(found["pid"]), 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        return False
    return False


class Beat:
    """Writes this process's row until `stop`.

    Parameters
    ----------
    kind
        scp, api, worker.
    detail
        What is told about the process beside its version.
    counters
        Asked at each beat; told as ``counters``.
    """

    def __init__(
        self,
        database: Database,
        kind: str,
        detail: dict[str, Any] | None = None,
        *,
        counters: Callable[[], dict[str, Any]] | None = None,
    ) -> None:
        self.name = process_name(kind)
        self.detail = detail or {}
        self._database = database
        self._kind = kind
        self._counters = counters
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="beat", daemon=True)

    def start(self) -> None:
        """Write the first beat and go on in a thread."""
        self._thread.start()

    def stop(self) -> None:
        """Remove the row: the process ends in order."""
        self._stop.set()
        self._thread.join()
        try:
            with self._database.transaction() as session:
                session.execute(delete(ProcessBeat).where(ProcessBeat.name == self.name))
        except UNAVAILABLE:
            log.debug("the last beat could not be removed")

    def _run(self) -> None:
        while True:
            try:
                with self._database.transaction() as session:
                    row = session.get(ProcessBeat, self.name)
                    if row is None:
                        row = ProcessBeat(name=self.name, kind=self._kind)
                        session.add(row)
                    row.seen_at = now()
                    counters = {} if self._counters is None else {"counters": self._counters()}
                    row.detail = {"version": version("agatston"), **self.detail, **counters}
            except UNAVAILABLE as error:
                log.debug("no beat: %s", type(error).__name__)
            if self._stop.wait(BEAT_SECONDS):
                return


def alive(database: Database, kind: str) -> Sequence[ProcessBeat]:
    """Return the beats of the living processes of a kind."""
    with database.reading() as session:
        fresh = now() - timedelta(seconds=ALIVE_SECONDS)
        found = select(ProcessBeat).where(ProcessBeat.kind == kind, ProcessBeat.seen_at >= fresh)
        return session.scalars(found.order_by(ProcessBeat.name)).all()
