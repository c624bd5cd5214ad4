"""The chest of a sketch: every organ one or two shapes, every size and density drawn widely."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from models.training.sketch.drawing import Sheet, ellipsoid, polyline

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float32]
    Points = NDArray[np.float64]
    Three = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Chest:
    """What was drawn; lengths in mm, z = 0 at the diaphragm, x = y = 0 in the middle.

    Parameters
    ----------
    half_width, half_depth, power
        Of the body's outline, a superellipse.
    fat, wall
        Thickness of subcutaneous fat and of the chest wall.
    apex
        z of the lungs' upper ends.
    heart_centre, heart_radii, heart_turn
        Main ellipsoid of the heart.
    right_centre, right_radii
        Of the right heart.
    heart_fat
        Epicardial fat.
    bifurcation
        z of the bifurcation of the pulmonary trunk.
    spine_y
        Of the vertebral bodies.
    blood_hu, fat_hu, muscle_hu, lung_hu
        Densities.
    """

    half_width: float
    half_depth: float
    power: float
    fat: float
    wall: float
    apex: float
    heart_centre: Three
    heart_radii: Three
    heart_turn: float
    right_centre: Three
    right_radii: Three
    heart_fat: float
    bifurcation: float
    spine_y: float
    blood_hu: float
    fat_hu: float
    muscle_hu: float
    lung_hu: float

    @property
    def cavity(self) -> tuple[float, float]:
        """Half width and half depth inside the chest wall."""
        return self.half_width - self.fat - self.wall, self.half_depth - self.fat - self.wall

    @property
    def aorta(self) -> Points:
        """Centre line from the root over the arch to the abdomen, (n, 3)."""
        x, y, _ = self.heart_centre
        top = self.bifurcation + 42
        root = self.bifurcation - 32
        behind = (22.0, self.spine_y - 20)
        knots = [
            (x - 14, y + 2, root),
            (x - 28, y - 8, root + 30),
            (x - 30, y - 4, top - 16),
            (x - 16, y + 12, top),
            (behind[0] - 3, behind[1] - 12, top),
            (behind[0], behind[1], top - 16),
            (behind[0] - 2, behind[1] + 2, 40.0),
            (6.0, behind[1] + 2, -140.0),
        ]
        return polyline(np.array(knots), 3.0)

    def muscle(self, grid: tuple[Array, Array, Array], grow: float = 0.0) -> NDArray[np.bool_]:
        """Return where a grid (x, y, z) lies in the heart, grown by so many mm."""
        x, y, z = grid
        left = ellipsoid((x, y, z), self.heart_centre, [r + grow for r in self.heart_radii], self.heart_turn)
        return left | ellipsoid((x, y, z), self.right_centre, [r + grow for r in self.right_radii])


def draw_chest(rng: np.random.Generator) -> Chest:
    """Draw a patient."""
    width = rng.uniform(135, 205)
    depth = width * rng.uniform(0.64, 0.88)
    fat, wall = rng.uniform(4, 38) * width / 205, rng.uniform(8, 20)
    cavity = depth - fat - wall
    spine_y = cavity * rng.uniform(0.62, 0.9)
    drawn = (rng.uniform(52, 76), rng.uniform(42, 60), rng.uniform(40, 62))
    radii = (min(drawn[0], cavity * 0.9), min(drawn[1], cavity * 0.68), drawn[2])
    front = -cavity + radii[1] + rng.uniform(8, 22)
    low = rng.uniform(-12, 12)  # the lower wall lies on the diaphragm
    centre = (rng.uniform(8, 40), front + rng.uniform(0, 18), low + radii[2])
    right = (
        centre[0] - rng.uniform(20, 42),
        centre[1] - rng.uniform(-6, 12),
        centre[2] + rng.uniform(-14, 10),
    )
    return Chest(
        half_width=width,
        half_depth=depth,
        power=rng.uniform(1.9, 3.0),
        fat=fat,
        wall=wall,
        apex=rng.uniform(170, 250),
        heart_centre=centre,
        heart_radii=radii,
        heart_turn=rng.uniform(0.1, 0.9),
        right_centre=right,
        right_radii=(rng.uniform(32, 48), rng.uniform(32, 48), radii[2] * rng.uniform(0.6, 0.9)),
        heart_fat=rng.uniform(1, 12),
        bifurcation=centre[2] + radii[2] + rng.uniform(-12, 14),
        spine_y=spine_y,
        blood_hu=rng.uniform(28, 55),
        fat_hu=rng.uniform(-120, -75),
        muscle_hu=rng.uniform(35, 70),
        lung_hu=rng.uniform(-920, -720),
    )


def paint(sheet: Sheet, chest: Chest, rng: np.random.Generator, contrast: float | None) -> None:
    """Paint a chest without calcium; `contrast` is the HU of its blood, or None."""
    _trunk(sheet, chest, rng)
    _lungs(sheet, chest, rng)
    _column(sheet, chest, rng)
    _bones(sheet, chest, rng)
    _vessels(sheet, chest, rng, contrast)


def _trunk(sheet: Sheet, chest: Chest, rng: np.random.Generator) -> None:
    endless = 1e4
    for grown, hu in ((0.0, chest.fat_hu), (-chest.fat, chest.muscle_hu)):
        sides = (chest.half_width + grown, chest.half_depth + grown, endless)
        sheet.ellipsoid((0, 0, 0), sides, hu, power=chest.power)
    a, b = chest.cavity
    belly = rng.choice([chest.fat_hu, 20.0, 45.0])
    sheet.ellipsoid((0, 0, 0), (a, b, endless), belly, power=chest.power, below=20)
    if rng.random() < 0.5:  # the table
        y = chest.half_depth + rng.uniform(2, 15)
        window = sheet.window((-220, y, -1e4), (220, y + rng.uniform(4, 20), 1e4))
        sheet.hu[window] = np.maximum(sheet.hu[window], rng.uniform(-850, -100))
    if rng.random() < 0.2:  # arms beside the body
        for side in (-1, 1):
            at = (side * (chest.half_width + 42), rng.uniform(-20, 30))
            line = np.array([[*at, z] for z in np.arange(-300.0, 400.0, 6.0)])
            sheet.tube(line, np.full(len(line), 38.0), chest.muscle_hu)
            sheet.tube(line, np.full(len(line), 11.0), 500.0)
    neck = chest.apex + rng.uniform(10, 40)
    s = sheet.window((-1e4, -1e4, neck), (1e4, 1e4, 1e4))[0]
    narrow = ellipsoid(sheet.grid((s, slice(None), slice(None))), (0, 10, 0), (70, 65, endless))
    sheet.hu[s][~np.broadcast_to(narrow, sheet.hu[s].shape)] = -1000
    sheet.hu[s] = np.where(sheet.hu[s] > -300, chest.muscle_hu, sheet.hu[s])


def _lungs(sheet: Sheet, chest: Chest, rng: np.random.Generator) -> None:
    a, b = chest.cavity
    power = rng.uniform(2.0, 2.8)
    for side in (-1, 1):
        radii = (a * rng.uniform(0.40, 0.49), b * rng.uniform(0.82, 0.97), chest.apex)
        sheet.ellipsoid((side * a * 0.5, 0, -10), radii, chest.lung_hu, power=power, above=-45)
    for _ in range(int(rng.integers(20, 160))):  # vessels
        side = rng.choice([-1, 1])
        start = np.array([side * 35.0, 5.0, chest.bifurcation + rng.normal(0, 15)])
        end = start + rng.normal(0, 1, 3) * (20, 45, 55) + np.array([side * rng.uniform(10, 70), 0, 0])
        line = polyline(np.stack([start, end]), 3.0)
        for point, radius in zip(line, np.linspace(rng.uniform(1.5, 4), 0.8, len(line)), strict=True):
            window = sheet.window(point - radius, point + radius)
            part = sheet.hu[window]
            part[part < -500] = rng.uniform(-100, 50)
    # Liver on the right, stomach or spleen on the left, both below their domes.
    liver = rng.uniform(45, 70)
    sheet.ellipsoid((-a * 0.45, 0, -70), (a * 0.62, b * 0.97, 70 + rng.uniform(0, 28)), liver, power=power)
    left = rng.uniform(30, 60)
    sheet.ellipsoid((a * 0.5, 5, -75), (a * 0.5, b * 0.9, 75 + rng.uniform(-12, 14)), left, power=power)
    if rng.random() < 0.5:  # air in the stomach
        at = (a * 0.4, -b * 0.3, -35)
        sheet.ellipsoid(at, (rng.uniform(15, 40), rng.uniform(12, 30), rng.uniform(12, 28)), -950)


def _column(sheet: Sheet, chest: Chest, rng: np.random.Generator) -> None:
    _, b = chest.cavity
    filling = rng.choice([chest.fat_hu, chest.fat_hu, 10.0, 35.0])
    wide = rng.uniform(26, 44)
    middle = (chest.spine_y - b) / 2
    sheet.ellipsoid(
        (2, middle, 0), (wide, (chest.spine_y + b) / 2 + 4, 1e4), filling,
        above=0, below=chest.apex, power=2.5,
    )  # fmt: skip


def _bones(sheet: Sheet, chest: Chest, rng: np.random.Generator) -> None:
    spongy, cortex = rng.uniform(90, 260), rng.uniform(350, 900)
    radius, height = rng.uniform(16, 23), rng.uniform(22, 31)
    y = chest.spine_y + rng.uniform(0, 6)
    endless = 1e4
    sheet.ellipsoid((0, y, 0), (radius, radius * 0.85, endless), cortex, power=2.4)
    sheet.ellipsoid((0, y, 0), (radius - 1.8, radius * 0.85 - 1.8, endless), spongy, power=2.4)
    discs = (sheet.z % height) < height * 0.2
    window = sheet.window((-30, y - 30, -1e4), (30, y + 30, 1e4))
    body = ellipsoid(sheet.grid(window), (0, y, 0), (radius, radius * 0.85, endless), power=2.4)
    part = sheet.hu[window]
    part[body & discs[:, None, None]] = rng.uniform(60, 110)
    canal = y + radius * 0.85 + 9
    sheet.ellipsoid((0, canal + 2, 0), (19, 15, endless), cortex * 0.8)
    sheet.ellipsoid((0, canal, 0), (9, 8, endless), 30)
    a, b = chest.cavity
    front = -b - rng.uniform(2, 6)
    half = rng.uniform(12, 22)
    for grown, hu in ((0.0, cortex * 0.8), (-1.8, spongy)):
        sheet.ellipsoid((0, front, 85), (half + grown, 6 + grown, 85), hu, power=4)
    # Ribs: rings that fall towards the front, in front made of cartilage.
    period, slope = rng.uniform(20, 30), rng.uniform(0.2, 0.7)
    thick = min(chest.wall * 0.5, rng.uniform(5, 10))
    window = sheet.window((-a - 20, -b - 20, -60), (a + 20, b + 20, chest.apex + 15))
    x, yy, z = sheet.grid(window)
    outer = ellipsoid((x, yy, z), (0, 0, 0), (a + thick + 1, b + thick + 1, endless), power=chest.power)
    inner = ellipsoid((x, yy, z), (0, 0, 0), (a + 1, b + 1, endless), power=chest.power)
    ring = outer & ~inner & (((z + slope * yy) % period) < period * rng.uniform(0.3, 0.5))
    part = sheet.hu[window]
    part[ring & (np.abs(x) > 25)] = rng.uniform(250, 600)
    part[ring & (yy < -b * 0.6) & (np.abs(x) > 18)] = rng.uniform(80, 260)


def _vessels(sheet: Sheet, chest: Chest, rng: np.random.Generator, contrast: float | None) -> None:
    centre = np.array(chest.heart_centre)
    blood = chest.blood_hu if contrast is None else contrast
    window = sheet.window(tuple(centre - 130), tuple(centre + 130))
    part, grid = sheet.hu[window], sheet.grid(window)
    part[chest.muscle(grid, chest.heart_fat)] = chest.fat_hu
    part[chest.muscle(grid)] = chest.muscle_hu * 0.5 + chest.blood_hu * 0.5
    part[chest.muscle(grid, -rng.uniform(5, 12))] = blood
    tree = chest.bifurcation
    x, y, _ = chest.heart_centre
    trunk = polyline(
        np.array([(x + 2, y - 24, tree - 45), (x + 4, y - 18, tree - 15), (x - 2, y - 4, tree)]), 3.0
    )
    branches = [
        polyline(np.array([(x - 2, y - 4, tree + 4), (x + side, y + 16, tree + 6)]), 3.0)
        for side in (-62.0, 38.0)
    ]
    pulmonary, aorta = rng.uniform(11, 16), rng.uniform(12, 19)
    sheet.tube(trunk, np.full(len(trunk), pulmonary), blood)
    for line in branches:
        sheet.tube(line, np.full(len(line), pulmonary * 0.75), blood)
    line = chest.aorta
    sheet.tube(line, np.linspace(aorta, aorta * 0.75, len(line)), blood)
    cava = np.array([(x - 52, y + 4, z) for z in np.arange(tree - 30, chest.apex, 4.0)])
    sheet.tube(cava, np.full(len(cava), rng.uniform(7, 11)), blood * (1.5 if contrast else 1.0))
    airway = np.array([(0.0, y + 28, z) for z in np.arange(tree + 14, chest.apex + 60, 3.0)])
    sheet.tube(airway, np.full(len(airway), rng.uniform(7, 10)), -990, wall=(1.5, 30))
    for side in (-45.0, 45.0):
        bronchus = polyline(np.array([(0, y + 28, tree + 14), (side, y + 30, tree - 14)]), 3.0)
        sheet.tube(bronchus, np.full(len(bronchus), 5.5), -990, wall=(1.2, 30))
    gullet = np.array([(6.0, chest.spine_y - 22, z) for z in np.arange(-40, chest.apex, 4.0)])
    sheet.tube(gullet, np.full(len(gullet), 7.0), rng.uniform(20, 45))
