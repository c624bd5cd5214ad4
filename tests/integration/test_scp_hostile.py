"""Who may come in, and what idle, slow and hostile peers can do: nothing."""

from __future__ import annotations

import contextlib
import datetime as dt
import socket
import ssl
import struct
import threading
import time
from io import BytesIO

import peers
import psutil
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.dsutils import encode
from pynetdicom.sop_class import Verification
from receiving import ct_instance, ct_series, receiver, write_all
from sqlalchemy import select

from calcium.errors import SettingsError
from service.tables import Instance


def associate(node, *, calling="SCANNER", called="AGATSTON", **kwargs):
    entity = AE(ae_title=calling)
    entity.add_requested_context(CTImageStorage, ExplicitVRLittleEndian)
    entity.add_requested_context(Verification)
    return entity.associate("127.0.0.1", node.port, ae_title=called, **kwargs)


def rejection(association):
    primitive = association.acceptor.primitive
    return (primitive.result, primitive.result_source, primitive.diagnostic)


def threads_named(*names):
    return [thread for thread in threading.enumerate() if any(name in thread.name for name in names)]


def test_unknown_titles_and_addresses_are_rejected(tmp_path):
    known = '[{"aet": "CT1"}, {"aet": "CT2", "networks": ["10.0.0.0/8"]}]'
    with receiver(tmp_path, peers=known, check_called_ae="true") as node:
        assert rejection(associate(node, calling="OTHER")) == (1, 1, 3)
        assert rejection(associate(node, calling="CT2")) == (1, 1, 3)
        assert rejection(associate(node, calling="CT1", called="ELSEWHERE")) == (1, 1, 7)
        allowed = associate(node, calling="CT1")
        assert allowed.is_established
        assert allowed.send_c_store(ct_instance()).Status == 0x0000
        allowed.release()


def test_one_peer_cannot_take_all_associations(tmp_path):
    with receiver(tmp_path, max_associations_per_peer=2) as node:
        held = [associate(node), associate(node)]
        assert all(association.is_established for association in held)
        assert rejection(associate(node)) == (2, 3, 2)
        other = associate(node, calling="OTHER")
        assert other.is_established
        for association in (*held, other):
            association.release()
        peers.wait_for(lambda: not node.scp._server.active_associations, what="the end of the associations")
        again = associate(node)
        assert again.is_established
        again.release()


def test_a_taken_port_is_a_settings_error(tmp_path, monkeypatch):
    monkeypatch.setattr("service.scp.BIND_SECONDS", 0.3)
    with receiver(tmp_path / "a") as node:
        second = receiver(tmp_path / "b", dicom_port=node.port)
        with pytest.raises(SettingsError, match="AGATSTON_DICOM_PORT: cannot listen"):
            second.__enter__()


def test_health_checks_and_garbage_become_no_association(tmp_path):
    with receiver(tmp_path, acse_timeout=1) as node:
        process = psutil.Process()
        before = process.num_fds()
        for number in range(150):
            with socket.create_connection(("127.0.0.1", node.port)) as connection:
                if number % 3 == 1:
                    connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
                if number % 3 == 2:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # RST
        peers.wait_for(lambda: not threads_named("connection", "AcceptorThread"), what="the end of the threads")
        assert process.num_fds() <= before + 2
        assert node.send([ct_instance()]) == [0x0000]


def test_silent_connections_do_not_exhaust_the_node(tmp_path):
    with receiver(tmp_path, acse_timeout=5, max_associations=4) as node, contextlib.ExitStack() as stack:
        for _ in range(40):
            stack.enter_context(socket.create_connection(("127.0.0.1", node.port)))
        peers.wait_for(lambda: len(threads_named("connection")) == 8, what="no more than the limit")
        assert node.send([ct_instance()]) == [0x0000]  # the oldest silent one gave way
        peers.wait_for(lambda: not threads_named("connection"), what="the end of the silent ones")


@pytest.mark.parametrize(
    "sent",
    [
        struct.pack(">BBL", 1, 0, 0xFFFFFFF0) + b"x" * 100,  # a PDU that claims 4 GB
        struct.pack(">BBL", 1, 0, 200) + b"x" * 10,  # one that never arrives whole
        struct.pack(">BBL", 1, 0, 100) + b"\xff" * 100,  # nonsense of the right length
        struct.pack(">BBL", 4, 0, 10) + b"\0" * 10,  # data without an association
    ],
)
def test_broken_pdus_end_in_time(tmp_path, sent):
    with receiver(tmp_path, acse_timeout=1, network_timeout=1) as node:
        with socket.create_connection(("127.0.0.1", node.port)) as connection:
            connection.sendall(sent)
            connection.settimeout(10)
            with contextlib.suppress(ConnectionError):
                while connection.recv(1000):
                    pass
        peers.wait_for(lambda: not threads_named("connection", "AcceptorThread"), what="the end of the threads")
        assert node.send([ct_instance()]) == [0x0000]


