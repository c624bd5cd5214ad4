"""The main job, on real input: pushed by dcmtk, scored, received by a PACS, visible over HTTP."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import node
import peers
import pydicom
import pytest

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


@pytest.mark.real_ct
def test_unsuitable_series_are_stored_and_get_no_score(real_ct: Path, tmp_path: Path) -> None:
    with (
        peers.storescp(tmp_path / "pacs") as pacs,
        node.running_node(tmp_path / "home", pacs=pacs.address, series_idle_seconds=2) as running,
    ):
        peers.storescu(running.dicom_port, real_ct / "lidc-0001-contrast", options=("-xt",))
        peers.storescu(running.dicom_port, real_ct / "lungdx-a0001-5mm", options=("-xt",))
        jobs = running.wait_for_jobs(2)
        assert {job["reason_code"] for job in jobs} == {"contrast_enhanced", "too_thick"}
        assert {job["state"] for job in jobs} == {"not_eligible"}
        assert all(job["agatston"] is None for job in jobs)
        assert _reports(pacs.folder) == []
