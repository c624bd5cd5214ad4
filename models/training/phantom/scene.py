"""Paints one patient on a canvas: trunk, mediastinum, heart, coronary arteries."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from models.training.phantom.canvas import Canvas
from models.training.phantom.coronaries import Branch
from models.training.phantom.heart import Heart
from models.training.phantom.motion import Motion
from models.training.phantom.shapes import Array, smooth_union
from models.training.phantom.torso import (
    Torso,
    paint_airways,
    paint_body,
    paint_lung_vessels,
    paint_skeleton,
    paint_table,
)


@dataclass
class Patient:
    """Everything that was drawn about one patient, patient frame, LPS mm."""

    heart: Heart
    torso: Torso
    tree: list[Branch]
    motion: Motion
    blood_hu: float
    muscle_hu: float
    contrast: dict[str, float] | None  # HU by region (right, left, aorta, veins), None without contrast
    vessel_fat: float  # mm of fat around a coronary artery
    seed: int

    def blood(self, region: str) -> float:
        """Return the HU of blood in a region."""
        return self.blood_hu if self.contrast is None else self.contrast[region]


VESSEL_REGION = {
    "aorta": "left", "trunk": "right", "rpa": "right", "lpa": "right", "svc": "veins", "ivc": "late",
    "rspv": "left", "ripv": "left", "lspv": "left", "lipv": "left",
}  # fmt: skip
CAVITY_REGION = {"LV": "left", "LA": "left", "RV": "right", "RA": "right"}


def paint(canvas: Canvas, patient: Patient) -> None:
    """Paint a patient."""
    heart, torso = patient.heart, patient.torso
    rng = np.random.default_rng(patient.seed)
    cavity = paint_body(canvas, torso)
    x, y, z = canvas.coarse
    shift = patient.motion.shifts("muscle", z[:, 0, 0]).mean(axis=0).astype(np.float32)[:, :, None, None]
    where = heart.warp.inverse((x - shift[:, 0], y - shift[:, 1], z - shift[:, 2]))
    envelope = heart.envelope(where)
    fat = torso.fat_hu + 4

    # Fat between the lungs: around the heart, along oesophagus and aorta, and above the heart up to the neck.
    wide = np.float32(torso.mediastinum)
    low = np.sqrt(((x - 9) / 25) ** 2 + ((y + 3) / 15) ** 2) * 15 - 15 - wide * 0.5
    high = np.sqrt(((x + 2) / 30) ** 2 + ((y + 34) / 46) ** 2) * 30 - 30 - wide * 0.6
    high = np.maximum(high, 40 - z)
    front = np.maximum(np.abs(x - 4 - 0.1 * z) - wide * 0.5 - 1.0, y + 60)
    between = smooth_union(smooth_union(low, high, 14.0), envelope - wide * np.float32(0.45), 12.0)
    between = smooth_union(between, front, 10.0)
    between = np.maximum(between, cavity - 1.0)
    lumps = 2.0 * np.sin(x / 11) * np.sin(y / 9 + 1) * np.sin(z / 12 + torso.phase)
    above = (torso.diaphragm(x, y) - z) * np.float32(0.75)
    share = canvas.inside(canvas.fine(np.maximum(between + lumps, above)))
    canvas.paint(share, fat)

    # Great vessels.
    regions: dict[str, Array | None] = {}
    walls = None
    for name, (points, radii) in heart.vessels.items():
        region = VESSEL_REGION[name]
        regions[region] = canvas.tube(points, radii, regions.get(region))
    for region, tube in regions.items():
        assert tube is not None
        canvas.paint(tube, patient.blood(region))
        walls = tube if walls is None else np.maximum(walls, tube)
    branches = np.array([[2, -46, 100], [16, -30, 112]]) + rng.normal(0, 2, (2, 3))
    for side, start in ((-1.0, branches[0]), (1.0, branches[1])):
        line = np.stack([start, start + [side * 12, -4, 30], start + [side * 26, -2, 60]])
        canvas.paint(canvas.tube(line, rng.uniform(4.0, 6.5)), patient.blood("left"))

    # Heart: pericardium, epicardial fat, muscle, blood.
    outer = np.maximum(envelope, cavity - 0.5)
    canvas.paint(np.maximum(canvas.inside(canvas.fine(outer)) - walls * 0.999, 0), 25.0)
    canvas.paint(np.maximum(canvas.inside(canvas.fine(outer + 1.4)) - walls * 0.999, 0), fat)
    around = None
    for branch in patient.tree:
        around = canvas.tube(branch.points, branch.radii + patient.vessel_fat, around)
    assert around is not None
    lung = canvas.hu < -400
    canvas.paint(np.where(lung, around, 0).astype(np.float32), fat)
    muscle = canvas.inside(canvas.fine(heart.muscle(where)))
    canvas.paint(muscle, patient.muscle_hu)
    for name, distance in heart.blood(where).items():
        share = np.minimum(canvas.inside(canvas.fine(distance)), muscle)
        canvas.paint(share, patient.blood(CAVITY_REGION[name]))
    for name in ("aorta", "trunk"):
        points, radii = heart.vessels[name]
        count = 24 if name == "aorta" else 12
        canvas.paint(canvas.tube(points[:count], radii[:count]), patient.blood(VESSEL_REGION[name]))
    _paint_tree(canvas, patient)

    paint_airways(canvas, torso, rng)
    paint_skeleton(canvas, torso)
    ends = np.array([heart.vessels[name][0][-1] for name in ("rpa", "lpa", "rspv", "ripv", "lspv", "lipv")])
    paint_lung_vessels(canvas, torso, ends, rng)
    paint_table(canvas, torso)
    _mottle(canvas, rng)


def _paint_tree(canvas: Canvas, patient: Patient) -> None:
    """Paint the coronary arteries and veins as the motion smears them."""
    motion = patient.motion
    total = np.zeros_like(canvas.hu)
    used = np.zeros_like(canvas.hu)
    for sample in range(motion.samples):
        used[...] = 0
        for branch in patient.tree:
            part = {0: "LCX", 1: "LAD", 2: "LCX", 3: "RCA"}[branch.label]
            if branch.name == "LM":
                part = "LM"
            moved = branch.points + motion.shifts(part, branch.points[:, 2])[sample]
            canvas.tube(moved, branch.radii, used)
        total += used
    total /= motion.samples
    # Blood in the arteries, in fat; inside the muscle it makes no difference.
    canvas.paint(total, patient.blood("left") if patient.contrast else patient.blood_hu + 2)


def _mottle(canvas: Canvas, rng: np.random.Generator) -> None:
    """Add the unevenness of tissue: some HU over a few mm."""
    coarse = rng.standard_normal(canvas.coarse_shape, dtype=np.float32) * np.float32(rng.uniform(3, 11))
    canvas.hu += canvas.fine(coarse)
