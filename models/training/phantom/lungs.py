"""What runs through lungs and mediastinum: pulmonary vessels, airways, oesophagus, azygos vein, lymph nodes."""

from __future__ import annotations

import numpy as np

from models.training.phantom.canvas import Canvas
from models.training.phantom.shapes import Ellipsoid, Points, spline


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


def paint_airways(canvas: Canvas, rng: np.random.Generator, ahead: float) -> None:
    """Paint trachea and main bronchi (`ahead` mm in front of where they almost touch the spine), oesophagus."""
    carina = np.array([-1 + rng.normal(0, 2), -19 + rng.normal(0, 2), 84 + rng.normal(0, 4)])
    carina[1] -= ahead
    radius = rng.uniform(7.5, 10.5)
    lines = [
        (spline([[-1, -26 - 0.3 * ahead, 200], [-2, -24 - 0.7 * ahead, 140], carina], 20), radius),
        (
            spline(carina + np.array([[0, 0, 0], [-16, 0, -16], [-36, 4, -28], [-46, 8, -55]]), 16),
            radius * 0.72,
        ),
        (spline(carina + np.array([[0, 0, 0], [18, 2, -15], [40, 6, -27], [52, 14, -55]]), 16), radius * 0.66),
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
