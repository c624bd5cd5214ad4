"""What an operator does to a job, by API, page or command line: the row first, then the hint."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import select

from calcium.job import JobState
from service import deliveries, jobs
from service.tables import Delivery, Job, JobEvent, OutputObject, Series

if TYPE_CHECKING:
    from service.database import Database
    from service.dispatch import Dispatcher

ENDED_WITHOUT_SCORE = frozenset(
    {JobState.FAILED, JobState.QUARANTINED, JobState.CANCELLED, JobState.NOT_ELIGIBLE}
)


def _state(database: Database, job_id: str) -> JobState:
    with database.reading() as session:
        state = session.scalar(select(Job.state).where(Job.id == job_id))
    if state is None:
        raise jobs.NoSuchJobError(f"there is no job {job_id}")
    return JobState(state)


def _hint(database: Database, dispatcher: Dispatcher, job_id: str) -> JobState:
    """Send a hint for a job that waits; should it be lost, the keeper sends another."""
    with database.reading() as session:
        row = session.execute(
            select(Job.state, Job.lane).join(Series, Series.id == Job.series_id).where(Job.id == job_id)
        ).one()
    if row.state == JobState.WAITING:
        dispatcher.score(job_id, row.lane)
    return JobState(row.state)


def rerun(database: Database, dispatcher: Dispatcher, job_id: str, actor: str) -> JobState:
    """Let a job wait again; return its state after that.

    Raises
    ------
    NoSuchJobError, NotAllowedError
        No such job, or it waits, runs, is scored or superseded.
    """
    jobs.rerun(database, job_id, actor)
    return _hint(database, dispatcher, job_id)


def cancel(database: Database, job_id: str, actor: str) -> JobState:
    """End a job that waits or runs; return its state after that.

    Raises
    ------
    NoSuchJobError, NotAllowedError
        No such job, or it has ended.
    """
    jobs.cancel(database, job_id, actor)
    return JobState.CANCELLED


def force(database: Database, dispatcher: Dispatcher, job_id: str, actor: str) -> JobState:
    """Run a job now, in the urgent lane, re-run first where it ended without a score.

    Raises
    ------
    NoSuchJobError, NotAllowedError
        No such job, or it runs, is scored or superseded.
    """
    if _state(database, job_id) in ENDED_WITHOUT_SCORE:
        jobs.rerun(database, job_id, actor, lane="urgent")
    else:
        jobs.expedite(database, job_id, actor)
    return _hint(database, dispatcher, job_id)


def deliver_again(database: Database, dispatcher: Dispatcher, job_id: str, actor: str) -> list[int]:
    """Send a job's objects again wherever no delivery is under way; return the deliveries' ids.

    Raises
    ------
    NoSuchJobError, NotAllowedError
        No such job, or none of its deliveries can be sent again.
    """
    state = _state(database, job_id)
    with database.reading() as session:
        found = session.scalars(
            select(Delivery.id).join(OutputObject).where(OutputObject.job_id == job_id).order_by(Delivery.id)
        ).all()
    again = [one for one in found if deliveries.resend(database, one)]
    if not again:
        raise jobs.NotAllowedError(f"the job has no delivery that could be sent again [{job_id}]")
    with database.transaction() as session:
        detail = f"{len(again)} deliveries"
        session.add(
            JobEvent(job_id=job_id, event="deliver_again", state=state, actor=actor[:128], detail=detail)
        )
    for delivery_id in again:
        dispatcher.deliver(delivery_id)
    return again
