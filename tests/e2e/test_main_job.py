"""The main job, on real input: pushed by dcmtk, scored, received by a PACS, visible over HTTP."""

from __future__ import annotations

import subprocess
import time
from typing import TYPE_CHECKING

import node
import peers
import pydicom
import pytest
from bench_sections import scan_of
from pydicom.uid import generate_uid

from models.training.phantom import write_dicom

if TYPE_CHECKING:
    from pathlib import Path

SR_CLASSES = {
    "1.2.840.10008.5.1.4.1.1.88.34",
    "1.2.840.10008.5.1.4.1.1.88.33",
}  # Comprehensive 3D SR, Comprehensive SR


def _reports(folder: Path) -> list[Path]:
    """Return the complete SR files in a folder of storescp."""
    found = []
    for path in sorted(folder.iterdir()):
        try:
            header = pydicom.dcmread(path, stop_before_pixels=True)
        except Exception:  # noqa: BLE001 (storescp is still writing it)
            continue
        if header.SOPClassUID in SR_CLASSES:
            found.append(path)
    return found


def _write_reports(pacs: peers.Orthanc, folder: Path) -> list[Path]:
    folder.mkdir(exist_ok=True)
    for instance in pacs.get("/instances"):  # type: ignore[attr-defined]
        (folder / f"{instance}.dcm").write_bytes(pacs.download(instance))
    return _reports(folder)


def _check_report(path: Path, job: dict[str, object]) -> None:
    errors = subprocess.run([peers.program("dciodvfy"), str(path)], capture_output=True, text=True, check=False)
    assert "Error" not in errors.stderr, errors.stderr
    page = subprocess.run([peers.program("dsr2html"), str(path)], capture_output=True, text=True, check=False)
    assert page.returncode == 0, page.stderr
    assert f"{job['agatston']:.1f}".split(".")[0] in page.stdout
    report = pydicom.dcmread(path)
    assert report.VerificationFlag == "UNVERIFIED"


@pytest.mark.real_ct
def test_a_real_series_pushed_by_storescu_comes_back_to_storescp(real_ct: Path, tmp_path: Path) -> None:
    with (
        peers.storescp(tmp_path / "pacs") as pacs,
        node.running_node(tmp_path / "home", pacs=pacs.address, series_idle_seconds=2) as running,
    ):
        peers.storescu(running.dicom_port, real_ct / "qin-lsc-0055", options=("-xt",))
        (job,) = running.wait_for_jobs()
        assert job["state"] == "scored", job
        reports = peers.wait_for(lambda: _reports(pacs.folder), seconds=60, what="the report at storescp")
        _check_report(reports[0], job)  # type: ignore[index]
        details = running.get(f"/api/v1/jobs/{job['id']}")
        assert details["result"]["agatston"] == pytest.approx(job["agatston"])


@pytest.mark.real_ct
def test_a_real_series_comes_back_to_orthanc_through_redis_and_postgres(
    real_ct: Path, tmp_path: Path, redis_url: str, new_postgres_database: str
) -> None:
    with (
        peers.orthanc(tmp_path / "orthanc") as pacs,
        node.running_node(
            tmp_path / "home",
            pacs=pacs.address, series_idle_seconds=2, broker_url=redis_url, database_url=new_postgres_database,
        ) as running,
    ):  # fmt: skip
        peers.storescu(running.dicom_port, real_ct / "lidc-0002", options=("-xt",))
        (job,) = running.wait_for_jobs()
        assert job["state"] == "scored", job

        reports = peers.wait_for(
            lambda: _write_reports(pacs, tmp_path / "received"), seconds=60, what="an SR at Orthanc"
        )
        _check_report(reports[0], job)  # type: ignore[index]


def _localizer(template: Path, path: Path) -> Path:
    """Write a localizer (scout) of the same patient: one projection image in a series of its own."""
    scout = pydicom.dcmread(template)
    scout.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    scout.SeriesInstanceUID, scout.SOPInstanceUID = generate_uid(), generate_uid()
    scout.file_meta.MediaStorageSOPInstanceUID = scout.SOPInstanceUID
    scout.save_as(path)
    return path


@pytest.mark.real_ct
def test_unsuitable_series_are_stored_and_get_no_score(real_ct: Path, tmp_path: Path) -> None:
    scout = _localizer(next((real_ct / "lidc-0002").glob("*.dcm")), tmp_path / "scout.dcm")
    with (
        peers.storescp(tmp_path / "pacs") as pacs,
        node.running_node(tmp_path / "home", pacs=pacs.address, series_idle_seconds=2) as running,
    ):
        for path in (real_ct / "lidc-0001-contrast", real_ct / "lungdx-a0001-5mm", scout):
            peers.storescu(running.dicom_port, path, options=("-xt",))
        jobs = running.wait_for_jobs(3)
        assert {job["reason_code"] for job in jobs} == {"contrast_enhanced", "too_thick", "localizer"}
        assert {job["state"] for job in jobs} == {"not_eligible"}
        assert all(job["agatston"] is None for job in jobs)
        assert _reports(pacs.folder) == []


def test_kill_9_in_the_middle_of_a_series_and_of_a_job_loses_nothing(tmp_path: Path) -> None:
    files = tmp_path / "scan"
    count = len(write_dicom(scan_of(80), files))
    same = {"home": tmp_path / "home", "series_idle_seconds": 3, "dicom_port": peers.free_port()}
    with peers.storescp(tmp_path / "pacs") as pacs:
        with node.running_node(**same, pacs=pacs.address) as first:
            send = [peers.program("storescu"), "-aec", "AGATSTON", "+sd", "127.0.0.1", str(first.dicom_port)]
            slow = {key: value for key, value in peers.FAST_TCP.items() if key != "TCP_NODELAY"}
            sender = subprocess.Popen([*send, str(files)], env=slow, stderr=subprocess.DEVNULL)
            inbox = tmp_path / "home" / "store"
            peers.wait_for(lambda: 5 < len(list(inbox.rglob("*.dcm"))) < count, what="half a series")
            first.power_cut()
            assert sender.wait(60) != 0  # the scanner knows, and sends again
        with node.running_node(**same, pacs=pacs.address) as second:
            peers.storescu(second.dicom_port, files)
            peers.wait_for(
                lambda: [job for job in second.jobs() if job["state"] == "running"],
                seconds=90,
                what="a running job",
            )
            second.power_cut()
        with node.running_node(**same, pacs=pacs.address) as third:
            (job,) = third.wait_for_jobs()
            assert job["state"] == "scored", job
            assert third.get(f"/api/v1/jobs/{job['id']}")["instances"] == count
            peers.wait_for(lambda: _reports(pacs.folder), seconds=60, what="the report")
            time.sleep(5)  # time for a second one, were there one
            assert len(_reports(pacs.folder)) == 1
