"""The coronary tree, found in the grooves of one heart.

A groove is where two chambers are equally far: guide points are moved onto that line by Gauss-Newton steps on
both distances, so that the arteries stay in their grooves whatever shape the heart was drawn with.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.training.phantom.heart import Heart
from models.training.phantom.shapes import Array, Field, Points, arc_length, evenly, smooth, spline

# Guide points in the canonical heart frame (heart.py), mm; the groove they are drawn to; weight of the groove.
LM = [[13, -56, 24], [21, -58, 26], [31, -64, 25]]
LAD = [[31, -64, 25], [39, -76, 20], [46, -87, 8], [56, -96, -10], [66, -99, -28], [72, -95, -42]]
LCX = [[31, -64, 25], [39, -53, 20], [47, -38, 14], [50, -25, 4], [44, -15, -8], [32, -12, -18]]
RCA = [
    [1, -76, 22],
    [-9, -89, 18],
    [-19, -92, 6],
    [-25, -86, -12],
    [-22, -74, -32],
    [-10, -55, -42],
    [4, -40, -38],
]
PDA = [[4, -40, -38], [16, -50, -48], [30, -62, -55], [45, -75, -58]]


@dataclass(frozen=True)
class Branch:
    """One artery or vein.

    Parameters
    ----------
    name
        ``LM``, ``LAD``, ``D1``, ...
    label
        1 left main and LAD with diagonals, 2 LCX with marginals, 3 RCA with PDA; 0 a vein.
    points
        (n, 3) centre line in the patient frame, LPS mm.
    radii
        (n,) mm.
    """

    name: str
    label: int
    points: Points
    radii: np.ndarray

    @property
    def length(self) -> float:
        """Length of the centre line, mm."""
        return float(arc_length(self.points)[-1])


def _field(points: Points) -> Field:
    p = points.astype(np.float32)
    return p[:, 0], p[:, 1], p[:, 2]


def _with_gradient(distance: Callable[[Field], Array], points: Points) -> tuple[NDArray[np.float64], Points]:
    """Return a distance (n,) and its gradient (n, 3) at points (n, 3), in one evaluation."""
    step = 0.5
    offsets = np.concatenate((np.zeros((1, 3)), step * np.eye(3), -step * np.eye(3)))
    values = (
        distance(_field((points[None] + offsets[:, None]).reshape(-1, 3))).reshape(7, -1).astype(np.float64)
    )
    return values[0], ((values[1:4] - values[4:7]) / (2 * step)).T


def _to_groove(heart: Heart, points: Points, pair: tuple[str, str], gap: float, weight: object) -> Points:
    """Move points to where both chambers are `gap` mm away; `weight` (n,) 0..1 says how far."""
    share = np.broadcast_to(np.asarray(weight, np.float64), (len(points),))[:, None]
    for _ in range(14):
        values, slopes = [], []
        for name in pair:
            value, slope = _with_gradient(heart.chambers[name].distance, points)
            values.append(value - gap)
            slopes.append(slope)
        jacobian = np.stack(slopes, axis=1)  # (n, 2, 3)
        residual = np.stack(values, axis=1)  # (n, 2)
        square = jacobian @ jacobian.transpose(0, 2, 1) + 0.05 * np.eye(2)
        step = -np.einsum(
            "nij,nj->ni", jacobian.transpose(0, 2, 1), np.linalg.solve(square, residual[..., None])[..., 0]
        )
        size = np.linalg.norm(step, axis=1, keepdims=True)
        points = points + share * step * np.minimum(1, 3.0 / (size + 1e-9))
    return smooth(points, 3)


def _to_surface(heart: Heart, points: Points, gap: object, *, inward: bool = True, steps: int = 6) -> Points:
    """Move points to `gap` mm outside the muscle; without `inward`, only out of it."""
    wanted = np.broadcast_to(np.asarray(gap, np.float64), (len(points),))
    for _ in range(steps):
        value, slope = _with_gradient(heart.muscle, points)
        value = value - wanted
        if not inward:
            value = np.minimum(value, 0)
        points = points - np.clip(value, -3, 3)[:, None] * slope / (
            np.sum(slope**2, axis=1, keepdims=True) + 0.1
        )
    return points


def _beside_vessels(heart: Heart, points: Points, gap: float, ostium: float) -> Points:
    """Move points (patient frame) out of aorta and pulmonary trunk, to `gap` mm beside their walls.

    Over the first `ostium` mm the artery leaves the aortic wall.
    """
    along = arc_length(points)
    for name in ("aorta", "trunk"):
        line, radii = heart.vessels[name]
        line, radii = line[:30], radii[:30]
        offset = points[:, None] - line[None]
        distance = np.linalg.norm(offset, axis=2) - radii
        nearest = distance.argmin(axis=1)
        rows = np.arange(len(points))
        leave = np.clip(along / ostium, 0, 1) if ostium and name == "aorta" else np.ones(len(points))
        lack = np.maximum(gap * leave - 0.5 * (leave == 0) - distance[rows, nearest], 0)
        away = offset[rows, nearest]
        points = points + away / np.linalg.norm(away, axis=1, keepdims=True) * lack[:, None]
    return smooth(points, 2)


def _taper(start: float, end: float, count: int) -> np.ndarray:
    return np.linspace(start, end, count)


def draw_tree(heart: Heart, rng: np.random.Generator) -> list[Branch]:
    """Draw the coronary arteries and the veins beside them, in the patient frame."""
    n = rng.normal
    scale = rng.uniform(0.8, 1.25)
    fill = heart.crease / 5
    branches: list[Branch] = []

    def jitter(guide: list[list[int]]) -> np.ndarray:
        return np.asarray(guide, np.float64) + n(0, 1.3, (len(guide), 3))

    def add(
        name: str, label: int, canonical: Points, calibre: tuple[float, float], ostium: float = -1.0
    ) -> None:
        start, end = calibre
        patient = heart.warp.forward(canonical)
        if ostium >= 0:
            patient = _beside_vessels(heart, patient, start * scale + 1.0, ostium)
        patient = evenly(patient, max(8, int(arc_length(patient)[-1] / 1.5)))
        branches.append(Branch(name, label, patient, _taper(start * scale, end * scale, len(patient))))

    lm = jitter(LM)
    split = lm[-1]
    lad_guide, lcx_guide, rca_guide, pda_guide = jitter(LAD), jitter(LCX), jitter(RCA), jitter(PDA)
    lad_guide[0] = lcx_guide[0] = split
    pda_guide[0] = rca_guide[-1]

    ramp = np.clip(np.linspace(-0.35, 1.6, 60), 0, 1)  # the proximal part is free of the groove
    lad = _to_groove(heart, spline(lad_guide, 60), ("LV", "RV"), 1.6 + fill, ramp)
    lad = smooth(_to_surface(heart, lad, 2.2, inward=False), 2)
    lcx = _to_groove(heart, spline(lcx_guide, 60), ("LA", "LV"), 1.5 + fill, ramp)
    lcx = smooth(_to_surface(heart, lcx, 2.0, inward=False), 2)
    rca = _to_groove(
        heart, spline(rca_guide, 80), ("RA", "RV"), 1.8 + fill, np.clip(np.linspace(-0.25, 3.0, 80), 0, 1)
    )
    rca = smooth(_to_surface(heart, rca, 2.2, inward=False), 2)
    pda = _to_groove(
        heart, spline(pda_guide, 40), ("LV", "RV"), 1.2 + fill, np.clip(np.linspace(0, 2, 40), 0, 1)
    )
    pda = smooth(_to_surface(heart, pda, 1.5, inward=False), 2)
    lad[0] = lcx[0] = split
    pda[0] = rca[-1]

    keep_lcx = int(rng.uniform(0.55, 1.0) * 60)  # dominance: how far the LCX runs
    add("LM", 1, spline(lm, 16), (2.4, 2.2), 5.0)
    add("LAD", 1, lad, (2.0, 0.9), 0.0)
    add("LCX", 2, lcx[:keep_lcx], (1.8, 1.0), 0.0)
    add("RCA", 3, rca, (2.1, 1.5), 5.0)
    add("PDA", 3, pda, (1.3, 0.8))

    for i, at in enumerate(sorted(rng.choice([8, 13, 18, 24, 32], rng.integers(1, 4), replace=False))):
        out = np.array([1.0, 0.35, -0.75]) + n(0, 0.2, 3)  # diagonals run over the free left wall
        add(f"D{i + 1}", 1, _over_surface(heart, lad[at], out, rng.uniform(20, 55), rng), (1.3, 0.7))
    for i, at in enumerate(sorted(rng.choice([10, 18, 26, 34], rng.integers(1, 3), replace=False))):
        out = np.array([0.55, -0.1, -1.0]) + n(0, 0.2, 3)
        add(f"OM{i + 1}", 2, _over_surface(heart, lcx[at], out, rng.uniform(20, 50), rng), (1.3, 0.7))
    if rng.random() < 0.7:
        out = np.array([0.5, -0.5, -0.9]) + n(0, 0.2, 3)  # acute marginal over the right ventricle
        start = rca[int(rng.uniform(25, 45))]
        add("AM", 3, _over_surface(heart, start, out, rng.uniform(15, 45), rng), (1.1, 0.6))
    aside = n(0, 0.6, 3)
    veins = {
        "GCV": lad[8:45] + np.array([2.8, 1.5, 0.5]) + aside,
        "CS": lcx[5:] + np.array([0.5, 2.5, -3.0]) + aside,
    }
    for name, line in veins.items():
        calibre = (rng.uniform(1.2, 2.2), rng.uniform(1.0, 3.2))
        add(name, 0, smooth(_to_surface(heart, line, 2.2, inward=False), 2), calibre)
    return branches


def _over_surface(
    heart: Heart, start: Points, direction: Points, length: float, rng: np.random.Generator
) -> Points:
    """Walk over the muscle's surface from `start` towards `direction` for `length` mm."""
    points = [start]
    heading = direction / np.linalg.norm(direction)
    for _ in range(max(3, int(length / 4))):
        heading = heading + rng.normal(0, 0.12, 3)
        heading /= np.linalg.norm(heading)
        moved = _to_surface(heart, (points[-1] + 4 * heading)[None], 1.6, steps=2)[0]
        heading = 0.6 * heading + 0.4 * (moved - points[-1]) / (np.linalg.norm(moved - points[-1]) + 1e-6)
        points.append(moved)
    return spline(np.array(points), 24)
