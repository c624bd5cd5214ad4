"""The reference method: lesions, slice and total Agatston scores, volume score from an image and a mask.

Agatston et al. 1990 (J Am Coll Cardiol 15:827), on slices that may overlap: the sum of the slice scores is
multiplied by increment / 3.0 mm, because the score is defined on contiguous slices of 3 mm.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import SimpleITK
from numpy.typing import NDArray

from calcium.geometry import BoxMm, Point, VoxelBox
from calcium.volume import CTVolume

CALCIUM_HU = 130
"""Lowest HU of calcium at 120 kVp (Agatston 1990)."""
MINIMUM_LESION_MM3 = 1.5
"""Smallest lesion that counts, mm3 (definition of the project)."""
AGATSTON_SLICE_MM = 3.0
"""Slice thickness that the total is defined on, mm (Agatston 1990)."""
WEIGHT_STEPS_HU = (130, 200, 300, 400)
"""Lowest maximum HU of the weights 1, 2, 3, 4 (Agatston 1990)."""
VOLUME_FUZZ_MM3 = 1e-6
"""Rounding of products of spacings that must not decide on a lesion, mm3."""


@dataclass(frozen=True, slots=True)
class Lesion:
    """One 26-connected component of calcium.

    Parameters
    ----------
    centroid_mm
        Mean voxel centre (x, y, z), LPS mm.
    volume_mm3
        Voxels * dx * dy * increment.
    agatston
        Its share of the total Agatston score.
    maximum_hu
        Highest HU of the lesion.
    """

    centroid_mm: Point
    volume_mm3: float
    agatston: float
    maximum_hu: int


@dataclass(frozen=True, eq=False, slots=True)
class ReferenceScore:
    """Scores of a volume with a mask.

    Parameters
    ----------
    agatston
        Total Agatston score: sum of the slice scores * increment / 3.0.
    volume_mm3
        Volume score, mm3.
    slice_agatston
        float64, (slices,): slice Agatston scores, mm2 times weight.
    slice_volume
        float64, (slices,): calcified volume of each slice, mm3.
    lesions
        By falling Agatston score.
    """

    agatston: float
    volume_mm3: float
    slice_agatston: NDArray[np.float64]
    slice_volume: NDArray[np.float64]
    lesions: tuple[Lesion, ...]


@dataclass(frozen=True, eq=False, slots=True)
class _Calcium:
    """Calcified voxels as a list, and the credit of each."""

    index: NDArray[np.intp]  # (voxels, 3): slice, row, column
    lesion: NDArray[np.intp]  # (voxels,): number of the lesion, from 0
    hu: NDArray[np.int16]  # (voxels,)
    credit: NDArray[np.float64]  # (voxels,): pixel area * weight, mm2


def _components(mask: NDArray[np.bool_]) -> NDArray[np.uint32]:
    """Return the 26-connected components of a mask, numbered from 1."""
    image = SimpleITK.GetImageFromArray(mask.astype(np.uint8))
    labels: NDArray[np.uint32] = SimpleITK.GetArrayFromImage(SimpleITK.ConnectedComponent(image, True))
    return labels


def _calcium(volume: CTVolume, mask: NDArray[np.bool_]) -> _Calcium:
    """Return the voxels of all lesions in `mask` that are large enough."""
    calcified = mask & (volume.hu >= CALCIUM_HU)
    occupied = [np.flatnonzero(calcified.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1))]
    if not occupied[0].size:
        none = np.empty(0, np.intp)
        return _Calcium(np.empty((0, 3), np.intp), none, np.empty(0, np.int16), np.empty(0))
    start = np.array([where[0] for where in occupied])
    window = tuple(slice(int(where[0]), int(where[-1]) + 1) for where in occupied)
    labels = _components(calcified[window])
    index = np.argwhere(labels)
    lesion = labels[tuple(index.T)].astype(np.intp) - 1
    index += start
    geometry = volume.geometry
    large = np.bincount(lesion) * geometry.voxel_volume_mm3 >= MINIMUM_LESION_MM3 - VOLUME_FUZZ_MM3
    keep = large[lesion]
    index, lesion = index[keep], (np.cumsum(large) - 1)[lesion[keep]]
    hu = volume.hu[tuple(index.T)]
    # Weight of each lesion in each slice, from the maximum HU of that lesion in that slice.
    key = lesion * geometry.shape[0] + index[:, 0]
    _, place = np.unique(key, return_inverse=True)
    maximum = np.zeros(int(place.max(initial=-1)) + 1, np.int16)
    np.maximum.at(maximum, place, hu)
    weight = np.searchsorted(WEIGHT_STEPS_HU, maximum, side="right")
    credit = weight[place].astype(np.float64) * geometry.pixel_area_mm2
    return _Calcium(index, lesion, hu, credit)


def score_mask(
    volume: CTVolume, mask: NDArray[np.generic], labels: Collection[int] | None = None
) -> ReferenceScore:
    """Return the reference scores of the calcium in a mask.

    Parameters
    ----------
    volume
        Image, as a rule resampled to 3.0 mm every 1.5 mm.
    mask
        bool or integer, shape of ``volume.hu``: voxels that belong to the coronary arteries. Voxels below
        130 HU are ignored.
    labels
        Values of an integer mask that count; all but 0 when None. Several labels are scored as one mask, so
        that a lesion that spans two vessels stays one lesion.

    Returns
    -------
    ReferenceScore

    Raises
    ------
    ValueError
        The mask has another shape.
    """
    if mask.shape != volume.hu.shape:
        raise ValueError(f"the mask has shape {mask.shape}, the volume {volume.hu.shape}")
    chosen = mask != 0 if labels is None else np.isin(mask, list(labels))
    calcium = _calcium(volume, chosen)
    geometry = volume.geometry
    slices, increment = geometry.shape[0], geometry.spacing_mm[0]
    per_slice = np.bincount(calcium.index[:, 0], calcium.credit, slices).astype(np.float64)
    voxels = np.bincount(calcium.index[:, 0], minlength=slices)
    volumes = voxels.astype(np.float64) * geometry.voxel_volume_mm3
    count = int(calcium.lesion.max(initial=-1)) + 1
    size = np.bincount(calcium.lesion, minlength=count)
    share = np.bincount(calcium.lesion, calcium.credit, count) * increment / AGATSTON_SLICE_MM
    centre = [
        np.bincount(calcium.lesion, calcium.index[:, axis], count) / np.maximum(size, 1) for axis in range(3)
    ]
    peak = np.zeros(count, np.int16)
    np.maximum.at(peak, calcium.lesion, calcium.hu)
    lesions = (
        Lesion(
            centroid_mm=geometry.to_mm(*(float(axis[i]) for axis in centre)),
            volume_mm3=float(size[i]) * geometry.voxel_volume_mm3,
            agatston=float(share[i]),
            maximum_hu=int(peak[i]),
        )
        for i in range(count)
    )
    return ReferenceScore(
        agatston=float(per_slice.sum()) * increment / AGATSTON_SLICE_MM,
        volume_mm3=float(volumes.sum()),
        slice_agatston=per_slice,
        slice_volume=volumes,
        lesions=tuple(sorted(lesions, key=lambda lesion: (-lesion.agatston, lesion.centroid_mm))),
    )


def credit_map(volume: CTVolume, box: BoxMm | None = None) -> NDArray[np.float32]:
    """Return what classical scoring would credit each voxel if all calcium in the box were coronary.

    The sum over one slice is the upper bound of its Agatston score; the sum over all slices times
    increment / 3.0 bounds the total.

    Parameters
    ----------
    volume
        Image, as a rule resampled.
    box
        Region that may hold coronary calcium, LPS mm; everything when None. Components are cut at its faces.

    Returns
    -------
    numpy.ndarray
        float32, shape of ``volume.hu``: pixel area (mm2) times the weight of the voxel's lesion in its slice;
        0 below 130 HU and in lesions below 1.5 mm3.
    """
    mask = np.zeros(volume.hu.shape, np.bool_)
    if box is None:
        mask[:] = True
    else:
        mask[VoxelBox.covering(box, volume.geometry).slices] = True
    calcium = _calcium(volume, mask)
    credit = np.zeros(volume.hu.shape, np.float32)
    credit[tuple(calcium.index.T)] = calcium.credit
    return credit
