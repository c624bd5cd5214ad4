"""Content tree of the report: TID 1500 Imaging Measurement Report (PS3.16 annex A).

::

    126000 Imaging Measurement Report
    ├── language, observer (TID 1004), procedure
    ├── 126010 Imaging Measurements
    │   ├── TID 1501 "Coronary calcium": total, volume, interval, group, level, status, comment, picture
    │   ├── TID 1411 (or 1410) "Heart box": region, its six bounds
    │   └── TID 1501 "Slice ..." for every slice that scores: score, volume, z, source image
    └── C0034375 Qualitative Evaluations: study quality, limitations
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import highdicom.sr as hd
import numpy as np
from pydicom.sr.codedict import codes as standard

from worker.identity import MANUFACTURER, Device, derive_uid
from worker.report import codes

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pydicom.dataset import Dataset
    from pydicom.sr.coding import Code

    from calcium.geometry import BoxMm
    from calcium.series import CTSeries, InstanceReference
    from models.results import Caution, ScoringResult, SliceScore, WeightsIdentity
    from worker.report.source import Source

ALGORITHM_NAME = "Agatston slice-score regression"
AGATSTON_THRESHOLD_HU = 130  # method.md, "lesion"
LEAST_SHOWN = 0.005  # slice Agatston score; less is 0.00 where two decimals are written
ALGORITHM_PARAMETERS = (
    f"calcium from {AGATSTON_THRESHOLD_HU} HU",
    "slices resampled to 3.0 mm every 1.5 mm; total = sum of slice scores * 1.5 / 3.0",
)
# Cautions (calcium.eligibility, calcium.heart_checks) that speak of the image: the study quality is then poor.
# Others, such as an unknown tube voltage or few slices, only limit the result.
QUALITY_CODES = frozenset(
    {"noise", "metal", "gaps", "heart_cut", "hu_calibration", "lossy", "reformatted", "thick_slices",
     "contrast_possible"}
)  # fmt: skip


def statement(weights: WeightsIdentity) -> str:
    """Return the sentence that stands beside every number."""
    use = "weights validated by the site" if weights.validated_by_site else "research use, not for diagnosis"
    return (
        f"AI estimate: {use}; networks trained on {weights.training_data} scans. Not verified by a physician."
    )


@dataclass(frozen=True)
class Scored:
    """What a report of a scored series speaks of."""

    series: CTSeries
    result: ScoringResult
    device: Device

    @property
    def series_uid(self) -> str:
        """Series Instance UID of the source."""
        return str(self.series.header.SeriesInstanceUID)

    def tracking(self, identifier: str) -> hd.TrackingIdentifier:
        """Return identifiers that are the same for every report on this series (TID 1501 rows 1 and 2)."""
        return _tracking(self.series_uid, identifier)


def scored_report(subject: Scored, *, coordinates_3d: bool, picture: Dataset) -> hd.ContainerContentItem:
    """Return the root container of the report of a scored series.

    Parameters
    ----------
    subject
        Source, result and device.
    coordinates_3d
        The heart box as SCOORD3D surface (Comprehensive 3D SR), else as one SCOORD rectangle.
    picture
        SOP Class and Instance UID of the summary picture, which shows where the total comes from.
    """
    box = _box_surface(subject) if coordinates_3d else _box_rectangle(subject)
    groups = [
        _totals(subject, picture),
        box,
        *(_slice(subject, score) for score in subject.result.slice_scores if scores(score)),
    ]
    root = _root(subject.device, groups)
    root.ContentSequence.append(_evaluations(_study_quality(subject.result.cautions), subject.result.cautions))
    separate(root)
    return root


def scores(score: SliceScore) -> bool:
    """Tell whether a slice scores: networks leave traces, which would be written as 0.00, on the others."""
    return score.agatston >= LEAST_SHOWN


def not_eligible_report(series: Source, reason: Caution, device: Device) -> hd.ContainerContentItem:
    """Return the root container of the report of a series that gets no score, with the reason.

    Unknown is not zero: there is no number in it at all. An empty NUM with a qualifier would be legal
    (PS3.3 C.18.1), but readers built on highdicom fail on it.
    """
    identifier = "Coronary calcium"
    group = hd.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=_tracking(str(series.header.SeriesInstanceUID), identifier),
        finding_type=codes.CALCIFICATION,
        finding_sites=[hd.FindingSite(codes.CORONARY_ARTERY)],
        qualitative_evaluations=[
            hd.QualitativeEvaluation(codes.NOT_SCORED, codes.limitation(reason.code, reason.text))
        ],
    )
    group[0].ContentSequence.append(_text(codes.COMMENT, f"No calcium score was made. {reason.text}"))
    root = _root(device, [group])
    separate(root)
    return root


def _tracking(series_uid: str, identifier: str) -> hd.TrackingIdentifier:
    return hd.TrackingIdentifier(uid=derive_uid("tracking", series_uid, identifier), identifier=identifier)


def _root(
    device: Device, groups: Sequence[hd.MeasurementsAndQualitativeEvaluations]
) -> hd.ContainerContentItem:
    observer = hd.ObserverContext(
        observer_type=standard.DCM.Device,
        observer_identifying_attributes=hd.DeviceObserverIdentifyingAttributes(
            uid=device.uid,
            name=device.station_name,
            manufacturer_name=device.manufacturer,
            model_name=device.model_name,
            serial_number=device.software_version,
        ),
    )
    report = hd.MeasurementReport(
        observation_context=hd.ObservationContext(observer_device_context=observer),
        procedure_reported=codes.PROCEDURE,
        imaging_measurements=groups,
        title=codes.TITLE,
    )
    return report[0]


def _totals(subject: Scored, picture: Dataset) -> hd.MeasurementsAndQualitativeEvaluations:
    result = subject.result
    measurements = [
        _number(
            codes.CALCIUM_SCORE, result.agatston, codes.NO_UNITS,
            method=codes.METHOD_AGATSTON, derivation=codes.TOTAL,
        ),
        _number(
            codes.CALCIUM_VOLUME, result.volume_mm3, codes.MM3,
            method=codes.METHOD_VOLUME, derivation=codes.TOTAL,
        ),
    ]  # fmt: skip
    threshold = hd.NumContentItem(
        codes.THRESHOLD, AGATSTON_THRESHOLD_HU, codes.HOUNSFIELD, relationship_type="HAS PROPERTIES"
    )
    measurements[0][0].ContentSequence.append(threshold)
    if result.agatston_interval is not None:
        low, high = result.agatston_interval
        measurements += [
            _number(codes.AGATSTON_LOW, low, codes.NO_UNITS),
            _number(codes.AGATSTON_HIGH, high, codes.NO_UNITS),
            _number(codes.INTERVAL_COVERAGE, result.interval_coverage, codes.NO_UNITS, decimals=3),
        ]
    if result.group_probabilities is not None:
        measurements += [
            _number(concept, probability, codes.NO_UNITS, decimals=4)
            for concept, probability in zip(
                codes.GROUP_PROBABILITIES.values(), result.group_probabilities, strict=True
            )
        ]
    status = codes.AI_ESTIMATE_SITE if result.weights.validated_by_site else codes.AI_ESTIMATE
    group = hd.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=subject.tracking("Coronary calcium"),
        finding_type=codes.CALCIFICATION,
        finding_sites=[hd.FindingSite(codes.CORONARY_ARTERY)],
        algorithm_id=hd.AlgorithmIdentification(
            name=ALGORITHM_NAME,
            version=f"{subject.device.software_version}, weights {weights_version(result.weights)}",
            parameters=[*ALGORITHM_PARAMETERS, f"weights sha256 {result.weights.sha256}"],
            family=codes.AI_FAMILY,
            manufacturer=MANUFACTURER,
        ),
        measurements=measurements,
        qualitative_evaluations=[
            hd.QualitativeEvaluation(codes.RISK_GROUP, codes.RISK_GROUPS[result.risk_group]),
            hd.QualitativeEvaluation(codes.RISK, codes.RISK_LEVELS[result.risk_group]),
            hd.QualitativeEvaluation(codes.RESULT_STATUS, status),
        ],
    )
    # TID 1501 is extensible: a statement beside the numbers, and the picture that explains them.
    group[0].ContentSequence.append(_text(codes.COMMENT, statement(result.weights)))
    group[0].ContentSequence.append(
        hd.ImageContentItem(
            codes.VISUAL_EXPLANATION,
            referenced_sop_class_uid=picture.SOPClassUID,
            referenced_sop_instance_uid=picture.SOPInstanceUID,
            relationship_type="CONTAINS",
        )
    )
    return group


def _box_surface(subject: Scored) -> hd.MeasurementsAndQualitativeEvaluations:
    """Heart box as two polygons that bound a volume: its lowest and highest face (TID 1411)."""
    frame_of_reference = subject.series.header.get("FrameOfReferenceUID")
    if not frame_of_reference:  # nothing to give 3D coordinates in
        return _box_rectangle(subject)
    (x0, y0, z0), (x1, y1, z1) = subject.result.heart_box.low, subject.result.heart_box.high
    faces = [np.array([(x0, y0, z), (x1, y0, z), (x1, y1, z), (x0, y1, z), (x0, y0, z)]) for z in (z0, z1)]
    return hd.VolumetricROIMeasurementsAndQualitativeEvaluations(
        referenced_volume_surface=hd.VolumeSurface(
            "POLYGON",
            faces,
            frame_of_reference_uid=str(frame_of_reference),
            source_series=hd.SourceSeriesForSegmentation(subject.series_uid),
        ),
        **_box_group(subject),
    )


def _box_rectangle(subject: Scored) -> hd.MeasurementsAndQualitativeEvaluations:
    """Heart box as a rectangle on the source image at its middle (TID 1410); z stands in its bounds.

    A multi-frame source has no plane of its own in its header: there the bounds alone tell the box (TID 1501).
    """
    box = subject.result.heart_box
    image = nearest_instance(subject.series, (box.low[2] + box.high[2]) / 2)
    if "ImagePositionPatient" not in subject.series.header:
        group = _box_group(subject)
        del group["geometric_purpose"]
        return hd.MeasurementsAndQualitativeEvaluations(**group)
    region = hd.ImageRegion(
        "POLYLINE",
        image_rectangle(subject.series.header, box),
        source_image=hd.SourceImageForRegion(image.sop_class_uid, image.sop_instance_uid),
    )
    return hd.PlanarROIMeasurementsAndQualitativeEvaluations(referenced_region=region, **_box_group(subject))


def _box_group(subject: Scored) -> dict[str, object]:
    box = subject.result.heart_box
    corners = {"low": box.low, "high": box.high}
    return {
        "tracking_identifier": subject.tracking("Heart box"),
        "finding_type": codes.HEART,
        "geometric_purpose": codes.BOUNDED_BY,
        "measurements": [
            _number(concept, corners[side]["xyz".index(axis)], codes.MM)
            for (axis, side), concept in codes.BOX_BOUNDS.items()
        ],
    }


def _slice(subject: Scored, score: SliceScore) -> hd.MeasurementsAndQualitativeEvaluations:
    image = nearest_instance(subject.series, score.z_mm)
    return hd.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=subject.tracking(f"Slice at z {score.z_mm:.2f} mm"),
        finding_type=codes.CALCIFICATION,
        measurements=[  # their own names, so that whoever looks for the total can't find a slice
            _number(codes.SLICE_AGATSTON, score.agatston, codes.NO_UNITS),
            _number(codes.SLICE_VOLUME, score.volume_mm3, codes.MM3),
            _number(codes.SLICE_Z, score.z_mm, codes.MM),
        ],
        source_images=[hd.SourceImageForMeasurementGroup(image.sop_class_uid, image.sop_instance_uid)],
    )


def _study_quality(cautions: Iterable[Caution]) -> Code:
    flawed = any(caution.code in QUALITY_CODES for caution in cautions)
    return codes.QUALITY_POOR if flawed else codes.QUALITY_GOOD


def _evaluations(quality: Code, cautions: Sequence[Caution]) -> hd.ContainerContentItem:
    """TID 1500 rows 9 to 11: statements on the whole study."""
    container = _container(codes.QUALITATIVE_EVALUATIONS)
    items = [_code(codes.STUDY_QUALITY, quality)]
    for caution in cautions:
        items += [
            _code(codes.LIMITATION, codes.limitation(caution.code, caution.text)),
            _text(codes.COMMENT, caution.text),
        ]
    container.ContentSequence = items
    return container


def _number(
    name: Code,
    value: float,
    unit: Code,
    *,
    method: Code | None = None,
    derivation: Code | None = None,
    decimals: int = 2,
) -> hd.Measurement:
    """Return a NUM item: Numeric Value rounded for people, Floating Point Value exact (PS3.3 C.18.1)."""
    measurement = hd.Measurement(name, float(value), unit, method=method, derivation=derivation)
    measurement[0].MeasuredValueSequence[0].NumericValue = _decimal(value, decimals)
    return measurement


def _decimal(value: float, decimals: int) -> str:
    """Return a number in the 16 characters of VR DS, without a negative zero."""
    return f"{round(value, decimals) + 0.0:.{decimals}f}"


def _container(name: Code) -> hd.ContainerContentItem:
    return hd.ContainerContentItem(name, is_content_continuous=False, relationship_type="CONTAINS")


def _code(name: Code, value: Code | hd.CodedConcept) -> hd.CodeContentItem:
    return hd.CodeContentItem(name, value, relationship_type="CONTAINS")


def _text(name: Code, value: str) -> hd.TextContentItem:
    return hd.TextContentItem(name, value, relationship_type="CONTAINS")


def separate(item: Dataset) -> None:
    """Set Continuity of Content (0040,A050) of a container and those below it to SEPARATE.

    highdicom writes CONTINUOUS, for which renderers print bare values in one row without their names.
    """
    if item.get("ValueType") == "CONTAINER":
        item.ContinuityOfContent = "SEPARATE"
    for child in item.get("ContentSequence", ()):
        separate(child)


def weights_version(weights: WeightsIdentity) -> str:
    """Return name and version of the weights, as people cite them."""
    return f"{weights.name} {weights.version}"


def nearest_instance(series: CTSeries, z_mm: float) -> InstanceReference:
    """Return the source instance whose centre lies nearest to `z_mm`; of two at one distance the lower."""
    return min(series.instances, key=lambda instance: (abs(instance.z_mm - z_mm), instance.z_mm))


def image_rectangle(header: Dataset, box: BoxMm) -> np.ndarray:
    """Return the box's outline in pixel coordinates of the source images.

    Parameters
    ----------
    header
        A source instance: ImagePositionPatient, ImageOrientationPatient, PixelSpacing.
    box
        LPS mm.

    Returns
    -------
    numpy.ndarray
        (5, 2) of (column, row), closed, in the image: the centre of the first pixel is (0.5, 0.5)
        (PS3.3 C.18.6.1.1).
    """
    origin = np.array(header.ImagePositionPatient, dtype=float)
    along_row, along_column = np.array(header.ImageOrientationPatient, dtype=float).reshape(2, 3)
    row_spacing, column_spacing = (float(value) for value in header.PixelSpacing)
    (x0, y0, _), (x1, y1, _) = box.low, box.high
    points = []
    for x, y in ((x0, y0), (x1, y0), (x1, y1), (x0, y1), (x0, y0)):
        offset = np.array([x, y, origin[2]]) - origin
        column = float(offset @ along_row) / column_spacing + 0.5
        row = float(offset @ along_column) / row_spacing + 0.5
        points.append((min(max(column, 0.0), float(header.Columns)), min(max(row, 0.0), float(header.Rows))))
    return np.array(points)
