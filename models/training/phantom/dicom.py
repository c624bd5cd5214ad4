"""Writes a simulated scan as a series of CT Image Storage instances (PS3.3 A.3), marked as simulated."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    UID,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from models.training.phantom.config import PhantomScan

INTERCEPT = -1024  # stored value 0 is the lowest HU that the simulator makes
IMPLEMENTATION = UID("2.25.234892110915498221906341532847162508113")  # a UUID of this writer (PS3.5 B.2)
TRANSFER_SYNTAXES = {
    "implicit": ImplicitVRLittleEndian,
    "explicit": ExplicitVRLittleEndian,
    "deflated": DeflatedExplicitVRLittleEndian,
    "rle": RLELossless,
    "jpeg-ls": JPEGLSLossless,
    "jpeg-2000": JPEG2000Lossless,
}


def uid(*parts: object) -> str:
    """Return a UID that depends on `parts` alone: a UUID version 5 under 2.25 (PS3.5 B.2)."""
    return f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, '/'.join(['agatston-phantom', *map(str, parts)])).int}"


def _outside_circle(scan: PhantomScan) -> NDArray[np.bool_]:
    """Return which pixels (rows, columns) lie outside the scanner's field of view."""
    geometry, facts = scan.volume.geometry, scan.description
    x0, y0, _ = geometry.origin_mm
    _, rows, columns = geometry.shape
    y = y0 + np.arange(rows)[:, None] * geometry.spacing_mm[1] - facts["center_mm"][1]
    x = x0 + np.arange(columns)[None, :] * geometry.spacing_mm[2] - facts["center_mm"][0]
    # Only what the image itself leaves empty: rounding of the centre must not cut off tissue.
    return np.asarray((np.hypot(y, x) > facts["view_mm"] / 2) & np.all(scan.volume.hu == INTERCEPT, axis=0))


