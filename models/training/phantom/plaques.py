"""Draws coronary plaques up to a wanted burden, and the calcium and metal elsewhere that mimics them."""

from __future__ import annotations

import numpy as np

from models.training.phantom.coronaries import Branch
from models.training.phantom.deposits import Deposit
from models.training.phantom.heart import Heart
from models.training.phantom.shapes import Points, arc_length, frames

# Share of plaques by branch: most in the proximal LAD, then RCA, LCX, left main (anatomy of calcium, any series).
BRANCH_WEIGHT = {
    "LM": 0.09,
    "LAD": 0.43,
    "D": 0.05,
    "LCX": 0.13,
    "OM": 0.03,
    "RCA": 0.24,
    "PDA": 0.02,
    "AM": 0.01,
}
PART = {
    "LM": "LM",
    "LAD": "LAD",
    "D": "LAD",
    "LCX": "LCX",
    "OM": "LCX",
    "RCA": "RCA",
    "PDA": "RCA",
    "AM": "RCA",
}
BURDEN = {
    "low": (2.0, 9.0),
    "moderate": (15.0, 85.0),
    "moderately high": (120.0, 350.0),
    "high": (500.0, 3500.0),
}
METAL_HU = 9000.0


def _kind(name: str) -> str:
    return name.rstrip("0123456789")


def draw_burden(rng: np.random.Generator, wanted: str | float, shift: float) -> float:
    """Return the Agatston score to aim at: a number, a name of BURDEN, ``none``, or drawn for ``auto``."""
    if isinstance(wanted, int | float):
        return float(wanted)
    if wanted == "none":
        return 0.0
    if wanted in BURDEN:
        low, high = BURDEN[wanted]
        return float(np.exp(rng.uniform(np.log(low), np.log(high))))
    if wanted != "auto":
        raise ValueError(f"calcium must be auto, none, one of {', '.join(BURDEN)} or a number, not {wanted!r}")
    if rng.random() < 0.3:
        return 0.0
    return float(np.clip(np.exp(rng.normal(4.4 - 0.3 * shift, 1.75)), 1.0, 5000.0))


def coronary_plaques(
    tree: list[Branch], burden: float, rng: np.random.Generator, shift: float = 0.0
) -> list[Deposit]:
    """Return plaques whose scores add up to about `burden` (Agatston), eccentric on the vessels' walls."""
    arteries = [branch for branch in tree if branch.label]
    weight = np.array([BRANCH_WEIGHT[_kind(branch.name)] for branch in arteries])
    weight *= np.exp(rng.normal(0, 0.7, len(weight)))  # single-vessel disease is common
    weight /= weight.sum()
    typical = rng.uniform(250, 950) * (1 + 0.1 * shift)
    stout = rng.uniform(0.6, 1.1)
    plaques: list[Deposit] = []
    left = burden
    while left > 0.02 * burden + 0.3 and len(plaques) < 70:
        branch = arteries[rng.choice(len(arteries), p=weight)]
        longest = float(np.clip(1.5 + left / 12, 1.5, 30.0))
        length = min(float(np.exp(rng.normal(np.log(4.5), 0.9))), longest, 0.8 * branch.length)
        hu = float(np.clip(typical * np.exp(rng.normal(0, 0.35)), 170, 1300))
        plaque = _plaque(branch, length, hu, min(stout, 0.45 + left / 60), rng)
        plaques.append(plaque)
        left -= _estimate(plaque)
    return plaques


def _estimate(plaque: Deposit) -> float:
    """Return about what a plaque will score: volume * weight / 3 mm, less for what blur takes from small ones."""
    order = np.linalg.norm(np.diff(plaque.centers, axis=0), axis=1)
    volume = (
        float(np.sum(order * np.pi * plaque.radii[:-1] ** 2)) + 4 / 3 * np.pi * float(plaque.radii.mean()) ** 3
    )
    seen = float(plaque.hu.mean()) * (1 - np.exp(-float(plaque.radii.mean()) * 0.9))
    weight = float(np.interp(seen, [80, 130, 200, 300, 400], [0.1, 1, 2, 3, 4]))
    grown = 1 + 0.9 / (float(plaque.radii.mean()) + 0.4) * min(1.0, seen / 400)  # blooming
    return volume * weight * grown / 3.0


