"""Delivery of one object to one destination: claim, C-STORE, record.

The statuses of C-STORE (PS3.4 Table B.2-1, PS3.7 annex C) fall into three classes, see `VERDICTS`. A peer that
does not take Comprehensive 3D SR at all gets the Comprehensive SR of the same result instead, where the
destination allows that kind; the choice stands in the delivery's row, so that a retry never sends both.
"""

from __future__ import annotations

import logging
from enum import Enum
from typing import TYPE_CHECKING

from pydicom.uid import generate_uid
from sqlalchemy import select

from calcium.errors import AgatstonError, ArchiveUnavailableError
from service import deliveries, scu
from service.deliveries import ClaimedDelivery, DeliveryLostError
from service.tables import Delivery, OutputObject, now
from worker.lease import Renewal
from worker.trouble import where

if TYPE_CHECKING:
    from service.settings import Destination
    from worker.node import WorkerNode

log = logging.getLogger(__name__)

COMMIT_ANSWER_SECONDS = 2.0  # kept open for a commitment report on the same association


class Verdict(Enum):
    """What a status means for the delivery."""

    STORED = "stored"
    RETRY = "retry"
    REFUSED = "refused"
    NO_CONTEXT = "no context"


# status (exact), or its high byte -> verdict; the exact one wins.
VERDICTS: dict[int, Verdict] = {
    0x0000: Verdict.STORED,
    0x0110: Verdict.RETRY,  # processing failure
    0x0122: Verdict.NO_CONTEXT,  # SOP class not supported
    0x0124: Verdict.RETRY,  # not authorized: a person will have to change something, and can
    0x0210: Verdict.RETRY,  # duplicate invocation
    0x0213: Verdict.RETRY,  # resource limitation
}
VERDICTS_BY_HIGH_BYTE: dict[int, Verdict] = {
    0xB0: Verdict.STORED,  # stored with a warning: coercion, elements discarded
    0xA7: Verdict.RETRY,  # refused: out of resources
    0xA9: Verdict.REFUSED,  # data set does not match SOP class
    0xC0: Verdict.REFUSED,  # cannot understand (C000 to CFFF, see `verdict`)
}
OTHER = Verdict.REFUSED


def verdict(status: int | None) -> Verdict:
    """Return what a C-STORE status means; None: no answer came."""
    if status is None:
        return Verdict.RETRY
    high = 0xC0 if status >> 12 == 0xC else status >> 8
    return VERDICTS.get(status) or VERDICTS_BY_HIGH_BYTE.get(high, OTHER)


def deliver(node: WorkerNode, delivery_id: int) -> None:
    """Deliver one object, if its row is due and ours to take."""
    lease = deliveries.LEASE_SECONDS
    claimed = deliveries.claim(node.database, delivery_id, node.owner, lease_seconds=lease)
    if claimed is None:
        return
    with (
        Renewal(lambda: deliveries.heartbeat(node.database, claimed, lease_seconds=lease), lease),
        node.work_on(lambda: deliveries.hand_back(node.database, claimed)),
    ):
        try:
            _deliver(node, claimed)
        except DeliveryLostError as error:
            log.info("%s", error)
        except Exception as error:  # noqa: BLE001 (whatever it is, the row says so and is tried again)
            log.error("delivery %s: %s", delivery_id, where(error))  # noqa: TRY400 (its text may name a patient)
            _failed(node, claimed, f"internal error: {type(error).__name__}")


