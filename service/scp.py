"""The DICOM side that listens: C-ECHO and C-STORE of CT, each instance durable before it is answered 0x0000."""

from __future__ import annotations

import errno
import logging
import ssl
import threading
import time
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from pydicom import uid
from pynetdicom import AE, _config, evt
from pynetdicom.pdu_primitives import UserIdentityNegotiation
from pynetdicom.sop_class import (
    CTImageStorage,
    EnhancedCTImageStorage,
    LegacyConvertedEnhancedCTImageStorage,
    StorageCommitmentPushModel,
    StorageCommitmentPushModelInstance,
    Verification,
)

from calcium.errors import MissingAttributeError, SettingsError, UnreadableInstanceError
from service import commitments, deliveries, metrics, scu
from service.associations import Server, tls_context
from service.database import UNAVAILABLE
from service.heads import SOP_CLASS, SOP_INSTANCE, UID_PATTERN, read_head
from service.identity import is_user
from service.implementation import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from service.inbox import Inbox, Incoming
from service.statuses import SUCCESS, RefusedError
from service.tables import CommitmentRequest

if TYPE_CHECKING:
    from service.admission import Admission
    from service.settings import Settings

log = logging.getLogger(__name__)

STORAGE_CLASSES = (CTImageStorage, EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage)
# What the reader decodes (calcium.series); the order is of no meaning, for the sender's proposal decides.
TRANSFER_SYNTAXES = (
    uid.ExplicitVRLittleEndian,
    uid.ImplicitVRLittleEndian,
    uid.DeflatedExplicitVRLittleEndian,
    uid.ExplicitVRBigEndian,
    uid.RLELossless,
    uid.JPEGLossless,
    uid.JPEGLosslessSV1,
    uid.JPEGLSLossless,
    uid.JPEGLSNearLossless,
    uid.JPEG2000Lossless,
    uid.JPEG2000,
)
BIND_SECONDS = 5.0  # so long a port may still be taken

# N-ACTION and N-EVENT-REPORT, PS3.7 Annex C.
INVALID_ARGUMENT, PROCESSING_FAILURE = 0x0115, 0x0110
MAX_REFERENCES = 20_000  # of one storage commitment
ANSWER_HERE_SECONDS = 0.2  # the response to N-ACTION goes first

# A-ASSOCIATE-RJ: (result, source, reason), PS3.8 Table 9-21.
REJECT_CALLING_AE = (0x01, 0x01, 0x03)
REJECT_CALLED_AE = (0x01, 0x01, 0x07)
REJECT_LIMIT = (0x02, 0x03, 0x02)
REJECT_IDENTITY = (0x01, 0x02, 0x01)  # by the ACSE, no reason given: none of the reasons is about identities


def _is_uid(text: str) -> bool:
    return UID_PATTERN.match(text.encode("ascii", "replace")) is not None


def _bind(entity: AE, settings: Settings, handlers: list[Any]) -> Server:
    # The previous process, killed a moment ago or stopping, may still hold the port.
    end = time.monotonic() + BIND_SECONDS
    tls = tls_context(settings)
    while True:
        try:
            return Server(entity, settings, handlers, tls)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or time.monotonic() > end:
                raise
            time.sleep(0.2)


