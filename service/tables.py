"""What the node remembers: the rows are the truth about a job; the broker is only a hint.

No patient's name, identifier or date stands in a row: those stay in the inbox's files and in the reports.
No row holds a path of one machine: `key` columns are relative to the store (``AGATSTON_HOME`` or a shared
volume).
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Text,
    TypeDecorator,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

UID = String(64)  # PS3.5 section 9.1
AE = String(16)  # PS3.5 section 6.2, VR AE
SHA256 = String(64)  # hexadecimal

OPEN_SWEEP = "kind = 'sweep' AND state IN ('asked', 'running')"
RowId = BigInteger().with_variant(Integer, "sqlite")  # SQLite numbers rows only in INTEGER columns


class UtcDateTime(TypeDecorator[datetime]):
    """A moment, stored and returned in UTC; a naive datetime is refused."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """Convert to UTC before storing."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a naive datetime cannot be stored; use datetime.now(UTC)")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """Attach UTC to what SQLite returns naive."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def now() -> datetime:
    """Return the current moment in UTC."""
    return datetime.now(UTC)


class Base(DeclarativeBase):
    """Base of all tables; constraints have stable names so that migrations can alter them."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(column_0_label)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


class Series(Base):
    """A series that is or was arriving. One row for each (study, series) pair of UIDs."""

    __tablename__ = "series"
    __table_args__ = (
        UniqueConstraint("study_instance_uid", "series_instance_uid"),
        Index("ix_series_open", "closed_at", "last_received_at"),
    )

    id: Mapped[int] = mapped_column(RowId, primary_key=True)
    study_instance_uid: Mapped[str] = mapped_column(UID)
    series_instance_uid: Mapped[str] = mapped_column(UID, index=True)
    calling_ae: Mapped[str] = mapped_column(AE)  # who sent the latest instance
    called_ae: Mapped[str] = mapped_column(AE)
    # IP address of that sender; None where we fetched the series.
    address: Mapped[str | None] = mapped_column(String(45))  # RFC 4291 section 2.2, the longest form
    first_received_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now)
    last_received_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now)
    # What the sending archive's C-FIND says since the last instance came, where it is asked; and how often it
    # did not answer.
    expected_instances: Mapped[int | None] = mapped_column(Integer)
    query_failures: Mapped[int] = mapped_column(Integer, default=0)
    # When the current set of instances was declared complete; None while instances arrive.
    closed_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    closed_by: Mapped[str | None] = mapped_column(String(32))  # idle, release, count, forced, max_wait
    # When the last sender released its association in order; None again with each new instance.
    released_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    # When the first instance came since it was last closed.
    opened_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now)

    instances: Mapped[list[Instance]] = relationship(back_populates="series", passive_deletes=True)
    jobs: Mapped[list[Job]] = relationship(back_populates="series", order_by="Job.revision")


class Instance(Base):
    """One SOP instance that lies durably in the inbox."""

    __tablename__ = "instances"
    __table_args__ = (UniqueConstraint("series_id", "sop_instance_uid"),)

    id: Mapped[int] = mapped_column(RowId, primary_key=True)
    series_id: Mapped[int] = mapped_column(ForeignKey("series.id", ondelete="CASCADE"))
    sop_instance_uid: Mapped[str] = mapped_column(UID, index=True)
    sop_class_uid: Mapped[str] = mapped_column(UID)
    transfer_syntax_uid: Mapped[str] = mapped_column(UID)
    key: Mapped[str] = mapped_column(String(255), unique=True)  # of the DICOM file in the inbox
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(SHA256)  # of the encoded data set as received, without file meta
    received_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now)
    # When retention removed its file. The row stays, so that a late slice is not taken for a whole series.
    removed_at: Mapped[datetime | None] = mapped_column(UtcDateTime)

    series: Mapped[Series] = relationship(back_populates="instances")


