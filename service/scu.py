"""DIMSE client: what the node asks of its peers. Echo, store, find, move, get, and storage commitment.

Every function opens one association, does one thing, releases. A peer that does not answer, rejects the
association or lacks resources raises ArchiveUnavailableError (worth another try); a peer that answers with a
lasting refusal raises PeerRefusedError. Messages carry UIDs, never patient data.
"""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_file_meta_info
from pydicom.uid import (
    UID,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    EnhancedCTImageStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)
from pynetdicom import AE, _config, build_context, build_role, evt
from pynetdicom.sop_class import (
    StorageCommitmentPushModel,
    StorageCommitmentPushModelInstance,
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
    Verification,
)
from pynetdicom.transport import AssociationSocket

from calcium.errors import AgatstonError, ArchiveUnavailableError, SettingsError

CONNECT_SECONDS = 10.0
"""To open the TCP connection; a host that is down must not hold a worker."""
ANSWER_SECONDS = 60.0
"""For each DIMSE answer; archives that index on the store answer within some seconds."""
MAX_PDU = 131_072
"""Bytes of a P-DATA PDU that we can take (PS3.8 Annex D.1); larger PDUs mean fewer wake-ups."""
MAX_CONTEXTS = 128
"""Presentation contexts of one association: odd identifiers up to 255 (PS3.8 section 9.3.2.2)."""

SUCCESS, PENDING, PENDING_WITH_WARNING, CANCELLED = 0x0000, 0xFF00, 0xFF01, 0xFE00
CANNOT_UNDERSTAND = 0xC000  # PS3.4 Table B.2-1
NOT_NEGOTIATED = 0x0122
"""Our status for a file whose SOP class or syntax the peer accepts in no form (PS3.7 Annex C.5.6)."""
STORED = frozenset({SUCCESS, 0xB000, 0xB006, 0xB007})
"""Success and the warnings with which the instance is nevertheless stored (PS3.4 Table B.2-1)."""
NO_SUCH_OBJECT = 0x0112  # Failure Reason (0008,1197), PS3.3 section C.14.1.1


def _shut_and_close(connection: AssociationSocket) -> None:
    """Close a socket whether or not it was connected.

    pynetdicom 3.0.4 leaves a refused connection's socket open: `shutdown` of an unconnected socket raises
    before its `close` is reached.
    """
    if connection.socket is not None:
        with contextlib.suppress(OSError):
            connection.socket.shutdown(socket.SHUT_RDWR)
        connection.socket.close()


AssociationSocket._shutdown_socket = _shut_and_close  # noqa: SLF001
# A path given to send_c_store is streamed from disk: neither decoded nor held in memory.
_config.STORE_SEND_CHUNKED_DATASET = True

UNCOMPRESSED = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
RE_ENCODABLE = frozenset({*UNCOMPRESSED, DeflatedExplicitVRLittleEndian})
"""Syntaxes whose data sets can be written in the others without touching a pixel."""
WANTED_SYNTAXES = (
    ExplicitVRLittleEndian, ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, RLELossless, JPEGLSLossless,
    JPEGLosslessSV1, JPEGLossless, JPEG2000Lossless,
)  # fmt: skip
"""What a C-GET takes, most wanted first."""
WANTED_CLASSES = (CTImageStorage, EnhancedCTImageStorage)

_ADDRESS = re.compile(r"(?P<aet>[^@\\\x00-\x1f]{1,16})@(?P<host>\[[0-9A-Fa-f:.]+\]|[^@:\s]+):(?P<port>\d{1,5})")


class PeerRefusedError(AgatstonError):
    """The peer answered, and its answer is a refusal that no retry cures."""

    code = "peer_refused"


class RejectedError(ArchiveUnavailableError):
    """The peer is there, but rejects our association: it does not know one of the AE titles, or is full."""

    code = "association_rejected"


