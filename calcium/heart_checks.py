"""What the pixels of the heart say against a score: contrast without a tag, metal, noise, a heart that is cut.

numpy only; works on any CT volume with a heart box, as a rule on the resampled one.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calcium.eligibility import Finding
from calcium.geometry import BoxMm, VoxelBox
from calcium.pixels import AIR_HU
from calcium.volume import CTVolume

CORE = 0.7
"""Part of the box, along each edge, that is taken as heart without its surroundings."""
BLOCK_MM = 6.0
"""Edge of the blocks that are averaged against noise; a ventricle is 40 mm wide."""
SOFT_HU = (-20.0, 700.0)
"""Block means that may be muscle or blood, plain or with contrast: above fat, below metal."""
BLOOD_QUANTILE = 0.75
"""Quantile of the block means that is blood: muscle and blood are alike when plain, blood is the brighter half
with contrast. Measured in public series: plain 35 to 48 HU, with contrast 194 to 386 HU."""
LEAST_BLOCKS = 30
"""Fewer blocks of soft tissue are no heart."""
BLOOD_REFUSED_HU = 90.0
"""Plain blood is 30 to 60 HU; late or weak contrast is about 100 HU."""
BLOOD_DOUBTFUL_HU = 70.0
"""From here on contrast is possible."""
BLOOD_LOW_HU = 10.0
"""Below, the HU are not calibrated: even anaemic blood is above 25 HU."""
NOISE_LIMIT_HU = 40.0
"""Highest noise, as standard deviation within blocks of heart tissue of slices of 3 mm, without a warning."""
METAL_HU = 2500
"""No calcium reaches this in slices of 3 mm (at most about 2,000); 12-bit images end at 3,071."""
METAL_MM3 = 10.0
"""Smallest volume that is told as metal, mm3."""
METAL_MARGIN_MM = 20.0
"""Streaks reach this far: metal so near to the box is told too."""
END_MM = 0.75
"""A box that comes this near to the end of the scan, along z, reaches it."""
PADDED_PART = 0.01
"""Part of the heart's ellipse that may lie outside the reconstructed circle."""


@dataclass(frozen=True, slots=True)
class HeartFindings:
    """What the pixels of the heart say.

    Parameters
    ----------
    blood_hu
        Blood in the heart, HU; None where the box holds too little soft tissue.
    noise_hu
        Standard deviation within heart tissue, HU; None as above.
    refusal
        Why the series gets no score, or None; codes ``contrast_in_blood``, ``heart_cut``.
    cautions
        Warnings, most important first.
    """

    blood_hu: float | None
    noise_hu: float | None
    refusal: Finding | None
    cautions: tuple[Finding, ...]


def _scaled(box: BoxMm, part: float) -> BoxMm:
    """Return the box of the same centre and `part` of the edges."""
    middle = [(a + b) / 2 for a, b in zip(box.low, box.high, strict=True)]
    half = [size / 2 * part for size in box.size_mm]
    low, high = (tuple(m + sign * h for m, h in zip(middle, half, strict=True)) for sign in (-1, 1))
    return BoxMm(low, high)  # type: ignore[arg-type]


def _covering(box: BoxMm, volume: CTVolume) -> VoxelBox | None:
    try:
        return VoxelBox.covering(box, volume.geometry)
    except ValueError:
        return None


