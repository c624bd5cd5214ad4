"""A random smooth deformation of space, and a volume seen through it.

The deformation leads from the new image to the old one, ``old = centre + matrix (new - centre) + bend(new)``,
because an image is made by asking for each new voxel where its value comes from. Landmarks need the other way,
which is found by iteration: the bend is small and smooth.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.ndimage import map_coordinates

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from calcium.geometry import VolumeGeometry

KNOT_MM = 38.0
"""Spacing of the bend's knots, mm: hearts are bent as wholes, vessels keep their calibre."""
MOST_BEND_MM = 3.0
"""Largest standard deviation of the bend, mm along each axis."""
SPLINE_SHARE = 0.33
"""Standard deviation of a cubic B-spline in space whose coefficients have a standard deviation of 1."""
ITERATIONS = 12
"""Of the inversion; each shrinks the error by the bend's gradient, at most about 0.3."""
SLAB = 8
"""Slices that are made at a time: memory for the sampling grid."""


@dataclass(frozen=True, eq=False)
class Warp:
    """A deformation from new to old positions, LPS mm.

    Parameters
    ----------
    centre
        (3,) mm; stays where it is, but for the bend.
    matrix
        (3, 3), new to old, about `centre`.
    knots
        (3, n, n, n) float64: cubic B-spline coefficients of the bend, mm along x, y, z, on a grid of KNOT_MM
        around `centre`, indexed (z, y, x); beyond it the bend stays as at its border.
    """

    centre: NDArray[np.float64]
    matrix: NDArray[np.float64]
    knots: NDArray[np.float64]

    def bend(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the bend (n, 3) mm at new positions (n, 3)."""
        middle = (self.knots.shape[1] - 1) / 2
        index = ((points - self.centre) / KNOT_MM + middle).T[::-1]
        return np.stack(
            [map_coordinates(axis, index, order=3, mode="nearest", prefilter=False) for axis in self.knots],
            axis=1,
        )

    def to_old(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return where new positions (n, 3) come from."""
        return self.centre + (points - self.centre) @ self.matrix.T + self.bend(points)

    def to_new(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return where old positions (n, 3) go to, to about 0.01 mm."""
        inverse = np.linalg.inv(self.matrix).T
        new = self.centre + (points - self.centre) @ inverse
        for _ in range(ITERATIONS):
            new = self.centre + (points - self.centre - self.bend(new)) @ inverse
        return new


def draw_warp(rng: np.random.Generator, centre: NDArray[np.float64], strength: float = 1.0) -> Warp:
    """Draw a deformation; `strength` 0 is the identity, 1 the full range of adult shapes.

    Scale 0.85 to 1.2 for each axis, rotation up to 10 degrees about each, a little shear, a bend of some mm.
    """
    scale = np.exp(rng.uniform(np.log(0.85), np.log(1.2), 3) * strength)
    angles = np.radians(rng.uniform(-10, 10, 3) * strength)
    shear = np.eye(3) + np.triu(rng.normal(0, 0.04 * strength, (3, 3)), 1)
    turn = np.eye(3)
    for axis, angle in enumerate(angles):
        a, b = (axis + 1) % 3, (axis + 2) % 3
        one = np.eye(3)
        one[a, a] = one[b, b] = np.cos(angle)
        one[a, b], one[b, a] = -np.sin(angle), np.sin(angle)
        turn = turn @ one
    # The matrix leads from new to old: a heart that grows takes its values from nearer to the centre.
    matrix = turn @ shear @ np.diag(1 / scale)
    knots = rng.normal(0, 1, (3, 7, 7, 7)) * rng.uniform(0, MOST_BEND_MM / SPLINE_SHARE) * strength
    return Warp(np.asarray(centre, np.float64), matrix, knots)


def _old_index(warp: Warp, new: VolumeGeometry, old: VolumeGeometry) -> Iterator[tuple[slice, torch.Tensor]]:
    """Yield slabs of slices and each voxel's place (x, y, z) in the old grid, -1 to 1 at the outer centres."""
    x0, y0, z0 = new.origin_mm
    depth, rows, columns = new.shape
    dz, dy, dx = new.spacing_mm
    axes = [x0 + np.arange(columns) * dx, y0 + np.arange(rows) * dy, z0 + np.arange(depth) * dz]
    # The bend on a lattice of about 6 mm that spans the image, from which it is interpolated linearly.
    lattice = [np.linspace(axis[0], axis[-1], max(2, round((axis[-1] - axis[0]) / 6.0) + 1)) for axis in axes]
    z, y, x = np.meshgrid(lattice[2], lattice[1], lattice[0], indexing="ij")
    bend = warp.bend(np.stack([x.ravel(), y.ravel(), z.ravel()], axis=1)).T.reshape(1, 3, *z.shape)
    coarse = torch.from_numpy(bend.astype(np.float32))
    step = np.array(old.spacing_mm[::-1])
    size = np.maximum(np.array(old.shape[::-1]) - 1, 1)
    origin = np.array(old.origin_mm)
    for first in range(0, depth, SLAB):
        slices = slice(first, min(first + SLAB, depth))
        at = (np.arange(slices.start, slices.stop) / max(depth - 1, 1)) * (coarse.shape[2] - 1)
        lower = np.minimum(at.astype(int), coarse.shape[2] - 2)
        share = torch.from_numpy((at - lower).astype(np.float32))[:, None, None]
        planes = coarse[0][:, lower] * (1 - share) + coarse[0][:, lower + 1] * share
        fine = torch.nn.functional.interpolate(
            planes.transpose(0, 1), size=(rows, columns), mode="bilinear", align_corners=True
        )
        places = []
        for axis in range(3):
            row = warp.matrix[axis]
            along = [
                torch.from_numpy((row[a] * (axes[a] - warp.centre[a])).astype(np.float32)) for a in range(3)
            ]
            constant = float(warp.centre[axis] - origin[axis])
            place = fine[:, axis] + along[0][None, None, :] + along[1][None, :, None]
            place += along[2][slices, None, None] + constant
            places.append(place * float(2.0 / step[axis] / size[axis]) - 1.0)
        yield slices, torch.stack(places, dim=-1)


def see(
    volume: NDArray[np.int16],
    old: VolumeGeometry,
    warp: Warp,
    new: VolumeGeometry,
    labels: NDArray[np.uint8] | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Return an image and its labels on a new grid, seen through a deformation.

    Parameters
    ----------
    volume
        int16 HU, (slice, row, column), on the grid `old`. Beyond it, its border values go on.
    labels
        uint8 on the same grid; the nearest is taken. None for no labels.
    new
        Grid to fill.

    Returns
    -------
    numpy.ndarray, numpy.ndarray
        float32 HU by trilinear interpolation, and uint8 labels.
    """
    out = np.empty(new.shape, np.float32)
    named = np.zeros(new.shape, np.uint8)
    source = torch.from_numpy(volume.astype(np.float32))[None, None]
    found = (
        None if labels is None or not labels.any() else torch.from_numpy(labels.astype(np.float32))[None, None]
    )
    with torch.inference_mode():
        for slices, places in _old_index(warp, new, old):
            grid = places[None]
            sampled = torch.nn.functional.grid_sample(source, grid, padding_mode="border", align_corners=True)
            out[slices] = sampled[0, 0].numpy()
            if found is not None:
                nearest = torch.nn.functional.grid_sample(found, grid, mode="nearest", align_corners=True)
                named[slices] = nearest[0, 0].numpy().astype(np.uint8)
    return out, named
