"""Delivery to real archives: what is stored, tried again, refused, and sent in the older SR class."""

from __future__ import annotations

import contextlib
import hashlib
import json
import signal
import threading
from functools import partial
from typing import TYPE_CHECKING

import peers
import pydicom
import pytest
import worker_rows
from pynetdicom import AE, evt
from pynetdicom.sop_class import StorageCommitmentPushModel, StorageCommitmentPushModelInstance

from service import deliveries
from service.tables import Alert, Delivery
from worker import delivery
from worker.verdicts import Verdict, verdict

if TYPE_CHECKING:
    from collections.abc import Iterator

SR_3D, SR, SC = "1.2.840.10008.5.1.4.1.1.88.34", "1.2.840.10008.5.1.4.1.1.88.33", "1.2.840.10008.5.1.4.1.1.7"


@contextlib.contextmanager
def archive(*classes: str, status: int = 0x0000) -> Iterator[tuple[str, list[pydicom.Dataset]]]:
    """Run an archive that takes only some SOP classes and always gives one answer."""
    received: list[pydicom.Dataset] = []

    def store(event):
        if status >> 8 not in {0xA7, 0xA9, 0xC0}:
            received.append(event.dataset)
        return status

    entity = AE("ARCHIVE")
    for one in classes:
        entity.add_supported_context(one)
    port = peers.free_port()
    server = entity.start_server(("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_C_STORE, store)])
    try:
        yield f"ARCHIVE@127.0.0.1:{port}", received
    finally:
        server.shutdown()


@contextlib.contextmanager
def committing_archive(*, commits: bool) -> Iterator[int]:
    """Run an archive that reports on a requested commitment at once, on the same association."""
    kept: list[str] = []

    def store(event):
        kept.append(event.request.AffectedSOPInstanceUID)
        return 0x0000

    def action(event):
        asked = event.action_information

        def report():
            answer = pydicom.Dataset()
            answer.TransactionUID = asked.TransactionUID
            fine = commits and all(one.ReferencedSOPInstanceUID in kept for one in asked.ReferencedSOPSequence)
            if fine:
                answer.ReferencedSOPSequence = asked.ReferencedSOPSequence
            else:
                answer.FailedSOPSequence = asked.ReferencedSOPSequence
                for one in answer.FailedSOPSequence:
                    one.FailureReason = 0x0112
            event.assoc.send_n_event_report(
                answer, 1 if fine else 2, StorageCommitmentPushModel, StorageCommitmentPushModelInstance
            )

        threading.Timer(0.2, report).start()
        return 0x0000, None

    entity = AE("ARCHIVE")
    for one in (SR_3D, SR, SC):
        entity.add_supported_context(one)
    entity.add_supported_context(StorageCommitmentPushModel)
    port = peers.free_port()
    handlers = [(evt.EVT_C_STORE, store), (evt.EVT_N_ACTION, action)]
    server = entity.start_server(("127.0.0.1", port), block=False, evt_handlers=handlers)
    try:
        yield port
    finally:
        server.shutdown()


def port_of(address: str) -> int:
    return int(address.rpartition(":")[2])


def rows(node) -> dict[int, Delivery]:
    with node.database.reading() as session:
        found = {row.id: row for row in session.query(Delivery).order_by(Delivery.id)}
        for row in found.values():
            row.object  # noqa: B018 (loaded while the session is open)
        return found


@pytest.fixture
def make_node(tmp_path):
    made = []

    def make(**settings):
        made.append(worker_rows.node(tmp_path / "home", **settings))
        return made[-1]

    yield make
    for node in made:
        node.close()


def test_report_and_picture_reach_storescp_byte_for_byte(make_node, tmp_path):
    with peers.storescp(tmp_path / "pacs") as pacs:
        node = make_node(pacs=pacs.address)
        ids = worker_rows.scored_job(node)
        for delivery_id in ids:
            delivery.deliver(node, delivery_id)
        received = {str(pydicom.dcmread(path).SOPClassUID): path for path in pacs.folder.iterdir()}
    assert set(received) == {SR_3D, SC}
    for row in rows(node).values():
        assert row.state == deliveries.DELIVERED
        sent = pydicom.dcmread(node.store.path(row.object.key))
        got = pydicom.dcmread(received[row.object.sop_class_uid])
        assert got == sent
        content = node.store.path(row.object.key).read_bytes()
        assert hashlib.sha256(content).hexdigest() == row.object.sha256
        assert len(content) == row.object.size_bytes


def test_an_archive_without_3d_sr_gets_the_older_class_and_never_both(make_node):
    with archive(SR, SC) as (address, received):
        node = make_node(pacs=address)
        ids = worker_rows.scored_job(node)
        for _ in range(3):
            for delivery_id in ids:
                delivery.deliver(node, delivery_id)
    assert sorted(one.SOPClassUID for one in received) == sorted([SR, SC])
    assert {row.state for row in rows(node).values()} == {deliveries.DELIVERED}
    assert {row.object.kind for row in rows(node).values()} == {"sr", "summary"}
    with node.database.reading() as session:
        assert session.query(Alert).count() == 0


def test_a_destination_that_lists_only_3d_sr_refuses_for_good(make_node):
    with archive(SR) as (address, received):
        node = make_node(destinations=worker_rows.destination("a", "ARCHIVE", port_of(address), kinds=["sr3d"]))
        (delivery_id,) = worker_rows.scored_job(node)
        delivery.deliver(node, delivery_id)
    assert received == []
    assert rows(node)[delivery_id].state == deliveries.REFUSED
    with node.database.reading() as session:
        assert [one.kind for one in session.query(Alert)] == ["delivery_refused"]


@pytest.mark.parametrize(
    ("status", "state"),
    [
        (0x0000, deliveries.DELIVERED),
        (0xB000, deliveries.DELIVERED),
        (0xB007, deliveries.DELIVERED),
        (0xA700, deliveries.PENDING),
        (0xA702, deliveries.PENDING),
        (0x0110, deliveries.PENDING),
        (0x0124, deliveries.PENDING),
        (0xA900, deliveries.REFUSED),
        (0xC000, deliveries.REFUSED),
        (0xC123, deliveries.REFUSED),
        (0x0117, deliveries.REFUSED),
    ],
)
def test_what_an_answer_means(make_node, status, state):
    with archive(SR_3D, SC, status=status) as (address, _):
        node = make_node(pacs=address)
        (first, _) = worker_rows.scored_job(node)
        delivery.deliver(node, first)
    row = rows(node)[first]
    assert row.state == state
    if state != deliveries.DELIVERED:
        assert f"{status:04X}" in row.last_error


def test_an_archive_that_is_down_gets_it_when_it_is_back(make_node, tmp_path):
    port = peers.free_port()
    node = make_node(pacs=f"STORESCP@127.0.0.1:{port}")
    (first, _) = worker_rows.scored_job(node)
    delivery.deliver(node, first)
    row = rows(node)[first]
    assert (row.state, row.attempts) == (deliveries.PENDING, 1)
    folder = tmp_path / "late"
    folder.mkdir()
    command = [peers.program("storescp"), "-aet", "STORESCP", "-od", str(folder), str(port)]
    with peers.running(command, port=port):
        peers.wait_for(lambda: delivery.deliver(node, first) or rows(node)[first].state == deliveries.DELIVERED)
        assert len(list(folder.iterdir())) == 1


def test_an_archive_that_refuses_associations_is_tried_again(make_node, tmp_path):
    with peers.storescp(tmp_path / "pacs", "--refuse") as pacs:
        node = make_node(pacs=pacs.address)
        (first, _) = worker_rows.scored_job(node)
        delivery.deliver(node, first)
        row = rows(node)[first]
        assert (row.state, row.attempts) == (deliveries.PENDING, 1)

        # On a loaded machine the connection may end before its rejection was read: then the next try says it.
        def told() -> bool:
            return "rejects the association" in str(rows(node)[first].last_error)

        peers.wait_for(lambda: told() or delivery.deliver(node, first) or told())
    assert rows(node)[first].state == deliveries.PENDING


def test_an_archive_that_hangs_is_given_up_for_now_and_gets_it_once(make_node, tmp_path, monkeypatch):
    monkeypatch.setattr(delivery.scu, "store", partial(delivery.scu.store, timeout=1.0))
    folder = tmp_path / "pacs"
    folder.mkdir()
    port = peers.free_port()
    node = make_node(pacs=f"STORESCP@127.0.0.1:{port}")
    (first, _) = worker_rows.scored_job(node)
    command = [peers.program("storescp"), "-aet", "STORESCP", "-od", str(folder), str(port)]
    with peers.running(command, port=port) as process:
        process.send_signal(signal.SIGSTOP)
        try:
            delivery.deliver(node, first)
            assert rows(node)[first].state == deliveries.PENDING
        finally:
            process.send_signal(signal.SIGCONT)
        peers.wait_for(lambda: delivery.deliver(node, first) or rows(node)[first].state == deliveries.DELIVERED)
    assert len(list(folder.iterdir())) == 1


def test_a_refused_object_goes_to_the_fall_back(make_node):
    with archive(SR_3D, SC, status=0xC000) as (bad, _), archive(SR_3D, SC) as (good, received):
        lists = [
            worker_rows.destination("first", "ARCHIVE", port_of(bad), fallback="second"),
            worker_rows.destination("second", "ARCHIVE", port_of(good), kinds=["pdf"]),
        ]
        node = make_node(destinations=json.dumps([one for text in lists for one in json.loads(text)]))
        for delivery_id in worker_rows.scored_job(node):
            delivery.deliver(node, delivery_id)
        for delivery_id in deliveries.due(node.database):
            delivery.deliver(node, delivery_id)
    assert {one.SOPClassUID for one in received} == {SR_3D, SC}


def test_a_delivery_that_is_taken_or_done_is_left_alone(make_node, tmp_path):
    with peers.storescp(tmp_path / "pacs") as pacs:
        node = make_node(pacs=pacs.address)
        (first, _) = worker_rows.scored_job(node)
        claimed = deliveries.claim(node.database, first, "somebody else")
        delivery.deliver(node, first)
        assert list(pacs.folder.iterdir()) == []
        deliveries.hand_back(node.database, claimed)
        delivery.deliver(node, first)
        delivery.deliver(node, first)
        assert rows(node)[first].attempts == 1


def test_a_stop_hands_the_delivery_back(make_node):
    node = make_node(pacs="NOWHERE@127.0.0.1:9")
    (first, _) = worker_rows.scored_job(node)
    claimed = deliveries.claim(node.database, first, node.owner)
    with node.work_on(lambda: deliveries.hand_back(node.database, claimed)):
        node.hand_back_all()
    row = rows(node)[first]
    assert (row.state, row.attempts, row.lease_owner) == (deliveries.PENDING, 0, None)


def test_a_lost_file_is_refused_and_told(make_node, tmp_path):
    with peers.storescp(tmp_path / "pacs") as pacs:
        node = make_node(pacs=pacs.address)
        (first, _) = worker_rows.scored_job(node)
        node.store.path(rows(node)[first].object.key).unlink()
        delivery.deliver(node, first)
    assert rows(node)[first].state == deliveries.REFUSED


def test_a_destination_that_left_the_settings_waits(make_node):
    node = make_node(pacs="GONE@127.0.0.1:9")
    (first, _) = worker_rows.scored_job(node)
    node.settings = node.settings.model_copy(update={"pacs": ""})
    node.settings.__dict__.pop("all_destinations", None)
    delivery.deliver(node, first)
    assert rows(node)[first].state == deliveries.PENDING


def test_orthanc_takes_report_and_picture_and_commits(make_node, tmp_path):
    with peers.orthanc(tmp_path / "orthanc") as pacs:
        node = make_node(destinations=worker_rows.destination("o", pacs.aet, pacs.port, commitment=True))
        ids = worker_rows.scored_job(node)
        for delivery_id in ids:
            delivery.deliver(node, delivery_id)
        assert len(pacs.get("/instances")) == 2
        states = {row.state for row in rows(node).values()}
        # Orthanc answers on another association, to our SCP, which does not run here.
        assert states == {deliveries.STORED}
        assert all(row.transaction_uid for row in rows(node).values())


@pytest.mark.parametrize(("commits", "state"), [(True, deliveries.DELIVERED), (False, deliveries.PENDING)])
def test_delivered_means_that_the_archive_committed(make_node, commits, state):
    with committing_archive(commits=commits) as port:
        node = make_node(destinations=worker_rows.destination("a", "ARCHIVE", port, commitment=True))
        (first, _) = worker_rows.scored_job(node)
        delivery.deliver(node, first)
    row = rows(node)[first]
    assert row.state == state
    assert (row.delivered_at is not None) is commits


def test_a_commitment_that_was_not_answered_is_asked_again_and_nothing_is_sent_twice(make_node, tmp_path):
    with peers.orthanc(tmp_path / "orthanc") as pacs:
        node = make_node(destinations=worker_rows.destination("o", pacs.aet, pacs.port, commitment=True))
        (first, _) = worker_rows.scored_job(node)
        delivery.deliver(node, first)
        before = rows(node)[first]
        with node.database.transaction() as session:  # an hour later
            session.get_one(Delivery, first).not_before = worker_rows.now()
        delivery.deliver(node, first)
        after = rows(node)[first]
    assert (after.state, after.attempts) == (deliveries.STORED, 2)
    assert after.transaction_uid != before.transaction_uid
    assert after.stored_at == before.stored_at


def test_every_status_has_a_verdict():
    assert verdict(None) is Verdict.RETRY
    assert verdict(0x0122) is Verdict.NO_CONTEXT
    for status in range(0x10000):
        assert isinstance(verdict(status), Verdict)
