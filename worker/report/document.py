"""The report as a DICOM document: Comprehensive 3D SR (PS3.3 A.35.13) or Comprehensive SR (A.35.3)."""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Literal

import highdicom.sr as hd
from highdicom.coding_schemes import CodingSchemeIdentificationItem
from pydicom.dataset import Dataset
from pydicom.uid import (
    UID,
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    SecondaryCaptureImageStorage,
)

from worker.identity import (
    IMPLEMENTATION_CLASS_UID,
    IMPLEMENTATION_VERSION_NAME,
    Device,
    derive_uid,
)
from worker.report import codes, content, patient

if TYPE_CHECKING:
    from collections.abc import Sequence

    from calcium.series import CTSeries
    from models.results import Caution, ScoringResult
    from worker.report.source import Source

Kind = Literal["sr3d", "sr"]
DOCUMENTS = {"sr3d": hd.Comprehensive3DSR, "sr": hd.ComprehensiveSR}
SOP_CLASSES = {"sr3d": str(Comprehensive3DSRStorage), "sr": str(ComprehensiveSRStorage)}
SERIES_DESCRIPTION = "Agatston AI estimate: report"
SUMMARY = "summary"  # kind of the picture that every report of a score refers to
SERIES_NUMBER = 7300  # far above those of scanners; the series after it are our companions


@dataclass(frozen=True, slots=True)
class Predecessor:
    """A document that a new one replaces (PS3.3 C.17.2.3), of the same study."""

    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str


@dataclass(frozen=True, slots=True)
class ReportConfig:
    """What a report needs beside the series and its result.

    Parameters
    ----------
    made_at
        The moment that stands in the report as the time of its content. It comes from the job's row
        (``Job.created_at``) and not from the clock, so that a retry gives the same bytes
        (docs/decisions/0040).
    device
        Who made it.
    revision
        Number of the job among those of the series; becomes Instance Number.
    predecessors
        Reports of the series that this one replaces.
    """

    made_at: datetime
    device: Device = field(default_factory=Device)
    revision: int = 1
    predecessors: tuple[Predecessor, ...] = ()


def build_report(
    series: CTSeries, result: ScoringResult, *, kind: Kind = "sr3d", config: ReportConfig
) -> Dataset:
    """Return the Structured Report of a scored series: the same arguments give the same bytes.

    Parameters
    ----------
    series
        The source: its header, and all its instances for the evidence.
    result
        The prediction.
    kind
        ``sr3d``: Comprehensive 3D SR, the heart box as SCOORD3D. ``sr``: Comprehensive SR, the box as one
        SCOORD rectangle.
    config
        Time, device, predecessors.

    Returns
    -------
    Dataset
        With file meta information, explicit VR little endian.
    """
    subject = content.Scored(series, result, config.device)
    digest = scoring_digest(result)
    picture = _summary_reference(series, config, digest)
    root = content.scored_report(subject, coordinates_3d=kind == "sr3d", picture=picture)
    return _document(series, root, kind, config, digest, also=[picture])


def build_not_eligible_report(
    series: Source, reason: Caution, *, kind: Kind = "sr3d", config: ReportConfig
) -> Dataset:
    """Return the report of a series that gets no score: no number in it, but the reason."""
    root = content.not_eligible_report(series, reason, config.device)
    return _document(series, root, kind, config, f"not eligible: {reason.code}: {reason.text}")


def scoring_digest(result: ScoringResult) -> str:
    """Return SHA-256 over every value of a result that its objects show."""
    values = (
        result.agatston, result.agatston_interval, result.interval_coverage, result.volume_mm3,
        result.group_probabilities, result.heart_box, result.slice_scores, result.cautions, result.weights,
    )  # fmt: skip
    return hashlib.sha256(repr(values).encode("utf-8")).hexdigest()


def object_uid(series: Source, kind: str, config: ReportConfig, digest: str) -> str:
    """Return the SOP Instance UID of an object of ours.

    It follows from study, series, source instances, software, content and kind, and not from the time: what
    says the same is the same object, and other content is another.
    """
    header = series.header
    sources = hashlib.sha256("\n".join(sorted(i.sop_instance_uid for i in series.instances)).encode())
    return derive_uid(
        "object", header.StudyInstanceUID, header.SeriesInstanceUID, sources.hexdigest(), config.device.uid,
        digest, kind, *(predecessor.sop_instance_uid for predecessor in config.predecessors),
    )  # fmt: skip


def series_uid(series: Source, modality: str) -> str:
    """Return the UID of our series of one modality beside a source series."""
    header = series.header
    return series_uid_beside(str(header.StudyInstanceUID), str(header.SeriesInstanceUID), modality)


def series_uid_beside(study_instance_uid: str, series_instance_uid: str, modality: str) -> str:
    """Return the UID of our series of one modality beside a source series, by that one's UIDs."""
    return derive_uid("series", study_instance_uid, series_instance_uid, modality)