def request_bytes(calling=b"SCANNER", context=1):
    """Return an A-ASSOCIATE-RQ (PS3.8 Table 9-11) for CT, all items by hand."""

    def item(kind, body):
        return struct.pack(">BBH", kind, 0, len(body)) + body

    syntaxes = item(0x30, CTImageStorage.encode()) + item(0x40, ExplicitVRLittleEndian.encode())
    items = item(0x10, b"1.2.840.10008.3.1.1.1")
    items += item(0x20, bytes([context, 0, 0, 0]) + syntaxes)
    items += item(0x50, item(0x51, struct.pack(">L", 16384)) + item(0x52, b"2.25.1"))
    head = struct.pack(">HH16s16s32x", 1, 0, b"AGATSTON".ljust(16), calling.ljust(16))
    return struct.pack(">BBL", 1, 0, len(head + items)) + head + items


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        (request_bytes(context=2), 7),  # no context has an even number (PS3.8 section 9.3.2.2): A-ABORT
        (request_bytes(b"OTHER"), 3),  # A-ASSOCIATE-RJ
        (request_bytes()[:-4] + b"\xff" * 4, 7),  # an item that is longer than its PDU
    ],
    ids=["even context", "rejected", "broken item"],
)
def test_a_peer_that_was_sent_away_holds_nothing(tmp_path, sent, answer, monkeypatch):
    died = []
    monkeypatch.setattr(threading, "excepthook", lambda arguments: died.append(arguments.exc_value))
    with receiver(tmp_path, peers='[{"aet": "SCANNER"}]', acse_timeout=600, network_timeout=600) as node:
        with socket.create_connection(("127.0.0.1", node.port), timeout=30) as connection:
            connection.sendall(sent)
            said = b""
            while chunk := connection.recv(1000):  # until the node closes: the peer does not
                said += chunk
            assert said[0] == answer
        peers.wait_for(lambda: not node.scp._server.active_associations, what="the end of the association")
        assert node.send([ct_instance()]) == [0x0000]
    assert died == []


def test_a_peer_that_says_all_at_once_and_leaves_ends_no_thread(tmp_path, monkeypatch):
    died = []
    monkeypatch.setattr(threading, "excepthook", lambda arguments: died.append(arguments.exc_value))
    release = struct.pack(">BBLL", 5, 0, 4, 0)
    with receiver(tmp_path) as node:
        for _ in range(20):
            with socket.create_connection(("127.0.0.1", node.port), timeout=30) as connection:
                connection.sendall(
                    request_bytes() + release
                )  # a release before it is accepted: PS3.8 Evt12 in Sta3
                connection.shutdown(socket.SHUT_WR)
                with contextlib.suppress(ConnectionError):
                    while connection.recv(1000):
                        pass
        peers.wait_for(lambda: not node.scp._server.active_associations, what="the end of the associations")
        assert node.send([ct_instance()]) == [0x0000]
    assert died == []


def test_a_peer_that_trickles_is_dropped(tmp_path):
    with receiver(tmp_path, network_timeout=1) as node:
        association = associate(node)
        connection = association.dul.socket.socket
        connection.sendall(struct.pack(">BBL", 4, 0, 1000))
        started = time.monotonic()
        with contextlib.suppress(OSError):
            while time.monotonic() - started < 10:
                connection.sendall(b"x")
                time.sleep(0.1)
        assert time.monotonic() - started < 6
        association.kill()


def test_a_message_cannot_grow_beyond_an_instance(tmp_path):
    with receiver(tmp_path, max_instance_mb=1) as node:
        association = associate(node)
        assert association.send_c_store(ct_instance(size=512)).Status == 0x0000
        answer = association.send_c_store(ct_instance(size=1024))  # 2 MiB
        assert "Status" not in answer
        peers.wait_for(lambda: not node.scp._server.active_associations, what="the end of the association")
        assert node.scp._server.budget._left == node.settings.max_receive_memory_mb << 20
        assert node.send([ct_instance()]) == [0x0000]


def test_the_memory_of_all_messages_is_bounded(tmp_path):
    with receiver(tmp_path, max_receive_memory_mb=1) as node:
        association = associate(node)
        assert "Status" not in association.send_c_store(ct_instance(size=1024))
        assert node.send([ct_instance(size=512)]) == [0x0000]


def test_a_peer_that_does_not_wait_for_answers_is_slowed_down(tmp_path, monkeypatch):
    with receiver(tmp_path) as node:
        most = []
        real = node.inbox.receive

        def slow(incoming):
            time.sleep(0.05)
            (association,) = node.scp._server.active_associations
            most.append(association.dimse.msg_queue.qsize())
            return real(incoming)

        monkeypatch.setattr(node.inbox, "receive", slow)
        association = associate(node)
        context = next(
            cx.context_id for cx in association.accepted_contexts if cx.abstract_syntax == CTImageStorage
        )
        for ds in ct_series(20):
            association.dimse.send_msg(request_for(ds), context)
        peers.wait_for(lambda: stored(node) == 20, what="all instances")
        assert max(most) <= 4
        association.abort()


