"""What scoring a volume gives: plain data, without torch."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from calcium.geometry import BoxMm, VoxelBox
from calcium.risk import RiskGroup

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from calcium.volume import CTVolume


@dataclass(frozen=True, slots=True)
class SliceScore:
    """Predicted scores of one resampled slice (3.0 mm thick, every 1.5 mm).

    Parameters
    ----------
    z_mm
        Centre of the slice, LPS mm.
    agatston
        Predicted slice Agatston score: area (mm2) times weight; at least 0.
    volume_mm3
        Predicted calcified volume of the slice, mm3; at least 0.
    """

    z_mm: float
    agatston: float
    volume_mm3: float


@dataclass(frozen=True, slots=True)
class Caution:
    """A warning that goes with a result: a stable code for machines and a sentence for people."""

    code: str
    text: str


@dataclass(frozen=True, slots=True)
class WeightsIdentity:
    """Which weights made a result.

    Parameters
    ----------
    name, version, sha256
        From the manifest; sha256 covers all files of the set.
    training_data
        What the networks saw, in words: ``simulated``, ``simulated and real anatomy``, or a site's own.
    validated_by_site
        Whether a site declared its own validation; until then every report says "research use".
    """

    name: str
    version: str
    sha256: str
    training_data: str
    validated_by_site: bool = False


@dataclass(frozen=True, eq=False, slots=True)
class HeatMap:
    """Where the score comes from, on the voxels of `box` of the resampled volume.

    Parameters
    ----------
    box
        Voxels of the resampled volume that the array covers.
    response
        float32, (slice, row, column), at least 0, LPS grid of the resampled volume.
    meaning
        What the numbers are, e.g. ``Agatston score per voxel`` (adds up to the slice scores) or
        ``joint response of the third convolution layer`` (relative).
    """

    box: VoxelBox
    response: NDArray[np.float32]
    meaning: str


@dataclass(frozen=True, eq=False, slots=True)
class ScoringResult:
    """Predicted calcium scores of one series.

    Parameters
    ----------
    agatston
        Predicted total Agatston score: sum of the slice scores * 1.5 mm / 3.0 mm.
    agatston_interval
        (low, high) prediction interval at `interval_coverage`, or None where the weights give none.
    volume_mm3
        Predicted volume score, mm3.
    group_probabilities
        Probability of each of the five groups, or None.
    heart_box
        LPS mm.
    slice_scores
        One for each resampled slice inside the box, by rising z, zeros included.
    cautions
        Warnings, most important first.
    resampled
        The volume that was scored (3.0 mm every 1.5 mm).
    heat_map
        Where the score comes from, or None.
    seconds
        Wall-clock seconds by stage: resample, localise, regress, ...
    """

    agatston: float
    volume_mm3: float
    heart_box: BoxMm
    slice_scores: tuple[SliceScore, ...]
    weights: WeightsIdentity
    resampled: CTVolume
    agatston_interval: tuple[float, float] | None = None
    interval_coverage: float = 0.95
    group_probabilities: tuple[float, float, float, float, float] | None = None
    cautions: tuple[Caution, ...] = ()
    heat_map: HeatMap | None = None
    seconds: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, value in (("agatston", self.agatston), ("volume_mm3", self.volume_mm3)):
            if not math.isfinite(value) or value < 0:
                raise ValueError(f"{name} must be finite and not negative, not {value}")

    @property
    def risk_group(self) -> RiskGroup:
        """The group of the predicted total."""
        return RiskGroup.of(self.agatston)