class NoContextError(ArchiveUnavailableError):
    """The peer takes the association, but none of the proposed presentation contexts."""

    code = "no_presentation_context"


@dataclass(frozen=True, slots=True)
class Peer:
    """Where a DICOM peer listens and how to talk to it.

    Parameters
    ----------
    aet
        Its AE title, 1 to 16 characters (PS3.5 section 6.2, VR AE).
    host, port
        Name or address, and TCP port.
    tls
        How to encrypt, see `tls_context`; None for plain TCP.
    """

    aet: str
    host: str
    port: int
    tls: ssl.SSLContext | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if not 0 < len(self.aet.strip()) <= 16:
            raise SettingsError(f"an AE title has 1 to 16 characters, not {self.aet!r}")
        if not 0 < self.port < 65536:
            raise SettingsError(f"a TCP port lies between 1 and 65535, not {self.port}")

    @classmethod
    def parse(cls, address: str, tls: ssl.SSLContext | None = None) -> Peer:
        """Read the form ``AET@host:port``.

        Raises
        ------
        SettingsError
            It has another form.
        """
        match = _ADDRESS.fullmatch(address.strip())
        if match is None:
            raise SettingsError(f"a DICOM peer is written AET@host:port, not {address!r}")
        return cls(match["aet"], match["host"].strip("[]"), int(match["port"]), tls)

    def __str__(self) -> str:
        return f"{self.aet}@{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class StoreOutcome:
    """What the peer said about one file.

    Parameters
    ----------
    sop_instance_uid
        Of the file.
    status
        Status of the C-STORE answer (PS3.4 Table B.2-1); None where none came.
    comment
        Error Comment (0000,0902) of the answer or our own words.
    """

    sop_instance_uid: str
    status: int | None
    comment: str = ""

    @property
    def stored(self) -> bool:
        """Whether the peer has the instance now."""
        return self.status in STORED

    @property
    def transient(self) -> bool:
        """Whether another try may help: no answer, out of resources (A7xx), or a processing failure (0110)."""
        return self.status is None or self.status & 0xFF00 == 0xA700 or self.status == 0x0110


@dataclass(frozen=True, slots=True)
class RetrieveOutcome:
    """Sub-operations of a C-MOVE or C-GET (PS3.4 sections C.4.2.1.6 to C.4.2.1.9)."""

    status: int
    completed: int
    failed: int
    warned: int
    failed_uids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Received:
    """An instance that a C-GET brought, encoded as it came.

    Parameters
    ----------
    sop_class_uid, sop_instance_uid, transfer_syntax_uid
        Of the C-STORE sub-operation.
    data_set
        Encoded data set, without file meta information.
    file
        The same as a DICOM file (PS3.10): preamble, file meta information, data set.
    """

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    data_set: bytes
    file: bytes


@dataclass(frozen=True, slots=True)
class CommitmentReport:
    """A peer's answer to a request for storage commitment (PS3.4 section J.3.3)."""

    transaction_uid: str
    committed: tuple[str, ...]
    failed: Mapping[str, int]  # SOP Instance UID: Failure Reason (0008,1197)


def tls_context(*, ca: Path, certificate: Path | None = None, key: Path | None = None) -> ssl.SSLContext:
    """Return a client's TLS settings after BCP 195 (PS3.15 section B.12): TLS 1.2 or later, server verified.

    Parameters
    ----------
    ca
        PEM file of the authority that signed the peer's certificate.
    certificate, key
        PEM files of our own certificate, for mutual authentication.

    Raises
    ------
    SettingsError
        A file is absent or not PEM.
    """
    try:
        context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=str(ca))
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if certificate is not None:
            context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise SettingsError(f"TLS certificates cannot be loaded: {error}") from error
    return context


