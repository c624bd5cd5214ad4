"""Draws coronary plaques up to a wanted burden."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from models.training.phantom.coronaries import Branch
from models.training.phantom.deposits import Deposit
from models.training.phantom.shapes import arc_length, frames

# Share of plaques by branch: most in the proximal LAD, then RCA, LCX, left main.
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
ZERO_SHARE = 0.25  # scans without any coronary plaque; more score 0
BURDEN = {
    "low": (2.0, 9.0),
    "moderate": (15.0, 85.0),
    "moderately high": (120.0, 350.0),
    "high": (500.0, 3500.0),
}
MOST_PLAQUES, MOST_UNSEEN, MOST_REFUSED = 90, 10, 40


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
    if rng.random() < ZERO_SHARE:
        return 0.0
    return float(np.clip(np.exp(rng.normal(4.4 - 0.3 * shift, 1.75)), 1.0, 5000.0))


def coronary_plaques(
    tree: list[Branch],
    burden: float,
    measure: Callable[[Deposit], float],
    rng: np.random.Generator,
    shift: float = 0.0,
) -> list[Deposit]:
    """Draw plaques, eccentric on the vessels' walls, until they would score about `burden`.

    Parameters
    ----------
    tree
        Coronary arteries; veins are passed over.
    burden
        Agatston score to aim at.
    measure
        Returns the Agatston score of one plaque without noise; 0 for one too small or faint to be seen.
    rng
        Source of chance.
    shift
        1 for the shifted distribution: denser plaques.
    """
    arteries = [branch for branch in tree if branch.label]
    weight = np.array([BRANCH_WEIGHT[_kind(branch.name)] for branch in arteries])
    weight *= np.exp(rng.normal(0, 0.7, len(weight)))  # single-vessel disease is common
    weight /= weight.sum()
    typical = rng.uniform(250, 950) * (1 + 0.1 * shift)
    # Heavy disease is long, thick plaques rather than many small ones.
    heavy = np.clip(np.log(max(burden, 1.0) / 100) / 3.5, 0, 1)
    stout = rng.uniform(0.6, 1.1) * (1 + 0.5 * heavy)
    lengths = np.log(4.5) + 0.9 * heavy
    plaques: list[Deposit] = []
    left, unseen, refused = burden, 0, 0
    while (
        left > 0.05 * burden and unseen < MOST_UNSEEN and refused < MOST_REFUSED and len(plaques) < MOST_PLAQUES
    ):
        branch = arteries[rng.choice(len(arteries), p=weight)]
        longest = float(np.clip(1.5 + left / 12, 1.5, 30.0))
        length = min(float(np.exp(rng.normal(lengths, 0.9))), longest, 0.8 * branch.length)
        hu = float(np.clip(typical * np.exp(rng.normal(0, 0.35)), 170, 1300))
        plaque = _plaque(branch, length, hu, min(stout, 0.5 + left / 60), rng)
        score = measure(plaque)
        if score > 1.5 * left + 2:
            refused += 1
            continue
        unseen += score == 0
        plaques.append(plaque)
        left -= score
    return plaques


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
    radii = np.clip(stout * vessel * rng.uniform(0.35, 1.0) * belly * wobble, 0.3, 2.9)
    out = np.maximum(vessel - 0.75 * radii, 0)[:, None]
    centers = center + out * (np.cos(angle)[:, None] * n + np.sin(angle)[:, None] * b)
    if rng.random() < 0.15 and length > 8:  # calcified all round
        centers = np.concatenate((centers, 2 * center - centers))
        radii = np.concatenate((radii, radii * rng.uniform(0.5, 1.0)))
    values = hu * np.exp(rng.normal(0, 0.12, len(radii)))
    return Deposit(
        branch.label, PART[_kind(branch.name)], centers, radii, np.clip(values, 150, 1500), "coronary"
    )
