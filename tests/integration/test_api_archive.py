"""Finding and pulling over HTTP, and exports that take the patient from the report in the outbox."""

from __future__ import annotations

import csv
import io
import json

import peers
import pytest
import rows
import small_ct
from api_client import serving
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian
from sqlalchemy import func, select

from service.settings import Settings
from service.store import Store, outbox_key
from service.tables import Instance, OutputObject


@pytest.fixture
def database(tmp_path):
    made = rows.database(tmp_path)
    yield made
    made.dispose()


def test_find_then_pull_then_known(database, tmp_path):
    with peers.orthanc(tmp_path / "pacs") as there:
        slices = small_ct.write_series(tmp_path / "sent", 3)
        peers.storescu(there.port, tmp_path / "sent", called=there.aet)
        with serving(Settings(home=tmp_path, pacs=there.address), database) as api:
            (found,) = api.post("/api/v1/archive/find", json={"dates": "20261101-"}).json()
            assert (found["series_instance_uid"], found["instances"]) == (slices[0].SeriesInstanceUID, 3)
            assert "Test" not in json.dumps(found)
            wanted = {key: found[key] for key in ("study_instance_uid", "series_instance_uid")}
            answer = api.post("/api/v1/archive/pull", json={"series": [wanted]})
            assert (answer.status_code, answer.json()["accepted"]) == (202, 1)
            remembered = f"/api/v1/retrievals/{answer.json()['retrieval']}"

            def count():
                with database.reading() as session:
                    return session.scalar(select(func.count(Instance.id)))

            peers.wait_for(lambda: count() == 3, what="three instances")
            peers.wait_for(lambda: api.get(remembered).json()["state"] == "done", what="the end of the pull")
            row = api.get(remembered).json()
            assert (row["kind"], row["found"], row["fetched"], row["failed"]) == ("pull", 1, 1, 0)
            assert api.post("/api/v1/archive/find", json={}).json() == []
            (known,) = api.post("/api/v1/archive/find", json={"only_new": False}).json()
            assert known["known"] is True


def test_the_api_calls_no_host_that_the_settings_do_not_name(database, tmp_path):
    with serving(Settings(home=tmp_path), database) as api:
        assert api.post("/api/v1/archive/find", json={"archive": "X@10.0.0.1:104"}).status_code == 422
        assert api.post("/api/v1/archive/find", json={"archive": "other"}).status_code == 404
        assert api.post("/api/v1/archive/find", json={}).status_code == 404


def test_an_archive_that_is_down_is_503(database, tmp_path):
    pacs = f"PACS@127.0.0.1:{peers.free_port()}"
    with serving(Settings(home=tmp_path, pacs=pacs), database) as api:
        answer = api.post("/api/v1/archive/find", json={})
    assert answer.status_code == 503
    assert answer.json()["code"] == "archive_unavailable"


def test_exports_take_the_patient_from_the_report(database, tmp_path):
    settings = Settings(home=tmp_path)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.88.34", "1.2.3"
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    report = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    report.SpecificCharacterSet = "ISO_IR 192"
    report.PatientName, report.PatientID, report.StudyDate = "Ångström^Åsa", "P1", "20261124"
    buffer = io.BytesIO()
    report.save_as(buffer, enforce_file_format=True)
    with database.transaction() as session:
        job = rows.add_job(session, agatston=412.0)
        written = session.scalars(select(OutputObject).where(OutputObject.job_id == job.id)).one()
        written.key = outbox_key(job.id, "sr3d", written.sop_instance_uid)
        key, job_id = written.key, job.id
    with serving(settings, database) as api:
        lost = api.get(f"/api/v1/jobs/{job_id}/result/hl7")
        assert (lost.status_code, lost.json()["code"]) == (409, "no_score")
        assert "Patient" not in kinds(api, job_id)
        Store(settings.store_root).put(key, buffer.getvalue())
        message = api.get(f"/api/v1/jobs/{job_id}/result/hl7")
        assert "PID|1||P1||Ångström^Åsa" in message.text
        assert message.headers["cache-control"] == "no-store"
        assert "Patient" in kinds(api, job_id)


def kinds(api, job_id):
    bundle = api.get(f"/api/v1/jobs/{job_id}/result/fhir").json()
    return [one["resource"]["resourceType"] for one in bundle["entry"]]


def test_many_results_stream_as_csv(database, tmp_path):
    with database.transaction() as session:
        rows.many_jobs(session, 450)
    with serving(Settings(home=tmp_path), database) as api:
        everything = list(csv.DictReader(io.StringIO(api.get("/api/v1/jobs/csv").text)))
        scored = list(csv.DictReader(io.StringIO(api.get("/api/v1/jobs/csv", params={"state": "scored"}).text)))
    assert len({one["job_id"] for one in everything}) == 450
    assert {one["agatston"] for one in scored} == {"12.0"}
    assert {one["agatston"] for one in everything if one["status"] != "scored"} == {""}


def test_the_banner_stays_until_the_site_validates_the_weights(database, tmp_path):
    page = {"Accept": "text/html"}
    with database.transaction() as session:
        rows.add_job(session, agatston=3.0)
    with serving(Settings(home=tmp_path), database) as api:
        assert "Research use only, not for diagnosis" in api.get("/", headers=page).text
    with database.transaction() as session:
        job = rows.add_job(session, agatston=3.0)
        job.result.weights = {**rows.WEIGHTS, "validated_by_site": True}
    with serving(Settings(home=tmp_path), database) as api:
        assert "validated by this site" in api.get("/", headers=page).text
