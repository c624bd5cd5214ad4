"""What all companions share: patient, study, series, equipment and identifiers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian

from calcium.errors import AgatstonError
from calcium.frames import text
from worker.identity import derive_uid
from worker.report.document import SERIES_NUMBER, evidence, object_uid, scoring_digest, series_uid

if TYPE_CHECKING:
    from collections.abc import Iterable

    from calcium.series import CTSeries, InstanceReference
    from models.results import ScoringResult
    from worker.report.document import ReportConfig

# Kind -> (modality, place of its series after that of the report, description of the series).
# One series a kind: PS3.3 C.7.3.1 wants one modality in each, viewers want pictures apart from objects.
SERIES = {
    "summary": ("OT", 1, "Agatston AI estimate: summary"),
    "seg": ("SEG", 2, "Agatston AI estimate: heart box"),
    "gsps": ("PR", 3, "Agatston AI estimate: marks"),
    "key_objects": ("KO", 4, "Agatston AI estimate: key images"),
    "pdf": ("DOC", 5, "Agatston AI estimate: summary page"),
    "heat_map": ("OT", 6, "Agatston AI estimate: heat map"),
}


def new_object(
    series: CTSeries, result: ScoringResult, config: ReportConfig, *, kind: str, sop_class_uid: str
) -> Dataset:
    """Return a data set with file meta information, identifiers and series attributes of one companion.

    ``worker.report.document.finish`` adds patient, study, time and equipment.
    """
    modality, place, description = SERIES[kind]
    dataset = Dataset()
    dataset.SOPClassUID = sop_class_uid
    dataset.SOPInstanceUID = object_uid(series, kind, config, scoring_digest(result))
    dataset.StudyInstanceUID = str(series.header.StudyInstanceUID)
    dataset.SeriesInstanceUID = series_uid(series, kind)
    dataset.Modality = modality
    dataset.SeriesNumber = SERIES_NUMBER + place
    dataset.SeriesDescription = description
    dataset.InstanceNumber = config.revision
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = UID(sop_class_uid)
    dataset.file_meta.MediaStorageSOPInstanceUID = UID(dataset.SOPInstanceUID)
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return dataset


def references(instances: Iterable[InstanceReference]) -> list[Dataset]:
    """Return SOP Instance Reference items (PS3.3 table 10-11), each instance once."""
    items = {}
    for instance in instances:
        item = Dataset()
        item.ReferencedSOPClassUID = instance.sop_class_uid
        item.ReferencedSOPInstanceUID = instance.sop_instance_uid
        items[instance.sop_instance_uid] = item
    return list(items.values())


def planes(series: CTSeries, low_mm: float, high_mm: float) -> list[Dataset]:
    """Return small data sets of the single-frame source images with centres in [low_mm, high_mm], by rising z.

    Libraries read from them where each image lies; nothing of the patient is in them (`finish` writes that).

    Raises
    ------
    NoPlanesError
        The source is a multi-frame object or has no frame of reference, or no image lies there.
    """
    header = series.header
    if not text(header, "FrameOfReferenceUID"):
        raise NoPlanesError("a source without frame of reference", uid=series.series_instance_uid)
    if "ImagePositionPatient" not in header:
        raise NoPlanesError("a multi-frame source has no planes of its own", uid=series.series_instance_uid)
    x, y, _ = header.ImagePositionPatient
    found = []
    for item, instance in zip(evidence(series), series.instances, strict=True):
        if not low_mm <= instance.z_mm <= high_mm:
            continue
        item.Modality = "CT"
        item.FrameOfReferenceUID = str(header.FrameOfReferenceUID)
        item.PositionReferenceIndicator = None
        item.ImagePositionPatient = [float(x), float(y), float(instance.z_mm)]
        item.ImageOrientationPatient = [float(value) for value in header.ImageOrientationPatient]
        item.PixelSpacing = [float(value) for value in header.PixelSpacing]
        item.SliceThickness = float(series.volume.slice_thickness_mm)
        item.Rows, item.Columns = int(header.Rows), int(header.Columns)
        item.SamplesPerPixel, item.PhotometricInterpretation = 1, "MONOCHROME2"
        item.BitsAllocated = 16
        found.append(item)
    if not found:
        raise NoPlanesError("no source image lies inside the heart box", uid=series.series_instance_uid)
    return found


class NoPlanesError(AgatstonError):
    """The source has no planes that this kind of object could refer to: the object is left out."""

    code = "no_planes"


def identifiers(
    series: CTSeries, result: ScoringResult, config: ReportConfig, kind: str
) -> dict[str, str | int]:
    """Return the arguments that every highdicom class takes."""
    _, place, description = SERIES[kind]
    return {
        "series_instance_uid": series_uid(series, kind),
        "series_number": SERIES_NUMBER + place,
        "series_description": description,
        "sop_instance_uid": object_uid(series, kind, config, scoring_digest(result)),
        "instance_number": config.revision,
    }


def equipment(config: ReportConfig) -> dict[str, str]:
    """Return the arguments of highdicom classes that describe enhanced equipment (PS3.3 C.7.5.2)."""
    device = config.device
    return {
        "manufacturer": device.manufacturer,
        "manufacturer_model_name": device.model_name,
        "software_versions": device.software_version,
        "device_serial_number": device.software_version,
    }


def settle_dimensions(dataset: Dataset) -> None:
    """Replace the random Dimension Organization UID (0020,9164) by one that follows from the object's UID."""
    uid = derive_uid("dimensions", dataset.SOPInstanceUID)
    for keyword in ("DimensionOrganizationSequence", "DimensionIndexSequence"):
        for item in dataset.get(keyword, ()):
            item.DimensionOrganizationUID = uid
