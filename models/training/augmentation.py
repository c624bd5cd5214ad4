"""Random changes of a cached heart crop: geometry, box, contrast, blur and noise. Never mirrored left to right.

Voxels that a change lifts over 130 HU beside a plaque belong to that plaque; the label map of the crop
(`grown_labels`) knows that already.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy import ndimage

from calcium.agatston import CALCIUM_HU
from calcium.geometry import BoxMm, VolumeGeometry
from calcium.volume import CTVolume

if TYPE_CHECKING:
    from numpy.typing import NDArray

HU_LIMITS = (-1024, 3071)  # of 12-bit CT
CORONARY = (1, 2, 3)
IGNORE = 7
NOISE_TILES, NOISE_SIDE = 24, 512


@dataclass(frozen=True, slots=True)
class AugmentationConfig:
    """How much a crop may change; 0 switches a change off.

    Parameters
    ----------
    rotation_degrees
        Largest in-plane rotation.
    scale, anisotropy
        Largest change of the pixel size, as a share: of both axes, of one against the other.
    face_mm, face_limit_mm
        Standard deviation and limit of the shift of each face of the heart box.
    rise_mm
        The upper face is shifted upwards by up to this, too: models.heart.LocalizerConfig.rise_mm.
    shift_hu
        Standard deviation of a constant added.
    gain
        Largest change of the contrast above 60 HU, as a share: other tube voltages, partial volume.
    noise_hu
        Largest standard deviation of added, correlated noise; small ones are drawn more often.
    blur_pixels
        Largest standard deviation of an in-plane blur; the same sharpens in a quarter of the cases.
    """

    rotation_degrees: float = 12.0
    scale: float = 0.12
    anisotropy: float = 0.05
    face_mm: float = 5.5
    face_limit_mm: float = 16.0
    rise_mm: float = 12.0
    shift_hu: float = 6.0
    gain: float = 0.15
    noise_hu: float = 70.0
    blur_pixels: float = 0.7


def grown_labels(hu: NDArray[np.int16], labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return labels that also cover the voxels below 130 HU next to labelled ones in their slice.

    Parameters
    ----------
    hu, labels
        (slice, row, column), same shape.
    """
    wide = ndimage.grey_dilation(labels, size=(1, 3, 3))
    grown: NDArray[np.uint8] = np.where(labels > 0, labels, np.where(hu < CALCIUM_HU, wide, 0)).astype(np.uint8)
    return grown


@cache
def _noise_tiles() -> NDArray[np.float32]:
    """Return tiles of unit noise with the correlation of soft to sharp kernels, (tile, row, column)."""
    rng = np.random.default_rng(7)
    tiles = rng.standard_normal((NOISE_TILES + 1, NOISE_SIDE, NOISE_SIDE), np.float32)
    for index, width in enumerate(np.linspace(0.4, 1.3, NOISE_TILES + 1)):
        tile = ndimage.gaussian_filter(tiles[index], width, mode="wrap")
        tiles[index] = tile / tile.std()
    return tiles


def _noise(shape: tuple[int, int, int], rng: np.random.Generator) -> NDArray[np.float32]:
    """Return unit noise, correlated in-plane by one kernel; neighbouring slices share half of their rays."""
    tiles = _noise_tiles()
    tile = tiles[rng.integers(len(tiles))]
    slabs = np.empty((shape[0] + 1, *shape[1:]), np.float32)
    for slab in slabs:
        top, left = rng.integers(0, NOISE_SIDE, 2)
        part = np.roll(tile, (-top, -left), (0, 1))[: shape[1], : shape[2]]
        slab[:] = np.resize(part, shape[1:]) if part.shape != shape[1:] else part
    halves: NDArray[np.float32] = (slabs[:-1] + slabs[1:]) * np.float32(0.5**0.5)
    return halves


def _rotated(values: NDArray[np.float32], radians: float, mode: str) -> NDArray[np.float32]:
    """Return slices rotated in-plane about their centre."""
    _, height, width = values.shape
    ratio = height / width
    cos, sin = float(np.cos(radians)), float(np.sin(radians))
    theta = torch.tensor([[[cos, -sin * ratio, 0.0], [sin / ratio, cos, 0.0]]])
    grid = torch.nn.functional.affine_grid(theta, [1, 1, height, width], align_corners=False)
    rotated = torch.nn.functional.grid_sample(
        torch.from_numpy(values)[None], grid, mode=mode, padding_mode="border", align_corners=False
    )
    result: NDArray[np.float32] = rotated[0].numpy()
    return result