class Job(Base):
    """The work on one closed set of instances of a series; states and transitions: calcium.job."""

    __tablename__ = "jobs"
    __table_args__ = (
        UniqueConstraint("series_id", "revision"),
        Index("ix_jobs_claimable", "state", "not_before"),
        Index("ix_jobs_created_at", "created_at"),
        Index("ix_jobs_ended_at", "ended_at"),
    )

    id: Mapped[str] = mapped_column(String(36), primary_key=True, default=lambda: str(uuid4()))
    series_id: Mapped[int] = mapped_column(ForeignKey("series.id", ondelete="CASCADE"))
    revision: Mapped[int] = mapped_column(Integer, default=1)  # rises when later slices supersede a result
    instances_sha256: Mapped[str] = mapped_column(SHA256)  # of the sorted "SOP UID:sha256" lines of its set
    # Its set: the instances of the series whose id is at most this. Closing and receiving lock the series' row.
    last_instance_id: Mapped[int] = mapped_column(BigInteger)
    state: Mapped[str] = mapped_column(String(16), default="waiting")  # calcium.job.JobState
    lane: Mapped[str] = mapped_column(String(16), default="normal")  # normal, urgent
    reason_code: Mapped[str | None] = mapped_column(String(64))  # why it is not eligible or failed
    reason: Mapped[str | None] = mapped_column(Text)  # the same in words, without patient data
    attempts: Mapped[int] = mapped_column(Integer, default=0)  # claims so far
    kills: Mapped[int] = mapped_column(Integer, default=0)  # leases lost by a dead worker
    not_before: Mapped[datetime] = mapped_column(UtcDateTime, default=now)
    lease_owner: Mapped[str | None] = mapped_column(String(128))  # a token new for each claim
    lease_until: Mapped[datetime | None] = mapped_column(UtcDateTime)
    dispatched_at: Mapped[datetime | None] = mapped_column(UtcDateTime)  # last hint sent to the broker
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now)
    started_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    ended_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    seconds: Mapped[dict[str, float]] = mapped_column(JSON, default=dict)  # wall clock by stage
    # Which scan it was reconstructed from, and how suitable it is (service.reconstructions); None until another
    # series of its study made us look.
    acquisition: Mapped[str | None] = mapped_column(SHA256, index=True)
    suitability: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    # The more suitable reconstruction that gets the score in its place: no foreign key, for it only informs.
    chosen_series_uid: Mapped[str | None] = mapped_column(UID)
    forced: Mapped[bool] = mapped_column(default=False)  # a person wants this one, whatever else there is

    series: Mapped[Series] = relationship(back_populates="jobs")
    result: Mapped[Result | None] = relationship(back_populates="job", uselist=False)
    objects: Mapped[list[OutputObject]] = relationship(back_populates="job")


class Result(Base):
    """What the networks predicted for a job."""

    __tablename__ = "results"
    __table_args__ = (CheckConstraint("agatston >= 0", name="agatston_not_negative"),)

    id: Mapped[int] = mapped_column(RowId, primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), unique=True)
    agatston: Mapped[float]
    agatston_low: Mapped[float | None]
    agatston_high: Mapped[float | None]
    volume_mm3: Mapped[float]
    risk_group: Mapped[str] = mapped_column(String(16))  # calcium.risk.RiskGroup.label
    heart_box_mm: Mapped[list[list[float]]] = mapped_column(JSON)  # [[x0, y0, z0], [x1, y1, z1]] LPS
    slice_scores: Mapped[list[dict[str, float]]] = mapped_column(JSON)  # [{z_mm, agatston, volume_mm3}]
    group_probabilities: Mapped[list[float] | None] = mapped_column(JSON)
    warnings: Mapped[list[dict[str, str]]] = mapped_column(JSON, default=list)  # [{code, text}]
    weights: Mapped[dict[str, Any]] = mapped_column(JSON)  # name, version, sha256, training_data, ...
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now)

    job: Mapped[Job] = relationship(back_populates="result")


class OutputObject(Base):
    """A DICOM object that we wrote: the report or a companion. Its file lies durably in the outbox."""

    __tablename__ = "output_objects"
    __table_args__ = (UniqueConstraint("job_id", "kind"),)

    id: Mapped[int] = mapped_column(RowId, primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    kind: Mapped[str] = mapped_column(String(32))  # sr3d, sr, summary, seg, gsps, pdf, heat_map, key_objects
    sop_class_uid: Mapped[str] = mapped_column(UID)
    sop_instance_uid: Mapped[str] = mapped_column(UID, unique=True)
    predecessor_uid: Mapped[str | None] = mapped_column(UID)  # SOP Instance UID of the report it supersedes
    key: Mapped[str] = mapped_column(String(255), unique=True)  # of the DICOM file in the outbox
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(SHA256)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now)

    job: Mapped[Job] = relationship(back_populates="objects")
    deliveries: Mapped[list[Delivery]] = relationship(back_populates="object")


class Delivery(Base):
    """One object on its way to one destination."""

    __tablename__ = "deliveries"
    __table_args__ = (
        UniqueConstraint("object_id", "destination"),
        Index("ix_deliveries_due", "state", "not_before"),
    )

    id: Mapped[int] = mapped_column(RowId, primary_key=True)
    object_id: Mapped[int] = mapped_column(ForeignKey("output_objects.id", ondelete="CASCADE"))
    destination: Mapped[str] = mapped_column(String(64))  # name of a destination in the settings
    # pending -> sending -> (stored -> committing ->) delivered; or refused (gives up), cancelled
    state: Mapped[str] = mapped_column(String(16), default="pending")
    attempts: Mapped[int] = mapped_column(Integer, default=0)
    not_before: Mapped[datetime] = mapped_column(UtcDateTime, default=now)
    lease_owner: Mapped[str | None] = mapped_column(String(128))
    lease_until: Mapped[datetime | None] = mapped_column(UtcDateTime)
    dispatched_at: Mapped[datetime | None] = mapped_column(UtcDateTime)  # last hint sent to the broker
    last_error: Mapped[str | None] = mapped_column(Text)
    transaction_uid: Mapped[str | None] = mapped_column(UID, index=True)  # storage commitment we asked for
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now)
    stored_at: Mapped[datetime | None] = mapped_column(UtcDateTime)  # the peer answered 0x0000
    delivered_at: Mapped[datetime | None] = mapped_column(UtcDateTime)  # committed, where that is asked for

    object: Mapped[OutputObject] = relationship(back_populates="deliveries")


