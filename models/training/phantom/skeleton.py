"""Vertebrae, ribs with their cartilage, sternum, shoulder girdle and arms."""

from __future__ import annotations

import numpy as np

from models.training.phantom.canvas import Canvas
from models.training.phantom.shapes import Array, Points, spline
from models.training.phantom.torso import MUSCLE_HU, Torso


def paint_skeleton(canvas: Canvas, torso: Torso) -> None:
    """Paint vertebrae, ribs, costal cartilage, sternum, scapulae and clavicles."""
    rng = np.random.default_rng(int(torso.phase * 1e6) + 1)
    bone = torso.bone
    _paint_spine(canvas, torso, rng)
    cortex, marrow = 620.0 * bone, 210.0 * bone
    first = torso.apex - 8
    outer = inner = None
    cartilage = None
    old = rng.random() ** 2  # how calcified the cartilage is
    spots: list[tuple[Points, float]] = []
    for rib in range(11):
        start = first - rib * torso.period
        drop = (38 + 4.5 * rib) * torso.slope
        for side in (-1.0, 1.0):
            line = _rib(torso, start, drop, side, rib)
            bony = line[: int(len(line) * (0.86 if rib < 7 else 0.78))]
            outer = canvas.tube(bony, torso.rib, outer)
            inner = canvas.tube(bony, torso.rib - torso.cortex, inner)
            if rib < 9:
                gristle = line[len(bony) - 1 :]
                cartilage = canvas.tube(gristle, torso.rib + 0.2, cartilage)
                for _ in range(rng.poisson(5 * old)):
                    at = gristle[rng.integers(len(gristle))] + rng.normal(0, 2.2, 3)
                    spots.append((np.stack([at, at + rng.normal(0, 4, 3)]), rng.uniform(0.8, 2.6)))
    assert outer is not None
    assert inner is not None
    assert cartilage is not None
    canvas.paint(cartilage, 95.0 + 40 * old)
    for line, radius in spots:
        canvas.paint_tube(line, radius, rng.uniform(250, 700))
    canvas.paint(outer, cortex)
    canvas.paint(inner, marrow)
    _paint_sternum(canvas, torso, rng)
    for side in (-1.0, 1.0):
        blade = spline(
            [[side * 62, 66, 118], [side * 86, 68, 85], [side * 96, 66, 45], [side * 92, 64, 10]], 24
        )
        canvas.paint_tube(blade, 4.2, 480.0 * bone)
        spine = spline([[side * 60, 72, 112], [side * 105, 70, 130], [side * 140, 40, 142]], 20)
        canvas.paint_tube(spine, 6.5, cortex)
        canvas.paint_tube(spine, 4.5, marrow)
        clavicle = spline(
            [[side * 22, torso.front + 46, 128], [side * 70, torso.front + 48, 146], [side * 135, 0, 158]], 24
        )
        canvas.paint_tube(clavicle, 7.0, cortex)
        canvas.paint_tube(clavicle, 4.8, marrow)
        upper = 190.0 if torso.arms_up else 20.0
        arm = spline([[side * 150, 15, 148], [side * 172, 8, (148 + upper) / 2], [side * 190, 0, upper]], 12)
        for radius, hu in ((34.0, torso.fat_hu), (26.0, MUSCLE_HU), (11.5, cortex), (8.5, 90.0)):
            canvas.paint_tube(arm, radius, hu)


def _rib(torso: Torso, start: float, drop: float, side: float, number: int) -> Points:
    """Return the course of a rib from the spine round to the sternum."""
    angle = np.linspace(0.14, 0.97, 44) * np.pi  # 0 behind, pi in front
    z = start - drop * np.clip((angle - 0.3) / 2.2, 0, 1) ** 0.9
    rise = np.clip((angle - 0.84 * np.pi) / (0.13 * np.pi), 0, 1)
    z = z + rise * (6 + 3.5 * max(0, number - 3))  # cartilage climbs to the sternum
    t = np.clip((z + 10) / (torso.apex + 10), 0, 1)
    width = (
        torso.half_width
        * np.sqrt(np.maximum(1 - 0.93 * t**2.6, 0.02))
        * (1 - 0.0006 * np.clip(-z - 40, 0, 150))
    )
    centre, depth = torso.half_depth(z)
    depth = depth * np.sqrt(np.maximum(1 - 0.75 * t**5, 0.1))
    power = 2 / 2.5
    s, c = np.sin(angle), np.cos(angle)
    x = side * (width + 7) * np.abs(s) ** power
    y = centre + (depth + 7) * np.sign(c) * np.abs(c) ** power
    return np.stack([x, y, z], axis=1)