@dataclass(frozen=True, eq=False)
class Crop:
    """What is augmented: a heart crop, its grown labels and its heart box (LPS mm)."""

    volume: CTVolume
    labels: NDArray[np.uint8]
    box: BoxMm


def augment(crop: Crop, config: AugmentationConfig, rng: np.random.Generator) -> Crop:
    """Return a changed copy of a crop.

    Parameters
    ----------
    crop
        From the cache; its labels from `grown_labels`.
    config
        How much.
    rng
        Decides everything.
    """
    geometry = crop.volume.geometry
    hu = crop.volume.hu.astype(np.float32)
    labels = crop.labels
    if config.rotation_degrees and rng.random() < 0.6:
        angle = float(np.deg2rad(rng.uniform(-1, 1) * config.rotation_degrees))
        hu = _rotated(hu, angle, "bilinear")
        labels = _rotated(labels.astype(np.float32), angle, "nearest").astype(np.uint8)
    if config.blur_pixels and rng.random() < 0.4:
        blurred = ndimage.gaussian_filter(hu, (0, *[rng.uniform(0.2, 1) * config.blur_pixels] * 2), truncate=3)
        hu = hu + rng.uniform(0.2, 0.8) * (hu - blurred) if rng.random() < 0.25 else blurred
    if config.gain:
        gain = np.float32(1 + rng.uniform(-1, 1) * config.gain)
        hu = np.where(hu > 60, 60 + (hu - 60) * gain, hu)
    if config.noise_hu and rng.random() < 0.6:
        hu = hu + np.float32(rng.random() ** 2 * config.noise_hu) * _noise(hu.shape, rng)
    hu = np.clip(np.rint(hu + rng.normal(0, config.shift_hu)), *HU_LIMITS).astype(np.int16)
    # Pixels of another size: the same image of a smaller or larger heart.
    both = 1 + rng.uniform(-1, 1) * config.scale
    one = 1 + rng.uniform(-1, 1) * config.anisotropy
    factors = (1.0, both * one, both / one)  # z, y, x
    moved = _scaled(geometry, factors)
    box = _jittered(_scaled_box(crop.box, geometry, moved), moved, config, rng)
    return Crop(CTVolume(hu, moved, crop.volume.slice_thickness_mm), labels, box)


def _scaled(geometry: VolumeGeometry, factors: tuple[float, float, float]) -> VolumeGeometry:
    spacing = tuple(step * factor for step, factor in zip(geometry.spacing_mm, factors, strict=True))
    return replace(geometry, spacing_mm=spacing)  # type: ignore[arg-type]


def _scaled_box(box: BoxMm, before: VolumeGeometry, after: VolumeGeometry) -> BoxMm:
    return BoxMm(after.to_mm(*before.to_index(box.low)), after.to_mm(*before.to_index(box.high)))


def _jittered(
    box: BoxMm, geometry: VolumeGeometry, config: AugmentationConfig, rng: np.random.Generator
) -> BoxMm:
    """Shift each face of a box; it stays inside the crop."""
    limit = config.face_limit_mm
    shifts = np.clip(rng.normal(0, config.face_mm, 6), -limit, limit) if config.face_mm else np.zeros(6)
    most = np.tile(np.asarray(box.size_mm) / 4, 2)  # opposite faces of a small box must not meet
    shifts = np.clip(shifts, -most, most)
    shifts[5] += rng.uniform(0, config.rise_mm) if config.rise_mm else 0.0
    first = geometry.to_mm(0, 0, 0)
    last = geometry.to_mm(*(size - 1 for size in geometry.shape))
    low = tuple(max(a + s, f) for a, s, f in zip(box.low, shifts[:3], first, strict=True))
    high = tuple(min(b + s, e) for b, s, e in zip(box.high, shifts[3:], last, strict=True))
    return BoxMm(low, high)