class CommitmentRequest(Base):
    """A storage commitment that a scanner asks of us (PS3.4 Annex J), until it is answered."""

    __tablename__ = "commitment_requests"
    __table_args__ = (UniqueConstraint("calling_ae", "transaction_uid"),)

    id: Mapped[int] = mapped_column(RowId, primary_key=True)
    calling_ae: Mapped[str] = mapped_column(AE)
    transaction_uid: Mapped[str] = mapped_column(UID)
    references: Mapped[list[list[str]]] = mapped_column(JSON)  # [[SOP class UID, SOP instance UID]]
    state: Mapped[str] = mapped_column(String(16), default="pending")  # pending, answered, abandoned
    attempts: Mapped[int] = mapped_column(Integer, default=0)
    not_before: Mapped[datetime] = mapped_column(UtcDateTime, default=now)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now)
    answered_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


class Alert(Base):
    """Something that a person must look at; shown by the API until acknowledged."""

    __tablename__ = "alerts"

    id: Mapped[int] = mapped_column(RowId, primary_key=True)
    kind: Mapped[str] = mapped_column(String(64))  # conflicting_instance, delivery_overdue, disk_full, ...
    subject: Mapped[str] = mapped_column(String(128))  # a UID, job id or destination: what it is about
    text: Mapped[str] = mapped_column(Text)  # in words, without patient data
    count: Mapped[int] = mapped_column(Integer, default=1)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now)
    last_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now)
    acknowledged_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


class JobEvent(Base):
    """History of a job: one row for each transition."""

    __tablename__ = "job_events"

    id: Mapped[int] = mapped_column(RowId, primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), index=True)
    event: Mapped[str] = mapped_column(String(32))  # key of calcium.job.TRANSITIONS
    state: Mapped[str] = mapped_column(String(16))  # after the event
    actor: Mapped[str] = mapped_column(String(128))  # process or API token's name
    at: Mapped[datetime] = mapped_column(UtcDateTime, default=now)
    detail: Mapped[str | None] = mapped_column(Text)


class Retrieval(Base):
    """A search of an archive and what was fetched: a run of a sweep, or a pull that somebody asked for."""

    __tablename__ = "retrievals"
    __table_args__ = (
        Index("ix_retrievals_started_at", "started_at"),
        Index("ix_retrievals_state", "state"),
        Index("ix_retrievals_name", "name"),
        # Of a sweep at most one run is asked for or under way (service.retrievals.OPEN).
        Index(
            "uq_retrievals_open_sweep",
            "name",
            unique=True,
            sqlite_where=text(OPEN_SWEEP),
            postgresql_where=text(OPEN_SWEEP),
        ),
    )

    id: Mapped[int] = mapped_column(RowId, primary_key=True)
    kind: Mapped[str] = mapped_column(String(16))  # sweep, pull
    name: Mapped[str] = mapped_column(String(64), default="")  # of the sweep
    archive: Mapped[str] = mapped_column(String(255))  # a name or address of the settings
    actor: Mapped[str] = mapped_column(String(128))  # schedule, API token's name
    state: Mapped[str] = mapped_column(String(16), default="running")  # service.retrievals.States
    owner: Mapped[str] = mapped_column(String(128))  # the process that does it
    started_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now)
    seen_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now)  # its last progress
    ended_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    found: Mapped[int] = mapped_column(Integer, default=0)  # series that fit
    known: Mapped[int] = mapped_column(Integer, default=0)  # here already
    passed_over: Mapped[int] = mapped_column(Integer, default=0)  # less suitable reconstructions
    fetched: Mapped[int] = mapped_column(Integer, default=0)
    failed: Mapped[int] = mapped_column(Integer, default=0)  # or came in part
    error: Mapped[str | None] = mapped_column(Text)  # what ended it, without patient data
    faults: Mapped[list[dict[str, str]]] = mapped_column(JSON, default=list)  # [{series, text}], the first ones


class ProcessBeat(Base):
    """A process that says it is alive; readiness and monitoring read it."""

    __tablename__ = "process_beats"

    name: Mapped[str] = mapped_column(String(128), primary_key=True)  # kind@host:pid
    kind: Mapped[str] = mapped_column(String(16))  # scp, api, worker, keeper
    started_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now)
    seen_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now)
    detail: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict)  # version, device, weights, ...


class Lock(Base):
    """A named lease, e.g. of the one keeper that reconciles."""

    __tablename__ = "locks"

    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    owner: Mapped[str] = mapped_column(String(128))
    until: Mapped[datetime] = mapped_column(UtcDateTime)
