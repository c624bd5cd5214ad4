"""What the API reads: jobs by pages, counters, beats. Each function is a few indexed statements.

A page is found by keyset, never by OFFSET: the hundredth page of 100,000 jobs costs what the first costs.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, func, or_, select
from sqlalchemy.orm import Session, contains_eager, joinedload, selectinload

from service import deliveries
from service.tables import (
    Alert,
    Delivery,
    Instance,
    Job,
    JobEvent,
    OutputObject,
    ProcessBeat,
    Result,
    Series,
    now,
)

MAX_PAGE = 200
MANY_JOBS = 2000  # sorting fewer costs some milliseconds
RECENT = timedelta(hours=24)
_CURSOR = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{6})?)\|([0-9a-f-]{1,36})")
BEATS_KEPT = timedelta(hours=1)  # processes seen longer ago are history


@dataclass(frozen=True, slots=True)
class Cursor:
    """Place after one job in the order newest first."""

    created_at: datetime
    job_id: str

    def __str__(self) -> str:
        text = f"{self.created_at.astimezone(UTC).replace(tzinfo=None).isoformat()}|{self.job_id}"
        return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")

    @classmethod
    def parse(cls, text: str) -> Cursor:
        """Read what `str` wrote.

        Raises
        ------
        ValueError
            It is nothing that `str` wrote.
        """
        try:
            decoded = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode("ascii")
        except (binascii.Error, UnicodeError):
            raise ValueError("the cursor is damaged") from None
        found = _CURSOR.fullmatch(decoded)
        if found is None:
            raise ValueError("the cursor is damaged")
        return cls(datetime.fromisoformat(found[1]).replace(tzinfo=UTC), found[2])


@dataclass(frozen=True, slots=True)
class JobFilter:
    """Which jobs: all that is set must hold.

    Parameters
    ----------
    states, lane
        By `Job.state` and `Job.lane`.
    since, until
        Half-open range of `Job.created_at`.
    series_instance_uid, study_instance_uid
        Exact.
    """

    states: tuple[str, ...] = ()
    lane: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    series_instance_uid: str | None = None
    study_instance_uid: str | None = None

    def apply(self, query: Select[Any], *, by_state_index: bool = True) -> Select[Any]:
        """Return `query`, which selects from Job joined with Series, narrowed."""
        conditions: list[ColumnElement[bool]] = []
        if self.states:
            state = Job.state if by_state_index else func.coalesce(Job.state, "")
            conditions.append(state.in_(self.states))
        if self.lane is not None:
            conditions.append(Job.lane == self.lane)
        if self.since is not None:
            conditions.append(Job.created_at >= self.since)
        if self.until is not None:
            conditions.append(Job.created_at < self.until)
        if self.series_instance_uid is not None:
            conditions.append(Series.series_instance_uid == self.series_instance_uid)
        if self.study_instance_uid is not None:
            conditions.append(Series.study_instance_uid == self.study_instance_uid)
        return query.where(*conditions)


@dataclass(frozen=True, slots=True)
class JobPage:
    """Some jobs, newest first, with series, result, objects and deliveries loaded."""

    jobs: Sequence[Job]
    next: Cursor | None


@dataclass(frozen=True, slots=True)
class Counters:
    """Figures of the whole node.

    Parameters
    ----------
    jobs, deliveries
        Rows by state.
    open_series
        Series that still arrive.
    waiting_since
        When the oldest waiting job became due.
    undelivered_since
        When the oldest undelivered delivery was planned.
    groups
        Risk groups of the results of the last 24 hours: label, count.
    recent
        Jobs created in the last 24 hours, by state.
    """

    jobs: dict[str, int]
    deliveries: dict[str, int]
    open_series: int
    waiting_since: datetime | None
    undelivered_since: datetime | None
    groups: dict[str, int] = field(default_factory=dict)
    recent: dict[str, int] = field(default_factory=dict)


def page(session: Session, wanted: JobFilter, *, after: Cursor | None = None, limit: int = 50) -> JobPage:
    """Return one page of jobs, newest first."""
    # Where many jobs match, the index of moments finds a page at once; SQLite, which keeps no statistics,
    # would rather read and sort all jobs of a state. Where few match, the index of states finds them.
    many = bool(wanted.states) and _are_many(session, wanted.states)
    query = wanted.apply(
        select(Job)
        .join(Job.series)
        .options(
            contains_eager(Job.series),
            joinedload(Job.result),
            selectinload(Job.objects).selectinload(OutputObject.deliveries),
        ),
        by_state_index=not many,
    )
    if after is not None:
        query = query.where(
            or_(
                Job.created_at < after.created_at,
                and_(Job.created_at == after.created_at, Job.id < after.job_id),
            ),
            Job.created_at <= after.created_at,  # lets the index begin here
        )
    query = query.order_by(Job.created_at.desc(), Job.id.desc()).limit(limit + 1)
    jobs = session.scalars(query).unique().all()
    more = len(jobs) > limit
    jobs = jobs[:limit]
    return JobPage(jobs, Cursor(jobs[-1].created_at, jobs[-1].id) if more else None)


def _are_many(session: Session, states: Sequence[str]) -> bool:
    some = select(Job.id).where(Job.state.in_(states)).limit(MANY_JOBS).subquery()
    return (session.scalar(select(func.count()).select_from(some)) or 0) >= MANY_JOBS


def job(session: Session, job_id: str) -> Job | None:
    """Return one job with all that hangs on it."""
    return session.scalars(
        select(Job)
        .where(Job.id == job_id)
        .options(
            joinedload(Job.series),
            joinedload(Job.result),
            selectinload(Job.objects).selectinload(OutputObject.deliveries),
        )
    ).first()


def events(session: Session, job_id: str) -> Sequence[JobEvent]:
    """Return the history of a job, oldest first."""
    return session.scalars(select(JobEvent).where(JobEvent.job_id == job_id).order_by(JobEvent.id)).all()


def revisions(session: Session, series_id: int) -> Sequence[tuple[str, int, str]]:
    """Return (id, revision, state) of all jobs of a series, latest first."""
    rows = session.execute(
        select(Job.id, Job.revision, Job.state).where(Job.series_id == series_id).order_by(Job.revision.desc())
    )
    return [(row.id, row.revision, row.state) for row in rows]


def open_series(session: Session, *, limit: int = 50) -> Sequence[tuple[Series, int]]:
    """Return the series that still arrive, with the number of their instances, latest first."""
    count = select(func.count(Instance.id)).where(Instance.series_id == Series.id).scalar_subquery()
    rows = session.execute(
        select(Series, count)
        .where(Series.closed_at.is_(None))
        .order_by(Series.last_received_at.desc())
        .limit(limit)
    )
    return [(row[0], int(row[1])) for row in rows]


def series_page(
    session: Session, *, before: int | None = None, limit: int = 50
) -> Sequence[tuple[Series, int]]:
    """Return series with the number of their instances, latest row first, of rows before `before`."""
    count = select(func.count(Instance.id)).where(Instance.series_id == Series.id).scalar_subquery()
    query = select(Series, count).order_by(Series.id.desc()).limit(limit)
    if before is not None:
        query = query.where(Series.id < before)
    return [(row[0], int(row[1])) for row in session.execute(query)]


def alerts(session: Session, *, acknowledged: bool = False, limit: int = 100) -> Sequence[Alert]:
    """Return alerts, latest first; the acknowledged ones too where asked."""
    query = select(Alert).order_by(Alert.last_at.desc(), Alert.id.desc()).limit(limit)
    return session.scalars(query if acknowledged else query.where(Alert.acknowledged_at.is_(None))).all()


def beats(session: Session) -> Sequence[ProcessBeat]:
    """Return the processes seen within BEATS_KEPT, by kind and name."""
    return session.scalars(
        select(ProcessBeat)
        .where(ProcessBeat.seen_at > now() - BEATS_KEPT)
        .order_by(ProcessBeat.kind, ProcessBeat.name)
    ).all()


def counters(session: Session, *, recent: bool = True) -> Counters:
    """Count; the figures of the last day only where `recent`."""
    day = now() - RECENT
    return Counters(
        jobs=_counted(session.execute(select(Job.state, func.count()).group_by(Job.state))),
        deliveries=_counted(session.execute(select(Delivery.state, func.count()).group_by(Delivery.state))),
        open_series=session.scalar(select(func.count()).select_from(Series).where(Series.closed_at.is_(None)))
        or 0,
        waiting_since=session.scalar(select(func.min(Job.not_before)).where(Job.state == "waiting")),
        undelivered_since=session.scalar(
            select(func.min(Delivery.created_at)).where(Delivery.state.in_(deliveries.OPEN))
        ),
        groups=_counted(
            session.execute(
                select(Result.risk_group, func.count())
                .join(Job, Result.job_id == Job.id)
                .where(Job.created_at > day, Job.state == "scored")
                .group_by(Result.risk_group)
            )
        )
        if recent
        else {},
        recent=_counted(
            session.execute(select(Job.state, func.count()).where(Job.created_at > day).group_by(Job.state))
        )
        if recent
        else {},
    )


def _counted(rows: Iterable[Any]) -> dict[str, int]:
    return {str(row[0]): int(row[1]) for row in rows}


def instances_of_series(session: Session, series_id: int) -> int:
    """Count the instances of a series."""
    return session.scalar(select(func.count(Instance.id)).where(Instance.series_id == series_id)) or 0
