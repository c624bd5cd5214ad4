"""The scanner: geometry, slice profile, point spread, noise.

Tissue and calcium pass through the same separable weights: a matrix along each axis that integrates the
object over the slice profile and the kernel's point spread at every pixel centre, whatever grid the object is
painted on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.fft import irfft2, rfft2
from scipy.special import erf

from models.training.phantom.canvas import Canvas
from models.training.phantom.shapes import Array

if TYPE_CHECKING:
    from numpy.typing import NDArray

FWHM_TO_SIGMA = 1 / 2.3548
STREAK_FROM_HU = 1200.0  # metal that blinds detectors
Grid = tuple[Array, Array, Array]  # centres of slices, rows and columns: z, y, x, mm
WIDE = 2.3  # how much wider the Gaussian that edge overshoot subtracts is


@dataclass(frozen=True)
class Scanner:
    """Everything that was drawn about the acquisition.

    Parameters
    ----------
    thickness, increment, pixel
        mm.
    fwhm
        In-plane point spread, mm; about 1.3 is a soft kernel.
    overshoot
        Share of edge overshoot, 0 for soft kernels.
    tail
        FWHM of the blur of the slice profile's edges, mm.
    noise
        Standard deviation in the heart, HU, of the acquired slices.
    grain
        Frequency where the noise spectrum peaks, as a share of the kernel's own limit: coarse to fine.
    streak
        0..1, how directional the noise is.
    angle
        Direction of the streaks, radians, at z = 0, and its change per mm.
    kvp, mas
        Recorded; HU of calcium is taken at this kVp.
    """

    thickness: float
    increment: float
    pixel: float
    fwhm: float
    overshoot: float
    tail: float
    noise: float
    grain: float
    streak: float
    angle: tuple[float, float]
    kvp: float
    mas: float


def draw_scanner(
    rng: np.random.Generator, shift: float, pixel: float, thickness: float | None = None
) -> Scanner:
    """Draw an acquisition; `shift` 1 gives the shifted distribution, `thickness` (mm) may be set."""
    if thickness is None:
        options = [0.9, 1.2, 1.7, 2.2, 2.8, 3.0] if shift else [1.0, 1.25, 1.5, 2.0, 2.5, 3.0]
        thickness = float(rng.choice(options, p=[0.13, 0.17, 0.13, 0.2, 0.15, 0.22]))
    kind = rng.random()
    if kind < 0.6:
        increment = thickness  # contiguous
    elif kind < 0.95:
        increment = max(0.6, round(thickness * rng.uniform(0.5, 0.9), 2))
    else:
        increment = min(3.0, round(thickness * rng.uniform(1.05, 1.3), 2))
    sharp = rng.random() ** 1.5
    noise = float(np.exp(rng.uniform(np.log(11), np.log(44))) * (1 + 0.15 * shift))
    return Scanner(
        thickness=thickness,
        increment=increment,
        pixel=pixel,
        fwhm=(1.75 - 0.85 * sharp) * float(np.exp(rng.normal(0, 0.06 + 0.05 * shift))),
        overshoot=max(0.0, sharp - 0.45) * rng.uniform(0.1, 0.7),
        tail=rng.uniform(0.5, 1.2),
        noise=noise * (1 + 0.5 * max(0.0, sharp - 0.4)),
        grain=rng.uniform(0.35, 0.7) + 0.2 * sharp,
        streak=rng.uniform(0, 0.85),
        angle=(rng.uniform(0, np.pi), rng.normal(0, 0.012)),
        kvp=float(rng.choice([120, 120, 120, 140])),
        mas=float(np.round(rng.uniform(30, 160))),
    )


def blur(at: NDArray[np.floating], grid: NDArray[np.floating], sigma: float, overshoot: float) -> Array:
    """Return weights (..., n, len(grid)) that integrate a point spread at `at` (..., n) over an even grid.

    The rows add up to 1 where the grid covers the point spread.
    """
    step = float(grid[1] - grid[0])
    gap = at[..., :, None] - grid

    def gauss(s: float) -> NDArray[np.floating]:
        return np.asarray(np.exp(-0.5 * (gap / s) ** 2) * (step / (s * np.sqrt(2 * np.pi))))

    weights = gauss(sigma)
    if overshoot:
        weights = (1 + overshoot) * weights - overshoot * gauss(WIDE * sigma)
    return weights.astype(np.float32)


def profile(at: NDArray[np.floating], grid: NDArray[np.floating], scanner: Scanner) -> Array:
    """Return weights (len(at), len(grid)) of the slice profile at slice centres `at`, mm."""
    step = float(grid[1] - grid[0])
    gap = at[:, None] - grid[None, :]
    s = scanner.tail * FWHM_TO_SIGMA * np.sqrt(2)
    half = scanner.thickness / 2
    weights = 0.5 * (erf((gap + half) / s) - erf((gap - half) / s)) * (step / scanner.thickness)
    return np.asarray(weights, dtype=np.float32)


def kernel_sigma(scanner: Scanner) -> float:
    """Return the standard deviation (mm) of kernel and pixel aperture together."""
    return float(np.hypot(scanner.fwhm * FWHM_TO_SIGMA, scanner.pixel / np.sqrt(12)))


def metal_streaks(metal: Array, rng: np.random.Generator, pixel: float) -> Array:
    """Return streaks (slices, rows, columns), HU, that start at metal.

    Parameters
    ----------
    metal
        (slices, rows, columns): excess HU of metal.
    rng
        Source of chance.
    pixel
        mm.
    """
    slices, rows, columns = metal.shape
    out = np.zeros_like(metal)
    y, x = np.mgrid[:rows, :columns].astype(np.float32)
    for index in range(slices):
        found = np.argwhere(metal[index] > STREAK_FROM_HU)
        if not len(found):
            continue
        mass = float(metal[index][metal[index] > STREAK_FROM_HU].sum()) * pixel**2
        for centre in found[rng.choice(len(found), min(2, len(found)), replace=False)]:
            dy, dx = y - centre[0], x - centre[1]
            angle = np.arctan2(dy, dx)
            # A few narrow rays on a quiet ground; neighbouring slices have others.
            waves = rng.normal(0, 0.4, 8), rng.integers(3, 28, 8), rng.uniform(0, 2 * np.pi, 8)
            pattern = sum(a * np.cos(k * angle + p) for a, k, p in zip(*waves, strict=True))
            fade = (1 + np.hypot(dy, dx) * pixel / 4) ** -1.25
            out[index] += np.float32(min(180.0, 0.008 * mass)) * np.float32(pattern) ** 3 * fade
    return out


def _rows_to_one(weights: Array) -> Array:
    return np.asarray(weights / weights.sum(axis=-1, keepdims=True))


def image(canvas: Canvas, scanner: Scanner, grid: Grid) -> Array:
    """Return the noise-free image (slices, rows, columns), HU, of a canvas at pixel centres (mm)."""
    z, y, x = grid
    along_z = _rows_to_one(profile(z, canvas.z, scanner))
    slabs = (along_z @ canvas.hu.reshape(len(canvas.z), -1)).reshape(len(z), len(canvas.y), len(canvas.x))
    sigma = kernel_sigma(scanner)
    # The canvas has its own blur of about one voxel (edges, interpolation): take it off the point spread.
    sigma_x, sigma_y = (
        max(np.sqrt(max(sigma**2 - (0.4 * s) ** 2, 0.0)), 0.45 * s)
        for s in (canvas.spacing[0], canvas.spacing[1])
    )
    over_x = _rows_to_one(blur(x, canvas.x, sigma_x, scanner.overshoot))
    over_y = _rows_to_one(blur(y, canvas.y, sigma_y, scanner.overshoot))
    return np.asarray(np.matmul(over_y, slabs @ over_x.T))


def noise(rng: np.random.Generator, scanner: Scanner, grid: Grid) -> Array:
    """Return correlated noise (slices, rows, columns), HU.

    The spectrum is the ramp of filtered back-projection times the kernel, stretched along one direction that
    turns slowly with z; overlapping slices share their noise; the middle of the body has more of it.
    """
    z, y, x = grid
    slices, rows, columns = shape = (len(z), len(y), len(x))
    overlap = max(1, round(scanner.thickness / scanner.increment))
    white = rng.standard_normal((slices + overlap - 1, rows, columns), dtype=np.float32)
    fy = np.fft.fftfreq(rows, scanner.pixel)[:, None].astype(np.float32)
    fx = np.fft.rfftfreq(columns, scanner.pixel)[None, :].astype(np.float32)
    radius = np.sqrt(fx**2 + fy**2) + 1e-6
    limit = scanner.grain / scanner.fwhm
    turn = np.arctan2(fy, fx)
    out = np.empty(shape, np.float32)
    previous: list[Array] = []
    transfer = np.zeros((rows, columns // 2 + 1), np.float32)
    for index in range(slices + overlap - 1):
        if index % 6 == 0:
            angle = scanner.angle[0] + scanner.angle[1] * float(z[min(index, slices - 1)] - z[0])
            stretch = 1 - scanner.streak * np.cos(turn - angle) ** 2
            f = radius * stretch if scanner.streak else radius
            transfer = np.sqrt(f / limit + 0.04) * np.exp(-0.5 * (radius / limit) ** 2) * (0.3 + stretch)
            shoulders = np.clip((float(z[min(index, slices - 1)]) - 85) / 40, 0, 1)
            # Arms and shoulders starve the rays from side to side: streaks along x.
            transfer = transfer * (1 + 3 * shoulders * np.exp(-0.5 * (fx / 0.03) ** 2))
            power = 2 * np.mean(transfer**2)  # half plane
            transfer = (transfer / np.sqrt(power / 2)).astype(np.float32)
        previous.append(irfft2(rfft2(white[index]) * transfer, s=(rows, columns)))
        if len(previous) > overlap:
            previous.pop(0)
        if index >= overlap - 1:
            out[index - overlap + 1] = sum(previous) / np.float32(np.sqrt(overlap))
    # Interpolation between detector rows: neighbouring slices correlate by about 0.2 (measured on real scans).
    link = np.float32(0.2)
    out[1:] = (out[1:] + link * out[:-1]) / np.sqrt(1 + link**2)
    far = ((x[None, :] - 5) / 150) ** 2 + ((y[:, None] + 20) / 110) ** 2
    level = 0.55 + 0.55 * np.exp(-far)
    along = 1 + 0.12 * np.sin(z / 23 + scanner.angle[0] * 5) + 0.5 * np.clip((z - 95) / 60, 0, 1)
    out *= (scanner.noise * level).astype(np.float32)
    out *= along[:, None, None].astype(np.float32)
    return out
