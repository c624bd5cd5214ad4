"""Delivery by STOW-RS: to Orthanc, and to a server that misbehaves."""

from __future__ import annotations

import functools
import io
import json
import logging
import ssl
import threading
from datetime import timedelta

import certificates
import peers
import pydicom
import pytest
import worker_rows
from web_archive import Reply, answering, stow_answer

from service import deliveries
from service.dicomweb import storage
from service.tables import Delivery, now
from worker import delivery

TOKEN = "t0p-secret-token"


@pytest.fixture
def make_node(tmp_path):
    made = []

    def make(url, **settings):
        destination = {"name": "web", "url": url, "kinds": ["sr3d"], **settings}
        made.append(worker_rows.node(tmp_path / "home", destinations=json.dumps([destination])))
        return made[-1]

    yield make
    for node in made:
        node.close()


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """One object, for one answer after another: (what answers, the node, its delivery, what was asked)."""
    script = {}
    with answering(lambda request: script["answer"](request)) as web:  # noqa: PLW0108 (it changes)
        destination = {"name": "web", "url": web.url, "kinds": ["sr3d"]}
        node = worker_rows.node(tmp_path_factory.mktemp("one"), destinations=json.dumps([destination]))
        (first,) = worker_rows.scored_job(node)
        yield script, node, first, web.requests
        node.close()


def deliver_again(node, delivery_id):
    """Deliver what was delivered, refused or planned for later."""
    with node.database.transaction() as session:
        row = session.get_one(Delivery, delivery_id)
        row.state, row.not_before, row.last_error, row.attempts = deliveries.PENDING, now(), None, 0
    delivery.deliver(node, delivery_id)
    return row_of(node, delivery_id)


def row_of(node, delivery_id):
    with node.database.reading() as session:
        row = session.get_one(Delivery, delivery_id)
        row.object  # noqa: B018 (loaded while the session is open)
        return row


def uid_in(request):
    """Return the SOP Instance UID of the one part of a STOW-RS request."""
    boundary = request.headers["Content-Type"].rpartition("boundary=")[2].encode()
    head, _, rest = request.body.partition(b"\r\n\r\n")
    assert head == b"--" + boundary + b"\r\nContent-Type: application/dicom"
    file, tail, end = rest.partition(b"\r\n--" + boundary + b"--\r\n")
    assert tail
    assert not end
    return str(pydicom.dcmread(io.BytesIO(file)).SOPInstanceUID)


def test_orthanc_takes_report_and_picture_as_they_lie_in_the_outbox(make_node, tmp_path):
    password = tmp_path / "password"
    password.write_text("another\n")
    with peers.orthanc(tmp_path / "orthanc", dicomweb=True, users={"agatston": "wörd"}) as pacs:
        node = make_node(pacs.web, kinds=["sr3d", "summary"], user="agatston", password_file=str(password))
        ids = worker_rows.scored_job(node)
        delivery.deliver(node, ids[0])
        row = row_of(node, ids[0])
        assert (row.state, "HTTP 401" in row.last_error) == (deliveries.PENDING, True)
        password.write_text("wörd\n")  # read anew for each request
        rows = [deliver_again(node, one) for one in ids]
    assert [row.state for row in rows] == [deliveries.DELIVERED] * 2
    with peers.orthanc(tmp_path / "orthanc") as pacs:  # the same storage, without a password
        files = [pacs.download(one) for one in pacs.get("/instances")]
    held = {pydicom.dcmread(io.BytesIO(file)).SOPInstanceUID: file for file in files}
    assert held == {row.object.sop_instance_uid: node.store.path(row.object.key).read_bytes() for row in rows}


@pytest.mark.parametrize(
    ("status", "stored", "failed", "state", "said"),
    [
        (200, 0, None, deliveries.DELIVERED, None),
        (200, 0xB000, None, deliveries.DELIVERED, None),
        (202, None, 0xA700, deliveries.PENDING, "HTTP 202, status A700"),
        (202, None, 0x0110, deliveries.PENDING, "status 0110"),
        (409, None, 0xA700, deliveries.PENDING, "HTTP 409, status A700"),
        (409, None, 0xC000, deliveries.REFUSED, "HTTP 409, status C000"),
        (409, None, 0xC122, deliveries.REFUSED, "status C122"),
        (409, None, 0x0122, deliveries.REFUSED, "status 0122"),
        (409, None, 0, deliveries.PENDING, "status 0110"),
    ],
)  # fmt: skip
def test_what_the_answer_says_of_the_object_counts(one, status, stored, failed, state, said):
    def answer(request):
        uid = uid_in(request)
        body = stow_answer(
            stored={uid: stored} if stored is not None else None,
            failed={uid: failed} if failed is not None else None,
        )
        return Reply(status, body)

    script, node, first, requests = one
    script["answer"] = answer
    row = deliver_again(node, first)
    assert row.state == state
    assert (said or "") in (row.last_error or "")
    assert requests[-1].path == "/dicom-web/studies"
    assert requests[-1].headers["Accept"] == "application/dicom+json"


