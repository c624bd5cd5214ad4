"""Disk and database in agreement after any crash; each function may run at any time and twice."""

from __future__ import annotations

import hashlib
import logging
import time
from datetime import timedelta
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

import pydicom.filereader
from pydicom.errors import InvalidDicomError
from sqlalchemy import Select, or_, select, update

from calcium.errors import AgatstonError, UnreadableInstanceError
from calcium.job import TERMINAL
from service import alerts, deliveries, jobs
from service.heads import read_head
from service.statuses import RefusedError
from service.store import inbox_key, outbox_folder
from service.tables import CommitmentRequest, Delivery, Instance, Job, OutputObject, Series, now

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from datetime import datetime

    from service.database import Database
    from service.inbox import Inbox
    from service.settings import Settings
    from service.store import Store
    from service.tables import Base

log = logging.getLogger(__name__)

CLOCK_SLACK_SECONDS = 60.0  # clocks of several hosts differ by less
SETTLE_SECONDS = 60.0  # a younger file may still get its row from its own handler
BATCH = 500
PREAMBLE_BYTES = 132  # with the prefix "DICM"
GROUP_LENGTH_BYTES = 12  # of (0002,0000) itself


T = TypeVar("T")


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield lists of at most `size` items."""
    source = iter(items)
    while batch := list(islice(source, size)):
        yield batch


def adopt_files(
    store: Store,
    database: Database,
    inbox: Inbox,
    *,
    changed_since: float | None = None,
    settle_seconds: float = SETTLE_SECONDS,
) -> int:
    """Give rows to inbox files that have none, and remove unfinished files; return how many were adopted.

    Such a file was written by a process that died before its row: its sender got no success and will probably
    send it again. A whole file is as good as its second copy.

    Parameters
    ----------
    changed_since
        Look only into folders that changed since then (seconds since the epoch); None: into all.
    """
    old = time.time() - settle_seconds
    for area in ("inbox", "outbox"):
        for path in store.unfinished(area, older_than=old, changed_since=changed_since):
            path.unlink(missing_ok=True)
    adopted = 0
    for keys in batched(store.keys("inbox", changed_since=changed_since), BATCH):
        with database.reading() as session:
            found = session.execute(select(Instance.key, Instance.removed_at).where(Instance.key.in_(keys)))
            known = {row.key: row.removed_at for row in found}
        settled = [key for key in keys if _is_older(store, key, old)]
        # Retention marked the row and died before it removed the file.
        inbox.delete_removed([key for key in settled if known.get(key) is not None])
        adopted += sum(_adopt(store, inbox, key) for key in settled if key not in known)
    if adopted:
        log.warning("%d files of the inbox had no row and were adopted", adopted)
    return adopted


def sweep_outbox(
    store: Store,
    database: Database,
    *,
    changed_since: float | None = None,
    settle_seconds: float = SETTLE_SECONDS,
) -> int:
    """Remove finished outbox files that no row names and no job is going to name; return how many.

    A worker writes the objects before the transaction that records them. Where it died between, or found its
    lease lost, the next attempt writes the same files again; but a job that was superseded or cancelled
    meanwhile has none.

    Parameters
    ----------
    changed_since
        As `adopt_files`.
    """
    old = time.time() - settle_seconds
    removed = 0
    for keys in batched(store.keys("outbox", changed_since=changed_since), BATCH):
        settled = [key for key in keys if _is_older(store, key, old)]
        with database.reading() as session:
            # In this order: a job that ends in between is among the first, or its rows are among the second.
            open_jobs = session.scalars(select(Job.id).where(Job.state.not_in(TERMINAL))).all()
            known = set(session.scalars(select(OutputObject.key).where(OutputObject.key.in_(settled))))
        spared = tuple(outbox_folder(job_id) for job_id in open_jobs)
        for key in settled:
            # Its age again: a job that an operator has just re-run may have written it anew.
            if key not in known and not key.startswith(spared) and _is_older(store, key, old):
                store.delete([key])
                removed += 1
    if removed:
        log.warning("%d files of the outbox belonged to no object and were removed", removed)
    return removed


def _is_older(store: Store, key: str, moment: float) -> bool:
    try:
        return store.path(key).stat().st_mtime < moment
    except FileNotFoundError:
        return False


def _adopt(store: Store, inbox: Inbox, key: str) -> int:
    with store.open(key) as file:
        content = memoryview(file.read())
    try:
        meta = pydicom.filereader.read_file_meta_info(store.path(key))
        syntax = str(meta.TransferSyntaxUID)
        # PS3.10 section 7.1: the group length element (12 bytes) tells where the file meta ends.
        start = PREAMBLE_BYTES + GROUP_LENGTH_BYTES + int(meta.FileMetaInformationGroupLength)
        data_set = content[start:]
        head = read_head(data_set, syntax)
        if inbox_key(head.study_instance_uid, head.series_instance_uid, head.sop_instance_uid) != key:
            raise UnreadableInstanceError("the file does not lie under its key")
        inbox.adopt(
            head,
            key=key,
            size_bytes=len(content),
            sha256=hashlib.sha256(data_set).hexdigest(),
            transfer_syntax_uid=syntax,
            calling_ae=str(meta.get("SourceApplicationEntityTitle", ""))[:16],
            called_ae=str(meta.get("ReceivingApplicationEntityTitle", ""))[:16],
        )
    except RefusedError as refused:
        log.warning("file %s was not adopted: %s", key, refused.comment)
        return 0
    except (AgatstonError, InvalidDicomError, AttributeError, ValueError, OSError) as error:
        # Not written by us: a file of ours is whole before it gets its name.
        log.warning("file %s is no instance and is removed: %s", key, type(error).__name__)
        store.delete([key])
        return 0
    return 1


def check_rows(database: Database, store: Store) -> int:
    """Raise an alert for each acknowledged instance or written object whose file is gone; return how many."""
    instances = select(Instance.id, Instance.key, Instance.sop_instance_uid).where(
        Instance.removed_at.is_(None)
    )
    objects = select(OutputObject.id, OutputObject.key, OutputObject.sop_instance_uid)
    return _check(
        database, store, instances, Instance.id, "the file of an acknowledged instance is gone"
    ) + _check(database, store, objects, OutputObject.id, "the file of a written object is gone")


def _check(database: Database, store: Store, rows: Select[int, str, str], column: Any, text: str) -> int:
    last, missing = 0, 0
    while True:
        with database.reading() as session:
            page = session.execute(rows.where(column > last).order_by(column).limit(BATCH)).all()
        if not page:
            return missing
        last = page[-1].id
        gone = [row.id for row in page if not store.exists(row.key)]
        if gone:
            with database.transaction() as session:
                # Once more: retention may have removed a file since its row was read.
                for row in session.execute(rows.where(column.in_(gone))):
                    alerts.raise_alert(session, "file_missing", row.sop_instance_uid, text)
                    missing += 1


def remove_expired(database: Database, inbox: Inbox, retention_days: float) -> int:
    """Remove the slices of series whose job ended, and whose objects were delivered, long enough ago.

    The rows stay, marked: a slice that comes later is not taken for a whole series. Return how many slices.
    """
    before = now() - timedelta(days=retention_days)
    unfinished = (
        select(Job.id)
        .where(Job.series_id == Series.id)
        .where(or_(Job.state.not_in(TERMINAL), Job.ended_at.is_(None), Job.ended_at > before))
    )
    undelivered = (
        select(Delivery.id)
        .join(OutputObject, OutputObject.id == Delivery.object_id)
        .join(Job, Job.id == OutputObject.job_id)
        .where(Job.series_id == Series.id, Delivery.state.in_(deliveries.OPEN))
    )
    expired = (
        select(Series.id)
        .where(Series.closed_at <= before, Series.last_received_at <= before)
        .where(select(Job.id).where(Job.series_id == Series.id).exists())
        .where(~unfinished.exists(), ~undelivered.exists())
        .where(
            select(Instance.id).where(Instance.series_id == Series.id, Instance.removed_at.is_(None)).exists()
        )
        .limit(BATCH)
    )
    with database.reading() as session:
        ids = session.scalars(expired).all()
    removed = 0
    for series_id in ids:
        with database.transaction() as session:
            series = session.get_one(Series, series_id, with_for_update=True)
            if series.closed_at is None:  # a slice came since
                continue
            keys = session.scalars(
                update(Instance)
                .where(Instance.series_id == series_id, Instance.removed_at.is_(None))
                .values(removed_at=now())
                .returning(Instance.key)
            ).all()
        inbox.delete_removed(keys)
        removed += len(keys)
    if removed:
        log.info("retention removed %d slices of %d series", removed, len(ids))
    return removed


def clamp_times(database: Database, settings: Settings) -> int:
    """Pull moments back that a clock which was set back since left in the future; return how many rows.

    Without this a series, a lease or a retry would wait until the clock is there again.
    """
    moment = now()
    slack = moment + timedelta(seconds=CLOCK_SLACK_SECONDS)
    lease = moment + timedelta(seconds=max(settings.lease_seconds, jobs.LEASE_SECONDS))
    sending = moment + timedelta(seconds=deliveries.LEASE_SECONDS)
    retry = moment + timedelta(seconds=max(settings.retry_cap_seconds, jobs.RETRY_CAP_SECONDS))
    resend = moment + timedelta(seconds=max(deliveries.RETRY_CAP_SECONDS, deliveries.COMMIT_WAIT_SECONDS))
    margin = slack - moment
    # (column, the latest plausible moment, what it becomes)
    rules: tuple[tuple[type[Base], Any, datetime, datetime], ...] = (
        (Series, Series.last_received_at, slack, moment),
        (Series, Series.opened_at, slack, moment),
        (Series, Series.released_at, slack, moment),
        (Job, Job.lease_until, lease + margin, lease),
        (Job, Job.not_before, retry + margin, moment),
        (Job, Job.dispatched_at, slack, moment),
        (Delivery, Delivery.lease_until, sending + margin, sending),
        (Delivery, Delivery.not_before, resend + margin, moment),
        (Delivery, Delivery.dispatched_at, slack, moment),
        (CommitmentRequest, CommitmentRequest.not_before, resend + margin, moment),
    )
    changed = 0
    with database.transaction() as session:
        for model, column, latest, becomes in rules:
            done = session.execute(update(model).where(column > latest).values({column.key: becomes}))
            changed += int(done.rowcount)  # type: ignore[attr-defined]
    if changed:
        log.warning("the clock was set back: %d moments in the future were pulled back", changed)
    return changed
