"""What the API says, as types: the OpenAPI document is made of them."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from calcium.job import JobState
from service.tables import Alert, Delivery, Job, JobEvent, OutputObject, ProcessBeat, Series

Uid = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[0-9.]+$")]  # PS3.5 section 9.1

_CLAIM_TOKEN = re.compile(r":[0-9a-f]{32}\Z")


def _in_utc(moment: datetime) -> datetime:
    """Take a moment without a zone as UTC; refuse those that no other zone can express."""
    if not 1900 <= moment.year < 9999:
        raise ValueError("a moment lies between 1900 and 9998")
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


Moment = Annotated[datetime, AfterValidator(_in_utc)]


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True)


class CheckOut(_Answer):
    """One check of readiness."""

    name: str
    ok: bool
    text: str


class ReadyOut(_Answer):
    """Whether the node can do its work; the checks are shown to callers with a role only."""

    ready: bool
    checks: list[CheckOut] | None = None


class DeliveryOut(_Answer):
    """One object on its way to one destination."""

    id: int
    destination: str
    state: str
    attempts: int
    not_before: datetime
    last_error: str | None
    stored_at: datetime | None
    delivered_at: datetime | None

    @classmethod
    def of(cls, row: Delivery) -> DeliveryOut:
        """Read a row."""
        return cls(
            id=row.id,
            destination=row.destination,
            state=row.state,
            attempts=row.attempts,
            not_before=row.not_before,
            last_error=row.last_error,
            stored_at=row.stored_at,
            delivered_at=row.delivered_at,
        )


class ObjectOut(_Answer):
    """A DICOM object that we wrote."""

    kind: str
    sop_class_uid: str
    sop_instance_uid: str
    predecessor_uid: str | None
    size_bytes: int
    sha256: str
    created_at: datetime
    deliveries: list[DeliveryOut]

    @classmethod
    def of(cls, row: OutputObject) -> ObjectOut:
        """Read a row."""
        return cls(
            kind=row.kind,
            sop_class_uid=row.sop_class_uid,
            sop_instance_uid=row.sop_instance_uid,
            predecessor_uid=row.predecessor_uid,
            size_bytes=row.size_bytes,
            sha256=row.sha256,
            created_at=row.created_at,
            deliveries=[DeliveryOut.of(one) for one in row.deliveries],
        )


class EventOut(_Answer):
    """One step of a job's history."""

    event: str
    state: str
    actor: str
    at: datetime
    detail: str | None

    @classmethod
    def of(cls, row: JobEvent) -> EventOut:
        """Read a row; of a worker's claim token (``worker@host:pid:token``) the owner is shown."""
        actor = _CLAIM_TOKEN.sub("", row.actor)
        return cls(event=row.event, state=row.state, actor=actor, at=row.at, detail=row.detail)


class ResultOut(_Answer):
    """What `agatston score --json` prints for a series, from the job's rows.

    A job without a score has no number here: `agatston` is null and `reason` says why.
    """

    job_id: str
    study_instance_uid: str
    series_instance_uid: str
    status: str
    reason_code: str | None
    reason: str | None
    agatston: float | None = None
    agatston_low: float | None = None
    agatston_high: float | None = None
    volume_mm3: float | None = None
    risk_group: str | None = None
    group_probabilities: list[float] | None = None
    heart_box_mm: list[list[float]] | None = None
    slice_scores: list[dict[str, float]] = []
    warnings: list[dict[str, str]] = []
    seconds: dict[str, float] = {}
    weights: dict[str, Any] | None = None

    @classmethod
    def of(cls, job: Job) -> ResultOut:
        """Read a job with its series and result."""
        head = {
            "job_id": job.id,
            "study_instance_uid": job.series.study_instance_uid,
            "series_instance_uid": job.series.series_instance_uid,
            "status": job.state,
            "reason_code": job.reason_code,
            "reason": job.reason,
            "seconds": job.seconds,
        }
        result = job.result
        if result is None:
            return cls(**head)
        return cls(
            **head,
            agatston=result.agatston,
            agatston_low=result.agatston_low,
            agatston_high=result.agatston_high,
            volume_mm3=result.volume_mm3,
            risk_group=result.risk_group,
            group_probabilities=result.group_probabilities,
            heart_box_mm=result.heart_box_mm,
            slice_scores=result.slice_scores,
            warnings=result.warnings,
            weights=result.weights,
        )


class RevisionOut(_Answer):
    """Another job of the same series."""

    id: str
    revision: int
    state: str


class JobOut(_Answer):
    """A job in a list."""

    id: str
    study_instance_uid: str
    series_instance_uid: str
    calling_ae: str
    revision: int
    state: str
    lane: str
    reason_code: str | None
    reason: str | None
    chosen_series_instance_uid: str | None  # of the reconstruction that is scored in its place
    attempts: int
    kills: int
    created_at: datetime
    not_before: datetime
    started_at: datetime | None
    ended_at: datetime | None
    agatston: float | None
    risk_group: str | None
    deliveries: dict[str, int]  # state: how many

    @classmethod
    def of(cls, job: Job) -> JobOut:
        """Read a job with its series, result, objects and deliveries."""
        return cls(**_job_fields(job))


