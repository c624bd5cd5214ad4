"""A whole node that speaks only DICOMweb with its archive: searched, swept, reported to by the web."""

from __future__ import annotations

import base64
import io
import json
import os
import subprocess
import sys
from datetime import datetime, timedelta

import dicom_series
import httpx
import node as nodes
import peers
import pydicom
import pytest
import sr_reader

from models.training.phantom import PhantomConfig, make_scan, write_dicom
from service.dicomweb.server import DEFAULT_AET, Server
from service.dicomweb.storage import store

SR, SR_3D = "1.2.840.10008.5.1.4.1.1.88.33", "1.2.840.10008.5.1.4.1.1.88.34"
SC = "1.2.840.10008.5.1.4.1.1.7"


def agatston(home, destinations, *arguments):
    """Run a command of the node and return what it says."""
    environment = {**os.environ, "AGATSTON_HOME": str(home), "AGATSTON_DESTINATIONS": destinations}
    command = [sys.executable, "-m", "service.cli", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, done.stderr


def ended(retrieval):
    return retrieval if retrieval["ended_at"] is not None else None


@pytest.mark.timeout(400)  # a whole node, an archive and a simulated scan
def test_series_are_found_swept_scored_and_reported_by_dicomweb_alone(tmp_path):
    scan = make_scan(2, config=PhantomConfig(in_plane=256, thickness_mm=3.0, calcium="high"))
    files = write_dicom(scan, tmp_path / "scan")
    count = len(files)
    # Slices of 5 mm are not eligible: a report, too.
    thick = dicom_series.series(dicom_series.pattern(30), thickness=5.0, increment=5.0)
    files += dicom_series.write(thick, tmp_path / "thick")
    headers = [pydicom.dcmread(path, stop_before_pixels=True) for path in files]
    first = headers[0]
    password = tmp_path / "password"
    password.write_text("secret")
    with peers.orthanc(tmp_path / "pacs", dicomweb=True, dimse=False, users={"agatston": "secret"}) as pacs:
        sender = Server(pacs.web, authorization="Basic " + base64.b64encode(b"agatston:secret").decode())
        for path, header in zip(files, headers, strict=True):
            assert store(sender, path, str(header.SOPInstanceUID)).status == 0
        destinations = json.dumps([{
            "name": "web", "url": pacs.web, "user": "agatston", "password_file": str(password),
            "kinds": ["sr3d", "summary", "not_eligible"],
        }])  # fmt: skip
        # At no time while this test runs: a person starts it.
        at = f"{datetime.now().astimezone() + timedelta(hours=12):%H:%M}"
        sweep = {"name": "screening", "days": 3650, "at": [at], "pause_seconds": 0}
        settings = {"destinations": destinations, "sweeps": json.dumps([sweep]), "series_release_seconds": 0.3}
        with nodes.running_node(tmp_path / "home", **settings) as running:
            said, logged = agatston(running.home, destinations, "find", "--new", "--json")
            found = {one["series_instance_uid"]: one for one in map(json.loads, said.splitlines())}
            assert set(found) == {str(first.SeriesInstanceUID), str(thick[0].SeriesInstanceUID)}
            assert found[str(first.SeriesInstanceUID)] == {
                "study_instance_uid": str(first.StudyInstanceUID),
                "series_instance_uid": str(first.SeriesInstanceUID),
                "study_date": str(first.StudyDate),
                "modality": "CT",
                "description": str(first.SeriesDescription),
                "body_part": str(first.get("BodyPartExamined", "")),
                "instances": count,
                "protocol": str(first.get("ProtocolName", "")),
            }
            asked = httpx.post(f"http://127.0.0.1:{running.http_port}/api/v1/sweeps/screening/run", timeout=20)
            assert asked.status_code == 202, asked.text
            number = asked.json()["retrieval"]
            jobs = {job["state"]: job for job in running.wait_for_jobs(2)}
            assert set(jobs) == {"scored", "not_eligible"}
            sent = {"scored": {"delivered": 2}, "not_eligible": {"delivered": 1}}
            peers.wait_for(
                lambda: {job["state"]: job["deliveries"] for job in running.jobs()} == sent,
                seconds=90, what=f"the deliveries; see {running.log}",
            )  # fmt: skip
            swept = peers.wait_for(
                lambda: ended(running.get(f"/api/v1/retrievals/{number}")), what="the end of the sweep"
            )
            assert (swept["state"], swept["found"], swept["fetched"], swept["failed"]) == ("done", 2, 2, 0)
            result = running.get(f"/api/v1/jobs/{jobs['scored']['id']}/result")
            series = running.get("/api/v1/series")["series"]
            assert {(one["calling_ae"], one["instances"]) for one in series} == {
                (DEFAULT_AET, count), (DEFAULT_AET, 30),
            }  # fmt: skip
        assert not peers.listens(pacs.port)
        log = running.log.read_text(encoding="utf-8") + logged
        assert "secret" not in log
        assert "Person" not in log
    # The same storage, without a password.
    with peers.orthanc(tmp_path / "pacs", dicomweb=True, dimse=False) as pacs:
        held = [pydicom.dcmread(io.BytesIO(pacs.download(one))) for one in pacs.get("/instances")]
    ours = {str(one.SOPClassUID): one for one in held if one.Modality != "CT"}
    assert set(ours) == {SR_3D, SC, SR}
    assert len(held) == len(files) + 3
    read = sr_reader.read(ours[SR_3D])
    assert read.totals.numbers["SCT", "450360000"] == result["agatston"]
    assert read.totals.numbers["DCM", "122660"] == result["volume_mm3"]
    assert read.totals.numbers["SCT", "450360000"] > 100
    assert read.totals.pictures == [str(ours[SC].SOPInstanceUID)]
    assert ours[SR_3D].StudyInstanceUID == ours[SC].StudyInstanceUID == first.StudyInstanceUID
    assert ours[SR].StudyInstanceUID == thick[0].StudyInstanceUID
