"""Heart and great vessels: chambers as ellipsoids, grooves where they meet, fat around, vessels as tubes.

Written once in a canonical frame (LPS mm; x = 0 is the midline, y = 0 the front of the spine, z = 0 about the
atrioventricular level) and then turned, scaled and bent for each patient. Proportions after atlas values: heart
100-150 mm wide, long axis to the left, front and below; ascending aorta 25-42 mm.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from models.training.phantom.shapes import (
    Array,
    Ellipsoid,
    Field,
    Points,
    rotation,
    smooth,
    smooth_union,
    spline,
    unit,
)

CENTER = np.array([18.0, -54.0, 0.0])  # pivot of the heart in the canonical frame, mm
LONG_AXIS = unit([0.65, -0.54, -0.52])  # base to apex


def _ventricular_axes(normal: object) -> np.ndarray:
    n = np.asarray(normal, dtype=np.float64)
    n = unit(n - LONG_AXIS * float(n @ LONG_AXIS))
    return np.stack([LONG_AXIS, n, np.cross(LONG_AXIS, n)])


@dataclass(frozen=True)
class Warp:
    """Canonical frame to patient: turn, scale, move, bend.

    Parameters
    ----------
    turn
        (3, 3) rotation.
    scale
        Along (x, y, z) of the canonical frame.
    move
        mm, where the pivot goes.
    waves
        Rows (amplitude vector x3 mm, wave vector x3 1/mm, phase): a smooth bend, in patient coordinates.
    """

    turn: np.ndarray
    scale: np.ndarray
    move: np.ndarray
    waves: np.ndarray

    def _bend(self, x: Array, y: Array, z: Array) -> tuple[Array | float, Array | float, Array | float]:
        bend: list[Array | float] = [0.0, 0.0, 0.0]
        for ax, ay, az, kx, ky, kz, phase in self.waves.astype(np.float32):
            wave = np.sin(kx * x + ky * y + kz * z + phase)
            bend = [b + a * wave for b, a in zip(bend, (ax, ay, az), strict=True)]
        return bend[0], bend[1], bend[2]

    def inverse(self, field_: Field) -> Field:
        """Return the canonical coordinates of patient coordinates."""
        x, y, z = field_
        bx, by, bz = self._bend(x, y, z)
        dx, dy, dz = (p + b - np.float32(m) for p, b, m in zip((x, y, z), (bx, by, bz), self.move, strict=True))
        matrix = (self.turn.T / self.scale[:, None]).astype(np.float32)
        out = [
            row[0] * dx + row[1] * dy + row[2] * dz + np.float32(c)
            for row, c in zip(matrix, CENTER, strict=True)
        ]
        return out[0], out[1], out[2]

    def forward(self, points: Points) -> Points:
        """Return the patient coordinates of canonical points (n, 3)."""
        target = (points - CENTER) * self.scale @ self.turn.T + self.move
        guess = target.copy()
        for _ in range(12):  # the bend is gentle: fixed-point iteration converges fast
            bend = self._bend(guess[:, 0], guess[:, 1], guess[:, 2])
            guess = target - np.stack([np.broadcast_to(b, len(guess)) for b in bend], axis=1)
        return np.asarray(guess)


@dataclass
class Heart:
    """One patient's heart: chambers, vessels (patient frame) and the warp that placed them."""

    warp: Warp
    chambers: dict[str, Ellipsoid]
    cavities: dict[str, Ellipsoid]
    crease: float  # mm over which creases between chambers are filled
    fat: float  # mm, thickness of epicardial fat over the hull of the chambers
    hull: float  # mm, how far the hull bridges grooves
    fat_waves: np.ndarray  # (n, 4): wave vector 1/mm and phase of the unevenness of the fat
    ahead: float = 0.0  # mm by which it lies in front of the canonical frame's place
    vessels: dict[str, tuple[Points, np.ndarray]] = field(default_factory=dict)  # points, radii

    def chamber(self, name: str, where: Field) -> Array:
        """Return the distance to one chamber in canonical coordinates."""
        return self.chambers[name].distance(where)

    def muscle(self, where: Field) -> Array:
        """Return the distance to all chambers together, canonical coordinates."""
        names = list(self.chambers)
        total = self.chamber(names[0], where)
        for name in names[1:]:
            total = smooth_union(total, self.chamber(name, where), self.crease)
        return total

    def envelope(self, where: Field) -> Array:
        """Return the distance to the pericardium: chambers, grooves, epicardial fat; canonical coordinates."""
        names = list(self.chambers)
        total = self.chamber(names[0], where)
        for name in names[1:]:
            total = smooth_union(total, self.chamber(name, where), self.hull)
        x, y, z = where
        # Thick over the right ventricle in front and towards the base, thin over the left free wall.
        level = 0.5 + (-(y + 60) * 0.012 - (x - 25) * 0.008 + z * 0.004)
        for kx, ky, kz, phase in self.fat_waves.astype(np.float32):
            level = level + np.float32(0.3) * np.sin(kx * x + ky * y + kz * z + phase)
        return np.asarray(total - np.float32(self.fat) * np.clip(level, 0.05, 2.0), dtype=np.float32)

    def blood(self, where: Field) -> dict[str, Array]:
        """Return the distances to the cavities, canonical coordinates."""
        return {name: shape.distance(where) for name, shape in self.cavities.items()}