class JobDetailOut(JobOut):
    """A job with all that hangs on it."""

    called_ae: str
    instances: int
    result: ResultOut | None
    objects: list[ObjectOut]
    events: list[EventOut]
    revisions: list[RevisionOut]

    @classmethod
    def whole(
        cls, job: Job, instances: int, events: list[JobEvent], revisions: list[tuple[str, int, str]]
    ) -> JobDetailOut:
        """Read a job, the number of its series' instances, its history, and all jobs of its series."""
        return cls(
            **_job_fields(job),
            called_ae=job.series.called_ae,
            instances=instances,
            result=ResultOut.of(job) if job.result is not None else None,
            objects=[ObjectOut.of(one) for one in job.objects],
            events=[EventOut.of(one) for one in events],
            revisions=[
                RevisionOut(id=id_, revision=revision, state=state) for id_, revision, state in revisions
            ],
        )


def _job_fields(job: Job) -> dict[str, Any]:
    counted: dict[str, int] = {}
    for written in job.objects:
        for one in written.deliveries:
            counted[one.state] = counted.get(one.state, 0) + 1
    return {
        "id": job.id,
        "study_instance_uid": job.series.study_instance_uid,
        "series_instance_uid": job.series.series_instance_uid,
        "calling_ae": job.series.calling_ae,
        "revision": job.revision,
        "state": job.state,
        "lane": job.lane,
        "reason_code": job.reason_code,
        "reason": job.reason,
        "chosen_series_instance_uid": job.chosen_series_uid,
        "attempts": job.attempts,
        "kills": job.kills,
        "created_at": job.created_at,
        "not_before": job.not_before,
        "started_at": job.started_at,
        "ended_at": job.ended_at,
        "agatston": job.result.agatston if job.result is not None else None,
        "risk_group": job.result.risk_group if job.result is not None else None,
        "deliveries": counted,
    }


class JobPageOut(_Answer):
    """Some jobs, newest first; `next` is the `cursor` of the following page."""

    jobs: list[JobOut]
    next: str | None


class JobSearchIn(BaseModel):
    """Which jobs; UIDs travel in the body only, for addresses stand in logs."""

    model_config = ConfigDict(extra="forbid")

    series_instance_uid: Uid | None = None
    study_instance_uid: Uid | None = None
    state: list[JobState] = Field(default=[], max_length=len(JobState))
    lane: Literal["normal", "urgent"] | None = None
    since: Moment | None = None
    until: Moment | None = None
    limit: int = Field(default=50, ge=1, le=200)
    cursor: str | None = Field(default=None, max_length=200)


class SeriesOut(_Answer):
    """A series that arrives or arrived."""

    id: int
    study_instance_uid: str
    series_instance_uid: str
    calling_ae: str
    called_ae: str
    address: str | None
    instances: int
    expected_instances: int | None
    first_received_at: datetime
    last_received_at: datetime
    closed_at: datetime | None
    closed_by: str | None

    @classmethod
    def of(cls, row: Series, instances: int) -> SeriesOut:
        """Read a row and the number of its instances."""
        return cls(
            id=row.id,
            study_instance_uid=row.study_instance_uid,
            series_instance_uid=row.series_instance_uid,
            calling_ae=row.calling_ae,
            called_ae=row.called_ae,
            address=row.address,
            instances=instances,
            expected_instances=row.expected_instances,
            first_received_at=row.first_received_at,
            last_received_at=row.last_received_at,
            closed_at=row.closed_at,
            closed_by=row.closed_by,
        )


class SeriesPageOut(_Answer):
    """Some series, latest first; `next` is the `before` of the following page."""

    series: list[SeriesOut]
    next: int | None


class AlertOut(_Answer):
    """Something that a person must look at."""

    id: int
    kind: str
    subject: str
    text: str
    count: int
    created_at: datetime
    last_at: datetime
    acknowledged_at: datetime | None

    @classmethod
    def of(cls, row: Alert) -> AlertOut:
        """Read a row."""
        return cls(
            id=row.id,
            kind=row.kind,
            subject=row.subject,
            text=row.text,
            count=row.count,
            created_at=row.created_at,
            last_at=row.last_at,
            acknowledged_at=row.acknowledged_at,
        )


class ProcessOut(_Answer):
    """A process of the node."""

    name: str
    kind: str
    started_at: datetime
    seen_at: datetime
    detail: dict[str, Any]

    @classmethod
    def of(cls, row: ProcessBeat) -> ProcessOut:
        """Read a row."""
        return cls(
            name=row.name, kind=row.kind, started_at=row.started_at, seen_at=row.seen_at, detail=row.detail
        )


class StatusOut(_Answer):
    """The node at a glance."""

    version: str
    ae_title: str
    dicom_port: int
    ready: bool
    checks: list[CheckOut]
    jobs: dict[str, int]
    jobs_last_day: dict[str, int]
    groups_last_day: dict[str, int]
    deliveries: dict[str, int]
    open_series: int
    waiting_seconds: float | None
    undelivered_seconds: float | None
    disk_free_bytes: int
    alerts: int
    processes: list[ProcessOut]


class ErrorOut(_Answer):
    """Why a request was refused."""

    code: str
    detail: str


class DoneOut(_Answer):
    """An action was done; the state after it."""

    id: str
    state: str


class ResentOut(_Answer):
    """Deliveries that will be sent again."""

    deliveries: list[int]
