"""Coronary arteries of a sketch, their plaques, and what is mistaken for plaques: lines and spheres."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from models.training.sketch.drawing import polyline

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from models.training.sketch.body import Chest
    from models.training.sketch.drawing import Sheet

    Points = NDArray[np.float64]

LAD, LCX, RCA, AORTA, VALVE, OTHER, METAL = 1, 2, 3, 4, 5, 6, 8
# Direction (azimuth, elevation, degrees) of the ends of each artery on the heart's ellipsoid.
COURSES = {LAD: ((-78, 48), (-48, -35)), LCX: ((-62, 46), (75, 5)), RCA: ((-118, 42), (-200, -32))}
SPREAD_DEGREES = 14.0


def arteries(chest: Chest, rng: np.random.Generator) -> dict[int, Points]:
    """Return the centre line of each artery by label, (n, 3), mm."""
    lines = {}
    centre, radii = np.array(chest.heart_centre), np.array(chest.heart_radii)
    for label, ends in COURSES.items():
        (a0, e0), (a1, e1) = (np.array(end) + rng.normal(0, SPREAD_DEGREES / 2, 2) for end in ends)
        share = np.linspace(0, 1, 40)
        wave = SPREAD_DEGREES * rng.uniform(0, 1) * np.sin(share * np.pi * rng.uniform(0.5, 3))
        azimuth, elevation = (
            np.deg2rad(a0 + (a1 - a0) * share + wave),
            np.deg2rad(e0 + (e1 - e0) * share - wave * 0.5),
        )
        surface = radii + chest.heart_fat * rng.uniform(0.2, 0.8)
        local = np.stack(
            [np.cos(azimuth) * np.cos(elevation), np.sin(azimuth) * np.cos(elevation), np.sin(elevation)],
            axis=1,
        )
        cos, sin = np.cos(chest.heart_turn), np.sin(chest.heart_turn)
        x, y, z = (local * surface).T
        # Sketch: the right heart lies where this ellipsoid does not reach; its artery is pushed out to it.
        line = centre + np.stack([x * cos - y * sin, x * sin + y * cos, z], axis=1)
        if label == RCA:
            line = _pushed_out(line, chest)
        lines[label] = polyline(line, 1.0)
    return lines


def _pushed_out(line: Points, chest: Chest) -> Points:
    """Return points moved out of the right heart, away from the middle of the left one."""
    centre, radii = np.array(chest.right_centre), np.array(chest.right_radii) + chest.heart_fat * 0.5
    offset = (line - centre) / radii
    length = np.linalg.norm(offset, axis=1, keepdims=True)
    return np.where(length < 1, centre + offset / np.maximum(length, 1e-3) * radii, line)


def paint_arteries(
    sheet: Sheet, chest: Chest, lines: dict[int, Points], rng: np.random.Generator, blood: float
) -> None:
    """Paint each artery in a groove of fat."""
    groove, radius = rng.uniform(0.5, 4.5), rng.uniform(1.0, 2.2)
    for line in lines.values():
        sheet.tube(line[::2], np.full(len(line[::2]), radius + groove), chest.fat_hu)
    for line in lines.values():
        sheet.tube(line, np.linspace(radius, radius * 0.6, len(line)), blood)


def _cluster(
    sheet: Sheet,
    points: Points,
    what: tuple[float, int, float],
    rng: np.random.Generator,
    moved: float = 0.0,
) -> None:
    """Paint spheres at points; `what` is (HU, label, about the radius in mm)."""
    hu, label, size = what
    radii = np.clip(size * np.exp(rng.normal(0, 0.25, len(points))), 0.3, 6)
    sheet.deposit(points, radii, hu, label, moved)


def paint_plaques(
    sheet: Sheet, lines: dict[int, Points], rng: np.random.Generator, number: int, moved: float
) -> None:
    """Paint coronary plaques: spheres along a stretch of an artery, off its middle."""
    for _ in range(number):
        label = int(rng.choice([LAD, LAD, LCX, RCA]))
        line = lines[label]
        start = int(len(line) * rng.beta(1.2, 2.4))
        length = int(rng.gamma(1.2, 4.0)) + 1
        part = line[start : start + length] + rng.normal(0, 0.6, 3)
        hu = float(np.clip(np.exp(rng.normal(6.3, 0.5)), 200, 2200))
        _cluster(sheet, part, (hu, label, float(np.clip(rng.gamma(4, 0.35), 0.4, 3.2))), rng, moved)


def paint_others(sheet: Sheet, chest: Chest, rng: np.random.Generator, moved: float) -> None:
    """Paint calcium that is not coronary, and metal."""
    age = rng.random()
    line = chest.aorta
    for _ in range(rng.poisson(7 * age)):  # plates of the aortic wall
        at = int(rng.integers(2, len(line) - 4))
        along = line[at + 1] - line[at]
        along = along / np.linalg.norm(along)
        side = np.cross(along, rng.normal(0, 1, 3))
        side = side / np.linalg.norm(side)
        other = np.cross(along, side)
        angles = np.arange(0, rng.gamma(1.6, 0.3) + 0.1, 0.09)
        reach = rng.uniform(12, 17)
        ring = line[at] + reach * (np.cos(angles)[:, None] * side + np.sin(angles)[:, None] * other)
        points = np.concatenate([ring + along * step for step in np.arange(0, rng.gamma(1.2, 3.0) + 0.5, 1.0)])
        _cluster(sheet, points, (rng.uniform(220, 1200), AORTA, rng.uniform(0.5, 1.4)), rng)
    if rng.random() < 0.1 + 0.4 * age:  # aortic valve
        middle = line[0] + np.array([0, 0, 6.0])
        points = middle + rng.uniform(-1, 1, (int(rng.integers(1, 9)), 3)) * (10, 10, 4)
        _cluster(sheet, points, (rng.uniform(220, 1200), VALVE, rng.uniform(0.6, 2.6)), rng, moved)
    centre, radii = np.array(chest.heart_centre), np.array(chest.heart_radii)
    if rng.random() < 0.25 * age + 0.05:  # mitral annulus: an arc inside the heart, behind its middle
        angles = np.arange(rng.uniform(-0.5, 1.0), rng.uniform(1.4, 3.4), 0.08)
        wide = rng.uniform(13, 21)
        arc = np.stack(
            [wide * np.cos(angles), wide * 0.8 * np.sin(angles), 6 * np.cos(angles + rng.uniform(0, 3))], axis=1
        )
        points = centre + np.array([rng.uniform(-2, 10), radii[1] * 0.35, radii[2] * 0.25]) + arc
        _cluster(sheet, points, (rng.uniform(250, 1300), VALVE, rng.uniform(0.8, 3.2)), rng, moved)
    for _ in range(rng.poisson(0.6)):  # nodes beside the airways, granulomas in the lung
        hilar = np.array([rng.choice([-45.0, 40.0, 0.0]), chest.heart_centre[1] + 25, chest.bifurcation])
        point = hilar + rng.normal(0, 1, 3) * (12, 12, 22)
        if rng.random() < 0.3:
            point = centre + np.array([rng.choice([-1, 1]) * rng.uniform(75, 110), rng.uniform(-20, 40), 20.0])
        points = point + rng.normal(0, 1.5, (int(rng.integers(1, 7)), 3))
        _cluster(sheet, points, (rng.uniform(200, 1400), OTHER, rng.uniform(0.8, 3.5)), rng)
    if rng.random() < 0.08:  # pericardium: a shell off the arteries' depth
        around = rng.uniform(0, 6.3) + np.arange(0, rng.uniform(0.1, 0.7), 0.025)
        outside = radii[:2] + chest.heart_fat + 1.5
        shell = np.stack(
            [
                outside[0] * np.cos(around),
                outside[1] * np.sin(around),
                np.full(len(around), rng.uniform(-25, 5)),
            ],
            axis=1,
        )
        _cluster(sheet, centre + shell, (rng.uniform(250, 900), OTHER, rng.uniform(0.6, 1.6)), rng, moved)
    if rng.random() < 0.06:
        _metal(sheet, chest, rng)


def _metal(sheet: Sheet, chest: Chest, rng: np.random.Generator) -> None:
    x, y, z = chest.heart_centre
    if rng.random() < 0.5:  # a lead: through the upper vena cava into the right ventricle
        tree = chest.bifurcation
        knots = np.array(
            [(x - 52, y + 4, chest.apex), (x - 52, y + 4, tree - 30), (x - 40, y, z), (x + 5, y - 18, z - 30)]
        )
        points = polyline(knots, 0.8)
        _cluster(sheet, points, (9000, METAL, rng.uniform(0.5, 1.1)), rng)
    else:  # clips and wires behind the sternum
        for _ in range(int(rng.integers(1, 7))):
            point = np.array([rng.normal(5, 18), -chest.cavity[1] + rng.uniform(4, 25), rng.uniform(20, 140)])
            points = point + np.arange(0, rng.uniform(2, 9), 0.7)[:, None] * rng.normal(0, 0.6, 3)
            _cluster(sheet, points, (9000, METAL, rng.uniform(0.3, 0.8)), rng)
