"""Where the score comes from, as numbers: a Parametric Map (PS3.3 A.75) on the resampled slices."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np
from highdicom import (
    PixelMeasuresSequence,
    PlaneOrientationSequence,
    PlanePositionSequence,
    VOILUTFunctionValues,
    VOILUTTransformation,
)
from highdicom.pm import DerivedPixelContrastValues, ParametricMap, RealWorldValueMapping

from worker.companions.base import NoPlanesError, equipment, identifiers, planes, settle_dimensions
from worker.report import codes
from worker.report.document import finish

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

    from calcium.series import CTSeries
    from models.results import ScoringResult
    from worker.report.document import ReportConfig


def build_heat_map(series: CTSeries, result: ScoringResult, config: ReportConfig) -> Dataset:
    """Return the heat map, one float frame for each resampled slice of its box.

    Raises
    ------
    NoPlanesError
        The result has no heat map, or the source no planes of its own.
    """
    heat = result.heat_map
    if heat is None:
        raise NoPlanesError("the result has no heat map", uid=series.series_instance_uid)
    geometry = result.resampled.geometry
    first, row, column = heat.box.start
    positions = [
        PlanePositionSequence("PATIENT", geometry.to_mm(first + index, row, column))
        for index in range(heat.box.shape[0])
    ]
    box = heat.box.to_mm(geometry)
    highest = float(heat.response.max()) or 1.0  # a window has a width, also over a map of zeros
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        dataset = ParametricMap(
            source_images=planes(series, box.low[2], box.high[2]),
            pixel_array=np.ascontiguousarray(heat.response, dtype=np.float32),
            contains_recognizable_visual_features=False,
            real_world_value_mappings=[
                RealWorldValueMapping(
                    lut_label="HEAT_MAP",
                    lut_explanation=heat.meaning[:64],
                    unit=codes.NO_UNITS,
                    value_range=(0.0, highest),
                    slope=1.0,
                    intercept=0.0,
                    quantity_definition=codes.VISUAL_EXPLANATION,
                )
            ],
            voi_lut_transformations=[
                # PS3.3 section C.11.2.1.3.2: only these windows may be narrower than 1.
                VOILUTTransformation(highest / 2, highest, voi_lut_function=VOILUTFunctionValues.LINEAR_EXACT)
            ],
            pixel_measures=PixelMeasuresSequence(
                pixel_spacing=geometry.spacing_mm[1:],
                slice_thickness=result.resampled.slice_thickness_mm,
                spacing_between_slices=geometry.spacing_mm[0],
            ),
            plane_orientation=PlaneOrientationSequence("PATIENT", (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)),
            plane_positions=positions,
            content_label="HEAT_MAP",
            content_description="Where the predicted score comes from",
            derived_pixel_contrast=DerivedPixelContrastValues.QUANTITY,
            **identifiers(series, result, config, "heat_map"),
            **equipment(config),
        )
    settle_dimensions(dataset)
    dataset.BodyPartExamined = "HEART"  # not a paired structure: no Laterality (PS3.3 C.7.3.1)
    return finish(dataset, series, config)
