"""C-ECHO and C-STORE towards dcmtk's storescp and Orthanc."""

from __future__ import annotations

import subprocess

import peers
import pytest
import small_ct
from pydicom import dcmread
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from calcium.errors import ArchiveUnavailableError, SettingsError
from service import scu


def test_echo_reaches_storescp(tmp_path):
    with peers.storescp(tmp_path / "in") as peer:
        scu.echo(scu.Peer.parse(peer.address))


def test_echo_to_nobody_is_unavailable():
    with pytest.raises(ArchiveUnavailableError, match="does not answer"):
        scu.echo(scu.Peer("NOBODY", "127.0.0.1", peers.free_port()), timeout=2)


def test_echo_to_an_unknown_host_is_unavailable():
    with pytest.raises(ArchiveUnavailableError, match="cannot be reached"):
        scu.echo(scu.Peer("NOBODY", "no-such-host.invalid", 104), timeout=2)


def test_echo_rejected_by_its_called_title_says_so(tmp_path):
    configuration = tmp_path / "dcmqrscp.cfg"
    port = peers.free_port()
    (tmp_path / "db").mkdir()
    configuration.write_text(
        f"NetworkTCPPort = {port}\nMaxPDUSize = 16384\nMaxAssociations = 16\nHostTable BEGIN\nHostTable END\n"
        f"VendorTable BEGIN\nVendorTable END\nAETable BEGIN\nARCHIVE {tmp_path / 'db'} RW (10, 1024mb) ANY\n"
        "AETable END\n"
    )
    with peers.running([peers.program("dcmqrscp"), "-c", str(configuration)], port=port):
        scu.echo(scu.Peer("ARCHIVE", "127.0.0.1", port))
        with pytest.raises(ArchiveUnavailableError, match="rejects the association"):
            scu.echo(scu.Peer("OTHER", "127.0.0.1", port))


@pytest.mark.parametrize(
    "syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian]
)
def test_store_sends_the_bytes_of_the_file(tmp_path, syntax):
    path = tmp_path / "slice.dcm"
    sent = small_ct.write_ct(path, syntax)
    with peers.storescp(tmp_path / "in", "+xa", "--bit-preserving") as peer:
        outcomes = scu.store(scu.Peer.parse(peer.address), [path])
    assert outcomes == [scu.StoreOutcome(sent.SOPInstanceUID, 0x0000, "")]
    received = dcmread(next((tmp_path / "in").iterdir()))
    assert received.file_meta.TransferSyntaxUID == syntax
    assert received.PixelData == sent.PixelData


def test_store_falls_back_to_implicit_where_the_peer_takes_nothing_else(tmp_path):
    path = tmp_path / "slice.dcm"
    sent = small_ct.write_ct(path, DeflatedExplicitVRLittleEndian)
    with peers.storescp(tmp_path / "in", "+xi") as peer:
        outcomes = scu.store(scu.Peer.parse(peer.address), [path])
    assert outcomes[0].stored
    received = dcmread(next((tmp_path / "in").iterdir()))
    assert received.file_meta.TransferSyntaxUID == ImplicitVRLittleEndian
    assert received.PixelData == sent.PixelData


def test_compressed_pixels_that_the_peer_refuses_are_an_outcome(tmp_path):
    plain, path = tmp_path / "plain.dcm", tmp_path / "slice.dcm"
    small_ct.write_ct(plain)
    subprocess.run([peers.program("dcmcjpls"), str(plain), str(path)], check=True, timeout=60)
    with peers.storescp(tmp_path / "in", "+xi") as peer:
        outcomes = scu.store(scu.Peer.parse(peer.address), [path, plain])
    assert outcomes[0].status == scu.NOT_NEGOTIATED
    assert not outcomes[0].transient
    assert outcomes[1].stored, "one file that cannot be sent must not hold the others back"


def test_a_file_that_is_not_dicom_is_an_outcome_in_its_place(tmp_path):
    bad, good = tmp_path / "bad.dcm", tmp_path / "good.dcm"
    bad.write_bytes(b"no DICOM at all")
    sent = small_ct.write_ct(good)
    with peers.storescp(tmp_path / "in") as peer:
        outcomes = scu.store(scu.Peer.parse(peer.address), [bad, good])
    assert [one.status for one in outcomes] == [scu.CANNOT_UNDERSTAND, 0x0000]
    assert outcomes[1].sop_instance_uid == sent.SOPInstanceUID


def test_an_association_lost_in_the_middle_leaves_outcomes_without_status(tmp_path):
    paths = [tmp_path / f"{number}.dcm" for number in range(3)]
    for path in paths:
        small_ct.write_ct(path)
    with peers.storescp(tmp_path / "in", "--abort-after") as peer:
        outcomes = scu.store(scu.Peer.parse(peer.address), paths, timeout=5)
    assert [one.status for one in outcomes] == [None] * 3
    assert all(one.transient and not one.stored for one in outcomes)


def test_orthanc_has_what_was_stored(tmp_path):
    path = tmp_path / "slice.dcm"
    sent = small_ct.write_ct(path)
    with peers.orthanc(tmp_path / "orthanc") as archive:
        assert scu.store(scu.Peer.parse(archive.address), [path])[0].stored
        found = archive.post(
            "/tools/find", {"Level": "Instance", "Query": {"SOPInstanceUID": sent.SOPInstanceUID}}
        )
    assert len(found) == 1


@pytest.mark.parametrize(
    "address", ["", "AET", "AET@host", "@host:104", "AET@host:99999", "SEVENTEENLETTERS_@h:1"]
)
def test_addresses_of_another_form_are_refused(address):
    with pytest.raises(SettingsError):
        scu.Peer.parse(address)


def test_an_ipv6_address_stands_in_brackets():
    assert scu.Peer.parse("PACS@[::1]:104") == scu.Peer("PACS", "::1", 104)


def test_a_peer_that_takes_no_context_at_all_refuses_each_file(tmp_path):
    plain, path = tmp_path / "plain.dcm", tmp_path / "slice.dcm"
    small_ct.write_ct(plain)
    subprocess.run([peers.program("dcmcjpls"), str(plain), str(path)], check=True, timeout=60)
    with peers.storescp(tmp_path / "in", "+xi") as peer:
        (outcome,) = scu.store(scu.Peer.parse(peer.address), [path])
    assert outcome.status == scu.NOT_NEGOTIATED
