"""C-STORE over real associations: what is answered, and what then lies on disk and in rows."""

from __future__ import annotations

import hashlib
import threading
from io import BytesIO

import peers
import pydicom
import pytest
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)
from pynetdicom import AE, build_context
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.sop_class import MRImageStorage, Verification
from receiving import ct_instance, ct_series, encoded, receiver, write_all
from sqlalchemy import select

from service import closing
from service.scp import STORAGE_CLASSES, TRANSFER_SYNTAXES
from service.tables import Alert, Instance, Job, Series


@pytest.fixture
def node(tmp_path):
    with receiver(tmp_path / "home", series_idle_seconds=0.5, series_release_seconds=0.1) as running:
        yield running


def rows(node, model=Instance):
    with node.database.reading() as session:
        return session.scalars(select(model)).all()


def test_an_instance_is_stored_as_it_was_sent(node):
    (ds,) = ct_series(1)
    assert node.send([ds]) == [0x0000]
    (row,) = rows(node)
    path = node.store.path(row.key)
    stored = pydicom.dcmread(path)
    assert stored == ds
    assert stored.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert stored.file_meta.MediaStorageSOPInstanceUID == ds.SOPInstanceUID
    assert path.stat().st_size == row.size_bytes
    assert str(ds.SOPInstanceUID) not in row.key
    (series,) = rows(node, Series)
    assert (series.calling_ae, series.called_ae, series.address) == ("SCANNER", "AGATSTON", "127.0.0.1")


def test_file_and_row_are_there_when_success_arrives(node):
    instances = ct_series(20)
    with node.association() as association:
        for count, ds in enumerate(instances, 1):
            assert association.send_c_store(ds).Status == 0x0000
            stored = rows(node)
            assert len(stored) == count
            assert all(node.store.exists(row.key) for row in stored)


def test_echo(node):
    entity = AE()
    entity.add_requested_context(Verification)
    association = entity.associate("127.0.0.1", node.port)
    assert association.send_c_echo().Status == 0x0000
    association.release()


@pytest.mark.parametrize(
    "syntax",
    [
        ImplicitVRLittleEndian,
        ExplicitVRLittleEndian,
        DeflatedExplicitVRLittleEndian,
        ExplicitVRBigEndian,
        RLELossless,
        JPEGLosslessSV1,
        JPEGLSLossless,
        JPEG2000Lossless,
    ],
)
def test_every_syntax_of_every_class_is_accepted(node, syntax):
    assert syntax in TRANSFER_SYNTAXES
    entity = AE()
    for storage_class in STORAGE_CLASSES:
        entity.add_requested_context(storage_class, syntax)
    association = entity.associate("127.0.0.1", node.port)
    accepted = {context.abstract_syntax for context in association.accepted_contexts}
    association.release()
    assert accepted == set(STORAGE_CLASSES)


def test_compressed_bytes_are_not_touched(node):
    ds = ct_instance(size=64)
    ds.compress(RLELossless)
    assert node.send([ds], syntax=RLELossless) == [0x0000]
    (row,) = rows(node)
    stored = pydicom.dcmread(node.store.path(row.key))
    assert stored.PixelData == ds.PixelData
    assert row.transfer_syntax_uid == RLELossless


def test_another_modality_is_not_negotiated(node):
    entity = AE()
    context = build_context(MRImageStorage)
    entity.requested_contexts = [context, build_context(CTImageStorage)]
    association = entity.associate("127.0.0.1", node.port)
    assert [rejected.abstract_syntax for rejected in association.rejected_contexts] == [MRImageStorage]
    association.release()


def test_the_same_again_is_ignored(node):
    instances = ct_series(3)
    assert node.send(instances) == [0x0000] * 3
    closing.force(node.database, node.settings, 1)
    assert node.send(instances) == [0x0000] * 3
    assert len(rows(node)) == 3
    (series,) = rows(node, Series)
    assert series.closed_at is not None  # duplicates open nothing
    assert rows(node, Alert) == []