def local_time(moment: datetime, header: Dataset) -> datetime:
    """Return `moment` in the time zone of the source's other times.

    All DA and TM of a data set share one zone (PS3.3 C.12.1.1.8): Timezone Offset From UTC (0008,0201) where
    the source has it, else the zone of this machine.
    """
    offset = str(header.get("TimezoneOffsetFromUTC", "") or "").strip()
    if len(offset) == 5 and offset[0] in "+-" and offset[1:].isdigit():
        sign = -1 if offset[0] == "-" else 1
        minutes = sign * (int(offset[1:3]) * 60 + int(offset[3:]))
        return moment.astimezone(timezone(timedelta(minutes=minutes)))
    return moment.astimezone()


def finish(dataset: Dataset, series: Source, config: ReportConfig) -> Dataset:
    """Make an object ours: patient attributes, time, equipment, file meta information; all of it repeatable.

    Libraries stamp the clock and themselves into what they build; this overwrites both.
    """
    moment = local_time(config.made_at, series.header)
    device = config.device
    patient.copy_into(dataset, series.header)
    date, time = moment.strftime("%Y%m%d"), moment.strftime("%H%M%S.%f")
    dataset.InstanceCreationDate, dataset.InstanceCreationTime = date, time
    dataset.SeriesDate, dataset.SeriesTime = date, time
    if "ContentDate" in dataset:
        dataset.ContentDate, dataset.ContentTime = date, time
    dataset.Manufacturer = device.manufacturer
    dataset.ManufacturerModelName = device.model_name
    dataset.SoftwareVersions = device.software_version
    dataset.StationName = device.station_name
    dataset.DeviceSerialNumber = device.software_version  # type 1 where enhanced equipment is asked for
    dataset.ContributingEquipmentSequence = [_contribution(device, moment)]
    meta = dataset.file_meta
    meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME
    return dataset


def _contribution(device: Device, moment: datetime) -> Dataset:
    """Contributing Equipment item as IHE AIR asks for it; it says the same as TID 1004 and 4019."""
    item = Dataset()
    item.PurposeOfReferenceCodeSequence = [hd.CodedConcept.from_code(codes.PROCESSING_EQUIPMENT)]
    item.Manufacturer = device.manufacturer
    item.ManufacturerModelName = device.model_name
    item.StationName = device.station_name
    item.DeviceSerialNumber = device.software_version
    item.SoftwareVersions = device.software_version
    item.DeviceUID = device.uid
    item.ContributionDateTime = moment.astimezone(UTC).strftime("%Y%m%d%H%M%S.%f") + "+0000"
    item.ContributionDescription = "Predicted coronary calcium scores"
    return item


def _summary_reference(series: Source, config: ReportConfig, digest: str) -> Dataset:
    """Return the identifiers of the summary picture (worker.companions.summary), which follow from the result.

    The picture is made with every report, although a destination may not get it: the outbox and the status page
    have it.
    """
    return _reference(
        series, str(SecondaryCaptureImageStorage), object_uid(series, SUMMARY, config, digest),
        series_uid(series, SUMMARY),
    )  # fmt: skip


def _document(
    series: Source,
    root: Dataset,
    kind: Kind,
    config: ReportConfig,
    digest: str,
    *,
    also: Sequence[Dataset] = (),
) -> Dataset:
    """Return a document; its evidence is the source and what `also` names (PS3.3 C.17.2.1)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of values in the source; `finish` sets ours
        document = DOCUMENTS[kind](
            evidence=[*evidence(series), *also],
            content=root,
            series_instance_uid=series_uid(series, "SR"),
            series_number=SERIES_NUMBER,
            series_description=SERIES_DESCRIPTION,
            sop_instance_uid=object_uid(series, kind, config, digest),
            instance_number=config.revision,
            is_complete=True,
            is_final=False,  # PRELIMINARY: no physician has read it
            is_verified=False,
            previous_versions=[_as_dataset(series, item) for item in config.predecessors] or None,
            coding_schemes=[
                CodingSchemeIdentificationItem(
                    codes.SCHEME, name=codes.SCHEME_NAME, version=codes.SCHEME_VERSION
                )
            ],
        )
    return finish(document, series, config)


def evidence(series: Source) -> list[Dataset]:
    """Return one small data set for each source instance, without anything of the patient."""
    source = str(series.header.SeriesInstanceUID)
    return [
        _reference(series, instance.sop_class_uid, instance.sop_instance_uid, source)
        for instance in series.instances
    ]


def _reference(series: Source, sop_class_uid: str, sop_instance_uid: str, series_instance_uid: str) -> Dataset:
    """Return the identifiers of an instance of the study in the form that highdicom reads references from.

    It copies what it finds of the patient from the first; names with a doubtful form would reach its log, so
    `finish` writes those attributes instead.
    """
    item = Dataset()
    item.SOPClassUID = sop_class_uid
    item.SOPInstanceUID = sop_instance_uid
    item.StudyInstanceUID = str(series.header.StudyInstanceUID)
    item.SeriesInstanceUID = series_instance_uid
    for keyword in patient.REQUIRED:
        setattr(item, keyword, "")
    return item


def _as_dataset(series: Source, predecessor: Predecessor) -> Dataset:
    item = Dataset()
    item.StudyInstanceUID = str(series.header.StudyInstanceUID)
    item.SeriesInstanceUID = predecessor.series_instance_uid
    item.SOPClassUID = predecessor.sop_class_uid
    item.SOPInstanceUID = predecessor.sop_instance_uid
    return item