def echo(peer: Peer, *, calling_ae: str = "AGATSTON", timeout: float = ANSWER_SECONDS) -> None:
    """Ask the peer whether it is there (C-ECHO, PS3.4 Annex A).

    Raises
    ------
    ArchiveUnavailableError
        It does not answer, rejects the association, or answers with another status than 0000.
    """
    with _association(peer, [build_context(Verification)], calling_ae, timeout) as association:
        status = _status(association.send_c_echo())
        if status != SUCCESS:
            raise ArchiveUnavailableError(f"{peer} answers C-ECHO with {_text(status)}")


def store(
    peer: Peer, files: Sequence[Path], *, calling_ae: str = "AGATSTON", timeout: float = ANSWER_SECONDS
) -> list[StoreOutcome]:
    """Send DICOM files, each in its own transfer syntax; one outcome for each, in the order of `files`.

    A syntax that the peer refuses is replaced by explicit, else implicit VR little endian where the file's
    pixel data are not compressed (a data set re-encoded so has the same values).

    Parameters
    ----------
    peer, files
        Who gets them, and PS3.10 files.
    calling_ae, timeout
        Our AE title, and seconds for each answer.

    Raises
    ------
    ArchiveUnavailableError
        No association could be opened. Once one is open, a lost answer is an outcome without status.
    FileNotFoundError
        A file does not exist. (One that is not DICOM is an outcome with status C000.)
    """
    outcomes: dict[Path, StoreOutcome] = {}
    kinds: dict[Path, tuple[str, str, str]] = {}
    for path in files:
        try:
            meta = read_file_meta_info(path)
            kinds[path] = (
                str(meta.MediaStorageSOPInstanceUID),
                str(meta.MediaStorageSOPClassUID),
                str(meta.TransferSyntaxUID),
            )
        except (InvalidDicomError, AttributeError, EOFError, KeyError, ValueError):
            outcomes[path] = StoreOutcome("", CANNOT_UNDERSTAND, "not a DICOM file")
    for batch, contexts in _batches(kinds):
        try:
            opened = _association(peer, [build_context(*pair) for pair in contexts], calling_ae, timeout)
            with opened as association:
                accepted = {
                    (str(one.abstract_syntax), str(one.transfer_syntax[0]))
                    for one in association.accepted_contexts
                }
                for number, path in enumerate(batch):
                    outcomes[path] = _store_one(association, path, kinds[path], accepted, number)
        except NoContextError:
            outcomes |= {path: _not_negotiated(kinds[path]) for path in batch}
    return [outcomes[path] for path in files]


def find(
    peer: Peer,
    level: str,
    keys: Mapping[str, str],
    *,
    calling_ae: str = "AGATSTON",
    timeout: float = ANSWER_SECONDS,
    limit: int | None = None,
) -> list[Dataset]:
    """Ask what the peer holds (C-FIND, Study Root, PS3.4 section C.4.1).

    Parameters
    ----------
    level
        ``STUDY``, ``SERIES`` or ``IMAGE``; the unique keys of the levels above must stand in `keys`
        (hierarchical search, PS3.4 section C.4.1.3.1).
    keys
        Keyword: value to match; an empty value asks for the attribute.
    limit
        Matches after which the query is cancelled; None for all.

    Raises
    ------
    ArchiveUnavailableError
        No answer, no association, or A700 (out of resources).
    PeerRefusedError
        Any other failure status.
    """
    query = _identifier(level, keys)
    matches: list[Dataset] = []
    model = StudyRootQueryRetrieveInformationModelFind
    with _association(peer, [build_context(model, list(UNCOMPRESSED))], calling_ae, timeout) as association:
        for answer, identifier in association.send_c_find(query, model):
            status = _status(answer)
            if status in (PENDING, PENDING_WITH_WARNING):
                if identifier is not None and (limit is None or len(matches) < limit):
                    matches.append(identifier)
                    if len(matches) == limit:
                        association.send_c_cancel(1, query_model=model)
                continue
            if status not in (SUCCESS, CANCELLED):
                _refuse(peer, "C-FIND", status, answer)
    return matches


