"""A sketch as a scan: what was drawn, blurred, moved, with noise, on a scanner's grid, with its truth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage

from calcium.agatston import CALCIUM_HU, score_mask
from calcium.geometry import BoxMm, VolumeGeometry
from calcium.resample import resample
from calcium.volume import CTVolume
from models.training.phantom import PhantomScan
from models.training.sketch import calcium
from models.training.sketch.body import draw_chest, paint
from models.training.sketch.drawing import Sheet

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from models.training.sketch.body import Chest

    Array = NDArray[np.float32]

CORONARY = (calcium.LAD, calcium.LCX, calcium.RCA)
BELOW_TREE_MM = 4.0  # the heart box ends so far below the bifurcation of the pulmonary trunk


@dataclass(frozen=True, slots=True)
class SketchConfig:
    """Knobs of a sketch; everything else is drawn from the seed.

    Parameters
    ----------
    crop_to_heart
        Only the heart box and this margin, mm, at full resolution; everything when None.
    pixel_mm
        Of the image; drawn when None.
    thickness_mm
        Of the slices; drawn when None.
    contrast
        Whether blood is bright.
    """

    crop_to_heart: float | None = None
    pixel_mm: float | None = None
    thickness_mm: float | None = None
    contrast: bool = False


def make_sketch(seed: int, *, config: SketchConfig | None = None) -> PhantomScan:
    """Draw a scan with its reference scores; the same seed and configuration give the same bytes.

    Parameters
    ----------
    seed
        Source of everything that is drawn.
    config
        Knobs; the default is a whole chest.
    """
    config = config or SketchConfig()
    body, others, noise = (np.random.default_rng([seed, 2718, part]) for part in range(3))
    chest = draw_chest(body)
    low, high = _heart_box(chest)
    pixel = config.pixel_mm or float(others.uniform(0.6, 0.9))
    thickness = config.thickness_mm or float(others.choice([1.0, 1.25, 1.5, 2.0, 2.5, 3.0]))
    z, y, x = _axes(chest, others, pixel, thickness)
    if config.crop_to_heart is not None:
        margin = config.crop_to_heart
        x, y = (
            axis[(axis >= a - margin) & (axis <= b + margin)]
            for axis, a, b in ((x, low[0], high[0]), (y, low[1], high[1]))
        )
        z = z[(z >= low[2] - margin - thickness) & (z <= high[2] + margin + thickness)]
    sheet = Sheet(z, y, x)
    contrast = float(body.uniform(80, 350)) if config.contrast else None
    paint(sheet, chest, body, contrast)
    moved = float(others.gamma(1.2, 2.0)) if others.random() < 0.7 else 0.0
    number = int(others.choice([0, 1, 2, 4, 8, 16, 30], p=[0.28, 0.14, 0.14, 0.16, 0.14, 0.09, 0.05]))
    lines = calcium.arteries(chest, others)
    calcium.paint_arteries(sheet, chest, lines, others, contrast or chest.blood_hu)
    calcium.paint_plaques(sheet, lines, others, number, moved)
    calcium.paint_others(sheet, chest, others, moved)
    fwhm, sigma = float(others.uniform(0.8, 1.9)), float(5 + 50 * others.random() ** 2)
    _texture(sheet, noise)
    if moved:
        _move(sheet, (low, high), moved, others)
    sheet.hu = ndimage.gaussian_filter(sheet.hu, (0.3, fwhm / 2.355 / pixel, fwhm / 2.355 / pixel))
    if others.random() < 0.25:  # an edge-enhancing kernel
        sheet.hu += others.uniform(0.2, 0.8) * (sheet.hu - ndimage.gaussian_filter(sheet.hu, (0, 1, 1)))
    sheet.hu += sigma * _noise(sheet.hu.shape, noise)
    hu = np.clip(np.rint(sheet.hu), -1024, 3071).astype(np.int16)
    table = np.round(others.uniform([-15, -230, -700], [15, 60, 400]), 1)
    corner = np.array([x[0], y[0], z[0]], np.float64) + table
    geometry = VolumeGeometry(tuple(corner.tolist()), (thickness, pixel, pixel), hu.shape)
    volume = CTVolume(hu, geometry, thickness)
    resampled = resample(volume)
    labels = _labels(volume, resampled, sheet.labels)
    score = score_mask(resampled, labels, CORONARY)
    facts: dict[str, Any] = {
        "seed": seed, "distribution": "sketch", "field_of_view": "chest", "motion_mm": moved, "noise_hu": sigma,
        "thickness_mm": thickness, "pixel_mm": pixel, "fwhm_mm": fwhm, "contrast_hu": contrast, "kvp": 120.0,
    }  # fmt: skip
    return PhantomScan(
        seed=seed,
        volume=volume,
        resampled=resampled,
        labels=labels,
        heart_box=BoxMm(tuple((low + table).tolist()), tuple((high + table).tolist())),
        agatston=score.agatston,
        volume_mm3=score.volume_mm3,
        slice_agatston=score.slice_agatston,
        description=facts,
    )


def _heart_box(chest: Chest) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return corners (x, y, z) of the heart, up to just below the bifurcation of the pulmonary trunk."""
    x, y, z = chest.heart_centre
    axes = [np.arange(at - 130, at + 130, 2.0, dtype=np.float32) for at in (x, y, z)]
    inside = chest.muscle((axes[0][None, None, :], axes[1][None, :, None], axes[2][:, None, None]))
    low, high = np.empty(3), np.empty(3)
    for axis, others in enumerate(((0, 1), (0, 2), (1, 2))):
        found = axes[axis][inside.any(axis=others)]
        low[axis], high[axis] = found[0] - 1, found[-1] + 1
    high[2] = max(low[2] + 60, chest.bifurcation - BELOW_TREE_MM)
    return low, high