@pytest.mark.parametrize(
    ("status", "body", "state"),
    [
        (200, b"", deliveries.PENDING),
        (200, b"<html>Please log in, Mr Doe</html>", deliveries.PENDING),
        (200, b"[" * 100_000, deliveries.PENDING),
        (200, b'{"00081199": {"Value": [7, null, {"00081155": {"Value": "1.2"}}]}}', deliveries.PENDING),
        (200, stow_answer(stored={"1.2.3": 0}), deliveries.PENDING),
        (302, b"", deliveries.PENDING),
        (400, b"", deliveries.REFUSED),
        (401, b"", deliveries.PENDING),
        (403, b"", deliveries.PENDING),
        (404, b"", deliveries.PENDING),
        (409, b"not JSON", deliveries.REFUSED),
        (413, b"", deliveries.REFUSED),
        (415, b"", deliveries.REFUSED),
        (429, b"", deliveries.PENDING),
        (500, b"Traceback: Doe^John", deliveries.PENDING),
        (503, b"", deliveries.PENDING),
    ],
)
def test_an_answer_that_does_not_name_the_object_never_delivers_it(one, status, body, state):
    script, node, first, requests = one
    script["answer"] = lambda _: Reply(status, body, {"Location": "http://127.0.0.1:9/"})
    before = len(requests)
    row = deliver_again(node, first)
    assert (row.state, len(requests)) == (state, before + 1)
    assert row.last_error == f"HTTP {status}, nothing said of the object"


def test_retry_after_is_kept_up_to_an_hour(one):
    script, node, first, _ = one

    def planned(said):
        script["answer"] = lambda _: Reply(503, b"", {"Retry-After": said})
        before = now()
        return deliver_again(node, first).not_before - before

    assert timedelta(seconds=120) <= planned("120") < timedelta(seconds=600)
    assert timedelta(hours=1) <= planned("864000") < timedelta(hours=2)
    for said in ("Thu, 01 Jan 1970 00:00:00 GMT", "soon"):
        assert planned(said) < timedelta(seconds=100), "no moment to come: the usual delay"


def test_a_server_without_3d_sr_gets_the_older_class(make_node):
    sent = []

    def answer(request):
        uid = uid_in(request)
        sent.append(uid)
        refused = len(sent) == 1
        return (
            Reply(409, stow_answer(failed={uid: 0x0122}))
            if refused
            else Reply(200, stow_answer(stored={uid: 0}))
        )

    with answering(answer) as web:
        node = make_node(web.url, kinds=["sr3d", "sr"])
        (first,) = worker_rows.scored_job(node)
        delivery.deliver(node, first)
        delivery.deliver(node, first)
        delivery.deliver(node, first)
    row = row_of(node, first)
    assert (row.state, row.object.kind, len(sent)) == (deliveries.DELIVERED, "sr", 2)


def test_an_answer_that_breaks_off_is_no_answer(one):
    script, node, first, _ = one
    script["answer"] = lambda request: Reply(200, stow_answer(stored={uid_in(request): 0}), cut=True)
    row = deliver_again(node, first)
    assert row.state == deliveries.PENDING
    assert "broke the connection" in row.last_error


def test_a_server_that_is_silent_or_down_is_tried_again(one, monkeypatch):
    script, node, first, _ = one
    released = threading.Event()
    monkeypatch.setattr("worker.delivery.stow.store", functools.partial(storage.store, timeout=0.3))
    script["answer"] = lambda _: Reply(200, hang=released)
    row = deliver_again(node, first)
    released.set()
    assert row.state == deliveries.PENDING
    assert "does not answer in time" in row.last_error
    with monkeypatch.context() as patch:
        gone = node.settings.destinations[0].model_copy(
            update={"url": f"http://127.0.0.1:{peers.free_port()}/dicom-web"}
        )
        patch.setattr(node, "settings", node.settings.model_copy(update={"destinations": (gone,)}))
        node.settings.__dict__.pop("all_destinations", None)
        row = deliver_again(node, first)
    assert row.state == deliveries.PENDING
    assert "cannot be reached" in row.last_error


def test_the_token_goes_by_tls_and_into_no_log(make_node, tmp_path, caplog, capfd):
    authority = certificates.Authority(tmp_path / "ca")
    pair = authority.issue("server")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)
    token = tmp_path / "token"
    token.write_text(TOKEN + "\n")

    def answer(request):
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            return Reply(401)
        return Reply(200, stow_answer(stored={uid_in(request): 0}))

    with answering(answer, tls=context) as web:
        strange = make_node(web.url, token_file=str(token))
        (first,) = worker_rows.scored_job(strange)
        for name in ("httpx", "httpcore", "service", "worker", "python_multipart"):
            caplog.set_level(logging.DEBUG, name)
        delivery.deliver(strange, first)
        assert "CERTIFICATE_VERIFY_FAILED" in row_of(strange, first).last_error
        assert web.requests == []
        strange.close()
        node = make_node(web.url, token_file=str(token), ca=str(authority.certificate))
        peers.wait_for(
            lambda: delivery.deliver(node, first) or row_of(node, first).state == deliveries.DELIVERED
        )
        token.unlink()
        assert "cannot be read" in deliver_again(node, first).last_error
    written = caplog.text + "".join(capfd.readouterr()) + repr(node.settings)
    assert "delivered to web" in written
    assert TOKEN not in written
