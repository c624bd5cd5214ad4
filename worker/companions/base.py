"""What all companions share: patient, study, series, equipment and identifiers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian

from worker.report.document import SERIES_NUMBER, object_uid, scoring_digest, series_uid

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
    "heat_map": ("CT", 6, "Agatston AI estimate: heat map"),
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
