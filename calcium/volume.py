"""A CT image: Hounsfield units and where they lie."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from calcium.geometry import VolumeGeometry

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class CTVolume:
    """A CT image on a regular grid.

    Parameters
    ----------
    hu
        Hounsfield units, int16, (slice, row, column); made read-only.
    geometry
        Grid of voxel centres; ``geometry.spacing_mm[0]`` is the slice increment.
    slice_thickness_mm
        Thickness of each slice, mm; it differs from the increment in overlapping and in gapped series.
    """

    hu: NDArray[np.int16]
    geometry: VolumeGeometry
    slice_thickness_mm: float

    def __post_init__(self) -> None:
        if self.hu.dtype != np.int16:
            raise ValueError(f"hu must be int16, not {self.hu.dtype}")
        if self.hu.shape != self.geometry.shape:
            raise ValueError(f"hu has shape {self.hu.shape}, the geometry {self.geometry.shape}")
        if not 0 < self.slice_thickness_mm < float("inf"):
            raise ValueError(f"slice_thickness_mm must be positive, not {self.slice_thickness_mm}")
        self.hu.flags.writeable = False
