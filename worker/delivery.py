"""Delivery of one object to one destination: claim, C-STORE or STOW-RS, record.

What a destination answers falls into four classes, see worker.verdicts. One that does not take Comprehensive 3D
SR at all gets the Comprehensive SR of the same result instead, where it allows that kind; the choice stands in
the delivery's row, so that a retry never sends both.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydicom.uid import generate_uid
from sqlalchemy import select

from calcium.errors import AgatstonError
from service import addresses, deliveries, scu
from service.deliveries import ClaimedDelivery
from service.dicomweb import storage as stow
from service.leases import LeaseLostError
from service.tables import Delivery, OutputObject, now
from worker.lease import Renewal
from worker.trouble import where
from worker.verdicts import Verdict, http_verdict, verdict

if TYPE_CHECKING:
    from service.settings import Destination
    from worker.node import WorkerNode

log = logging.getLogger(__name__)

COMMIT_ANSWER_SECONDS = 2.0  # kept open for a commitment report on the same association


@dataclass(frozen=True, slots=True)
class Answer:
    """What a destination's answer means.

    Parameters
    ----------
    words
        For the row and the log; without patient data.
    wait_seconds
        The destination wants to be left alone for so long.
    """

    verdict: Verdict
    words: str
    wait_seconds: float = 0.0


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
        except LeaseLostError as error:
            log.info("%s", error)
        except Exception as error:  # noqa: BLE001 (whatever it is, the row says so and is tried again)
            log.error("delivery %s: %s", delivery_id, where(error))  # noqa: TRY400 (its text may name a patient)
            _failed(node, claimed, f"internal error: {type(error).__name__}")


def _deliver(node: WorkerNode, claimed: ClaimedDelivery) -> None:
    destination = node.settings.destination(claimed.destination)
    if destination is None:
        _failed(node, claimed, f"there is no destination {claimed.destination} in the settings any more")
        return
    if claimed.stored:
        _commit(node, claimed, destination)
        return
    try:
        answer = _send(node, claimed, destination)
    except FileNotFoundError:
        _failed(node, claimed, "the object's file is no longer in the outbox", for_good=True)
        return
    match answer.verdict:
        case Verdict.STORED:
            _commit(node, claimed, destination)
        case Verdict.NO_CONTEXT if switch_to_comprehensive_sr(node, claimed, destination):
            log.info("%s takes no 3D SR; it gets Comprehensive SR", claimed.destination)
            node.dispatcher.deliver(claimed.delivery_id)
        case Verdict.RETRY:
            _failed(node, claimed, answer.words, wait_seconds=answer.wait_seconds)
        case _:
            _failed(node, claimed, answer.words, for_good=True, fallback=destination.fallback)


def _send(node: WorkerNode, claimed: ClaimedDelivery, destination: Destination) -> Answer:
    """Send the object's file, and say what came of it."""
    path = node.store.path(claimed.key)
    try:
        server = addresses.web_server(node.settings, destination)
        if server is not None:
            return _read(stow.store(server, path, claimed.sop_instance_uid))
        (outcome,) = scu.store(_peer(node, destination), [path], calling_ae=node.settings.ae_title)
    except AgatstonError as error:  # it cannot be reached, or a person has to set something right
        return Answer(Verdict.RETRY, str(error))
    return Answer(verdict(outcome.status), _words(outcome.status, outcome.comment))


def _read(outcome: stow.StowOutcome) -> Answer:
    """Read the answer of STOW-RS: what it says of the instance, else what its HTTP status says."""
    if outcome.status is None:
        said = http_verdict(outcome.http)
        return Answer(said, f"HTTP {outcome.http}, nothing said of the object", outcome.retry_after)
    words = f"HTTP {outcome.http}, {_words(outcome.status, '')}"
    return Answer(verdict(outcome.status), words, outcome.retry_after)


def _peer(node: WorkerNode, destination: Destination) -> scu.Peer:
    peer = addresses.address(node.settings, destination)
    assert peer is not None  # the settings check that a destination without a url has host and port
    return peer


def _words(status: int | None, comment: str) -> str:
    said = "no answer" if status is None else f"status {status:04X}"
    return f"{said}: {comment}" if comment else said


def _failed(
    node: WorkerNode,
    claimed: ClaimedDelivery,
    words: str,
    *,
    for_good: bool = False,
    wait_seconds: float = 0.0,
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
        wait_seconds=wait_seconds,
        fallback=fallback,
    )
    log.warning("%s to %s is %s: %s", claimed.sop_instance_uid, claimed.destination, state, words)


def _commit(node: WorkerNode, claimed: ClaimedDelivery, destination: Destination) -> None:
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
            _peer(node, destination),
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
            raise LeaseLostError(
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
