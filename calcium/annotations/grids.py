"""Label maps from one grid to another, and polygons to pixels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from calcium.annotations.vessels import Vessel
from calcium.geometry import VolumeGeometry
from calcium.resample import overlap_weights
from calcium.volume import CTVolume


def to_resampled(labels: NDArray[np.uint8], volume: CTVolume) -> NDArray[np.uint8]:
    """Bring the labels of a volume to the slices of 3.0 mm every 1.5 mm that `calcium.resample.resample` makes.

    A voxel is labelled when any original voxel that goes into its mean is; where several labels do, the one
    with the largest share. What falls below 130 HU in the mean is no calcium when the mask is scored.

    Parameters
    ----------
    labels
        uint8, (slice, row, column), on the grid of `volume`.
    volume
        The original volume.

    Returns
    -------
    numpy.ndarray
        uint8, (new slices, rows, columns).
    """
    weights = overlap_weights(volume.geometry, volume.slice_thickness_mm).astype(np.float32)
    best = np.zeros((len(weights), *labels.shape[1:]), np.float32)
    result = np.zeros(best.shape, np.uint8)
    for value in np.unique(labels[labels > 0]):
        inside = labels == value
        used = np.flatnonzero(inside.any(axis=(1, 2)))
        for index, row in enumerate(weights):
            sources = [source for source in used if row[source] > 0]
            if sources:
                share = sum(row[source] * inside[source] for source in sources)
                more = share > best[index]
                result[index][more] = value
                best[index][more] = share[more]
    return result


def centres(geometry: VolumeGeometry, axis: int) -> NDArray[np.float64]:
    """Return the voxel centres along an array axis (0 slice, 1 row, 2 column), LPS mm."""
    steps = np.arange(geometry.shape[axis]).astype(np.float64)
    return geometry.origin_mm[2 - axis] + geometry.spacing_mm[axis] * steps


def nearest(positions: NDArray[np.float64], geometry: VolumeGeometry, axis: int) -> NDArray[np.intp]:
    """Return the index of the nearest voxel along an array axis, -1 beyond half a voxel outside.

    Parameters
    ----------
    positions
        LPS mm, (positions,).
    geometry
        Grid to find the voxels of.
    axis
        0 slice, 1 row, 2 column.
    """
    fraction = (positions - geometry.origin_mm[2 - axis]) / geometry.spacing_mm[axis]
    index = np.rint(fraction + 1e-9).astype(np.intp)
    index[(index < 0) | (index >= geometry.shape[axis])] = -1
    return index


def onto(labels: NDArray[np.uint8], source: VolumeGeometry, target: VolumeGeometry) -> NDArray[np.uint8]:
    """Return the labels of one grid at the voxel centres of another: of the nearest voxel, 0 outside."""
    axes = [nearest(centres(target, axis), source, axis) for axis in range(3)]
    result = np.zeros(target.shape, np.uint8)
    inside = [axis >= 0 for axis in axes]
    result[np.ix_(*inside)] = labels[np.ix_(*(axis[keep] for axis, keep in zip(axes, inside, strict=True)))]
    return result


def fill_polygon(points: Sequence[tuple[float, float]], rows: int, columns: int) -> NDArray[np.bool_]:
    """Return the pixels whose centres lie inside a polygon (even-odd rule).

    Parameters
    ----------
    points
        (column, row) of the corners in pixels, where the centre of the first pixel is (0, 0).
    rows, columns
        Size of the image.

    Returns
    -------
    numpy.ndarray
        bool, (rows, columns). A polygon around no pixel centre still marks the pixel of each corner: a
        calcification of one pixel is drawn as a dot.
    """
    corners = np.asarray(points, np.float64).reshape(-1, 2)
    mask = np.zeros((rows, columns), np.bool_)
    if not len(corners):
        return mask
    x, y = corners[:, 0], corners[:, 1]
    x2, y2 = np.roll(x, -1), np.roll(y, -1)
    at = np.arange(columns, dtype=np.float64)
    for row in range(max(0, int(np.floor(y.min()))), min(rows, int(np.ceil(y.max())) + 1)):
        crossing = (y <= row) != (y2 <= row)
        if crossing.any():
            where = x[crossing] + (row - y[crossing]) / (y2 - y)[crossing] * (x2 - x)[crossing]
            mask[row] = (where[:, None] > at[None, :]).sum(axis=0) % 2 == 1
    if not mask.any():
        column, row_index = np.rint(x).astype(np.intp), np.rint(y).astype(np.intp)
        keep = (column >= 0) & (column < columns) & (row_index >= 0) & (row_index < rows)
        mask[row_index[keep], column[keep]] = True
    return mask


CORONARY = tuple(int(vessel) for vessel in Vessel)
"""The labels that are scored."""
