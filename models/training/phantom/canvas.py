"""A block of space on which tissue is painted, as Hounsfield units before the scanner sees them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from models.training.phantom.shapes import Array, Field, Points

AIR_HU = -1000.0


def interpolation(coarse: Array, fine: Array) -> Array:
    """Return the matrix (fine, coarse) of linear interpolation between two even axes, mm."""
    step = coarse[1] - coarse[0]
    at = np.clip((fine - coarse[0]) / step, 0, len(coarse) - 1.001)
    index = at.astype(np.int64)
    weight = (at - index).astype(np.float32)
    matrix = np.zeros((len(fine), len(coarse)), np.float32)
    rows = np.arange(len(fine))
    matrix[rows, index] = 1 - weight
    matrix[rows, index + 1] = weight
    return matrix


class Canvas:
    """Hounsfield units on an even grid, (z, y, x), LPS mm.

    Large smooth shapes are evaluated on a coarser companion grid and interpolated: a signed distance survives
    that with its edge in the right place, at a fraction of the cost.

    Parameters
    ----------
    low, high
        Corners (x, y, z), mm.
    spacing
        Of the grid along (x, y, z), mm.
    coarse
        Spacing of the companion grid, mm.
    """

    def __init__(
        self,
        low: tuple[float, float, float],
        high: tuple[float, float, float],
        spacing: tuple[float, float, float],
        coarse: float,
    ) -> None:
        self.x, self.y, self.z = (
            np.arange(a, b + s, s, dtype=np.float32) for a, b, s in zip(low, high, spacing, strict=True)
        )
        self.edge = np.float32(max(spacing))  # width over which an edge runs from 0 to 1
        self.spacing = spacing
        self.hu = np.full((len(self.z), len(self.y), len(self.x)), AIR_HU, np.float32)
        cx, cy, cz = (
            np.arange(axis[0] - coarse, axis[-1] + 2 * coarse, coarse, dtype=np.float32)
            for axis in (self.x, self.y, self.z)
        )
        self.coarse: Field = (cx[None, None, :], cy[None, :, None], cz[:, None, None])
        self._up = (interpolation(cz, self.z), interpolation(cy, self.y), interpolation(cx, self.x))

    @property
    def coarse_shape(self) -> tuple[int, int, int]:
        """Shape (z, y, x) of the companion grid."""
        x, y, z = self.coarse
        return (z.size, y.size, x.size)

    def fine(self, coarse: Array) -> Array:
        """Return a field of the companion grid, interpolated to the grid."""
        up_z, up_y, up_x = self._up
        wide = np.matmul(up_y, np.broadcast_to(coarse, self.coarse_shape) @ up_x.T)
        flat = up_z @ wide.reshape(len(wide), -1)
        return np.asarray(flat.reshape(self.hu.shape), dtype=np.float32)

    def inside(self, distance: Array) -> Array:
        """Return the share 0..1 of each voxel that is inside, from a signed distance on the grid."""
        share = distance * (np.float32(-1) / self.edge)
        share += np.float32(0.5)
        return np.clip(share, 0, 1, out=share)

    def paint(self, share: Array, hu: float | Array) -> None:
        """Replace `share` of each voxel by `hu`."""
        self.hu += share * (np.float32(hu) - self.hu if isinstance(hu, float) else hu - self.hu)

    def paint_coarse(self, distance: Array, hu: float) -> None:
        """Paint the inside of a distance that stands on the companion grid, touching only the part near it."""
        distance = np.broadcast_to(distance, self.coarse_shape)
        close = distance < 2 * self.edge
        windows, sources = [], []
        for axis, (fine, coarse) in enumerate(
            zip((self.z, self.y, self.x), (c.ravel() for c in reversed(self.coarse)), strict=True)
        ):
            others = tuple(a for a in range(3) if a != axis)
            found = np.flatnonzero(close.any(axis=others))
            if not found.size:
                return
            first, last = max(0, found[0] - 1), min(len(coarse) - 1, found[-1] + 1)
            low, high = np.searchsorted(fine, [coarse[first], coarse[last]])
            if low >= high:
                return
            windows.append(slice(int(low), int(high)))
            sources.append(slice(int(first), int(last) + 1))
        up_z, up_y, up_x = (up[w, s] for up, w, s in zip(self._up, windows, sources, strict=True))
        wide = np.matmul(up_y, distance[tuple(sources)] @ up_x.T)
        flat = (up_z @ wide.reshape(len(wide), -1)).reshape([w.stop - w.start for w in windows])
        part = self.hu[tuple(windows)]
        part += self.inside(flat) * (np.float32(hu) - part)

    def window(self, low: NDArray[np.float64], high: NDArray[np.float64]) -> tuple[slice, slice, slice] | None:
        """Return the (z, y, x) slices of the grid between two corners (x, y, z), or None outside the grid."""
        found: list[slice] = []
        for axis, a, b in zip((self.x, self.y, self.z), low, high, strict=True):
            step = self.spacing[len(found)]
            first = max(0, int(np.floor((a - axis[0]) / step)))
            last = min(len(axis), int(np.ceil((b - axis[0]) / step)) + 1)
            if first >= last:
                return None
            found.append(slice(first, last))
        return (found[2], found[1], found[0])

    def at(self, window: tuple[slice, slice, slice]) -> Field:
        """Return the coordinates of a window of the grid."""
        z, y, x = window
        return (self.x[x][None, None, :], self.y[y][None, :, None], self.z[z][:, None, None])

    def part(self, window: tuple[slice, slice, slice]) -> Canvas:
        """Return a canvas that shares the memory of a window of this one (without companion grid)."""
        z, y, x = window
        part = object.__new__(Canvas)
        part.x, part.y, part.z = self.x[x], self.y[y], self.z[z]
        part.edge, part.spacing, part.hu = self.edge, self.spacing, self.hu[window]
        return part

    def tube(self, points: Points, radii: object, share: Array | None = None) -> Array:
        """Add a tube to `share` (made empty if None) and return it.

        Parameters
        ----------
        points
            (n, 3) centre line, mm.
        radii
            One, or one for each point, mm.
        share
            Shares 0..1 on the grid that the tube is united with.
        """
        if share is None:
            share = np.zeros_like(self.hu)
        radius = np.broadcast_to(np.asarray(radii, dtype=np.float64), (len(points),))
        reach = radius + float(self.edge)
        for i in range(len(points) - 1):
            ends = points[i : i + 2]
            widest = max(reach[i], reach[i + 1])
            window = self.window(ends.min(axis=0) - widest, ends.max(axis=0) + widest)
            if window is None:
                continue
            x, y, z = self.at(window)
            a = ends[0].astype(np.float32)
            d = (ends[1] - ends[0]).astype(np.float32)
            px, py, pz = x - a[0], y - a[1], z - a[2]
            t = np.clip((px * d[0] + py * d[1] + pz * d[2]) / (d @ d + np.float32(1e-9)), 0, 1)
            distance = np.sqrt((px - t * d[0]) ** 2 + (py - t * d[1]) ** 2 + (pz - t * d[2]) ** 2)
            distance -= np.float32(radius[i]) + t * np.float32(radius[i + 1] - radius[i])
            part = share[window]
            np.maximum(part, self.inside(distance), out=part)
        return share

    def paint_tube(self, points: Points, radii: object, hu: float) -> None:
        """Paint one tube, touching only the part of the grid near it."""
        reach = float(np.max(np.asarray(radii))) + 2 * float(self.edge)
        window = self.window(points.min(axis=0) - reach, points.max(axis=0) + reach)
        if window is not None:
            part = self.part(window)
            part.paint(part.tube(points, radii), hu)

    def paint_shape(
        self,
        distance: Callable[[Field], Array],
        low: object,
        high: object,
        hu: float,
    ) -> None:
        """Paint the inside of a distance function that lies between two corners (x, y, z), mm."""
        window = self.window(np.asarray(low, np.float64), np.asarray(high, np.float64))
        if window is not None:
            share = self.inside(distance(self.at(window)))
            part = self.hu[window]
            part += share * (np.float32(hu) - part)
