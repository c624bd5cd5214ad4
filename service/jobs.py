"""What happens to a job, each step one transaction; states and transitions stand in calcium.job.

A worker works under a lease (service.leases).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from sqlalchemy import func, select, update

from calcium.errors import AgatstonError
from calcium.job import TRANSITIONS, JobState, transition
from service import alerts, deliveries, leases, reconstructions
from service.tables import Delivery, Instance, Job, JobEvent, OutputObject, Result, Series, now

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    from sqlalchemy.orm import Session

    from service.database import Database
    from service.settings import Destination

LEASE_SECONDS = 120.0
MAX_KILLS = 3  # a job that killed its worker so often is quarantined
RETRY_FIRST_SECONDS = 10.0
RETRY_CAP_SECONDS = 3600.0
MAX_ATTEMPTS = 10


class OutdoneError(AgatstonError):
    """A more suitable reconstruction of the same acquisition turned up meanwhile."""

    code = reconstructions.REASON

    def __init__(self, verdict: reconstructions.Verdict) -> None:
        super().__init__(verdict.reason)
        self.verdict = verdict


class NoSuchJobError(AgatstonError):
    """There is no job of that id."""

    code = "no_such_job"


class NotAllowedError(AgatstonError):
    """The job's state does not allow that."""

    code = "not_allowed"


@dataclass(frozen=True, slots=True)
class ClaimedJob:
    """A job under our lease, and all that its work needs.

    Parameters
    ----------
    token
        Of this claim; every later step needs it.
    address
        IP address of the sender of the latest instance; empty where we fetched it.
    keys
        Of the inbox files of its instances (service.store.Store.path).
    attempt
        1 for the first claim.
    last_reason_code
        Why the previous attempt was given up, e.g. ``resources``: then work with less memory.
    predecessors
        Kind -> SOP Instance UID of the latest object of an earlier revision that may have reached an archive.
    replaces
        Reports on less suitable reconstructions that this one's takes the place of (`choose`).
    """

    job_id: str
    token: str
    series_id: int
    study_instance_uid: str
    series_instance_uid: str
    calling_ae: str
    called_ae: str
    address: str
    revision: int
    lane: str
    attempt: int
    kills: int
    instances_sha256: str
    keys: tuple[str, ...]
    last_reason_code: str | None
    predecessors: dict[str, str]
    replaces: tuple[reconstructions.Replaced, ...] = ()


@dataclass(frozen=True, slots=True)
class NewObject:
    """A DICOM object that the worker put durably into the outbox."""

    kind: str
    sop_class_uid: str
    sop_instance_uid: str
    key: str
    size_bytes: int
    sha256: str
    predecessor_uid: str | None = None


def record(session: Session, job: Job, event: str, *, actor: str, detail: str | None = None) -> None:
    """Move a job by one event and write its history.

    Raises
    ------
    ValueError
        The job's state does not allow the event.
    """
    job.state = transition(JobState(job.state), event)
    session.add(JobEvent(job_id=job.id, event=event, state=job.state, actor=actor[:128], detail=detail))


def instances_of(session: Session, job: Job) -> Sequence[Instance]:
    """Return the instances of a job's set, in the order of their arrival."""
    found = select(Instance).where(Instance.series_id == job.series_id, Instance.id <= job.last_instance_id)
    return session.scalars(found.order_by(Instance.id)).all()


