"""C-FIND, C-MOVE and C-GET against Orthanc and dcmtk's dcmqrscp."""

from __future__ import annotations

import subprocess
from io import BytesIO

import archive
import peers
import pytest
import small_ct
from pydicom import dcmread
from pydicom.uid import JPEGLSLossless

from calcium.errors import ArchiveUnavailableError
from service import scu


@pytest.fixture(params=["orthanc", "dcmqrscp"])
def holder(request, tmp_path):
    """An archive with one series of four slices, and a storescp that it may send to."""
    with peers.storescp(tmp_path / "moved", aet="AGATSTON") as ours:
        if request.param == "orthanc":
            running = peers.orthanc(tmp_path / "pacs", modalities={"us": ("AGATSTON", "127.0.0.1", ours.port)})
        else:
            running = archive.dcmqrscp(tmp_path / "pacs", known={"AGATSTON": ours.port})
        with running as there:
            slices = small_ct.write_series(tmp_path / "sent", 4)
            peers.storescu(there.port, tmp_path / "sent", called=there.aet)
            yield scu.Peer.parse(there.address), slices, ours


def test_find_descends_from_study_to_image(holder):
    peer, slices, _ = holder
    study, series = slices[0].StudyInstanceUID, slices[0].SeriesInstanceUID
    studies = scu.find(
        peer, "STUDY", {"StudyDate": "20261124", "StudyInstanceUID": "", "ModalitiesInStudy": ""}
    )
    assert [one.StudyInstanceUID for one in studies] == [study]
    found = scu.find(peer, "SERIES", {"StudyInstanceUID": study, "SeriesInstanceUID": "", "Modality": "CT"})
    assert [one.SeriesInstanceUID for one in found] == [series]
    keys = {"StudyInstanceUID": study, "SeriesInstanceUID": series, "SOPInstanceUID": ""}
    images = scu.find(peer, "IMAGE", keys)
    assert {one.SOPInstanceUID for one in images} == {one.SOPInstanceUID for one in slices}


def test_find_without_match_is_empty(holder):
    peer, _, _ = holder
    assert scu.find(peer, "STUDY", {"StudyDate": "19990101", "StudyInstanceUID": ""}) == []


def test_find_ends_at_its_limit(holder):
    peer, slices, _ = holder
    keys = {
        "StudyInstanceUID": slices[0].StudyInstanceUID,
        "SeriesInstanceUID": slices[0].SeriesInstanceUID,
        "SOPInstanceUID": "",
    }
    with scu.querying(peer) as query:
        assert len(query("IMAGE", keys, limit=2)) == 2
        assert len(query("IMAGE", keys)) == 4, "the association must be usable after a cancelled query"


def test_move_sends_the_series_to_our_title(holder):
    peer, slices, ours = holder
    outcome = scu.move(
        peer,
        study_instance_uid=slices[0].StudyInstanceUID,
        series_instance_uid=slices[0].SeriesInstanceUID,
        destination_ae="AGATSTON",
    )
    assert (outcome.completed, outcome.failed) == (4, 0)
    peers.wait_for(lambda: len(list(ours.folder.iterdir())) == 4, what="four moved files")


def test_move_to_an_unknown_title_is_refused(holder):
    peer, slices, _ = holder
    with pytest.raises((scu.PeerRefusedError, ArchiveUnavailableError)):
        scu.move(peer, study_instance_uid=slices[0].StudyInstanceUID, destination_ae="NOBODY")


def test_get_brings_the_bytes_that_were_sent(holder):
    peer, slices, _ = holder
    received: list[scu.Received] = []

    def receive(one):
        received.append(scu.Received(*(getattr(one, name) for name in one.__slots__[:4]), bytes(one.data_set)))
        return 0x0000

    outcome = scu.get(
        peer,
        receive,
        study_instance_uid=slices[0].StudyInstanceUID,
        series_instance_uid=slices[0].SeriesInstanceUID,
    )
    assert (outcome.completed, outcome.failed) == (4, 0)
    sent = {one.SOPInstanceUID: one.PixelData for one in slices}
    files = [dcmread(BytesIO(one.meta + one.data_set)) for one in received]
    assert {one.SOPInstanceUID: one.PixelData for one in files} == sent


def test_get_of_one_instance(holder):
    peer, slices, _ = holder
    received = []
    scu.get(
        peer,
        lambda one: received.append(one.sop_instance_uid) or 0x0000,
        study_instance_uid=slices[0].StudyInstanceUID,
        series_instance_uid=slices[0].SeriesInstanceUID,
        sop_instance_uids=[slices[2].SOPInstanceUID],
    )
    assert received == [slices[2].SOPInstanceUID]


def test_get_reports_instances_that_we_refuse(holder):
    peer, slices, _ = holder
    outcome = scu.get(
        peer,
        lambda one: 0xA700 if one.sop_instance_uid == slices[0].SOPInstanceUID else 0x0000,
        study_instance_uid=slices[0].StudyInstanceUID,
        series_instance_uid=slices[0].SeriesInstanceUID,
    )
    assert outcome.failed >= 1


def test_get_takes_compressed_slices_as_they_are(tmp_path):
    plain, path = tmp_path / "plain.dcm", tmp_path / "sent" / "slice.dcm"
    sent = small_ct.write_ct(plain)
    path.parent.mkdir()
    subprocess.run([peers.program("dcmcjpls"), str(plain), str(path)], check=True, timeout=60)
    with peers.orthanc(tmp_path / "pacs") as there:
        peers.storescu(there.port, path, called=there.aet, options=("-xt",))
        received = []
        scu.get(
            scu.Peer.parse(there.address),
            lambda one: received.append(one.transfer_syntax_uid) or 0x0000,
            study_instance_uid=sent.StudyInstanceUID,
        )
    assert received == [JPEGLSLossless]


def test_a_peer_without_the_service_says_so(tmp_path):
    with peers.storescp(tmp_path / "in") as peer, pytest.raises(scu.NoContextError):
        scu.find(scu.Peer.parse(peer.address), "STUDY", {"StudyInstanceUID": ""})
    with peers.storescp(tmp_path / "in") as peer, pytest.raises(scu.NoContextError, match="does not offer"):
        scu.get(scu.Peer.parse(peer.address), lambda _: 0, study_instance_uid="1.2.3")
