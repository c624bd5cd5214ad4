"""Coronary plaques that look like those of real scans, to be inserted along annotated vessels.

Real plaques are rarely round: they are sheets in the wall, long and thin, uneven along their length, broken
into crumbs, now and then a cast of the whole lumen. Each is a sheet of small spheres on the vessel's wall whose
width, thickness and density wander along the vessel.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.ndimage import gaussian_filter1d

from models.training.phantom.deposits import Deposit
from models.training.phantom.shapes import arc_length, frames

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from models.training.phantom.coronaries import Branch

SHARE = {"LM": 0.1, "LAD": 0.42, "D1": 0.06, "LCX": 0.15, "OM1": 0.03, "RCA": 0.22, "PDA": 0.02}
"""Of plaques by vessel: most in the proximal LAD, then RCA, LCX, left main (anatomy of calcium, any series)."""
DECAY = {"LM": 1.0, "LAD": 0.3, "LCX": 0.4, "RCA": 0.5}
"""Share of the vessel's length over which plaques become rarer by e; 0.6 for branches."""
PART = {"LM": "LM", "LAD": "LAD", "D1": "LAD", "LCX": "LCX", "OM1": "LCX", "RCA": "RCA", "PDA": "RCA"}
"""What a vessel moves with: a key of phantom.motion.SHARE."""
STEP_MM = 0.5
LEAST_HU, MOST_HU = 150.0, 1300.0
MOST_PLAQUES, MOST_REFUSED, MOST_UNSEEN = 80, 40, 6


def draw_plaques(
    tree: list[Branch], burden: float, measure: Callable[[Deposit], float], rng: np.random.Generator
) -> list[Deposit]:
    """Draw plaques until they would score about `burden`.

    Parameters
    ----------
    tree
        Coronary arteries.
    burden
        Agatston score to aim at.
    measure
        Agatston score of one deposit as scanned, without noise; 0 for one that is not seen.
    rng
        Source of chance.
    """
    weight = np.array([SHARE[branch.name] for branch in tree]) * np.exp(rng.normal(0, 0.7, len(tree)))
    weight /= weight.sum()
    typical = float(np.exp(rng.uniform(np.log(250), np.log(950))))
    heavy = float(np.clip(np.log(max(burden, 1.0) / 60) / 3.5, 0, 1))
    plaques: list[Deposit] = []
    left, refused, unseen = burden, 0, 0
    while (
        left > 0.05 * burden and refused < MOST_REFUSED and unseen < MOST_UNSEEN and len(plaques) < MOST_PLAQUES
    ):
        branch = tree[int(rng.choice(len(tree), p=weight))]
        length = float(np.exp(rng.normal(np.log(3.0) + 1.2 * heavy, 0.8)))
        # A refused plaque was too much for what is left: the next ones are smaller.
        size = 0.9**refused
        plaque = _plaque(branch, float(np.clip(length * size, 0.5, 30.0)), heavy * size, typical, rng)
        score = measure(plaque)
        if score > 1.4 * left + 1.5:
            refused += 1
            continue
        unseen += score == 0
        plaques.append(plaque)
        left -= score
    return plaques


def _wander(count: int, smooth: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return a smooth random walk of about unit spread along `count` samples."""
    if count < 2:
        return rng.normal(0, 1, count)
    line = gaussian_filter1d(rng.normal(0, 1, count + 16), smooth, mode="nearest")[8 : 8 + count]
    return np.asarray(line * np.sqrt(2 * smooth * np.sqrt(np.pi)))


def _plaque(branch: Branch, length: float, heavy: float, typical: float, rng: np.random.Generator) -> Deposit:
    along = arc_length(branch.points)
    length = min(length, 0.7 * branch.length)
    decay = DECAY.get(branch.name, 0.6) * branch.length
    start = min(rng.exponential(decay), branch.length - length) * rng.uniform(0.5, 1.0)
    at = np.arange(start, start + max(length, 0.4), STEP_MM)
    _, normal, binormal = frames(branch.points)
    centre, across, up = (
        np.stack([np.interp(at, along, vectors[:, axis]) for axis in range(3)], axis=1)
        for vectors in (branch.points, normal, binormal)
    )
    vessel = np.interp(at, along, branch.radii)
    count = len(at)
    belly = np.sin(np.pi * (np.arange(count) + 0.7) / (count + 0.4)) ** 0.4
    cast = rng.random() < 0.1 + 0.35 * heavy  # fills most of the lumen
    thick = rng.uniform(0.25, 0.55) + 0.35 * heavy * rng.random() + 0.5 * cast * rng.random()
    half_arc = rng.uniform(0.1, 1.0) + 1.4 * cast * rng.random() + 0.5 * heavy * rng.random()
    middle = rng.uniform(0, 2 * np.pi) + 0.5 * _wander(count, 5.0, rng)
    width = np.clip(half_arc * np.exp(0.4 * _wander(count, 3.0, rng)), 0, np.pi) * belly
    radius = np.clip(thick * np.exp(0.3 * _wander(count, 2.0, rng)) * belly, 0.2, 1.6)
    level = rng.uniform(0.7, 1.5) * typical * np.exp(0.35 * _wander(count, 2.5, rng))
    broken = _wander(count, 2.0, rng) < -1.0 if count > 8 and rng.random() < 0.5 else np.zeros(count, bool)
    centers, radii, values = [], [], []
    for i in np.flatnonzero(~broken):
        wall = max(float(vessel[i] - 0.6 * radius[i]), 0.1)
        step = max(0.8 * radius[i], 0.3) / wall
        angles = middle[i] + np.arange(-width[i], width[i] + 1e-9, step)
        depth = wall - cast * rng.uniform(0, 0.5, len(angles)) * wall
        ring = np.cos(angles)[:, None] * across[i] + np.sin(angles)[:, None] * up[i]
        centers.append(centre[i] + depth[:, None] * ring)
        radii.append(radius[i] * np.exp(rng.normal(0, 0.15, len(angles))))
        values.append(level[i] * np.exp(rng.normal(0, 0.15, len(angles))))
    if not centers:
        return _plaque(branch, min(length, 2.0), heavy, typical, rng)
    return Deposit(
        branch.label,
        PART[branch.name],
        np.concatenate(centers),
        np.concatenate(radii),
        np.clip(np.concatenate(values), LEAST_HU, MOST_HU),
        "coronary",
    )
