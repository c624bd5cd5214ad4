"""Shapes painted into a volume on its own grid: ellipsoids, tubes, plates; each touches only its window."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Array = NDArray[np.float32]
    Points = NDArray[np.float64]

LABEL_MARGIN_MM = 2.5  # blur and motion carry a deposit's brightness so far


class Sheet:
    """HU and labels on a grid.

    Parameters
    ----------
    z, y, x
        float32: centres of the voxels along each axis, mm (left, posterior and superior are positive).
    hu
        To begin with.
    """

    def __init__(self, z: Array, y: Array, x: Array, hu: float = -1000.0) -> None:
        self.z, self.y, self.x = z, y, x
        shape = (len(z), len(y), len(x))
        self.hu = np.full(shape, hu, np.float32)
        self.labels = np.zeros(shape, np.uint8)

    def window(self, low: Sequence[float], high: Sequence[float]) -> tuple[slice, slice, slice]:
        """Return the voxels (slice, row, column) between two corners (x, y, z), mm."""
        found = []
        for axis, (a, b) in zip((self.z, self.y, self.x), zip(low[::-1], high[::-1], strict=True), strict=True):
            found.append(slice(int(np.searchsorted(axis, a)), int(np.searchsorted(axis, b, side="right"))))
        return found[0], found[1], found[2]

    def grid(self, window: tuple[slice, slice, slice]) -> tuple[Array, Array, Array]:
        """Return x, y, z of a window, each broadcasting to its shape."""
        s, r, c = window
        return self.x[None, None, c], self.y[None, r, None], self.z[s, None, None]

    def ellipsoid(
        self,
        centre: Sequence[float],
        radii: Sequence[float],
        hu: float,
        *,
        turn: float = 0.0,
        power: float = 2.0,
        above: float = -1e9,
        below: float = 1e9,
    ) -> None:
        """Paint a superellipsoid that is turned in-plane by `turn` radians.

        Parameters
        ----------
        centre, radii
            (x, y, z), mm.
        hu
            Its value.
        turn, power
            2 is an ellipsoid, more is boxier.
        above, below
            Only z between these, mm.
        """
        reach = max(radii[0], radii[1])
        low = [centre[0] - reach, centre[1] - reach, max(centre[2] - radii[2], above)]
        high = [centre[0] + reach, centre[1] + reach, min(centre[2] + radii[2], below)]
        window = self.window(low, high)
        inside = ellipsoid(self.grid(window), centre, radii, turn, power)
        self.hu[window][inside] = hu

    def tube(
        self, points: Points, radii: Points, hu: float, *, wall: tuple[float, float] | None = None
    ) -> None:
        """Paint a tube along a polyline.

        Parameters
        ----------
        points
            (n, 3): x, y, z, mm, close to each other.
        radii
            (n,), mm.
        hu
            Of the inside.
        wall
            Thickness (mm) and HU of a wall that is painted first.
        """
        if wall is not None:
            self.tube(points, radii + wall[0], wall[1])
        for point, radius in zip(points, radii, strict=True):
            window = self.window(point - radius, point + radius)
            x, y, z = self.grid(window)
            near = (x - point[0]) ** 2 + (y - point[1]) ** 2 + (z - point[2]) ** 2 < radius * radius
            self.hu[window][near] = hu

    def deposit(self, points: Points, radii: Points, hu: float, label: int, moved: float = 0.0) -> None:
        """Paint spheres of calcium or metal, and label what they can brighten.

        Small ones are painted by the share of a voxel that they fill.

        Parameters
        ----------
        points, radii
            (n, 3) and (n,), mm.
        hu, label
            Of all.
        moved
            How far motion carries them, mm.
        """
        step = np.array([self.x[1] - self.x[0], self.y[1] - self.y[0], self.z[1] - self.z[0]])
        for point, radius in zip(points, radii, strict=True):
            reach = radius + LABEL_MARGIN_MM + moved
            window = self.window(point - reach - step, point + reach + step)
            x, y, z = self.grid(window)
            distance = np.sqrt((x - point[0]) ** 2 + (y - point[1]) ** 2 + (z - point[2]) ** 2)
            share = np.clip((radius - distance) / float(step[0]) + 0.5, 0, 1)
            share = share * min(1.0, 2 * radius / float(step[2]))  # thinner than a slice
            part, names = self.hu[window], self.labels[window]
            part[:] = np.maximum(part, part + share * (hu - part))
            names[(distance < reach) & (names == 0)] = label


def ellipsoid(
    grid: tuple[Array, Array, Array],
    centre: Sequence[float],
    radii: Sequence[float],
    turn: float = 0.0,
    power: float = 2.0,
) -> NDArray[np.bool_]:
    """Return where a grid (x, y, z) lies inside a superellipsoid."""
    x, y, z = (axis - at for axis, at in zip(grid, centre, strict=True))
    cos, sin = np.cos(turn), np.sin(turn)
    across = np.abs((x * cos + y * sin) / radii[0]) ** power
    along = np.abs((y * cos - x * sin) / radii[1]) ** power
    inside: NDArray[np.bool_] = across + along + np.abs(z / radii[2]) ** power < 1
    return inside


def polyline(knots: Points, step: float) -> Points:
    """Return points every `step` mm along straight lines between knots (n, 3)."""
    lengths = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(knots, axis=0), axis=1))])
    at = np.arange(0, lengths[-1] + 1e-6, step)
    return np.stack([np.interp(at, lengths, knots[:, axis]) for axis in range(3)], axis=1)