def draw_heart(rng: np.random.Generator, shift: float = 0.0, ahead: float = 0.0) -> Heart:
    """Draw a heart.

    Parameters
    ----------
    rng
        Source of chance.
    shift
        0 for the training distribution; 1 widens and moves the ranges.
    ahead
        mm by which the heart lies further in front of the spine than in the canonical frame, where it almost
        touches the vertebrae.
    """
    n = rng.normal
    septum = np.array([-0.64, -0.72, -0.12]) + n(0, 0.1, 3)
    lv_axes = _ventricular_axes(septum)
    rv_axes = _ventricular_axes(septum + n(0, 0.05, 3))
    lv_size, rv_size, ra_size, la_size = np.exp(n(0.0, 0.075, 4))
    if rng.random() < 0.15:
        la_size *= rng.uniform(1.1, 1.3)  # atrial fibrillation: large atrium
    lv_c = np.array([45.0, -53.0, -14.0]) + n(0, 1.5, 3)
    lv_r = np.array([48.0, 34.0, 35.0]) * lv_size * np.exp(n(0, 0.03, 3))
    rv_c = lv_c + lv_axes[1] * (32.0 + n(0, 2.5)) * lv_size + LONG_AXIS * n(-11.0, 3.0)
    rv_r = np.array([51.0, 24.0, 35.0]) * rv_size * np.exp(n(0, 0.04, 3))
    wall = rng.uniform(7.5, 13.0)
    turned = rotation((n(0, 8), n(0, 8), n(0, 10)))
    chambers = {
        "LV": Ellipsoid(tuple(lv_c), tuple(lv_r), lv_axes, taper=0.22),
        "RV": Ellipsoid(tuple(rv_c), tuple(rv_r), rv_axes, taper=0.20),
        "RA": Ellipsoid(
            tuple(np.array([-25.0, -57.0, 1.0]) + n(0, 2, 3)),
            tuple(np.array([22.0, 26.0, 29.0]) * ra_size * np.exp(n(0, 0.05, 3))),
            turned,
        ),
        "LA": Ellipsoid(
            tuple(np.array([6.0, -27.0, 21.0]) + n(0, 2, 3)),
            tuple(np.array([36.0, 17.5, 23.0]) * la_size * np.exp(n(0, 0.05, 3))),
            rotation((n(0, 6), n(0, 6), n(0, 6))),
        ),
        "RVOT": Ellipsoid(
            tuple(np.array([17.0, -86.0, 18.0]) + n(0, 2, 3)),
            tuple(np.array([15.0, 14.0, 24.0]) * np.exp(n(0, 0.08, 3))),
            rotation((n(12, 6), n(0, 6), 0.0)),
        ),
        "LAA": Ellipsoid(
            tuple(np.array([46.0, -49.0, 29.0]) + n(0, 3, 3)),
            tuple(np.array([8.0, 16.0, 11.0]) * np.exp(n(0, 0.2, 3))),
            rotation((n(0, 10), n(0, 10), n(20, 12))),
        ),
        "RAA": Ellipsoid(
            tuple(np.array([-24.0, -80.0, 18.0]) + n(0, 3, 3)),
            tuple(np.array([11.0, 14.0, 16.0]) * np.exp(n(0, 0.2, 3))),
            rotation((n(0, 10), n(0, 10), n(-15, 12))),
        ),
    }
    cavities = {
        "LV": Ellipsoid(tuple(lv_c - LONG_AXIS * 3), tuple(lv_r - wall), lv_axes, taper=0.2),
        "RV": Ellipsoid(tuple(rv_c), tuple(rv_r - rng.uniform(3, 5)), rv_axes, taper=0.2),
        "RA": Ellipsoid(chambers["RA"].center, tuple(np.array(chambers["RA"].radii) - 2.5), turned),
        "LA": Ellipsoid(
            chambers["LA"].center, tuple(np.array(chambers["LA"].radii) - 2.5), chambers["LA"].axes
        ),
    }
    size = np.exp(n(0.02, 0.065 + 0.03 * shift)) * np.exp(n(0, 0.045, 3)) * np.array([1.0, 1.06, 0.9])
    waves = np.column_stack(
        [
            n(0, 1.1, (5, 3)),
            n(0, 1, (5, 3)) / rng.uniform(18, 45, (5, 1)),
            rng.uniform(0, 2 * np.pi, 5),
        ]
    )
    spread = 1.0 + 0.4 * shift
    warp = Warp(
        turn=rotation((n(0, 7 * spread), n(0, 8 * spread), n(0, 9 * spread))),
        scale=size,
        move=CENTER + n(0, 1, 3) * np.array([5.0, 3.0, 4.0]) * spread - np.array([0.0, ahead, 0.0]),
        waves=waves,
    )
    heart = Heart(
        warp=warp,
        chambers=chambers,
        cavities=cavities,
        crease=rng.uniform(3.0, 9.0),
        fat=float(np.clip(rng.gamma(1.7, 1.4), 0.3, 9.0)),
        hull=rng.uniform(24.0, 55.0),
        fat_waves=np.column_stack(
            [n(0, 1, (4, 3)) / rng.uniform(14, 40, (4, 1)), rng.uniform(0, 2 * np.pi, 4)]
        ),
        ahead=ahead,
    )
    _add_vessels(heart, rng, ahead)
    return heart