def _paint_spine(canvas: Canvas, torso: Torso, rng: np.random.Generator) -> None:
    x, y, z = canvas.at((slice(None), slice(None), slice(None)))
    window = canvas.window(np.array([-70.0, -14.0, -1e4]), np.array([70.0, 110.0, 1e4]))
    if window is None:
        return
    x, y, z = canvas.at(window)
    part = canvas.hu[window]
    level = (z + np.float32(torso.phase)) / np.float32(torso.period)
    place = np.abs(level - np.round(level)) * np.float32(torso.period)  # 0 in the middle of a vertebra
    waist = 1 - 0.1 * np.cos(np.clip(place / (torso.period * 0.42), 0, 1) * np.pi / 2)
    spur = rng.gamma(1.5, 1.2)
    lip = spur * np.exp(-(((place - torso.period * 0.4) / 2.5) ** 2)) * np.clip(-(y - 14) / 12, 0, 1)
    r = np.float32(torso.spine)
    body = np.sqrt((x / 1.18) ** 2 + ((y - r) * 1.08) ** 2) - r * waist - lip
    gap = place - np.float32(torso.period * 0.42)  # negative: vertebra; positive: disc

    def mix(distance: Array, hu: float) -> None:
        share = canvas.inside(distance)
        np.add(part, share * (np.float32(hu) - part), out=part)

    bone = torso.bone
    mix(body, 85.0)  # disc
    mix(np.maximum(body, gap), 480.0 * bone)
    mix(np.maximum(body + 2.4, gap + 1.6), 170.0 * bone)
    back = 2 * r + 9
    pedicle = np.sqrt((np.abs(x) - 13) ** 2 + ((y - back + 7) / 1.7) ** 2) - 4.5
    lamina = np.abs(np.sqrt((x / 1.15) ** 2 + (y - back) ** 2) - 13) - 3.5
    arch = np.maximum(np.minimum(pedicle, np.maximum(lamina, 4 - (y - back))), place - 10)
    process = np.sqrt(x**2 + 0 * y) - 3.0
    process = np.maximum(np.maximum(process, np.abs(y - back - 24) - 16), np.abs(place + (y - back) * 0.15) - 9)
    wing = np.maximum(
        np.sqrt((y - back - 4 - np.abs(x) * 0.18) ** 2 + (place / 1.2) ** 2) - 5.0, np.abs(x) - 38
    )
    for shape in (arch, process, wing):
        mix(shape, 560.0 * bone)
        mix(shape + 2.0, 230.0 * bone)
    mix(np.sqrt((x / 1.15) ** 2 + (y - back) ** 2) - 9.0, 25.0)


def _paint_sternum(canvas: Canvas, torso: Torso, rng: np.random.Generator) -> None:
    window = canvas.window(
        np.array([-40.0, torso.front - 40, -80.0]), np.array([40.0, torso.front + 75, torso.apex])
    )
    if window is None:
        return
    x, y, z = canvas.at(window)
    part = canvas.hu[window]
    low = torso.floor + rng.uniform(15, 45)
    centre, depth = torso.half_depth(z)
    front = centre - depth
    half = 15 + 12 * np.clip((z - 85) / 30, 0, 1)
    plate = ((np.abs(x) / half) ** 3 + (np.abs(y - (front - 8)) / 6.0) ** 3) ** (1 / 3) * 6.0 - 6.0
    plate = np.maximum(plate, np.maximum(low - z, z - (torso.apex - 22)))
    joint = np.abs(z - 88) - 1.5
    for grow, hu in ((0.0, 480.0 * torso.bone), (1.9, 140.0 * torso.bone)):
        share = canvas.inside(np.maximum(plate + grow, -joint + grow))
        np.add(part, share * (np.float32(hu) - part), out=part)
