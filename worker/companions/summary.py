"""The summary page as a Secondary Capture (PS3.3 A.8.1): single frame, RGB, uncompressed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydicom.uid import SecondaryCaptureImageStorage

from worker.companions.base import new_object, references
from worker.companions.picture import SIZE, contributing, describe, draw_summary
from worker.report.content import nearest_instance
from worker.report.document import finish, local_time

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

    from calcium.series import CTSeries
    from models.results import ScoringResult
    from worker.report.document import ReportConfig


def build_summary(series: CTSeries, result: ScoringResult, config: ReportConfig) -> Dataset:
    """Return the summary picture of a result; the same arguments give the same bytes."""
    dataset = new_object(
        series, result, config, kind="summary", sop_class_uid=str(SecondaryCaptureImageStorage)
    )
    # SC Equipment (PS3.3 C.8.6.1) and SC Image (C.8.6.2)
    dataset.ConversionType = "WSD"
    moment = local_time(config.made_at, series.header)
    dataset.DateOfSecondaryCapture = moment.strftime("%Y%m%d")
    dataset.TimeOfSecondaryCapture = moment.strftime("%H%M%S.%f")
    dataset.BodyPartExamined = "HEART"  # not a paired structure: no Laterality (C.7.3.1)
    # General Image (C.7.6.1)
    dataset.ImageType = ["DERIVED", "SECONDARY"]
    dataset.PatientOrientation = None  # several views stand on the page
    dataset.ContentDate, dataset.ContentTime = dataset.DateOfSecondaryCapture, dataset.TimeOfSecondaryCapture
    dataset.BurnedInAnnotation = "YES"
    dataset.LossyImageCompression = "00"
    dataset.DerivationDescription = "Summary of a predicted coronary calcium score"
    dataset.ImageComments = "AI estimate, not verified"
    dataset.SourceImageSequence = references(
        nearest_instance(series, score.z_mm) for score in contributing(result)
    )
    # Image Pixel (C.7.6.3)
    pixels = draw_summary(result, config.device, describe(series))
    dataset.SamplesPerPixel = 3
    dataset.PhotometricInterpretation = "RGB"
    dataset.PlanarConfiguration = 0
    dataset.Rows, dataset.Columns = SIZE, SIZE
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit = 7
    dataset.PixelRepresentation = 0
    dataset.PixelData = pixels.tobytes()
    return finish(dataset, series, config)
