"""The listening side below DICOM: what pynetdicom's server lacks against idle, slow and hostile peers.

- A connection that sends nothing, or no A-ASSOCIATE-RQ, never becomes an association: TCP health checks, port
  scanners and garbage cost one short-lived thread. TLS handshakes happen in that thread too.
- A PDU may not claim more than a bound, and must arrive whole within the network timeout.
- The bytes of unfinished messages of all associations together are bounded; a peer that sends requests without
  waiting for answers is not read from.
- A peer that breaks the protocol, or ends the association while we are about to speak, ends no thread; and one
  that was rejected or aborted is not waited for.
- TCP_NODELAY on every connection (PS3.8 names no option; without it loopback falls to 22 images/s).
"""

from __future__ import annotations

import contextlib
import logging
import queue
import select
import socket
import ssl
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from pynetdicom.fsm import TRANSITION_TABLE, StateMachine
from pynetdicom.transport import AssociationSocket, RequestHandler, ThreadedAssociationServer

from service.settings import MEBIBYTE

if TYPE_CHECKING:
    from pynetdicom import AE

    from service.settings import Settings

log = logging.getLogger(__name__)

ASSOCIATE_RQ = 0x01  # PDU type, PS3.8 section 9.3.2
PDU_HEAD = 6  # bytes before a PDU's variable part
# An A-ASSOCIATE-RQ with 128 contexts of many syntaxes stays below it; P-DATA is bounded by our maximum length.
MAX_PDU_BYTES = 1 << 20
# RFC 9325 (BCP 195) section 4.2: forward secrecy and authenticated encryption only. TLS 1.3 has nothing else.
CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20:DHE+AESGCM"
BACKLOG = 128  # connections that wait for accept()
# PS3.8 Table 9-10: the events that the local user makes by a primitive.
INVALID_PDU, AWAITING_REQUEST, AWAITING_CLOSE = "Evt19", "Sta2", "Sta13"
FAREWELL_SECONDS = 1.0
LOCAL_EVENTS = frozenset({"Evt1", "Evt7", "Evt8", "Evt9", "Evt11", "Evt14", "Evt15"})
MAX_QUEUED_MESSAGES = 4  # of one association; a peer that honours PS3.7 (no asynchronous operations) has one
# pynetdicom's loops turn every millisecond. One that has been quiet for a while waits for its socket instead;
# every one waits a little for its next message. An answer that is to be sent is delayed by no more than that.
QUIET_SECONDS, QUIET_POLL_SECONDS = 0.5, 0.05
MESSAGE_SECONDS = 0.01
WAITING_PER_ASSOCIATION = (
    2  # connections that have not sent their A-ASSOCIATE-RQ yet, for each allowed association
)


class Budget:
    """Bytes that unfinished messages may hold, of all associations together."""

    def __init__(self, limit: int) -> None:
        self._left = limit
        self._lock = threading.Lock()

    def take(self, size: int) -> bool:
        """Take bytes; False where there are not enough."""
        with self._lock:
            if size > self._left:
                return False
            self._left -= size
            return True

    def give(self, size: int) -> None:
        """Give bytes back."""
        with self._lock:
            self._left += size


