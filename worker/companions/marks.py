"""Heart box and slice scores on the source images: Grayscale Softcopy Presentation State (PS3.3 A.33.1)."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from highdicom import ModalityLUTTransformation
from highdicom.pr import (
    AnnotationUnitsValues,
    GraphicAnnotation,
    GraphicLayer,
    GraphicObject,
    GraphicTypeValues,
    GrayscaleSoftcopyPresentationState,
    SoftcopyVOILUTTransformation,
    TextObject,
)

from worker.companions.base import equipment, identifiers, planes
from worker.companions.picture import WINDOW_HU, contributing, format_score
from worker.report.content import image_rectangle, nearest_instance, scores
from worker.report.document import finish

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

    from calcium.series import CTSeries
    from models.results import ScoringResult
    from worker.report.document import ReportConfig

LAYER = "AGATSTON"


def build_marks(series: CTSeries, result: ScoringResult, config: ReportConfig) -> Dataset:
    """Return a presentation of the images in the heart box: a window for calcium, the box, the slice scores.

    Raises
    ------
    NoPlanesError
        The source has no planes of its own.
    """
    box = result.heart_box
    images = planes(series, box.low[2], box.high[2])
    corners = image_rectangle(series.header, box)
    layer = GraphicLayer(LAYER, order=1, description="AI estimate, not verified")
    outline = GraphicAnnotation(
        images, layer, graphic_objects=[
            GraphicObject(GraphicTypeValues.POLYLINE, corners, AnnotationUnitsValues.PIXEL)
        ],
    )  # fmt: skip
    anchor = (float(corners[:, 0].min()), float(corners[:, 1].min()))
    texts = []
    for score in contributing(result):
        uid = nearest_instance(series, score.z_mm).sop_instance_uid
        on = [image for image in images if image.SOPInstanceUID == uid]
        if on and scores(score):
            text = f"AI estimate: slice Agatston score {format_score(score.agatston)}"
            label = TextObject(
                text, AnnotationUnitsValues.PIXEL, anchor_point=anchor, anchor_point_visible=False
            )
            texts.append(GraphicAnnotation(on, layer, text_objects=[label]))
    header = series.header
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        dataset = GrayscaleSoftcopyPresentationState(
            referenced_images=images,
            content_label="CALCIUM",
            content_description="Heart box and slice scores, AI estimate",
            graphic_annotations=[outline, *texts],
            graphic_layers=[layer],
            modality_lut_transformation=ModalityLUTTransformation(
                rescale_intercept=float(header.get("RescaleIntercept", 0) or 0),
                rescale_slope=float(header.get("RescaleSlope", 1) or 1),
                rescale_type="HU",
            ),
            voi_lut_transformations=[
                SoftcopyVOILUTTransformation(
                    window_center=(WINDOW_HU[0] + WINDOW_HU[1]) / 2, window_width=WINDOW_HU[1] - WINDOW_HU[0]
                )
            ],
            **identifiers(series, result, config, "gsps"),
            **equipment(config),
        )
    dataset.BodyPartExamined = "HEART"  # not a paired structure: no Laterality (PS3.3 C.7.3.1)
    finished = finish(dataset, series, config)
    finished.PresentationCreationDate = finished.InstanceCreationDate
    finished.PresentationCreationTime = finished.InstanceCreationTime
    return finished