def move(
    peer: Peer,
    *,
    study_instance_uid: str,
    series_instance_uid: str | None = None,
    sop_instance_uids: Sequence[str] = (),
    destination_ae: str,
    calling_ae: str = "AGATSTON",
    timeout: float = ANSWER_SECONDS,
) -> RetrieveOutcome:
    """Let the peer send a study, series or some instances to `destination_ae` (C-MOVE, PS3.4 section C.4.2).

    Raises
    ------
    ArchiveUnavailableError
        No answer, no association, or out of resources (A701, A702).
    PeerRefusedError
        Any other failure, e.g. A801: the peer does not know `destination_ae`.
    """
    model = StudyRootQueryRetrieveInformationModelMove
    query = _retrieve_identifier(study_instance_uid, series_instance_uid, sop_instance_uids)
    with _association(peer, [build_context(model, list(UNCOMPRESSED))], calling_ae, timeout) as association:
        return _retrieved(peer, "C-MOVE", association.send_c_move(query, destination_ae, model))


def get(
    peer: Peer,
    receive: Callable[[Received], int],
    *,
    study_instance_uid: str,
    series_instance_uid: str | None = None,
    sop_instance_uids: Sequence[str] = (),
    calling_ae: str = "AGATSTON",
    timeout: float = ANSWER_SECONDS,
) -> RetrieveOutcome:
    """Fetch CT instances on our own association (C-GET, PS3.4 section C.4.3).

    Parameters
    ----------
    receive
        Called for each instance; returns the status of its C-STORE answer: 0000 only when it is durable.
    study_instance_uid, series_instance_uid, sop_instance_uids
        What to fetch; a series of None is the whole study, no instances are the whole series.

    Raises
    ------
    ArchiveUnavailableError, PeerRefusedError
        As `move`.
    """
    model = StudyRootQueryRetrieveInformationModelGet
    query = _retrieve_identifier(study_instance_uid, series_instance_uid, sop_instance_uids)
    contexts = [build_context(model, list(UNCOMPRESSED))]
    # One context for each syntax, so that the peer sends each instance as it is stored.
    contexts += [build_context(one, syntax) for one in WANTED_CLASSES for syntax in WANTED_SYNTAXES]
    # PS3.7 section D.3.3.4: the requestor of the association acts as SCP of the storage classes.
    roles = [build_role(one, scp_role=True) for one in WANTED_CLASSES]

    def handle(event: Any) -> int:
        request = event.request
        return receive(
            Received(
                str(request.AffectedSOPClassUID),
                str(request.AffectedSOPInstanceUID),
                str(event.context.transfer_syntax),
                event.encoded_dataset(include_meta=False),
                event.encoded_dataset(),
            )
        )

    with _association(
        peer, contexts, calling_ae, timeout, roles=roles, handlers=[(evt.EVT_C_STORE, handle)]
    ) as association:
        return _retrieved(peer, "C-GET", association.send_c_get(query, model))


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
            arrived.set()
        return SUCCESS, None

    context = build_context(StorageCommitmentPushModel, list(UNCOMPRESSED))
    with _association(
        peer, [context], calling_ae, timeout, handlers=[(evt.EVT_N_EVENT_REPORT, handle)]
    ) as association:
        answer, _ = association.send_n_action(
            request, 1, StorageCommitmentPushModel, StorageCommitmentPushModelInstance
        )
        status = _status(answer)
        if status != SUCCESS:
            _refuse(peer, "N-ACTION (storage commitment)", status, answer)
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
    with _association(peer, [context], calling_ae, timeout, roles=[role]) as association:
        answer, _ = association.send_n_event_report(
            write_report(transaction_uid, committed, failed),
            event_type, StorageCommitmentPushModel, StorageCommitmentPushModelInstance,
        )  # fmt: skip
        status = _status(answer)
        if status != SUCCESS:
            _refuse(peer, "N-EVENT-REPORT (storage commitment)", status, answer)


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