class BoundedSocket(AssociationSocket):
    """Reads whole PDUs, within bounds of size and time.

    A bound that is broken ends the connection: pynetdicom takes the OSError for a lost peer (PS3.8 Evt17).
    """

    def __init__(self, assoc: Any, client_socket: socket.socket, server: Server) -> None:
        super().__init__(assoc, client_socket=client_socket)
        self._server = server
        self._held = 0  # bytes of the unfinished message
        self._quiet_since = time.monotonic()
        client_socket.settimeout(server.settings.network_timeout)

    @property
    def ready(self) -> bool:
        """Whether to read: not while a peer's requests pile up unanswered."""
        if self.assoc.dimse.msg_queue.qsize() >= MAX_QUEUED_MESSAGES:
            return False
        if super().ready:
            self._quiet_since = time.monotonic()
            return True
        if time.monotonic() - self._quiet_since > QUIET_SECONDS:
            self._wait()
        return False

    def _wait(self) -> None:
        """Wait for data: the caller's loop would otherwise turn 1000 times a second for an idle association."""
        connection = self.socket
        if connection is not None:
            with contextlib.suppress(OSError, ValueError):
                select.select([connection], [], [], QUIET_POLL_SECONDS)

    def recv(self, nr_bytes: int) -> bytearray:
        """Read `nr_bytes`, or less where the peer closes the connection.

        Raises
        ------
        OSError
            A bound is broken: of one PDU, of one message, of all messages, or of time.
        """
        if nr_bytes > MAX_PDU_BYTES:
            raise OSError(f"a PDU that claims {nr_bytes} bytes")
        self._charge(nr_bytes)
        try:
            received = self._receive(nr_bytes)
        except OSError:
            self._refund()
            raise
        if len(received) < nr_bytes:
            self._refund()
        return received

    def _receive(self, nr_bytes: int) -> bytearray:
        buffer = bytearray(nr_bytes)
        view = memoryview(buffer)
        done = 0
        end = time.monotonic() + self._server.settings.network_timeout
        while done < nr_bytes:
            received = self.socket.recv_into(view[done:])
            if not received:
                return buffer[:done]
            done += received
            if time.monotonic() > end:
                raise TimeoutError("a PDU that does not arrive within the network timeout")
        return buffer

    def _charge(self, size: int) -> None:
        if self.assoc.dimse.message is None:  # the previous message is complete
            self._refund()
        if self._held + size > self._server.settings.max_instance_mb * MEBIBYTE:
            self._refund()
            raise OSError("a message beyond the limit of one instance")
        if not self._server.budget.take(size):
            self._refund()
            raise OSError("no memory left for messages")
        self._held += size

    def _refund(self) -> None:
        self._server.budget.give(self._held)
        self._held = 0

    def close(self) -> None:
        """Close the connection and give its memory back."""
        self._refund()
        super().close()

    def _shutdown_socket(self) -> None:
        # pynetdicom closes the descriptor only where the peer is still connected (pynetdicom#669).
        self._refund()
        connection = self.socket
        if connection is not None:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()


class Machine(StateMachine):
    """The upper layer's state machine (PS3.8 Table 9-10), made fit for peers that break the protocol.

    pynetdicom ends the association's thread in the middle where the table is empty (e.g. Evt7 in Sta13: our
    acceptance, after the peer has gone), or where a PDU decodes but has no meaning (an even context id).
    """

    def do_action(self, event: str) -> None:
        """Take an event; one that its state does not know is dropped, with the primitive it stands for."""
        waiting = self.dul.to_provider_queue
        if event in LOCAL_EVENTS and waiting.empty():  # announced twice; the first took the primitive
            return
        if (event, self.current_state) not in TRANSITION_TABLE:
            if event in LOCAL_EVENTS:
                waiting.get_nowait()
            return
        before = self.current_state
        try:
            super().do_action(event)
        except Exception as error:
            log.warning("a PDU is not understood (%s in %s)", type(error).__name__, before)
            if event == INVALID_PDU:
                raise
            self.dul._kill_thread = False  # noqa: SLF001 (pynetdicom has just given the association up)
            self.do_action(INVALID_PDU)
            return
        if self.current_state == AWAITING_CLOSE and before != AWAITING_CLOSE:
            # A rejected or aborted peer has little time to close (ARTIM): else it would hold an association.
            self.dul.artim_timer.timeout = FAREWELL_SECONDS
            if before == AWAITING_REQUEST:
                self.dul.to_user_queue.put(None)  # there will be no association to wait for


def _next_message(dimse: Any, block: bool = False) -> tuple[int | None, Any]:
    """Stand for DIMSEServiceProvider.get_msg, which returns at once where it is not to block."""
    try:
        found: tuple[int, Any] = dimse.msg_queue.get(timeout=dimse.dimse_timeout if block else MESSAGE_SECONDS)
    except queue.Empty:
        return None, None
    return found