def test_other_content_under_the_same_uid_is_refused_and_the_first_kept(node):
    (ds,) = ct_series(1)
    node.send([ds])
    (row,) = rows(node)
    before = node.store.path(row.key).read_bytes()
    ds.InstanceNumber = 99
    with node.association() as association:
        answer = association.send_c_store(ds)
    assert answer.Status == 0xC001
    assert "other content" in answer.ErrorComment
    assert node.store.path(row.key).read_bytes() == before
    (alert,) = rows(node, Alert)
    assert (alert.kind, alert.subject) == ("conflicting_instance", ds.SOPInstanceUID)


def test_the_same_uid_in_two_series_is_kept_apart(node):
    sop = generate_uid()
    assert node.send([ct_instance(sop=sop), ct_instance(sop=sop, number=2)]) == [0x0000] * 2
    first, second = rows(node)
    assert first.series_id != second.series_id
    assert first.key != second.key


@pytest.mark.parametrize(
    ("change", "status", "comment"),
    [
        ({"StudyInstanceUID": None}, 0xA901, "StudyInstanceUID is absent"),
        ({"SeriesInstanceUID": ""}, 0xA901, "SeriesInstanceUID is absent"),
        ({"SeriesInstanceUID": "../../etc/passwd"}, 0xA901, "SeriesInstanceUID is not a UID"),
        ({"SOPInstanceUID": "1.2.3"}, 0xA900, "SOPInstanceUID differs"),
        ({"SOPClassUID": MRImageStorage}, 0xA900, "SOPClassUID differs"),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")  # pydicom's, about the value
def test_wrong_uids_are_named(node, change, status, comment):
    ds = ct_instance()
    send_as = (ds.SOPClassUID, ds.SOPInstanceUID)
    for name, value in change.items():
        if value is None:
            delattr(ds, name)
        else:
            setattr(ds, name, value)
    with node.association() as association:
        answer = send_raw(association, encoded(ds)[start_of(ds) :], *send_as)
        assert answer.Status == status
        assert comment in answer.ErrorComment
        assert association.send_c_store(ct_instance()).Status == 0x0000  # and the node goes on
    assert len(rows(node)) == 1


def test_garbage_is_not_understood(node):
    with node.association() as association:
        for data in (b"\xff" * 1000, b"\0\0", b"\x08\x00\x05\x00UT\x00\x00\xf0\xff\xff\xff" + b"x" * 50):
            answer = send_raw(association, data, CTImageStorage, generate_uid())
            assert answer.Status in (0xC000, 0xA901)
    assert rows(node) == []


def start_of(ds):
    """Return where the data set begins in the file that `encoded` makes of it."""
    raw = encoded(ds)
    return 132 + 12 + int.from_bytes(raw[140:144], "little")


def send_raw(association, data, sop_class, sop_instance):
    """Send any bytes as the data set of a C-STORE request."""
    request = C_STORE()
    request.MessageID = 1
    request.AffectedSOPClassUID = sop_class
    request.AffectedSOPInstanceUID = sop_instance
    request.Priority = 2
    request.DataSet = BytesIO(data)
    association._reactor_checkpoint.clear()
    association.dimse.send_msg(request, association.accepted_contexts[0].context_id)
    _, answer = association.dimse.get_msg(block=True)
    association._reactor_checkpoint.set()
    return answer


def test_a_full_disk_is_refused_before_it_is_full(tmp_path):
    with receiver(tmp_path, disk_min_free_mb=1 << 30) as node:
        with node.association() as association:
            answer = association.send_c_store(ct_instance())
        assert answer.Status == 0xA700
        assert "watermark" in answer.ErrorComment
        assert rows(node) == []


def test_a_store_that_cannot_write_refuses_and_leaves_nothing(node, monkeypatch):
    def full(fd):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("service.store.os.fsync", full)
    assert node.send([ct_instance()]) == [0xA700]
    monkeypatch.undo()
    assert rows(node) == []
    assert list(node.store.keys("inbox")) == []
    assert node.send([ct_instance()]) == [0x0000]


def test_a_series_has_limits(tmp_path):
    with receiver(tmp_path, max_series_instances=3) as node:
        assert node.send(ct_series(5)) == [0x0000] * 3 + [0xC002] * 2
        assert len(rows(node)) == len(list(node.store.keys("inbox"))) == 3
        assert rows(node, Alert)[0].kind == "series_too_large"


def test_too_many_waiting_series_are_refused(tmp_path):
    with receiver(tmp_path, max_waiting_jobs=1) as node:
        node.send(ct_series(1))
        node.send(ct_series(1))
        for series_id in (1, 2):
            closing.force(node.database, node.settings, series_id)
        node.scp._admission._waiting_at = -10
        assert node.send(ct_series(1)) == [0xA702]


def test_interleaved_series_over_several_associations_are_told_apart(node):
    series = [ct_series(12) for _ in range(6)]
    mixed = [[], [], []]
    for number, instances in enumerate(zip(*series, strict=True)):
        mixed[number % 3].extend(instances)
    answers = []
    threads = [threading.Thread(target=lambda part=part: answers.extend(node.send(part))) for part in mixed]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [0x0000] * 72
    with node.database.reading() as session:
        for one in session.scalars(select(Series)):
            assert len(one.instances) == 12
    assert len(rows(node, Series)) == 6


def test_the_same_instance_over_two_associations_at_once_is_one(node):
    (ds,) = ct_series(1, size=256)
    answers = []
    threads = [threading.Thread(target=lambda: answers.extend(node.send([ds]))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [0x0000] * 6
    assert len(rows(node)) == 1


def test_a_released_series_closes_soon_an_aborted_one_by_idle_time(tmp_path):
    with receiver(tmp_path, series_idle_seconds=60, series_release_seconds=0.2) as node:
        released, aborted = ct_series(2), ct_series(2)
        node.send(released)
        with node.association() as association:
            for ds in aborted:
                association.send_c_store(ds)
            association.abort()
        peers.wait_for(lambda: closing.close_due(node.database, node.settings), what="a closed series")
        closed = {row.series_instance_uid: row.closed_by for row in rows(node, Series)}
        assert closed == {released[0].SeriesInstanceUID: "release", aborted[0].SeriesInstanceUID: None}


def test_a_series_stays_open_while_another_association_still_feeds_it(tmp_path):
    with receiver(tmp_path, series_idle_seconds=60, series_release_seconds=0.1) as node:
        first, second, third = ct_series(3)
        with node.association() as association:
            association.send_c_store(first)
            node.send([second])  # its association is released at once
            threading.Event().wait(0.5)
            assert closing.close_due(node.database, node.settings) == []
            association.send_c_store(third)
        peers.wait_for(lambda: closing.close_due(node.database, node.settings), what="a closed series")
        (job,) = rows(node, Job)
        assert job.last_instance_id == 3


def test_dcmtk_sends_and_everything_is_stored(node, tmp_path):
    folder = write_all(tmp_path / "files", ct_series(30, size=128))
    peers.storescu(node.port, folder, options=("-xe",))
    assert len(rows(node)) == 30
    digests = {row.sha256 for row in rows(node)}
    assert len(digests) == 30
    for row in rows(node):
        content = node.store.path(row.key).read_bytes()
        start = 132 + 12 + int.from_bytes(content[140:144], "little")
        assert hashlib.sha256(content[start:]).hexdigest() == row.sha256


@pytest.mark.real_ct
def test_a_real_series_arrives_bit_by_bit(node, real_ct):
    paths = sorted((real_ct / "qin-lsc-0055").glob("*.dcm"))[:10]
    peers.storescu(node.port, *paths, options=("-xt",))
    stored = {row.sop_instance_uid: node.store.path(row.key) for row in rows(node)}
    for path in paths:
        sent = pydicom.dcmread(path)
        assert pydicom.dcmread(stored[sent.SOPInstanceUID]).PixelData == sent.PixelData


def test_a_fault_of_the_writing_thread_is_answered_and_passes(node, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("boom")

    monkeypatch.setattr(node.inbox, "_insert", fail)
    assert node.send(ct_series(1)) == [0xC003]
    monkeypatch.undo()
    assert node.send(ct_series(2)) == [0x0000] * 2
