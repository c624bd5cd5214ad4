"""Signed distances and splines: the vocabulary in which the anatomy is written.

All distances are in mm and negative inside. Points are (x, y, z) LPS, mm; a field of points is a tuple of three
arrays that broadcast against each other. Distances are approximate away from a surface and good near it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline

Array = NDArray[np.floating[Any]]  # float32 on grids
Points = NDArray[np.float64]  # (n, 3), (x, y, z) LPS mm
Field = tuple[Array, Array, Array]


def unit(vector: object) -> NDArray[np.float64]:
    """Return `vector` at length 1."""
    array = np.asarray(vector, dtype=np.float64)
    return array / np.linalg.norm(array)


def rotation(degrees: tuple[float, float, float]) -> NDArray[np.float64]:
    """Return the matrix that turns about x, then y, then z by `degrees`."""
    a, b, c = np.radians(degrees)
    rx = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    ry = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    rz = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    return np.asarray(rz @ ry @ rx)


@dataclass(frozen=True)
class Ellipsoid:
    """Ellipsoid, possibly egg-shaped.

    Parameters
    ----------
    center, radii
        mm; the radii are along the rows of `axes`.
    axes
        (3, 3), orthonormal rows.
    taper
        The cross-section shrinks by this fraction towards the tip of the first axis and grows by it at the
        other end: 0.2 makes a ventricle of an ellipsoid.
    """

    center: tuple[float, float, float]
    radii: tuple[float, float, float]
    axes: NDArray[np.float64] | None = None
    taper: float = 0.0

    def distance(self, field: Field) -> Array:
        """Return the signed distance of each point of `field`."""
        x, y, z = (f - np.float32(c) for f, c in zip(field, self.center, strict=True))
        axes = np.eye(3) if self.axes is None else self.axes
        local = [
            np.float32(row[0]) * x + np.float32(row[1]) * y + np.float32(row[2]) * z
            if self.axes is not None
            else f
            for row, f in zip(axes, (x, y, z), strict=True)
        ]
        u, v, w = (p / np.float32(r) for p, r in zip(local, self.radii, strict=True))
        if self.taper:
            width = np.float32(1.0) / (1 - np.float32(self.taper) * np.clip(u, -1, 1))
            v, w = v * width, w * width
        k0 = np.sqrt(u * u + v * v + w * w)
        r = [np.float32(radius) for radius in self.radii]
        k1 = np.sqrt((u / r[0]) ** 2 + (v / r[1]) ** 2 + (w / r[2]) ** 2) + np.float32(1e-6)
        return np.asarray(k0 * (k0 - 1) / k1, dtype=np.float32)


def smooth_union(a: Array, b: Array, k: float) -> Array:
    """Return the union of two distances, its crease filled over about `k` mm (polynomial smooth minimum)."""
    h = np.clip(0.5 + (b - a) * np.float32(0.5 / k), 0, 1)
    return np.asarray(b + (a - b) * h - np.float32(k) * h * (1 - h), dtype=np.float32)


def spline(knots: object, count: int) -> Points:
    """Return `count` points, evenly spaced in length, of the smooth curve through `knots` (n, 3) mm."""
    points = np.asarray(knots, dtype=np.float64)
    length = np.concatenate(([0.0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))))
    curve = CubicSpline(length, points)
    dense = curve(np.linspace(0, length[-1], 8 * count))
    return evenly(dense, count)


def evenly(points: Points, count: int) -> Points:
    """Return `count` points of a polyline (n, 3), evenly spaced in length."""
    length = arc_length(points)
    at = np.linspace(0, length[-1], count)
    return np.stack([np.interp(at, length, points[:, axis]) for axis in range(3)], axis=1)


def arc_length(points: Points) -> NDArray[np.float64]:
    """Return the length (n,) along a polyline up to each of its points, mm."""
    return np.concatenate(([0.0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))))


def frames(points: Points) -> tuple[Points, Points, Points]:
    """Return tangent, normal and binormal (n, 3) along a polyline, without sudden twist."""
    tangent = np.gradient(points, axis=0)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True) + 1e-12
    normal = np.empty_like(tangent)
    helper = np.eye(3)[int(np.argmin(np.abs(tangent[0])))]
    for i, direction in enumerate(tangent):
        helper = helper - direction * float(helper @ direction)
        helper = helper / (np.linalg.norm(helper) + 1e-12)
        normal[i] = helper
    return tangent, normal, np.cross(tangent, normal)


def smooth(points: Points, times: int = 1) -> Points:
    """Return a polyline smoothed by (1, 2, 1) / 4, its ends kept."""
    for _ in range(times):
        points = np.concatenate(
            (points[:1], (points[:-2] + 2 * points[1:-1] + points[2:]) / 4, points[-1:]), axis=0
        )
    return points
