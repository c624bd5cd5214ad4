"""The beating heart in a scan without ECG gating.

While table and gantry turn, the heart goes through several beats. A slice is made from half a turn or a full
one, and every direction of its spectrum comes from the moment at which the gantry looked that way (Fourier
slice theorem): so a moving plaque becomes a crescent, a pair of wings or a doubled dot, with dark tails, and
looks different in the next slice. The RCA moves most.
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
# Main directions, LPS, before chance turns them.
MAIN = {
    "RCA": (0.8, 0.35, -0.4),
    "LCX": (-0.55, -0.6, -0.45),
    "LAD": (-0.45, 0.6, -0.45),
    "LM": (0.1, 0.1, -0.9),
    "root": (0.1, -0.2, -0.9),
    "annulus": (0.1, -0.4, -0.9),
    "muscle": (-0.3, 0.0, -0.5),
    "still": (0.3, 0.3, 0.3),
}
FEATHER = 0.12  # share of half a turn over which its two ends are blended


@dataclass(frozen=True)
class Motion:
    """Displacement of the heart's parts, as slices see it.

    Parameters
    ----------
    amplitude
        Largest excursion of the RCA, mm.
    loop
        Excursion across the main direction, as a share of the main one.
    systole, filling, bounce
        Shares of the beat of the long excursion and of the one after it, and the size of the second.
    beat_mm
        Table travel during one beat, mm.
    window
        Share of a beat that half a turn of the gantry takes.
    full_turn
        Whether a slice uses a full turn: each direction is seen twice.
    start
        Phase at z = 0.
    directions
        Unit vector (3,) for each key of SHARE.
    """

    amplitude: float
    loop: float
    systole: float
    filling: float
    bounce: float
    beat_mm: float
    window: float
    full_turn: bool
    start: float
    directions: dict[str, NDArray[np.float64]]

    def place(self, part: str, z: NDArray[np.floating], turn: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return the displacement (..., 3) mm of `part`.

        Parameters
        ----------
        part
            Key of SHARE.
        z
            Height of the slice, mm; broadcasts with `turn`.
        turn
            Moment, in half turns of the gantry from the middle of the slice's own time.
        """
        phase = (self.start + z / self.beat_mm + turn * self.window) % 1.0
        out = np.sin(np.pi * np.clip(phase / self.systole, 0, 1)) ** 2
        out = out + self.bounce * np.sin(np.pi * np.clip((phase - self.systole) / self.filling, 0, 1)) ** 2
        across = self.loop * np.sin(2 * np.pi * phase)
        main = self.directions[part]
        side = np.cross(main, [0.0, 0.0, 1.0])
        return np.asarray(self.amplitude * SHARE[part] * (out[..., None] * main + across[..., None] * side))

    def looking(self, z: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return the gantry's direction (half turns) in the middle of the time of the slice at z (mm)."""
        return np.asarray(z / (self.beat_mm * self.window), dtype=np.float64)

    def samples(self, part: str, z: NDArray[np.floating], count: int) -> NDArray[np.float64]:
        """Return displacements (count, len(z), 3) at moments spread evenly over each slice's time."""
        span = 2.0 if self.full_turn else 1.0
        moments = ((np.arange(count) + 0.5) / count - 0.5) * span
        return self.place(part, np.asarray(z, np.float64)[None, :], moments[:, None])


def draw_motion(rng: np.random.Generator, shift: float = 0.0) -> Motion:
    """Draw motion: from nearly still to 14 mm in the RCA."""
    directions = {}
    for part, vector in MAIN.items():
        drawn = np.asarray(vector) + rng.normal(0, 0.35, 3)
        directions[part] = drawn / np.linalg.norm(drawn)
    systole = rng.uniform(0.36, 0.52)
    turn = rng.uniform(0.28, 0.65)  # s, one turn of the gantry
    beat = 60 / rng.uniform(50, 95)  # s
    return Motion(
        amplitude=float(np.clip(rng.gamma(2.0, 2.4 + 0.4 * shift), 0.1, 14.0)),
        loop=rng.uniform(0.1, 0.6),
        systole=systole,
        filling=rng.uniform(0.2, 1 - systole),
        bounce=rng.uniform(0.25, 0.8),
        beat_mm=rng.uniform(14, 55),
        window=turn / 2 / beat,
        full_turn=bool(rng.random() < 0.5),
        start=rng.random(),
        directions=directions,
    )