def keep_off_spine(heart: Heart, spine: float) -> None:
    """Move the descending aorta beside vertebrae of radius `spine` (mm), whose centre is at (0, `spine`)."""
    line, radii = heart.vessels["aorta"]
    line = line.copy()
    behind = np.arange(len(line)) > 45  # beyond the arch
    middle = np.array([0.0, spine])
    offset = line[:, :2] - middle
    distance = np.linalg.norm(offset, axis=1)
    lack = np.where(behind, np.maximum(1.18 * spine + radii + 1.0 - distance, 0), 0)
    # The wider the vertebra, the more to the front the aorta rides on it.
    way = offset / np.maximum(distance, 1e-6)[:, None] + np.array([0.0, -0.25])
    line[:, :2] += way / np.linalg.norm(way, axis=1, keepdims=True) * lack[:, None]
    line[40:] = smooth(line[40:], 4)
    heart.vessels["aorta"] = (line, radii)


def _add_vessels(heart: Heart, rng: np.random.Generator, ahead: float) -> None:
    """Add the great vessels, which follow the heart (`ahead` mm) near it and the spine away from it."""
    n = rng.normal
    forward = heart.warp.forward
    aorta = rng.uniform(12.5, 20.0)  # radius of the ascending aorta
    trunk = rng.uniform(11.5, 16.0)

    def near(knots: object, jitter: float = 1.5) -> Points:
        points = np.asarray(knots, dtype=np.float64)
        return forward(points + n(0, jitter, points.shape))

    root = near([[13, -55, 2], [7, -60, 14], [1, -63, 27], [-7, -68, 46], [-12, -67, 74]], 1.0)
    arch_top = 118 + n(0, 8)
    side = n(0, 4)
    descending = np.array(
        [
            [25 + side, -2, 84],
            [27 + side, 3, 50],
            [27 + side, 4, 0],
            [22 + side, 2, -50],
            [12, 1, -110],
            [4, 0, -190],
        ]
    )
    descending[:, :2] += n(0, 2.5, (6, 2))
    arch = np.array([[-9, -58, arch_top - 18], [4, -40, arch_top], [18, -18, arch_top - 4]]) + n(0, 2, (3, 3))
    arch[:, 1] -= ahead * np.array([0.9, 0.6, 0.2])
    line = spline(np.concatenate([root, arch, descending]), 90)
    along = np.linspace(0, 1, 90)
    # Sinuses bulge (first points), then the tube narrows along the arch to the descending aorta.
    radii = np.interp(
        along,
        [0, 0.045, 0.085, 0.13, 0.3, 0.45, 0.6, 1.0],
        aorta * np.array([0.8, 1.1, 1.12, 1.0, 1.0, 0.85, rng.uniform(0.7, 0.82), 0.66]),
    )
    heart.vessels["aorta"] = (line, radii)

    pt = near([[17, -86, 24], [21, -81, 38], [20, -70, 53], [17, -58, 62]])
    bifurcation = pt[-1]
    heart.vessels["trunk"] = (spline(pt, 24), np.full(24, trunk))
    heart.vessels["rpa"] = (
        spline(np.vstack([bifurcation, near([[-6, -47, 60], [-32, -42, 57], [-58, -36, 46]])]), 20),
        np.linspace(trunk * 0.8, trunk * 0.55, 20),
    )
    heart.vessels["lpa"] = (
        spline(np.vstack([bifurcation, near([[32, -40, 69], [46, -24, 66], [54, -12, 48], [56, -6, 24]])]), 20),
        np.linspace(trunk * 0.85, trunk * 0.45, 20),
    )
    svc = rng.uniform(7.0, 11.0)
    upper = np.array([[-20, -48 - 0.7 * ahead, 150], [-29, -52 - 0.9 * ahead, 100]])
    lower = np.array([[-20, -30, -190], [-24, -36 - 0.5 * ahead, -100]])
    heart.vessels["svc"] = (
        spline(np.vstack([upper, near([[-30, -57, 60], [-27, -58, 18]])]), 24),
        np.full(24, svc),
    )
    heart.vessels["ivc"] = (
        spline(np.vstack([lower, near([[-25, -46, -45], [-24, -53, -20]])]), 20),
        np.full(20, rng.uniform(10.0, 14.5)),
    )
    for name, knots in {
        "rspv": [[-20, -32, 27], [-42, -40, 32], [-64, -50, 42]],
        "ripv": [[-20, -20, 13], [-42, -14, 6], [-62, -8, -6]],
        "lspv": [[34, -30, 31], [48, -40, 39], [64, -52, 50]],
        "lipv": [[34, -18, 15], [48, -10, 10], [64, -2, 0]],
    }.items():
        heart.vessels[name] = (spline(near(knots), 12), np.linspace(rng.uniform(6, 9), rng.uniform(3, 5), 12))