def _blocks(volume: CTVolume, box: BoxMm) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return mean and standard deviation, HU, of the blocks of soft tissue amid the box, each (blocks,)."""
    core = _covering(_scaled(box, CORE), volume)
    if core is None:
        return np.empty(0, np.float32), np.empty(0, np.float32)
    edge = [max(1, round(BLOCK_MM / spacing)) for spacing in volume.geometry.spacing_mm]
    count = [size // step for size, step in zip(core.shape, edge, strict=True)]
    whole = tuple(slice(0, n * step) for n, step in zip(count, edge, strict=True))
    shape = tuple(itertools.chain.from_iterable(zip(count, edge, strict=True)))
    blocks = volume.hu[core.slices][whole].astype(np.float32).reshape(shape)
    mean, deviation = blocks.mean(axis=(1, 3, 5)).ravel(), blocks.std(axis=(1, 3, 5)).ravel()
    soft = (mean > SOFT_HU[0]) & (mean < SOFT_HU[1])
    return mean[soft], deviation[soft]


def _metal_mm3(volume: CTVolume, box: BoxMm) -> float:
    low, high = (
        tuple(edge + sign * METAL_MARGIN_MM for edge in corner)
        for corner, sign in ((box.low, -1), (box.high, 1))
    )
    near = _covering(BoxMm(low, high), volume)  # type: ignore[arg-type]
    if near is None:
        return 0.0
    return float((volume.hu[near.slices] >= METAL_HU).sum()) * volume.geometry.voxel_volume_mm3


def _padded_part(volume: CTVolume, voxels: VoxelBox) -> float:
    """Return the part of the ellipse in the box that no slice has reconstructed.

    Padding is -1024 HU, or the lowest value of the volume, in every slice of the box; air is never so even.
    """
    part = volume.hu[voxels.slices]
    padded: NDArray[np.bool_] = np.all(part <= max(int(volume.hu.min()), AIR_HU), axis=0)
    rows, columns = padded.shape
    y = (np.arange(rows) - (rows - 1) / 2)[:, None] / (rows / 2)
    x = (np.arange(columns) - (columns - 1) / 2)[None, :] / (columns / 2)
    ellipse = x * x + y * y <= 1
    return float(padded[ellipse].mean())


def _cut(volume: CTVolume, box: BoxMm) -> str | None:
    """Return how the scan cuts the heart, or None."""
    grid = volume.geometry
    voxels = _covering(box, volume)
    if voxels is None:
        return "the heart box lies outside the scan"
    whole = VoxelBox((0, 0, 0), grid.shape).to_mm(grid)
    if box.low[2] < whole.low[2] + END_MM:
        return "the scan ends in the heart at its lower end"
    if box.high[2] > whole.high[2] - END_MM:
        return "the scan ends in the heart at its upper end"
    sides = zip(box.low[:2], whole.low[:2], box.high[:2], whole.high[:2], strict=True)
    if any(low <= first or high >= last for low, first, high, last in sides):
        return "the heart reaches the edge of the images"
    part = _padded_part(volume, voxels)
    if part > PADDED_PART:
        return f"{part:.0%} of the heart lie outside the reconstructed field of view"
    return None


def check_heart(volume: CTVolume, box: BoxMm, *, noise_limit_hu: float = NOISE_LIMIT_HU) -> HeartFindings:
    """Examine the heart of a volume.

    Parameters
    ----------
    volume
        As a rule resampled to 3.0 mm every 1.5 mm, for which the limits hold.
    box
        Heart box, LPS mm, without a margin.
    noise_limit_hu
        Highest noise without a warning, HU.

    Returns
    -------
    HeartFindings
        A refusal needs no score; cautions go with one.
    """
    mean, deviation = _blocks(volume, box)
    blood = noise = None
    if mean.size >= LEAST_BLOCKS:
        blood = float(np.quantile(mean, BLOOD_QUANTILE))
        noise = float(np.median(deviation))
    refusal = None
    cut = _cut(volume, box)
    if blood is not None and blood > BLOOD_REFUSED_HU:
        refusal = Finding(
            "contrast_in_blood",
            f"blood in the heart has {blood:.0f} HU: contrast (plain blood has 30 to 60 HU)",
        )
    elif cut is not None:
        refusal = Finding("heart_cut", cut)
    found = []
    if blood is None:
        found.append(Finding("blood_unknown", "too little soft tissue in the heart box to tell contrast"))
    elif BLOOD_DOUBTFUL_HU < blood <= BLOOD_REFUSED_HU:
        found.append(
            Finding("contrast_possible", f"blood in the heart has {blood:.0f} HU: weak contrast is possible")
        )
    elif blood < BLOOD_LOW_HU:
        found.append(Finding("hu_calibration", f"blood in the heart has {blood:.0f} HU: the HU seem too low"))
    metal = _metal_mm3(volume, box)
    if metal >= METAL_MM3:
        found.append(
            Finding("metal", f"{metal:.0f} mm3 above {METAL_HU} HU in or near the heart: metal, streaks")
        )
    if noise is not None and noise > noise_limit_hu:
        found.append(Finding("noise", f"noise of {noise:.0f} HU in the heart exceeds {noise_limit_hu:.0f} HU"))
    return HeartFindings(blood, noise, refusal, tuple(found))
