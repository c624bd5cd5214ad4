"""Everything around the heart: body wall, lungs, skeleton, airways, abdomen, table."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from models.training.phantom.canvas import Canvas
from models.training.phantom.shapes import Array, Ellipsoid, Field, Points, rotation, spline

# Soft tissue at 120 kVp, HU (anatomy in docs/simulator.md).
MUSCLE_HU, SKIN_HU = 52.0, 30.0
LIVER_HU, SPLEEN_HU, STOMACH_HU = 57.0, 50.0, 28.0


@dataclass
class Torso:
    """One patient's trunk, drawn; patient frame, LPS mm, spine at x = 0 with its front at y = 0."""

    half_width: float  # of the thoracic cavity
    front: float  # y of the inside of the chest wall at heart level
    back: float  # y of the deepest part of the cavity beside the spine
    apex: float  # z of the lung apex
    wall: float  # thickness of ribs and muscle
    fat: float  # subcutaneous, at the flanks
    breast: float  # mm of breast tissue, 0 for none
    dome: tuple[float, float]  # z of the right and left dome of the diaphragm
    floor: float  # z of the diaphragm under the heart
    lung_hu: float
    fat_hu: float
    foot: float  # 0..1, how steeply fat under the heart narrows towards the diaphragm
    mediastinum: float  # mm by which mediastinal fat widens
    spine: float  # radius of a vertebral body
    period: float  # distance of two vertebrae
    phase: float
    bone: float  # density factor of bone
    arms_up: bool
    curve: np.ndarray  # (4,) small lateral and frontal curvature
    seeds: np.random.Generator
    extra: dict[str, float] = field(default_factory=dict)

    def half_depth(self, z: Array) -> tuple[Array, Array]:
        """Return centre y and half depth of the cavity at z."""
        high = np.clip((z - 10) / 150, 0, 1.3)
        front = self.front + 52 * high**1.3
        back = np.broadcast_to(np.float32(self.back), z.shape) - 6 * high
        return (front + back) / 2, (back - front) / 2

    def cavity(self, where: Field) -> Array:
        """Return the distance to the inside of the chest wall."""
        x, y, z = where
        t = np.clip((z + 10) / (self.apex + 10), 0, 1)
        width = (
            self.half_width
            * np.sqrt(np.maximum(1 - 0.93 * t**2.6, 0.02))
            * (1 - 0.0006 * np.clip(-z - 40, 0, 150))
        )
        centre, depth = self.half_depth(z)
        depth = depth * np.sqrt(np.maximum(1 - 0.75 * t**5, 0.1))
        power = np.float32(2.5)
        radius = (np.abs(x / width) ** power + np.abs((y - centre) / depth) ** power) ** (1 / power)
        distance = (radius - 1) * np.minimum(width, depth)
        # The spine and the muscle beside it push into the cavity from behind.
        notch = np.sqrt((x / 1.15) ** 2 + (y - 22) ** 2) - (self.spine + 6)
        cap = z - self.apex
        return np.asarray(np.maximum(np.maximum(distance, -notch), cap), dtype=np.float32)

    def skin(self, where: Field) -> Array:
        """Return the distance to the body's surface."""
        x, y, z = where
        centre, depth = self.half_depth(np.clip(z, -60, 60))
        width = self.half_width + self.wall + self.fat * 1.1 + np.clip((z - 40) / 100, 0, 1) * 22
        depth = depth + self.wall + self.fat * 0.75 + 16
        centre = centre + 14
        neck = np.clip((z - self.apex - 10) / 45, 0, 1)
        width, depth = width * (1 - 0.5 * neck), depth * (1 - 0.35 * neck)
        power = np.float32(2.6)
        radius = (np.abs(x / width) ** power + np.abs((y - centre) / depth) ** power) ** (1 / power)
        distance = np.asarray((radius - 1) * np.minimum(width, depth), dtype=np.float32)
        if self.breast:
            for side in (-1.0, 1.0):
                breast = Ellipsoid(
                    (side * 75.0, self.front - 4.0, 5.0 + side * 3),
                    (62.0, self.wall + 18.0 + self.breast, 60.0),
                ).distance(where)
                distance = np.minimum(distance, breast)
        return distance

    def diaphragm(self, x: Array, y: Array) -> Array:
        """Return the height z of the diaphragm over (x, y)."""
        right = self.dome[0] - ((x + 68) / 74) ** 2 * 48 - ((y + 38) / 80) ** 2 * 52
        left = self.dome[1] - ((x - 70) / 76) ** 2 * 48 - ((y + 32) / 80) ** 2 * 52
        middle = self.floor - (np.abs(x - 18) / 75) ** 3 * 30 - (np.abs(y + 60) / 62) ** 3 * 30
        return np.asarray(np.maximum(np.maximum(right, left), middle), dtype=np.float32)


