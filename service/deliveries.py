"""What happens to a delivery (one object on its way to one destination), each step one transaction.

::

    pending -> sending -> delivered                    the peer took it, and no commitment is asked
                       -> stored -> delivered          the peer took it, later committed to it
                       -> pending                      it failed, is tried again later, for days
                       -> refused                      the peer refuses it for good, or we gave up
    pending -> cancelled                               its job was superseded before it left
    stored  -> pending                                 the peer did not commit: it is sent again

DICOM makes C-STORE of the same SOP Instance UID idempotent: a delivery that died between the peer's answer and
our row is sent again, and the archive still holds one object.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from sqlalchemy import ColumnElement, select

from service import alerts, leases, routing
from service.tables import Delivery, OutputObject, now

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from sqlalchemy.orm import Session

    from service.database import Database
    from service.settings import Destination

LEASE_SECONDS = 300.0
RETRY_FIRST_SECONDS = 10.0
RETRY_CAP_SECONDS = (
    1800.0  # an archive that was down for a day gets its results within half an hour of its return
)
GIVE_UP_DAYS = 14.0
COMMIT_WAIT_SECONDS = 3600.0  # a commitment not answered so long is asked again

PENDING, SENDING, STORED, DELIVERED, REFUSED, CANCELLED = (
    "pending", "sending", "stored", "delivered", "refused", "cancelled",
)  # fmt: skip
OPEN = (PENDING, SENDING, STORED)


@dataclass(frozen=True, slots=True)
class ClaimedDelivery:
    """A delivery under our lease.

    Parameters
    ----------
    token
        Of this claim; every later step needs it.
    destination
        Name in the settings (Settings.destination).
    key
        Of the object's file in the outbox.
    stored
        The peer already took it: only the commitment is to be asked (again).
    attempt
        1 for the first claim.
    """

    delivery_id: int
    token: str
    destination: str
    job_id: str
    kind: str
    sop_class_uid: str
    sop_instance_uid: str
    key: str
    stored: bool
    attempt: int


def plan(session: Session, objects: Sequence[OutputObject], destinations: Sequence[Destination]) -> list[int]:
    """Add a delivery of each object to each destination that gets its kind; return their ids.

    Parameters
    ----------
    destinations
        Those that take the result (service.routing.takers).
    """
    kinds = [row.kind for row in objects]
    rows = [
        Delivery(object_id=row.id, destination=destination.name)
        for destination in destinations
        for row in objects
        if row.kind in routing.share(destination, kinds)
    ]
    session.add_all(rows)
    session.flush()
    return [row.id for row in rows]


def holders(database: Database, sop_instance_uids: Sequence[str]) -> set[str]:
    """Return the names of the destinations that may have got one of these objects."""
    if not sop_instance_uids:
        return set()
    with database.reading() as session:
        sent = (
            select(Delivery.destination)
            .join(OutputObject, OutputObject.id == Delivery.object_id)
            .where(OutputObject.sop_instance_uid.in_(sop_instance_uids), Delivery.attempts > 0)
        )
        return set(session.scalars(sent))


def due(database: Database, *, limit: int = 100) -> Sequence[int]:
    """Return ids of deliveries that may be claimed now, oldest first."""
    with database.reading() as session:
        found = select(Delivery.id).where(_claimable(now())).order_by(Delivery.not_before).limit(limit)
        return session.scalars(found).all()


def _claimable(moment: datetime) -> ColumnElement[bool]:
    return Delivery.state.in_((PENDING, STORED)) & (Delivery.not_before <= moment)


def claim(
    database: Database, delivery_id: int, owner: str, *, lease_seconds: float = LEASE_SECONDS
) -> ClaimedDelivery | None:
    """Take a delivery that is due; None where it is taken, done or not yet due."""
    token = leases.new_token(owner)
    with database.transaction() as session:
        moment = now()
        row = session.scalars(
            select(Delivery).where(Delivery.id == delivery_id, _claimable(moment)).with_for_update()
        ).first()
        if row is None:
            return None
        stored = row.state == STORED
        row.state = SENDING
        row.attempts += 1
        row.lease_owner, row.lease_until = token, leases.until(lease_seconds)
        return ClaimedDelivery(
            delivery_id=row.id,
            token=token,
            destination=row.destination,
            job_id=row.object.job_id,
            kind=row.object.kind,
            sop_class_uid=row.object.sop_class_uid,
            sop_instance_uid=row.object.sop_instance_uid,
            key=row.object.key,
            stored=stored,
            attempt=row.attempts,
        )


def _ours(session: Session, claimed: ClaimedDelivery) -> Delivery:
    return leases.held(
        session, Delivery, claimed.delivery_id, claimed.token, state=SENDING, uid=claimed.sop_instance_uid
    )


def heartbeat(database: Database, claimed: ClaimedDelivery, *, lease_seconds: float = LEASE_SECONDS) -> None:
    """Prolong the lease.

    Raises
    ------
    LeaseLostError
        The delivery is no longer ours.
    """
    with database.transaction() as session:
        _ours(session, claimed).lease_until = leases.until(lease_seconds)


def hand_back(database: Database, claimed: ClaimedDelivery) -> None:
    """Give a delivery back at a graceful stop; the attempt does not count.

    Raises
    ------
    LeaseLostError
        The delivery is no longer ours.
    """
    with database.transaction() as session:
        row = _ours(session, claimed)
        row.state, row.not_before = (STORED if claimed.stored else PENDING), now()
        row.attempts -= 1
        leases.release(row)


def record_stored(
    database: Database,
    claimed: ClaimedDelivery,
    *,
    transaction_uid: str | None = None,
    commit_wait_seconds: float = COMMIT_WAIT_SECONDS,
) -> None:
    """Record that the peer answered 0x0000.

    Parameters
    ----------
    transaction_uid
        Of the storage commitment that was or will be asked: the delivery waits for its answer, and is asked
        again after `commit_wait_seconds`. None: the peer offers none, and the object is delivered.

    Raises
    ------
    LeaseLostError
        The delivery is no longer ours.
    """
    with database.transaction() as session:
        row = _ours(session, claimed)
        row.stored_at = row.stored_at or now()
        row.last_error = None
        row.transaction_uid = transaction_uid
        if transaction_uid is None:
            row.state, row.delivered_at = DELIVERED, now()
            alerts.clear_alert(session, "delivery_overdue", row.destination)
        else:
            row.state, row.not_before = STORED, now() + timedelta(seconds=commit_wait_seconds)
        leases.release(row)


def record_failure(
    database: Database,
    claimed: ClaimedDelivery,
    error: str,
    *,
    for_good: bool = False,
    first_seconds: float = RETRY_FIRST_SECONDS,
    cap_seconds: float = RETRY_CAP_SECONDS,
    give_up_days: float = GIVE_UP_DAYS,
    wait_seconds: float = 0.0,
    fallback: str | None = None,
) -> str:
    """Record that it did not get through, and plan the next try; return the new state.

    Parameters
    ----------
    error
        Words without patient data.
    for_good
        The peer refuses this object whatever we do (SOP class not supported, status A9xx or Cxxx).
    wait_seconds
        The peer wants to be left alone for so long; at most COMMIT_WAIT_SECONDS are granted.
    fallback
        Name of the destination that gets it instead when it is refused.

    Raises
    ------
    LeaseLostError
        The delivery is no longer ours.
    """
    with database.transaction() as session:
        row = _ours(session, claimed)
        row.last_error = error
        if for_good or now() - row.created_at > timedelta(days=give_up_days):
            row.state = REFUSED
            text = f"{row.destination} did not take object {claimed.sop_instance_uid}: {error}"
            alerts.raise_alert(session, "delivery_refused", row.destination, text)
            if fallback is not None and not _exists(session, row.object_id, fallback):
                session.add(Delivery(object_id=row.object_id, destination=fallback))
        else:
            row.state = STORED if claimed.stored else PENDING
            asked = timedelta(seconds=min(wait_seconds, COMMIT_WAIT_SECONDS))
            row.not_before = now() + max(leases.retry_delay(row.attempts, first_seconds, cap_seconds), asked)
        leases.release(row)
        return row.state


def _exists(session: Session, object_id: int, destination: str) -> bool:
    found = select(Delivery.id).where(Delivery.object_id == object_id, Delivery.destination == destination)
    return session.scalars(found).first() is not None


def record_commitment(
    database: Database, transaction_uid: str, *, committed: Sequence[str], failed: Sequence[str]
) -> int:
    """Record a peer's answer to a storage commitment (PS3.4 Annex J); return how many deliveries it concerned.

    Parameters
    ----------
    committed, failed
        SOP Instance UIDs of the answer's Referenced and Failed SOP Sequences.
    """
    with database.transaction() as session:
        rows = session.scalars(
            select(Delivery).where(Delivery.transaction_uid == transaction_uid).with_for_update()
        ).all()
        for row in rows:
            if row.object.sop_instance_uid in committed:
                row.state, row.delivered_at, row.last_error = DELIVERED, now(), None
                alerts.clear_alert(session, "delivery_overdue", row.destination)
                leases.release(row)
            elif row.object.sop_instance_uid in failed and row.state != DELIVERED:
                row.state, row.last_error = PENDING, "the peer did not commit to the object"
                row.not_before = now() + timedelta(seconds=RETRY_FIRST_SECONDS)
                row.transaction_uid = None
                leases.release(row)
        return len(rows)


def resend(database: Database, delivery_id: int) -> bool:
    """Send again what was refused, cancelled or delivered; False where it is open already or unknown."""
    with database.transaction() as session:
        row = session.get(Delivery, delivery_id, with_for_update=True)
        if row is None or row.state in (PENDING, SENDING):
            return False
        row.state, row.not_before, row.delivered_at, row.transaction_uid = PENDING, now(), None, None
        row.created_at = now()  # the days until we give up count anew
        leases.release(row)
        return True


# What the keeper does.


def take_back_expired(database: Database) -> int:
    """Let deliveries of dead senders, whose lease ran out, wait again; return how many."""
    with database.transaction() as session:
        taken = leases.expired(session, Delivery, state=SENDING)
        for row in taken:
            # What the peer took already only has its commitment asked again.
            row.state = PENDING if row.stored_at is None else STORED
            row.not_before = now()
            leases.release(row)
        return len(taken)


def take_for_dispatch(
    database: Database, *, older_than: datetime | None, limit: int = 200, again: int = leases.HINTS_AGAIN
) -> list[int]:
    """Return ids of due deliveries without a fresh hint, and mark them as hinted now.

    Parameters
    ----------
    older_than, limit, again
        As service.leases.take_for_hints.
    """
    with database.transaction() as session:
        due_now = (
            select(Delivery)
            .where(_claimable(now()))
            .order_by(Delivery.not_before)
            .with_for_update(skip_locked=True)
        )
        taken = leases.take_for_hints(
            session, Delivery, due_now, older_than=older_than, limit=limit, again=again
        )
        return [row.id for row in taken]


def alert_overdue(database: Database, *, after_seconds: float) -> int:
    """Raise one alert for each destination with deliveries older than that; return how many are overdue."""
    with database.transaction() as session:
        late = select(Delivery.destination).where(
            Delivery.state.in_(OPEN), Delivery.created_at < now() - timedelta(seconds=after_seconds)
        )
        names = session.scalars(late).all()
        for name in sorted(set(names)):
            text = f"{names.count(name)} objects wait for {name} for more than {after_seconds / 60:.0f} minutes"
            alerts.raise_alert(session, "delivery_overdue", name, text)
        return len(names)