def claim(
    database: Database,
    job_id: str,
    owner: str,
    *,
    lease_seconds: float = LEASE_SECONDS,
    settle_seconds: float = 0.0,
) -> ClaimedJob | None:
    """Take a waiting job; None where it is taken, ended, not yet due, or its series is open again.

    Parameters
    ----------
    owner
        Who takes it, for people: ``worker@host:pid``.
    settle_seconds
        It waits at most so long for another series of its study that arrives (service.reconstructions.settled).
    """
    token = leases.new_token(owner)
    with database.transaction() as session:
        moment = now()
        # Compare and set: of several workers with the same hint one updates the row, the others none.
        # A series that is open again waits for its late slices: its job would be superseded at once.
        taken = session.execute(
            update(Job)
            .where(
                Job.id == job_id,
                Job.state == JobState.WAITING,
                Job.not_before <= moment,
                select(Series.id)
                .where(Series.id == Job.series_id, Series.closed_at.is_not(None))
                .where(reconstructions.settled(moment, settle_seconds))
                .exists(),
            )
            .values(
                state=transition(JobState.WAITING, "claim"),
                lease_owner=token,
                lease_until=moment + timedelta(seconds=lease_seconds),
                attempts=Job.attempts + 1,
                started_at=func.coalesce(Job.started_at, moment),
            )
            .execution_options(synchronize_session=False)
        )
        if taken.rowcount == 0:  # type: ignore[attr-defined]
            return None
        job = session.get_one(Job, job_id)
        session.add(JobEvent(job_id=job_id, event="claim", state=job.state, actor=owner[:128]))
        return ClaimedJob(
            job_id=job_id,
            token=token,
            series_id=job.series_id,
            study_instance_uid=job.series.study_instance_uid,
            series_instance_uid=job.series.series_instance_uid,
            calling_ae=job.series.calling_ae,
            called_ae=job.series.called_ae,
            address=job.series.address or "",
            revision=job.revision,
            lane=job.lane,
            attempt=job.attempts,
            kills=job.kills,
            instances_sha256=job.instances_sha256,
            keys=tuple(instance.key for instance in instances_of(session, job)),
            last_reason_code=job.reason_code,
            predecessors=_predecessors(session, job),
        )


def _predecessors(session: Session, job: Job) -> dict[str, str]:
    earlier = (
        select(OutputObject.kind, OutputObject.sop_instance_uid)
        .join(Job, Job.id == OutputObject.job_id)
        .join(Delivery, Delivery.object_id == OutputObject.id)
        .where(Job.series_id == job.series_id, Job.revision < job.revision, Delivery.attempts > 0)
        .order_by(Job.revision)
    )
    return {kind: uid for kind, uid in session.execute(earlier)}  # noqa: C416 (rows are no pairs for mypy)


def claim_next(
    database: Database,
    owner: str,
    *,
    lanes: Iterable[str] = ("urgent", "normal"),
    lease_seconds: float = LEASE_SECONDS,
    settle_seconds: float = 0.0,
) -> ClaimedJob | None:
    """Take the oldest job that is due, lane by lane; None where nothing waits."""
    for lane in lanes:
        for job_id in waiting(database, lane=lane, limit=8):
            claimed = claim(database, job_id, owner, lease_seconds=lease_seconds, settle_seconds=settle_seconds)
            if claimed is not None:
                return claimed
    return None


def waiting(database: Database, *, lane: str, limit: int = 100) -> Sequence[str]:
    """Return ids of jobs of a lane that are due, oldest first."""
    with database.reading() as session:
        found = (
            select(Job.id)
            .join(Series, Series.id == Job.series_id)
            .where(Job.state == JobState.WAITING, Job.lane == lane, Job.not_before <= now())
            .where(Series.closed_at.is_not(None))
        )
        return session.scalars(found.order_by(Job.created_at).limit(limit)).all()


def _ours(session: Session, claimed: ClaimedJob) -> Job:
    return leases.held(
        session, Job, claimed.job_id, claimed.token, state=JobState.RUNNING, uid=claimed.series_instance_uid
    )


def heartbeat(database: Database, claimed: ClaimedJob, *, lease_seconds: float = LEASE_SECONDS) -> None:
    """Prolong the lease.

    Raises
    ------
    LeaseLostError
        The job is no longer ours: stop working on it.
    """
    with database.transaction() as session:
        _ours(session, claimed).lease_until = leases.until(lease_seconds)


