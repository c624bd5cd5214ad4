"""Calcium and metal that is not coronary, placed by the landmarks of a real scan.

Aortic wall, aortic valve, mitral annulus, nodes, pericardium, clips, wires and leads, as clouds of spheres that
go through the same scanner as the plaques. Everything is drawn independently of the coronary burden.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from models.training.phantom.deposits import Deposit

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from models.training.anatomy import Annotation

    Points = NDArray[np.float64]

AORTA, VALVE, OTHER, METAL = 4, 5, 6, 8
METAL_HU = 9000.0
"""Of steel and platinum before the scanner clips it."""


@dataclass(frozen=True, eq=False)
class Landmarks:
    """Where things lie in one (deformed) scan, LPS mm.

    Parameters
    ----------
    ascending, descending
        (n, 4) circles by rising z.
    valve, valve_radius
        Centre (3,) and radius of the aortic valve.
    annulus
        (n, 3) mitral annulus.
    bifurcation_z
        Of the pulmonary trunk.
    low, high
        Corners (3,) of the heart box.
    """

    ascending: Points
    descending: Points
    valve: Points
    valve_radius: float
    annulus: Points
    bifurcation_z: float
    low: Points
    high: Points


def landmarks_of(
    annotation: Annotation, move: Callable[[Points], Points], scale: float, low: Points, high: Points
) -> Landmarks:
    """Return the landmarks of an annotation under a deformation that scales the plane by `scale`."""

    def circles(table: Points) -> Points:
        moved = np.column_stack((move(table[:, :3]), table[:, 3] * scale))
        return moved[np.argsort(moved[:, 2])]

    trunk = np.array(
        [[annotation.aortic_valve[0], annotation.aortic_valve[1], annotation.pulmonary_bifurcation_z_mm]]
    )
    return Landmarks(
        ascending=circles(annotation.ascending_aorta),
        descending=circles(annotation.descending_aorta),
        valve=move(annotation.aortic_valve[None])[0],
        valve_radius=annotation.valve_radius_mm * scale,
        annulus=move(annotation.mitral_annulus),
        bifurcation_z=float(move(trunk)[0, 2]),
        low=low,
        high=high,
    )


def _cloud(
    what: tuple[int, str, str], centers: Points, radius: float, hu: float, rng: np.random.Generator
) -> Deposit:
    """Return a deposit of `what`: its label, what it moves with, its kind."""
    label, part, kind = what
    size = np.clip(radius * np.exp(rng.normal(0, 0.2, len(centers))), 0.3, 6.0)
    values = np.clip(hu * np.exp(rng.normal(0, 0.15, len(centers))), 150, 1.2e4)
    return Deposit(label, part, centers, size, values, kind)


def _evenly(line: Points, step: float) -> Points:
    along = np.concatenate(([0.0], np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1))))
    at = np.arange(0, along[-1], step)
    return np.stack([np.interp(at, along, line[:, axis]) for axis in range(3)], axis=1)


def _wall(circles: Points, part: str, count: int, rng: np.random.Generator) -> list[Deposit]:
    """Return crescents in the wall of a vessel given by its circles."""
    found = []
    for _ in range(count):
        at = rng.uniform(circles[0, 2], circles[-1, 2])
        length, arc = rng.gamma(1.5, 4.0) + 1, rng.gamma(1.8, 0.22) + 0.1
        thick, middle = rng.uniform(0.45, 1.3), rng.uniform(0, 2 * np.pi)
        points = []
        for z in np.arange(at - length / 2, at + length / 2 + 0.1, 0.9):
            x, y, r = (float(np.interp(z, circles[:, 2], circles[:, column])) for column in (0, 1, 3))
            width = arc * np.sqrt(max(0.05, 1 - ((z - at) / (length / 2 + 0.5)) ** 2))
            angles = np.arange(middle - width, middle + width + 1e-6, 0.8 / r)
            wall = r - thick * 0.5 + rng.normal(0, 0.12, len(angles))
            points.append(
                np.column_stack((x + wall * np.cos(angles), y + wall * np.sin(angles), np.full(len(angles), z)))
            )
        found.append(_cloud((AORTA, part, "aorta"), np.concatenate(points), thick, rng.uniform(220, 1100), rng))
    return found


def _valve(marks: Landmarks, rng: np.random.Generator) -> list[Deposit]:
    found = []
    amount = rng.gamma(1.2, 3.0)
    for leaflet in range(3):
        for _ in range(rng.poisson(amount * 0.6)):
            angle, r = (
                leaflet * 2 * np.pi / 3 + 0.4 + rng.normal(0, 0.5),
                marks.valve_radius * rng.uniform(0.1, 0.95),
            )
            start = marks.valve + np.array([r * np.cos(angle), r * np.sin(angle), rng.uniform(-5, 5)])
            steps = np.cumsum(rng.normal(0, 0.6, (int(rng.integers(2, 12)), 3)), axis=0)
            found.append(
                _cloud(
                    (VALVE, "root", "valve"), start + steps, rng.uniform(0.5, 1.6), rng.uniform(220, 1100), rng
                )
            )
    return found


def _annulus(marks: Landmarks, rng: np.random.Generator) -> list[Deposit]:
    line = _evenly(marks.annulus, 1.0)
    share = rng.uniform(0.08, 1.0)
    first = rng.integers(0, max(1, int(len(line) * (1 - share)) + 1))
    line = line[first : first + max(3, int(len(line) * share))]
    line = line + np.cumsum(rng.normal(0, 0.25, line.shape), axis=0)
    keep = rng.random(len(line)) > rng.uniform(0, 0.5)
    if not keep.any():
        return []
    return [
        _cloud((VALVE, "annulus", "annulus"), line[keep], rng.uniform(0.8, 3.2), rng.uniform(300, 1200), rng)
    ]


def _spots(marks: Landmarks, rng: np.random.Generator) -> list[Deposit]:
    """Return nodes in the mediastinum and hila, and plates of pericardium."""
    found = []
    if rng.random() < 0.25:
        middle = (marks.low + marks.high) / 2
        for _ in range(int(rng.integers(1, 6))):
            at = [
                rng.normal(middle[0] - 10, 25),
                rng.uniform(middle[1], marks.high[1] + 15),
                marks.bifurcation_z + rng.uniform(-30, 30),
            ]
            blob = at + rng.normal(0, rng.uniform(0.6, 2.5), (int(rng.integers(3, 14)), 3))
            found.append(
                _cloud((OTHER, "still", "node"), blob, rng.uniform(0.6, 2.0), rng.uniform(220, 1100), rng)
            )
    if rng.random() < 0.06:
        # On the ellipsoid inscribed in the box, its front and its underside: about where the pericardium runs.
        half, middle = (marks.high - marks.low) / 2, (marks.low + marks.high) / 2
        a, b = rng.uniform(0, 2 * np.pi), rng.uniform(-0.9, 0.5)
        turns = np.cumsum(rng.normal(0, [0.05, 0.03], (int(rng.integers(4, 40)), 2)), axis=0)
        turns += [a, b]
        cos = np.cos(turns[:, 1])
        shell = middle + half * np.column_stack(
            (np.cos(turns[:, 0]) * cos, np.sin(turns[:, 0]) * cos, np.sin(turns[:, 1]))
        )
        found.append(
            _cloud((OTHER, "muscle", "pericardium"), shell, rng.uniform(0.5, 1.4), rng.uniform(220, 1100), rng)
        )
    return found


def _metal(marks: Landmarks, rng: np.random.Generator) -> list[Deposit]:
    low, high, middle = marks.low, marks.high, (marks.low + marks.high) / 2
    kind = rng.random()
    if kind < 0.02:  # a pacemaker lead: superior vena cava, right atrium, apex of the right ventricle
        size = high - low
        guide = low + size * np.array(
            [[0.2, 0.55, 1.3], [0.17, 0.5, 0.8], [0.2, 0.4, 0.4], [0.5, 0.25, 0.2], [0.75, 0.15, 0.15]]
        )
        return [
            _cloud(
                (METAL, "muscle", "lead"),
                _evenly(guide + rng.normal(0, 3, guide.shape), 0.8),
                0.9,
                METAL_HU,
                rng,
            )
        ]
    found = []
    if kind < 0.045:  # wires in the sternum, clips along a bypass
        for z in np.arange(low[2], high[2] + 30, 22):
            angle = np.linspace(0, 2 * np.pi, 40)
            ring = np.column_stack(
                (
                    middle[0] - 15 + 13 * np.cos(angle),
                    low[1] - 16 + 7 * np.sin(angle),
                    z + 2 * np.sin(3 * angle),
                )
            )
            found.append(_cloud((METAL, "still", "wire"), ring, 0.45, METAL_HU * 0.7, rng))
        for _ in range(int(rng.integers(2, 9))):
            at = [
                rng.normal(middle[0], 25),
                rng.uniform(low[1] - 6, low[1] + 15),
                rng.uniform(low[2] + 20, high[2] + 10),
            ]
            found.append(
                _cloud((METAL, "muscle", "clip"), at + rng.normal(0, 1.2, (5, 3)), 0.5, METAL_HU * 0.6, rng)
            )
    return found


def draw_distractors(marks: Landmarks, rng: np.random.Generator) -> list[Deposit]:
    """Return calcium outside the coronary arteries, and metal; often none."""
    age = rng.random()  # one patient has much of it, another none
    found = _wall(marks.descending, "still", int(rng.poisson(7 * age**2)), rng)
    found += _wall(marks.ascending, "root", int(rng.poisson(3 * age**2)), rng)
    if rng.random() < 0.05 + 0.4 * age:
        found += _valve(marks, rng)
    if rng.random() < 0.03 + 0.3 * age:
        found += _annulus(marks, rng)
    return found + _spots(marks, rng) + _metal(marks, rng)
