"""Calcium and metal: clouds of small spheres, painted finely and seen through scanner and motion."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.fft import irfft2, rfft2

from calcium.agatston import AGATSTON_SLICE_MM, CALCIUM_HU, WEIGHT_STEPS_HU
from calcium.resample import THICKNESS_MM
from models.training.phantom.acquisition import Grid, Scanner, blur, kernel_sigma, profile
from models.training.phantom.motion import FEATHER, Motion
from models.training.phantom.shapes import Array

FINE_MM = 0.4  # grid on which a deposit is painted, in-plane; z is 0.5
FINE_Z_MM = 0.5
STILL_MM = 0.1  # motion that no slice shows
TAILS_MM = 9.0  # room for the streaks beside what moves
DIRECTIONS = 48  # of the gantry that are told apart in half a turn
SURROUNDINGS_HU = -20.0  # an artery and the fat around it, blurred into each other
BACKGROUND_HU = 45.0  # soft tissue that a deposit replaces


@dataclass(frozen=True)
class Deposit:
    """One plaque, leaflet, wire, ...

    Parameters
    ----------
    label
        As in PhantomScan.labels.
    part
        What it moves with: a key of motion.SHARE.
    centers, radii
        (n, 3) and (n,) mm, patient frame.
    hu
        (n,) of each sphere, before blur.
    kind
        ``coronary``, ``aorta``, ``valve``, ``annulus``, ``node``, ...
    """

    label: int
    part: str
    centers: NDArray[np.float64]
    radii: NDArray[np.float64]
    hu: NDArray[np.float64]
    kind: str


@dataclass(frozen=True)
class Trace:
    """What one deposit adds to the noise-free image: HU on a window of the acquired grid."""

    label: int
    window: tuple[slice, slice, slice]
    excess: Array


def _rasterise(deposit: Deposit, low: NDArray[np.float64], shape: tuple[int, int, int]) -> Array:
    """Return the excess HU of a deposit at rest on its fine grid (z, y, x)."""
    out = np.zeros(shape, np.float32)
    step = np.array([FINE_MM, FINE_MM, FINE_Z_MM])
    edge = np.float32(FINE_Z_MM)
    for center, radius, hu in zip(deposit.centers, deposit.radii, deposit.hu, strict=True):
        first = np.maximum(0, np.floor((center - radius - edge - low) / step).astype(int))
        last = np.ceil((center + radius + edge - low) / step).astype(int) + 1
        x, y, z = (
            (low[a] + np.arange(first[a], min(last[a], shape[2 - a])) * step[a] - center[a]).astype(np.float32)
            for a in range(3)
        )
        distance = np.sqrt(x[None, None, :] ** 2 + y[None, :, None] ** 2 + z[:, None, None] ** 2) - np.float32(
            radius
        )
        share = np.clip(0.5 - distance / edge, 0, 1)
        if radius < edge:  # keep the volume of spheres smaller than the grid
            share *= np.float32(
                min(1.0, (4 / 3 * np.pi * radius**3 + 0.05) / (share.sum() * step.prod() + 1e-6))
            )
        part = out[first[2] : first[2] + len(z), first[1] : first[1] + len(y), first[0] : first[0] + len(x)]
        np.maximum(part, share * np.float32(hu - BACKGROUND_HU), out=part)
    return out


def trace(deposit: Deposit, scanner: Scanner, motion: Motion, grid: Grid) -> Trace | None:
    """Return what a deposit adds to the image at pixel centres (mm), or None outside the image."""
    z, y, x = grid
    sigma = kernel_sigma(scanner)
    low = (deposit.centers - deposit.radii[:, None]).min(axis=0) - 1.0
    high = (deposit.centers + deposit.radii[:, None]).max(axis=0) + 1.0
    grid_x, grid_y = (np.arange(low[a], high[a] + FINE_MM, FINE_MM) for a in (0, 1))
    rest_z = np.arange(low[2], high[2] + FINE_Z_MM, FINE_Z_MM)
    reach = np.abs(motion.samples(deposit.part, np.linspace(low[2], high[2], 40), 6)).max(axis=(0, 1))
    moving = float(reach.max()) > STILL_MM
    wide = (3 + 3 * bool(scanner.overshoot)) * sigma + (TAILS_MM if moving else 0.0)
    pads = (scanner.thickness / 2 + scanner.tail + reach[2], reach[1] + wide, reach[0] + wide)
    windows = []
    for axis, a, pad in zip((z, y, x), (2, 1, 0), pads, strict=True):
        inside = np.flatnonzero((axis >= low[a] - pad) & (axis <= high[a] + pad))
        if not inside.size:
            return None
        windows.append(slice(int(inside[0]), int(inside[-1]) + 1))
    wz, wy, wx = windows
    rest = _rasterise(deposit, low, (len(rest_z), len(grid_y), len(grid_x)))
    over_y = blur(y[wy], grid_y, sigma, scanner.overshoot)
    over_x = blur(x[wx], grid_x, sigma, scanner.overshoot)
    planes = np.matmul(np.matmul(over_y, rest), over_x.T)
    plane_z = rest_z
    if moving:
        plane_z = np.arange(low[2] - reach[2], high[2] + reach[2] + FINE_Z_MM, FINE_Z_MM)
        planes = _moved(planes, rest_z, plane_z, (deposit.part, motion), scanner.pixel)
    along = profile(z[wz], plane_z, scanner)
    excess = (along @ planes.reshape(len(plane_z), -1)).reshape(along.shape[0], *planes.shape[1:])
    return Trace(deposit.label, (wz, wy, wx), excess)


def _moved(
    planes: Array,
    rest_z: NDArray[np.float64],
    plane_z: NDArray[np.float64],
    what: tuple[str, Motion],
    pixel: float,
) -> Array:
    """Return planes (at heights `plane_z`) of an object at rest (planes at `rest_z`), as seen while it moves.

    Every direction of a plane's spectrum is shifted to where the object was when the gantry looked that way.
    """
    part, motion = what
    # Along z the object moves by the mean over the slice's time.
    mean = motion.samples(part, plane_z, 6)[..., 2].mean(axis=0)
    source = (plane_z - mean - rest_z[0]) / FINE_Z_MM
    index = np.floor(source).astype(int)
    weight = (source - index).astype(np.float32)[:, None, None]
    padded = np.concatenate((planes, np.zeros_like(planes[:1])))
    lower = np.where((index >= 0) & (index < len(planes)), index, len(planes))
    upper = np.where((index + 1 >= 0) & (index + 1 < len(planes)), index + 1, len(planes))
    seen = padded[lower] * (1 - weight) + padded[upper] * weight

    rows, columns = planes.shape[1:]
    fy = np.fft.fftfreq(rows, pixel).astype(np.float32)[:, None]
    fx = np.fft.rfftfreq(columns, pixel).astype(np.float32)[None, :]
    # A spectrum's direction is the direction along which its projection was taken: 0..1 half turns.
    direction = (np.arctan2(fy, fx) / np.pi) % 1.0
    bins = np.minimum((direction * DIRECTIONS).astype(int), DIRECTIONS - 1)
    middle = motion.looking(plane_z)[:, None]
    moment = ((np.arange(DIRECTIONS) + 0.5) / DIRECTIONS - middle + 0.5) % 1.0 - 0.5  # (planes, directions)
    other = moment - np.sign(moment)  # the same direction half a turn earlier or later
    near_end = np.clip((np.abs(moment) - 0.5 + FEATHER) / (2 * FEATHER), 0, 0.5)
    blend = (np.full_like(moment, 0.5) if motion.full_turn else near_end).astype(np.float32)[:, bins]
    spectrum = rfft2(seen)
    turned = np.zeros_like(spectrum)
    for share, when in ((1 - blend, moment), (blend, other)):
        shift = motion.place(part, plane_z[:, None], when).astype(np.float32)
        angle = np.float32(-2 * np.pi) * (fx * shift[:, bins, 0] + fy * shift[:, bins, 1])
        turned += share * (np.cos(angle) + np.complex64(1j) * np.sin(angle))
    return np.asarray(irfft2(spectrum * turned, s=(rows, columns)), dtype=np.float32)


def plain_score(seen: Trace, scanner: Scanner) -> float:
    """Return about what a trace alone would score in slices of 3 mm, without noise."""
    slices = max(1, round((THICKNESS_MM - scanner.thickness) / scanner.increment) + 1)
    sums = np.cumsum(np.pad(seen.excess, ((slices, slices - 1), (0, 0), (0, 0))), axis=0)
    hu = (sums[slices:] - sums[:-slices]) / np.float32(slices) + np.float32(SURROUNDINGS_HU)
    peak = hu.max(axis=(1, 2), initial=0)
    weight = np.searchsorted(WEIGHT_STEPS_HU, peak, side="right")
    area = (hu >= CALCIUM_HU).sum(axis=(1, 2)) * scanner.pixel**2
    return float((weight * area).sum() * scanner.increment / AGATSTON_SLICE_MM)
