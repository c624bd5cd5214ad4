"""A whole node that speaks only DICOMweb with its archive: searched, pulled by WADO-RS, reported by STOW-RS."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys

import dicom_series
import node as nodes
import peers
import pydicom
import pytest
import sr_reader
import worker_rows
from bench_sections import scan_of

from models.training.phantom import write_dicom
from service.dicomweb.server import DEFAULT_AET, Server
from service.dicomweb.storage import store

SR_3D, SC = "1.2.840.10008.5.1.4.1.1.88.34", "1.2.840.10008.5.1.4.1.1.7"


def agatston(home, destinations, *arguments):
    """Run a command of the node and return what it says."""
    environment = {**os.environ, "AGATSTON_HOME": str(home), "AGATSTON_DESTINATIONS": destinations}
    command = [sys.executable, "-m", "service.cli", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, done.stderr


def wait_for_deliveries(running, job, count):
    def detail():
        return running.get(f"/api/v1/jobs/{job['id']}")

    peers.wait_for(
        lambda: detail()["deliveries"] == {"delivered": count},
        seconds=90, what=f"{count} deliveries; see {running.log}",
    )  # fmt: skip
    return detail()


def held_by(pacs):
    return [pydicom.dcmread(io.BytesIO(pacs.download(one))) for one in pacs.get("/instances")]


@pytest.mark.timeout(400)  # a whole node, an archive and a simulated scan
def test_a_series_is_found_pulled_scored_and_reported_by_dicomweb_alone(tmp_path):
    files = write_dicom(scan_of(80), tmp_path / "scan")
    slices = [pydicom.dcmread(path, stop_before_pixels=True) for path in files]
    with peers.orthanc(tmp_path / "pacs", dicomweb=True, dimse=False) as pacs:
        for path, header in zip(files, slices, strict=True):
            assert store(Server(pacs.web), path, str(header.SOPInstanceUID)).status == 0
        destinations = json.dumps([{"name": "web", "url": pacs.web, "kinds": ["sr3d", "summary"]}])
        with nodes.running_node(tmp_path / "home", destinations=destinations) as running:
            found, _ = agatston(running.home, destinations, "find", "--new", "--json")
            assert [json.loads(line) for line in found.splitlines()] == [
                {
                    "study_instance_uid": str(slices[0].StudyInstanceUID),
                    "series_instance_uid": str(slices[0].SeriesInstanceUID),
                    "study_date": str(slices[0].StudyDate),
                    "modality": "CT",
                    "description": str(slices[0].SeriesDescription),
                    "body_part": str(slices[0].get("BodyPartExamined", "")),
                    "instances": 80,
                }
            ]
            agatston(running.home, destinations, "pull", "--from", "web")
            (job,) = running.wait_for_jobs(1)
            assert job["state"] == "scored", job
            wait_for_deliveries(running, job, 2)
            result = running.get(f"/api/v1/jobs/{job['id']}/result")
            (series,) = running.get("/api/v1/series")["series"]
            assert (series["calling_ae"], series["instances"]) == (DEFAULT_AET, 80)
            found, _ = agatston(running.home, destinations, "find", "--new", "--json")
            assert found == ""
        assert not peers.listens(pacs.port)
        held = held_by(pacs)
    assert len(held) == 82
    (report,) = (one for one in held if one.SOPClassUID == SR_3D)
    (picture,) = (one for one in held if one.SOPClassUID == SC)
    read = sr_reader.read(report)
    assert read.totals.numbers["SCT", "450360000"] == result["agatston"]
    assert read.totals.numbers["DCM", "122660"] == result["volume_mm3"]
    assert read.totals.pictures == [str(picture.SOPInstanceUID)]
    assert {str(one.StudyInstanceUID) for one in held} == {str(slices[0].StudyInstanceUID)}


def test_a_series_without_a_score_and_an_archive_with_a_password(tmp_path):
    weights = worker_rows.untrained_weights(tmp_path / "weights")
    with peers.orthanc(tmp_path / "pacs", dicomweb=True, users={"agatston": "secret"}) as pacs:
        # Slices of 5 mm are not eligible: a report, too, and a quick one.
        slices = dicom_series.series(dicom_series.pattern(30), thickness=5.0, increment=5.0)
        dicom_series.write(slices, tmp_path / "sent")
        peers.storescu(pacs.port, tmp_path / "sent", called=pacs.aet)
        password = tmp_path / "password"
        password.write_text("secret")
        destination = {
            "name": "web", "url": pacs.web, "user": "agatston", "password_file": str(password),
            "kinds": ["sr3d", "not_eligible"],
        }  # fmt: skip
        settings = {
            "destinations": json.dumps([destination]),
            "weights": str(weights),
            "series_release_seconds": 0.3,
        }
        with nodes.running_node(tmp_path / "home", **settings) as running:
            said, logged = agatston(running.home, settings["destinations"], "pull", "--from", "web")
            assert f"1 series found at {pacs.web}: 1 pulled" in said
            (job,) = running.wait_for_jobs(1)
            assert job["state"] == "not_eligible"
            (written,) = wait_for_deliveries(running, job, 1)["objects"]
            assert [one["destination"] for one in written["deliveries"]] == ["web"]
        log = running.log.read_text(encoding="utf-8") + logged
        assert "secret" not in log
        assert "Person" not in log
    with peers.orthanc(tmp_path / "pacs", dicomweb=True) as pacs:  # the same storage, without a password
        held = held_by(pacs)
    (report,) = (one for one in held if one.Modality == "SR")
    assert report.StudyInstanceUID == slices[0].StudyInstanceUID
    assert len(held) == 31
