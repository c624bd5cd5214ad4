"""Which of what a weigher finds counts: whole lesions where most is certain; no metal, no edges of others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage

from calcium.agatston import MINIMUM_LESION_MM3, VOLUME_FUZZ_MM3
from calcium.heart_checks import METAL_HU

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Float = NDArray[np.float32]

INSIDE = 0.5  # weight from which a voxel belongs to a lesion
# Voxels with credit that adjoin a lesion without belonging to it, per voxel of the lesion: few where it is a
# plaque, many where it is the edge of a rib, a node or the aortic wall (docs/decisions/0015).
MOST_ADJOINING = 0.4
# Share of a component's credit that is in certain lesions: from MOST on all of it counts, below LEAST a lesion
# may be its edge (docs/decisions/0017).
MOST, LEAST = 0.5, 0.25
TINY = 1e-9
NEIGHBOURS = np.ones((3, 3, 3))  # 26-connected, as the reference method's lesions


def without_metal(weights: Float, credit: Float, hu: NDArray[np.int16]) -> Float:
    """Return weights without the components that reach METAL_HU, unless most of their credit is coronary.

    Clips, wires and leads shine beyond their edges, and some voxels of that light may look coronary; the whole
    does not. The densest plaques reach METAL_HU too: their weights are high throughout.

    Parameters
    ----------
    weights, credit
        As for `certain_lesions`.
    hu
        int16, same shape.
    """
    if hu[credit > 0].max(initial=0) < METAL_HU:
        return weights
    components, count = ndimage.label(credit > 0, NEIGHBOURS)
    numbers = np.arange(count + 1)
    whole = ndimage.sum_labels(credit, components, numbers)
    coronary = ndimage.sum_labels(weights * credit, components, numbers)
    metal = (_highest(hu, components, count) >= METAL_HU) & (coronary < INSIDE * whole)
    metal[0] = False  # outside of all components
    return np.where(metal[components], np.float32(0), weights)


def certain_lesions(weights: Float, credit: Float, voxel_mm3: float, certain: float) -> Float:
    """Return the weights of what counts: 1 in whole components, as they are in parts of others, 0 elsewhere.

    A lesion is a 26-connected component of voxels with credit and a weight of at least `INSIDE`. It is certain
    where its highest weight reaches `certain` and its volume 1.5 mm3, the least of the reference method: noise
    and partial volume make lesions that are neither. Where certain lesions have at least `MOST` of the credit
    of a component of classical scoring, it counts as a whole: readers mark components, not voxels. In other
    components a certain lesion counts unless it is the edge of something larger: certain lesions have less than
    `LEAST` of the credit, and much adjoins this one (`MOST_ADJOINING`).

    Parameters
    ----------
    weights
        float32, (slice, row, column), 0..1.
    credit
        float32, same shape: what classical scoring would credit each voxel; 0 outside of candidates.
    voxel_mm3
        Volume of a voxel.
    certain
        Least highest weight of a lesion; 0 leaves all weights as they are.
    """
    if certain <= 0:
        return weights
    decided = np.zeros_like(weights)
    candidates = credit > 0
    inside = candidates & (weights >= INSIDE)
    place = _bounds(inside)
    if place is None:
        return decided
    # Lesions are looked at only in the part of the heart that holds any: a tenth of the time.
    near, around = weights[place], candidates[place]
    lesions, count = ndimage.label(inside[place], NEIGHBOURS)
    highest = _highest(near, lesions, count)
    volume = np.bincount(lesions.ravel(), minlength=count + 1) * voxel_mm3
    counts = (highest >= certain) & (volume >= MINIMUM_LESION_MM3 - VOLUME_FUZZ_MM3)
    counts[0] = False  # outside of all lesions
    if not counts.any():
        return decided
    decided[place] = np.where(counts[lesions], near, np.float32(0))
    share = _shares(decided, credit)
    small = share[place] < LEAST
    for number, part in enumerate(ndimage.find_objects(lesions), 1):
        if counts[number]:
            wide = tuple(slice(max(0, axis.start - 1), axis.stop + 1) for axis in part)
            lesion = lesions[wide] == number
            edge = small[wide][lesion].all() and _adjoining(lesion, around[wide]) > MOST_ADJOINING
            counts[number] = not edge
    decided[place] = np.where(counts[lesions], near, np.float32(0))
    decided[share >= MOST] = 1
    return decided


def _shares(decided: Float, credit: Float) -> Float:
    """Return for each voxel with credit which share of its component's credit is in `decided`; elsewhere 0."""
    candidates = credit > 0
    components, count = ndimage.label(candidates, NEIGHBOURS)
    at = np.flatnonzero(candidates)
    numbers, credited = components.ravel()[at], credit.ravel()[at]
    total = np.bincount(numbers, credited, count + 1)
    found = np.bincount(numbers, credited * decided.ravel()[at], count + 1)
    share = np.zeros_like(credit)
    share.ravel()[at] = (found / np.maximum(total, TINY))[numbers]
    return share


def _bounds(mask: NDArray[np.bool_]) -> tuple[slice, slice, slice] | None:
    """Return the least box with all of a mask and the voxels next to it; None where the mask is empty."""
    found = []
    for others in ((1, 2), (0, 2), (0, 1)):
        along = np.flatnonzero(mask.any(axis=others))
        if not along.size:
            return None
        found.append(slice(max(0, int(along[0]) - 1), int(along[-1]) + 2))
    return found[0], found[1], found[2]


def _adjoining(lesion: NDArray[np.bool_], candidates: NDArray[np.bool_]) -> float:
    """Return how many voxels with credit adjoin a lesion, per voxel of it."""
    around = ndimage.binary_dilation(lesion, NEIGHBOURS) & candidates & ~lesion
    return float(np.count_nonzero(around) / np.count_nonzero(lesion))


def _highest(values: NDArray[Any], components: NDArray[np.int32], count: int) -> NDArray[np.float32]:
    """Return the highest value of each component, 0 where there is none; scipy's own sorts the whole volume."""
    highest = np.zeros(count + 1, np.float32)
    inside = components > 0
    np.maximum.at(highest, components[inside], values[inside].astype(np.float32))
    return highest