def request_for(ds):
    request = C_STORE()
    request.MessageID, request.Priority = 1, 2
    request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
    request.DataSet = BytesIO(encode(ds, False, True))
    return request


def stored(node):
    with node.database.reading() as session:
        return len(session.scalars(select(Instance.id)).all())


def test_an_idle_association_is_ended(tmp_path):
    with receiver(tmp_path, network_timeout=0.5) as node:
        associate(node)
        peers.wait_for(lambda: not node.scp._server.active_associations, seconds=10, what="its end")


def test_stopping_lets_a_transfer_finish(tmp_path):
    with receiver(tmp_path) as node:
        association = associate(node)
        assert association.send_c_store(ct_instance()).Status == 0x0000
        stopper = threading.Thread(target=node.scp.stop)
        stopper.start()
        time.sleep(0.7)
        assert association.send_c_store(ct_instance()).Status == 0x0000  # it is still served
        with pytest.raises(OSError):
            socket.create_connection(("127.0.0.1", node.port), timeout=1)  # but nobody new
        association.release()
        stopper.join(5)
        assert not stopper.is_alive()


def certificate(folder, name, issuer=None):
    """Make a key and a certificate, signed by `issuer` or by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    signer_key, signer = issuer or (key, subject)
    moment = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(signer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(moment - dt.timedelta(hours=1))
        .not_valid_after(moment + dt.timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(signer_key, hashes.SHA256())
    )
    pem, key_pem = folder / f"{name}.pem", folder / f"{name}.key"
    pem.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    key_pem.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return pem, key_pem, (key, subject)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    folder = tmp_path_factory.mktemp("certificates")
    ca, _, issuer = certificate(folder, "ca")
    return {
        "ca": ca,
        "node": certificate(folder, "node", issuer)[:2],
        "scanner": certificate(folder, "scanner", issuer)[:2],
        "stranger": certificate(folder, "stranger")[:2],
    }


def client_tls(certificates, who):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(certificates["ca"])
    if who is not None:
        context.load_cert_chain(*certificates[who])
    return context


def test_mutual_tls(tmp_path, certificates):
    pem, key = certificates["node"]
    with receiver(
        tmp_path, tls_certificate=pem, tls_key=key, tls_ca=certificates["ca"], acse_timeout=2
    ) as node:
        association = associate(node, tls_args=(client_tls(certificates, "scanner"), "localhost"))
        assert association.is_established
        assert [association.send_c_store(ds).Status for ds in ct_series(5, size=512)] == [0x0000] * 5
        association.release()
        for who in ("stranger", None):
            refused = associate(node, tls_args=(client_tls(certificates, who), "localhost"))
            assert not refused.is_established
        plain = associate(node)
        assert not plain.is_established
        with socket.create_connection(("127.0.0.1", node.port)):  # a silent one holds up nobody
            association = associate(node, tls_args=(client_tls(certificates, "scanner"), "localhost"))
            assert association.is_established
            association.release()


def test_weak_tls_is_refused(tmp_path, certificates):
    """RFC 9325 (BCP 195): no version below 1.2, no suite without authenticated encryption."""
    pem, key = certificates["node"]
    with receiver(tmp_path, tls_certificate=pem, tls_key=key, tls_ca=certificates["ca"]) as node:
        assert node.scp._server.tls.minimum_version == ssl.TLSVersion.TLSv1_2
        for suite, accepted in (("ECDHE-ECDSA-AES128-GCM-SHA256", True), ("ECDHE-ECDSA-AES128-SHA256", False)):
            context = client_tls(certificates, "scanner")
            context.maximum_version = ssl.TLSVersion.TLSv1_2
            context.set_ciphers(suite)
            association = associate(node, tls_args=(context, "localhost"))
            assert association.is_established is accepted
            if accepted:
                association.release()


def test_dcmtk_over_tls(tmp_path, certificates):
    pem, key = certificates["node"]
    scanner_pem, scanner_key = certificates["scanner"]
    folder = write_all(tmp_path / "files", ct_series(3))
    with receiver(tmp_path / "home", tls_certificate=pem, tls_key=key, tls_ca=certificates["ca"]) as node:
        options = ("+tls", str(scanner_key), str(scanner_pem), "+cf", str(certificates["ca"]), "-xe")
        peers.storescu(node.port, folder, options=options)
        assert stored(node) == 3


def test_wrong_tls_files_are_a_settings_error(tmp_path, certificates):
    pem, _ = certificates["node"]
    _, key = certificates["scanner"]
    node = receiver(tmp_path, tls_certificate=pem, tls_key=key, tls_ca=certificates["ca"])
    with pytest.raises(SettingsError, match="TLS files do not fit"):
        node.__enter__()
