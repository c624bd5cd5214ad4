"""Which of the lesions that a weigher finds are certain enough to count."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from calcium.agatston import MINIMUM_LESION_MM3, VOLUME_FUZZ_MM3

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Float = NDArray[np.float32]

INSIDE = 0.5  # weight from which a voxel belongs to a lesion
NEIGHBOURS = np.ones((3, 3, 3))  # 26-connected, as the reference method's lesions


def certain_lesions(weights: Float, credit: Float, voxel_mm3: float, certain: float) -> Float:
    """Return weights without the voxels that belong to no certain lesion.

    A lesion is a 26-connected component of voxels with credit and a weight of at least `INSIDE`. It counts
    where its highest weight reaches `certain` and its volume 1.5 mm3, the least of the reference method: noise
    and partial volume make lesions that are neither.

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
    lesions, count = ndimage.label((credit > 0) & (weights >= INSIDE), NEIGHBOURS)
    highest = ndimage.maximum(weights, lesions, np.arange(count + 1))
    volume = np.bincount(lesions.ravel(), minlength=count + 1) * voxel_mm3
    counts = (np.asarray(highest) >= certain) & (volume >= MINIMUM_LESION_MM3 - VOLUME_FUZZ_MM3)
    counts[0] = False  # outside of all lesions
    return np.where(counts[lesions], weights, np.float32(0))
