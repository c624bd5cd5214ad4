"""Receives instances: file first, then row, then success. One thread writes all rows.

Handlers of all associations hand their rows to that thread and wait; it commits what has gathered in one
transaction, so that many associations share the cost of a synced commit.
"""

from __future__ import annotations

import hashlib
import logging
import queue
import threading
from concurrent.futures import Future
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from sqlalchemy import bindparam, case, func, insert, select, update

from calcium.errors import ResourcesError
from service import alerts
from service.database import UNAVAILABLE
from service.part10 import write_head
from service.settings import MEBIBYTE
from service.statuses import RefusedError
from service.store import inbox_key
from service.tables import Instance, Series, UtcDateTime, now

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from sqlalchemy import Connection

    from service.database import Database
    from service.heads import Head
    from service.settings import Settings
    from service.store import Store

log = logging.getLogger(__name__)

BATCH = 256  # rows a commit at most
STRIPES = 1024  # locks; two instances share one by chance and then only wait for each other
CACHED_SERIES = 4096
COMMIT_SECONDS = 120.0  # longer than any timeout of the database: the answer always comes from there


MOMENT = bindparam("moment", type_=UtcDateTime())
# The statements of each instance, built once: building them costs more than SQLite takes to run them.
FIND = select(Instance.id, Instance.sha256, Instance.removed_at).where(
    Instance.series_id == bindparam("series_id"), Instance.sop_instance_uid == bindparam("uid")
)
TOUCH = (
    update(Series)
    .where(Series.id == bindparam("series_id"))
    .values(
        opened_at=case((Series.closed_at.is_not(None), MOMENT), else_=Series.opened_at),
        last_received_at=MOMENT,
        # An adopted file has no sender.
        calling_ae=func.coalesce(func.nullif(bindparam("calling"), ""), Series.calling_ae),
        called_ae=func.coalesce(func.nullif(bindparam("called"), ""), Series.called_ae),
        address=func.coalesce(func.nullif(bindparam("address"), ""), Series.address),
        released_at=None,
        closed_at=None,
        closed_by=None,
        expected_instances=None,
        query_failures=0,
    )
)
RESTORE = (
    update(Instance)
    .where(Instance.id == bindparam("instance_id"))
    .values(removed_at=None, received_at=MOMENT, size_bytes=bindparam("size"))
)
INSERT = insert(Instance)


class Outcome(StrEnum):
    """What became of an instance that may be answered with success."""

    STORED = "stored"
    DUPLICATE = "duplicate"  # same UID, same content: ignored


class _Verdict(StrEnum):
    STORED = "stored"
    DUPLICATE = "duplicate"
    CONFLICT = "conflict"
    TOO_LARGE = "too_large"


@dataclass(frozen=True, slots=True)
class Incoming:
    """An instance as it arrived.

    Parameters
    ----------
    data_set
        Encoded data set, as sent.
    meta
        Preamble, prefix and file meta information (PS3.10 section 7.1) where they came along; else we write it.
    address
        IP address of the sender; empty where we fetched the instance.
    """

    head: Head
    transfer_syntax_uid: str
    data_set: memoryview
    calling_ae: str
    called_ae: str
    meta: bytes = b""
    address: str = ""

    @property
    def file_head(self) -> bytes:
        """What stands before the data set in its file."""
        return self.meta or write_head(
            sop_class_uid=self.head.sop_class_uid,
            sop_instance_uid=self.head.sop_instance_uid,
            transfer_syntax_uid=self.transfer_syntax_uid,
            source_ae=self.calling_ae,
            receiving_ae=self.called_ae,
        )


@dataclass(frozen=True, slots=True)
class _Row:
    head: Head
    transfer_syntax_uid: str
    key: str
    size_bytes: int
    sha256: str
    calling_ae: str
    called_ae: str
    received_at: datetime
    address: str = ""