@contextlib.contextmanager
def _association(
    peer: Peer,
    contexts: Sequence[Any],
    calling_ae: str,
    timeout: float,
    *,
    roles: Sequence[Any] = (),
    handlers: Sequence[Any] = (),
) -> Iterator[Any]:
    """Open an association, release it at the end, abort it when the block raises."""
    entity = AE(ae_title=calling_ae)
    entity.connection_timeout = min(CONNECT_SECONDS, timeout)
    entity.acse_timeout = entity.dimse_timeout = timeout
    entity.network_timeout = 2 * timeout  # longer, so that a late answer is a DIMSE timeout first
    try:
        association = entity.associate(
            peer.host,
            peer.port,
            list(contexts),
            ae_title=peer.aet,
            max_pdu=MAX_PDU,
            ext_neg=list(roles),
            tls_args=(peer.tls, peer.host) if peer.tls is not None else None,
            evt_handlers=[(evt.EVT_CONN_OPEN, _no_delay), *handlers],
        )
    except (OSError, UnicodeError) as error:  # a name that does not resolve, or that IDNA cannot write
        raise ArchiveUnavailableError(f"{peer} cannot be reached: {error}") from error
    if not association.is_established:
        raise _why_not(peer, association)
    try:
        yield association
    except BaseException:
        if association.is_established:
            association.abort()
        raise
    if association.is_established:
        association.release()


def _why_not(peer: Peer, association: Any) -> ArchiveUnavailableError:
    if association.is_rejected:
        answer = association.acceptor.primitive
        reason = f"{answer.result_str.lower()}, {answer.reason_str.lower()}"
        return RejectedError(f"{peer} rejects the association: {reason}")
    if association.acceptor.primitive is not None and not association.accepted_contexts:
        return NoContextError(f"{peer} accepts none of the proposed presentation contexts")
    return ArchiveUnavailableError(
        f"{peer} does not answer (refused connection, timeout, failed TLS, or an aborted association)"
    )


def _no_delay(event: Any) -> None:
    """Switch Nagle's algorithm off: pynetdicom never does, and answers then wait 40 ms each."""
    connection = event.assoc.dul.socket.socket
    with contextlib.suppress(OSError, AttributeError):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _proposals(sop_class_uid: str, syntax: str) -> list[tuple[str, str]]:
    """Return the contexts that carry a file: its own syntax first, then those it can be re-encoded in."""
    syntaxes = [syntax]
    if syntax in RE_ENCODABLE:
        syntaxes += [str(one) for one in UNCOMPRESSED if one != syntax]
    return [(sop_class_uid, one) for one in syntaxes]


def _batches(
    kinds: Mapping[Path, tuple[str, str, str]],
) -> Iterator[tuple[list[Path], list[tuple[str, str]]]]:
    """Group files so that the contexts of each group fit one association."""
    batch: list[Path] = []
    contexts: dict[tuple[str, str], None] = {}  # a set in the order of first use
    for path, (_, sop_class_uid, syntax) in kinds.items():
        more = dict.fromkeys(_proposals(sop_class_uid, syntax))
        if batch and len(contexts | more) > MAX_CONTEXTS:
            yield batch, list(contexts)
            batch, contexts = [], {}
        batch.append(path)
        contexts |= more
    if batch:
        yield batch, list(contexts)


