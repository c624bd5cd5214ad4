"""How an augmented real scan was acquired: sharpness and noise; point spread and motion of what is inserted."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from scipy.ndimage import gaussian_filter

from calcium.resample import INCREMENT_MM, THICKNESS_MM
from models.training.phantom.acquisition import FWHM_TO_SIGMA, Grid, Scanner
from models.training.phantom.motion import Motion, draw_motion

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from calcium.geometry import VolumeGeometry
    from models.training.real_cases import RealCase

MOST_MOTION_MM = 11.0
"""Largest excursion of the RCA."""
LEAST_NOISE_HU, MOST_NOISE_HU = 3.0, 36.0
"""Noise that is added, in resampled slices."""
WITH_NOISE = 0.75
"""Share of deformed scans that get noise beside their own."""


def filter_plane(
    hu: NDArray[np.float32], geometry: VolumeGeometry, rng: np.random.Generator
) -> dict[str, float]:
    """Blur or sharpen in-plane, in place; return what was drawn."""
    pixel = geometry.spacing_mm[1]
    kind = rng.random()
    if kind < 0.35:
        width = rng.uniform(0.2, 0.7)
        hu[...] = gaussian_filter(hu, (0, width / pixel, width / pixel), truncate=3)
        return {"blur_mm": round(width, 3)}
    if kind < 0.75:
        amount = rng.uniform(0.1, 0.9)
        soft = gaussian_filter(hu, (0, 0.8 / pixel, 0.8 / pixel), truncate=3)
        hu += amount * np.clip(hu - soft, -250, 250)
        return {"sharpen": round(amount, 3)}
    return {}


def draw_noise(
    shape: tuple[int, int, int], pixel: float, rng: np.random.Generator
) -> tuple[NDArray[np.float32], float]:
    """Return correlated noise: band-limited in-plane, directional, shared by slices that overlap by half."""
    level = float(
        np.exp(rng.uniform(np.log(LEAST_NOISE_HU), np.log(MOST_NOISE_HU))) * (rng.random() < WITH_NOISE)
    )
    if level == 0:
        return np.zeros(shape, np.float32), 0.0
    white = rng.standard_normal((shape[0] + 1, *shape[1:]), dtype=np.float32)
    fine = rng.uniform(0.35, 0.75) / pixel
    stretch = rng.uniform(1, 2.2)
    axes = (0.0, fine, fine * stretch) if rng.random() < 0.5 else (0.0, fine * stretch, fine)
    smooth = gaussian_filter(white, axes, truncate=2.5)
    smooth -= gaussian_filter(smooth, (0.0, 2.2 * fine, 2.2 * fine), truncate=2)  # no large blotches
    grain = (smooth[1:] + smooth[:-1]) / 2
    return grain * np.float32(level / (float(grain[::7].std()) + 1e-6)), level


def scanner_of(case: RealCase, pixel: float, extra_mm: float, sharpen: float) -> Scanner:
    """Return the scanner whose point spread and slice profile the inserted calcium goes through.

    A resampled slice is a slab of 3.0 mm over slices that are slabs themselves: the second one is taken as a
    blur of the slab's edges with the same variance.
    """
    thickness = case.volume.slice_thickness_mm
    tail = thickness / np.sqrt(12) / FWHM_TO_SIGMA
    fwhm = float(np.hypot(case.annotation.psf_fwhm_mm, extra_mm / FWHM_TO_SIGMA))
    return Scanner(
        THICKNESS_MM, INCREMENT_MM, pixel, fwhm, 0.5 * sharpen, tail, 0.0, 0.5, 0.0, (0.0, 0.0), 120.0, 100.0
    )


def draw_strong_motion(rng: np.random.Generator) -> Motion:
    """Return the motion of the inserted calcium: often more than the simulator's, as in real ungated scans."""
    motion = draw_motion(rng)
    amplitude = min(MOST_MOTION_MM, motion.amplitude * rng.uniform(0.6, 2.2))
    return replace(motion, amplitude=amplitude)


def axes_of(geometry: VolumeGeometry) -> Grid:
    """Return the centres of slices, rows and columns, mm."""
    x0, y0, z0 = geometry.origin_mm
    steps = zip((z0, y0, x0), geometry.shape, geometry.spacing_mm, strict=True)
    z, y, x = (np.asarray(first + np.arange(count) * step, np.float32) for first, count, step in steps)
    return (z, y, x)
