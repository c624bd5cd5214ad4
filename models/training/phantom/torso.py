"""The trunk: its shape, the body wall, the space of the lungs, the abdomen and the table."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from models.training.phantom.canvas import Canvas
from models.training.phantom.shapes import Array, Ellipsoid, Field, rotation

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
    glands: np.ndarray  # (n, 4): wave vectors and phases of the breast's glands
    rib: float = 5.2  # radius of ribs
    cortex: float = 1.8  # thickness of their hard shell
    slope: float = 1.0  # how steeply ribs fall to the front, relative to most people's
    ahead: float = 0.0  # mm by which the heart lies in front of where it almost touches the spine

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
        deeper = np.float32(self.ahead / 2)
        right = self.dome[0] - ((x + 68) / 74) ** 2 * 48 - ((y + 38 + deeper) / (80 + deeper)) ** 2 * 52
        left = self.dome[1] - ((x - 70) / 76) ** 2 * 48 - ((y + 32 + deeper) / (80 + deeper)) ** 2 * 52
        under = np.abs(y + 60 + 2 * deeper) / 62
        middle = self.floor - (np.abs(x - 18) / 75) ** 3 * 30 - under**3 * 30
        return np.asarray(np.maximum(np.maximum(right, left), middle), dtype=np.float32)


def draw_torso(
    rng: np.random.Generator, heart_low: float, heart_front: float, shift: float = 0.0, ahead: float = 0.0
) -> Torso:
    """Draw a trunk that fits a heart whose lowest point is at z `heart_low` and foremost at y `heart_front`.

    `ahead` as the heart was drawn with.
    """
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
        glands=np.column_stack([n(0, 0.7, (6, 3)), rng.uniform(0, 2 * np.pi, 6)]),
        ahead=ahead,
    )


def crowded(torso: Torso, heart_left: float, heart_front: float, rng: np.random.Generator) -> Torso:
    """Return a narrow, flat trunk that the heart touches, with thin ribs of low density.

    Parameters
    ----------
    torso
        Drawn for the heart.
    heart_left, heart_front
        Its largest x and its lowest y, LPS mm.
    rng
        Source of what is drawn.
    """
    rib = rng.uniform(2.8, 5.4)
    return replace(
        torso,
        half_width=min(torso.half_width, heart_left + rng.uniform(-4, 14)),
        front=heart_front - rng.uniform(-6, 4),
        wall=rng.uniform(10, 18),
        bone=torso.bone * rng.uniform(0.45, 1.0),
        rib=rib,
        cortex=min(rng.uniform(0.7, 1.9), rib - 1.2),
        slope=rng.uniform(0.8, 2.4),
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
        glands = 0.9 + sum(
            np.sin((a * x + b * y + c * z) / 6 + p) for a, b, c, p in torso.glands.astype(np.float32)
        ) / np.float32(2.2)
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


def paint_table(canvas: Canvas, torso: Torso) -> None:
    """Paint the couch behind the back."""
    x, y, _ = canvas.coarse
    back = torso.back + torso.wall + torso.fat * 0.75 + 34
    surface = np.abs(y - np.float32(back) + (x / 30) ** 2) - 1.4
    canvas.paint_coarse(np.broadcast_to(np.maximum(surface, np.abs(x) - 220), canvas.coarse_shape), -750.0)
