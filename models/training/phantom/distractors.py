"""Draws calcium outside the coronary arteries, and metal: what a network mistakes for coronary calcium."""

from __future__ import annotations

import numpy as np

from models.training.phantom.coronaries import Branch
from models.training.phantom.deposits import Deposit
from models.training.phantom.heart import Heart
from models.training.phantom.plaques import PART
from models.training.phantom.shapes import Points, arc_length, frames

METAL_HU = 9000.0  # steel and alloys, before a scanner clips them


def distractors(
    heart: Heart, tree: list[Branch], rng: np.random.Generator, shift: float = 0.0, rarities: float = 1.0
) -> list[Deposit]:
    """Return calcium outside the coronary arteries, and metal, drawn independently of the coronary burden.

    Parameters
    ----------
    heart, tree
        Of the patient.
    rng
        Decides everything.
    shift
        0 for the training distribution, 1 for the shifted one.
    rarities
        See PhantomConfig.
    """
    found: list[Deposit] = []
    # One patient has much of it, another none.
    age = rng.random() ** ((1.0 - 0.2 * shift) / np.sqrt(rarities))
    found += _aortic_wall(heart, age, rng)
    found += _aortic_valve(heart, age, rng)
    found += _mitral_annulus(heart, age, rng)
    found += _elsewhere(heart, age, rng, rarities)
    found += _metal(heart, tree, rng, rarities)
    return found


def hilar_nodes(rng: np.random.Generator) -> list[Deposit]:
    """Return none to three calcified nodes beside the upper heart, as large and dense as big plaques."""
    found = []
    for _ in range(rng.integers(0, 4)):
        at = np.array([rng.choice([-1, 1]) * rng.uniform(25, 62), rng.uniform(-45, 8), rng.uniform(15, 90)])
        cloud = _blob(at, rng.uniform(0.6, 2.5), rng)
        found.append(_cloud((6, "still", "node"), cloud, rng.uniform(1.0, 3.5), rng, rng.uniform(250, 1400)))
    return found


def _aortic_wall(heart: Heart, age: float, rng: np.random.Generator) -> list[Deposit]:
    line, radii = heart.vessels["aorta"]
    _, normal, binormal = frames(line)
    along = arc_length(line)
    found = []
    for _ in range(rng.poisson(11 * age**2)):
        spot = rng.random()
        at = (
            rng.uniform(20, 55)
            if spot < 0.2
            else rng.uniform(95, 165)
            if spot < 0.5
            else rng.uniform(165, along[-1])
        )
        length, arc, thick = rng.gamma(1.5, 4.0) + 1, rng.gamma(1.8, 0.22) + 0.1, rng.uniform(0.45, 1.3)
        middle = rng.uniform(0, 2 * np.pi)
        centers = []
        for s in np.arange(at - length / 2, at + length / 2 + 0.1, 0.9):
            p, n, b = (
                np.array([np.interp(s, along, v[:, axis]) for axis in range(3)])
                for v in (line, normal, binormal)
            )
            r = float(np.interp(s, along, radii))
            width = arc * np.sqrt(max(0.05, 1 - ((s - at) / (length / 2 + 0.5)) ** 2))
            for a in np.arange(middle - width, middle + width + 1e-6, 0.8 / r):
                wall = r - thick * 0.6 + rng.normal(0, 0.12)
                centers.append(p + wall * (np.cos(a) * n + np.sin(a) * b))
        cloud = np.array(centers)
        found.append(_cloud((4, "root" if at < 50 else "still", "aorta"), cloud, thick, rng))
    return found


def _cloud(
    what: tuple[int, str, str],
    centers: Points,
    radius: float,
    rng: np.random.Generator,
    hu: float | None = None,
) -> Deposit:
    """Return spheres of about `radius` at `centers`; `what` is (label, part that it moves with, kind)."""
    level = rng.uniform(220, 1100) if hu is None else hu
    size = np.clip(radius * np.exp(rng.normal(0, 0.2, len(centers))), 0.3, 8.0)
    values = np.clip(level * np.exp(rng.normal(0, 0.15, len(centers))), 150, 1.2e4)
    return Deposit(what[0], what[1], centers, size, values, what[2])


def _aortic_valve(heart: Heart, age: float, rng: np.random.Generator) -> list[Deposit]:
    if rng.random() > 0.1 + 0.45 * age:
        return []
    line, radii = heart.vessels["aorta"]
    tangent, normal, binormal = frames(line)
    i = 3
    found = []
    amount = rng.gamma(1.2, 3.0)
    for leaflet in range(3):
        angle = leaflet * 2 * np.pi / 3 + 0.4
        for _ in range(rng.poisson(amount * 0.6)):
            a, r = angle + rng.normal(0, 0.5), radii[i] * rng.uniform(0.1, 0.95)
            start = (
                line[i]
                + r * (np.cos(a) * normal[i] + np.sin(a) * binormal[i])
                + tangent[i] * rng.uniform(-5, 5)
            )
            steps = np.cumsum(rng.normal(0, 0.6, (rng.integers(2, 12), 3)), axis=0)
            found.append(_cloud((5, "root", "valve"), start + steps, rng.uniform(0.5, 1.6), rng))
    return found