def hand_back(database: Database, claimed: ClaimedJob) -> None:
    """Give a job back at a graceful stop: at once due again, and the attempt does not count.

    Raises
    ------
    LeaseLostError
        The job is no longer ours.
    """
    with database.transaction() as session:
        job = _ours(session, claimed)
        record(session, job, "hand_back", actor=claimed.token)
        job.attempts -= 1
        job.not_before = now()
        leases.release(job)


def retry_later(
    database: Database,
    claimed: ClaimedJob,
    code: str,
    reason: str,
    *,
    first_seconds: float = RETRY_FIRST_SECONDS,
    cap_seconds: float = RETRY_CAP_SECONDS,
    max_attempts: int = MAX_ATTEMPTS,
) -> JobState:
    """Give a job up for now after a transient error; after `max_attempts` it has failed. Return its new state.

    Parameters
    ----------
    code, reason
        Stable code and words without patient data (AgatstonError.code and its text).

    Raises
    ------
    LeaseLostError
        The job is no longer ours.
    """
    with database.transaction() as session:
        job = _ours(session, claimed)
        job.reason_code, job.reason = code[:64], reason
        if job.attempts >= max_attempts:
            _end(session, job, "fail", actor=claimed.token, detail=f"after {job.attempts} attempts: {reason}")
            alerts.raise_alert(
                session, "job_failed", job.id, f"gave up after {job.attempts} attempts: {reason}"
            )
        else:
            record(session, job, "retry", actor=claimed.token, detail=reason)
            job.not_before = now() + leases.retry_delay(job.attempts, first_seconds, cap_seconds)
            leases.release(job)
        return JobState(job.state)


def _end(session: Session, job: Job, event: str, *, actor: str, detail: str | None = None) -> None:
    record(session, job, event, actor=actor, detail=detail)
    job.ended_at = now()
    leases.release(job)


def choose(database: Database, claimed: ClaimedJob) -> reconstructions.Verdict:
    """Tell whether a claimed job is of the reconstruction to score.

    Where it is, reports on less suitable ones that have not left yet are held back.

    Raises
    ------
    LeaseLostError
        The job is no longer ours.
    """
    with database.transaction() as session:
        reconstructions.lock(session, claimed.study_instance_uid)
        job = _ours(session, claimed)
        verdict = reconstructions.decide(session, job)
        if verdict.chosen is None:
            reconstructions.hold_back(session, reconstructions.beaten(session, job))
        return verdict


def finish_scored(
    database: Database,
    claimed: ClaimedJob,
    result: Result,
    objects: Sequence[NewObject],
    destinations: Sequence[Destination],
    *,
    seconds: Mapping[str, float] | None = None,
) -> list[int]:
    """Record a result, its objects and their deliveries in one transaction; return the ids of the deliveries.

    Parameters
    ----------
    result
        A new row without `job_id`.
    objects
        Already durable in the outbox.
    destinations
        Those that take the result (service.routing.takers); each gets the kinds that it takes.

    Raises
    ------
    LeaseLostError
        The job is no longer ours: nothing was recorded, and the objects' files are to be removed.
    OutdoneError
        A more suitable reconstruction turned up meanwhile: nothing was recorded, the job is still ours.
    """
    with database.transaction() as session:
        reconstructions.lock(session, claimed.study_instance_uid)
        job = _ours(session, claimed)
        verdict = reconstructions.decide(session, job)
        if verdict.chosen is not None:
            raise OutdoneError(verdict)
        for other in reconstructions.beaten(session, job):
            other.reason_code, other.chosen_series_uid = reconstructions.REASON, claimed.series_instance_uid
            other.reason = (
                f"a more suitable series of the acquisition is scored [{claimed.series_instance_uid}]"
            )
            supersede(session, other, actor=claimed.token, detail=other.reason)
        result.job_id = job.id
        session.add(result)
        return _finish(
            session, job, "score", claimed, objects=objects, destinations=destinations, seconds=seconds
        )


