"""When a series is complete, and what follows: a job for its set of instances.

A series closes when its sender has released the association and nothing came for a short while, when nothing
came for a longer while, when it has waited for the maximum, or when an operator says so. A later instance opens
it again; closing it then makes a new revision, which supersedes the earlier one, unless the set is the same.
"""

from __future__ import annotations

import hashlib
import logging
from datetime import timedelta
from typing import TYPE_CHECKING

from sqlalchemy import ColumnElement, Select, and_, case, func, select

from calcium.job import JobState
from service import alerts, jobs, reconstructions
from service.tables import Instance, Job, JobEvent, Series, now

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from sqlalchemy.orm import Session

    from service.database import Database
    from service.settings import Settings

log = logging.getLogger(__name__)

LIMIT = 500  # series a round
MAX_QUERY_FAILURES = 3  # then a series is closed without its archive's word


def instances_digest(lines: Iterable[tuple[str, str]]) -> str:
    """Return the SHA-256 that names a set of instances: of its sorted "SOP UID:sha256" lines."""
    text = "\n".join(sorted(f"{uid}:{sha256}" for uid, sha256 in lines))
    return hashlib.sha256(text.encode()).hexdigest()


def _reason(settings: Settings, moment: datetime) -> ColumnElement[str | None]:
    """Return the expression that says why a series is due for closing, or NULL."""

    def before(seconds: float) -> datetime:
        return moment - timedelta(seconds=seconds)

    released = and_(
        Series.released_at.is_not(None),
        Series.released_at <= before(settings.series_release_seconds),
    )
    return case(
        # First, for it also ends the wait for what an archive may still hold.
        (Series.opened_at <= before(settings.series_max_wait_seconds), "max_wait"),
        (released, "release"),
        (Series.last_received_at <= before(settings.series_idle_seconds), "idle"),
        else_=None,
    )


def quiet(settings: Settings) -> Select[Series]:
    """Return the query for open series to which nothing came for so long that they may close."""
    return select(Series).where(Series.closed_at.is_(None), _reason(settings, now()).is_not(None)).limit(LIMIT)


def close_due(database: Database, settings: Settings) -> list[str]:
    """Close every series that is due, each in its own transaction; return the ids of the new jobs."""
    with database.reading() as session:
        ids = session.scalars(quiet(settings).with_only_columns(Series.id)).all()
    new = []
    for series_id in ids:
        with database.transaction() as session:
            series = session.get_one(Series, series_id, with_for_update=True)
            # An instance may have come since: ask again under the lock.
            why = session.scalars(select(_reason(settings, now())).where(Series.id == series_id)).one()
            if series.closed_at is not None or why is None:
                continue
            if why == "max_wait" or is_complete(session, settings, series):
                job = close(session, settings, series, by=why)
                if job is not None:
                    new.append(job.id)
    return new


def is_complete(session: Session, settings: Settings, series: Series) -> bool:
    """Tell whether nothing is left to ask: the archive has no more, does not answer, or is not to be asked."""
    peer = settings.peer(series.calling_ae)
    if peer is None or not peer.query or series.query_failures >= MAX_QUERY_FAILURES:
        return True
    if series.expected_instances is None:
        return False
    have = (
        session.scalar(select(func.count()).select_from(Instance).where(Instance.series_id == series.id)) or 0
    )
    return have >= series.expected_instances


def force(database: Database, settings: Settings, series_id: int) -> str | None:
    """Close a series now, whatever may still come; return the id of its new job, None where none is needed."""
    with database.transaction() as session:
        series = session.get(Series, series_id, with_for_update=True)
        if series is None or series.closed_at is not None:
            return None
        job = close(session, settings, series, by="forced")
        return None if job is None else job.id


def close(session: Session, settings: Settings, series: Series, *, by: str) -> Job | None:
    """Close a series whose row is locked; return its new job, or None where its set already has one."""
    rows = session.execute(
        select(Instance.id, Instance.sop_instance_uid, Instance.sha256, Instance.removed_at).where(
            Instance.series_id == series.id
        )
    ).all()
    series.closed_at, series.closed_by = now(), by
    if not rows:
        return None
    digest = instances_digest((row.sop_instance_uid, row.sha256) for row in rows)
    earlier = session.scalars(
        select(Job).where(Job.series_id == series.id).order_by(Job.revision).with_for_update()
    ).all()
    if earlier and earlier[-1].instances_sha256 == digest:
        return None
    if any(row.removed_at is not None for row in rows):
        text = "slices came after retention had removed the others: send the whole series again"
        alerts.raise_alert(session, "late_slices", series.series_instance_uid, text)
        return None
    for job in earlier:
        if job.state != JobState.SUPERSEDED:
            jobs.supersede(session, job, actor="keeper", detail="later slices came")
    peer = settings.peer(series.calling_ae)
    job = Job(
        series_id=series.id,
        revision=earlier[-1].revision + 1 if earlier else 1,
        instances_sha256=digest,
        last_instance_id=max(row.id for row in rows),
        lane=peer.lane if peer is not None else "normal",
        # Until it is looked at again; should it be unreadable, the others know whom it fails.
        acquisition=earlier[-1].acquisition if earlier else None,
        suitability=earlier[-1].suitability if earlier else None,
        forced=earlier[-1].forced if earlier else False,
    )
    session.add(job)
    session.flush()
    session.add(
        JobEvent(job_id=job.id, event="open", state=job.state, actor="keeper", detail=f"closed by {by}")
    )
    log.info("series complete (%s): %d instances [%s]", by, len(rows), series.series_instance_uid)
    return job


def let_others_take_over(database: Database, since: datetime) -> list[str]:
    """Let the next best reconstruction be scored where a more suitable one got no score since then.

    Returns
    -------
    list of str
        Ids of the jobs that wait now.
    """
    with database.reading() as session:
        ended = [
            (job.id, job.series.study_instance_uid)
            for job in reconstructions.ended_without_score(session, since)
        ]
    again = []
    for job_id, study in ended:
        with database.transaction() as session:
            reconstructions.lock(session, study)
            found = reconstructions.unserved(session, session.get_one(Job, job_id))
            if found is None:
                continue
            job = session.get_one(Job, found.id, with_for_update=True, populate_existing=True)
            if not reconstructions.is_outdone(job):  # a person has just let it run again
                continue
            again.append(_take_over(session, job).id)
    return again


def _take_over(session: Session, job: Job) -> Job:
    text = "the more suitable reconstruction got no score"
    if job.state != JobState.SUPERSEDED:
        jobs.record(session, job, "rerun", actor="keeper", detail=text)
        jobs.wait_again(job)
        return job
    # Its report was superseded too: the new one is a later revision.
    new = Job(
        series_id=job.series_id,
        revision=job.revision + 1,
        instances_sha256=job.instances_sha256,
        last_instance_id=job.last_instance_id,
        lane=job.lane,
        acquisition=job.acquisition,
        suitability=job.suitability,
    )
    session.add(new)
    session.flush()
    session.add(JobEvent(job_id=new.id, event="open", state=new.state, actor="keeper", detail=text))
    return new
