"""Which of several reconstructions of one acquisition gets the score (docs/decisions/0044).

Whatever the order in which they come: in the end the most suitable one that can be scored has the score, and
the others say which one that is. `calcium.reconstructions` ranks; here are the rows.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from sqlalchemy import ColumnElement, Select, and_, false, func, or_, select, update
from sqlalchemy.orm import aliased

from calcium.frames import CT_SOP_CLASSES
from calcium.job import JobState
from calcium.reconstructions import Reconstruction, acquisitions, choose
from service.tables import Delivery, Instance, Job, OutputObject, Series, now

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from sqlalchemy.orm import Session

    from service.database import Database

REASON = "other_reconstruction"  # code of a job whose acquisition gets its score from another series
MORE_SUITABLE = "the acquisition is scored from a more suitable series"
REPORT_KINDS = ("sr3d", "sr")
HOLD_SECONDS = 600.0  # reports wait so long for the more suitable reconstruction that is being scored
ALIVE = (JobState.WAITING, JobState.RUNNING, JobState.SCORED)
OUTDONE = (JobState.NOT_ELIGIBLE, JobState.SUPERSEDED)


@dataclass(frozen=True, slots=True)
class Undescribed:
    """A series of the same study that nobody has looked at yet, and the inbox keys of its slices."""

    job_id: str
    keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Replaced:
    """A report on a less suitable reconstruction that may have reached an archive."""

    series_instance_uid: str
    kind: str
    sop_instance_uid: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is to be done with a series.

    Parameters
    ----------
    chosen
        UID of the series that is scored in its place; None: this one is scored.
    reason
        The same in words.
    replaces
        The reports that its own takes the place of.
    """

    chosen: str | None = None
    reason: str = ""
    replaces: tuple[Replaced, ...] = ()


def settled(moment: datetime, seconds: float) -> ColumnElement[bool]:
    """Return the condition, on Job and Series, that no other CT series of the study arrives just now.

    A job waits for such a series at most `seconds`, so that the first of two reconstructions is not scored and
    reported a moment before the better one comes. Where nothing else arrives nothing waits.
    """
    if seconds <= 0:
        return ~false()
    other = aliased(Series)
    arrives = (
        select(other.id)
        .where(
            other.study_instance_uid == Series.study_instance_uid,
            other.id != Series.id,
            other.closed_at.is_(None),
            select(Instance.id)
            .where(Instance.series_id == other.id, Instance.sop_class_uid.in_(CT_SOP_CLASSES))
            .exists(),
        )
        .exists()
    )
    return or_(Job.forced, Job.created_at <= moment - timedelta(seconds=seconds), ~arrives)


def has_siblings(session: Session, job: Job) -> bool:
    """Tell whether the study has another series with a job: only then there is anything to choose."""
    other = select(Job.id).join(Series, Series.id == Job.series_id)
    found = other.where(
        Series.study_instance_uid == job.series.study_instance_uid, Series.id != job.series_id
    ).limit(1)
    return session.scalar(found) is not None


def undescribed(session: Session, study_instance_uid: str, *, first: str) -> list[Undescribed]:
    """Return the series of a study that could get a score and are not described yet.

    Parameters
    ----------
    first
        Id of a job that is described again, for its set of slices may be a new one; it comes first.
    """
    jobs = session.scalars(
        _latest()
        .where(Series.study_instance_uid == study_instance_uid)
        .where(or_(Job.id == first, and_(Job.suitability.is_(None), Job.state.in_(ALIVE))))
    ).all()
    return [
        Undescribed(job.id, keys)
        for job in sorted(jobs, key=lambda job: job.id != first)
        if (keys := _keys(session, job))
    ]


def _keys(session: Session, job: Job) -> tuple[str, ...]:
    """Return the keys of a job's slices; none where retention has removed some."""
    rows = session.execute(
        select(Instance.key, Instance.removed_at)
        .where(Instance.series_id == job.series_id, Instance.id <= job.last_instance_id)
        .order_by(Instance.id)
    ).all()
    return () if any(row.removed_at is not None for row in rows) else tuple(row.key for row in rows)


def describe(database: Database, found: Iterable[tuple[str, Reconstruction]]) -> None:
    """Remember of which acquisition jobs' series are, and how suitable; no time of day with a date."""
    with database.transaction() as session:
        for job_id, one in found:
            suitability = {
                "refusal": one.refusal,
                "reformatted": one.reformatted,
                "sharp": one.sharp,
                # JSON has no infinity.
                "thickness_mm": one.thickness_mm if one.thickness_mm < float("inf") else None,
                "slices": one.slices,
                "window": list(one.window) if one.window else None,
            }
            digest = hashlib.sha256("\n".join(one.acquisition).encode()).hexdigest()
            session.execute(
                update(Job).where(Job.id == job_id).values(acquisition=digest, suitability=suitability)
            )


def lock(session: Session, study_instance_uid: str) -> None:
    """Let decisions about one study follow each other; taken before any lock on a job."""
    session.execute(
        select(Series.id)
        .where(Series.study_instance_uid == study_instance_uid)
        .order_by(Series.id)
        .with_for_update()
    ).all()


def decide(session: Session, job: Job) -> Verdict:
    """Tell whether a job's series is the one to score; the study is locked (`lock`)."""
    if job.forced or job.acquisition is None:
        return Verdict()
    winner = _winner(_same_acquisition(session, job))
    if winner is None or winner.id == job.id:
        return Verdict(replaces=_reports(session, beaten(session, job)))
    chosen = winner.series.series_instance_uid
    return Verdict(chosen, f"{MORE_SUITABLE}: {_words(winner)} [{chosen}]")


