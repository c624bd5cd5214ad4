"""Small cached cases, made in worker processes too."""

from __future__ import annotations

import numpy as np

from calcium.geometry import BoxMm, VolumeGeometry
from models.training.cache import CachedCase


def make(seed: int) -> CachedCase | None:
    if seed < 0:
        return None
    rng = np.random.default_rng(seed)
    geometry = VolumeGeometry((-10.0, -20.0, 30.0), (1.5, 0.7, 0.7), (4, 6, 8))
    return CachedCase(
        name=f"case-{seed:04d}",
        patient=f"p{seed}",
        origin="simulated",
        geometry=geometry,
        hu=rng.integers(-1000, 1000, geometry.shape).astype(np.int16),
        labels=rng.integers(0, 8, geometry.shape).astype(np.uint8),
        heart_box=BoxMm((-9.5, -19.5, 30.0), (-7.0, -18.0, 33.0)),
        agatston=12.5,
        volume_mm3=3.0,
        slice_agatston=np.arange(4, dtype=np.float32),
        slice_volume_mm3=np.arange(4, dtype=np.float32),
        coarse=np.zeros((2, 2, 2), np.int16),
        coarse_geometry=VolumeGeometry((0.0, 0.0, 0.0), (3.0, 3.0, 3.0), (2, 2, 2)),
        description={"kernel": "sharp", "noise_hu": 20.5, "seed": seed},
    )