def _store_one(
    association: Any, path: Path, kind: tuple[str, str, str], accepted: set[tuple[str, str]], number: int
) -> StoreOutcome:
    sop_instance_uid, sop_class_uid, syntax = kind
    chosen = next((one for one in _proposals(sop_class_uid, syntax) if one in accepted), None)
    if chosen is None:
        return _not_negotiated(kind)
    try:
        answer = _send(association, path, kind, chosen[1], number % 65535 + 1)
    except RuntimeError:  # pynetdicom: the association is no longer established
        return StoreOutcome(sop_instance_uid, None, "the association ended before the file was sent")
    except OSError as error:  # half a message may be on the wire
        association.abort()
        return StoreOutcome(sop_instance_uid, None, f"the file cannot be read: {error.strerror}")
    except (ValueError, AttributeError, KeyError, InvalidDicomError):
        return StoreOutcome(sop_instance_uid, CANNOT_UNDERSTAND, "the file cannot be encoded for sending")
    status = _status(answer)
    comment = "no answer" if status is None else str(answer.get("ErrorComment", "") or "")
    return StoreOutcome(sop_instance_uid, status, comment)


def _not_negotiated(kind: tuple[str, str, str]) -> StoreOutcome:
    names = f"{UID(kind[1]).name} in {UID(kind[2]).name}"
    return StoreOutcome(kind[0], NOT_NEGOTIATED, f"the peer accepts neither {names} nor a fall-back")


def _send(association: Any, path: Path, kind: tuple[str, str, str], syntax: str, message_id: int) -> Dataset:
    """C-STORE a file: its bytes as they lie on disk, or re-encoded where `syntax` is not its own."""
    source = path if syntax == kind[2] else dcmread(path)  # pynetdicom re-encodes a Dataset, a path it streams
    return association.send_c_store(source, msg_id=message_id)  # type: ignore[no-any-return]


def _identifier(level: str, keys: Mapping[str, Any]) -> Dataset:
    query = Dataset()
    query.QueryRetrieveLevel = level
    for keyword, value in keys.items():
        setattr(query, keyword, value)
    return query


def _retrieve_identifier(study: str, series: str | None, instances: Sequence[str]) -> Dataset:
    if series is None:
        return _identifier("STUDY", {"StudyInstanceUID": study})
    keys: dict[str, Any] = {"StudyInstanceUID": study, "SeriesInstanceUID": series}
    if not instances:
        return _identifier("SERIES", keys)
    return _identifier("IMAGE", {**keys, "SOPInstanceUID": list(instances)})


def _retrieved(peer: Peer, service: str, answers: Iterator[tuple[Dataset, Dataset | None]]) -> RetrieveOutcome:
    for answer, identifier in answers:
        status = _status(answer)
        if status == PENDING:
            continue
        # B000: complete, one or more failures (PS3.4 Table C.4-2): an outcome, not a refusal.
        if status not in (SUCCESS, 0xB000, CANCELLED) and not answer.get("NumberOfCompletedSuboperations"):
            _refuse(peer, service, status, answer)
        failed = identifier.get("FailedSOPInstanceUIDList") if identifier is not None else None
        return RetrieveOutcome(
            status if status is not None else 0,
            int(answer.get("NumberOfCompletedSuboperations") or 0),
            int(answer.get("NumberOfFailedSuboperations") or 0),
            int(answer.get("NumberOfWarningSuboperations") or 0),
            tuple(str(one) for one in ([failed] if isinstance(failed, str) else failed or [])),
        )
    raise ArchiveUnavailableError(f"{peer} ends {service} without a final answer")


def _status(answer: Dataset) -> int | None:
    """Status (0000,0900); pynetdicom gives an empty data set when no answer came."""
    return int(answer.Status) if "Status" in answer else None


def _text(status: int | None) -> str:
    return "no status" if status is None else f"status {status:04X}H"


def _refuse(peer: Peer, service: str, status: int | None, answer: Dataset) -> None:
    if status is None:
        raise ArchiveUnavailableError(f"{peer} does not answer {service}")
    comment = str(answer.get("ErrorComment", "") or "")
    message = f"{peer} answers {service} with {_text(status)}" + (f": {comment}" if comment else "")
    if status & 0xFF00 == 0xA700:  # refused, out of resources
        raise ArchiveUnavailableError(message)
    raise PeerRefusedError(message)
