"""Storage commitment in both roles: scanners ask us, archives answer us."""

from __future__ import annotations

import json
from datetime import timedelta

import peers
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage, generate_uid
from pynetdicom import AE, evt
from pynetdicom.sop_class import MRImageStorage, StorageCommitmentPushModel, StorageCommitmentPushModelInstance
from receiving import ct_series, receiver
from rows import add_job
from sqlalchemy import select, update

from service import commitments, scu
from service.tables import Alert, CommitmentRequest, Delivery, Instance, OutputObject, now


@pytest.fixture
def scanner():
    """A scanner that listens for answers: (port, the reports that came)."""
    reports = []

    def handle(event):
        reports.append(scu.read_report(event.event_information))
        return 0x0000, None

    entity = AE(ae_title="SCANNER")
    entity.add_supported_context(StorageCommitmentPushModel, scu_role=False, scp_role=True)
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_N_EVENT_REPORT, handle)])
    yield server.server_address[1], reports
    server.shutdown()


def ask(node, references, *, wait=0.0, transaction=None):
    peer = scu.Peer("AGATSTON", "127.0.0.1", node.port)
    transaction = transaction or generate_uid()
    return scu.request_commitment(peer, references, transaction, calling_ae="SCANNER", wait=wait)


def rows(node, model):
    with node.database.reading() as session:
        return session.scalars(select(model)).all()


def test_on_the_same_association_with_failures_listed(tmp_path):
    with receiver(tmp_path) as node:
        instances = ct_series(3)
        node.send(instances)
        held = [(ds.SOPClassUID, ds.SOPInstanceUID) for ds in instances]
        unknown, wrong = generate_uid(), (MRImageStorage, instances[2].SOPInstanceUID)
        report = ask(node, [*held[:2], wrong, (CTImageStorage, unknown)], wait=10)
        assert set(report.committed) == {uid for _, uid in held[:2]}
        assert report.failed == {unknown: 0x0112, instances[2].SOPInstanceUID: 0x0119}
        peers.wait_for(lambda: rows(node, CommitmentRequest)[0].state == "answered", what="the row")
        assert commitments.answer_due(node.database, node.store, node.settings) == 0


def test_on_a_new_association_until_it_is_taken(tmp_path, scanner):
    port, reports = scanner
    address = {"aet": "SCANNER", "host": "127.0.0.1", "port": port}
    with receiver(tmp_path, peers=json.dumps([address])) as node:
        instances = ct_series(2)
        node.send(instances)
        unknown = generate_uid()
        held = [(ds.SOPClassUID, ds.SOPInstanceUID) for ds in instances]
        assert ask(node, [*held, (CTImageStorage, unknown)]) is None
        assert commitments.answer_due(node.database, node.store, node.settings) == 0  # not yet due
        with node.database.transaction() as session:
            session.execute(update(CommitmentRequest).values(not_before=now()))
        assert commitments.answer_due(node.database, node.store, node.settings) == 1
        (report,) = reports
        assert set(report.committed) == {ds.SOPInstanceUID for ds in instances}
        assert report.failed == {unknown: 0x0112}
        assert rows(node, CommitmentRequest)[0].state == "answered"


def test_a_scanner_that_is_down_is_tried_for_a_day(tmp_path):
    address = {"aet": "SCANNER", "host": "127.0.0.1", "port": peers.free_port()}
    with receiver(tmp_path, peers=json.dumps([address])) as node:
        request_id = commitments.request(node.database, "SCANNER", generate_uid(), [(CTImageStorage, "1.2")])
        for state, age in (("pending", 0), ("pending", 20), ("abandoned", 25)):
            with node.database.transaction() as session:
                created = now() - timedelta(hours=age)
                session.execute(update(CommitmentRequest).values(not_before=now(), created_at=created))
            assert commitments.answer_due(node.database, node.store, node.settings) == 0
            (row,) = rows(node, CommitmentRequest)
            assert (row.id, row.state) == (request_id, state)
        assert [alert.kind for alert in rows(node, Alert)] == ["commitment_unanswered"]


def test_a_slice_whose_file_is_gone_is_not_committed_to(tmp_path):
    with receiver(tmp_path) as node:
        (ds,) = ct_series(1)
        node.send([ds])
        node.store.delete([rows(node, Instance)[0].key])
        report = ask(node, [(ds.SOPClassUID, ds.SOPInstanceUID)], wait=10)
        assert report.failed == {ds.SOPInstanceUID: 0x0112}


def test_hostile_requests_are_refused(tmp_path):
    with receiver(tmp_path) as node:
        entity = AE(ae_title="SCANNER")
        entity.add_requested_context(StorageCommitmentPushModel)
        association = entity.associate("127.0.0.1", node.port)
        for uid, references in (("../x", 1), (generate_uid(), 0), ("", 1)):
            wanted = Dataset()
            wanted.add_new("TransactionUID", "UI", "1.2")
            wanted["TransactionUID"]._value = uid
            if references:
                item = Dataset()
                item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = CTImageStorage, generate_uid()
                wanted.ReferencedSOPSequence = [item]
            answer, _ = association.send_n_action(
                wanted, 1, StorageCommitmentPushModel, StorageCommitmentPushModelInstance
            )
            assert answer.Status == 0x0115
        association.release()
        assert rows(node, CommitmentRequest) == []


@pytest.mark.parametrize("failed", [False, True])
def test_an_archives_answer_reaches_the_delivery(tmp_path, failed):
    archive = '[{"name": "archive", "aet": "ARCHIVE", "host": "127.0.0.1", "port": 104, "commitment": true}]'
    with receiver(tmp_path, destinations=archive, peers='[{"aet": "SCANNER"}]') as node:
        transaction = generate_uid()
        with node.database.transaction() as session:
            add_job(session, agatston=1.0, delivery="stored")
            session.execute(update(Delivery).values(transaction_uid=transaction))
            uid = session.scalars(select(OutputObject.sop_instance_uid)).one()
        scu.report_commitment(
            scu.Peer("AGATSTON", "127.0.0.1", node.port), transaction,
            [] if failed else [("1.2", uid)], [("1.2", uid, 0x0110)] if failed else [], calling_ae="ARCHIVE",
        )  # fmt: skip
        assert rows(node, Delivery)[0].state == ("pending" if failed else "delivered")