class Scp:
    """The listening application entity.

    Parameters
    ----------
    inbox, admission
        Where instances go, and whether there is room.

    Raises
    ------
    SettingsError
        The port cannot be bound, the TLS files do not fit, or anybody from outside could send.
    """

    def __init__(self, settings: Settings, inbox: Inbox, admission: Admission) -> None:
        settings.require_known_peers()
        self._settings = settings
        self._inbox = inbox
        self._admission = admission
        self._stopping = False
        self._fed: WeakKeyDictionary[Any, set[int]] = WeakKeyDictionary()  # association -> ids of its series
        self._lock = threading.Lock()
        # pynetdicom would write data set elements into its log.
        _config.LOG_HANDLER_LEVEL = "none"
        handlers = [
            (evt.EVT_REQUESTED, self._on_requested),
            (evt.EVT_USER_ID, self._on_identity),
            (evt.EVT_C_STORE, self._on_store),
            (evt.EVT_C_ECHO, self._on_echo),
            (evt.EVT_N_ACTION, self._on_action),
            (evt.EVT_N_EVENT_REPORT, self._on_event_report),
            (evt.EVT_RELEASED, self._on_released),
            (evt.EVT_ABORTED, self._on_aborted),
        ]
        try:
            self._server = _bind(self._entity(), settings, handlers)
        except ssl.SSLError as error:
            raise SettingsError(
                f"AGATSTON_TLS_CERTIFICATE: the TLS files do not fit: {error.reason}"
            ) from error
        except OSError as error:
            address = f"{settings.dicom_host}:{settings.dicom_port}"
            raise SettingsError(f"AGATSTON_DICOM_PORT: cannot listen on {address}: {error.strerror}") from error
        self._thread = threading.Thread(target=self._server.serve_forever, name="scp-accept", daemon=True)

    def _entity(self) -> AE:
        entity = AE(ae_title=self._settings.ae_title)
        entity.implementation_class_uid = IMPLEMENTATION_CLASS_UID
        entity.implementation_version_name = IMPLEMENTATION_VERSION_NAME
        entity.maximum_pdu_size = self._settings.max_pdu
        entity.maximum_associations = self._settings.max_associations
        entity.acse_timeout = self._settings.acse_timeout
        entity.dimse_timeout = self._settings.dimse_timeout
        entity.network_timeout = self._settings.network_timeout
        entity.add_supported_context(Verification)
        for storage_class in STORAGE_CLASSES:
            entity.add_supported_context(storage_class, TRANSFER_SYNTAXES)
        # Both roles of the requestor (PS3.4 section J.3): a scanner asks us, an archive answers us.
        entity.add_supported_context(StorageCommitmentPushModel, scu_role=True, scp_role=True)
        return entity

    @property
    def port(self) -> int:
        """The TCP port it listens on."""
        return int(self._server.server_address[1])

    def start(self) -> None:
        """Listen."""
        self._thread.start()

    def stop(self, *, grace_seconds: float = 20.0) -> None:
        """Accept no more associations, let running ones finish, and abort the rest after `grace_seconds`."""
        self._stopping = True
        if self._thread.is_alive():
            self._server.stop_listening()
        end = time.monotonic() + grace_seconds
        while self._server.active_associations and time.monotonic() < end:
            time.sleep(0.05)
        for association in self._server.active_associations:
            association.abort()

    # Handlers; pynetdicom calls them in the threads of the associations.

    def _on_requested(self, event: evt.Event) -> None:
        association = event.assoc
        request = association.requestor.primitive
        calling, called = str(request.calling_ae_title).strip(), str(request.called_ae_title).strip()
        why = self._refusal(association, calling, called)
        if why is None:
            return
        log.warning("association of %r from %s rejected: %s", calling, association.requestor.address, why[1])
        metrics.ASSOCIATIONS.labels("rejected").inc()
        association.acse.send_reject(*why[0])
        association.kill()

    def _refusal(self, association: Any, calling: str, called: str) -> tuple[tuple[int, int, int], str] | None:
        peer = self._settings.sender(calling)
        if peer is None and not self._settings.any_peer:
            return REJECT_CALLING_AE, "unknown calling AE title"
        if peer is not None and not peer.calls_from(association.requestor.address):
            return REJECT_CALLING_AE, "it may not call from this address"
        if self._settings.check_called_ae and called != self._settings.ae_title:
            return REJECT_CALLED_AE, f"it calls {called!r}"
        identity = association.requestor.user_identity
        if peer is not None and peer.users:
            if not is_user(identity, peer.users):
                return REJECT_IDENTITY, "no user of this peer, or another passcode"
        elif identity is not None and self._settings.unchecked_identities == "refuse":
            return REJECT_IDENTITY, "its user identity cannot be checked"
        limit = (peer and peer.max_associations) or self._settings.max_associations_per_peer
        theirs = [
            other
            for other in self._server.active_associations
            if other is not association and other.is_established and other.requestor.ae_title.strip() == calling
        ]
        if self._stopping or len(theirs) >= limit:
            return (
                REJECT_LIMIT,
                "stopping" if self._stopping else f"{len(theirs)} associations of this peer are open",
            )
        return None

    def _on_identity(self, event: evt.Event) -> tuple[bool, None]:
        """Affirm an identity that `_refusal` has checked; one that nobody checked gets no positive response."""
        peer = self._settings.sender(event.assoc.requestor.primitive.calling_ae_title)
        checked = peer is not None and bool(peer.users)
        if checked and event.assoc.requestor.user_identity.positive_response_requested:
            answer = UserIdentityNegotiation()
            answer.server_response = b""  # PS3.7 Table D.3-15: empty for names and passcodes
            event.assoc.acceptor.add_negotiation_item(answer)
        return True, None

    def _on_echo(self, event: evt.Event) -> int:  # noqa: ARG002 (pynetdicom's signature)
        return SUCCESS

    def _on_store(self, event: evt.Event) -> Any:
        started = time.perf_counter()
        try:
            outcome = self._store(event)
        except RefusedError as refused:
            metrics.INSTANCES.labels(refused.reason).inc()
            log.warning("instance refused (%s): %s", refused.reason, refused.comment)
            return refused.answer
        except Exception:
            metrics.INSTANCES.labels("internal").inc()
            log.exception("an instance could not be stored")
            return RefusedError("internal", "internal error").answer
        metrics.INSTANCES.labels(outcome).inc()
        metrics.STORE_SECONDS.observe(time.perf_counter() - started)
        return SUCCESS

    def _store(self, event: evt.Event) -> str:
        request = event.request
        data_set = request.DataSet.getbuffer()
        self._admission.check(len(data_set))
        syntax = str(event.context.transfer_syntax)
        try:
            head = read_head(data_set, syntax)
        except MissingAttributeError as error:
            raise RefusedError("missing_uid", str(error)) from error
        except UnreadableInstanceError as error:
            raise RefusedError("unreadable", str(error)) from error
        if head.sop_instance_uid != request.AffectedSOPInstanceUID:
            raise RefusedError("mismatch", "SOPInstanceUID differs from the command's", element=SOP_INSTANCE)
        if head.sop_class_uid != request.AffectedSOPClassUID:
            raise RefusedError("mismatch", "SOPClassUID differs from the command's", element=SOP_CLASS)
        calling = event.assoc.requestor.ae_title.strip()
        called = str(event.assoc.requestor.primitive.called_ae_title).strip()
        outcome, series_id = self._inbox.receive(
            Incoming(
                head=head,
                transfer_syntax_uid=syntax,
                data_set=data_set,
                calling_ae=calling,
                called_ae=called,
                address=event.assoc.requestor.address or "",
            )
        )
        with self._lock:
            self._fed.setdefault(event.assoc, set()).add(series_id)
        return outcome.value

    def _on_action(self, event: evt.Event) -> tuple[int, None]:
        """Take a request for storage commitment (PS3.4 section J.3.2)."""
        try:
            wanted = event.action_information
            transaction_uid = str(wanted.TransactionUID)
            references = [
                (str(one.ReferencedSOPClassUID), str(one.ReferencedSOPInstanceUID))
                for one in wanted.ReferencedSOPSequence
            ]
        except Exception as error:  # noqa: BLE001 (pydicom raises many kinds on hostile input)
            log.warning("a storage commitment request is not understood: %s", type(error).__name__)
            return INVALID_ARGUMENT, None
        uids = [transaction_uid, *(uid for pair in references for uid in pair)]
        if event.action_type != 1 or len(references) > MAX_REFERENCES or not all(map(_is_uid, uids)):
            return INVALID_ARGUMENT, None
        calling = event.assoc.requestor.ae_title.strip()
        try:
            row_id = commitments.request(self._inbox.database, calling, transaction_uid, references)
        except UNAVAILABLE:
            return PROCESSING_FAILURE, None
        threading.Thread(
            target=self._answer_here, args=(event.assoc, row_id), name="commitment", daemon=True
        ).start()
        return SUCCESS, None

    def _answer_here(self, association: Any, row_id: int) -> None:
        """Answer on the association that asked, where it still stands; else the keeper answers on a new one."""
        time.sleep(ANSWER_HERE_SECONDS)
        if not association.is_established:
            return
        try:
            with self._inbox.database.reading() as session:
                row = session.get_one(CommitmentRequest, row_id)
                committed, failed = commitments.judge(session, self._inbox.store, row.references)
            report = scu.write_report(row.transaction_uid, committed, failed)
            answer, _ = association.send_n_event_report(
                report, 2 if failed else 1, StorageCommitmentPushModel, StorageCommitmentPushModelInstance
            )
            if answer.get("Status") == SUCCESS:
                commitments.record_answered(self._inbox.database, row_id)
        except (*UNAVAILABLE, RuntimeError, ValueError) as error:
            log.info("a storage commitment is not answered on its own association: %s", type(error).__name__)

    def _on_event_report(self, event: evt.Event) -> tuple[int, None]:
        """Take an archive's answer to our own request for storage commitment (PS3.4 section J.3.3)."""
        try:
            report = scu.read_report(event.event_information)
        except Exception as error:  # noqa: BLE001 (pydicom raises many kinds on hostile input)
            log.warning("a storage commitment report is not understood: %s", type(error).__name__)
            return INVALID_ARGUMENT, None
        try:
            known = deliveries.record_commitment(
                self._inbox.database,
                report.transaction_uid,
                committed=report.committed,
                failed=list(report.failed),
            )
        except UNAVAILABLE:
            return PROCESSING_FAILURE, None
        if not known:
            log.warning("a storage commitment report of a transaction that is not ours")
        return SUCCESS, None

    def _on_released(self, event: evt.Event) -> None:
        metrics.ASSOCIATIONS.labels("released").inc()
        with self._lock:
            fed = self._fed.pop(event.assoc, set())
            others = [series for other, series in self._fed.items() if other.is_established]
        self._inbox.released([series for series in fed if not any(series in theirs for theirs in others)])

    def _on_aborted(self, event: evt.Event) -> None:
        # Not a release in order: the sender will come again, and its series close by idle time.
        metrics.ASSOCIATIONS.labels("aborted").inc()
        with self._lock:
            self._fed.pop(event.assoc, None)
