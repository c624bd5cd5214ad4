"""A whole node that speaks only DICOMweb with its archive: pulled by WADO-RS, reported by STOW-RS."""

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
import worker_rows


def test_a_series_is_pulled_and_its_report_comes_back(tmp_path):
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
        home = tmp_path / "home"
        with nodes.running_node(home, **settings) as running:
            environment = {
                **os.environ,
                "AGATSTON_HOME": str(home),
                "AGATSTON_DESTINATIONS": settings["destinations"],
            }
            command = [sys.executable, "-m", "service.cli", "pull", "--from", "web"]
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, timeout=120, check=False
            )
            assert done.returncode == 0, done.stdout + done.stderr
            assert f"1 series found at {pacs.web}: 1 pulled" in done.stdout
            (job,) = running.wait_for_jobs(1)
            assert job["state"] == "not_eligible"

            def detail():
                return running.get(f"/api/v1/jobs/{job['id']}")

            peers.wait_for(
                lambda: detail()["deliveries"] == {"delivered": 1},
                seconds=90, what=f"the report; see {running.log}",
            )  # fmt: skip
            (written,) = detail()["objects"]
            assert [one["destination"] for one in written["deliveries"]] == ["web"]
        log = running.log.read_text(encoding="utf-8") + done.stderr
        assert "secret" not in log
        assert "Person" not in log
    with peers.orthanc(tmp_path / "pacs", dicomweb=True) as pacs:  # the same storage, without a password
        held = [pydicom.dcmread(io.BytesIO(pacs.download(one))) for one in pacs.get("/instances")]
    (report,) = (one for one in held if one.Modality == "SR")
    assert report.StudyInstanceUID == slices[0].StudyInstanceUID
    assert len(held) == 31
