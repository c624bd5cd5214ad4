"""Two small results that differ in everything a result can differ in, for tables made from real objects.

What both have in common in an object is fixed by the code; what differs comes from the source or the result.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from calcium.acquisition import Acquisition
from calcium.geometry import BoxMm, VolumeGeometry, VoxelBox
from calcium.resample import resample
from calcium.series import CTSeries, InstanceReference
from calcium.volume import CTVolume
from models.results import Caution, HeatMap, ScoringResult, SliceScore, WeightsIdentity
from worker.companions import BUILDERS
from worker.identity import Device
from worker.report.document import ReportConfig, build_not_eligible_report, build_report

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

ROOT = "1.2.826.0.1.3680043.10.1338"
ROWS = 48
# What one sample has otherwise than the other, and both otherwise than any default.
HEADERS: tuple[dict[str, Any], dict[str, Any]] = (
    {"PatientName": "One^Sample", "PatientID": "1", "PatientSex": "F", "StudyID": "A", "AccessionNumber": "A1",
     "PatientBirthDate": "19500101", "StudyDate": "20260101", "StudyTime": "080000",
     "ReferringPhysicianName": "First^Doctor", "TimezoneOffsetFromUTC": "+0100"},
    {"PatientName": "Two^Sample", "PatientID": "2", "PatientSex": "M", "StudyID": "B", "AccessionNumber": "B2",
     "PatientBirthDate": "19600202", "StudyDate": "20260202", "StudyTime": "090909",
     "ReferringPhysicianName": "Second^Doctor", "TimezoneOffsetFromUTC": "-0500"},
)  # fmt: skip


def objects(number: int) -> dict[str, Dataset]:
    """Return every object that a result can have, by kind; `number` is 0 or 1."""
    series, result, config = _series(number), _result(_series(number), number), _config(number)
    made: dict[str, Dataset] = {
        "sr3d": build_report(series, result, kind="sr3d", config=config),
        "sr": build_report(series, result, kind="sr", config=config),
    }
    made |= {kind: build(series, result, config) for kind, build in BUILDERS.items()}
    reason = Caution("too_thick", "slices of 5 mm") if number else Caution("heart_cut", "the scan is cut")
    made["not_eligible"] = build_not_eligible_report(series, reason, kind="sr", config=config)
    return made


def _config(number: int) -> ReportConfig:
    made_at = datetime(2026, 1 + number, 2 + number, 3 + number, 4, 5, 600 + number, tzinfo=UTC)
    device = Device(station_name=f"AE_{number}")
    return ReportConfig(made_at=made_at, device=device, revision=1 + number)


def _series(number: int) -> CTSeries:
    step = 3.0 + number
    geometry = VolumeGeometry(
        (-70.0 - number, -71.0, -50.0 - number), (step, 3.0, 3.0), (36, ROWS, ROWS + number)
    )
    hu = np.full(geometry.shape, -800, np.int16)
    hu[4:30, 8:40, 8:40] = 40
    hu[14:18, 20:23, 20:23] = 400
    header = FileDataset("", {}, file_meta=FileMetaDataset())
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    header.SpecificCharacterSet = "ISO_IR 100"
    header.SOPClassUID, header.Modality = CTImageStorage, "CT"
    for place, keyword in enumerate(("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"), start=1):
        setattr(header, keyword, f"{ROOT}.{number + 1}.{place}")
    for keyword, value in HEADERS[number].items():
        setattr(header, keyword, value)
    header.ImagePositionPatient = list(geometry.origin_mm)
    header.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    header.PixelSpacing = [3.0, 3.0]
    header.Rows, header.Columns = geometry.shape[1:]
    instances = tuple(
        InstanceReference(CTImageStorage, f"{ROOT}.{number + 1}.9.{index + 1}", geometry.z_mm(index))
        for index in range(geometry.shape[0])
    )
    return CTSeries(CTVolume(hu, geometry, step), header, instances, Acquisition())


def _result(series: CTSeries, number: int) -> ScoringResult:
    volume = resample(series.volume)
    box = BoxMm((-40.0 - number, -41.0, -35.0), (41.0, 40.0 + number, 25.0))
    inside = VoxelBox.covering(box, volume.geometry)
    credit = np.where(volume.hu[inside.slices] >= 130, 9.0 + number, 0.0).astype(np.float32)
    scores = tuple(
        SliceScore(volume.geometry.z_mm(inside.start[0] + index), float(plane.sum()), float(plane.sum()) / 2)
        for index, plane in enumerate(credit)
    )
    total = sum(score.agatston for score in scores) / (2 + 60 * number)
    return ScoringResult(
        agatston=total,
        agatston_interval=(total * 0.5, total * 2.0),
        interval_coverage=0.95 - number / 10,
        volume_mm3=total * 0.8,
        heart_box=box,
        slice_scores=scores,
        weights=WeightsIdentity(f"weights-{number}", "1", f"{number}" * 64, "simulated", bool(number)),
        resampled=volume,
        group_probabilities=(0.1, 0.1, 0.1, 0.2, 0.5) if number else (0.0, 0.1, 0.2, 0.3, 0.4),
        cautions=(Caution("noise", "much noise"),) if number else (Caution("lossy", "lossy images"),),
        heat_map=HeatMap(inside, credit, "Agatston score per voxel"),
    )
