"""Peers, and associations with them: opened, used, released, and every way that fails told apart.

A peer that does not answer, rejects the association or lacks resources raises ArchiveUnavailableError (worth
another try); one that answers with a lasting refusal raises PeerRefusedError. Messages carry UIDs, never
patient data.
"""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from pydicom.dataset import Dataset
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, evt
from pynetdicom.transport import AssociationSocket

from calcium.errors import AgatstonError, ArchiveUnavailableError, SettingsError
from service.implementation import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME

CONNECT_SECONDS = 10.0
"""To open the TCP connection; a host that is down must not hold a worker."""
ANSWER_SECONDS = 60.0
"""For each DIMSE answer; archives that index on the store answer within some seconds."""
MAX_PDU = 131_072
"""Bytes of a P-DATA PDU that we can take (PS3.8 Annex D.1); larger PDUs mean fewer wake-ups."""

SUCCESS, PENDING, PENDING_WITH_WARNING, CANCELLED = 0x0000, 0xFF00, 0xFF01, 0xFE00
UNCOMPRESSED = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)

_ADDRESS = re.compile(r"(?P<aet>[^@\\\x00-\x1f]{1,16})@(?P<host>\[[0-9A-Fa-f:.]+\]|[^@:\s]+):(?P<port>\d{1,5})")


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


class _Checkpoint:
    """Where an association's own thread waits while we send a request and read its answers.

    pynetdicom 3.0.4 has an Event here, and takes that thread for waiting when it has been woken, but does not
    run yet: after a quick second request it then reads the first answer itself and drops it, and a C-FIND seems
    to find less than the archive holds. Here `clear` returns when the thread does wait.
    """

    def __init__(self, association: threading.Thread) -> None:
        self._association = association
        self._changed = threading.Condition()
        self._open = True
        self._waits = False

    def set(self) -> None:
        """Let the association's thread go on."""
        with self._changed:
            self._open, self._waits = True, False
            self._changed.notify_all()

    def clear(self) -> None:
        """Stop the association's thread at its next `wait`, and return when it waits or has ended."""
        with self._changed:
            self._open = False
            while (
                threading.current_thread() is not self._association
                and not self._waits
                and self._association.is_alive()
            ):
                self._changed.wait(0.1)

    def wait(self) -> None:
        """Wait until it is open."""
        with self._changed:
            # One that was opened and closed again before we ran: we still wait, and say so again.
            while not self._open:
                self._waits = True
                self._changed.notify_all()
                self._changed.wait()


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


@contextlib.contextmanager
def open_association(
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
    entity.implementation_class_uid = IMPLEMENTATION_CLASS_UID
    entity.implementation_version_name = IMPLEMENTATION_VERSION_NAME
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
    association._reactor_checkpoint = _Checkpoint(association)  # noqa: SLF001
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


def require_context(peer: Peer, association: Any, abstract_syntax: str) -> None:
    """Check that the peer accepted a context for a service, of several that were proposed.

    Raises
    ------
    NoContextError
        It did not.
    """
    if not any(one.abstract_syntax == abstract_syntax for one in association.accepted_contexts):
        raise NoContextError(f"{peer} does not offer {UID(abstract_syntax).name}")


def _no_delay(event: Any) -> None:
    """Switch Nagle's algorithm off: pynetdicom never does, and answers then wait 40 ms each."""
    connection = event.assoc.dul.socket.socket
    with contextlib.suppress(OSError, AttributeError):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def status_of(answer: Dataset) -> int | None:
    """Status (0000,0900); pynetdicom gives an empty data set when no answer came."""
    return int(answer.Status) if "Status" in answer else None


def text_of(status: int | None) -> str:
    """Write a status as the standard does."""
    return "no status" if status is None else f"status {status:04X}H"


def refuse(peer: Peer, service: str, status: int | None, answer: Dataset) -> NoReturn:
    """Raise what a failure status means: A7xx (out of resources) is worth another try, the others are not."""
    if status is None:
        raise ArchiveUnavailableError(f"{peer} does not answer {service}")
    comment = str(answer.get("ErrorComment", "") or "")
    message = f"{peer} answers {service} with {text_of(status)}" + (f": {comment}" if comment else "")
    if status & 0xFF00 == 0xA700:  # refused, out of resources
        raise ArchiveUnavailableError(message)
    raise PeerRefusedError(message)