class Inbox:
    """The durable inbox of one process; `close` it to end its thread."""

    def __init__(self, settings: Settings, store: Store, database: Database) -> None:
        self._settings = settings
        self.store = store
        self.database = database
        self._locks = [threading.Lock() for _ in range(STRIPES)]
        self._series: dict[tuple[str, str], _Known] = {}
        self._queue: queue.SimpleQueue[_Work | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="inbox-writer", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Write what waits, and end."""
        self._queue.put(None)
        self._thread.join()

    def receive(self, incoming: Incoming) -> tuple[Outcome, int]:
        """Make an instance durable: file and row; return what became of it and the id of its series.

        Raises
        ------
        RefusedError
            It was not stored, or other content is stored under its UID.
        """
        head = incoming.head
        key = inbox_key(head.study_instance_uid, head.series_instance_uid, head.sop_instance_uid)
        digest = hashlib.sha256(incoming.data_set).hexdigest()
        # Of two associations that send the same UID at once, the second finds the first one's file and row.
        with self._locks[hash(key) % STRIPES]:
            if self.store.exists(key):
                known = self._known_instance(key)
                if known is not None:
                    sha256, series_id = known
                    if sha256 != digest:
                        self._conflict(head)
                    return Outcome.DUPLICATE, series_id
                # A file without a row was never acknowledged: it is replaced.
            try:
                size = self.store.put(key, incoming.file_head, incoming.data_set)
            except ResourcesError as error:
                log.error("%s", error)  # noqa: TRY400 (its text says all)
                raise RefusedError("disk_full", "cannot write, send again later") from error
            return self._commit_row(
                _Row(
                    head=head,
                    transfer_syntax_uid=incoming.transfer_syntax_uid,
                    key=key,
                    size_bytes=size,
                    sha256=digest,
                    calling_ae=incoming.calling_ae,
                    called_ae=incoming.called_ae,
                    received_at=now(),
                    address=incoming.address,
                )
            )

    def adopt(
        self,
        head: Head,
        *,
        key: str,
        size_bytes: int,
        sha256: str,
        transfer_syntax_uid: str,
        calling_ae: str,
        called_ae: str,
    ) -> None:
        """Write the row of a file that has none: its process died between file and row.

        Parameters
        ----------
        calling_ae, called_ae
            As the file meta information tells; empty where it does not.

        Raises
        ------
        RefusedError
            Other content is known under its UID; the file was removed.
        """
        self._commit_row(
            _Row(
                head=head,
                transfer_syntax_uid=transfer_syntax_uid,
                key=key,
                size_bytes=size_bytes,
                sha256=sha256,
                calling_ae=calling_ae,
                called_ae=called_ae,
                received_at=now(),
            )
        )

    def delete_removed(self, keys: Sequence[str]) -> None:
        """Remove the files of instances whose rows say that retention removed them.

        Under the lock that receiving takes: an instance that is just sent again keeps its file.
        """
        for key in keys:
            with self._locks[hash(key) % STRIPES]:
                with self.database.reading() as session:
                    found = select(Instance.id).where(Instance.key == key, Instance.removed_at.is_not(None))
                    gone = session.scalars(found).first() is not None
                if gone:
                    self.store.delete([key])

    def released(self, series_ids: Sequence[int]) -> None:
        """Note that the last association that fed these series was released in order; waits for no commit."""
        if series_ids:
            self._queue.put(_Work(_Release(tuple(series_ids), now()), Future()))

    def _commit_row(self, row: _Row) -> tuple[Outcome, int]:
        work = _Work(row, Future())
        self._queue.put(work)
        try:
            verdict, series_id = work.future.result(COMMIT_SECONDS)
        except UNAVAILABLE as error:
            raise RefusedError("database_unavailable", "database unavailable, send again later") from error
        if verdict is _Verdict.CONFLICT:
            self.store.delete([row.key])  # retention had removed the first one's file
            self._conflict(row.head)
        if verdict is _Verdict.TOO_LARGE:
            self.store.delete([row.key])
            self._alert("series_too_large", row.head.series_instance_uid, "a series exceeds its limits of size")
            raise RefusedError("series_too_large", "the series exceeds the limits of this node")
        return Outcome(verdict.value), series_id

    def _known_instance(self, key: str) -> tuple[str, int] | None:
        try:
            with self.database.reading() as session:
                row = session.execute(
                    select(Instance.sha256, Instance.series_id).where(
                        Instance.key == key, Instance.removed_at.is_(None)
                    )
                ).first()
        except UNAVAILABLE as error:
            raise RefusedError("database_unavailable", "database unavailable, send again later") from error
        return None if row is None else (row.sha256, row.series_id)

    def _conflict(self, head: Head) -> None:
        text = "an instance was sent again with other content under the same UID; the first one is kept"
        self._alert("conflicting_instance", head.sop_instance_uid, text)
        raise RefusedError("conflicting_instance", "other content is stored under this SOP Instance UID")

    def _alert(self, kind: str, subject: str, text: str) -> None:
        try:
            with self.database.transaction() as session:
                alerts.raise_alert(session, kind, subject, text)
        except UNAVAILABLE:
            log.warning("%s: %s [%s]", kind, text, subject)

    # The writing thread.

    def _run(self) -> None:
        ending = False
        while not ending:
            batch = [self._queue.get()]
            while len(batch) < BATCH and not self._queue.empty():
                batch.append(self._queue.get())
            ending = None in batch
            work = [item for item in batch if item is not None]
            if work and not self._write(work, careful=False):
                for item in work:  # one of them broke the transaction: each gets its own
                    self._write([item], careful=True)

    def _write(self, work: Sequence[_Work], *, careful: bool) -> bool:
        """Commit rows and tell those who wait; False where a row broke the transaction and none was told.

        Parameters
        ----------
        careful
            Look first whether an instance has a row. Else its file's absence, which `receive` saw, stands for
            that, and the table's constraint tells where it was wrong.
        """
        try:
            with self.database.engine.begin() as connection:
                verdicts = [
                    self._insert(connection, item.change, careful=careful)
                    if isinstance(item.change, _Row)
                    else _note_release(connection, item.change)
                    for item in work
                ]
        except Exception as error:  # noqa: BLE001 (whatever it is, the handlers wait for an answer)
            self._series.clear()  # counts and ids of what was rolled back
            if not careful and not isinstance(error, UNAVAILABLE):
                return False
            for item in work:
                item.future.set_exception(error)
            return True
        for item, verdict in zip(work, verdicts, strict=True):
            item.future.set_result(verdict)
        return True

    def _insert(self, connection: Connection, row: _Row, *, careful: bool) -> tuple[_Verdict, int]:
        known = self._known_series(connection, row)
        existing = None
        if careful:
            uids = {"series_id": known.series_id, "uid": row.head.sop_instance_uid}
            existing = connection.execute(FIND, uids).first()
        if existing is not None and existing.sha256 != row.sha256:
            return _Verdict.CONFLICT, known.series_id
        if existing is not None and existing.removed_at is None:
            return _Verdict.DUPLICATE, known.series_id
        if existing is None and not known.has_room(row.size_bytes, self._settings):
            return _Verdict.TOO_LARGE, known.series_id
        # Locks the series' row before the instance gets its id: closing counts on that (Job.last_instance_id).
        connection.execute(
            TOUCH,
            {
                "series_id": known.series_id,
                "moment": row.received_at,
                "calling": row.calling_ae,
                "called": row.called_ae,
                "address": row.address,
            },
        )
        if existing is not None:  # sent again after retention had removed its file
            restored = {"instance_id": existing.id, "moment": row.received_at, "size": row.size_bytes}
            connection.execute(RESTORE, restored)
        else:
            connection.execute(
                INSERT,
                {
                    "series_id": known.series_id,
                    "sop_instance_uid": row.head.sop_instance_uid,
                    "sop_class_uid": row.head.sop_class_uid,
                    "transfer_syntax_uid": row.transfer_syntax_uid,
                    "key": row.key,
                    "size_bytes": row.size_bytes,
                    "sha256": row.sha256,
                    "received_at": row.received_at,
                },
            )
            known.count += 1
            known.size_bytes += row.size_bytes
        return _Verdict.STORED, known.series_id

    def _known_series(self, connection: Connection, row: _Row) -> _Known:
        uids = (row.head.study_instance_uid, row.head.series_instance_uid)
        known = self._series.get(uids)
        if known is not None:
            return known
        series_id = connection.scalar(
            select(Series.id).where(Series.study_instance_uid == uids[0], Series.series_instance_uid == uids[1])
        )
        if series_id is None:
            new = insert(Series).values(
                study_instance_uid=uids[0],
                series_instance_uid=uids[1],
                calling_ae=row.calling_ae,
                called_ae=row.called_ae,
                address=row.address or None,
                first_received_at=row.received_at,
                last_received_at=row.received_at,
                opened_at=row.received_at,
            )
            series_id = connection.execute(new.returning(Series.id)).scalar_one()
        count, size = connection.execute(
            select(func.count(), func.coalesce(func.sum(Instance.size_bytes), 0)).where(
                Instance.series_id == series_id
            )
        ).one()
        while len(self._series) >= CACHED_SERIES:
            del self._series[next(iter(self._series))]
        known = self._series[uids] = _Known(series_id, count, int(size))
        return known


@dataclass(slots=True)
class _Known:
    """A series that the writing thread knows, so that it need not count at each instance."""

    series_id: int
    count: int
    size_bytes: int

    def has_room(self, size: int, settings: Settings) -> bool:
        return (
            self.count < settings.max_series_instances
            and self.size_bytes + size <= settings.max_series_mb * MEBIBYTE
        )


@dataclass(frozen=True, slots=True)
class _Release:
    series_ids: tuple[int, ...]
    at: datetime


@dataclass(frozen=True, slots=True)
class _Work:
    change: _Row | _Release
    future: Future[tuple[_Verdict, int]]


def _note_release(connection: Connection, release: _Release) -> tuple[_Verdict, int]:
    connection.execute(
        update(Series)
        .where(Series.id.in_(release.series_ids), Series.closed_at.is_(None))
        .values(released_at=release.at)
    )
    return _Verdict.STORED, 0
