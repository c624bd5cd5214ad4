"""Labels of an augmented real scan: what was inserted, and what its reader had marked.

As people read it, on the noisy image at 130 HU.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.ndimage import grey_dilation, label

from calcium.agatston import CALCIUM_HU
from models.training.phantom.reference import SEEN_HU, TOUCH_HU

if TYPE_CHECKING:
    from numpy.typing import NDArray


def label_scan(
    hu: NDArray[np.int16], native: NDArray[np.uint8], excess: dict[int, NDArray[np.float32]]
) -> NDArray[np.uint8]:
    """Return labels of all voxels >= 130 HU: of the deposit that raises it most, else the scan's own."""
    labels = np.zeros(hu.shape, np.uint8)
    where = np.nonzero(hu >= CALCIUM_HU)
    own = native[where]
    owner = np.where(own > 0, own, _spread(native)[where])
    peak = np.full(len(owner), np.float32(np.inf))  # the scan's own calcium was seen by a reader
    if excess:
        names = np.array(sorted(excess), np.uint8)
        shares = np.stack([excess[int(name)][where] for name in names])
        best, most = names[shares.argmax(axis=0)], shares.max(axis=0)
        # What was inserted on the scan's own calcium of another kind belongs to the larger of the two.
        stays = (own > 0) & (hu[where] - most >= CALCIUM_HU) & (most < 2 * SEEN_HU)
        inserted = (most >= TOUCH_HU) & ~stays
        owner, peak = np.where(inserted, best, owner), np.where(inserted, most, peak)
    labelled = owner > 0
    where = tuple(axis[labelled] for axis in where)
    labels[where] = owner[labelled]
    _drop_unseen(labels, where, peak[labelled])
    return labels


def _spread(native: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the labels, each grown by one pixel in-plane."""
    grown = np.zeros_like(native)
    for index in np.flatnonzero(native.any(axis=(1, 2))):
        grown[index] = grey_dilation(native[index], size=(3, 3))
    return grown


def _drop_unseen(
    labels: NDArray[np.uint8], where: tuple[NDArray[np.intp], ...], peak: NDArray[np.float32]
) -> None:
    """Clear lesions that no reader would see: components that no deposit raises above the noise."""
    if not peak.size:
        return
    window = tuple(slice(int(axis.min()), int(axis.max()) + 1) for axis in where)
    inside = tuple(axis - part.start for axis, part in zip(where, window, strict=True))
    number = label(labels[window] > 0, np.ones((3, 3, 3)))[0][inside]
    strongest = np.zeros(int(number.max()) + 1, np.float32)
    np.maximum.at(strongest, number, peak)
    labels[where] = np.where(strongest[number] >= SEEN_HU, labels[where], 0)
