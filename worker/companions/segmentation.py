"""The heart box as a Segmentation (PS3.3 A.51), on the planes of the source images."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np
from highdicom import AlgorithmIdentificationSequence
from highdicom.seg import SegmentAlgorithmTypeValues, SegmentationTypeValues, SegmentDescription
from highdicom.seg import Segmentation as HighdicomSegmentation
from pydicom.sr.codedict import codes as standard

from worker.companions.base import equipment, identifiers, planes, settle_dimensions
from worker.identity import derive_uid
from worker.report import codes
from worker.report.content import ALGORITHM_NAME, image_rectangle, weights_version
from worker.report.document import finish

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pydicom.dataset import Dataset

    from calcium.series import CTSeries
    from models.results import ScoringResult
    from worker.report.document import ReportConfig


def build_segmentation(series: CTSeries, result: ScoringResult, config: ReportConfig) -> Dataset:
    """Return the heart box, one binary frame for each source image whose centre lies in it.

    Raises
    ------
    NoPlanesError
        The source has no planes of its own.
    """
    images = planes(series, result.heart_box.low[2], result.heart_box.high[2])
    mask = np.repeat(box_mask(series, result)[np.newaxis], len(images), axis=0)
    segment = SegmentDescription(
        segment_number=1,
        segment_label="Heart box",
        segmented_property_category=standard.SCT.AnatomicalStructure,
        segmented_property_type=codes.HEART,
        algorithm_type=SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=AlgorithmIdentificationSequence(
            name=ALGORITHM_NAME,
            family=codes.AI_FAMILY,
            version=f"{config.device.software_version}, weights {weights_version(result.weights)}"[:64],
        ),
        # The same as in the report: the same region.
        tracking_id="Heart box",
        tracking_uid=derive_uid("tracking", series.series_instance_uid, "Heart box"),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        dataset = HighdicomSegmentation(
            source_images=images,
            pixel_array=mask,
            segmentation_type=SegmentationTypeValues.BINARY,
            segment_descriptions=[segment],
            content_label="HEART_BOX",
            content_description="Box around the heart, found by networks",
            **identifiers(series, result, config, "seg"),
            **equipment(config),
        )
    settle_dimensions(dataset)
    return finish(dataset, series, config)


def box_mask(series: CTSeries, result: ScoringResult) -> NDArray[np.uint8]:
    """Return the pixels of a source image whose centres lie in the heart box, (row, column), 0 or 1."""
    header = series.header
    # Pixel centres stand at half-integers of image_rectangle's coordinates.
    corners = image_rectangle(header, result.heart_box)
    (left, top), (right, bottom) = corners.min(axis=0), corners.max(axis=0)
    columns, rows = np.arange(int(header.Columns)) + 0.5, np.arange(int(header.Rows)) + 0.5
    inside = ((rows >= top) & (rows <= bottom))[:, np.newaxis] & ((columns >= left) & (columns <= right))
    return np.asarray(inside, dtype=np.uint8)