def draw_torso(rng: np.random.Generator, heart_low: float, heart_front: float, shift: float = 0.0) -> Torso:
    """Draw a trunk that fits a heart whose lowest point is at z `heart_low` and foremost at y `heart_front`."""
    n = rng.normal
    female = rng.random() < 0.45
    obese = rng.gamma(2.2, 8.0) * (1 + 0.5 * shift) + 5
    floor = heart_low + rng.uniform(2, 9)
    return Torso(
        half_width=(126 if female else 138) * np.exp(n(0, 0.05)),
        front=heart_front - rng.uniform(-5, 9),
        back=rng.uniform(40, 58),
        apex=rng.uniform(135, 175),
        wall=rng.uniform(13, 20),
        fat=float(np.clip(obese, 5, 55)),
        breast=rng.uniform(8, 40) if female else 0.0,
        dome=(floor + rng.uniform(5, 38), floor + rng.uniform(-12, 25)),
        floor=floor,
        lung_hu=rng.uniform(-900, -800),
        fat_hu=rng.uniform(-112, -88),
        foot=rng.uniform(0.35, 0.75),
        mediastinum=float(np.clip(rng.gamma(2.0, 2.5), 1.0, 14.0)),
        spine=rng.uniform(15.5, 20.0),
        period=rng.uniform(23, 29),
        phase=rng.uniform(0, 29),
        bone=rng.uniform(0.65, 1.2),
        arms_up=rng.random() < 0.9,
        curve=n(0, 1, 4),
        seeds=rng,
    )


def paint_body(canvas: Canvas, torso: Torso) -> Array:
    """Paint skin, fat, wall, lungs and abdomen; return the distance to the cavity on the companion grid."""
    x, y, z = canvas.coarse
    skin, cavity = torso.skin(canvas.coarse), torso.cavity(canvas.coarse)
    canvas.paint_coarse(skin, SKIN_HU)
    canvas.paint_coarse(skin + 1.6, torso.fat_hu)
    lumps = np.sin(x / 17 + 2) * np.sin(z / 21 + torso.phase) + np.sin((x + y) / 13)
    canvas.paint_coarse(np.maximum(cavity - np.float32(torso.wall) - 1.5 * lumps, skin + 4), MUSCLE_HU)
    # Fat planes between the muscles of the wall.
    plane = np.abs(cavity - np.float32(torso.wall * 0.55) - 1.5 * np.sin(z / 15 + x / 30)) - 1.1
    canvas.paint_coarse(plane, torso.fat_hu * 0.8)
    # Muscles of the back.
    for side in (-1.0, 1.0):
        muscle = Ellipsoid((side * 27.0, 60.0, 0.0), (24.0, 17.0, 4000.0)).distance(canvas.coarse)
        canvas.paint_coarse(np.maximum(muscle, skin + 6), MUSCLE_HU)
    if torso.breast:
        glands = np.sin(x / 5.1) * np.sin(y / 6.3 + 1) * np.sin(z / 7.1) + 0.55
        front = np.maximum(skin + 10, y - (torso.front - torso.wall - 4))
        canvas.paint_coarse(np.maximum(front, 6 * glands), 15.0)
    canvas.paint_coarse(cavity - 1.5, torso.fat_hu)  # endothoracic fat and pleura
    dome = torso.diaphragm(x, y)
    above = (z - dome) * np.float32(0.75)
    canvas.paint_coarse(np.maximum(cavity, -above), torso.lung_hu)
    _paint_abdomen(canvas, torso, np.maximum(cavity, above))
    return cavity


def _paint_abdomen(canvas: Canvas, torso: Torso, region: Array) -> None:
    """Paint what lies under the diaphragm; `region` is the distance to that space."""
    if float(region.min()) > 2:
        return
    canvas.paint_coarse(region, MUSCLE_HU)  # the diaphragm itself
    inner = region + 3.0
    canvas.paint_coarse(inner, torso.fat_hu)
    x, y, z = canvas.coarse
    rng = np.random.default_rng(int(torso.phase * 1e6))
    low = torso.floor
    edge = 25 + 30 * rng.random()
    liver = np.maximum(region + 0.6, (x - np.float32(edge) + 0.35 * (low - z) + 0.4 * (y + 60)) * 0.8)
    canvas.paint_coarse(liver, LIVER_HU + rng.normal(0, 6))
    spleen = Ellipsoid((96, 12, low - 50), (30, 38, 45)).distance(canvas.coarse)
    canvas.paint_coarse(np.maximum(spleen, region + 5), SPLEEN_HU)
    stomach = Ellipsoid((62, -42, low - 38), (38, 42, 38), rotation((0, 0, 25))).distance(canvas.coarse)
    stomach = np.maximum(stomach, inner + 2)
    canvas.paint_coarse(stomach, STOMACH_HU + 15)
    level = -42 - rng.uniform(-15, 30)
    canvas.paint_coarse(np.maximum(stomach + 4, y - np.float32(level)), -980.0)
    canvas.paint_coarse(np.maximum(stomach + 4, np.float32(level) - y), STOMACH_HU)


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
        drop = 38 + 4.5 * rib
        for side in (-1.0, 1.0):
            line = _rib(torso, start, drop, side, rib)
            bony = line[: int(len(line) * (0.86 if rib < 7 else 0.78))]
            outer = canvas.tube(bony, 5.2, outer)
            inner = canvas.tube(bony, 3.4, inner)
            if rib < 9:
                gristle = line[len(bony) - 1 :]
                cartilage = canvas.tube(gristle, 5.4, cartilage)
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


