"""Leases of rows, the same for jobs and deliveries.

A claim gives a token that is new each time, and every later step succeeds only while the row still bears that
token: whoever lost a lease can record nothing.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar
from uuid import uuid4

from sqlalchemy import select

from calcium.errors import AgatstonError
from service.beats import is_dead
from service.tables import Delivery, Job, now

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy import Select
    from sqlalchemy.orm import Session

Row = TypeVar("Row", Job, Delivery)

HINTS_AGAIN = 50  # repeated hints a round at most


class LeaseLostError(AgatstonError):
    """The row is no longer ours: its lease ran out, or it was cancelled or superseded."""

    code = "lease_lost"


def new_token(owner: str) -> str:
    """Return a token for one claim by a process (service.beats.process_name)."""
    return f"{owner[:90]}:{uuid4().hex}"


def until(seconds: float) -> datetime:
    """Return when a lease ends that begins now."""
    return now() + timedelta(seconds=seconds)


def held(session: Session, model: type[Row], row_id: object, token: str, *, state: str, uid: str) -> Row:
    """Lock and return the row of a claim.

    Parameters
    ----------
    state
        Of rows that are under a lease.
    uid
        What the row is about, for the error.

    Raises
    ------
    LeaseLostError
        The row bears another token or none.
    """
    row = session.get(model, row_id, with_for_update=True)
    if row is None or row.state != state or row.lease_owner != token:
        raise LeaseLostError(f"{model.__name__.lower()} {row_id} is no longer ours", uid=uid)
    return row


def release(row: Job | Delivery) -> None:
    """Give a row free, and let it be hinted anew should it wait again."""
    row.lease_owner = row.lease_until = row.dispatched_at = None


def expired(session: Session, model: type[Row], *, state: str) -> list[Row]:
    """Lock and return the rows whose lease ran out or whose owner died.

    A process of this host need not be waited for: whether it lives can be seen.
    """
    moment = now()
    leased = select(model).where(model.state == state).with_for_update(skip_locked=True)
    return [
        row
        for row in session.scalars(leased)
        if row.lease_until is None or row.lease_until < moment or is_dead(row.lease_owner)
    ]


def take_for_hints(
    session: Session,
    model: type[Row],
    due: Select[Row],
    *,
    older_than: datetime | None,
    limit: int,
    again: int,
) -> list[Row]:
    """Return due rows without a fresh hint, and mark them as hinted now.

    Parameters
    ----------
    due
        Selects and locks the rows that may be claimed.
    older_than
        A hint from before then is lost or far behind in the queue, and is sent again; None: none is.
    limit, again
        At most so many first hints, and repeated ones: the queue of busy workers must not fill with copies.
    """
    taken = list(session.scalars(due.where(model.dispatched_at.is_(None)).limit(limit)))
    if older_than is not None:
        taken += session.scalars(due.where(model.dispatched_at < older_than).limit(again))
    moment = now()
    for row in taken:
        row.dispatched_at = moment
    return taken


def retry_delay(attempt: int, first: float, cap: float) -> timedelta:
    """Return the wait after the `attempt`-th failure (1, 2, ...): doubles each time, up to `cap` seconds."""
    return timedelta(seconds=min(cap, first * 2.0 ** min(attempt - 1, 60)))
