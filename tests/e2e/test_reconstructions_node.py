"""A scanner sends a sharp and a soft reconstruction of one scan: one score, one report."""

from __future__ import annotations

from typing import TYPE_CHECKING

import node
import peers
import pydicom
import pytest
from pydicom.uid import generate_uid

if TYPE_CHECKING:
    from pathlib import Path


def _sharp(files: Path, folder: Path) -> str:
    """Write the scan once more as a reconstruction with a sharp kernel; return its Series Instance UID."""
    folder.mkdir()
    uid = generate_uid()
    for path in sorted(files.glob("*.dcm")):
        ds = pydicom.dcmread(path)
        ds.SeriesInstanceUID, ds.SeriesNumber, ds.ConvolutionKernel = uid, 9, "B70f"
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        ds.save_as(folder / path.name)
    return str(uid)


@pytest.mark.real_ct
def test_one_report_on_one_scan(real_ct: Path, tmp_path: Path) -> None:
    soft_files, sharp_files = real_ct / "qin-lsc-0055", tmp_path / "sharp"
    soft = str(pydicom.dcmread(next(soft_files.glob("*.dcm"))).SeriesInstanceUID)
    sharp = _sharp(soft_files, sharp_files)
    with (
        peers.storescp(tmp_path / "pacs") as pacs,
        # Each series closes long after the other has begun, however slow this machine is.
        node.running_node(
            tmp_path / "home", pacs=pacs.address, series_release_seconds=20, reconstruction_wait_seconds=300
        ) as running,
    ):
        for folder in (sharp_files, soft_files):
            peers.storescu(running.dicom_port, folder, options=("-xt",))
        jobs = {job["series_instance_uid"]: job for job in running.wait_for_jobs(2)}
        assert jobs[soft]["state"] == "scored", jobs[soft]
        assert (jobs[sharp]["state"], jobs[sharp]["reason_code"]) == ("not_eligible", "other_reconstruction")
        assert jobs[sharp]["chosen_series_instance_uid"] == soft

        def reports() -> list[Path]:
            return [path for path in pacs.folder.iterdir() if path.name.startswith("SR")]

        peers.wait_for(reports, seconds=60, what="the report")
        assert len(reports()) == 1