def finish_not_eligible(
    database: Database,
    claimed: ClaimedJob,
    code: str,
    reason: str,
    *,
    objects: Sequence[NewObject] = (),
    destinations: Sequence[Destination] = (),
    seconds: Mapping[str, float] | None = None,
) -> list[int]:
    """Record that the series gets no score, and why; objects: a report that says so, where a site wants one.

    Raises
    ------
    LeaseLostError
        The job is no longer ours.
    """
    with database.transaction() as session:
        return _finish(
            session, _ours(session, claimed), "refuse", claimed, why=(code, reason),
            objects=objects, destinations=destinations, seconds=seconds,
        )  # fmt: skip


def finish_outdone(
    database: Database,
    claimed: ClaimedJob,
    verdict: reconstructions.Verdict,
    *,
    seconds: Mapping[str, float] | None = None,
) -> None:
    """Record that another reconstruction of the acquisition gets the score, and which.

    Raises
    ------
    LeaseLostError
        The job is no longer ours.
    """
    with database.transaction() as session:
        job = _ours(session, claimed)
        job.chosen_series_uid = verdict.chosen
        _finish(session, job, "refuse", claimed, why=(reconstructions.REASON, verdict.reason), seconds=seconds)


def finish_failed(
    database: Database,
    claimed: ClaimedJob,
    code: str,
    reason: str,
    *,
    seconds: Mapping[str, float] | None = None,
) -> None:
    """Record a fault that no retry cures.

    Raises
    ------
    LeaseLostError
        The job is no longer ours.
    """
    with database.transaction() as session:
        _finish(session, _ours(session, claimed), "fail", claimed, why=(code, reason), seconds=seconds)
        alerts.raise_alert(session, "job_failed", claimed.job_id, f"{code}: {reason}")


def _finish(
    session: Session,
    job: Job,
    event: str,
    claimed: ClaimedJob,
    *,
    why: tuple[str | None, str | None] = (None, None),
    objects: Sequence[NewObject] = (),
    destinations: Sequence[Destination] = (),
    seconds: Mapping[str, float] | None,
) -> list[int]:
    code, job.reason = why
    job.reason_code = None if code is None else code[:64]
    job.seconds = dict(seconds or {})
    _end(session, job, event, actor=claimed.token)
    rows = [
        OutputObject(
            job_id=job.id,
            kind=new.kind,
            sop_class_uid=new.sop_class_uid,
            sop_instance_uid=new.sop_instance_uid,
            predecessor_uid=new.predecessor_uid,
            key=new.key,
            size_bytes=new.size_bytes,
            sha256=new.sha256,
        )
        for new in objects
    ]
    session.add_all(rows)
    session.flush()
    return deliveries.plan(session, rows, destinations)


def supersede(session: Session, job: Job, *, actor: str, detail: str) -> None:
    """End a job in favour of another one. What has not left stays here; what has left gets a successor."""
    record(session, job, "supersede", actor=actor, detail=detail)
    job.ended_at = job.ended_at or now()
    leases.release(job)
    for kind in ("job_failed", "job_quarantined"):  # nobody need look at a part whose rest has come
        alerts.clear_alert(session, kind, job.id)
    objects = select(OutputObject.id).where(OutputObject.job_id == job.id)
    session.execute(
        update(Delivery)
        .where(Delivery.object_id.in_(objects), Delivery.state == deliveries.PENDING)
        .values(state=deliveries.CANCELLED)
        .execution_options(synchronize_session=False)
    )


# What the keeper does.


