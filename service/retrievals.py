"""The memory of searches and fetches: one row for each run of a sweep and each pull that somebody asks for."""

from __future__ import annotations

from contextlib import contextmanager
from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING

from sqlalchemy import select, update
from sqlalchemy.exc import IntegrityError

from calcium.errors import AgatstonError
from service.beats import is_dead
from service.tables import Retrieval, now

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from service.database import Database
    from service.pulling import Pulled

MAX_FAULTS = 50  # series of a run whose fault is kept in words
SILENT = timedelta(hours=1)  # without progress for so long it is lost: a series takes minutes
COUNTED = {"pulled": "fetched", "known": "known", "incomplete": "failed", "failed": "failed"}


class State(StrEnum):
    """State of a retrieval."""

    ASKED = "asked"  # a person wants a sweep now; the process that runs sweeps will begin
    RUNNING = "running"
    DONE = "done"  # every series was dealt with; some may have failed
    FAILED = "failed"  # the archive did not answer, or the settings are wrong
    STOPPED = "stopped"  # the process was asked to end; what came stays
    LOST = "lost"  # its process died


OPEN = (State.ASKED, State.RUNNING)


class SweepBusyError(AgatstonError):
    """The sweep runs already, or is asked for."""

    code = "sweep_busy"


def begin(
    database: Database,
    *,
    kind: str,
    archive: str,
    actor: str,
    owner: str,
    name: str = "",
    state: State = State.RUNNING,
) -> int:
    """Add a retrieval that runs, or that is asked for; return its id.

    Raises
    ------
    SweepBusyError
        The sweep of that name runs already, or is asked for.
    """
    row = Retrieval(
        kind=kind, name=name, archive=archive[:255], actor=actor[:128], owner=owner[:128], state=state
    )
    try:
        with database.transaction() as session:
            session.add(row)
            session.flush()
            return row.id
    except IntegrityError:  # uq_retrievals_open_sweep
        raise SweepBusyError(f"sweep {name} runs already") from None


def take(database: Database, retrieval_id: int, owner: str) -> bool:
    """Begin what was asked for; False where another process has, or it waited too long."""
    with database.transaction() as session:
        taken = session.execute(
            update(Retrieval)
            .where(Retrieval.id == retrieval_id, Retrieval.state == State.ASKED)
            .values(state=State.RUNNING, owner=owner[:128], started_at=now(), seen_at=now())
        )
        return bool(taken.rowcount)  # type: ignore[attr-defined]


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


@contextmanager
def ending(database: Database, retrieval_id: int, *, stopped: Callable[[], bool]) -> Iterator[None]:
    """Remember how the block ended; what it raises goes on.

    Parameters
    ----------
    stopped
        Tells at the end whether the process was asked to end before all was done.
    """
    try:
        yield
    except AgatstonError as error:
        end(database, retrieval_id, State.FAILED, str(error))
        raise
    except Exception as error:
        end(database, retrieval_id, State.FAILED, f"unexpected {type(error).__name__}")
        raise
    end(database, retrieval_id, State.STOPPED if stopped() else State.DONE)


def _set(database: Database, retrieval_id: int, **values: object) -> None:
    with database.transaction() as session:
        session.execute(update(Retrieval).where(Retrieval.id == retrieval_id).values(seen_at=now(), **values))


def end_lost(database: Database) -> int:
    """Mark the retrievals of processes that died, and those that nobody began; return how many."""
    lost = 0
    with database.transaction() as session:
        open_ones = select(Retrieval).where(Retrieval.state.in_(OPEN)).with_for_update(skip_locked=True)
        for row in session.scalars(open_ones):
            # Whoever asked may be gone: another process will begin.
            dead = row.state == State.RUNNING and is_dead(row.owner)
            if dead or row.seen_at < now() - SILENT:
                begun = row.state == State.RUNNING
                row.error = "its process ended before it did" if begun else "no process began it"
                row.state, row.ended_at = State.LOST, now()
                lost += 1
    return lost


def last(database: Database, name: str) -> Retrieval | None:
    """Return the latest run of a sweep."""
    of_sweep = select(Retrieval).where(Retrieval.kind == "sweep", Retrieval.name == name)
    with database.reading() as session:
        return session.scalars(of_sweep.order_by(Retrieval.id.desc()).limit(1)).first()


def latest(
    database: Database, *, name: str | None = None, kind: str | None = None, limit: int = 50
) -> Sequence[Retrieval]:
    """Return retrievals, newest first; those of one sweep or kind where that is given."""
    rows = select(Retrieval).order_by(Retrieval.id.desc()).limit(limit)
    if name is not None:
        rows = rows.where(Retrieval.name == name)
    if kind is not None:
        rows = rows.where(Retrieval.kind == kind)
    with database.reading() as session:
        return session.scalars(rows).all()