def _mitral_annulus(heart: Heart, age: float, rng: np.random.Generator) -> list[Deposit]:
    if rng.random() > 0.03 + 0.3 * age:
        return []
    # The ring between left atrium and ventricle, inside the muscle: posterior and lateral part, a letter C.
    to = np.array(heart.chambers["LV"].center)
    atrium = np.array(heart.chambers["LA"].center)
    axis = (to - atrium) / np.linalg.norm(to - atrium)
    centre = atrium + axis * (np.linalg.norm(to - atrium) * 0.47)
    u = np.cross(axis, [0.0, 1.0, 0.0])
    u /= np.linalg.norm(u)
    v = np.cross(axis, u)
    if v[1] < 0:
        v = -v  # v points to the back
    radius = rng.uniform(14, 19)
    half = rng.uniform(0.15, 1.7)
    middle = rng.normal(np.pi / 2, 0.5)
    angles = np.arange(middle - half, middle + half, 1.0 / radius)
    ring = centre + radius * (np.cos(angles)[:, None] * u + np.sin(angles)[:, None] * v)
    ring = ring + np.cumsum(rng.normal(0, 0.25, ring.shape), axis=0)
    keep = rng.random(len(ring)) > rng.uniform(0, 0.5)
    if not keep.any():
        return []
    thick = rng.uniform(0.8, 3.2)
    return [_cloud((5, "annulus", "annulus"), heart.warp.forward(ring[keep]), thick, rng)]


def _blob(at: Points, size: float, rng: np.random.Generator) -> Points:
    return at + rng.normal(0, size, (int(3 + size * 4), 3))


def _elsewhere(heart: Heart, age: float, rng: np.random.Generator, rarities: float) -> list[Deposit]:
    found = []
    if rng.random() < 0.22 * rarities:  # hilar and mediastinal nodes
        for _ in range(rng.integers(1, 6)):
            at = np.array([rng.normal(0, 26), rng.uniform(-45, -8), rng.uniform(25, 100)])
            found.append(
                _cloud((6, "still", "node"), _blob(at, rng.uniform(0.6, 2.5), rng), rng.uniform(0.6, 2.0), rng)
            )
    if rng.random() < 0.25:  # granulomas in the lung
        for _ in range(rng.integers(1, 4)):
            at = np.array(
                [rng.choice([-1, 1]) * rng.uniform(55, 110), rng.uniform(-90, 25), rng.uniform(-40, 110)]
            )
            found.append(_cloud((6, "still", "granuloma"), at[None], rng.uniform(0.8, 3.0), rng))
    if rng.random() < (0.04 + 0.03 * age) * rarities:  # pericardium
        start = np.array([[rng.uniform(-30, 70), rng.uniform(-110, -10) - heart.ahead, rng.uniform(-45, 30)]])
        points = start
        for _ in range(12):
            where = points.T.astype(np.float32)
            value = heart.envelope(heart.warp.inverse((where[0], where[1], where[2])))
            to = np.array([[18.0, -55.0 - heart.ahead, 0.0]]) - points
            points = points + to / np.linalg.norm(to) * float(value[0])
        shell = points + np.cumsum(rng.normal(0, 0.8, (int(rng.integers(4, 30)), 3)), axis=0)
        found.append(_cloud((6, "muscle", "pericardium"), shell, rng.uniform(0.5, 1.4), rng))
    if rng.random() < 0.05 * rarities:  # papillary muscle or chord
        at = heart.warp.forward(np.array([[50.0, -50.0, -18.0]]) + rng.normal(0, 8, 3))
        found.append(_cloud((6, "muscle", "papillary"), _blob(at, 1.0, rng), rng.uniform(0.5, 1.2), rng))
    return found


def _metal(heart: Heart, tree: list[Branch], rng: np.random.Generator, rarities: float) -> list[Deposit]:
    found = []
    kind = rng.random() / rarities
    if kind < 0.025:  # pacemaker lead: superior vena cava, right atrium, apex of the right ventricle
        svc = heart.vessels["svc"][0]
        inside = heart.warp.forward(
            np.array([[-24, -60, 0], [-10, -72, -18], [20, -84, -30], [46, -92, -38.0]])
        )
        line = np.concatenate((svc, inside))
        at = np.arange(0, arc_length(line)[-1], 0.8)
        points = np.stack([np.interp(at, arc_length(line), line[:, axis]) for axis in range(3)], axis=1)
        found.append(_cloud((8, "muscle", "lead"), points, 0.9, rng, METAL_HU))
    elif kind < 0.055:  # wires in the sternum and clips along a bypass
        for z in np.arange(-10, 110, 22):
            angle = np.linspace(0, 2 * np.pi, 40)
            behind = -118 - heart.ahead + 8 * np.sin(angle)
            ring = np.stack([13 * np.cos(angle), behind, z + 2 * np.sin(3 * angle)], axis=1)
            found.append(_cloud((8, "still", "wire"), ring, 0.45, rng, METAL_HU * 0.7))
        for _ in range(rng.integers(2, 9)):
            at = np.array([rng.normal(10, 25), rng.uniform(-112, -95) - heart.ahead, rng.uniform(-20, 60)])
            found.append(
                _cloud((8, "muscle", "clip"), at + rng.normal(0, 1.2, (5, 3)), 0.5, rng, METAL_HU * 0.6)
            )
    elif kind < 0.09:  # stent
        name = str(rng.choice(["LAD", "RCA", "LCX"]))
        branch = {b.name: b for b in tree}[name]
        along = arc_length(branch.points)
        start = rng.uniform(3, max(4.0, 0.4 * branch.length))
        at = np.arange(start, min(start + rng.uniform(10, 26), branch.length), 0.55)
        center = np.stack([np.interp(at, along, branch.points[:, axis]) for axis in range(3)], axis=1)
        _, n, b = frames(center)
        turn = np.arange(len(at)) * 2.1
        mesh = center + 1.5 * (np.cos(turn)[:, None] * n + np.sin(turn)[:, None] * b)
        found.append(_cloud((8, PART[branch.name], "stent"), mesh, 0.42, rng, 3500.0))
    return found