def _axes(chest: Chest, rng: np.random.Generator, pixel: float, thickness: float) -> tuple[Array, Array, Array]:
    """Return the centres of the voxels of a whole chest scan along z, y and x, mm."""
    view = float(np.clip(2 * chest.half_width * rng.uniform(0.9, 1.25), 280, 500))
    size = round(view / pixel)
    row = (np.arange(size) - (size - 1) / 2) * pixel
    x, y = (row + rng.normal(0, 8) for _ in range(2))
    z = np.arange(rng.uniform(-130, -20), chest.apex + rng.uniform(0, 60), thickness)
    return z.astype(np.float32), y.astype(np.float32), x.astype(np.float32)


def _texture(sheet: Sheet, rng: np.random.Generator) -> None:
    """Make the organs uneven, by some HU over centimetres."""
    coarse = rng.standard_normal([max(2, size // 16) for size in sheet.hu.shape]).astype(np.float32)
    factors = [size / part for size, part in zip(sheet.hu.shape, coarse.shape, strict=True)]
    sheet.hu += np.float32(rng.uniform(0, 10)) * ndimage.zoom(coarse, factors, order=1)


def _move(sheet: Sheet, box: tuple[Any, Any], moved: float, rng: np.random.Generator) -> None:
    """Blur the heart along one direction, as its motion during a slice's rotation does."""
    window = sheet.window(box[0] - 12, box[1] + 12)
    part = sheet.hu[window]
    angle = rng.uniform(0, np.pi)
    pixel = float(sheet.x[1] - sheet.x[0])
    copies = max(3, 2 * round(moved / pixel / 2) + 1)
    mean = np.zeros_like(part)
    for along in np.linspace(-0.5, 0.5, copies) * moved / pixel:
        mean += ndimage.shift(part, (0, along * np.sin(angle), along * np.cos(angle)), order=1, mode="nearest")
    sheet.hu[window] = mean / copies


def _noise(shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    """Return unit noise with the correlation of one kernel."""
    grain = rng.standard_normal(shape, np.float32)
    grain = ndimage.gaussian_filter(grain, (0, *[rng.uniform(0.3, 1.2)] * 2))
    unit: Array = grain / grain.std()
    return unit


def _labels(volume: CTVolume, resampled: CTVolume, labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the labels on the resampled grid, on voxels of at least 130 HU."""
    grid, step = resampled.geometry, volume.geometry.spacing_mm[0]
    centres = grid.origin_mm[2] + grid.spacing_mm[0] * np.arange(grid.shape[0])
    nearest = np.rint((centres - volume.geometry.origin_mm[2]) / step).astype(int)
    chosen = labels[np.clip(nearest, 0, len(labels) - 1)]
    bright: NDArray[np.uint8] = np.where(resampled.hu >= CALCIUM_HU, chosen, 0).astype(np.uint8)
    return bright
