"""Paints one patient on a canvas: trunk, mediastinum, heart, coronary arteries."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from models.training.phantom.canvas import Canvas
from models.training.phantom.coronaries import Branch
from models.training.phantom.heart import Heart
from models.training.phantom.lungs import paint_airways, paint_lung_vessels
from models.training.phantom.motion import Motion
from models.training.phantom.shapes import Array, Field, arc_length, smooth_union
from models.training.phantom.skeleton import paint_skeleton
from models.training.phantom.torso import Torso, paint_body, paint_table


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
    sinus_fat: float  # mm more around the left main and the first part of LAD, LCX and RCA
    pericardium_hu: float  # where it is thin it hardly shows
    seed: int

    def blood(self, region: str) -> float:
        """Return the HU of blood in a region."""
        return self.blood_hu if self.contrast is None else self.contrast[region]


VESSEL_REGION = {
    "aorta": "left", "trunk": "right", "rpa": "right", "lpa": "right", "svc": "veins", "ivc": "late",
    "rspv": "left", "ripv": "left", "lspv": "left", "lipv": "left",
}  # fmt: skip
NEAR_ROOT = {"LM": 0.0, "LAD": 10.0, "LCX": 10.0, "RCA": 6.0}  # branches that begin near the aorta: mm from it
TREE_SAMPLES = 5  # phases over which the soft vessels are smeared
HUGGED = {"aorta": 45, "trunk": 24, "rpa": 12, "lpa": 10, "svc": 18}  # points of each vessel with fat around
CAVITY_REGION = {"LV": "left", "LA": "left", "RV": "right", "RA": "right"}


def paint(canvas: Canvas, patient: Patient) -> None:
    """Paint a patient."""
    heart, torso = patient.heart, patient.torso
    rng = np.random.default_rng(patient.seed)
    cavity = paint_body(canvas, torso)
    x, y, z = canvas.coarse
    shift = patient.motion.samples("muscle", z[:, 0, 0], 4).mean(axis=0).astype(np.float32)[:, :, None, None]
    where = heart.warp.inverse((x - shift[:, 0], y - shift[:, 1], z - shift[:, 2]))
    envelope = heart.envelope(where)
    fat = torso.fat_hu + 4

    # Fat between the lungs: around the heart down to the diaphragm, along oesophagus and aorta, up to the neck.
    wide = np.float32(torso.mediastinum)
    low = np.sqrt(((x - 9) / 25) ** 2 + ((y + 3) / 15) ** 2) * 15 - 15 - wide * 0.5
    deeper = np.float32(torso.ahead / 2)
    high = np.sqrt(((x + 2) / 30) ** 2 + ((y + 34 + deeper) / (46 + deeper)) ** 2) * 30 - 30 - wide * 0.6
    high = np.maximum(high, 22 - z)
    # Retrosternal fat: a wedge behind the chest wall that thins towards the heart.
    centre, depth = torso.half_depth(z)
    wedge = np.clip(14 - (y - centre + depth), 0, 14) * np.float32(0.3 + 0.12 * torso.mediastinum)
    front = np.maximum(np.abs(x - 4 - 0.1 * z) - wide * 0.4 - 0.8 - wedge, y + 60 + 2 * deeper)
    # Under its largest section the heart stands on fat that reaches the diaphragm.
    middle = np.float32(torso.floor + 42)
    lifted = np.where(z < middle, middle - (middle - z) * np.float32(torso.foot), z)
    below = heart.warp.inverse((x - shift[:, 0], y - shift[:, 1], lifted - shift[:, 2]))
    foot = heart.envelope(below) + 1.0
    pads = wide * np.float32(0.5) * np.clip(np.sin(x / 23 + torso.phase) + np.sin(z / 19 - y / 27 + 2), -0.6, 2)
    between = smooth_union(smooth_union(low, high, 14.0), np.minimum(envelope, foot) - np.maximum(pads, 0), 9.0)
    between = smooth_union(between, front, 10.0)
    between = np.maximum(between, cavity - 1.0)
    lumps = 1.2 * np.sin(x / 11) * np.sin(y / 9 + 1) * np.sin(z / 12 + torso.phase)
    above = (torso.diaphragm(x, y) - z) * np.float32(0.75)
    canvas.paint_coarse(np.maximum(between + lumps, above), fat)

    for name, count in HUGGED.items():
        points, radii = heart.vessels[name]
        canvas.paint_tube(points[:count], radii[:count] + 1.5 + 0.4 * torso.mediastinum, fat)

    # Great vessels.
    regions: dict[str, Array] = {}
    for name, (points, radii) in heart.vessels.items():
        region = VESSEL_REGION[name]
        regions[region] = canvas.tube(points, radii, regions.get(region))
    walls = np.zeros_like(canvas.hu)
    for region, tube in regions.items():
        canvas.paint(tube, patient.blood(region))
        np.maximum(walls, tube, out=walls)
    branches = np.array([[2, -46, 100], [16, -30, 112]]) + rng.normal(0, 2, (2, 3))
    for side, start in ((-1.0, branches[0]), (1.0, branches[1])):
        line = start + np.array([[0, 0, 0], [side * 12, -4, 30], [side * 26, -2, 60]])
        canvas.paint_tube(line, rng.uniform(4.0, 6.5), patient.blood("left"))

    # Heart: pericardium, epicardial fat, muscle, blood.
    outer = canvas.fine(np.maximum(envelope, cavity - 0.5))
    bare = 1 - walls
    canvas.paint(canvas.inside(outer) * bare, patient.pericardium_hu)
    canvas.paint(canvas.inside(outer + 1.3) * bare, fat)
    sleeve = np.zeros_like(canvas.hu)
    for branch in patient.tree:
        around = branch.radii + patient.vessel_fat
        if branch.name in NEAR_ROOT:  # fat of the transverse sinus around the first centimetres
            along = arc_length(branch.points) + NEAR_ROOT[branch.name]
            around = around + patient.sinus_fat * np.clip(1.4 - along / 18, 0, 1)
        canvas.tube(branch.points, around, sleeve)
    canvas.paint(sleeve * bare, fat)
    muscle = _muscle(canvas, patient, where)
    muscle *= 1 - 0.9 * sleeve  # arteries lie in fat, not in muscle
    canvas.paint(muscle, patient.muscle_hu)
    for name, distance in heart.blood(where).items():
        share = np.minimum(canvas.inside(canvas.fine(distance)), muscle)
        canvas.paint(share, patient.blood(CAVITY_REGION[name]))
    for name, count in (("aorta", 24), ("trunk", 24)):
        points, radii = heart.vessels[name]
        canvas.paint_tube(points[:count], radii[:count], patient.blood(VESSEL_REGION[name]))
    _paint_tree(canvas, patient)

    paint_airways(canvas, rng, 0.6 * torso.ahead)
    paint_skeleton(canvas, torso)
    ends = np.array([heart.vessels[name][0][-1] for name in ("rpa", "lpa", "rspv", "ripv", "lspv", "lipv")])
    paint_lung_vessels(canvas, ends, rng)
    paint_table(canvas, torso)
    _mottle(canvas, rng)


def _muscle(canvas: Canvas, patient: Patient, where: Field) -> Array:
    """Return the share of muscle and chambers, its border doubled by the motion within one slice's window."""
    heart, motion = patient.heart, patient.motion
    x, y, z = canvas.coarse
    if motion.amplitude < 1.0:
        return canvas.inside(canvas.fine(heart.muscle(where)))
    shifts = motion.samples("muscle", z[:, 0, 0], 3).astype(np.float32)
    total = np.zeros_like(canvas.hu)
    for shift in (shifts[0], shifts[-1]):
        dx, dy, dz = (shift[:, axis, None, None] for axis in range(3))
        total += canvas.inside(canvas.fine(heart.muscle(heart.warp.inverse((x - dx, y - dy, z - dz)))))
    total *= np.float32(0.5)
    return total


def _paint_tree(canvas: Canvas, patient: Patient) -> None:
    """Paint the coronary arteries and veins as the motion smears them."""
    motion = patient.motion
    total = np.zeros_like(canvas.hu)
    used = np.zeros_like(canvas.hu)
    for sample in range(TREE_SAMPLES):
        used[...] = 0
        for branch in patient.tree:
            part = {0: "LCX", 1: "LAD", 2: "LCX", 3: "RCA"}[branch.label]
            if branch.name == "LM":
                part = "LM"
            moved = branch.points + motion.samples(part, branch.points[:, 2], TREE_SAMPLES)[sample]
            canvas.tube(moved, branch.radii, used)
        total += used
    total /= TREE_SAMPLES
    # Blood in the arteries, in fat; inside the muscle it makes no difference.
    canvas.paint(total, patient.blood("left") if patient.contrast else patient.blood_hu + 2)


def _mottle(canvas: Canvas, rng: np.random.Generator) -> None:
    """Add the unevenness of tissue: some HU over a few mm."""
    coarse = rng.standard_normal(canvas.coarse_shape, dtype=np.float32) * np.float32(rng.uniform(3, 11))
    canvas.hu += canvas.fine(coarse)