def _plaque(branch: Branch, length: float, hu: float, stout: float, rng: np.random.Generator) -> Deposit:
    along = arc_length(branch.points)
    steep = {"LAD": 0.28, "RCA": 0.45, "LCX": 0.35}.get(branch.name, 0.6)  # decay along the vessel
    start = min(rng.exponential(steep * branch.length), max(0.0, branch.length - length)) * rng.uniform(
        0.6, 1.0
    )
    at = np.arange(start, start + max(length, 0.8), 0.5)
    center = np.stack([np.interp(at, along, branch.points[:, axis]) for axis in range(3)], axis=1)
    vessel = np.interp(at, along, branch.radii)
    _, normal, binormal = frames(branch.points)
    n, b = (
        np.stack([np.interp(at, along, vector[:, axis]) for axis in range(3)], axis=1)
        for vector in (normal, binormal)
    )
    angle = rng.uniform(0, 2 * np.pi) + np.cumsum(rng.normal(0, 0.12, len(at)))
    belly = np.sin(np.pi * (np.arange(len(at)) + 0.7) / (len(at) + 0.4)) ** 0.5
    wobble = np.exp(rng.normal(0, 0.18, len(at)))
    radii = np.clip(stout * vessel * rng.uniform(0.35, 1.0) * belly * wobble, 0.3, 2.4)
    out = np.maximum(vessel - 0.75 * radii, 0)[:, None]
    centers = center + out * (np.cos(angle)[:, None] * n + np.sin(angle)[:, None] * b)
    if rng.random() < 0.15 and length > 8:  # calcified all round
        centers = np.concatenate((centers, 2 * center - centers))
        radii = np.concatenate((radii, radii * rng.uniform(0.5, 1.0)))
    values = hu * np.exp(rng.normal(0, 0.12, len(radii)))
    return Deposit(
        branch.label, PART[_kind(branch.name)], centers, radii, np.clip(values, 150, 1500), "coronary"
    )


def distractors(
    heart: Heart, tree: list[Branch], rng: np.random.Generator, shift: float = 0.0
) -> list[Deposit]:
    """Return calcium outside the coronary arteries, and metal, drawn independently of the coronary burden."""
    found: list[Deposit] = []
    age = rng.random() ** (1.0 - 0.2 * shift)  # one patient has much of it, another none
    found += _aortic_wall(heart, age, rng)
    found += _aortic_valve(heart, age, rng)
    found += _mitral_annulus(heart, age, rng)
    found += _elsewhere(heart, age, rng)
    found += _metal(heart, tree, rng)
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
        found.append(_cloud(4, "root" if at < 50 else "still", cloud, thick, rng, "aorta"))
    return found


def _cloud(
    label: int,
    part: str,
    centers: Points,
    radius: float,
    rng: np.random.Generator,
    kind: str,
    hu: float | None = None,
) -> Deposit:
    level = rng.uniform(220, 1100) if hu is None else hu
    size = np.clip(radius * np.exp(rng.normal(0, 0.2, len(centers))), 0.3, 8.0)
    values = np.clip(level * np.exp(rng.normal(0, 0.15, len(centers))), 150, 1.2e4)
    return Deposit(label, part, centers, size, values, kind)


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
            found.append(_cloud(5, "root", start + steps, rng.uniform(0.5, 1.6), rng, "valve"))
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
    return [_cloud(5, "annulus", heart.warp.forward(ring[keep]), thick, rng, "annulus")]


def _blob(at: Points, size: float, rng: np.random.Generator) -> Points:
    return at + rng.normal(0, size, (int(3 + size * 4), 3))


