"""Storage commitment, both roles (PS3.4 Annex J): asking an archive, and answering a scanner."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydicom.dataset import Dataset
from pynetdicom import build_context, build_role, evt
from pynetdicom.pdu import P_DATA_TF
from pynetdicom.sop_class import StorageCommitmentPushModel, StorageCommitmentPushModelInstance

from service.dimse.association import (
    ANSWER_SECONDS,
    SUCCESS,
    UNCOMPRESSED,
    Peer,
    open_association,
    refuse,
    status_of,
)

NO_SUCH_OBJECT = 0x0112  # Failure Reason (0008,1197), PS3.3 section C.14.1.1


@dataclass(frozen=True, slots=True)
class CommitmentReport:
    """A peer's answer to a request for storage commitment (PS3.4 section J.3.3)."""

    transaction_uid: str
    committed: tuple[str, ...]
    failed: Mapping[str, int]  # SOP Instance UID: Failure Reason (0008,1197)


def request_commitment(
    peer: Peer,
    references: Sequence[tuple[str, str]],
    transaction_uid: str,
    *,
    calling_ae: str = "AGATSTON",
    timeout: float = ANSWER_SECONDS,
    wait: float = 0.0,
) -> CommitmentReport | None:
    """Ask the peer to take responsibility for instances (N-ACTION, PS3.4 section J.3.2).

    Parameters
    ----------
    references
        (SOP Class UID, SOP Instance UID) of what it holds.
    transaction_uid
        Persisted by the caller before this call: the report may come on another association, days later.
    wait
        Seconds to keep the association open for a report on it.

    Returns
    -------
    CommitmentReport or None
        The report, if it came on this association; None where it will come to our SCP.

    Raises
    ------
    ArchiveUnavailableError
        No answer or no association.
    PeerRefusedError
        The peer offers no storage commitment or refuses the request.
    """
    request = Dataset()
    request.TransactionUID = transaction_uid
    request.ReferencedSOPSequence = [_reference(*pair) for pair in references]
    reports: list[CommitmentReport] = []
    arrived = threading.Event()

    def handle(event: Any) -> tuple[int, None]:
        try:
            report = read_report(event.event_information)
        except (AttributeError, ValueError, TypeError):
            return 0x0115, None  # invalid argument value, PS3.7 section C.5.10
        if report.transaction_uid == transaction_uid:
            reports.append(report)
        return SUCCESS, None

    def sent(event: Any) -> None:
        # Our response to the report has left; a release before it would cross it (PS3.8 Evt9 in Sta7).
        if reports and isinstance(event.pdu, P_DATA_TF):
            arrived.set()

    context = build_context(StorageCommitmentPushModel, list(UNCOMPRESSED))
    with open_association(
        peer,
        [context],
        calling_ae,
        timeout,
        handlers=[(evt.EVT_N_EVENT_REPORT, handle), (evt.EVT_PDU_SENT, sent)],
    ) as association:
        answer, _ = association.send_n_action(
            request, 1, StorageCommitmentPushModel, StorageCommitmentPushModelInstance
        )
        status = status_of(answer)
        if status != SUCCESS:
            refuse(peer, "N-ACTION (storage commitment)", status, answer)
        if wait > 0:
            arrived.wait(wait)
    return reports[0] if reports else None


def report_commitment(
    peer: Peer,
    transaction_uid: str,
    committed: Sequence[tuple[str, str]],
    failed: Sequence[tuple[str, str, int]],
    *,
    calling_ae: str = "AGATSTON",
    timeout: float = ANSWER_SECONDS,
) -> None:
    """Answer a scanner's request for commitment on a new association (N-EVENT-REPORT, PS3.4 section J.3.3).

    Parameters
    ----------
    committed
        (SOP Class UID, SOP Instance UID) that lie durably here.
    failed
        The others, each with its Failure Reason, e.g. `NO_SUCH_OBJECT`.

    Raises
    ------
    ArchiveUnavailableError
        The scanner does not answer.
    PeerRefusedError
        It refuses the report.
    """
    context = build_context(StorageCommitmentPushModel, list(UNCOMPRESSED))
    # PS3.4 section J.3.3: the SCP of the class opens this association and says so by role selection.
    role = build_role(StorageCommitmentPushModel, scu_role=False, scp_role=True)
    event_type = 2 if failed else 1  # PS3.4 Table J.3-2
    with open_association(peer, [context], calling_ae, timeout, roles=[role]) as association:
        answer, _ = association.send_n_event_report(
            write_report(transaction_uid, committed, failed),
            event_type, StorageCommitmentPushModel, StorageCommitmentPushModelInstance,
        )  # fmt: skip
        status = status_of(answer)
        if status != SUCCESS:
            refuse(peer, "N-EVENT-REPORT (storage commitment)", status, answer)


def write_report(
    transaction_uid: str, committed: Sequence[tuple[str, str]], failed: Sequence[tuple[str, str, int]]
) -> Dataset:
    """Return the event information of a commitment report (PS3.4 Table J.3-2)."""
    report = Dataset()
    report.TransactionUID = transaction_uid
    if committed:  # the sequence is absent, not empty, where nothing is committed
        report.ReferencedSOPSequence = [_reference(*pair) for pair in committed]
    if failed:
        report.FailedSOPSequence = [_reference(*pair[:2], reason=pair[2]) for pair in failed]
    return report


def read_report(information: Dataset) -> CommitmentReport:
    """Read the event information of a commitment report (PS3.4 Table J.3-2).

    Raises
    ------
    AttributeError
        An element that the table requires is absent.
    """
    return CommitmentReport(
        str(information.TransactionUID),
        tuple(str(one.ReferencedSOPInstanceUID) for one in information.get("ReferencedSOPSequence") or []),
        {
            str(one.ReferencedSOPInstanceUID): int(one.get("FailureReason") or 0x0110)
            for one in information.get("FailedSOPSequence") or []
        },
    )


def _reference(sop_class_uid: str, sop_instance_uid: str, *, reason: int | None = None) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = sop_class_uid
    item.ReferencedSOPInstanceUID = sop_instance_uid
    if reason is not None:
        item.FailureReason = reason
    return item
