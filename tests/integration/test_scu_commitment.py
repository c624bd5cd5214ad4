"""Storage commitment in both roles: we ask Orthanc, and we answer a scanner."""

from __future__ import annotations

import contextlib
import threading

import peers
import pytest
import small_ct
from pydicom.uid import CTImageStorage, generate_uid
from pynetdicom import AE, evt
from pynetdicom.sop_class import StorageCommitmentPushModel

from calcium.errors import ArchiveUnavailableError
from service import scu


class Listener:
    """A small SCP that notes commitment reports, as our node's or a scanner's."""

    def __init__(self, *, answer=0x0000):
        self.reports, self.types, self.arrived, self.answer = [], [], threading.Event(), answer
        self.port = peers.free_port()

    def note(self, event):
        self.reports.append(scu.read_report(event.event_information))
        self.types.append(event.event_type)
        self.arrived.set()
        return self.answer, None

    @contextlib.contextmanager
    def running(self, aet="AGATSTON"):
        entity = AE(ae_title=aet)
        entity.add_supported_context(StorageCommitmentPushModel, scu_role=False, scp_role=True)
        handlers = [(evt.EVT_N_EVENT_REPORT, self.note)]
        server = entity.start_server(("127.0.0.1", self.port), block=False, evt_handlers=handlers)
        try:
            yield scu.Peer(aet, "127.0.0.1", self.port)
        finally:
            server.shutdown()


@pytest.fixture
def orthanc(tmp_path):
    """Orthanc, which reports to our title, and our listener."""
    listener = Listener()
    modalities = {"us": ("AGATSTON", "127.0.0.1", listener.port)}
    with peers.orthanc(tmp_path / "pacs", modalities=modalities) as there, listener.running():
        yield scu.Peer.parse(there.address), listener


def test_an_archive_commits_to_what_it_has_and_names_what_it_lacks(orthanc, tmp_path):
    peer, listener = orthanc
    path = tmp_path / "slice.dcm"
    sent = small_ct.write_ct(path)
    assert scu.store(peer, [path])[0].stored
    missing, transaction = generate_uid(), generate_uid()
    references = [(CTImageStorage, sent.SOPInstanceUID), (CTImageStorage, missing)]
    report = scu.request_commitment(peer, references, transaction)
    assert report is None, "Orthanc reports on a new association"
    assert listener.arrived.wait(20)
    (report,) = listener.reports
    assert report.transaction_uid == transaction
    assert report.committed == (sent.SOPInstanceUID,)
    assert report.failed == {missing: scu.NO_SUCH_OBJECT}


class Archive:
    """An archive that reports on the association of the request."""

    def __init__(self, status=0x0000):
        self.status = status
        self.port = peers.free_port()

    @contextlib.contextmanager
    def running(self):
        entity = AE(ae_title="ARCHIVE")
        entity.add_supported_context(StorageCommitmentPushModel)

        def on_action(event):
            information = event.action_information
            references = [
                (str(one.ReferencedSOPClassUID), str(one.ReferencedSOPInstanceUID))
                for one in information.ReferencedSOPSequence
            ]
            if self.status == 0x0000:
                report = scu.write_report(str(information.TransactionUID), references, [])
                threading.Timer(0.3, self.send, (event.assoc, report)).start()
            return self.status, None

        handlers = [(evt.EVT_N_ACTION, on_action)]
        server = entity.start_server(("127.0.0.1", self.port), block=False, evt_handlers=handlers)
        try:
            yield scu.Peer("ARCHIVE", "127.0.0.1", self.port)
        finally:
            server.shutdown()

    def send(self, association, report):
        association.send_n_event_report(report, 1, StorageCommitmentPushModel, "1.2.840.10008.1.20.1.1")


def test_a_report_on_the_same_association_is_returned():
    with Archive().running() as peer:
        references = [(CTImageStorage, "1.2.3"), (CTImageStorage, "1.2.4")]
        report = scu.request_commitment(peer, references, "1.2.5", wait=10)
    assert report == scu.CommitmentReport("1.2.5", ("1.2.3", "1.2.4"), {})


def test_a_refused_request_is_an_error():
    with Archive(status=0x0110).running() as peer, pytest.raises(scu.PeerRefusedError, match="0110H"):
        scu.request_commitment(peer, [(CTImageStorage, "1.2.3")], "1.2.5")


def test_a_peer_without_commitment_says_so(tmp_path):
    with peers.storescp(tmp_path / "in") as peer, pytest.raises(scu.NoContextError):
        scu.request_commitment(scu.Peer.parse(peer.address), [(CTImageStorage, "1.2.3")], "1.2.5")


@pytest.mark.parametrize(("failed", "event_type"), [((), 1), ((("1.2", "1.2.9", scu.NO_SUCH_OBJECT),), 2)])
def test_a_scanner_gets_its_report_on_a_new_association(failed, event_type):
    listener = Listener()
    with listener.running("SCANNER") as scanner:
        scu.report_commitment(scanner, "1.2.5", [(CTImageStorage, "1.2.3")], failed)
    (report,) = listener.reports
    assert report.committed == ("1.2.3",)
    assert report.failed == {one[1]: one[2] for one in failed}
    assert listener.types == [event_type]


def test_a_scanner_that_is_away_is_tried_again_later():
    with pytest.raises(ArchiveUnavailableError):
        scu.report_commitment(scu.Peer("SCANNER", "127.0.0.1", peers.free_port()), "1.2.5", [], [], timeout=2)


def test_a_scanner_that_refuses_the_report_is_an_error():
    with Listener(answer=0x0110).running("SCANNER") as scanner, pytest.raises(scu.PeerRefusedError):
        scu.report_commitment(scanner, "1.2.5", [(CTImageStorage, "1.2.3")], [])


def test_nothing_committed_leaves_the_sequence_out():
    report = scu.write_report("1.2.5", [], [("1.2", "1.2.9", scu.NO_SUCH_OBJECT)])
    assert "ReferencedSOPSequence" not in report
    assert scu.read_report(report).committed == ()