def take_back_expired(database: Database, *, max_kills: int = MAX_KILLS) -> list[str]:
    """Take back jobs of dead workers, whose lease ran out; return the ids of those that wait again."""
    again = []
    with database.transaction() as session:
        for job in leases.expired(session, Job, state=JobState.RUNNING):
            dead = job.lease_owner
            job.kills += 1
            if job.kills >= max_kills:
                job.reason_code = "quarantined"
                job.reason = f"the worker died {job.kills} times while working on it; re-run it by hand"
                _end(session, job, "quarantine", actor="keeper", detail=f"{dead} died")
                alerts.raise_alert(session, "job_quarantined", job.id, job.reason)
            else:
                record(session, job, "lease_lost", actor="keeper", detail=f"{dead} died")
                job.not_before = now()
                leases.release(job)
                again.append(job.id)
    return again


def take_for_dispatch(
    database: Database,
    *,
    older_than: datetime | None,
    limit: int = 200,
    again: int = leases.HINTS_AGAIN,
    settle_seconds: float = 0.0,
) -> list[tuple[str, str]]:
    """Return (job id, lane) of due jobs without a fresh hint, and mark them as hinted now.

    Parameters
    ----------
    older_than, limit, again
        As service.leases.take_for_hints.
    settle_seconds
        As `claim`.
    """
    with database.transaction() as session:
        moment = now()
        due = (
            select(Job)
            .join(Series, Series.id == Job.series_id)
            .where(Job.state == JobState.WAITING, Job.not_before <= moment, Series.closed_at.is_not(None))
            .where(reconstructions.settled(moment, settle_seconds))
            .order_by(Job.created_at)
            .with_for_update(skip_locked=True, of=Job)
        )
        taken = leases.take_for_hints(session, Job, due, older_than=older_than, limit=limit, again=again)
        return [(job.id, job.lane) for job in taken]


# What an operator does.


def _existing(session: Session, job_id: str) -> Job:
    job = session.get(Job, job_id, with_for_update=True)
    if job is None:
        raise NoSuchJobError(f"there is no job {job_id}")
    return job


def _operate(session: Session, job: Job, event: str, actor: str) -> None:
    if JobState(job.state) not in TRANSITIONS[event]:
        raise NotAllowedError(f"a job that is {job.state} cannot be {event} [{job.id}]")
    record(session, job, event, actor=actor)


def rerun(database: Database, job_id: str, actor: str, *, lane: str | None = None) -> None:
    """Let a job wait again, with fresh counts of attempts and kills.

    Raises
    ------
    NoSuchJobError, NotAllowedError
        No such job, or it is waiting, running, scored or superseded.
    """
    with database.transaction() as session:
        job = _existing(session, job_id)
        # Whoever asks again for a reconstruction that was passed over means this one.
        job.forced = job.forced or job.reason_code == reconstructions.REASON or lane == "urgent"
        _operate(session, job, "rerun", actor)
        wait_again(job)
        job.lane = lane or job.lane


def wait_again(job: Job) -> None:
    """Clear what an earlier try left in the row of a job that waits once more."""
    job.attempts = job.kills = 0
    job.not_before = now()
    job.reason_code = job.reason = job.ended_at = job.dispatched_at = job.chosen_series_uid = None


def cancel(database: Database, job_id: str, actor: str) -> None:
    """End a job that waits or runs; its worker finds its lease lost.

    Raises
    ------
    NoSuchJobError, NotAllowedError
        No such job, or it has ended.
    """
    with database.transaction() as session:
        job = _existing(session, job_id)
        _operate(session, job, "cancel", actor)
        job.ended_at = now()
        leases.release(job)


def expedite(database: Database, job_id: str, actor: str) -> None:
    """Let a waiting job run now and in the urgent lane.

    Raises
    ------
    NoSuchJobError, NotAllowedError
        No such job, or it does not wait.
    """
    with database.transaction() as session:
        job = _existing(session, job_id)
        if job.state != JobState.WAITING:
            raise NotAllowedError(f"a job that is {job.state} cannot be expedited [{job.id}]")
        job.lane, job.not_before, job.dispatched_at, job.forced = "urgent", now(), None, True
        session.add(JobEvent(job_id=job.id, event="expedite", state=job.state, actor=actor[:128]))
