"""Small synthetic CT series as pydicom data sets and files."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import (
    UID,
    CTImageStorage,
    EnhancedCTImageStorage,
    ExplicitVRLittleEndian,
)

ROOT = "2.25.7700"
SERIES_UID = f"{ROOT}.2"


def pattern(slices: int, rows: int = 40, columns: int = 36, seed: int = 1) -> np.ndarray:
    """Return HU without any symmetry, int16, (slice, row, column) in canonical axes."""
    return np.random.default_rng(seed).integers(-900, 1500, (slices, rows, columns)).astype(np.int16)


def slice_dataset(
    hu: np.ndarray,
    *,
    z: float,
    number: int = 1,
    spacing: tuple[float, float] = (0.8, 0.7),
    thickness: float = 2.0,
    origin: tuple[float, float] = (-100.0, -120.0),
    orientation: Sequence[float] = (1, 0, 0, 0, 1, 0),
    signed: bool = False,
    bits_stored: int = 12,
    intercept: float = -1024,
    slope: float = 1,
    syntax: str = ExplicitVRLittleEndian,
    **elements: object,
) -> FileDataset:
    """Return one CT image; `elements` are set last, None deletes."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = UID(f"{ROOT}.3.{number}")
    meta.TransferSyntaxUID = UID(syntax)
    meta.ImplementationClassUID = UID(f"{ROOT}.9")
    coding = UID(syntax)
    little = coding.is_little_endian
    ds = FileDataset(None, {}, b"\0" * 128, meta, is_implicit_VR=coding.is_implicit_VR, is_little_endian=little)
    ds.SOPClassUID = CTImageStorage
    ds.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    ds.StudyInstanceUID = f"{ROOT}.1"
    ds.SeriesInstanceUID = SERIES_UID
    ds.FrameOfReferenceUID = f"{ROOT}.4"
    ds.PatientID = "P1"
    ds.PatientName = "Test^Person"
    ds.PatientBirthDate = "19600101"
    ds.PatientSex = "F"
    ds.StudyDate = "20260101"
    ds.StudyTime = "120000"
    ds.StudyID = "1"
    ds.AccessionNumber = "A1"
    ds.ReferringPhysicianName = ""
    ds.Modality = "CT"
    ds.Manufacturer = "Test maker"
    ds.ManufacturerModelName = "Test model"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.BodyPartExamined = "CHEST"
    ds.KVP = "120"
    ds.ExposureTime = 500
    ds.Exposure = 50
    ds.ConvolutionKernel = "B30f"
    ds.PatientPosition = "HFS"
    ds.SeriesNumber = 2
    ds.AcquisitionNumber = 1
    ds.InstanceNumber = number
    ds.SliceThickness = str(thickness)
    ds.ImagePositionPatient = [f"{value:.6g}" for value in (*origin, z)]
    ds.ImageOrientationPatient = [f"{value:.6g}" for value in orientation]
    ds.PixelSpacing = [str(spacing[0]), str(spacing[1])]
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.Rows, ds.Columns = hu.shape
    ds.BitsAllocated = 16
    ds.BitsStored = bits_stored
    ds.HighBit = bits_stored - 1
    ds.PixelRepresentation = int(signed)
    ds.RescaleIntercept = str(intercept)
    ds.RescaleSlope = str(slope)
    ds.RescaleType = "HU"
    stored = np.rint((hu.astype(np.float64) - intercept) / slope)
    ds.PixelData = stored.astype(("<" if little else ">") + ("i2" if signed else "u2")).tobytes()
    ds["PixelData"].VR = "OW"
    change(ds, elements)
    return ds


def change(ds: Dataset, elements: dict[str, object]) -> None:
    """Set elements by keyword; None deletes."""
    for keyword, value in elements.items():
        if value is None:
            if keyword in ds:
                delattr(ds, keyword)
        else:
            setattr(ds, keyword, value)


def series(
    hu: np.ndarray, *, z0: float = -50.0, increment: float = 2.0, **options: object
) -> list[FileDataset]:
    """Return the slices of a series, lowest first; `hu` is (slice, row, column)."""
    return [
        slice_dataset(image, z=z0 + index * increment, number=index + 1, **options)  # type: ignore[arg-type]
        for index, image in enumerate(hu)
    ]


def write(datasets: Iterable[Dataset], folder: Path) -> list[Path]:
    """Write data sets as files ``0000.dcm`` ...; return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for index, ds in enumerate(datasets):
        path = folder / f"{index:04d}.dcm"
        ds.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


def enhanced(
    hu: np.ndarray,
    *,
    z0: float = -50.0,
    increment: float = 2.0,
    thickness: float = 2.0,
    order: Sequence[int] | None = None,
    per_frame_rescale: bool = False,
    **elements: object,
) -> FileDataset:
    """Return one Enhanced CT Image with all slices of `hu`, its frames in `order`."""
    order = range(len(hu)) if order is None else order
    ds = slice_dataset(hu[0], z=z0)
    for keyword in (
        "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "RescaleIntercept",
        "RescaleSlope", "RescaleType", "KVP", "ConvolutionKernel", "Exposure",
    ):  # fmt: skip
        delattr(ds, keyword)
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = EnhancedCTImageStorage
    ds.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    ds.NumberOfFrames = len(hu)
    shared, frames = Dataset(), []

    def item(**values: object) -> DicomSequence:
        part = Dataset()
        change(part, values)
        return DicomSequence([part])

    shared.PixelMeasuresSequence = item(PixelSpacing=[0.8, 0.7], SliceThickness=thickness)
    shared.PlaneOrientationSequence = item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])
    shared.CTXRayDetailsSequence = item(KVP=120.0)
    shared.CTReconstructionSequence = item(ConvolutionKernel="B30f")
    if not per_frame_rescale:
        shared.PixelValueTransformationSequence = item(RescaleIntercept=-1024, RescaleSlope=1, RescaleType="HU")
    stored = []
    for place, index in enumerate(order):
        frame = Dataset()
        frame.PlanePositionSequence = item(ImagePositionPatient=[-100.0, -120.0, z0 + index * increment])
        intercept = -1024
        if per_frame_rescale:
            intercept = -1024 - place
            frame.PixelValueTransformationSequence = item(
                RescaleIntercept=intercept, RescaleSlope=1, RescaleType="HU"
            )
        frames.append(frame)
        stored.append((hu[index].astype(np.int32) - intercept).astype("<u2"))
    ds.SharedFunctionalGroupsSequence = DicomSequence([shared])
    ds.PerFrameFunctionalGroupsSequence = DicomSequence(frames)
    ds.PixelData = np.stack(stored).tobytes()
    change(ds, elements)
    return ds


def deflate_bomb(path: Path, mebibytes: int) -> Path:
    """Write a deflated file of a few kB whose data set inflates to `mebibytes` of a private element."""
    ds = slice_dataset(pattern(1)[0], z=0.0, syntax="1.2.840.10008.1.2.1.99")
    ds.save_as(path, enforce_file_format=True)
    raw = path.read_bytes()
    with path.open("rb") as file:
        file.seek(132)
        pydicom.filereader.read_dataset(file, False, True, stop_when=lambda tag, _v, _l: tag.group != 2)
        start = file.tell()
    size = mebibytes << 20
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    # (0009,0010) UN with four-byte length, then zeros.
    body = packer.compress(b"\x09\x00\x10\x00UN\0\0" + size.to_bytes(4, "little"))
    for _ in range(mebibytes):
        body += packer.compress(bytes(1 << 20))
    path.write_bytes(raw[:start] + body + packer.flush())
    return path
