"""Rows for tests of what reads the database: series, jobs, results, deliveries, alerts, beats."""

from __future__ import annotations

import math
from datetime import datetime, timedelta
from pathlib import Path

from pydicom.uid import generate_uid
from sqlalchemy import create_engine, make_url, text
from sqlalchemy.orm import Session

from calcium.risk import RiskGroup
from service.database import Database, upgrade
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

WEIGHTS = {
    "name": "first",
    "version": "1",
    "sha256": "0" * 64,
    "training_data": "simulated",
    "validated_by_site": False,
}


def database(folder: Path) -> Database:
    """Return an embedded database, made by the migrations."""
    made = Database(f"sqlite:///{folder / 'agatston.db'}")
    upgrade(made)
    return made


def postgres_database(url: str, name: str) -> Database:
    """Return a new database of that name on a PostgreSQL server, made by the migrations."""
    server = create_engine(url, isolation_level="AUTOCOMMIT")
    with server.connect() as connection:
        connection.execute(text(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)'))
        connection.execute(text(f'CREATE DATABASE "{name}"'))
    server.dispose()
    made = Database(make_url(url).set(database=name).render_as_string(hide_password=False))
    upgrade(made)
    return made


def beats(session: Session, *kinds: str) -> None:
    """Let processes be alive."""
    for kind in kinds or ("scp", "api", "worker", "keeper"):
        session.merge(ProcessBeat(name=f"{kind}@test:1", kind=kind, seen_at=now(), detail={"version": "0.1.0"}))


def add_job(
    session: Session,
    *,
    state: str = "scored",
    agatston: float | None = None,
    at: datetime | None = None,
    delivery: str | None = "delivered",
    instances: int = 2,
    **columns: object,
) -> Job:
    """Add a series with instances, a job, its history, and a result and objects where it is scored."""
    at = at or now()
    series = Series(
        study_instance_uid=generate_uid(),
        series_instance_uid=generate_uid(),
        calling_ae="SCANNER",
        called_ae="AGATSTON",
        first_received_at=at,
        last_received_at=at,
        closed_at=at,
        closed_by="release",
    )
    session.add(series)
    session.flush()
    for _ in range(instances):
        uid = generate_uid()
        session.add(
            Instance(
                series_id=series.id,
                sop_instance_uid=uid,
                sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
                transfer_syntax_uid="1.2.840.10008.1.2.1",
                key=f"inbox/{uid}",
                size_bytes=1,
                sha256="0" * 64,
            )
        )
    session.flush()
    job = Job(
        series_id=series.id,
        state=state,
        instances_sha256="0" * 64,
        last_instance_id=instances,
        created_at=at,
        not_before=at,
        **columns,
    )
    session.add(job)
    session.flush()
    session.add(JobEvent(job_id=job.id, event="open", state="waiting", actor="keeper", at=at))
    if state in {"scored", "superseded"} and agatston is not None:
        job.attempts, job.started_at, job.ended_at = 1, at, at + timedelta(seconds=3)
        job.seconds = {"read": 0.4, "resample": 0.3, "localise": 0.8, "regress": 0.5}
        session.add(JobEvent(job_id=job.id, event="claim", state="running", actor="worker@host:7", at=at))
        session.add(
            JobEvent(
                job_id=job.id,
                event="score",
                state="scored",
                actor="worker@host:7:" + "a" * 32,
                at=at + timedelta(seconds=3),
            )
        )
        session.add(result(job.id, agatston))
        if delivery:
            add_object(session, job, delivery)
    session.flush()
    return job


def result(job_id: str, agatston: float) -> Result:
    """Return a result whose slice scores add up to its total."""
    bell = [math.exp(-(((number - 30) / 9) ** 2)) for number in range(70)]
    scores = [value * agatston * 2 / sum(bell) for value in bell]  # total = sum * 1.5 mm / 3.0 mm
    return Result(
        job_id=job_id,
        agatston=agatston,
        agatston_low=agatston * 0.6,
        agatston_high=agatston * 1.5,
        volume_mm3=agatston * 0.8,
        risk_group=RiskGroup.of(agatston).label,
        heart_box_mm=[[-60.0, -80.0, -210.0], [70.0, 50.0, -105.0]],
        slice_scores=[
            {"z_mm": -210 + 1.5 * number, "agatston": value if value > 0.05 else 0.0, "volume_mm3": value}
            for number, value in enumerate(scores)
        ],
        warnings=[],
        weights=WEIGHTS,
    )


def add_object(session: Session, job: Job, delivery: str, kind: str = "sr3d", **columns: object) -> Delivery:
    """Add a written object and its delivery."""
    uid = generate_uid()
    written = OutputObject(
        job_id=job.id,
        kind=kind,
        sop_class_uid="1.2.840.10008.5.1.4.1.1.88.34",
        sop_instance_uid=uid,
        key=f"outbox/{uid}",
        size_bytes=23456,
        sha256="0" * 64,
    )
    session.add(written)
    session.flush()
    moment = now() if delivery == "delivered" else None
    sent = Delivery(object_id=written.id, destination="pacs", state=delivery, attempts=1, delivered_at=moment)
    for name, value in columns.items():
        setattr(sent, name, value)
    session.add(sent)
    session.flush()
    return sent


def add_alert(session: Session, text: str = "2 objects wait for pacs for more than 60 minutes") -> Alert:
    """Add an alert."""
    alert = Alert(kind="delivery_overdue", subject="pacs", text=text, count=3)
    session.add(alert)
    session.flush()
    return alert


NUMBERS = """
CREATE TEMP TABLE n AS
  WITH RECURSIVE up(i) AS (SELECT 1000 UNION ALL SELECT i + 1 FROM up WHERE i < {count} + 999)
  SELECT i, printf('00000000-0000-4000-8000-%012d', i) AS job,
    strftime('%Y-%m-%d %H:%M:%f', 'now', (({count} + 999 - i) * -630) || ' seconds') || '000' AS at,
    CASE WHEN i % 100 < 70 THEN 'scored' WHEN i % 100 < 95 THEN 'not_eligible'
      WHEN i % 100 < 98 THEN 'failed' ELSE 'superseded' END AS state
  FROM up
"""
MOMENTS = dict.fromkeys(
    ("first_received_at", "last_received_at", "opened_at", "closed_at", "created_at", "not_before"), "n.at"
)
COPIED = {  # table: (columns that differ from the copied row, which of the numbers)
    Series: (
        {"id": "n.i", "study_instance_uid": "'1.2.3.' || n.i", "series_instance_uid": "'1.2.4.' || n.i"},
        "1",
    ),
    Job: ({"id": "n.job", "series_id": "n.i", "state": "n.state", "reason": "'contrast enhanced'"}, "1"),
    Result: ({"id": "n.i", "job_id": "n.job", "slice_scores": "'[]'"}, "n.state = 'scored'"),
    OutputObject: (
        {"id": "n.i", "job_id": "n.job", "sop_instance_uid": "'1.2.5.' || n.i", "key": "'outbox/' || n.i"},
        "n.state = 'scored'",
    ),
    Delivery: ({"id": "n.i", "object_id": "n.i"}, "n.state = 'scored'"),
}


def many_jobs(session: Session, count: int) -> None:
    """Add many jobs within seconds, one each ten minutes, as copies of one row of each table (SQLite only)."""
    add_job(session, agatston=12.0, at=now() - timedelta(seconds=630 * count), instances=0)
    connection = session.connection()
    connection.exec_driver_sql(NUMBERS.format(count=count - 1))
    for table, (differing, which) in COPIED.items():
        names = [column.name for column in table.__table__.columns]
        values = ", ".join(differing.get(name) or MOMENTS.get(name) or f"one.{name}" for name in names)
        # The first row of each table is the one that add_job has just made.
        connection.exec_driver_sql(
            f"INSERT INTO {table.__tablename__} ({', '.join(names)}) SELECT {values} FROM n, "
            f"(SELECT * FROM {table.__tablename__} LIMIT 1) AS one WHERE {which}"
        )
