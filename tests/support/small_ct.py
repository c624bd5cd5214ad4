"""Small CT slices of noise, for tests that move files about."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid


def write_ct(path: Path, syntax: str = ExplicitVRLittleEndian, **attributes: object) -> FileDataset:
    """Write one CT slice of 32 x 32 and return it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = attributes.pop("SOPInstanceUID", generate_uid())
    meta.TransferSyntaxUID = syntax
    slice_ = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    slice_.SOPClassUID, slice_.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
    slice_.StudyInstanceUID, slice_.SeriesInstanceUID = generate_uid(), generate_uid()
    slice_.PatientName, slice_.PatientID, slice_.PatientSex, slice_.PatientBirthDate = (
        "Test^Scu",
        "scu-1",
        "",
        "",
    )
    slice_.StudyDate, slice_.StudyTime, slice_.StudyID, slice_.AccessionNumber = "20261124", "101500", "1", "A1"
    slice_.Modality, slice_.SeriesNumber, slice_.SeriesDescription = "CT", 1, "LUNG 1.0"
    slice_.Rows = slice_.Columns = 32
    slice_.BitsAllocated, slice_.BitsStored, slice_.HighBit, slice_.PixelRepresentation = 16, 16, 15, 1
    slice_.SamplesPerPixel, slice_.PhotometricInterpretation = 1, "MONOCHROME2"
    slice_.PixelData = np.random.default_rng(1).integers(-1000, 1000, (32, 32), dtype=np.int16).tobytes()
    slice_["PixelData"].VR = "OW"
    for keyword, value in attributes.items():
        setattr(slice_, keyword, value)
    slice_.save_as(path, enforce_file_format=True)
    return slice_


def write_series(folder: Path, count: int, **attributes: object) -> list[FileDataset]:
    """Write `count` slices of one series."""
    common = {"StudyInstanceUID": generate_uid(), "SeriesInstanceUID": generate_uid(), **attributes}
    return [
        write_ct(folder / f"{common['SeriesInstanceUID']}-{number}.dcm", InstanceNumber=number + 1, **common)
        for number in range(count)
    ]