def _deliver(node: WorkerNode, claimed: ClaimedDelivery) -> None:
    destination = node.settings.destination(claimed.destination)
    if destination is None:
        _failed(node, claimed, f"there is no destination {claimed.destination} in the settings any more")
        return
    try:
        peer = peer_of(node, destination)
        if claimed.stored:
            _commit(node, claimed, destination, peer)
            return
        path = node.store.path(claimed.key)
        (outcome,) = scu.store(peer, [path], calling_ae=node.settings.ae_title)
        status, comment = outcome.status, outcome.comment
    except FileNotFoundError:
        _failed(node, claimed, "the object's file is no longer in the outbox", for_good=True)
        return
    except ArchiveUnavailableError as error:
        # The peer took the association and none of its contexts: the same as a refused context.
        no_context = "accepts none of the proposed presentation contexts" in str(error)
        status, comment = (scu.NOT_NEGOTIATED if no_context else None), str(error)
    match verdict(status):
        case Verdict.STORED:
            _commit(node, claimed, destination, peer)
        case Verdict.NO_CONTEXT if switch_to_comprehensive_sr(node, claimed, destination):
            log.info("%s takes no 3D SR; it gets Comprehensive SR", claimed.destination)
            node.dispatcher.deliver(claimed.delivery_id)
        case Verdict.RETRY:
            _failed(node, claimed, _words(status, comment))
        case _:
            fallback = destination.fallback
            _failed(node, claimed, _words(status, comment), for_good=True, fallback=fallback)


def peer_of(node: WorkerNode, destination: Destination) -> scu.Peer:
    """Return how to reach a destination."""
    settings = node.settings
    tls = None
    if destination.tls and settings.tls_ca is not None:
        tls = scu.tls_context(ca=settings.tls_ca, certificate=settings.tls_certificate, key=settings.tls_key)
    return scu.Peer(destination.aet, destination.host, destination.port, tls)


def _words(status: int | None, comment: str) -> str:
    said = "no answer" if status is None else f"status {status:04X}"
    return f"{said}: {comment}" if comment else said


def _failed(
    node: WorkerNode,
    claimed: ClaimedDelivery,
    words: str,
    *,
    for_good: bool = False,
    fallback: str | None = None,
) -> None:
    settings = node.settings
    state = deliveries.record_failure(
        node.database,
        claimed,
        words,
        for_good=for_good,
        first_seconds=settings.retry_first_seconds,
        give_up_days=settings.delivery_give_up_days,
        fallback=fallback,
    )
    log.warning("%s to %s is %s: %s", claimed.sop_instance_uid, claimed.destination, state, words)


def _commit(node: WorkerNode, claimed: ClaimedDelivery, destination: Destination, peer: scu.Peer) -> None:
    """Record that the peer has the object, and ask it to commit to it where the destination offers that."""
    if not destination.commitment:
        deliveries.record_stored(node.database, claimed)
        log.info("%s delivered to %s", claimed.sop_instance_uid, claimed.destination)
        return
    transaction_uid = str(generate_uid(prefix=None))
    # Persisted before it is asked: the answer may overtake us, on another association to our SCP.
    deliveries.record_stored(node.database, claimed, transaction_uid=transaction_uid)
    try:
        report = scu.request_commitment(
            peer,
            [(claimed.sop_class_uid, claimed.sop_instance_uid)],
            transaction_uid,
            calling_ae=node.settings.ae_title,
            wait=COMMIT_ANSWER_SECONDS,
        )
    except AgatstonError as error:  # asked again after a while
        log.warning("no commitment asked of %s: %s", claimed.destination, error)
        return
    if report is not None:
        deliveries.record_commitment(
            node.database, transaction_uid, committed=report.committed, failed=list(report.failed)
        )


def switch_to_comprehensive_sr(node: WorkerNode, claimed: ClaimedDelivery, destination: Destination) -> bool:
    """Point a refused delivery of ``sr3d`` at the ``sr`` of the same job, due at once; False: there is none.

    The row itself is changed, so that this delivery can never send both documents.
    """
    if claimed.kind != "sr3d" or "sr" not in destination.kinds:
        return False
    with node.database.transaction() as session:
        row = session.get(Delivery, claimed.delivery_id, with_for_update=True)
        if row is None or row.state != deliveries.SENDING or row.lease_owner != claimed.token:
            raise DeliveryLostError(
                f"delivery {claimed.delivery_id} is no longer ours", uid=claimed.sop_instance_uid
            )
        other = session.scalars(
            select(OutputObject.id).where(OutputObject.job_id == claimed.job_id, OutputObject.kind == "sr")
        ).first()
        if other is None:
            return False
        row.object_id = other
        row.state, row.not_before = deliveries.PENDING, now()
        row.lease_owner = row.lease_until = row.dispatched_at = None
    return True
