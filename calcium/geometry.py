"""Where voxels lie: DICOM patient coordinates, LPS, mm (PS3.3 C.7.6.2.1.1).

Arrays are (slice, row, column). The reader turns every series so that slice index rises with z (towards the
head), row index with y (towards the back) and column index with x (towards the patient's left); a geometry
therefore needs no direction matrix.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

Point = tuple[float, float, float]


def _finite(values: tuple[float, ...]) -> bool:
    return all(math.isfinite(value) for value in values)


@dataclass(frozen=True, slots=True)
class VolumeGeometry:
    """Grid of voxel centres.

    Parameters
    ----------
    origin_mm
        (x, y, z) of the centre of voxel [0, 0, 0], LPS mm.
    spacing_mm
        (dz, dy, dx) between voxel centres along (slice, row, column), mm, positive.
    shape
        (slices, rows, columns), each at least 1.
    """

    origin_mm: Point
    spacing_mm: Point
    shape: tuple[int, int, int]

    def __post_init__(self) -> None:
        if len(self.origin_mm) != 3 or not _finite(self.origin_mm):
            raise ValueError(f"origin_mm must be three finite numbers, not {self.origin_mm}")
        if len(self.spacing_mm) != 3 or not _finite(self.spacing_mm) or min(self.spacing_mm) <= 0:
            raise ValueError(f"spacing_mm must be three positive numbers, not {self.spacing_mm}")
        if len(self.shape) != 3 or min(self.shape) < 1:
            raise ValueError(f"shape must be three numbers of at least 1, not {self.shape}")

    @property
    def voxel_volume_mm3(self) -> float:
        """Volume of one voxel, mm3 (spacing, not thickness, along z)."""
        return math.prod(self.spacing_mm)

    @property
    def pixel_area_mm2(self) -> float:
        """Area of one voxel in its slice, mm2."""
        return self.spacing_mm[1] * self.spacing_mm[2]

    def z_mm(self, index: float) -> float:
        """Return z (LPS mm) of the centre of slice `index`."""
        return self.origin_mm[2] + index * self.spacing_mm[0]

    def to_mm(self, slice_index: float, row: float, column: float) -> Point:
        """Return (x, y, z) LPS mm of a (fractional) voxel index."""
        x0, y0, z0 = self.origin_mm
        dz, dy, dx = self.spacing_mm
        return (x0 + column * dx, y0 + row * dy, z0 + slice_index * dz)

    def to_index(self, point_mm: Point) -> Point:
        """Return the fractional (slice, row, column) of a point in LPS mm."""
        x0, y0, z0 = self.origin_mm
        dz, dy, dx = self.spacing_mm
        return ((point_mm[2] - z0) / dz, (point_mm[1] - y0) / dy, (point_mm[0] - x0) / dx)


@dataclass(frozen=True, slots=True)
class BoxMm:
    """Axis-aligned box in LPS mm.

    Parameters
    ----------
    low, high
        (x, y, z) corners, mm; low < high on every axis.
    """

    low: Point
    high: Point

    def __post_init__(self) -> None:
        if len(self.low) != 3 or len(self.high) != 3 or not _finite(self.low + self.high):
            raise ValueError(f"a box needs two finite corners, not {self.low}, {self.high}")
        if any(a >= b for a, b in zip(self.low, self.high, strict=True)):
            raise ValueError(f"the low corner {self.low} must lie below the high corner {self.high}")

    @property
    def size_mm(self) -> Point:
        """Edge lengths (x, y, z), mm."""
        (x0, y0, z0), (x1, y1, z1) = self.low, self.high
        return (x1 - x0, y1 - y0, z1 - z0)

    def iou(self, other: BoxMm) -> float:
        """Return intersection over union, 0 to 1."""
        edges = [
            min(a, b) - max(c, d) for a, b, c, d in zip(self.high, other.high, self.low, other.low, strict=True)
        ]
        shared = math.prod(edges) if min(edges) > 0 else 0.0
        return shared / (math.prod(self.size_mm) + math.prod(other.size_mm) - shared)


@dataclass(frozen=True, slots=True)
class VoxelBox:
    """Half-open box of voxel indices: start[i] <= index < stop[i], in array order (slice, row, column)."""

    start: tuple[int, int, int]
    stop: tuple[int, int, int]

    def __post_init__(self) -> None:
        if any(a < 0 or a >= b for a, b in zip(self.start, self.stop, strict=True)):
            raise ValueError(f"empty or negative voxel box {self.start} to {self.stop}")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of voxels along (slice, row, column)."""
        (a, b, c), (d, e, f) = self.start, self.stop
        return (d - a, e - b, f - c)

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        """Index expression: ``array[box.slices]``."""
        (a, b, c), (d, e, f) = self.start, self.stop
        return (slice(a, d), slice(b, e), slice(c, f))

    def to_mm(self, geometry: VolumeGeometry) -> BoxMm:
        """Return the box in LPS mm that spans the outer faces of its voxels."""
        low = geometry.to_mm(*(index - 0.5 for index in self.start))
        high = geometry.to_mm(*(index - 0.5 for index in self.stop))
        return BoxMm(low, high)

    @classmethod
    def covering(cls, box: BoxMm, geometry: VolumeGeometry) -> VoxelBox:
        """Return the smallest voxel box whose voxel centres all lie in `box`, clipped to the grid.

        Raises
        ------
        ValueError
            The box contains no voxel centre of the grid.
        """
        low, high = geometry.to_index(box.low), geometry.to_index(box.high)
        start = tuple(max(0, math.ceil(a - 1e-6)) for a in low)
        stop = tuple(min(size, math.floor(b + 1e-6) + 1) for b, size in zip(high, geometry.shape, strict=True))
        return cls(start, stop)  # type: ignore[arg-type]
