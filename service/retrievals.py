"""The memory of searches and fetches: one row for each run of a sweep and each pull that somebody asks for."""

from __future__ import annotations

from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING

from sqlalchemy import select, update

from service.beats import is_dead
from service.tables import Retrieval, now

if TYPE_CHECKING:
    from collections.abc import Sequence

    from service.database import Database
    from service.pulling import Pulled

MAX_FAULTS = 50  # series of a run whose fault is kept in words
SILENT = timedelta(hours=1)  # without progress for so long it is lost: a series takes minutes
COUNTED = {"pulled": "fetched", "known": "known", "incomplete": "failed", "failed": "failed"}


class State(StrEnum):
    """State of a retrieval."""

    RUNNING = "running"
    DONE = "done"  # every series was dealt with; some may have failed
    FAILED = "failed"  # the archive did not answer, or the settings are wrong
    STOPPED = "stopped"  # the process was asked to end; what came stays
    LOST = "lost"  # its process died


def begin(database: Database, *, kind: str, archive: str, actor: str, owner: str, name: str = "") -> int:
    """Add a running retrieval; return its id."""
    with database.transaction() as session:
        row = Retrieval(kind=kind, name=name, archive=archive[:255], actor=actor[:128], owner=owner[:128])
        session.add(row)
        session.flush()
        return row.id


def found(database: Database, retrieval_id: int, series: int, *, passed_over: int = 0) -> None:
    """Remember how many series fit, and how many of them are less suitable reconstructions."""
    _set(database, retrieval_id, found=series, passed_over=passed_over)


def note(database: Database, retrieval_id: int, pulled: Pulled) -> None:
    """Count what became of one series."""
    with database.transaction() as session:
        row = session.get_one(Retrieval, retrieval_id, with_for_update=True)
        column = COUNTED[pulled.outcome]
        setattr(row, column, getattr(row, column) + 1)
        row.seen_at = now()
        if column == "failed" and len(row.faults) < MAX_FAULTS:
            fault = {"series_instance_uid": pulled.series.series_instance_uid, "text": pulled.text[:300]}
            row.faults = [*row.faults, fault]


def touch(database: Database, retrieval_id: int) -> None:
    """Say that it still goes on, e.g. while the queue is full."""
    _set(database, retrieval_id)


def end(database: Database, retrieval_id: int, state: State, error: str | None = None) -> None:
    """Remember how it ended; `error` without patient data."""
    _set(database, retrieval_id, state=state, ended_at=now(), error=error)


def _set(database: Database, retrieval_id: int, **values: object) -> None:
    with database.transaction() as session:
        session.execute(update(Retrieval).where(Retrieval.id == retrieval_id).values(seen_at=now(), **values))


def end_lost(database: Database) -> int:
    """Mark the retrievals of processes that died; return how many."""
    lost = 0
    with database.transaction() as session:
        running = select(Retrieval).where(Retrieval.state == State.RUNNING).with_for_update(skip_locked=True)
        for row in session.scalars(running):
            if is_dead(row.owner) or row.seen_at < now() - SILENT:
                row.state, row.ended_at, row.error = State.LOST, now(), "its process ended before it did"
                lost += 1
    return lost


def last(database: Database, name: str) -> Retrieval | None:
    """Return the latest run of a sweep."""
    of_sweep = select(Retrieval).where(Retrieval.kind == "sweep", Retrieval.name == name)
    with database.reading() as session:
        return session.scalars(of_sweep.order_by(Retrieval.id.desc()).limit(1)).first()


def latest(database: Database, *, name: str | None = None, limit: int = 50) -> Sequence[Retrieval]:
    """Return retrievals, newest first; those of one sweep where a name is given."""
    rows = select(Retrieval).order_by(Retrieval.id.desc()).limit(limit)
    if name is not None:
        rows = rows.where(Retrieval.name == name)
    with database.reading() as session:
        return session.scalars(rows).all()