def paint_lung_vessels(canvas: Canvas, hila: Points, rng: np.random.Generator) -> None:
    """Paint a branching tree from each hilum (n, 3) through the lungs."""
    share = np.zeros_like(canvas.hu)
    low = np.array([canvas.x[0], canvas.y[0], canvas.z[0]], np.float64) - 25
    high = np.array([canvas.x[-1], canvas.y[-1], canvas.z[-1]], np.float64) + 25
    stack = []
    for hilum in hila:
        for _ in range(10):
            way = rng.normal(0, 1, 3) + np.array([np.sign(hilum[0]) * 0.9, 0.1, -0.2])
            stack.append((hilum + rng.normal(0, 6, 3), way / np.linalg.norm(way), rng.uniform(1.6, 4.4)))
    while stack:
        start, way, radius = stack.pop()
        # Drawn first, so that the tree is the same whatever part of it the canvas shows.
        length = rng.uniform(9, 18) + radius * 3
        turns = rng.normal(0, 0.22, (3, 3))
        children = rng.normal(0, 0.55, (2, 3)), rng.uniform(0.6, 0.84, 2), rng.random(2)
        points = [start]
        for turn in turns:
            way = way + turn
            way = way / np.linalg.norm(way)
            points.append(points[-1] + way * length / 3)
        if np.all(start > low) and np.all(start < high):
            line = np.array(points if radius > 1.2 else points[::3])
            canvas.tube(line, np.linspace(radius, radius * 0.85, len(line)), share)
        if radius > 0.8:
            for bend, thinner, luck in zip(*children, strict=True):
                if luck < 0.9:
                    stack.append((points[-1], (way + bend) / np.linalg.norm(way + bend), radius * thinner))
    # Only in the lung: elsewhere the tissue is already there.
    share *= np.clip((-300 - canvas.hu) / 300, 0, 1)
    canvas.paint(share, 35.0)


def paint_airways(canvas: Canvas, torso: Torso, rng: np.random.Generator) -> None:
    """Paint trachea, main bronchi and oesophagus."""
    carina = np.array([-1 + rng.normal(0, 2), -19 + rng.normal(0, 2), 84 + rng.normal(0, 4)])
    radius = rng.uniform(7.5, 10.5)
    lines = [
        (spline(np.vstack([[-1, -26, 200], [-2, -24, 140], carina]), 20), radius),
        (
            spline(
                np.vstack([carina, carina + [-16, 0, -16], carina + [-36, 4, -28], carina + [-46, 8, -55]]), 16
            ),
            radius * 0.72,
        ),
        (
            spline(
                np.vstack([carina, carina + [18, 2, -15], carina + [40, 6, -27], carina + [52, 14, -55]]), 16
            ),
            radius * 0.66,
        ),
    ]
    wall = inner = None
    for line, r in lines:
        taper = np.linspace(r, r * 0.8, len(line))
        wall = canvas.tube(line, taper + 1.4, wall)
        inner = canvas.tube(line, taper, inner)
    assert wall is not None
    assert inner is not None
    canvas.paint(wall, 60.0)
    canvas.paint(inner, -985.0)
    gullet = spline(
        np.array(
            [
                [6, -14, 200],
                [5, -10, 120],
                [6, -7, 70],
                [8, -5, 30],
                [10, -6, 0],
                [15, -14, -45],
                [26, -24, -85],
            ]
        )
        + rng.normal(0, 1.5, (7, 3)),
        40,
    )
    canvas.paint_tube(gullet, rng.uniform(6, 9), 40.0)
    if rng.random() < 0.5:
        first = int(rng.integers(0, 30))
        canvas.paint_tube(gullet[first : first + int(rng.integers(4, 12))], rng.uniform(1.5, 5.0), -800.0)
    azygos = spline(np.array([[-8, 2, -120], [-7, 2, 0], [-8, 1, 70], [-18, -14, 88], [-27, -46, 86]]), 30)
    canvas.paint_tube(azygos, rng.uniform(2.5, 5), 42.0)
    for _ in range(rng.poisson(6)):  # lymph nodes
        at = np.array([rng.normal(0, 22), rng.uniform(-60, -15), rng.uniform(55, 115)])
        canvas.paint_shape(Ellipsoid(tuple(at), tuple(rng.uniform(2.5, 6, 3))).distance, at - 8, at + 8, 40.0)


def paint_table(canvas: Canvas, torso: Torso) -> None:
    """Paint the couch behind the back."""
    x, y, z = canvas.coarse
    back = torso.back + torso.wall + torso.fat * 0.75 + 34
    surface = np.abs(y - np.float32(back) + (x / 30) ** 2) - 1.4
    canvas.paint_coarse(np.broadcast_to(np.maximum(surface, np.abs(x) - 220), canvas.coarse_shape), -750.0)
