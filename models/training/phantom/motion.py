"""The beating heart in a scan without ECG gating.

While the table moves, the heart goes through several beats: each z is seen at its own phase, over a window
of the beat as long as the gantry's rotation. Small structures come out smeared, doubled or broken, most
of all the RCA.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Share of the drawn amplitude by what moves; the RCA moves most, then LCX, LAD, left main
# (Husmann et al., Radiology 2007).
SHARE = {
    "RCA": 1.0,
    "LCX": 0.7,
    "LAD": 0.55,
    "LM": 0.4,
    "root": 0.4,
    "annulus": 0.85,
    "muscle": 0.45,
    "still": 0.03,
}
SYSTOLE = 0.42  # share of the beat with the long excursion
SAMPLES = 5
FILLING = 0.22  # share of the beat with the short one after it


@dataclass(frozen=True)
class Motion:
    """Displacement of the heart's parts as a function of z.

    Parameters
    ----------
    amplitude
        Largest excursion of the RCA, mm.
    beat_mm
        Table travel during one beat, mm.
    window
        Share of a beat that one slice averages over.
    start
        Phase at z = 0.
    directions
        Unit vector (3,) for each key of SHARE.
    weights
        (samples,), sum 1: how much each phase within the window counts. Projections of different phases do not
        agree, so that some phases count negatively: the dark tails beside moving calcium.
    """

    amplitude: float
    beat_mm: float
    window: float
    start: float
    directions: dict[str, NDArray[np.float64]]
    weights: NDArray[np.float64]

    @property
    def samples(self) -> int:
        """Phases that one slice averages over."""
        return len(self.weights)

    def shifts(self, part: str, z: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return displacements (samples, len(z), 3) in mm of `part` as seen at heights z (mm)."""
        offsets = (np.arange(self.samples) + 0.5) / self.samples - 0.5
        phase = (self.start + np.asarray(z)[None, :] / self.beat_mm + offsets[:, None] * self.window) % 1.0
        out = np.sin(np.pi * np.clip(phase / SYSTOLE, 0, 1)) ** 2
        out = out + 0.35 * np.sin(np.pi * np.clip((phase - SYSTOLE) / FILLING, 0, 1)) ** 2
        # A second harmonic across the main direction makes loops, so that no two phases coincide.
        across = 0.25 * np.sin(2 * np.pi * phase)
        main = self.directions[part]
        side = np.cross(main, [0.0, 0.0, 1.0])
        return np.asarray(self.amplitude * SHARE[part] * (out[..., None] * main + across[..., None] * side))


def draw_motion(rng: np.random.Generator, shift: float = 0.0) -> Motion:
    """Draw motion: from nearly still to 6 mm and more in the RCA."""
    main = {
        "RCA": [0.75, -0.25, -0.6],
        "LCX": [-0.5, -0.55, -0.65],
        "LAD": [-0.35, 0.45, -0.6],
        "LM": [0.1, 0.1, -0.9],
        "root": [0.1, -0.2, -0.9],
        "annulus": [0.1, -0.4, -0.9],
        "muscle": [-0.3, 0.0, -0.5],
        "still": [0.3, 0.3, 0.3],
    }
    directions = {}
    for part, vector in main.items():
        drawn = np.asarray(vector) + rng.normal(0, 0.3, 3)
        directions[part] = drawn / np.linalg.norm(drawn)
    weights = np.clip(1 + rng.normal(0, 0.55, SAMPLES), -0.25, None)
    return Motion(
        weights=weights / weights.sum(),
        amplitude=float(np.clip(rng.gamma(2.6, 1.15 + 0.25 * shift), 0.1, 9.0)),
        beat_mm=rng.uniform(14, 55),
        window=rng.uniform(0.12, 0.5),
        start=rng.random(),
        directions=directions,
    )