def write_dicom(
    scan: PhantomScan,
    folder: Path,
    *,
    patient_name: str = "PHANTOM^SIMULATED",
    patient_id: str | None = None,
    birth_date: str = "19550101",
    sex: str | None = None,
    accession_number: str = "",
    study_date: str = "20250101",
    study_time: str = "120000",
    character_set: str = "ISO_IR 192",
    transfer_syntax: str = "explicit",
    contrast_agent: str | None = None,
) -> list[Path]:
    """Write one file for each slice of ``scan.volume`` and return their paths, by rising z.

    Parameters
    ----------
    scan
        What to write. Equal scans make equal bytes.
    folder
        Made where absent.
    patient_name, patient_id, birth_date, sex, accession_number, study_date, study_time, character_set
        Header values, in DICOM's own forms; the identity defaults to one made from the seed.
    transfer_syntax
        A key of TRANSFER_SYNTAXES.
    contrast_agent
        Written as Contrast/Bolus Agent (PS3.3 C.7.6.4); none by default, also for scans with contrast, because
        scanners leave it empty too.
    """
    syntax = TRANSFER_SYNTAXES[transfer_syntax]
    written = ExplicitVRLittleEndian if syntax.is_encapsulated else syntax
    folder.mkdir(parents=True, exist_ok=True)
    volume, facts = scan.volume, scan.description
    geometry = volume.geometry
    identity = (scan.seed, *sorted((k, str(v)) for k, v in facts.items()), geometry.shape)
    series = uid("series", *identity)
    padded = _outside_circle(scan) if facts["padding_hu"] is not None else None
    paths = []
    for index in range(geometry.shape[0]):
        ds = Dataset()
        ds.SpecificCharacterSet = character_set
        # SOP Common, PS3.3 C.12.1
        ds.SOPClassUID = CTImageStorage
        ds.SOPInstanceUID = uid("instance", series, index)
        # Patient C.7.1.1, General Study C.7.2.1
        ds.PatientName = patient_name
        ds.PatientID = patient_id if patient_id is not None else f"PHANTOM-{scan.seed}"
        ds.PatientBirthDate = birth_date
        ds.PatientSex = sex if sex is not None else "F" if facts.get("female") else "M"
        ds.StudyInstanceUID = uid("study", *identity)
        ds.StudyDate = ds.SeriesDate = ds.AcquisitionDate = ds.ContentDate = study_date
        ds.StudyTime = ds.SeriesTime = ds.AcquisitionTime = ds.ContentTime = study_time
        ds.AccessionNumber = accession_number
        ds.ReferringPhysicianName = ""
        ds.StudyID = str(scan.seed % 10**16)
        ds.StudyDescription = "SIMULATED LOW-DOSE CHEST CT"
        # General Series C.7.3.1
        ds.Modality = "CT"
        ds.SeriesInstanceUID = series
        ds.SeriesNumber = 1
        ds.SeriesDescription = "SIMULATED, not a patient"
        ds.BodyPartExamined = "CHEST"
        ds.PatientPosition = "HFS"
        ds.ProtocolName = "SIMULATED"
        # Frame of Reference C.7.4.1, General Equipment C.7.5.1
        ds.FrameOfReferenceUID = uid("frame", *identity)
        ds.PositionReferenceIndicator = ""
        ds.Manufacturer = "agatston phantom"
        ds.ManufacturerModelName = "Simulator"
        ds.SoftwareVersions = "1"
        ds.InstanceNumber = index + 1
        ds.BurnedInAnnotation = "NO"
        # CT Image C.8.2.1
        ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        ds.AcquisitionNumber = 1
        ds.KVP = f"{facts['kvp']:g}"
        ds.Exposure = round(facts["mas"])
        ds.ConvolutionKernel = f"SIM{round(100 * facts['fwhm_mm'])}"
        ds.ReconstructionDiameter = f"{geometry.spacing_mm[2] * geometry.shape[2]:.6g}"
        ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = (
            str(INTERCEPT if padded is None else 0),
            "1",
            "HU",
        )
        ds.WindowCenter, ds.WindowWidth = "40", "400"
        if contrast_agent is not None:
            ds.ContrastBolusAgent = contrast_agent
        # Image Plane C.7.6.2
        x0, y0, _ = geometry.origin_mm
        ds.ImagePositionPatient = [f"{v:.10g}" for v in (x0, y0, round(geometry.z_mm(index), 6))]
        ds.ImageOrientationPatient = ["1", "0", "0", "0", "1", "0"]
        ds.PixelSpacing = [f"{v:.10g}" for v in geometry.spacing_mm[1:]]
        ds.SliceThickness = f"{volume.slice_thickness_mm:g}"
        ds.SliceLocation = ds.ImagePositionPatient[2]
        # Image Pixel C.7.6.3; 12 bits hold -1024 to 3071 HU
        ds.SamplesPerPixel = 1
        ds.PhotometricInterpretation = "MONOCHROME2"
        ds.Rows, ds.Columns = geometry.shape[1:]
        if padded is None:
            ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
            stored = (volume.hu[index].astype(np.int32) - INTERCEPT).astype("<u2")
        else:
            ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 1
            ds.add_new("PixelPaddingValue", "SS", facts["padding_hu"])  # PS3.3 C.7.5.1.1.2
            stored = np.where(padded, facts["padding_hu"], volume.hu[index]).astype("<i2")
        ds.PixelData = stored.tobytes()
        ds["PixelData"].VR = "OW"  # PS3.5 A.2: OW for 16 bits
        ds.file_meta = FileMetaDataset()
        ds.file_meta.MediaStorageSOPClassUID = CTImageStorage
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
        ds.file_meta.TransferSyntaxUID = written
        ds.file_meta.ImplementationClassUID = IMPLEMENTATION
        if syntax.is_encapsulated:
            ds.compress(syntax, generate_instance_uid=False)
        path = folder / f"{index:04d}.dcm"
        ds.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths
