"""Calcium and metal: clouds of small spheres, painted finely and seen through scanner and motion."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calcium.agatston import AGATSTON_SLICE_MM, CALCIUM_HU, WEIGHT_STEPS_HU
from calcium.resample import THICKNESS_MM
from models.training.phantom.acquisition import Grid, Scanner, blur, kernel_sigma, profile
from models.training.phantom.motion import Motion
from models.training.phantom.shapes import Array

FINE_MM = 0.4  # grid on which a deposit is painted, in-plane; z is 0.5
FINE_Z_MM = 0.5
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
    margin_z = scanner.thickness / 2 + scanner.tail
    sigma = kernel_sigma(scanner)
    low = (deposit.centers - deposit.radii[:, None]).min(axis=0) - 1.0
    high = (deposit.centers + deposit.radii[:, None]).max(axis=0) + 1.0
    grid_x, grid_y = (np.arange(low[a], high[a] + FINE_MM, FINE_MM) for a in (0, 1))
    rest_z = np.arange(low[2], high[2] + FINE_Z_MM, FINE_Z_MM)
    rest = _rasterise(deposit, low, (len(rest_z), len(grid_y), len(grid_x)))
    reach = np.abs(motion.shifts(deposit.part, np.linspace(low[2], high[2], 40))).max(axis=(0, 1))
    wide = (3 + 3 * bool(scanner.overshoot)) * sigma
    windows = []
    for axis, a, pad in ((z, 2, reach[2] + margin_z), (y, 1, reach[1] + wide), (x, 0, reach[0] + wide)):
        inside = np.flatnonzero((axis >= low[a] - pad) & (axis <= high[a] + pad))
        if not inside.size:
            return None
        windows.append(slice(int(inside[0]), int(inside[-1]) + 1))
    wz, wy, wx = windows
    plane_z = np.arange(low[2] - reach[2], high[2] + reach[2] + FINE_Z_MM, FINE_Z_MM)
    shifts = motion.shifts(deposit.part, plane_z)  # (samples, planes, 3)
    moving = float(np.abs(shifts).max()) > 0.1
    planes = np.zeros((len(plane_z), wy.stop - wy.start, wx.stop - wx.start), np.float32)
    for shift, share in zip(shifts, motion.weights, strict=True) if moving else ((shifts[0], 1.0),):
        source = (plane_z - shift[:, 2] - rest_z[0]) / FINE_Z_MM
        index = np.floor(source).astype(int)
        weight = (source - index).astype(np.float32)[:, None, None]
        padded = np.concatenate((rest, np.zeros_like(rest[:1])))
        lower = np.where((index >= 0) & (index < len(rest)), index, len(rest))
        upper = np.where((index + 1 >= 0) & (index + 1 < len(rest)), index + 1, len(rest))
        seen = padded[lower] * (1 - weight) + padded[upper] * weight
        over_y = blur(y[wy][None, :] - shift[:, 1:2], grid_y, sigma, scanner.overshoot)
        over_x = blur(x[wx][None, :] - shift[:, 0:1], grid_x, sigma, scanner.overshoot)
        planes += np.float32(share) * np.matmul(np.matmul(over_y, seen), over_x.transpose(0, 2, 1))
    along = profile(z[wz], plane_z, scanner)
    excess = (along @ planes.reshape(len(plane_z), -1)).reshape(along.shape[0], *planes.shape[1:])
    return Trace(deposit.label, (wz, wy, wx), excess)


def plain_score(seen: Trace, scanner: Scanner) -> float:
    """Return about what a trace alone would score in slices of 3 mm, without noise, in soft tissue."""
    slices = max(1, round((THICKNESS_MM - scanner.thickness) / scanner.increment) + 1)
    sums = np.cumsum(np.pad(seen.excess, ((slices, slices - 1), (0, 0), (0, 0))), axis=0)
    hu = (sums[slices:] - sums[:-slices]) / np.float32(slices) + np.float32(BACKGROUND_HU)
    peak = hu.max(axis=(1, 2), initial=0)
    weight = np.searchsorted(WEIGHT_STEPS_HU, peak, side="right")
    area = (hu >= CALCIUM_HU).sum(axis=(1, 2)) * scanner.pixel**2
    return float((weight * area).sum() * scanner.increment / AGATSTON_SLICE_MM)