def _elsewhere(heart: Heart, age: float, rng: np.random.Generator) -> list[Deposit]:
    found = []
    if rng.random() < 0.22:  # hilar and mediastinal nodes
        for _ in range(rng.integers(1, 6)):
            at = np.array([rng.normal(0, 26), rng.uniform(-45, -8), rng.uniform(25, 100)])
            found.append(
                _cloud(6, "still", _blob(at, rng.uniform(0.6, 2.5), rng), rng.uniform(0.6, 2.0), rng, "node")
            )
    if rng.random() < 0.25:  # granulomas in the lung
        for _ in range(rng.integers(1, 4)):
            at = np.array(
                [rng.choice([-1, 1]) * rng.uniform(55, 110), rng.uniform(-90, 25), rng.uniform(-40, 110)]
            )
            found.append(_cloud(6, "still", at[None], rng.uniform(0.8, 3.0), rng, "granuloma"))
    if rng.random() < 0.04 + 0.03 * age:  # pericardium
        start = np.array([[rng.uniform(-30, 70), rng.uniform(-110, -10), rng.uniform(-45, 30)]])
        points = start
        for _ in range(12):
            where = points.T.astype(np.float32)
            value = heart.envelope(heart.warp.inverse((where[0], where[1], where[2])))
            to = np.array([[18.0, -55.0, 0.0]]) - points
            points = points + to / np.linalg.norm(to) * float(value[0])
        shell = points + np.cumsum(rng.normal(0, 0.8, (int(rng.integers(4, 30)), 3)), axis=0)
        found.append(_cloud(6, "muscle", shell, rng.uniform(0.5, 1.4), rng, "pericardium"))
    if rng.random() < 0.05:  # papillary muscle or chord
        at = heart.warp.forward(np.array([[50.0, -50.0, -18.0]]) + rng.normal(0, 8, 3))
        found.append(_cloud(6, "muscle", _blob(at, 1.0, rng), rng.uniform(0.5, 1.2), rng, "papillary"))
    return found


def _metal(heart: Heart, tree: list[Branch], rng: np.random.Generator) -> list[Deposit]:
    found = []
    kind = rng.random()
    if kind < 0.025:  # pacemaker lead: superior vena cava, right atrium, apex of the right ventricle
        svc = heart.vessels["svc"][0]
        inside = heart.warp.forward(
            np.array([[-24, -60, 0], [-10, -72, -18], [20, -84, -30], [46, -92, -38.0]])
        )
        line = np.concatenate((svc, inside))
        at = np.arange(0, arc_length(line)[-1], 0.8)
        points = np.stack([np.interp(at, arc_length(line), line[:, axis]) for axis in range(3)], axis=1)
        found.append(_cloud(8, "muscle", points, 0.9, rng, "lead", METAL_HU))
    elif kind < 0.055:  # wires in the sternum and clips along a bypass
        for z in np.arange(-10, 110, 22):
            angle = np.linspace(0, 2 * np.pi, 40)
            ring = np.stack([13 * np.cos(angle), -118 + 8 * np.sin(angle), z + 2 * np.sin(3 * angle)], axis=1)
            found.append(_cloud(8, "still", ring, 0.45, rng, "wire", METAL_HU * 0.7))
        for _ in range(rng.integers(2, 9)):
            at = np.array([rng.normal(10, 25), rng.uniform(-112, -95), rng.uniform(-20, 60)])
            found.append(_cloud(8, "muscle", at + rng.normal(0, 1.2, (5, 3)), 0.5, rng, "clip", METAL_HU * 0.6))
    elif kind < 0.09:  # stent
        branch = next(b for b in tree if b.name == rng.choice(["LAD", "RCA", "LCX"]))
        along = arc_length(branch.points)
        start = rng.uniform(3, max(4.0, 0.4 * branch.length))
        at = np.arange(start, min(start + rng.uniform(10, 26), branch.length), 0.55)
        center = np.stack([np.interp(at, along, branch.points[:, axis]) for axis in range(3)], axis=1)
        _, n, b = frames(center)
        turn = np.arange(len(at)) * 2.1
        mesh = center + 1.5 * (np.cos(turn)[:, None] * n + np.sin(turn)[:, None] * b)
        found.append(_cloud(8, PART[branch.name], mesh, 0.42, rng, "stent", 3500.0))
    return found
