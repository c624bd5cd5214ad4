"""Completeness by count: the sending archive is asked, and what is missing is fetched from it."""

from __future__ import annotations

import json
import time

import peers
import pytest
from receiving import ct_series, receiver, write_all
from sqlalchemy import select
from web_archive import Reply, answering

from calcium.errors import SettingsError
from service import closing
from service.admission import Admission
from service.completeness import Completeness
from service.dicomweb.server import Server
from service.dicomweb.storage import store
from service.dimse.association import PeerRefusedError
from service.settings import Settings
from service.tables import Alert, Instance, Job, Series


def asking(node):
    return Completeness(
        node.settings, node.database, node.inbox, Admission(node.settings, node.store, node.database)
    )


def peer(archive, **more):
    return json.dumps([{"aet": archive.aet, "host": archive.host, "port": archive.port, "query": True, **more}])


def rows(node, model):
    with node.database.reading() as session:
        return session.scalars(select(model)).all()


QUICK = {"series_idle_seconds": 0.3, "series_release_seconds": 0.1}


@pytest.mark.parametrize("retrieve", ["get", "move"])
def test_missing_slices_are_fetched_before_the_series_closes(tmp_path, retrieve, monkeypatch):
    port = peers.free_port()
    modalities = {"agatston": ("AGATSTON", "127.0.0.1", port)}
    with peers.orthanc(tmp_path / "orthanc", modalities=modalities) as archive:
        instances = ct_series(6)
        peers.storescu(archive.port, write_all(tmp_path / "files", instances), called="ORTHANC")
        with receiver(tmp_path / "home", peers=peer(archive), dicom_port=port, **QUICK) as node:
            node.send(instances[:4], ae_title="ORTHANC")
            time.sleep(0.5)
            assert closing.close_due(node.database, node.settings) == []  # quiet, but nobody was asked
            if retrieve == "move":

                def no_get(*args, **kwargs):
                    raise PeerRefusedError("no C-GET")

                monkeypatch.setattr("service.completeness.scu.get", no_get)
            completeness = asking(node)

            def closed():
                completeness.round()
                return closing.close_due(node.database, node.settings)

            peers.wait_for(closed, what="a whole series")
            (series,) = rows(node, Series)
            assert series.expected_instances == 6
            (job,) = rows(node, Job)
            assert job.last_instance_id == 6


def test_an_archive_with_dicomweb_alone_is_asked_by_qido_and_gives_the_rest_by_wado(tmp_path):
    with peers.orthanc(tmp_path / "orthanc", dicomweb=True, dimse=False) as archive:
        instances = ct_series(6)
        files = sorted(write_all(tmp_path / "files", instances).iterdir())
        for path, instance in zip(files, instances, strict=True):
            assert store(Server(archive.web), path, str(instance.SOPInstanceUID)).status == 0x0000
        only_web = json.dumps([{"aet": "ORTHANC", "url": archive.web, "query": True}])
        with receiver(tmp_path / "home", peers=only_web, **QUICK) as node:
            node.send(instances[:4], ae_title="ORTHANC")
            peers.wait_for(lambda: has_been_quiet(node), what="a quiet series")
            assert closing.close_due(node.database, node.settings) == []  # nobody was asked
            completeness = asking(node)

            def closed():
                completeness.round()
                return closing.close_due(node.database, node.settings)

            peers.wait_for(closed, what="a whole series")
            (series,) = rows(node, Series)
            assert (series.expected_instances, series.calling_ae) == (6, "ORTHANC")
            held = {row.sop_instance_uid for row in rows(node, Instance)}
            assert held == {str(one.SOPInstanceUID) for one in instances}


def has_been_quiet(node):
    with node.database.reading() as session:
        return session.scalars(closing.quiet(node.settings)).all()


def test_what_a_server_says_it_has_and_has_not_is_waited_for(tmp_path):
    instances = ct_series(3)
    study, uid = str(instances[0].StudyInstanceUID), str(instances[0].SeriesInstanceUID)

    def says(request):
        if request.path.partition("?")[0].endswith("/instances"):
            listed = [{"00080018": {"vr": "UI", "Value": [str(one.SOPInstanceUID)]}} for one in instances]
            return Reply(body=json.dumps(listed if "offset=0" in request.path else []).encode())
        return Reply(status=404)

    with answering(says) as archive:
        only_web = json.dumps([{"aet": "ORTHANC", "url": archive.url, "query": True}])
        with receiver(tmp_path / "home", peers=only_web, series_max_wait_seconds=2, **QUICK) as node:
            node.send(instances[:1], ae_title="ORTHANC")
            completeness = asking(node)

            def closed():
                completeness.round()
                return closing.close_due(node.database, node.settings)

            peers.wait_for(closed, what="the maximum wait")
            (series,) = rows(node, Series)
            assert (series.closed_by, series.expected_instances, series.query_failures) == ("max_wait", 3, 0)
    asked = {one.path for one in archive.requests}
    path = f"/dicom-web/studies/{study}/series/{uid}/instances/"
    assert {path + str(one.SOPInstanceUID) for one in instances[1:]} <= asked
    assert path + str(instances[0].SOPInstanceUID) not in asked  # we have it


def test_a_peer_that_is_to_be_asked_has_an_address():
    with pytest.raises(SettingsError, match="query needs a host and port, or a url"):
        Settings.load({"AGATSTON_PEERS": '[{"aet": "A", "query": true}]'})


def test_an_archive_that_does_not_answer_holds_up_nothing_for_long(tmp_path):
    gone = peers.DicomPeer("ORTHANC", peers.free_port(), tmp_path)
    with receiver(tmp_path / "home", peers=peer(gone), **QUICK) as node:
        node.send(ct_series(2), ae_title="ORTHANC")
        completeness = asking(node)

        def closed():
            completeness.round()
            return closing.close_due(node.database, node.settings)

        peers.wait_for(closed, what="a series that closed without its archive's word")
        assert rows(node, Series)[0].query_failures == 3
        assert [alert.kind for alert in rows(node, Alert)] == ["completeness_unknown"]


def test_the_maximum_wait_closes_an_incomplete_series(tmp_path):
    gone = peers.DicomPeer("ORTHANC", peers.free_port(), tmp_path)
    with receiver(tmp_path / "home", peers=peer(gone), series_max_wait_seconds=0.5, **QUICK) as node:
        node.send(ct_series(2), ae_title="ORTHANC")
        with node.database.transaction() as session:
            session.scalars(select(Series)).one().expected_instances = 9
        with node.association(ae_title="ORTHANC") as association:
            time.sleep(0.6)
            assert association.send_c_store(ct_series(1)[0]).Status == 0x0000  # another series
        peers.wait_for(lambda: closing.close_due(node.database, node.settings), what="the maximum wait")
        assert {row.closed_by for row in rows(node, Series)} == {"max_wait", None}


def test_peers_that_are_not_to_be_asked_are_not(tmp_path):
    with receiver(tmp_path, peers='[{"aet": "SCANNER"}]', **QUICK) as node:
        assert not asking(node).asks
        node.send(ct_series(2))
        peers.wait_for(lambda: closing.close_due(node.database, node.settings), what="a closed series")
