"""Through-plane resampling to slices of 3.0 mm every 1.5 mm (seed, section "Data"; definition of the project).

Each new slice is the mean of the original slices weighted by the overlap (mm) of the two slabs along z, rounded
to whole HU. In-plane resolution stays as acquired.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from calcium.geometry import VolumeGeometry
from calcium.volume import CTVolume

THICKNESS_MM = 3.0
"""Thickness of a resampled slice, mm (seed, section "Data")."""
INCREMENT_MM = 1.5
"""Distance of neighbouring resampled slices, mm (seed, section "Data")."""
FUZZ_MM = 1e-3
"""Rounding of positions and thicknesses in DICOM decimal strings that must not decide on a slice, mm."""


def slice_count(extent_mm: float) -> int:
    """Return how many resampled slices fit into a scan of `extent_mm`: floor((T - 3.0) / 1.5 + 1)."""
    return math.floor((extent_mm - THICKNESS_MM + FUZZ_MM) / INCREMENT_MM + 1)


def overlap_weights(volume_geometry: VolumeGeometry, thickness_mm: float) -> NDArray[np.float64]:
    """Return the weights of the original slices in each resampled slice.

    Parameters
    ----------
    volume_geometry
        Grid of the original volume.
    thickness_mm
        Thickness of the original slices, mm.

    Returns
    -------
    numpy.ndarray
        float64, (new slices, original slices); each row adds up to 1.

    Raises
    ------
    ValueError
        The scan is shorter than one new slice.
    """
    slices, spacing = volume_geometry.shape[0], volume_geometry.spacing_mm[0]
    extent = thickness_mm + spacing * (slices - 1)
    count = slice_count(extent)
    if count < 1:
        raise ValueError(f"a scan of {extent:.2f} mm is shorter than one slice of {THICKNESS_MM} mm")
    # Offsets from the lower face of the lowest original slab, mm.
    low = np.arange(slices) * spacing
    new_low = np.arange(count)[:, None] * INCREMENT_MM
    overlap = np.minimum(low + thickness_mm, new_low + THICKNESS_MM) - np.maximum(low, new_low)
    weights: NDArray[np.float64] = np.maximum(overlap, 0.0)
    weights[weights < FUZZ_MM] = 0.0
    covered = weights.sum(axis=1)
    for index in np.flatnonzero(covered == 0.0):  # a gap wider than 3 mm: the nearest slice stands in
        centre = new_low[index, 0] + THICKNESS_MM / 2
        weights[index, np.abs(low + thickness_mm / 2 - centre).argmin()] = 1.0
    weights /= weights.sum(axis=1, keepdims=True)
    return weights


def resample(volume: CTVolume) -> CTVolume:
    """Return `volume` in slices of 3.0 mm every 1.5 mm; in-plane unchanged.

    Parameters
    ----------
    volume
        Volume on any slice grid. A volume that already has 3.0 mm every 1.5 mm comes back with equal voxels.

    Returns
    -------
    CTVolume
        int16 HU, (new slices, rows, columns); the lowest face stays where it was.

    Raises
    ------
    ValueError
        The scan is shorter than one new slice of 3.0 mm.
    """
    geometry = volume.geometry
    weights = overlap_weights(geometry, volume.slice_thickness_mm).astype(np.float32)
    count, rows, columns = weights.shape[0], *geometry.shape[1:]
    hu = np.empty((count, rows, columns), np.int16)
    total = np.empty((rows, columns), np.float32)
    part = np.empty_like(total)
    for index, row in enumerate(weights):
        used = np.flatnonzero(row)
        np.multiply(volume.hu[used[0]], row[used[0]], out=total)
        for source in used[1:]:
            np.multiply(volume.hu[source], row[source], out=part)
            total += part
        hu[index] = np.rint(total, out=total)
    x0, y0, z0 = geometry.origin_mm
    first = z0 - volume.slice_thickness_mm / 2 + THICKNESS_MM / 2
    spacing = (INCREMENT_MM, *geometry.spacing_mm[1:])
    return CTVolume(hu, VolumeGeometry((x0, y0, first), spacing, hu.shape), THICKNESS_MM)
