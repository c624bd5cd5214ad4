"""A small series and a result for the tests of what we write; every value is distinct, so none can hide."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from calcium.acquisition import Acquisition
from calcium.geometry import BoxMm, VolumeGeometry, VoxelBox
from calcium.resample import resample
from calcium.series import CTSeries, InstanceReference
from calcium.volume import CTVolume
from models.results import Caution, HeatMap, ScoringResult, SliceScore, WeightsIdentity
from worker.encoding import file_bytes
from worker.report.document import ReportConfig

if TYPE_CHECKING:
    from pathlib import Path

CT_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.2"
CONFIG = ReportConfig(made_at=datetime(2026, 11, 25, 9, 0, 1, 234567, tzinfo=UTC))
SLICES, ROWS = 60, 64


def header(**changes: Any) -> Dataset:
    """Return the header of the lowest slice, as a scanner would write it."""
    values: dict[str, Any] = {
        "SpecificCharacterSet": "ISO_IR 100",
        "SOPClassUID": CT_IMAGE_STORAGE,
        "SOPInstanceUID": "1.2.826.0.1.3680043.10.1338.1.1.1",
        "StudyInstanceUID": "1.2.826.0.1.3680043.10.1338.1",
        "SeriesInstanceUID": "1.2.826.0.1.3680043.10.1338.1.1",
        "FrameOfReferenceUID": "1.2.826.0.1.3680043.10.1338.1.9",
        "Modality": "CT",
        "PatientName": "Müller^Jürgen",
        "PatientID": "PAT-4711",
        "IssuerOfPatientID": "HOSPITAL-A",
        "PatientBirthDate": "19600229",
        "PatientSex": "M",
        "PatientAge": "066Y",
        "PatientSize": "1.83",
        "PatientWeight": "81.5",
        "StudyDate": "20261120",
        "StudyTime": "101112",
        "StudyID": "S1",
        "StudyDescription": "Lung screening",
        "AccessionNumber": "ACC-1",
        "ReferringPhysicianName": "Weiß^Anna",
        "ImagePositionPatient": [-80.0, -80.0, -300.0],
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
        "PixelSpacing": [2.5, 2.5],
        "Rows": ROWS,
        "Columns": ROWS,
    }
    dataset = Dataset()
    for keyword, value in (values | changes).items():
        if value is not None:
            setattr(dataset, keyword, value)
    return dataset


def series(**changes: Any) -> CTSeries:
    """Return a series of 60 slices of 2.5 mm: a ball of soft tissue with some calcium in it, in air."""
    geometry = VolumeGeometry((-80.0, -80.0, -300.0), (2.5, 2.5, 2.5), (SLICES, ROWS, ROWS))
    z, y, x = np.meshgrid(*(np.arange(size) - size / 2 for size in geometry.shape), indexing="ij")
    hu = np.where(z**2 + y**2 + x**2 < 22**2, 40, -850).astype(np.int16)
    hu[26:34, 30:33, 36:38] = 420
    hu[40:42, 28:30, 30:32] = 250
    instances = tuple(
        InstanceReference(
            CT_IMAGE_STORAGE, f"1.2.826.0.1.3680043.10.1338.1.1.{index + 1}", geometry.z_mm(index)
        )
        for index in range(SLICES)
    )
    return CTSeries(CTVolume(hu, geometry, 2.5), header(**changes), instances, Acquisition())


def result(of: CTSeries, **changes: Any) -> ScoringResult:
    """Return a result whose slice scores are counted from the voxels above 130 HU."""
    volume = resample(of.volume)
    box = BoxMm((-52.5, -50.25, -282.125), (51.75, 49.5, -170.375))
    inside = VoxelBox.covering(box, volume.geometry)
    credit = np.where(volume.hu[inside.slices] >= 130, volume.geometry.pixel_area_mm2 * 1.5, 0)
    credit = credit.astype(np.float32)
    scores = tuple(
        SliceScore(
            volume.geometry.z_mm(inside.start[0] + index),
            float(plane.sum()) * (1 + index / 1000),
            float((plane > 0).sum()) * volume.geometry.voxel_volume_mm3,
        )
        for index, plane in enumerate(credit)
    )
    total = sum(score.agatston for score in scores) / 2
    plain = ScoringResult(
        agatston=total,
        agatston_interval=(total * 0.7, total * 1.4),
        interval_coverage=0.9,
        volume_mm3=sum(score.volume_mm3 for score in scores),
        heart_box=box,
        slice_scores=scores,
        weights=WeightsIdentity("simulated-2026", "1.2", "0123456789abcdef" * 4, "simulated"),
        resampled=volume,
        group_probabilities=(0.01, 0.02, 0.03, 0.14, 0.8),
        cautions=(
            Caution("few_slices", "60 slices: the paper's method asks for at least 100."),
            Caution("noise", "Noise in the heart of 61 HU is above the trained range."),
        ),
        heat_map=HeatMap(inside, credit, "Agatston score per voxel"),
    )
    return replace(plain, **changes)


def write_source(of: CTSeries, folder: Path) -> list[Path]:
    """Write the series as CT images, for peers that compare our objects with their source."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for index, instance in enumerate(of.instances):
        image = Dataset()
        image.update(of.header)
        image.SOPInstanceUID = instance.sop_instance_uid
        image.ImagePositionPatient = [-80.0, -80.0, instance.z_mm]
        image.InstanceNumber = index + 1
        image.SliceThickness = "2.5"
        image.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        image.Manufacturer = "Scanner"
        image.SeriesNumber, image.AcquisitionNumber, image.KVP = 2, 1, "120"
        image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
        image.BitsAllocated = image.BitsStored = 16
        image.HighBit, image.PixelRepresentation = 15, 1
        image.RescaleIntercept, image.RescaleSlope, image.RescaleType = "0", "1", "HU"
        image.PatientPosition, image.PositionReferenceIndicator = "HFS", ""
        image.PixelData = of.volume.hu[index].tobytes()
        image.file_meta = FileMetaDataset()
        image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID
        image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
        image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        path = folder / f"{index:04}.dcm"
        path.write_bytes(file_bytes(image))
        paths.append(path)
    return paths