def beaten(session: Session, job: Job) -> list[Job]:
    """Return the scored jobs of less suitable reconstructions, once `decide` has chosen this one."""
    if job.forced or job.acquisition is None:
        return []
    same = _same_acquisition(session, job)
    return [one for one in same if one.state == JobState.SCORED and one.id != job.id]


def hold_back(session: Session, less_suitable: Sequence[Job]) -> None:
    """Let reports that have not left wait for the more suitable reconstruction that is being scored.

    When it is scored they are cancelled; should it fail they leave after a while.
    """
    held = now() + timedelta(seconds=HOLD_SECONDS)
    session.execute(
        update(Delivery)
        .where(Delivery.object_id.in_(_objects(less_suitable)))
        .where(Delivery.state == "pending", Delivery.attempts == 0, Delivery.not_before < held)
        .values(not_before=held)
        .execution_options(synchronize_session=False)
    )


def unserved(session: Session, job: Job) -> Job | None:
    """Return the outdone job that has to take over where a more suitable one got no score; the study is locked.

    None where nobody has to: the best that can be scored is scored, or will be.
    """
    winner = _winner(_same_acquisition(session, job))
    if winner is None or not is_outdone(winner):
        return None
    return winner if _keys(session, winner) else None


def ended_without_score(session: Session, since: datetime) -> Sequence[Job]:
    """Return jobs of described series that ended since then and left their acquisition to another one."""
    ended = (JobState.FAILED, JobState.QUARANTINED, JobState.CANCELLED, JobState.NOT_ELIGIBLE)
    found = select(Job).where(Job.ended_at >= since, Job.state.in_(ended), Job.acquisition.is_not(None))
    return session.scalars(found).all()


def _latest() -> Select[Job]:
    later = aliased(Job)
    newest = select(func.max(later.revision)).where(later.series_id == Job.series_id).scalar_subquery()
    return select(Job).join(Series, Series.id == Job.series_id).where(Job.revision == newest).order_by(Job.id)


def _same_acquisition(session: Session, job: Job) -> list[Job]:
    """Return the latest jobs of the series of one acquisition, this one's included; forced ones stand aside."""
    study = job.series.study_instance_uid
    found = session.scalars(
        _latest().where(Series.study_instance_uid == study, Job.acquisition == job.acquisition)
    )
    by_series = {one.series.series_instance_uid: one for one in found if not one.forced or one.id == job.id}
    by_series[job.series.series_instance_uid] = job
    for same in acquisitions(map(_candidate, by_series.values())):
        uids = [one.series_instance_uid for one in same]
        if job.series.series_instance_uid in uids:
            return [by_series[uid] for uid in uids]
    raise AssertionError("a job is among those of its own acquisition")


def _winner(same: Sequence[Job]) -> Job | None:
    """Return the best of one acquisition; None where none is eligible."""
    by_series = {one.series.series_instance_uid: one for one in same}
    (chosen,) = set(choose([_candidate(one) for one in same]).values())
    return None if chosen is None else by_series[chosen]


def is_outdone(job: Job) -> bool:
    """Tell whether a job left the score of its acquisition to another series."""
    return job.state in OUTDONE and job.reason_code == REASON


def _candidate(job: Job) -> Reconstruction:
    known = job.suitability or {}
    refusal = known.get("refusal")
    if job.state not in ALIVE and not is_outdone(job):
        refusal = job.reason_code or job.state
    thickness = known.get("thickness_mm")
    window = known.get("window")
    return Reconstruction(
        series_instance_uid=job.series.series_instance_uid,
        acquisition=(job.acquisition or job.id,),
        refusal=refusal,
        reformatted=bool(known.get("reformatted")),
        sharp=bool(known.get("sharp")),
        thickness_mm=float("inf") if thickness is None else float(thickness),
        slices=int(known.get("slices") or 0),
        window=(float(window[0]), float(window[1])) if window else None,
    )


def _words(job: Job) -> str:
    known = job.suitability or {}
    thickness = known.get("thickness_mm")
    return ", ".join(
        (
            "axial reformats" if known.get("reformatted") else "original slices",
            "sharp kernel" if known.get("sharp") else "soft kernel",
            f"{thickness:g} mm" if thickness is not None else "thickness unknown",
        )
    )


def _objects(of: Sequence[Job]) -> Select[int]:
    return select(OutputObject.id).where(OutputObject.job_id.in_([job.id for job in of]))


def _reports(session: Session, outdone: Sequence[Job]) -> tuple[Replaced, ...]:
    """Return the reports of jobs that may have reached an archive."""
    rows = session.execute(
        select(Series.series_instance_uid, OutputObject.kind, OutputObject.sop_instance_uid)
        .join(Job, Job.series_id == Series.id)
        .join(OutputObject, OutputObject.job_id == Job.id)
        .where(OutputObject.id.in_(_objects(outdone)), OutputObject.kind.in_(REPORT_KINDS))
        .where(select(Delivery.id).where(Delivery.object_id == OutputObject.id, Delivery.attempts > 0).exists())
        .order_by(OutputObject.id)
    ).all()
    return tuple(Replaced(row.series_instance_uid, row.kind, row.sop_instance_uid) for row in rows)
