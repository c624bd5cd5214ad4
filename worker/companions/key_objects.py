"""The slices that contribute most, as a Key Object Selection (PS3.3 A.35.4, PS3.16 TID 2010)."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from highdicom.ko import KeyObjectSelection, KeyObjectSelectionDocument
from pydicom.sr.codedict import codes as standard

from worker.companions.base import identifiers
from worker.companions.picture import contributing
from worker.report.content import nearest_instance, separate, statement
from worker.report.document import evidence, finish

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

    from calcium.series import CTSeries
    from models.results import ScoringResult
    from worker.report.document import ReportConfig


def build_key_objects(series: CTSeries, result: ScoringResult, config: ReportConfig) -> Dataset:
    """Return a selection of the source images nearest to the slices with the highest scores."""
    wanted = {nearest_instance(series, score.z_mm).sop_instance_uid for score in contributing(result)}
    images = [item for item in evidence(series) if item.SOPInstanceUID in wanted]
    for image in images:  # highdicom takes an object without rows and columns for no image
        image.Rows, image.Columns = series.volume.geometry.shape[1:]
    text = f"Slices that contribute most to the predicted calcium score. {statement(result.weights)}"
    content = KeyObjectSelection(
        document_title=standard.DCM.OfInterest, referenced_objects=images, description=text
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        document = KeyObjectSelectionDocument(
            evidence=images, content=content, **identifiers(series, result, config, "key_objects")
        )
    separate(document)
    return finish(document, series, config)