class Handler(RequestHandler):
    """Lets a connection become an association once it has sent the first byte of an A-ASSOCIATE-RQ."""

    server: Server

    def handle(self) -> None:
        """Check, and start the association."""
        connection: socket.socket = self.request  # type: ignore[has-type]
        try:
            connection.settimeout(self.server.settings.acse_timeout)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self.server.tls is not None:
                connection = self.request = self.server.tls.wrap_socket(connection, server_side=True)
            elif connection.recv(1, socket.MSG_PEEK) != bytes([ASSOCIATE_RQ]):
                raise ConnectionError
        except OSError as error:  # a health check, garbage, silence, or a failed TLS handshake
            if isinstance(error, ssl.SSLError):
                log.warning("TLS handshake with %s failed: %s", self.client_address[0], error.reason)
            self.server.shutdown_request(connection)
            return
        super().handle()

    def _create_association(self) -> Any:
        association = super()._create_association()
        association.dul.socket = BoundedSocket(association, self.request, self.server)
        association.dul.event_queue.get_nowait()  # both sockets announced the connection (Evt5); it is one
        machine = Machine(association.dul)
        machine.current_state = association.dul.state_machine.current_state
        association.dul.state_machine = machine
        association.dimse.get_msg = partial(_next_message, association.dimse)
        return association


class Server(ThreadedAssociationServer):
    """pynetdicom's threaded server with our connections.

    Raises
    ------
    OSError
        The address cannot be bound.
    """

    daemon_threads = True
    block_on_close = False
    request_queue_size = BACKLOG

    def __init__(self, ae: AE, settings: Settings, handlers: list[Any], tls: ssl.SSLContext | None) -> None:
        self.settings = settings
        self.tls = tls
        self.budget = Budget(settings.max_receive_memory_mb * MEBIBYTE)
        self._waiting: dict[socket.socket, None] = {}  # oldest first
        self._lock = threading.Lock()
        super().__init__(
            ae,
            (settings.dicom_host, settings.dicom_port),
            settings.ae_title,
            ae.supported_contexts,
            evt_handlers=handlers,
            request_handler=Handler,
        )
        ae._servers.append(self)  # noqa: SLF001 (as AE.start_server does: it counts associations by this list)

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept a connection; the TLS handshake comes later, in the connection's own thread."""
        connection, address = self.socket.accept()
        return connection, address

    def process_request(self, request: Any, client_address: Any) -> None:
        """Handle a connection in a thread of its own.

        Where too many have not asked for an association yet, the oldest of them is dropped for this one: idle
        connections cannot keep a scanner out.
        """
        with self._lock:
            self._waiting[request] = None
            if len(self._waiting) > WAITING_PER_ASSOCIATION * self.settings.max_associations:
                oldest = next(iter(self._waiting))
                del self._waiting[oldest]
                with contextlib.suppress(OSError):
                    oldest.shutdown(socket.SHUT_RDWR)  # its thread wakes up and closes it
        threading.Thread(
            target=self.process_request_thread, args=(request, client_address), name="connection", daemon=True
        ).start()

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Handle a connection until it is an association, or closed."""
        try:
            self.finish_request(request, client_address)
        except Exception:
            log.exception("a connection could not be handled")
            self.shutdown_request(request)
        finally:
            with self._lock:
                self._waiting.pop(request, None)

    def stop_listening(self) -> None:
        """Accept no more; running associations go on."""
        super().shutdown()


def tls_context(settings: Settings) -> ssl.SSLContext | None:
    """Return the context of mutual TLS after BCP 195 (PS3.15 Annex B.12), or None where none is configured.

    Raises
    ------
    ssl.SSLError, OSError
        A file is no PEM, or the key does not fit the certificate.
    """
    if settings.tls_certificate is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(settings.tls_certificate, settings.tls_key)
    context.load_verify_locations(settings.tls_ca)
    return context
